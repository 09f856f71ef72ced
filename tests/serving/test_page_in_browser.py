"""The page in a real browser, as a person uses it: `make peers` runs this where there is a Chromium."""

import os
import re
import shutil
from collections.abc import Iterator

import pytest
from loopback import Server

from yinggem.inference.language_model import LanguageModel

pytestmark = pytest.mark.peers
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"] if os.geteuid() == 0 else []
        )
        yield started
        started.close()


@pytest.fixture
def page(browser, server) -> Iterator:
    """The page of the server; at the end nothing may have failed in it."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(20_000)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console", lambda line: wrong.append(line.text) if line.type == "error" and "400" not in line.text else None
    )
    page.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(server.url) else None)
    page.goto(server.url)
    page.wait_for_selector(".slider")
    yield page
    context.close()
    assert wrong == []


def text_of(page) -> str:
    return page.evaluate("document.getElementById('text').textContent")


def settle(page) -> None:
    """Wait until nothing is being made."""
    page.wait_for_selector("#stop[disabled]")


def write(page, text: str, tokens: int = 12, seed: int | None = 1) -> None:
    page.locator("#text").click()
    page.keyboard.insert_text(text)
    page.get_by_label("max tokens", exact=True).last.fill(str(tokens))
    if seed is not None:
        page.locator("#seed").fill(str(seed))


def go_on(page) -> None:
    page.locator("#continue").click()
    settle(page)


def test_a_text_is_continued_retried_undone_and_kept_over_a_reload(page, local: LanguageModel):
    write(page, "Thou art")
    go_on(page)
    once = "Thou art" + local.generate("Thou art", max_new_tokens=12, seed=1)
    assert text_of(page) == once and page.locator(".token").count() >= 6
    go_on(page)
    again = once + local.generate(once, max_new_tokens=12, seed=1, generated=[(8, len(once))])
    assert text_of(page) == again  # what the model wrote is not counted by its memory
    page.reload()
    page.wait_for_selector(".slider")
    assert text_of(page) == again
    page.locator("#slider-memory").fill("0")  # with it one text is nearly certain
    write(page, "", seed=1)
    go_on(page)
    whole = text_of(page)
    assert whole.startswith(again) and len(whole) > len(again)
    page.locator("#retry").click()
    settle(page)
    assert text_of(page).startswith(again) and text_of(page) != whole
    for _ in range(2):
        page.locator("#undo").click()
    assert text_of(page) == whole
    page.keyboard.press("Control+Shift+z")
    assert text_of(page) == again


def test_markup_in_text_and_tokens_stays_text(page):
    nasty = "<img src=x onerror=alert(1)><script>alert(2)</script>&lt;"
    write(page, nasty)
    page.locator("#tint").click()
    settle(page)
    assert text_of(page) == nasty and page.locator("#text img, #text script").count() == 0
    page.locator(".token").nth(2).hover()
    assert page.locator("#token b").text_content() == "m" and "bits" in (page.locator("#token p").text_content() or "")


def test_a_long_text_is_stopped_and_another_can_begin(page, server):
    write(page, "O", tokens=500)
    page.locator("#continue").click()
    page.wait_for_selector("#stop:enabled")
    page.keyboard.press("Escape")
    settle(page)
    page.locator("#status").get_by_text(re.compile("Stopped|tokens in")).wait_for()
    write(page, "", tokens=5)
    go_on(page)
    assert "5 tokens" in (page.locator("#status").text_content() or "")


def test_an_alternative_is_taken_with_one_click_and_the_slider_counts(page, local: LanguageModel):
    page.locator("#slider-temperature").fill("0")
    write(page, "Thou art")
    go_on(page)
    assert text_of(page) == "Thou art" + local.generate("Thou art", max_new_tokens=12, temperature=0)
    page.locator(".token").nth(3).hover()
    start = (
        page.evaluate("[...document.querySelectorAll('.token')].slice(0, 3).map(t => t.textContent).join('').length")
        + 8
    )
    other = page.locator(".others button:enabled").first
    name = (other.evaluate("b => b.firstChild.data") or "").replace("⏎", "\n").replace("␣", " ")
    kept = text_of(page)[:start] + name
    other.click()
    settle(page)
    expected = local.generate(kept, max_new_tokens=12, temperature=0, generated=[(8, start)])
    assert text_of(page) == kept + expected


def test_several_texts_and_two_settings_can_be_chosen_from(page, local: LanguageModel):
    write(page, "Thou")
    page.locator("#count").fill("2")
    page.locator("#compare").check()
    page.locator("#side-b").click()
    page.locator("#slider-temperature").fill("0")
    go_on(page)
    cards = page.locator(".choice p").all_text_contents()
    greedy = local.generate("Thou", max_new_tokens=12, temperature=0)
    assert cards[:2] == [local.generate("Thou", max_new_tokens=12, seed=seed) for seed in (1, 2)]
    page.locator(".choice button").nth(2).click()
    assert cards[2] == greedy or len(cards) == 4
    assert text_of(page) == "Thou" + cards[2]


def test_typing_in_the_middle_keeps_what_stands_before(page):
    write(page, "Thou art\nmore")
    page.locator("#tint").click()
    settle(page)
    page.locator("#text").click()
    page.keyboard.press("Control+Home")
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.keyboard.type("!")
    page.keyboard.press("Enter")
    assert text_of(page) == "Thou!\n art\nmore" and page.locator(".token").count() == 4
    page.keyboard.type("x")
    assert text_of(page) == "Thou!\nx art\nmore"


def test_an_error_is_said_and_a_warning_comes_before_a_text_is_left(page):
    page.get_by_label("max tokens", exact=True).first.fill("100000")
    page.locator("#text").click()
    page.keyboard.insert_text("O")
    go_on(page)
    assert "max_tokens" in (page.locator("[role=alert]").text_content() or "")
    page.locator("#new").click()
    page.locator("#ask button[value=no]").click()
    assert text_of(page) == "O"
    page.locator("#new").click()
    page.locator("#ask button[value=yes]").click()
    page.wait_for_function("document.getElementById('text').textContent === ''")


def test_how_it_reads_opens_as_pages_of_their_own(page):
    write(page, "Thou art <b>lovely</b>")
    page.locator("#reading").click()
    for number, selector in enumerate(("#heads button", "pre span")):
        link = page.locator("#readings a").nth(number)
        link.wait_for()
        with page.context.expect_page() as opened:
            link.click()
        other = opened.value
        wrong: list[str] = []
        other.on("console", lambda line, wrong=wrong: wrong.append(line.text))
        other.reload()
        other.wait_for_selector(selector)
        assert other.locator("b").count() <= 1 and wrong == []  # the name of the chosen token is bold
        other.close()


def test_a_narrow_screen_shows_everything_without_scrolling_sideways(page):
    page.set_viewport_size({"width": 360, "height": 700})
    write(page, "Thou art " * 30)
    go_on(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert all(page.locator(f"#{name}").is_visible() for name in ("continue", "stop", "retry", "undo", "tint"))


def test_a_server_with_a_key_is_asked_with_it(browser, start, byte_checkpoint):
    server: Server = start(byte_checkpoint, key="secret")
    context = browser.new_context()
    page = context.new_page()
    page.goto(server.url)
    page.locator("#key").fill("secret")
    page.locator("#ask button[value=yes]").click()
    page.wait_for_selector(".slider")
    context.close()
    server.stop()
