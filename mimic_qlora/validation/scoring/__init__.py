"""The scoring of one answer: rubric of safety first, warning signs, hallucinations, likeness."""
