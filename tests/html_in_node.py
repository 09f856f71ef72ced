"""An exported page without a browser: its worker in node, which has WebAssembly too."""

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from yinggem.export.html.bundle import bundle
from yinggem.export.html.contents import tokenizer_facts
from yinggem.export.html.file import scripts
from yinggem.text.tokenizer import Tokenizer

HERE = Path(__file__).parent


def answers(page: Path, *requests: dict[str, Any]) -> list[Any]:
    """What the page answers to requests such as the server's, all at once: a list of choices each, or {"error"}."""
    told = node("page_in_node.js", list(requests), str(page))
    assert "answers" in told, told
    found: list[Any] = told["answers"]
    return found


def text_of(choices: list[dict[str, Any]], index: int = 0) -> tuple[str, str | None]:
    """A text, and why it ended."""
    own = [choice for choice in choices if choice["index"] == index]
    return "".join(choice["text"] for choice in own), own[-1]["finish_reason"]


def ids_of(tokenizer: Tokenizer, texts: list[str]) -> list[Any]:
    """The ids that prompts become in the page; a sentence where there are none."""
    tokens = [base64.b64encode(token).decode() for token in tokenizer.tokens]
    code, about = bundle("/tokenizers.js", scripts()), tokenizer_facts(tokenizer)
    found: list[Any] = node("tokenize_in_node.js", {"code": code, "about": about, "tokens": tokens, "texts": texts})
    return found


def node(script: str, given: Any, *arguments: str) -> Any:
    """Run a script of this folder; skipped where there is no node of the last years."""
    found = shutil.which("node")
    if found is None or int(subprocess.check_output([found, "--version"], text=True)[1:].split(".")[0]) < 18:
        pytest.skip("there is no node here")
    command = [found, str(HERE / script), *arguments]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return json.loads(done.stdout)
