"""Step 2 (`summarize_jsonl.py`) writes `summary/`: statistics of the patients, small counts hidden."""
