"""The notebooks of docs/notebooks, run as a reader runs them: cell behind cell, each with what it prints and shows.

``python -m tests.notebooks`` runs them all and writes into the files what came out.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))
DPI = 60  # of pictures, which are kept in the repository


def outputs(notebook: dict[str, Any]) -> Iterator[list[dict[str, Any]]]:
    """What each code cell puts out, in the notebook's own form: text that it prints, and its last expression."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            yield list(_run("".join(cell["source"]), names))


def _run(source: str, names: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Runs one cell; lines that begin with % are Jupyter's own."""
    tree = ast.parse("\n".join("" if line.startswith("%") else line for line in source.splitlines()))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed, value = io.StringIO(), None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # type: ignore[attr-defined]
    if text := printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
    if value is not None:
        yield {"data": _shown(value), "execution_count": None, "metadata": {}, "output_type": "execute_result"}


def _shown(value: Any) -> dict[str, Any]:
    """A picture, or what ``repr`` says."""
    if not hasattr(value, "savefig"):
        return {"text/plain": repr(value).splitlines(keepends=True)}
    file = io.BytesIO()
    value.savefig(file, format="png", dpi=DPI)
    return {"image/png": base64.b64encode(file.getvalue()).decode(), "text/plain": ["<Figure>"]}


def accept(path: Path) -> None:
    """Runs the notebook at ``path`` in a folder of its own, and keeps what it puts out."""
    notebook, here = json.loads(path.read_text()), Path.cwd()
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for number, (cell, found) in enumerate(zip(cells, outputs(notebook), strict=True), 1):
                cell |= {"outputs": found, "execution_count": number}
                for one in found:
                    one.update({"execution_count": number} if "execution_count" in one else {})
        finally:
            os.chdir(here)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    for one in NOTEBOOKS:
        accept(one)
