"""The urgency task: how urgent an emergency visit was, told from what happened after arrival."""
