"""Step 6 (`qa_by_subject.py`) writes `qa/`: a session, conversations, batches, the check of n
patients.
"""
