"""The memorisation audit (`run_files/audit_adapter.py`) writes `privacy/<run>/`: what an adapter
gives away about the patients that it was trained on.
"""
