"""Pages about the text that is there: made for who may ask, opened by who knows their names."""

import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from loopback import Server

from yinggem.inference.pages.attention_page import MOST_TOKENS
from yinggem.serving.reading import KEPT, Readings


def test_both_pages_are_made_of_the_text(server: Server, local):
    text = "Thou art </script><b>more</b> lovely"
    for page, word in (
        ("attention", '"heads":2'),
        ("surprise", f"{local.score(text).bits_per_byte:.4f} bits per byte"),
    ):
        made = server.post("/reading", prompt=text, page=page)
        assert made.status_code == 201
        shown = server.client.get(made.json()["path"])
        assert shown.status_code == 200 and word in shown.text and "<b>more" not in shown.text
        assert shown.headers["content-type"].startswith("text/html")
        assert "frame-ancestors 'none'" in shown.headers["content-security-policy"]
        assert re.search(r"Content-Security-Policy\" content=\"default-src 'none'", shown.text)


@pytest.mark.parametrize(
    ("content", "word"),
    [({}, "prompt"), ({"prompt": ""}, "prompt"), ({"prompt": 3}, "prompt"), ({"prompt": "a", "page": "x"}, "page"),
     ({"prompt": "a", "page": []}, "page"), ({"prompt": "a" * (MOST_TOKENS + 1)}, str(MOST_TOKENS)),
     ({"prompt": "a", "page": "surprise"}, "longer")],
)  # fmt: skip
def test_what_cannot_be_shown_is_said(server: Server, content, word):
    response = server.post("/reading", **content)
    assert response.status_code == 400 and word in response.json()["error"]["message"]


def test_one_page_is_made_at_a_time(server: Server):
    with ThreadPoolExecutor(6) as pool:
        found = [*pool.map(lambda _: server.post("/reading", prompt="Thou art more lovely").status_code, range(6))]
    assert 201 in found and {*found} <= {201, 429}
    assert server.post("/reading", prompt="Thou").status_code == 201


def test_a_key_is_asked_for_to_make_a_page_and_its_name_opens_it(start, byte_checkpoint):
    server = start(byte_checkpoint, key="secret")
    assert server.post("/reading", prompt="Thou").status_code == 401
    made = server.client.post("/reading", json={"prompt": "Thou"}, headers={"Authorization": "Bearer secret"})
    assert server.client.get(made.json()["path"]).status_code == 200
    assert server.client.get("/reading/other").status_code == 404
    server.stop()


def test_the_last_pages_are_kept():
    readings = Readings()
    names = [readings.keep(str(number)) for number in range(KEPT + 1)]
    assert readings.get(names[0]) is None
    assert [readings.get(name) for name in names[1:]] == [str(number) for number in range(1, KEPT + 1)]
    assert len({*names}) == len(names) and all(len(name) >= 32 for name in names)
