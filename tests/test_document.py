"""docs/ops.md says what the registry says. ``GRAPHRT_ACCEPT=1 pytest tests/test_document.py`` (or ``make docs``) accepts."""

from __future__ import annotations

import os
from pathlib import Path

from graphrt.op import REGISTRY
from graphrt.ops import FUNCTIONS
from graphrt.ops.document import document

PAGE = Path(__file__).parent.parent / "docs" / "ops.md"


def test_the_page_is_up_to_date() -> None:
    if os.environ.get("GRAPHRT_ACCEPT") == "1":
        PAGE.write_text(document())
    assert document() == PAGE.read_text(), "ops changed; `make docs` writes the page anew"


def test_every_op_and_function_has_a_row() -> None:
    rows = [line for line in document().splitlines() if line.startswith("| `")]
    for name in FUNCTIONS:
        assert sum(line.startswith(f"| `{name}(") for line in rows) == 1
    for op in REGISTRY.values():
        (row,) = [line for line in rows if line.startswith(f"| `{op.name}` ")]
        assert row.count(" | ") == 5 and ("the target" in row) == (op.body is op.pull is op.template is None)
