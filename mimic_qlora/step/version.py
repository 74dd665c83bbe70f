"""The version of the software, which every manifest records."""

VERSION = "0.1.0"
