"""Roles of columns: never a feature, or never to be dropped."""

from mimic_qlora.chart import columns
from mimic_qlora.features import column_roles
from mimic_qlora.mimic import tables


def test_what_cautions_and_chart_questions_read_is_protected_or_never_a_feature():
    for table, cited in columns.CITED.items():
        for column in cited:
            name, kind = f"{table}.{column}", tables.schema()[table].columns[column]
            kept = column_roles.reason_for("protected", name) or column_roles.reason_for(
                "excluded", name
            )
            assert kept or kind == "time", name
