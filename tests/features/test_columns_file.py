"""The lists of columns, from step 3 to step 4."""

import pytest

from mimic_qlora.features import columns_file
from mimic_qlora.features.columns_file import ColumnVerdict
from mimic_qlora.step.errors import UserError


def test_step_four_reads_what_step_three_wrote(tmp_path):
    (tmp_path / "features").mkdir()
    path = tmp_path / "features" / columns_file.LEAST
    names = ["labevents.priority", "admissions.a"]
    columns_file.write(path, [ColumnVerdict(name, "least", "why") for name in names])
    assert columns_file.least_important(tmp_path) == sorted(names)
    columns_file.write(path, [])
    assert columns_file.least_important(tmp_path) == []


@pytest.mark.parametrize("text", ["", "name\nlabevents.priority\n", "column\npriority\n"])
def test_another_file_in_its_place_is_one_sentence(tmp_path, text):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / columns_file.LEAST).write_text(text)
    with pytest.raises(UserError, match="is not a list of columns: redo step 3"):
        columns_file.least_important(tmp_path)
