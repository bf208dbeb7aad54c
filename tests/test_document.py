"""The pages in docs that are written from code say what it says.

``GRAPHRT_ACCEPT=1 pytest tests/test_document.py`` (or ``make docs``) accepts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from accept import ACCEPT, check_golden

from graphrt.frontends.onnx.document import document as onnx_document
from graphrt.frontends.onnx.table import TABLE
from graphrt.frontends.torch import document as torch_coverage
from graphrt.frontends.torch.table import ATEN
from graphrt.op import REGISTRY
from graphrt.ops import CREATIONS, FUNCTIONS
from graphrt.ops.document import document

DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize(("page", "write"), [("ops.md", document), ("torch_coverage.md", torch_coverage.document)])
def test_the_page_is_up_to_date(page: str, write: Callable[[], str]) -> None:
    check_golden(DOCS / page, write())


def test_every_op_and_function_has_a_row() -> None:
    rows = [line for line in document().splitlines() if line.startswith("| `")]
    for name in (*FUNCTIONS, *CREATIONS):
        assert sum(line.startswith(f"| `{name}(") for line in rows) == 1
    for op in REGISTRY.values():
        (row,) = [line for line in rows if line.startswith(f"| `{op.name}` ")]
        assert row.count(" | ") == 5 and ("the target" in row) == (op.body is op.pull is op.template is None)


def test_the_page_of_onnx_operators_is_up_to_date() -> None:
    page = DOCS / "onnx_coverage.md"
    if ACCEPT or onnx.__version__ == _pinned("onnx"):  # what else ONNX has depends on its version
        check_golden(page, onnx_document())
    rows = [line for line in onnx_document().splitlines() if line.startswith("| `")]
    assert len(rows) == len(TABLE)
    assert rows == [line for line in page.read_text().splitlines() if line.startswith("| `")], "the table changed; `make docs`"


def _pinned(package: str) -> str:
    lines = (DOCS.parent / "requirements.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def test_every_entry_of_the_aten_table_is_an_operator_of_torch_and_has_a_row() -> None:
    import torch

    page = torch_coverage.document()
    for name in ATEN:
        space, rest = ("prims", name.removeprefix("prims.")) if name.startswith("prims.") else ("aten", name)
        packet, overload = rest.split(".")
        assert overload in getattr(getattr(torch.ops, space), packet).overloads(), name
        assert page.count(f"| `{name}` |") == 1
