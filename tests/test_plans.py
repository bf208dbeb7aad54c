"""Golden plans: how a few small models are cut into kernels, a field a line, with the numbers of values as they appear.

``GRAPHRT_ACCEPT=1 pytest tests/test_plans.py`` accepts new ones.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accept import check_golden, difference
from graphs import conv_bn_relu, inception_step, lenet_step, mlp_step, one_kernel_each, residual_block

import graphrt as grt
from graphrt import ops as F
from graphrt.op import REGISTRY

GOLDEN = Path(__file__).parent / "golden"


MODELS: dict[str, Callable[[], grt.Graph]] = {
    "lenet5_step": lenet_step,
    "mlp_step": mlp_step,
    "conv_bn_relu": conv_bn_relu,
    "residual_block": residual_block,
    "inception_step": lambda: inception_step(blocks=1, autocast="bfloat16"),
    "one_kernel_each": one_kernel_each,
}


def golden_plan(program: grt.Program) -> str:
    """The plan's text with one field a line, without the groups' numbers, and with values numbered within the plan.

    The first ``mul`` that the text names twice is ``mul_0``, whatever the graph calls it, and one that is named once is
    ``mul``, so that a pass that drops a node, or folds a constant, changes the lines of the kernels it changes.
    """
    text = program.plan_text()
    named = [m for m in re.finditer(r"\b([a-z]\w*)_\d+\b", text) if m[1] in REGISTRY and m[0] not in program.graph.sources]
    often, numbers, seen = Counter(m[0] for m in named), dict[str, str](), Counter[str]()
    for m in named:
        if m[0] not in numbers:
            numbers[m[0]] = m[1] if often[m[0]] == 1 else f"{m[1]}_{seen[m[1]]}"
            seen[m[1]] += often[m[0]] > 1
    text = re.sub(r"\b[a-z]\w*_\d+\b", lambda m: numbers.get(m[0], m[0]), text)
    return "\n".join(line for group in text.splitlines() for line in _fields(group)) + "\n"


def _fields(group: str) -> Iterator[str]:
    """A line of a plan as several: its kind, and one for each field and each reason."""
    indent = " " * (len(group) - len(group.lstrip()))
    head, *fields = re.split(r" (?=\w+=[\[(]|stop: )", re.sub(r"^g\d+ ", "", group.strip()))
    kind, _, fused = head.partition("[")
    yield indent + kind
    for field in [f"fused=[{fused}"] * (len(fused) > 1) + fields:
        reasons = field.removeprefix("stop: ").split("; ") if field.startswith("stop: ") else []
        yield from (f"{indent}  {line}" for line in ([f"stop: {r}" for r in reasons] or [field]))


@pytest.mark.parametrize("target", ["cpu", "cuda:sm_90"])
@pytest.mark.parametrize("name", MODELS)
def test_plan(name: str, target: str) -> None:
    if os.environ.get("TRITON_INTERPRET") == "1" and target != "cpu":
        pytest.fail("plans for a GPU are made in the lane that compiles; run without TRITON_INTERPRET")
    program = grt.compile(MODELS[name](), target=target)
    check_golden(GOLDEN / f"{name}_{target.replace(':', '_')}.txt", golden_plan(program))


def test_a_golden_plan_does_not_depend_on_numbers() -> None:
    """Nodes that are folded away change the numbers of the others, and no line."""
    g, h = grt.Graph(), grt.Graph()
    for graph in (g, h):
        x, w = graph.input("x", (4, 8)), graph.parameter("w", shape=(8, 3))
        if graph is h:
            x = (x * 1.0 + 0.0) * 1.0
        y = F.relu(F.matmul(x, w) * 2.0)
        graph.output("y", F.matmul(y, graph.parameter("v", shape=(3, 3))) * 2.0)
    one, other = grt.compile(g, target="cpu"), grt.compile(h, target="cpu")
    assert one.plan_text() != other.plan_text() and golden_plan(one) == golden_plan(other)


def test_a_difference_says_how_to_accept_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.txt"
    path.write_text("conv\n  out=(y)\n")
    check_golden(path, "conv\n  out=(y)\n")
    shown = difference(path, path.read_text(), "conv\n  out=(z)\n")
    assert "\n-  out=(y)\n+  out=(z)" in shown and "GRAPHRT_ACCEPT=1 " in shown
    assert "test_a_difference_says_how_to_accept_it" in shown


def test_lenet_step_is_one_program_of_at_most_24_launches() -> None:
    program = grt.compile(lenet_step(), target="cuda:sm_90")
    assert program.launches <= 24
    assert program.schedule is not None
    launches = program.schedule.launches
    updating = [x for x in launches if any(n.origin.phase == "opt" for g in x.groups if g.kind != "template" for n in g.nodes)]
    assert len(updating) <= 1, "updates run behind the contraction they take, the others in one launch"
    stored = {
        name for x in launches for g in x.groups for v in g.outputs for name, u in program.graph.updates.items() if u is v
    }
    assert stored == set(program.graph.updates), "no update is copied"
