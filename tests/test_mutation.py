"""The faults that ``python -m tests.mutation`` plants: of each kind, in code that parses; what looks for them."""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import os
from pathlib import Path

import pytest
from mutants import AREAS, ROOT, Area, Faults, Mutant, around, drawn, faults, recorded, unnumbered
from mutation import TESTS, UNPLANTED, Suite, called, chosen, included, near, patched, read, told, verdict

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
def test_faults_are_code(area: Area) -> None:
    paths = sorted(ROOT.glob(area.files))
    assert paths and set(area.lanes) <= TESTS.keys()
    for path in paths[:3]:
        for mutant in faults(path)[::17]:
            if path.suffix == ".py":
                ast.parse(mutant.text())
            assert mutant.text() != path.read_text()


@pytest.mark.parametrize(
    ("steps", "meet"),
    [
        ("heapq.heappush(pending, place[n])\n    seen.add(n)", False),
        ("lines.end.append(f'{r}')\n    lines.body.append(f'{r} first')", False),
        ("self.names = {n.name for n in nodes}\n    self.members = {*nodes}", False),
        ("rows.sort()\n    rows.append(a)", True),
        ("found += more\n    launches, more = share(rows)", True),
        ("self.parts[y] = copy(node, attrs)\n    attrs = {**node.attrs}", True),
        ("yield first\n    yield second", True),
        ("launches = []\n    begin()", True),
    ],
)
def test_steps_that_have_nothing_to_do_with_each_other_are_not_swapped(steps: str, meet: bool) -> None:
    mutant = Mutant("graphrt/ir.py", 0, 0, steps, "order")
    assert mutant.equal() != meet


def test_tests_are_there() -> None:
    assert all((ROOT / "tests" / test).exists() for tests in TESTS.values() for test in tests)
    assert "tests/test_stages.py" in near("graphrt/passes/stages.py")


def test_areas_take_turns() -> None:
    first = [(area.files, mutant) for area, mutant in itertools.islice(drawn(AREAS, 1), 2 * len(AREAS))]
    assert [files for files, _ in first] == 2 * [area.files for area in AREAS]
    assert first == [(area.files, mutant) for area, mutant in itertools.islice(drawn(AREAS, 1), 2 * len(AREAS))]
    assert all(Path(ROOT / mutant.path).exists() for _, mutant in first)


def test_a_fault_is_looked_for_by_what_calls_its_function() -> None:
    """Those of its own file first, the quickest of them first, and none that fails without it."""
    names = {around(mutant) for mutant in faults(ROOT / "graphrt/passes/simplify.py")}
    assert {f"graphrt/passes/simplify.py:{name}" for name in ("simplify", "simplify.<locals>.rule", "_folded", "")} <= names
    own = {around(m) for m in faults(ROOT / "graphrt/targets/cpu/batch.py") if "phase" in str(m) and m.new in ("False", "!=")}
    assert own == {f"graphrt/targets/cpu/batch.py:RowLimit.of{of}" for of in ("", ".<locals>.<genexpr>")}  # on one line
    assert {around(m) for m in faults(ROOT / "kernels/c/sort.h")} == {"kernels/c/sort.h"}
    calls = {
        "a.py::slow": {"seconds": 9.0, "passed": True, "calls": {"f:f", "f:g"}},
        "a.py::quick": {"seconds": 1.0, "passed": True, "calls": {"f:f"}},
        "b.py::other": {"seconds": 0.5, "passed": True, "calls": {"f:f"}},
        "b.py::fails": {"seconds": 0.1, "passed": False, "calls": {"f:f"}},
    }
    assert chosen("f:f", [], calls, 20.0) == ["b.py::other", "a.py::quick", "a.py::slow"]
    assert chosen("f:f", ["a.py"], calls, 20.0) == ["a.py::quick", "a.py::slow", "b.py::other"]
    assert chosen("f:f", ["a.py"], calls, 2.0) == ["a.py::quick", "b.py::other"]
    assert chosen("f:g", [], calls, 2.0) == ["a.py::slow"] and chosen("f:h", [], calls, 2.0) == []
    assert len(chosen("f:", [], calls, 20.0)) == 3


def test_functions_take_the_code_of_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Functions, methods and those inside that were made before; what runs on import cannot be changed any more."""
    path = tmp_path / "module_of_faults.py"
    text = "LIMIT = 3\ndef f(a):\n    return lambda b: a < b\nclass C:\n    n = 4\n    def m(self): return 1 + 2 * self.n\n"
    path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("module_of_faults")
    made, method = module.f(1), module.C().m
    assert not made(1) and method() == 9
    new = text.replace("a < b", "a <= b").replace("1 + 2", "1 - 2")
    assert patched(str(path), text, new)
    assert made(1) and module.f(2)(2) and method() == -7
    assert patched(str(path), new, text) and not made(1)
    assert not patched(str(path), text, text.replace("3", "4")) and not patched(str(path), text, text.replace("n = 4", "n = 5"))
    assert not patched(str(path), text, text.replace("lambda b: a < b", "True"))


def test_tests_share_the_headers_of_their_numbers(tmp_path: Path) -> None:
    rows = [("t[conv-0]", ["kernels/c/conv.h", "f"]), ("t[conv-1]", []), ("t[pool-0]", ["g"])]
    lines = (json.dumps({"test": test, "seconds": 1.0, "passed": True, "calls": calls}) for test, calls in rows)
    (tmp_path / "calls").write_text("\n".join(lines))
    found = {test: row["calls"] for test, row in called(tmp_path / "calls").items()}
    assert found == {"t[conv-0]": {"kernels/c/conv.h", "f"}, "t[conv-1]": {"kernels/c/conv.h"}, "t[pool-0]": {"g"}}
    assert included(['#include "conv.h"\n']) > {"kernels/c/conv.h", "kernels/c/tile.h"}


def test_a_fault_of_the_record_is_found_again_wherever_it_is_now() -> None:
    area = Area("graphrt/passes/split.py")
    some = faults(ROOT / "graphrt/passes/split.py")[::5]
    moved = [str(mutant).replace("@@ -", "@@ -1") for mutant in some]
    assert [*map(unnumbered, moved)] == [*map(unnumbered, map(str, some))] != moved
    assert {mutant for _, mutant in recorded([area], moved)} >= {*some}
    assert not [*recorded([area], ["--- graphrt/passes/split.py\n+++ bound\n@@ -1,1 +1,1 @@\n-a\n+b"])]


def test_what_the_record_calls_equivalent_says_why() -> None:
    """And it holds faults of both lanes."""
    rows = read(ROOT / "bench/results/mutation.jsonl")
    assert {lane for each in rows.values() for lane in each} >= {"compiled", "interpret"}
    assert all(row.get("why") for each in rows.values() for row in each.values() if row["result"] == "equivalent")


@pytest.mark.parametrize(
    ("status", "log", "result"),
    [
        (0, "tests/test_a.py::test PASSED\n", ""),
        (1, "tests/test_a.py::test PASSED\ntests/test_a.py::test[b c] FAILED\n", "tests/test_a.py::test[b c]"),
        (2, "______ ERROR collecting tests/test_a.py ______\n", "import"),
        (4, "ImportError while loading conftest '/copy/tests/conftest.py'.\n", "import"),
        (1, "Traceback (most recent call last):\nKeyError: 'fuzz'\n", None),
        (UNPLANTED, "tests/test_a.py::test PASSED\n", None),
        (3, "tests/test_a.py::test \nINTERNALERROR> error\n", None),
        (4, "ERROR: not found: tests/test_a.py::test\n", None),
        (5, "", None),
    ],
)
def test_only_what_a_test_or_an_import_ends_in_is_found(tmp_path: Path, status: int, log: str, result: str | None) -> None:
    suite = Suite(tmp_path / "copy", lambda suite: iter(()))
    suite.log.write_text(log)
    child = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {status}"], os.environ)
    if result is not None:
        assert suite.end(child, 60.0) == result
        return
    with pytest.raises(RuntimeError, match="nothing was tried"):
        suite.end(child, 60.0)


def test_a_process_that_does_not_end_is_found(tmp_path: Path) -> None:
    suite = Suite(tmp_path / "copy", lambda suite: iter(()))
    suite.log.write_text("tests/test_a.py::test \n")
    child = os.posix_spawn("/bin/sh", ["sh", "-c", "sleep 60"], os.environ, setsid=True)
    assert suite.end(child, 0.0) == "tests/test_a.py::test did not end within 0 s"


def test_a_fault_counts_as_found_if_one_lane_finds_it() -> None:
    def of(**results: str) -> dict[str, dict[str, str]]:
        return {lane: {"result": result, "diff": ""} for lane, result in results.items()}

    assert verdict(of(compiled="survived", interpret="tests/test_a.py::test")) == "found"
    assert verdict(of(compiled="not run", interpret="survived")) == "survived"
    assert verdict(of(compiled="survived", interpret="equivalent")) == "equivalent"
    few = {str(i): of(compiled="tests/test_a.py::test") for i in range(19)}
    assert told({**few, "a": of(compiled="survived")}) and not told(
        {**few, "a": of(compiled="survived"), "b": of(compiled="survived")}
    )
