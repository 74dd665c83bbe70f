"""MIMIC-IV as published: names, columns and types of its tables, releases, the demo's download.

`synthetic/` makes a hospital with the same tables.
"""
