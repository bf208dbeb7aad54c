"""Faults that can be planted in the compiler: operators flipped, guards dropped, bounds off by one, operands or steps swapped.

``tests.mutation`` plants them and looks whether the tests find them.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).parent.parent
OPERATORS: dict[type[ast.AST], tuple[str, str]] = {  # what an operator is written as, and as what it is mutated
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"), ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "+"), ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"), ast.BitOr: ("|", "&"), ast.BitAnd: ("&", "|"),
}  # fmt: skip
NAMES = {"min": "max", "max": "min", "any": "all", "all": "any", "reversed": "list", "minimum": "maximum", "maximum": "minimum"}
UNSWAPPED = ("isinstance", "issubclass", "getattr", "hasattr", "gcd", "lcm", "min", "max")  # wrong at once, or the same
IN_C = [  # pattern, replacement and kind of the faults in C templates
    (r" < ", " <= ", "bound"), (r" <= ", " < ", "bound"), (r" > ", " >= ", "bound"), (r" >= ", " > ", "bound"),
    (r" \+ ", " - ", "operator"), (r" - ", " + ", "operator"), (r" \* ", " + ", "operator"), (r" && ", " || ", "guard"),
    (r"\bMIN_OF\b", "MAX_OF", "operator"), (r"\bMAX_OF\b", "MIN_OF", "operator"), (r" == ", " != ", "operator"),
    (r"(?<![\w.])1(?![\w.])", "2", "bound"), (r"(?<![\w.])0(?![\w.])", "1", "bound"),
]  # fmt: skip


@dataclass(frozen=True)
class Area:
    """Files in which faults are planted, and the lanes whose tests look for them."""

    files: str
    lanes: tuple[str, ...] = ("compiled",)


AREAS = [
    Area("graphrt/autodiff.py"),
    Area("graphrt/index.py"),
    Area("graphrt/passes/**/*.py"),
    Area("graphrt/schedule/*.py"),
    Area("graphrt/targets/cpu/*.py"),
    Area("graphrt/targets/scalar.py", ("compiled", "interpret")),
    Area("graphrt/targets/triton/emit/*.py", ("compiled", "interpret")),  # plans for GPUs are made in either
    Area("kernels/c/*.h"),
    Area("kernels/triton/*.py", ("compiled", "interpret")),
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

    def equal(self) -> bool:
        """Whether it changes nothing: Python makes the same code of it, or two steps have nothing to do with each other."""
        if not self.path.endswith(".py"):
            return False
        old = (ROOT / self.path).read_text()
        if self.kind == "order" and len(steps := ast.parse("\n".join(map(str.strip, self.new.splitlines()))).body) == 2:
            return not _meet(*steps) and not _meet(*reversed(steps))
        return compile(old, "", "exec") == compile(self.text(), "", "exec")

    def __str__(self) -> str:
        old = (ROOT / self.path).read_text()
        lines = difflib.unified_diff(old.splitlines(), self.text().splitlines(), self.path, f"{self.kind}", "", "", 1, "")
        return "\n".join(lines)


def _meet(a: ast.stmt, b: ast.stmt) -> bool:
    """Whether ``a`` may change what ``b`` names: what it assigns to, whose method it calls, what it hands to a function."""
    changed = list[ast.expr]()
    for node in ast.walk(a):
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            changed.append(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            changed += [node.func.value, *(node.args if ast.unparse(node.func.value) == "heapq" else [])]
        elif isinstance(node, ast.Call):
            changed += node.args or [node.func]
    named = [ast.unparse(node) for node in ast.walk(b) if isinstance(node, ast.Name | ast.Attribute)]
    places = {ast.unparse(c.value if isinstance(c, ast.Subscript) else c) for c in changed if not isinstance(c, ast.Constant)}
    alone = (
        isinstance(a, ast.Expr) and isinstance(a.value, ast.Call) and isinstance(a.value.func, ast.Name)
    )  # done for its effect
    return alone or any(n == place or n.startswith(f"{place}.") for n in named for place in places)


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
        if ast.unparse(node.func).rpartition(".")[2] in UNSWAPPED:
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
            while kinds:
                kind = rng.choice(sorted(kinds))
                mutant = kinds[kind].pop(rng.randrange(len(kinds[kind])))
                if not kinds[kind]:
                    del kinds[kind]
                if not mutant.equal():
                    yield area, mutant
                    break


def unnumbered(diff: str) -> str:
    """``diff`` without the numbers of its lines, which change when others above them do."""
    return re.sub(r"^@@ .* @@", "@@", diff, flags=re.M)


def recorded(areas: Sequence[Area], diffs: Iterable[str]) -> Iterator[tuple[Area, Mutant]]:
    """The faults whose diffs are among ``diffs`` and that can be planted still, wherever their lines are by now."""
    wanted = {unnumbered(diff) for diff in diffs}
    paths = {diff.split()[1] for diff in wanted}
    for area in areas:
        for path in (p for p in sorted(ROOT.glob(area.files)) if str(p.relative_to(ROOT)) in paths):
            for mutant in faults(path):
                first, _, _ = mutant.text()[mutant.start :].partition("\n")
                near = mutant.kind == "order" or any(first in diff for diff in wanted)  # quick, and true of all that are
                if near and unnumbered(str(mutant)) in wanted:
                    yield area, mutant


def around(mutant: Mutant) -> str:
    """The function that ``mutant`` is in, as ``Calls`` names it: ``PATH:`` where it runs on import; of C the whole header."""
    if not mutant.path.endswith(".py"):
        return mutant.path
    text = (ROOT / mutant.path).read_text()
    line, column = (
        text.count("\n", 0, mutant.start) + 1,
        len(text[text.rfind("\n", 0, mutant.start) + 1 : mutant.start].encode()),
    )
    pending, found = [compile(text, mutant.path, "exec")], ""
    while pending:
        code = pending.pop()
        for inner in (c for c in code.co_consts if isinstance(c, CodeType)):
            spans = [((a, c), (b, d)) for a, b, c, d in inner.co_positions() if a and b and c is not None and d]
            if spans and min(spans)[0] <= (line, column) <= max(end for _, end in spans):
                pending.append(inner)
                found = inner.co_qualname if inner.co_flags & inspect.CO_NEWLOCALS else found  # a class's body is none
    return f"{mutant.path}:{found}"
