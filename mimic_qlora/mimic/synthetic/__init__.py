"""A synthetic hospital with the tables of MIMIC-IV v3.1 and planted truths."""
