"""A trained model as other programs load it: base and adapter merged into one set of weights."""
