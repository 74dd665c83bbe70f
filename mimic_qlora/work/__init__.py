"""The seam between a step and what does its work: this process, its machine's, a cluster's."""
