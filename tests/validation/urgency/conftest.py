"""A storage folder with urgency visits, and a run of step 7 on it."""

import pytest

from helpers.shared import made_once


@pytest.fixture(scope="session")
def urgency_store(tmp_path_factory):
    """What steps 1, 4 and 5 leave for made-up emergency visits: a `TunedStore`."""
    from helpers import urgency_store  # imports torch, for which most tests wait

    return urgency_store.store(
        made_once(tmp_path_factory, "urgency", urgency_store.write_urgency_store)
    )
