"""One patient's chart at one time: what was known, the facts, and the context that a model reads.

Shared by steps 3, 4, 6 and 7.
"""
