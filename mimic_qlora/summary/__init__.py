"""Step 2 (`summarize_jsonl.py`) writes `summary/`.

Statistics of the patients, small counts hidden.
"""
