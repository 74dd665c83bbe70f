"""The local page for clinicians (`run_files/review.py`): ratings, content approval, agreement."""
