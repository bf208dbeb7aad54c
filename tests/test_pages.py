"""The pages of docs/use: their Python, block behind block, as a reader would run it; and a table of results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import INTERPRETED

PAGES = sorted((Path(__file__).parent.parent / "docs" / "use").glob("*.md"))
pytestmark = pytest.mark.skipif(INTERPRETED, reason="the pages name the target cpu")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    lines = ""
    for block in re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S):
        lines += "\n" * (text[: block.start(1)].count("\n") - lines.count("\n")) + block[1]  # at its line of the page
    assert "assert" in lines
    exec(compile(lines, str(page), "exec"), {"__name__": "page"})


def test_the_table_of_networks_is_what_was_saved() -> None:
    from bench.zoo import table

    text = (Path(__file__).parent.parent / "docs" / "speed.md").read_text()
    assert f"<!-- bench.zoo -->\n\n{table()}\n\n<!-- end -->" in text, "python -m bench.zoo --read prints the table"
