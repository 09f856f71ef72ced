"""The page that holds its model: the same text as at the terminal, the same ids, nothing from elsewhere, no markup."""

import hashlib
import re
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from exported import random_model, source_of
from html_in_node import answers, ids_of, text_of

import yinggem
from yinggem.common.errors import UserError
from yinggem.engine.engine import SETTINGS
from yinggem.export.html import file
from yinggem.export.html.bundle import bundle
from yinggem.export.html.contents import bounds, without_folders
from yinggem.export.source import Source, read_source
from yinggem.inference.checkpoint import save_model
from yinggem.inference.completion import prompt_ids
from yinggem.inference.language_model import LanguageModel
from yinggem.inference.starter import starter_path
from yinggem.memory.ngram_memory import NgramMemory
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, GPT2Tokenizer, Tokenizer

NASTY = "</script><img src=x onerror=alert(1)><!--"
HARD = [
    *(
        "a",
        "'s",
        "'ll",
        "'S",
        "0123",
        "½²٣",
        "é",
        "e\u0301",
        "漢字",
        "हिन्दी",
        "🤷🏽‍♀️👩‍👩‍👧",
        " ",
        "  ",
        "\t",
        "\r\n",
        "\n\n",
    ),
    *(
        "\u00a0",
        "\u2003",
        "\ufeff",
        "\u0085",
        "\u001c",
        "\u200b",
        "<|endoftext|>",
        "$&",
        "{prompt}",
        "\x00",
        "\U00010400",
    ),
    *("ß", "\U0001d7d8", "\ue000", "\U0010ffff", "To be", "?!", "\U000323b0"),
]  # the last is a letter of Unicode 17
LONG = ["a" * 70_000, " " * 70_000 + "x", "漢" * 66_000, "x" * 65_536 + "\n\n  y", "😀" * 40_000, "word " * 14_000]


def fitted(tokenizer: Tokenizer, template: str | None = None, documents: bool = False) -> Tokenizer:
    tokenizer.fit(lambda: ["".join(HARD) * 20 + "\nto be, or not to be: that is the question. " * 9])
    if documents:
        tokenizer.mark_documents(template)
    return tokenizer


def saved(path: Path, tokenizer: Tokenizer, **changes: Any) -> tuple[Path, LanguageModel]:
    """A page of a random model, and the model as it speaks at the terminal."""
    save_model(path / "a.ckpt", random_model(tokenizer.vocab_size, **changes), tokenizer, context_length=64)
    file.export(read_source(path / "a.ckpt")[0], path / "a.html")
    return path / "a.html", yinggem.load(path / "a.ckpt", device="cpu", quantization="int8")


def request(prompt: str, seed: int = 1, max_tokens: int = 80, **settings: Any) -> dict[str, Any]:
    return {"prompt": prompt, "seed": seed, "max_tokens": max_tokens, "logprobs": 3, **settings}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (lambda: fitted(BPETokenizer(300), documents=True), {"bias": True, "norm": "layer", "activation": "swiglu"}),
        (lambda: fitted(BPETokenizer(300), "Q: {prompt} A:", documents=True), {"qk_norm": True, "head_bias": True}),
        (lambda: fitted(CharTokenizer()), {"tie_word_embeddings": True, "activation": "relu2", "bias": False}),
        (ByteTokenizer, {"attention_window": None, "num_key_value_heads": None, "document_end": ord("e")}),
    ],
    ids=["documents", "pairs", "char", "byte"],
)
def test_a_text_is_the_one_of_the_terminal_with_every_setting(
    make: Callable[[], Tokenizer], changes: dict[str, Any], tmp_path
):
    page, model = saved(tmp_path, make(), **changes)
    filters: dict[str, Any] = {
        "top_k": 20, "min_p": 0.01, "typical_p": 0.9, "repetition_penalty": 1.3, "repetition_window": 9,
        "no_repeat_ngram_size": 3, "top_p": 0.95, "temperature": 1.1,
    }  # fmt: skip
    asked = [
        request("to be", **filters),
        request("", seed=2**40, stop="e"),
        request("漢字", temperature=0, repetition_penalty=1),
        request("not", n=3, ignore_end=True, top_p=1, temperature=2),
    ]
    for content, found in zip(asked, answers(page, *asked), strict=True):
        given = {name: value for name, value in content.items() if name not in ("prompt", "seed", "n", "logprobs")}
        stop = [given.pop("stop")] if "stop" in given else []
        length = given.pop("max_tokens")
        for k in range(content.get("n", 1)):
            text = model.generate(
                content["prompt"], max_new_tokens=length, seed=content["seed"] + k, stop=stop, **given
            )
            assert text_of(found, k)[0] == text
    assert text_of(answers(page, asked[1])[0])[1] in ("stop", "length")


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: fitted(BPETokenizer(300), "Q: {prompt} A:", documents=True), ByteTokenizer])
def test_a_memory_that_goes_along_says_what_it_says_at_the_terminal(make: Callable[[], Tokenizer], tmp_path):
    tokenizer = make()
    training = tokenizer.encode_array("to be, or not to be: that is the question, not 漢字. " * 40)
    memory = NgramMemory(training, tokenizer.vocab_size, cache_dir=tmp_path / "cache")
    save_model(tmp_path / "a.ckpt", random_model(tokenizer.vocab_size), tokenizer, memory, context_length=64)
    file.export(read_source(tmp_path / "a.ckpt", with_memory=True)[0], tmp_path / "a.html")
    model = yinggem.load(tmp_path / "a.ckpt", device="cpu", quantization="int8")
    asked = [
        request("is the 漢 be", memory=1.5, generated=[[3, 8]], logprobs=None),
        request("to be, or", top_p=1),
        request("", memory=0),
    ]
    for content, found in zip(asked, answers(tmp_path / "a.html", *asked), strict=True):
        settings = {name: value for name, value in content.items() if name not in ("prompt", "max_tokens", "logprobs")}
        assert text_of(found)[0] == model.generate(content["prompt"], max_new_tokens=80, **settings)
    assert (
        len({text_of(found)[0] for found in answers(tmp_path / "a.html", *(asked[1] | {"memory": m} for m in (0, 1)))})
        == 2
    )
    file.export(read_source(tmp_path / "a.ckpt")[0], tmp_path / "alone.html")
    [alone] = answers(tmp_path / "alone.html", request("to be, or", memory=1))
    assert text_of(alone)[0] == model.generate("to be, or", seed=1, max_new_tokens=80, memory=0)


@pytest.mark.slow
def test_the_starter_says_the_same_300_tokens_past_its_window(tmp_path):
    model, page = yinggem.load(starter_path(), device="cpu", quantization="int8"), tmp_path / "starter.html"
    file.export(read_source(starter_path())[0], page)
    length = (model.config.attention_window or 0) + 300
    [found] = answers(page, request("ROMEO:", seed=5, max_tokens=length))
    assert text_of(found) == (model.generate("ROMEO:", seed=5, max_new_tokens=length, memory=0), "length")
    assert sum(len(choice["logprobs"]["tokens"]) for choice in found) == length
    assert page.stat().st_size < 1.4 * model.config.parameters + 100_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [ByteTokenizer, GPT2Tokenizer, lambda: fitted(BPETokenizer(300), documents=True), lambda: fitted(CharTokenizer())],
    ids=["byte", "gpt2", "bpe", "char"],
)
def test_any_text_has_the_same_ids(make: Callable[[], Tokenizer]):
    tokenizer, order = make(), torch.Generator().manual_seed(0)
    texts = ["", *HARD, *LONG]
    for length in torch.randint(1, 30, (200,), generator=order).tolist():
        texts.append("".join(HARD[k] for k in torch.randint(len(HARD), (length,), generator=order)))
    texts += ["half \ud83d", "\udc00", "日本"]
    for text, found in zip(texts, ids_of(tokenizer, texts), strict=True):
        try:
            assert found == prompt_ids(tokenizer, text), repr(text[:80])
        except UserError as error:
            assert isinstance(found, str) and ("half a character" in found) == ("half a character" in str(error))


def test_nothing_of_the_model_s_names_and_texts_stands_in_the_document(tmp_path):
    source = source_of(fitted(BPETokenizer(300), NASTY + "{prompt}", documents=True))
    named = Source(Path(f"{NASTY[9:30]}.ckpt"), source.model, source.tokenizer, 64)
    file.export(named, tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "alert(1)" not in text and "<img" not in text and "<!--" not in text
    parts = re.findall(r'<script type="text/plain" class="part">([A-Za-z0-9+/=]+)</script>', text)
    assert parts and len(re.findall("<script", text)) == len(parts) + 2  # the page, its worker


def test_the_policy_of_the_page_knows_its_own_script_and_style_alone(tmp_path):
    file.export(source_of(), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)
    [script], [style] = (
        re.findall(r"<script>([^]*?)</script>".replace("[^]", r"[\s\S]"), text),
        re.findall(r"<style>([\s\S]*?)</style>", text),
    )
    digest = lambda part: f"'sha256-{b64encode(hashlib.sha256(part.encode()).digest()).decode()}'"  # noqa: E731
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["script-src"] == f"{digest(script)} 'wasm-unsafe-eval'"
    assert rules["style-src"] == digest(style) and text.index("http-equiv") < text.index("<style")
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|<link|\bsrc=|\bstyle=|\bon\w+=\"", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\(|new Function|DOMParser", text)


@pytest.mark.parametrize("entry", ["/page.js", "/worker.js"])
def test_the_scripts_are_javascript(entry, tmp_path):
    if not (node := shutil.which("node")):
        pytest.skip("there is no node here")
    (tmp_path / "a.js").write_text(bundle(entry, file.scripts()), encoding="utf-8")
    subprocess.run([node, "--check", str(tmp_path / "a.js")], check=True)


def test_a_damaged_file_says_so_and_bad_settings_are_named(tmp_path):
    file.export(source_of(), tmp_path / "a.html")
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    place = text.rindex("</script>") - 3000
    (tmp_path / "b.html").write_text(text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :])
    with pytest.raises(AssertionError, match="damaged or incomplete"):
        answers(tmp_path / "b.html", request("a"))
    asked = [request("a", temperature=-1), request("a", max_tokens=10**6), request("a", n=9), request("a", top_p=0)]
    found = answers(tmp_path / "a.html", *asked, request("half \ud83d"))
    words = ("temperature must be a number from 0 to", "max_tokens must be a whole number", "n must be", "above 0 to 1")
    assert all(word in answer["error"] for word, answer in zip((*words, "half a character"), found, strict=True))


def test_what_the_page_cannot_hold_is_refused_with_what_can(tmp_path, monkeypatch):
    def refused(output: str, **changes: Any) -> str:
        with pytest.raises(UserError) as caught:
            file.export(source_of(**changes), tmp_path / output)
        assert not list(tmp_path.iterdir())
        return str(caught.value)

    assert "must end in .html" in refused("a.htm")
    with monkeypatch.context() as patch:
        patch.setattr(file, "OPTIONS", file.OPTIONS - {"document_end"})  # as for an option of a later version
        assert "cannot express model.document_end=3; use --format" in refused("a.html", document_end=3)
    assert file.MOST_PARAMETERS == 200e6
    monkeypatch.setattr(file, "MOST_PARAMETERS", 10_000)
    assert "million parameters, and --format html takes up to" in refused("a.html")


def test_every_setting_has_its_bounds_and_no_folder_is_told():
    known = {one["name"]: one for one in bounds("bpe")}
    assert set(known) >= SETTINGS and known["repetition_penalty"]["value"] == 1.2
    assert [known["top_p"][name] for name in ("low", "high", "exclusive", "whole")] == [0, 1, True, False]
    words = ["data.path=/home/somebody/poems", "data.path='C:\\secret\\a.txt'", "optimizer.lr=0.1", "x=[/a/b,c/d]"]
    assert [without_folders(word) for word in words] == [
        "data.path=poems", "data.path='a.txt'", "optimizer.lr=0.1", "x=[b,d]",
    ]  # fmt: skip


def test_modules_become_one_script_each_before_those_that_use_it():
    files = {
        "/a.js": 'import { b, c as d } from "/b.js";\nexport const a = b + d;\n',
        "/b.js": "const c = 1;\nexport function b() {}\nexport { c };\n",
    }
    script = bundle("/a.js", files)
    assert script.index('modules["/b.js"]') < script.index('modules["/a.js"]') and "return { b, c };" in script
    assert not re.search(r"^(import|export)", script, re.M)
    assert 'const { b, c: d } = modules["/b.js"];' in script
    with pytest.raises(ValueError, match="in a form"):
        bundle("/a.js", {"/a.js": 'import x from "y";\n'})
    with pytest.raises(ValueError, match="itself"):
        bundle("/a.js", {"/a.js": 'import { a } from "/a.js";\nexport const a = 1;\n'})
