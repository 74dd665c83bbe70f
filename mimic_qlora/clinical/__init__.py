"""The clinical content (data/*.yaml): its schema, matched to codes, charts and answers."""
