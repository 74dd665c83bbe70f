"""Results shown to people: safe text, text tables, CSV, one HTML page, plots."""
