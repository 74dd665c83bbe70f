"""Labels by people: the draw, the file to fill, agreement, and what they let one claim."""
