"""Compare two runs of lm-evaluation-harness document by document."""
