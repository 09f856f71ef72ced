"""The page of attention maps: it holds the weights of the model, and of the text nothing but data."""

import base64
import json
import os
import re
import shutil
import zlib

import numpy as np
import pytest
import torch

from yinggem.common.errors import UserError
from yinggem.inference.pages.attention_page import MOST_TOKENS, attention_maps, attention_page
from yinggem.model.attention_weights import attention_weights
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import ByteTokenizer

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\n<!-- &lt; é"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer(ModelConfig(256, 16, 2, 4, 2, 24, attention_window=5, initializer_range=0.3)).eval()


def page_of(model: Transformer, text: str) -> str:
    ids = ByteTokenizer().encode(text)
    return attention_page(text[:20], attention_maps(model, ids), ByteTokenizer(), ids)


def data(page: str, name: str) -> object:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page, flags=re.S)
    assert found
    return json.loads(found[1])


def test_the_page_holds_the_weights(model):
    ids = ByteTokenizer().encode("Shall I compare thee")
    maps = attention_maps(model, ids)
    page = page_of(model, "Shall I compare thee")
    packed = data(page, "weights")
    assert isinstance(packed, str)
    kept = np.frombuffer(zlib.decompress(base64.b64decode(packed)), np.uint8).reshape(2, 4, -1)
    exact = torch.cat(list(attention_weights(model, torch.tensor([ids])))).numpy()  # (L, H, T, T)
    place = 0
    for query in range(len(ids)):
        keys = range(max(0, query - 4), query + 1)
        shown = (kept[:, :, place : place + len(keys)] / 255.0) ** 2
        assert np.abs(shown - exact[:, :, query, keys.start : keys.stop]).max() < 0.004
        place += len(keys)
    assert place == kept.shape[2] and maps.window == 5
    back = np.subtract.outer(np.arange(len(ids)), np.arange(len(ids)))
    assert maps.distances == pytest.approx((exact * back).sum(-1).mean(-1), rel=1e-4)


def test_hostile_text_stays_data(model):
    page = page_of(model, HOSTILE)
    told = data(page, "told")
    assert isinstance(told, dict) and "".join(name for name in told["tokens"] if len(name) == 1) == HOSTILE[:-1]
    assert len(re.findall("<script", page)) == 3 and "<img" not in page and "<!--" not in page
    assert not re.search(r"https?:|url\(|@import|innerHTML", page)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy and re.fullmatch(
        r"default-src 'none'; style-src 'sha256-\S+'; script-src 'sha256-\S+'; base-uri 'none'; form-action 'none'",
        policy[1],
    )


def test_a_text_that_is_too_long_is_said_in_one_sentence(model):
    with pytest.raises(UserError, match=f"up to {MOST_TOKENS}"):
        attention_maps(model, [0] * (MOST_TOKENS + 1))


@pytest.mark.peers
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_person_reads_it_in_a_browser(model, tmp_path, scheme):
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    (tmp_path / "page.html").write_text(page_of(model, HOSTILE), encoding="utf-8")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        page = browser.new_page(viewport={"width": 360, "height": 700}, color_scheme=scheme)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text))
        page.goto(f"file://{tmp_path}/page.html")
        page.wait_for_selector("#heads button")
        assert page.locator("#text").text_content().replace("⏎", "").startswith(HOSTILE[:-1])
        assert page.locator("#heads button").count() == 8 and page.locator("img").count() == 0
        page.locator("#token10").hover()
        exact = torch.cat(list(attention_weights(model, torch.tensor([ByteTokenizer().encode(HOSTILE)]))))
        most = f"{100 * float(exact[0, 0, 10].max()):.1f} %"
        assert page.locator("#details td").nth(1).text_content()[:2] == most[:2]
        page.locator("#text").focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        assert page.locator("#text [aria-selected=true]").get_attribute("id") == "token11"
        assert page.locator("#heads [aria-checked=true]").get_attribute("title").startswith("Layer 1, head 2")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360 and wrong == []
        browser.close()
