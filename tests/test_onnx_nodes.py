"""ONNX's own test cases for operators and models, which the package ``onnx`` ships: all by the reference, some natively.

``tests/golden/onnx_nodes.txt`` holds how many pass and why each of the others does not run.
``GRAPHRT_ACCEPT=1 pytest tests/test_onnx_nodes.py`` accepts a new one.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_cases
import pytest
from accept import check_golden
from conftest import INTERPRETED

GOLDEN = Path(__file__).parent / "golden" / "onnx_nodes.txt"
VERSION = "1.23.2"
pytestmark = [
    pytest.mark.skipif(INTERPRETED, reason="what operators mean does not depend on the target"),
    pytest.mark.skipif(onnx.__version__ != VERSION, reason=f"the cases, and what they expect, are those of onnx {VERSION}"),
]


def _page(outcomes: dict[str, onnx_cases.Outcome]) -> str:
    passed = sum(not o.skipped and not o.wrong for o in outcomes.values())
    lines = [f"onnx {onnx.__version__}: {passed} of {len(outcomes)} cases pass"]
    return "\n".join([*lines, *(f"{name}: {o.skipped}" for name, o in sorted(outcomes.items()) if o.skipped), ""])


@pytest.mark.proof
def test_all_cases_by_the_reference_and_some_natively() -> None:
    """In one test, because the package takes seconds to make its cases."""
    nodes = onnx_cases.cases()
    outcomes = {name: onnx_cases.run(case, "reference") for name, case in (nodes | onnx_cases.shipped()).items()}
    assert not {name: o.wrong for name, o in outcomes.items() if o.wrong}
    check_golden(GOLDEN, _page(outcomes))
    names = sorted(nodes)[::20]
    outcomes = {name: onnx_cases.run(nodes[name], "cpu") for name in names}
    assert not {name: o.wrong for name, o in outcomes.items() if o.wrong}
    assert sum(not o.skipped for o in outcomes.values()) > len(names) / 2
