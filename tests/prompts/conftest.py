"""Step 4 in this process, and charts as step 4 and as the audit read them."""

import sys
from types import SimpleNamespace

import pytest

import make_symptom_prompts_ctx_dxpx as step_4
from mimic_qlora.chart import columns, context
from mimic_qlora.subjects import reader


@pytest.fixture
def run_here(monkeypatch):
    """Run step 4 in this process, where the tokenizer's library is loaded; raise user errors."""

    def run(*args, store):
        given = ["make_symptom_prompts_ctx_dxpx.py", *map(str, args), "--storage", str(store)]
        monkeypatch.setattr(sys, "argv", given)
        return step_4.main()

    return run


@pytest.fixture(scope="session")
def charts(demo_storage):
    """Some patients of the demo as step 4 reads them, and as the audit does."""
    ids = list(reader.split_of(demo_storage))[::5]
    labels = context.lab_labels(demo_storage)
    typed = list(reader.records(demo_storage, columns.WANTED, ids, columns.ONLY))
    raw = {i: reader.raw_record(demo_storage, i) for i in ids}
    return SimpleNamespace(typed=typed, raw=raw, labels=labels)
