"""The house rules that a machine can hold: import arrows, file lengths, no op named where only kinds may be asked for."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from graphrt import ops as F
from graphrt.errors import GraphError
from graphrt.ir import Graph
from graphrt.mesh import Mesh
from graphrt.op import REGISTRY, Kind
from graphrt.ops.base import check_exports
from graphrt.passes.pipeline import PassPolicy, run_passes

ROOT = Path(__file__).parent.parent
SOURCES = sorted(p for folder in ("graphrt", "kernels", "bench", "examples") for p in (ROOT / folder).rglob("*.py"))
TEMPLATES = sorted((ROOT / "kernels").rglob("*.[ch]"))
# Each room may import itself and the rooms above it.
ORDER = [
    ("errors", "types", "config", "files", "arguments", "threads"),
    ("index", "mesh", "sharding"),
    ("op",),
    ("node", "signature"),
    ("text", "verify", "transaction"),
    ("ir",),
    ("reference",),
    ("ops",),
    ("autodiff", "passes"),
    ("schedule",),
    ("runtime",),
    ("targets",),
    ("compiler",),
    ("nn", "optim", "data"),
    ("models",),
    ("train",),
    ("visualize", "gradcheck"),
    ("frontends",),
    ("bench",),
    ("inspection",),
    ("cli",),
]
RANK = {room: i for i, rooms in enumerate(ORDER) for room in rooms}
# For types alone, which speak of one another: an op's rules take Nodes, a Node has an op and a Graph, and a Graph transactions.
FOR_TYPES = {("op", "node"), ("node", "ir"), ("transaction", "ir")}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Modules that ``path`` imports, each with whether that is for type checking only."""
    tree = ast.parse(path.read_text())
    checking = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test)]
    for_types = {n for block in checking for n in ast.walk(block)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((a.name, node in for_types) for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module] if node.module != "graphrt" else [f"graphrt.{a.name}" for a in node.names]
            yield from ((name, node in for_types) for name in names)


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parts[-2] != "graphrt" or p.name != "__init__.py"], ids=str)
def test_imports_follow_the_arrows(path: Path) -> None:
    parts = path.relative_to(ROOT).with_suffix("").parts
    for module, for_types in imports(path):
        target = module.split(".")
        if parts[0] == "kernels":
            assert target[0] != "graphrt", f"a kernel template imports only triton, not {module}"
        elif parts[0] == "graphrt" and target[0] == "graphrt" and len(target) > 1 and target[1] != "kernels":
            if target[1] not in RANK:
                assert parts[1] == "cli", f"{path.name} imports {module} from the package's face"
            elif not (for_types and (parts[1], target[1]) in FOR_TYPES):
                assert RANK[target[1]] <= RANK[parts[1]], f"{path.name} imports {module}, which comes later"


@pytest.mark.parametrize("path", [*SOURCES, *TEMPLATES], ids=str)
def test_files_can_be_read_in_one_sitting(path: Path) -> None:
    """400 lines are the aim, and ten more are room to mend a file without squeezing before it is cut in two."""
    lines = len(path.read_text().splitlines())
    assert lines <= 410, f"{path} has {lines} lines: which part of it is a thing of its own?"


@pytest.mark.parametrize("path", TEMPLATES, ids=str)
def test_c_templates_have_words_for_constants(path: Path) -> None:
    """``FN(_TILE_K)``: a word, and which coordinate; and what undefines macros is generated (``docs/templates.md``)."""
    text = path.read_text()
    constants = set(re.findall(r"FN\(_([A-Z][A-Z_]*)\)", text))
    assert not [name for name in constants if max(map(len, name.split("_"))) < 4]
    assert "#undef" not in text


@pytest.mark.parametrize("folder", ["passes", "schedule"])
def test_passes_name_no_op(folder: str) -> None:
    """Passes and the scheduler ask an op for its kind and its rules; only sources, and what processes exchange, have names."""
    known = (Kind.SOURCE, Kind.COLLECTIVE)
    names = {op.name for op in REGISTRY.values() if not op.template and op.kind not in known}
    for path in (ROOT / "graphrt" / folder).glob("*.py"):
        for found in re.findall(r"op\.name (?:==|!=|in) (.*)", path.read_text()):
            named = set(re.findall(r'"(\w+)"', found)) & names
            assert not named, f"{path.name} names {named}"


def test_every_op_has_samples_and_a_lowering() -> None:
    for op in REGISTRY.values():
        if op.kind is Kind.SOURCE:
            continue
        has = {
            Kind.VIEW: op.pull,
            Kind.ELEMENTWISE: op.body,
            Kind.RANDOM: op.body,
            Kind.GENERATED: op.body,
            Kind.CONTRACTION: op.template,
            Kind.ATTENTION: op.template,
            Kind.WINDOW: op.template,
            Kind.SCAN: op.template,
            Kind.SCATTER: op.template,
            Kind.SORT: op.template,
            Kind.DECOMPOSITION: op.template,
        }
        assert has.get(op.kind, True), f"{op.name} has no lowering"


def test_public_functions_are_documented() -> None:
    missing = [name for name, f in {**F.FUNCTIONS, **F.CREATIONS}.items() if not f.__doc__]
    assert not missing


def test_the_page_shows_the_arrows_and_the_passes() -> None:
    """docs/architecture.md draws the rooms of ``ORDER``, and tells of every pass in the order of the pipeline."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    drawn = page.partition("\nerrors,")[2].partition("kernels/")[0]
    assert re.findall(r"\w+", f"errors {drawn}") == [room for rooms in ORDER for room in rooms]
    graph = Graph(Mesh(dp=1))
    graph.output("y", F.relu(graph.input("x", (2,))))
    everything = PassPolicy(lambda node: 1, half_copies=True, fused_products=True, loops=True)
    passes = [name for name, _ in run_passes(graph, everything, {})[0] if name not in ("build", "bucket")]
    told = dict.fromkeys(re.findall(r"`(\w+)`", page.partition("## Passes")[2].partition("## ")[0]))
    assert [name for name in told if name in {*passes, "bucket"}] == [*passes, "bucket"]  # which is told where a mesh is


def test_what_is_registered_is_exported() -> None:
    """Every module of ops belongs to the package, and each public function is found in it under its name."""
    ops = dict(REGISTRY)
    for module in pkgutil.iter_modules(F.__path__):
        importlib.import_module(f"graphrt.ops.{module.name}")
    assert ops == REGISTRY, "graphrt/ops/__init__.py does not import the module of an op"
    registered = {**F.FUNCTIONS, **F.CREATIONS}
    assert set(F.__all__) == {"CREATIONS", "FUNCTIONS", *registered}
    assert [name for name, f in registered.items() if getattr(F, name) is not f] == []


def test_a_function_that_is_not_exported_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = {*F.FUNCTIONS, *F.CREATIONS}
    check_exports(registered)
    with pytest.raises(GraphError, match="no public function: rellu"):
        check_exports(registered | {"rellu"})
    monkeypatch.setitem(F.FUNCTIONS, "rellu", F.relu)
    with pytest.raises(GraphError, match=r"rellu of graphrt\.ops\.elementwise"):
        check_exports(registered)


@pytest.mark.parametrize("name", ["data", "models", "nn", "ops", "optim", "train"])
def test_names_are_exported_to_type_checkers(name: str) -> None:
    """A checker in strict mode knows only what ``__all__`` lists; it is all that is defined in the package."""
    module = importlib.import_module(f"graphrt.{name}")
    origins = {n: str(getattr(x, "__module__", "")) for n, x in vars(module).items() if not n.startswith("_")}
    assert {n for n, origin in origins.items() if origin.startswith(module.__name__)} <= set(module.__all__) <= set(dir(module))


def test_nothing_is_left_unfinished() -> None:
    pattern = re.compile(r"NotImplementedError|TODO|FIXME|XXX")
    assert not [p.name for p in SOURCES if pattern.search(p.read_text())]
