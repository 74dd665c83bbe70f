"""Step 1 (`convert_to_jsonl.py`) writes `subjects/`: one JSON record per patient and typed tables.

`reader` and `database` read them back for all later steps.
"""
