"""Mutation test of the suite: faults planted one at a time in the compiler, each looked for by the tests of what it is in.

``python -m tests.mutation --count 40 --seed 0`` draws faults (a flipped operator, a dropped guard, a bound off by one, swapped
operands, steps in the wrong order), plants each in a copy of the repository, and runs the tests that call the function it is
in, the quickest first, of those named after the module, those that import it, and those of its folder, until one fails. Which
test calls what is found out once (``--calls``). A fault that none finds is printed as a diff: either it changes nothing that is
promised, or a test is missing. Results are added to ``--out``, and what is in there is not tried again.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType
from typing import Annotated, Any

import hypothesis  # noqa: F401 - and the like: imported before a process is forked for each fault
import ml_dtypes  # noqa: F401
import networkx  # noqa: F401
import pytest
import torch  # noqa: F401
import typer

ROOT = Path(__file__).parent.parent
TREES = ("graphrt", "kernels", "tests", "bench", "examples", "docs")
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {  # what an operator is written as, and as what it is mutated
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"), ast.BitOr: ("|", "&"), ast.BitAnd: ("&", "|"),
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "reversed": "list", "minimum": "maximum", "maximum": "minimum"}
IN_C = [  # pattern, replacement and kind of the faults in C templates
    (r" < ", " <= ", "bound"), (r" <= ", " < ", "bound"), (r" > ", " >= ", "bound"), (r" >= ", " > ", "bound"),
    (r" \+ ", " - ", "operator"), (r" - ", " + ", "operator"), (r" \* ", " + ", "operator"), (r" && ", " || ", "guard"),
    (r"\bMIN_OF\b", "MAX_OF", "operator"), (r"\bMAX_OF\b", "MIN_OF", "operator"), (r" == ", " != ", "operator"),
    (r"(?<![\w.])1(?![\w.])", "2", "bound"), (r"(?<![\w.])0(?![\w.])", "1", "bound"),
]  # fmt: skip


@dataclass(frozen=True)
class Area:
    """Files in which faults are planted, and the tests that any of them is looked for by, in these lanes."""

    files: str
    tests: tuple[str, ...]
    lanes: tuple[str, ...] = ("compiled",)


FUZZ = tuple(
    f"tests/test_fuzz.py::test_random_graphs[{kind}-{seed}]" for seed in (0, 1) for kind in ("builder", "chains", "spliced")
)
LONG = ("tests/kernels/test_c_templates.py", "tests/test_ops.py")  # what these call is not found out
FEW = FUZZ[:3]  # of the interpreter, which has no more of each kind
AREAS = [
    Area("graphrt/autodiff.py", ("tests/test_passes.py", "tests/test_every_function.py", "tests/test_ops.py")),
    Area("graphrt/index.py", ("tests/test_index.py", "tests/test_movement.py", *FUZZ)),
    Area(
        "graphrt/passes/**/*.py",
        ("tests/test_passes.py", "tests/test_patterns.py", "tests/test_plans.py", *FUZZ, "tests/test_any_batch.py"),
    ),
    Area(
        "graphrt/schedule/*.py",
        (
            "tests/test_plans.py",
            "tests/test_fusion.py",
            "tests/test_rows.py",
            "tests/test_ledger.py",
            "tests/test_cost.py",
            *FUZZ,
        ),
    ),
    Area(
        "graphrt/targets/cpu/*.py",
        (
            "tests/test_generated_c.py",
            "tests/test_variants.py",
            "tests/test_rows_drawn.py",
            "tests/test_freeze.py",
            *FUZZ,
            "tests/test_any_batch.py",
            "tests/test_batch_invariant.py",
        ),
    ),
    Area("graphrt/targets/scalar.py", ("tests/test_scalar.py", *FEW), lanes=("compiled", "interpret")),
    Area(
        "graphrt/targets/triton/emit/*.py", ("tests/test_odd_sizes.py", "tests/test_rows_drawn.py", *FEW), lanes=("interpret",)
    ),
    Area("kernels/c/*.h", ("tests/kernels/test_c_templates.py", "tests/test_odd_sizes.py", "tests/test_ops.py", *FUZZ)),
    Area(
        "kernels/triton/*.py",
        ("tests/kernels/test_triton_interpret.py", "tests/test_odd_sizes.py", *FEW),
        lanes=("interpret",),
    ),
]


@dataclass(frozen=True)
class Mutant:
    """A fault: ``new`` in place of the text from ``start`` to ``end`` of the file at ``path``."""

    path: str
    start: int
    end: int
    new: str
    kind: str

    def text(self) -> str:
        old = (ROOT / self.path).read_text()
        return old[: self.start] + self.new + old[self.end :]

    def __str__(self) -> str:
        old = (ROOT / self.path).read_text()
        lines = difflib.unified_diff(old.splitlines(), self.text().splitlines(), self.path, f"{self.kind}", "", "", 1, "")
        return "\n".join(lines)


class Faults(ast.NodeVisitor):
    """The faults that can be planted in a module of Python."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text, self.found = path, text, list[Mutant]()
        lengths = [len(line.encode()) for line in text.splitlines(keepends=True)]
        self.starts = [0, *itertools.accumulate(lengths)]
        self.bytes = text.encode()

    def at(self, line: int, column: int) -> int:
        """The position in the text of a position in ast's terms, which counts bytes."""
        return len(self.bytes[: self.starts[line - 1] + column].decode())

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.at(node.lineno, node.col_offset), self.at(node.end_lineno, node.end_col_offset)

    def source(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def plant(self, start: int, end: int, new: str, kind: str) -> None:
        if self.text[start:end] != new:
            self.found.append(Mutant(self.path, start, end, new, kind))

    def operator(self, op: ast.AST, left: ast.expr, right: ast.expr, kind: str) -> None:
        """Flips ``op``, which stands between ``left`` and ``right``."""
        if type(op) not in OPERATORS:
            return
        old, new = OPERATORS[type(op)]
        start, end = self.span(left)[1], self.span(right)[0]
        if (offset := self.text[start:end].find(old)) >= 0:
            self.plant(start + offset, start + offset + len(old), new, kind)

    def skip(self, node: ast.AST) -> None:
        """Words for people, and what is promised to hold, are no behaviour."""

    visit_Assert = visit_Raise = visit_JoinedStr = visit_arguments = skip

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        if node.name not in ("__str__", "__repr__"):
            for statement in node.body:
                self.visit(statement)
            self.order(node.body)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Compare(self, node: ast.Compare) -> None:
        for op, left, right in zip(node.ops, [node.left, *node.comparators], node.comparators, strict=False):
            self.operator(op, left, right, "bound" if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE) else "operator")
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not isinstance(node.left, ast.Constant | ast.JoinedStr) or isinstance(node.left.__dict__.get("value"), int):
            self.operator(node.op, node.left, node.right, "operator")
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for value in node.values:
            self.plant(*self.span(value), "True" if isinstance(node.op, ast.And) else "False", "guard")
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self.plant(*self.span(node), f"bool({self.source(node.operand)})", "guard")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        if isinstance(node.body[-1], ast.Return | ast.Continue | ast.Break) and not node.orelse:
            self.plant(*self.span(node.test), "False", "guard")
        self.generic_visit(node)
        self.order(node.body)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self.plant(*self.span(node.test), f"not ({self.source(node.test)})", "guard")
        self.generic_visit(node)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        for test in node.ifs:
            self.plant(*self.span(test), "True", "guard")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if type(node.value) is int:
            self.plant(*self.span(node), str(node.value + 1), "bound")
        elif type(node.value) is bool:
            self.plant(*self.span(node), str(not node.value), "operator")

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in NAMES:
            self.plant(*self.span(node.func), NAMES[node.func.id], "order" if node.func.id == "reversed" else "operator")
        if isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "issubclass", "getattr", "hasattr"):
            return self.generic_visit(node)
        plain = [a for a in node.args if isinstance(a, ast.Name | ast.Attribute | ast.Subscript)]
        for a, b in itertools.pairwise(plain):
            start, end = self.span(a)[0], self.span(b)[1]
            between = self.text[self.span(a)[1] : self.span(b)[0]]
            self.plant(start, end, self.source(b) + between + self.source(a), "operands")
        self.generic_visit(node)

    def order(self, body: list[ast.stmt]) -> None:
        """Swaps statements that stand one after the other, unless both name values, which do not wait for each other."""
        for a, b in itertools.pairwise(body):
            if "\n" in self.source(a) + self.source(b) or (isinstance(a, ast.Expr) and isinstance(a.value, ast.Constant)):
                continue
            kinds = (ast.Expr, ast.AugAssign, ast.Assign)
            if isinstance(a, kinds) and isinstance(b, kinds) and not (_names(a) and _names(b)):
                between = self.text[self.span(a)[1] : self.span(b)[0]]
                self.plant(self.span(a)[0], self.span(b)[1], self.source(b) + between + self.source(a), "order")


def _names(statement: ast.stmt) -> bool:
    """Whether ``statement`` gives names to values, and nothing else."""
    return isinstance(statement, ast.Assign) and all(isinstance(t, ast.Name | ast.Tuple) for t in statement.targets)


def faults(path: Path) -> list[Mutant]:
    """Every fault that can be planted in the file at ``path``."""
    text, name = path.read_text(), str(path.relative_to(ROOT))
    if path.suffix == ".py":
        visitor = Faults(name, text)
        visitor.visit(ast.parse(text))
        return list(dict.fromkeys(visitor.found))
    blank = re.compile(r"/\*.*?\*/|//[^\n]*|^#[^\n]*(if|include|error|pragma|ifndef)[^\n]*", re.S | re.M)
    code = blank.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)
    return [Mutant(name, m.start(), m.end(), new, kind) for pattern, new, kind in IN_C for m in re.finditer(pattern, code)]


def drawn(areas: Sequence[Area], seed: int, files: str = "") -> Iterator[tuple[Area, Mutant]]:
    """All faults of paths with ``files`` in them: an area after the other, in each a kind of fault, and one of that kind."""
    rng = random.Random(seed)
    tables = []
    for area in areas:
        kinds: dict[str, list[Mutant]] = {}
        for path in sorted(ROOT.glob(area.files)):
            for mutant in faults(path) if files in str(path.relative_to(ROOT)) else ():
                kinds.setdefault(mutant.kind, []).append(mutant)
        tables.append((area, kinds))
    while any(kinds for _, kinds in tables):
        for area, kinds in tables:
            if kinds:
                kind = rng.choice(sorted(kinds))
                yield area, kinds[kind].pop(rng.randrange(len(kinds[kind])))
                if not kinds[kind]:
                    del kinds[kind]


def covering(area: Area, path: str) -> list[str]:
    """The tests that a fault in ``path`` is looked for by: of its name, those that import it, those of its area."""
    module = path.removesuffix(".py").replace("/", ".")
    stem = Path(path).stem
    own = [t for t in (f"tests/test_{stem}.py",) if (ROOT / t).exists()]
    imported = re.compile(
        rf"^(from {re.escape(module)} import|from {re.escape(module.rpartition('.')[0])} import .*\b{stem}\b)", re.M
    )
    by_import = [f"tests/{p.name}" for p in sorted((ROOT / "tests").glob("test_*.py")) if imported.search(p.read_text())]
    return list(dict.fromkeys([*own, *by_import[:4], *area.tests]))


class Calls:
    """A plugin of pytest that notes the functions of graphrt in ``copy`` that each test calls, and its seconds."""

    def __init__(self, copy: Path) -> None:
        self.root, self.found = f"{copy.resolve()}/", dict[str, dict[str, Any]]()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Runs ``item``."""
        called, start = set[CodeType](), time.monotonic()

        def note(frame: Any, event: str, of: Any) -> None:
            called.add(frame.f_code)

        threading.settrace(note)
        sys.settrace(note)
        yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        names = {f"{c.co_filename.removeprefix(self.root)}:{c.co_qualname}" for c in called if self.root in c.co_filename}
        seconds = round(time.monotonic() - start, 2)
        self.found[item.nodeid] = {"seconds": seconds, "calls": sorted(n for n in names if n.startswith("graphrt/"))}


def around(mutant: Mutant) -> str:
    """The function that ``mutant`` is in, as ``Calls`` names it; empty of code that runs when it is imported, and of C."""
    if not mutant.path.startswith("graphrt/"):
        return ""
    text = (ROOT / mutant.path).read_text()
    line, pending, found = text.count("\n", 0, mutant.start) + 1, [compile(text, mutant.path, "exec")], ""
    while pending:
        code = pending.pop()
        for inner in (c for c in code.co_consts if isinstance(c, CodeType)):
            lines = [number for _, _, number in inner.co_lines() if number]
            if min(lines) <= line <= max(lines):
                pending.append(inner)
                found = inner.co_qualname if inner.co_flags & inspect.CO_NEWLOCALS else found  # a class's body is none
    return found and f"{mutant.path}:{found}"


def chosen(tests: Sequence[str], name: str, calls: Mapping[str, Any], most: float) -> list[str]:
    """Those of ``tests`` that call the function ``name``, the quickest first and for ``most`` seconds; then what is not known.

    All of them where there is none of these.
    """
    known = {test.partition("::")[0] for test in calls}
    if not name:
        return list(tests)
    there = {t for t in calls if t in tests or t.partition("::")[0] in tests}
    quick = sorted((calls[t]["seconds"], t) for t in there if name in calls[t]["calls"])
    total = itertools.accumulate(seconds for seconds, _ in quick)
    picked = [t for (_, t), until in zip(quick, total, strict=True) if until <= most]
    return [*picked, *(t for t in tests if t.partition("::")[0] not in known)] or list(tests)


def copied(to: Path) -> None:
    """A copy of the repository at ``to`` whose own kernels are imported."""
    for tree in TREES:
        shutil.copytree(ROOT / tree, to / tree, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "Makefile", "CONTRIBUTING.md"):
        shutil.copy(ROOT / file, to / file)
    (to / "graphrt" / "kernels").symlink_to(to / "kernels")


def tried(copy: Path, lane: str, tests: Sequence[str], calls: Path | None = None) -> int:
    """The id of a process that tries ``tests`` on ``copy`` until one fails; or all, to write to ``calls`` what they call."""
    interpret = lane == "interpret"
    half = "interpret" if interpret else "not interpret and not slow and not kernels and not proof"
    log = copy.parent / "log"
    child = os.fork()  # which has what takes long to import
    if not child:
        os.setsid()
        os.chdir(copy)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.path[:] = [
            str(copy),
            str(copy / "tests"),
            *(p for p in sys.path if p and Path(p).resolve() not in (ROOT, ROOT / "tests")),
        ]
        environment = {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1", "TRITON_DEFAULT_FP_FUSION": "1"}
        os.environ.update(environment, **({"TRITON_INTERPRET": "1"} if interpret else {}))
        status = 1
        try:
            __import__("fuzz").CUT = False  # of the copy, as everything is that is imported from here on
            plugin = Calls(copy)
            options = ["-q", "-p", "no:cacheprovider", "--no-header", "-m", half]
            status = pytest.main([*options, *(["-x"] if calls is None else []), *tests], [plugin] if calls else [])
            if calls is not None:
                calls.write_text(json.dumps(plugin.found))
        finally:
            os._exit(status)
    return child


def verdict(copy: Path, lane: str, tests: Sequence[str], seconds: float) -> str:
    """``survived``, or what found the fault: the test that failed first, or that no end came within ``seconds``."""
    log = copy.parent / "log"
    child, end = tried(copy, lane, tests), time.monotonic() + seconds
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > end:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no end within {seconds:.0f} s"
        time.sleep(0.1)
    if found[1] == 0:
        return "survived"
    if os.waitstatus_to_exitcode(found[1]) in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED):
        raise RuntimeError(f"nothing was tried:\n{log.read_text(errors='replace')}")
    failed = re.search(r"^(?:FAILED|ERROR) (.{1,200})", log.read_text(errors="replace"), re.M)
    return failed.group(1) if failed else f"wait status {found[1]}"


def main(
    count: Annotated[int, typer.Option(help="how many faults are planted")] = 40,
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
    files: Annotated[str, typer.Option(help="only in paths that contain this")] = "",
    seconds: Annotated[float, typer.Option(help="after which a run counts as without end")] = 900.0,
    most: Annotated[float, typer.Option(help="seconds of tests that call the function a fault is in")] = 120.0,
    out: Annotated[Path, typer.Option(help="results, a line each")] = Path("build/mutation.jsonl"),
    calls: Annotated[Path, typer.Option(help="what tests call; made where it is not there")] = Path(
        "build/mutation_calls.json"
    ),
) -> None:
    """Plants COUNT faults and prints those that no test finds; exit status 1 when fewer than 95 % were found."""
    out.parent.mkdir(parents=True, exist_ok=True)
    before = {json.loads(line)["diff"]: json.loads(line) for line in out.read_text().splitlines()} if out.exists() else {}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy"
        copied(copy)
        if not calls.exists():
            all_of = {test for area in AREAS if area.lanes[0] == "compiled" for test in area.tests if test not in LONG}
            os.waitpid(tried(copy, "compiled", sorted(all_of), calls.absolute()), 0)
        known = json.loads(calls.read_text())
        for number, (area, mutant) in enumerate(itertools.islice(drawn(AREAS, seed, files), count), 1):
            row = before.get(str(mutant))
            if row is None:
                tests, start = covering(area, mutant.path), time.monotonic()
                (copy / mutant.path).write_text(mutant.text())
                some = {"compiled": chosen(tests, around(mutant), known, most), "interpret": tests}
                results = (verdict(copy, lane, some[lane], seconds) for lane in area.lanes)
                result = next((r for r in results if r != "survived"), "survived")
                shutil.copy(ROOT / mutant.path, copy / mutant.path)
                row = {"path": mutant.path, "kind": mutant.kind, "result": result, "seconds": round(time.monotonic() - start)}
                row |= {"diff": str(mutant)}
                with out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
            rows.append(row)
            print(f"{number:3} {row['path']} {row['kind']}: {row['result']}", flush=True)
            if row["result"] == "survived":
                print(row["diff"], flush=True)
    found = sum(row["result"] != "survived" for row in rows)
    print(f"{found} of {len(rows)} faults were found")
    raise SystemExit(int(found < 0.95 * len(rows)))


if __name__ == "__main__":
    typer.run(main)
