"""The local page for clinicians (`run_files/review.py`): blind ratings, content approval, agreement."""
