"""Without a compiler nothing is begun."""

import pytest
from running import SMALL, TEXT, here

from yinggem.common.errors import UserError
from yinggem.training.compiling import check_compiler


@pytest.mark.slow
def test_a_missing_compiler_is_refused_and_leaves_nothing(tmp_path, monkeypatch):
    """torch asks every candidate for its version; with an empty PATH there is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text(TEXT)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CXX", "CC"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="C\\+\\+ compiler"):
        check_compiler()
    assert "compile=true" in here(*SMALL, "data.path=own.txt", "compile=true").refused()
    assert not list(tmp_path.glob("outputs/*/*"))
