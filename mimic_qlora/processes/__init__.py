"""Several processes of one run: who they are, how they start, meet and share work."""
