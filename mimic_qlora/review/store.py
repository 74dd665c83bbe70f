"""All that a review keeps, in one private SQLite file."""

from pathlib import Path

from mimic_qlora.review.database import Database
from mimic_qlora.review.decisions import Decisions
from mimic_qlora.review.marks import Marks
from mimic_qlora.review.raters import Sessions, Tasks


class Store:
    """The tasks, sessions, marks and decisions of one results folder."""

    def __init__(self, folder: Path):
        """Open the review of `folder`. Raises UserError when its file is damaged."""
        self.database = Database(folder)
        self.tasks = Tasks(self.database)
        self.sessions = Sessions(self.database)
        self.marks = Marks(self.database)
        self.decisions = Decisions(self.database)
