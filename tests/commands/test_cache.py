"""yinggem cache: all that is the project's is listed and can be removed, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from yinggem.commands import cache
from yinggem.common.errors import UserError
from yinggem.memory.index_files import cached_index
from yinggem.text.corpus import open_corpus
from yinggem.text.splitting import tokenize
from yinggem.text.tokenizer import ByteTokenizer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "text.txt").write_text("a few words\n" * 50)
    folder = tmp_path / "cache"
    monkeypatch.setenv("YINGGEM_CACHE", str(folder))
    tokenize(open_corpus("text", tmp_path / "text.txt"), ByteTokenizer())
    cached_index(np.arange(99, dtype=np.uint8), 256)
    (folder / "weights").mkdir()
    (folder / "weights" / f"{'0' * 64}.weights").write_bytes(b"rounded")
    (folder / "poems.tokens").write_text("a person's own")
    return folder


def remaining(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_what_is_there_is_listed_and_removed_by_kind(folder, capsys):
    before = remaining(folder)
    cache.main([])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == str(folder) and "1 files" in lines[2] and "0 days old" in lines[2] and "nothing" in lines[4]
    assert lines[3].startswith("weights") and "1 files" in lines[3]
    assert remaining(folder) == before
    cache.main(["--clear", "memory"])
    assert "removed 1 files" in capsys.readouterr().out
    assert remaining(folder) == {name for name in before if not name.endswith(".ngrams")} != before
    cache.main(["--clear"])
    assert remaining(folder) == {"poems.tokens"}
    assert len(cached_index(np.arange(99, dtype=np.uint8), 256).suffixes) == 99  # made again


def test_another_kind_is_refused(folder):
    with pytest.raises((UserError, SystemExit)):
        cache.main(["--clear", "everything"])
