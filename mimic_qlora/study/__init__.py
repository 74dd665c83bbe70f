"""A whole study over the storage folder: all seven steps from one file, and where it stands.

`run_files/run_all.py` and `run_files/status.py` are its commands. It calls the steps' scripts.
"""
