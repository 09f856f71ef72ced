"""result.json: what was written is read, and what somebody else wrote is no result."""

import json

import pytest

from yinggem.runs.result import read_result, write_result


@pytest.mark.parametrize("result", [
    {"loss": 2.5, "perplexity": 12.2, "bits_per_byte": 3.6, "steps": 20}, {"pruned": 8}, {"error": "Not like this."},
    {"loss": float("inf"), "steps": 1},
])  # fmt: skip
def test_what_became_of_a_run_is_read_as_it_was_written(tmp_path, result):
    write_result(tmp_path, {"steps": 0})
    write_result(tmp_path, result)
    assert read_result(tmp_path) == result == json.loads((tmp_path / "result.json").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[1]", b"3", b"\xff", b'{"loss": "low"}', b'{"steps": null}', b"[" * 99999]
)
def test_what_is_no_result_is_none(tmp_path, content):
    assert read_result(tmp_path) == {}
    (tmp_path / "result.json").write_bytes(content)
    assert read_result(tmp_path) == {}
