"""How `make site` builds these pages: Markdown by MyST, the reference from docstrings by autodoc, the furo theme."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from myst_parser.parsers.sphinx_ import MystParser

import graphrt

project = "graphrt"
author = copyright = "graphrt contributors"
version = release = graphrt.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
suppress_warnings = ["misc.highlighting_failure"]  # listings leave lines out: "[...]" is not C
autosummary_generate = False
autodoc_default_options = {"members": True, "imported-members": True}
autodoc_member_order = "groupwise"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"graphrt {release}"
html_show_sphinx = False

_SPECIAL = re.compile(r"([*|`\\]|_\b)")


def _markup(lines: list[str]) -> Iterator[str]:
    """A docstring as reStructuredText: only literals and lists mean something; what is indented behind a blank line is code."""
    code = literal = False
    for i, line in enumerate(lines):
        indented, blank = line.startswith("    "), not line.strip()
        if indented and not code and i and not lines[i - 1].strip():
            yield from ("::", "")
            code = True
        code, literal = code and (indented or blank), literal and not blank
        if code:
            yield line
            continue
        parts = line.split("``")  # a literal may go on in the next line
        yield "``".join(p if literal ^ (k % 2 == 1) else _SPECIAL.sub(r"\\\1", p) for k, p in enumerate(parts))
        literal ^= len(parts) % 2 == 0


def _docstring(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = list(_markup(lines))


class NotebookParser(MystParser):
    """Reads notebooks as Markdown: their text, their code, and below it what the cell put out."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: Any) -> None:
        super().parse("\n\n".join(map(_cell, json.loads(inputstring)["cells"])), document)


def _cell(cell: Any) -> str:
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return source
    parts = [f"```python\n{source}\n```"]
    for output in cell["outputs"]:
        data = output.get("data", {})
        if "image/png" in data:
            parts.append(f"![](data:image/png;base64,{data['image/png']})")
        else:
            parts.append(f"```text\n{''.join(output.get('text', data.get('text/plain', [])))}\n```")
    return "\n\n".join(parts)


def setup(app: Any) -> None:
    app.add_source_suffix(".ipynb", "notebook")
    app.add_source_parser(NotebookParser)
    app.connect("autodoc-process-docstring", _docstring)
