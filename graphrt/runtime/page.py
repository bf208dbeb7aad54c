"""One file of HTML that needs no network: styles, a script and its data inside, and a policy that lets nothing else in."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
from typing import Any

STYLE = """
body{font:14px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}img{max-width:100%}
"""


def document(title: str, body: str, style: str = "", script: str = "", data: Any = None) -> str:
    """The page; ``body`` is HTML, ``style`` comes behind ``STYLE``.

    ``data`` is for ``script``: JSON, gzipped, in base64, as the text of the element with the id data. The policy allows that
    one script, that style, and images that are in the page.
    """
    style = STYLE + style
    policy = f"default-src 'none'; img-src data:; style-src '{_digest(style)}'"
    policy += f"; script-src '{_digest(script)}'" if script else ""
    packed = base64.b64encode(gzip.compress(json.dumps(data, separators=(",", ":")).encode(), 5, mtime=0)).decode()
    parts = [f'<script type="text/plain" id="data">{packed}</script>', f"<script>{script}</script>"] if script else []
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body>{body}{''.join(parts)}</body></html>\n"
    )


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
