"""The notebooks of docs/notebooks run, and what they show is what they put out, but for the numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import INTERPRETED
from notebooks import NOTEBOOKS, outputs

pytestmark = [pytest.mark.proof, pytest.mark.skipif(INTERPRETED, reason="the notebooks name the target cpu")]


def words(found: list[dict[str, Any]]) -> list[str]:
    """What a cell puts out without its numbers, which depend on the machine; of a picture, that there is one."""
    texts = ["".join(one.get("text", one.get("data", {}).get("text/plain", []))) for one in found]
    return [re.sub(r"-?\d+(\.\d+)?(e[-+]\d+)?", "#", re.sub(r" +", " ", text)) for text in texts]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads(path.read_text())
    kept = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [words(found) for found in outputs(notebook)] == [words(found) for found in kept]
    assert any("image/png" in one.get("data", {}) for found in kept for one in found)
    assert path.stat().st_size < 200_000
