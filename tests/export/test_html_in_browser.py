"""The exported page in a real browser, from a file: `make peers` runs this where there is a Chromium."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from exported import random_model

import yinggem
from yinggem.export.html import file
from yinggem.export.source import read_source
from yinggem.inference.checkpoint import save_model
from yinggem.inference.language_model import LanguageModel
from yinggem.text.tokenizer import ByteTokenizer

pytestmark = pytest.mark.peers
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NASTY = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A file that is called what no file should be."""
    path = tmp_path_factory.mktemp("page") / "<img src=x onerror=alert(1)>.ckpt"
    model = random_model()
    with torch.no_grad():
        model.head.weight[[*range(32), *range(127, 256)]] = 0  # mostly ASCII
    save_model(path, model, ByteTokenizer(), context_length=64)
    return path


@pytest.fixture(scope="module")
def local(checkpoint) -> LanguageModel:
    """The same model at the terminal."""
    return yinggem.load(checkpoint, device="cpu", quantization="int8")


@pytest.fixture
def page(checkpoint, tmp_path) -> Iterator:
    """The page, opened from the disk; at the end nothing may have failed or been asked for from anywhere."""
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    output = tmp_path / "a.html"
    file.export(read_source(checkpoint)[0], output)
    with sync_api.sync_playwright() as playwright:
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=args)
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        page.set_default_timeout(30_000)
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: wrong.append(line.text) if line.type == "error" else None)
        page.on(
            "request",
            lambda asked: (
                None if asked.url in (output.as_uri(),) or asked.url[:5] == "blob:" else wrong.append(asked.url)
            ),
        )
        page.goto(output.as_uri())
        page.wait_for_selector(".slider")
        yield page
        browser.close()
        assert wrong == []


def write(page, text: str, tokens: int, seed: int = 1) -> None:
    page.locator("#text").click()
    page.keyboard.insert_text(text)
    page.get_by_label("max tokens", exact=True).first.fill(str(tokens))
    page.locator("#seed").fill(str(seed))


def go_on(page) -> str:
    page.locator("#continue").click()
    page.wait_for_selector("#stop[disabled]")
    return page.evaluate("document.getElementById('text').textContent")


def test_the_text_is_the_one_of_the_terminal_past_the_window_and_markup_stays_text(page, local: LanguageModel):
    assert "<img src=x onerror=alert(1)>" in (page.locator("#model").text_content() or "")
    write(page, NASTY, 364, seed=7)
    text = NASTY + local.generate(NASTY, max_new_tokens=364, seed=7)
    assert go_on(page) == text and page.locator("main img, main script").count() == 0
    page.reload()
    page.wait_for_selector(".slider")
    assert page.evaluate("document.getElementById('text').textContent") == text
    page.locator("#tint").click()
    page.locator("#status").get_by_text("bits per byte").wait_for()
    page.locator(".token").nth(2).hover()
    assert page.locator("#token b").text_content() == "s" and page.locator(".others button").count() >= 8


def test_two_settings_a_stop_and_an_error(page, local: LanguageModel):
    write(page, "Thou", 30)
    page.locator("#count").fill("2")
    page.locator("#compare").check()
    page.locator("#side-b").click()
    page.locator("#slider-temperature").fill("0")
    page.get_by_label("max tokens", exact=True).first.fill("30")
    go_on(page)
    greedy = local.generate("Thou", max_new_tokens=30, temperature=0)
    texts = [local.generate("Thou", max_new_tokens=30, seed=seed) for seed in (1, 2)]
    assert page.locator(".choice p").all_text_contents() == [*texts, greedy, greedy]
    page.locator("#compare").uncheck()
    page.locator("#count").fill("1")
    write(page, "", 10_000)
    page.locator("#continue").click()
    page.wait_for_selector("#stop:enabled")
    page.keyboard.press("Escape")
    page.locator("#status").get_by_text("Stopped").wait_for()
    write(page, "", 20_000)
    go_on(page)
    assert "max_tokens must be" in (page.locator("[role=alert]").text_content() or "")
