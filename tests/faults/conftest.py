"""One run that nobody disturbs, for all the others to be compared with."""

from pathlib import Path

import pytest
from filelock import FileLock
from harness import Place, end_state


@pytest.fixture(scope="session")
def straight(common_folder: Path) -> tuple[Path, dict]:
    """The cache folder that all places share, and the end state of the undisturbed run; made by one worker for all."""
    with FileLock(common_folder / "straight.lock"):
        place = Place(common_folder / "straight")
        if not place.outputs.exists():
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
