"""Twins: the chart of a trial with the one finding changed that calls for a caution."""
