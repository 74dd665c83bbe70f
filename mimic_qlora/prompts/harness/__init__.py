"""Held-out records as tasks of lm-evaluation-harness, for people who compare models with it."""
