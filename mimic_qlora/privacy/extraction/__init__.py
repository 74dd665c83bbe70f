"""Extraction: what an adapter tells of charts that it is shown in part, or not at all."""
