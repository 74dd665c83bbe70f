"""How one answer is scored: rubric of safety first, warning signs, hallucinations, likeness."""
