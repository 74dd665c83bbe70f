"""The library behind the nine commands.

Each step has a package named by the storage folder it writes; the others are shared. Imports run
from later steps to earlier ones, never back.
"""
