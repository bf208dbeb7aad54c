"""The guides of docs/guides, each followed from nothing to its check in a copy of the code."""

from __future__ import annotations

from pathlib import Path

import guides
import pytest
from conftest import INTERPRETED

BEFORE = {"triton_template": ["c_template"]}  # guides that go on from another
pytestmark = pytest.mark.skipif(INTERPRETED, reason="guides run in processes of their own")


@pytest.mark.proof
@pytest.mark.parametrize("guide", [p.stem for p in sorted(guides.GUIDES.glob("*.md"))])
def test_a_guide_leads_where_it_says(guide: str, tmp_path: Path) -> None:
    guides.copy(tmp_path)
    for name in [*BEFORE.get(guide, []), guide]:
        guides.write(name, tmp_path)
    guides.check(guide, tmp_path)


def test_every_guide_has_a_check_of_its_own() -> None:
    for path in guides.GUIDES.glob("*.md"):
        found = list(guides.blocks(path.stem))
        assert any(b.language == "python" and not b.path and "assert" in b.text for b in found), path.name
        assert any(b.path for b in found), f"{path.name} writes nothing"
