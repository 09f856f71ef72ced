"""Where learning by heart begins, on curves that somebody can draw."""

import pytest

from yinggem.runs.overfitting import learnt_by_heart


def curve(vals, trains, every=10):
    """Rows of metrics.csv: a validation after every `every` steps, and two logged steps before each."""
    rows = []
    for number, (val, train) in enumerate(zip(vals, trains, strict=True), start=1):
        rows += [
            {"step": number * every - 5, "train/loss": train + 0.1},
            {"step": number * every, "train/loss": train - 0.1},
        ]
        rows.append({"step": number * every, "val/loss": val})
    return rows


def test_it_begins_at_the_best_validation():
    found = learnt_by_heart(curve([3.0, 2.5, 2.4, 2.6, 2.9], [2.9, 2.4, 2.0, 1.5, 1.0]))
    assert found is not None and found.step == 30 and found.val == (2.4, 2.9)
    assert found.train == pytest.approx((2.0, 1.0))


@pytest.mark.parametrize(("vals", "trains"), [
    ([3.0, 2.5, 2.4], [2.9, 2.4, 2.0]),  # it still improves
    ([3.0, 2.5, 2.9], [2.9, 2.4, 3.5]),  # both rise: it diverges
    ([3.0, 2.5, 2.501], [2.9, 2.4, 2.0]),  # noise
    ([3.0], [2.0]), ([], []),
])  # fmt: skip
def test_what_is_something_else(vals, trains):
    assert learnt_by_heart(curve(vals, trains)) is None


def test_without_training_figures_nothing_is_said():
    assert learnt_by_heart([{"step": 1, "val/loss": 1.0}, {"step": 2, "val/loss": 2.0}]) is None
