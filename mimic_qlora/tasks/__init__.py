"""The three tasks, one module each, all with `golds(...)` and `score(...)`."""
