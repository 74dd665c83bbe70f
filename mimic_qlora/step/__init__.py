"""The storage folder: steps write whole folders with a manifest or nothing.

Errors that a user can fix, the shared command line, seeded choices.
"""
