"""The page: what it may load, that text stays text, and what it shows of the settings and the run."""

import re
from dataclasses import fields

import pytest

from yinggem.inference.sampling import Sampling
from yinggem.serving.page import STATIC, files

SCRIPTS = sorted(STATIC.glob("*.js"))


def test_nothing_of_the_page_comes_from_elsewhere_or_stands_in_the_document(server):
    for path in files():
        response = server.client.get(path)
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["frame-ancestors"] == "'none'"
        assert all(value in ("'self'", "'none'") for value in policy.values()), policy
        assert response.status_code == 200 and response.headers["x-content-type-options"] == "nosniff"
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", response.text), path
    document = server.client.get("/").text
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", document)
    assert set(re.findall(r'(?:src|href)="([^"]+)"', document)) <= set(files())


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_turns_text_into_html(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser", text
    )
    assert not re.search(r"createContextualFragment|setHTML|srcdoc|javascript:", text)
    assert set(re.findall(r'from "(/[^"]+)"', text)) <= set(files())


def test_every_setting_of_sampling_is_a_slider_with_its_meaning_and_can_be_sent(server):
    sliders = {one["name"]: one for one in server.client.get("/settings").json()["sliders"]}
    assert {one.name for one in fields(Sampling)} | {"memory", "max_copy", "max_tokens"} == set(sliders)
    for one in sliders.values():
        assert one["meaning"] and one["low"] <= one["value"] <= one["high"] and one["step"] > 0
    values = {name: one["value"] for name, one in sliders.items() if name != "max_copy"}
    assert server.complete(prompt="Thou", seed=1, **values | {"max_tokens": 5})["usage"]["completion_tokens"] == 5


def test_the_run_is_told_with_its_curve(start, tmp_path, byte_checkpoint):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "best.ckpt").write_bytes(byte_checkpoint.read_bytes())
    rows = "".join(f"{step},{3 / step},{'2.5' if step % 100 == 0 else ''}\n" for step in range(1, 2001))
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n" + rows)
    server = start(folder / "best.ckpt")
    told = server.client.get("/run").json()
    assert told["vocabulary"] == 256 and told["parameters"] > 1000 and "C on cpu" in told["engine"]
    assert told["curves"]["val/loss"] == [[step, 2.5] for step in range(100, 2001, 100)]
    assert 100 < len(told["curves"]["train/loss"]) <= 400
    server.stop()
