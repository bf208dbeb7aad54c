"""The faults that ``python -m tests.mutation`` plants: of each kind, in code that still parses, with tests that are there."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import pytest
from mutation import AREAS, ROOT, Area, Faults, around, chosen, covering, drawn, faults

SOURCE = """
def f(a, b, rows):
    rows.sort()
    rows.append(a)
    if a > 3 and not b:
        return g(a, b)
    return [x + 1 for x in reversed(rows) if x < b]
"""


def test_each_kind_of_fault_is_planted() -> None:
    visitor = Faults("f.py", SOURCE)
    visitor.visit(ast.parse(SOURCE))
    planted = {(m.kind, SOURCE[m.start : m.end], m.new) for m in visitor.found}
    assert planted >= {
        ("bound", ">", ">="),
        ("bound", "3", "4"),
        ("bound", "<", "<="),
        ("guard", "a > 3", "True"),
        ("guard", "a > 3 and not b", "False"),
        ("guard", "not b", "bool(b)"),
        ("guard", "x < b", "True"),
        ("operands", "a, b", "b, a"),
        ("operator", "+", "-"),
        ("order", "reversed", "list"),
        ("order", "rows.sort()\n    rows.append(a)", "rows.append(a)\n    rows.sort()"),
    }


@pytest.mark.parametrize("area", AREAS, ids=lambda area: area.files)
def test_faults_are_code_and_have_tests(area: Area) -> None:
    paths = sorted(ROOT.glob(area.files))
    assert paths
    for path in paths[:3]:
        for mutant in faults(path)[::17]:
            if path.suffix == ".py":
                ast.parse(mutant.text())
            assert mutant.text() != path.read_text()
    assert all((ROOT / test.partition("::")[0]).exists() for test in covering(area, str(paths[0].relative_to(ROOT))))


def test_areas_take_turns() -> None:
    first = [(area.files, mutant) for area, mutant in itertools.islice(drawn(AREAS, 1), 2 * len(AREAS))]
    assert [files for files, _ in first] == 2 * [area.files for area in AREAS]
    assert first == [(area.files, mutant) for area, mutant in itertools.islice(drawn(AREAS, 1), 2 * len(AREAS))]
    assert all(Path(ROOT / mutant.path).exists() for _, mutant in first)


def test_a_fault_is_looked_for_by_what_calls_its_function() -> None:
    """The quickest first; tests of which nothing is known come last, and all where no test calls it."""
    mutants = faults(ROOT / "graphrt/passes/simplify.py")
    names = {around(mutant) for mutant in mutants}
    own = {"simplify", "simplify.<locals>.rule", "dead_code", "_folded", ""}
    assert {f"graphrt/passes/simplify.py:{name}" if name else "" for name in own} <= names
    assert {around(m) for m in faults(ROOT / "kernels/c/sort.h")} == {""}
    calls = {
        "tests/test_a.py::slow": {"seconds": 9.0, "calls": ["f", "g"]},
        "tests/test_a.py::quick": {"seconds": 1.0, "calls": ["f"]},
        "tests/test_b.py::other": {"seconds": 0.5, "calls": ["f"]},
    }
    tests = ["tests/test_a.py", "tests/test_b.py::some", "tests/test_c.py"]
    assert chosen(tests, "f", calls, 20.0) == ["tests/test_a.py::quick", "tests/test_a.py::slow", "tests/test_c.py"]
    assert chosen(tests, "f", calls, 5.0) == ["tests/test_a.py::quick", "tests/test_c.py"]
    assert chosen(tests, "h", calls, 5.0) == ["tests/test_c.py"] and chosen(tests[:1], "h", calls, 5.0) == tests[:1]
    assert chosen(tests, "", calls, 5.0) == tests
