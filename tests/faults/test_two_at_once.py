"""Two commands started together share the token cache and nothing else."""

import pytest
from harness import Place, differences, end_state

pytestmark = pytest.mark.slow
SWEEP = ["-m", "optimizer.lr=0.01,0.02", "trainer.max_steps=20"]


def folders(place: Place) -> list:
    return sorted({path.parent.parent for path in place.outputs.rglob("last.ckpt")})


def test_two_runs_on_a_text_that_nobody_has_tokenized_yet(tmp_path):
    """Started in the same second: the same bits in two folders, one token array."""
    place = Place(tmp_path)
    both = [place.start(*place.arguments("trainer.max_steps=30"), watch=False) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], [process.told() for process in both]
    one, other = folders(place)
    assert differences(end_state(one), other) == []
    assert len(list(place.cache.rglob("*.tokens"))) == 1 and not list(place.cache.rglob(".*.partial"))


def test_two_sweeps(tmp_path, straight):
    """Two jobs each: four runs, all finished, compared by twos."""
    place = Place(tmp_path, straight[0])
    both = [place.start(*place.arguments(*SWEEP), watch=False) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], [process.told() for process in both]
    runs = folders(place)
    assert len(runs) == 4 and len({run.parent for run in runs}) == 2
    for results in place.outputs.rglob("results.csv"):
        assert results.read_text().count("\n") == 3
    one, other = ([run for run in runs if run.parent == sweep] for sweep in sorted({run.parent for run in runs}))
    for mine, yours in zip(one, other, strict=True):
        assert differences(end_state(mine), yours) == []
