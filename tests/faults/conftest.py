"""One run that nobody disturbs, for all the others to be compared with."""

from pathlib import Path

import pytest
from harness import Place, end_state


@pytest.fixture(scope="session")
def straight(tmp_path_factory) -> tuple[Path, dict]:
    """The cache folder that all places share, and the end state of the undisturbed run."""
    place = Place(tmp_path_factory.mktemp("straight"))
    process = place.run(*place.arguments(), watch=False)
    assert process.status == 0, process.told()
    return place.cache, end_state(place.run_folder())


@pytest.fixture
def place(tmp_path, straight) -> Place:
    """A folder for a run of the same text, with the token cache made."""
    return Place(tmp_path, straight[0])


@pytest.fixture
def expected(straight) -> dict:
    """What every continued run must end with."""
    return straight[1]
