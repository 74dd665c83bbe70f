"""Names of tables and columns: what is a patient's is told from an export's date or a code."""

import pytest

from mimic_qlora.mimic import names


@pytest.mark.parametrize("about", ["{}", "bmi {}", "{}_hr", "x{}", "value_{}"])
@pytest.mark.parametrize(
    "date",
    [
        *("2196-01-20", "2196.1.20", "2196_01_20 10:30", "21960120", "21960120103000"),
        *("20/01/2196", "20.1.2196", "01-20-2196", "20Jan2196", "20-JAN-2196", "20 January 2196"),
        *("Jan 20, 2196", "January_20th_2196", "Sept.20-2196", "2196Jan20", "2196-jan-20"),
    ],
)
def test_a_date_in_a_shifted_year_is_a_patients_whatever_stands_beside_it(about, date):
    assert names.tells(about.format(date))


NUMBERS = ("10000032", "22595853", "20240115", "2024-01-15", "20.01.96", "20Jan2024", "Jan 20, 96")


@pytest.mark.parametrize("number", NUMBERS)
def test_another_date_or_a_number_like_an_id_is_one_alone_or_behind_a_word_for_one(number):
    for somebodys in ("{}", "_{}", "{}T10", "{} 10:30 am", "id{}", "hadm_id_{}", "x_pt {}", "p{}"):
        assert names.tells(somebodys.format(number)), somebodys
    for labels in ("labs_{}", "cohort_v2_{}", "v3_1_{}", "{}_export", "snomed_{}", "covid_{}"):
        assert not names.tells(labels.format(number)), labels


@pytest.mark.parametrize(
    "name",
    [
        *("2019", "24", "50912", "glucose_1", "y2019", "v1.2.3", "1_2", "snomed_38341003", "icd10"),
        *(
            "itemid_220045",
            "march_2",
            "may 5",
            "subject_id",
            "p_value_1.2",
            "loinc_2160-0",
            "1_3_5",
        ),
    ],
)
def test_a_label_with_other_numbers_tells_nothing(name):
    assert not names.tells(name)
