"""TensorBoard itself, on a real run folder: what it serves, and with `make peers` looked at with a real browser."""

import base64
import json
import os
import re
import select
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from running import SMALL, TEXT, here

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--headless", "--no-sandbox", "--enable-unsafe-swiftshader", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars", "--window-size=1400,1800",
    "--remote-debugging-pipe",
]  # fmt: skip
WORDS = """(() => {
    const words = (node) => (node.shadowRoot ? words(node.shadowRoot) : "") + [...node.childNodes].map((child) =>
        child.nodeType == 3 ? child.data + " " : ["STYLE", "SCRIPT"].includes(child.nodeName) ? "" : words(child)
    ).join("");
    return words(document.body);
})()"""  # all text of a page, that of its components included

NAMES = ["train/loss", "val/loss", "val/bits_per_byte", "grad_norm", "optim/update_ratio/mlp", "machine/share_of_peak"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The folder of a sweep of two real runs."""
    place = tmp_path_factory.mktemp("sweep")
    (place / "own.txt").write_text(TEXT)
    done = here("-m", *SMALL, f"data.path={place}/own.txt", f"outputs={place}/outputs", "optimizer.lr=0.01,0.03")
    assert done.status == 0, done
    return next(place.glob("outputs/*/*/multirun.yaml")).parent


@pytest.fixture(scope="module")
def address(sweep):
    """Where a TensorBoard on that folder answers, once it has read all runs."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = next(filter(None, (re.search(r"http://127.0.0.1:\d+/", line) for line in process.stderr)))[0]
            for _ in range(120):
                tags = json.load(urllib.request.urlopen(f"{found}data/plugin/scalars/tags"))
                if len(tags) == 2 and all("final/loss" in names for names in tags.values()):
                    break
                time.sleep(0.5)
            yield found
        finally:
            process.terminate()


class Browser:
    """Chromium, asked through a pipe: JSON messages with a zero byte after each (the DevTools protocol)."""

    def __init__(self, profile: Path) -> None:
        (theirs, self._write), (self._read, back) = os.pipe(), os.pipe()
        redirected = f'exec "$@" 3<&{theirs} 4>&{back}'
        command = ["bash", "-c", redirected, "bash", str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(command, pass_fds=(theirs, back), stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.close(back)
        self._count, self._got = 0, b""
        page = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]

    def ask(self, method: str, session: str | None = None, **params: object) -> dict:
        """The answer to one message; events are passed over."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._got:
                assert select.select([self._read], [], [], 60)[0], f"no answer to {method}"
                self._got += os.read(self._read, 1 << 20)
            text, _, self._got = self._got.partition(b"\0")
            answer = json.loads(text)
            if answer.get("id") == self._count:
                return answer["result"]

    def look(self, address: str, wanted: list[str], picture: Path) -> None:
        """Open a page and wait until all `wanted` is to be read on it; leave a picture of it."""
        self.ask("Page.navigate", self.session, url="about:blank")  # TensorBoard does not reload for another #fragment
        self.ask("Page.navigate", self.session, url=address)
        end, found = time.monotonic() + 60, ""
        while not all(word in found for word in wanted):
            assert time.monotonic() < end, (address, [word for word in wanted if word not in found], found)
            time.sleep(0.5)
            found = self.ask("Runtime.evaluate", self.session, expression=WORDS)["result"].get("value", "")
            found = " ".join(found.split())
        time.sleep(3)  # the lines of the charts come after the words
        picture.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", self.session)["data"]))
        assert picture.stat().st_size > 20_000


@pytest.fixture
def browser(tmp_path):
    """A browser that is closed at the end."""
    opened = Browser(tmp_path / "profile")
    yield opened
    opened.process.terminate()
    opened.process.wait(30)


@pytest.mark.peers
def plain_part_of_the_sample(run: Path) -> str:
    """The longest part of the last sample that no page has to write otherwise; bytes of so small a model are wild."""
    sample = (run / "samples.txt").read_text(errors="replace").split("=== step 20 ===")[-1]
    return max(re.findall(r"[\w.,;:!?-]+", sample, re.ASCII), key=len)


@pytest.mark.peers
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the PATH")
def test_the_dashboards_show_a_real_run(address, sweep, browser, tmp_path):
    shown = "|".join(NAMES).replace("/", "%2F")
    browser.look(f"{address}?tagFilter={shown}#timeseries", NAMES, tmp_path / "scalars.png")
    sample = plain_part_of_the_sample(sweep / "0")
    browser.look(f"{address}#text", ["sample/text_summary", "step 20", sample], tmp_path / "text.png")
    browser.look(f"{address}#histograms", ["attention/layer_00", "attention/layer_01"], tmp_path / "histograms.png")
    table = ["Trial ID", "optimizer.lr", "final/loss"]
    browser.look(f"{address}#hparams", table, tmp_path / "hparams.png")


def test_tensorboard_serves_what_the_dashboards_show(address, sweep):
    """The short form of the look with a browser: the same figures, texts and tables as its server hands them out."""

    def served(page: str, **query: str) -> Any:
        return json.load(urllib.request.urlopen(f"{address}data/plugin/{page}?{urllib.parse.urlencode(query)}"))

    for run in ("0", "1"):
        assert set(NAMES) <= set(served("scalars/tags")[run])
        assert any(name.startswith("attention/layer_01") for name in served("histograms/tags")[run])
        samples = served("text/text", run=run, tag="sample/text_summary")
        assert samples[-1]["step"] == 20
    assert plain_part_of_the_sample(sweep / "1") in samples[-1]["text"]
    told = served("hparams/experiment", request='{"experimentName": ""}')
    assert "optimizer.lr" in {info["name"] for info in told["hparamInfos"]}
    assert "final/loss" in {info["name"]["tag"] for info in told["metricInfos"]}


def test_a_run_is_one_file_of_events(sweep):
    for job in ("0", "1"):
        assert len(list((sweep / job).glob("events.out.tfevents*"))) == 1
