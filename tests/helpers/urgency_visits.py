"""Emergency visits as step 4 leaves them."""

from datetime import datetime

from mimic_qlora.tasks.urgency.visits import Visit


def visit(number: int, **more) -> Visit:
    """Return a visit of the primary set, each tenth an emergency, unless told otherwise."""
    values = {
        "subject_id": number,
        "stay_id": number + 1000,
        "split": "validation",
        "arrival": datetime(2150, 1, 1),
        "primary": True,
        "level": "A" if number % 10 == 0 else "C",
        "acuity": 3,
        "age": 60,
        "sex": "F",
        "race": "WHITE",
        "language": "English",
        "insurance": "Medicare",
        "year_group": "2011 - 2013",
        "complaint": "chest pain",
    }
    return Visit(**values | more)
