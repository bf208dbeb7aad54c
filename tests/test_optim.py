"""Several optimizers: groups of parameters, two on one State or in one graph, each with its own state; against torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import graphrt as grt
import graphrt.ops as F
from graphrt import optim
from graphrt.errors import ArgumentError, GraphError

torch = pytest.importorskip("torch")

SHAPES = {"a.weight": (3, 4), "a.bias": (3,), "b.weight": (2, 3), "b.bias": (2,)}
X = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
START = {n: np.random.default_rng(2 + i).standard_normal(s).astype(np.float32) for i, (n, s) in enumerate(SHAPES.items())}

OPTIMIZERS: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "sgd": (optim.SGD, torch.optim.SGD, {"momentum": 0.9, "dampening": 0.3}, {"weight_decay": 0.2, "momentum": 0.5}),
    "adam": (optim.Adam, torch.optim.Adam, {"betas": (0.8, 0.95)}, {"betas": (0.5, 0.9), "lr": 0.02}),
    "adamw": (optim.AdamW, torch.optim.AdamW, {"weight_decay": 0.3}, {"weight_decay": 0.0}),
    "adagrad": (optim.Adagrad, torch.optim.Adagrad, {"lr_decay": 0.1}, {"lr": 0.3, "lr_decay": 0.5}),
    "rmsprop": (optim.RMSprop, torch.optim.RMSprop, {"momentum": 0.5}, {"centered": True}),
}


def loss_of(graph: grt.Graph) -> tuple[grt.Value, dict[str, grt.Value]]:
    p = {n: graph.parameter(n, START[n]) for n in SHAPES}
    y = F.linear(F.tanh(F.linear(graph.input("x", X.shape), p["a.weight"], p["a.bias"])), p["b.weight"], p["b.bias"])
    return F.mean(y * y), p


def their_loss(p: dict[str, Any]) -> Any:
    y = torch.nn.functional.linear(torch.from_numpy(X), p["a.weight"], p["a.bias"]).tanh()
    return (torch.nn.functional.linear(y, p["b.weight"], p["b.bias"]) ** 2).mean()


def theirs() -> dict[str, Any]:
    return {n: torch.tensor(a, requires_grad=True) for n, a in START.items()}


def program(parts: list[tuple[optim.Optimizer, str]], target: str, state: grt.State | None = None) -> grt.Program:
    """One training step; each optimizer updates the parameters that its pattern names."""
    graph = grt.Graph()
    loss, params = loss_of(graph)
    graph.output("loss", loss)
    lr = graph.input("lr")
    for optimizer, pattern in parts:
        chosen = [v for n, v in params.items() if fnmatch.fnmatch(n, pattern)]
        optimizer.apply(chosen, grt.grad(loss, chosen), lr)
    return grt.compile(graph, target=target, state=state)


def same(state: grt.State, expected: dict[str, Any]) -> None:
    for n, t in expected.items():
        np.testing.assert_allclose(state[n], t.detach().numpy(), rtol=2e-5, atol=2e-6, err_msg=n)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_groups_equal_torch(name: str, target: str) -> None:
    """A group's options and rate, the latter in its ratio to a base rate that changes."""
    ours, other, options, special = OPTIMIZERS[name]
    run = program([(ours(0.1, **options, groups=[("*.bias", special)]), "*")], target)
    p = theirs()
    biases, rest = ([t for n, t in p.items() if n.endswith("bias") is b] for b in (True, False))
    step = other([{"params": rest}, {"params": biases, **special}], lr=0.1, **options)
    schedule = torch.optim.lr_scheduler.LambdaLR(step, lambda i: 1 / (1 + i))
    for i in range(4):
        step.zero_grad()
        loss = their_loss(p)
        loss.backward()
        assert float(run(x=X, lr=0.1 / (1 + i))["loss"]) == pytest.approx(loss.item(), rel=1e-4)
        step.step()
        schedule.step()
    same(run.state, p)


def test_groups_by_function_and_list() -> None:
    """The first group that fits; a pattern that fits nothing is a mistake."""
    still = [(lambda v: v.ndim == 1, {"lr": 0.0}), (["a.*"], {"lr": 0.05})]
    runs = [program([(optim.SGD(0.1, groups=groups), "*")], "reference") for groups in ((), still)]
    for run in runs:
        run(x=X, lr=0.1)
    moved = [{n: run.state[n] - START[n] for n in SHAPES} for run in runs]
    for name, ratio in {"a.weight": 0.5, "a.bias": 0.0, "b.weight": 1.0, "b.bias": 0.0}.items():
        np.testing.assert_allclose(moved[1][name], ratio * moved[0][name], atol=1e-6, err_msg=name)
    with pytest.raises(ArgumentError, match="no parameter is named like 'c'; there is a.weight"):
        program([(optim.SGD(0.1, groups=[(["a.*", "c"], {})]), "*")], "reference")


@pytest.mark.parametrize("together", [True, False], ids=["one graph", "two programs"])
@pytest.mark.parametrize("name", ["adam", "sgd", "adagrad"])
def test_two_optimizers_on_one_state(name: str, together: bool, target: str) -> None:
    """As a GAN has: each updates its own parameters, and counts its own steps."""
    ours, other, options, special = OPTIMIZERS[name]
    special = {k: v for k, v in special.items() if k != "lr"}
    first, second = ours(0.1, **options), ours(0.1, **special)
    state = grt.State()
    parts: list[tuple[optim.Optimizer, str]] = [(first, "a.*"), (second, "b.*")]
    programs = [program(parts, target, state)] if together else [program([part], target, state) for part in parts]
    p = theirs()
    steps = [other([t for n, t in p.items() if n[0] == k], lr=0.1, **o) for k, o in (("a", options), ("b", special))]
    for _ in range(5):
        for turn in [steps] if together else [[s] for s in steps]:
            for t in p.values():
                t.grad = None
            their_loss(p).backward()
            for s in turn:
                s.step()
        for run in programs:
            run(x=X, lr=0.1)
    same(state, p)


def test_counters_of_parameters_that_join_later(target: str) -> None:
    """Unfreezing: what was trained goes on, what joins begins at step 0, with the same optimizer in another program."""
    adam, state = optim.Adam(0.1), grt.State()
    head, everything = program([(adam, "b.*")], target, state), None
    p = theirs()
    step = torch.optim.Adam([p["b.weight"], p["b.bias"]], 0.1)
    for i in range(4):
        if i == 2:
            everything = program([(adam, "*")], target, state)
            step.add_param_group({"params": [p["a.weight"], p["a.bias"]]})
        (everything or head)(x=X, lr=0.1)
        step.zero_grad()
        their_loss(p).backward()
        step.step()
    same(state, p)
    assert state["b.weight.step"] == 4 and state["a.weight.step"] == 2


def test_names_keep_two_optimizers_of_the_same_parameters_apart() -> None:
    state = grt.State()
    runs = [program([(optim.Adam(0.1, name=n), "*")], "reference", state) for n in ("", "second")]
    runs[0](x=X, lr=0.1)
    assert state["a.weight.step"] == 1 and state["a.weight.second.step"] == 0
    runs[1](x=X, lr=0.1)
    assert state["a.weight.second.step"] == 1 and state["a.weight.second.exp_avg"].any()


def test_two_scalers_in_one_graph() -> None:
    graph = grt.Graph()
    loss, params = loss_of(graph)
    lr = graph.input("lr")
    for pattern, scaler in (("a", optim.GradScaler(8.0)), ("b", optim.GradScaler(16.0, name="other"))):
        chosen = [v for n, v in params.items() if n.startswith(pattern)]
        scaler.apply(optim.Adam(0.1), chosen, grt.grad(scaler.scale(loss), chosen), lr)
    run = grt.compile(graph, target="reference")
    run(x=X, lr=0.1)
    assert run.state["scaler.growth_tracker"] == run.state["other.growth_tracker"] == run.state["b.weight.step"] == 1


def test_a_skipped_step_keeps_what_the_network_wrote() -> None:
    """A parameter that the network holds in a range is stepped from there, and stays there when the step is skipped."""
    for overflows in (False, True):
        graph = grt.Graph()
        w = graph.parameter("w", np.array([3.0, 0.5], np.float32))
        held = graph.advance(w, F.clamp(w, -1.0, 1.0))
        loss = F.sum(F.straight_through(held, w) * graph.input("x", (2,)))
        scaler = optim.GradScaler(8.0)
        scaler.apply(optim.SGD(0.5), [w], grt.grad(scaler.scale(loss), [w]), graph.input("lr"))
        run = grt.compile(graph, target="reference")
        run(x=[1.0, np.inf if overflows else 2.0], lr=0.5)
        assert run.state["w"].tolist() == ([1.0, 0.5] if overflows else [0.5, -0.5])


def _twice(graph: grt.Graph) -> None:
    loss, params = loss_of(graph)
    lr, chosen = graph.input("lr"), list(params.values())
    for _ in range(2):
        optim.SGD(0.1).apply(chosen, grt.grad(loss, chosen), lr)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda g: optim.SGD(0.1, groups=[("*", {"beta": 1})]), ArgumentError, "SGD has no option 'beta'; there is lr"),
        (lambda g: optim.SGD(0.1, groups=["*.bias"]), ArgumentError, r"a group is \(which, options\)"),
        (lambda g: optim.SGD(0.0, groups=[("*", {"lr": 1.0})]), ArgumentError, "needs an lr above 0"),
        (lambda g: optim.Adam(0.1, groups=[("*", {"betas": (2.0, 0.9)})]), ArgumentError, "betas must be two numbers"),
        (_twice, GraphError, "has an update already"),
    ],
)
def test_errors(make: Callable[[grt.Graph], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(grt.Graph())
