"""Reading what step 1 left."""

import pytest

from mimic_qlora.chart import columns
from mimic_qlora.step.errors import UserError
from mimic_qlora.subjects import reader


def test_an_unknown_patient_is_named(demo_storage):
    with pytest.raises(UserError, match="subject_id 1 is not in"):
        reader.record(demo_storage, 1, columns.WANTED)
