"""Typed lines are kept for the next session, for their owner alone, and not for ever."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from yinggem.commands.output.history import MOST, LineHistory, default_place
from yinggem.common.errors import UserError


def test_the_last_lines_are_kept_and_nobody_else_can_read_them(tmp_path):
    place = tmp_path / "state" / "yinggem" / "history"
    history = LineHistory(place)
    assert history.lines() == []
    for line in ("Thou art", "", "Thou art", "/seed 3", "Été \udce9", " "):
        history.add(line)
    assert LineHistory(place).lines() == ["Thou art", "/seed 3", "Été \udce9"]
    if os.name != "nt":
        assert stat.S_IMODE(place.stat().st_mode) == 0o600 and stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    place.write_text("".join(f"{number}\n" for number in range(MOST)))
    history.add("one more")
    assert history.lines() == [*map(str, range(1, MOST)), "one more"] and len(place.read_text().splitlines()) == MOST


def test_sessions_side_by_side_lose_none(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda number: LineHistory(tmp_path / "lines").add(str(number)), range(40)):
            pass
    assert sorted(map(int, LineHistory(tmp_path / "lines").lines())) == [*range(40)]


def test_where_they_are(monkeypatch):
    monkeypatch.setenv("YINGGEM_HISTORY", "")
    assert default_place() is None
    monkeypatch.setenv("YINGGEM_HISTORY", "/somewhere/lines")
    assert default_place() == Path("/somewhere/lines")
    monkeypatch.delenv("YINGGEM_HISTORY")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_place() == Path("/state/yinggem/history")


def test_a_place_that_cannot_be_used_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        LineHistory(tmp_path / "file" / "lines").add("a")
    with pytest.raises(UserError, match="--no-history"):
        LineHistory(tmp_path).lines()
