"""Ages in MIMIC-IV: `anchor_age`, in years."""

MOST_YEARS = 120  # an age beyond cannot be one
ABOVE_89 = 91  # the age of everybody above 89, to which no years can be added
