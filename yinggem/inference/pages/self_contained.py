"""A page that is one file: it loads nothing, and nothing but its own script runs in it."""

import base64
import hashlib
import html
import json
import re
from typing import Any

MARK = b'<meta name="generator" content="YingGem">'  # by it a page that was written before may be replaced


def page_of(title: str, body: str, style: str, script: str = "") -> str:
    """The page, as HTML.

    Args:
        body: HTML; texts in it went through `shown` or `data_of`.
    """
    allowed = f"style-src {digest(style)}" + (f"; script-src {digest(script)}" if script else "")
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'{MARK.decode()}\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown(title)}</title>\n<style>{style}</style></head><body>\n{body}"
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def digest(text: str) -> str:
    """How a Content-Security-Policy names the script or style that it allows."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def shown(text: str) -> str:
    """Text as HTML: nothing in it is markup, and control characters, which browsers take in many ways, are U+FFFD."""
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", text))


def data_of(name: str, content: Any) -> str:
    """Plain data for the page's script: the element of this id holds it as JSON, in which no mark begins."""
    text = json.dumps(content, separators=(",", ":")).replace("<", r"\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>\n'
