"""What two or more steps of the pipeline share, one noun a file."""

__version__ = "0.1.0"
