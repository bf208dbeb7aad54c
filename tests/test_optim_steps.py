"""Each optimizer beside torch's of its name, or beside its paper's formulas in NumPy: 50 steps, all of them in one program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import graphrt as grt
import graphrt.ops as F
from graphrt import optim
from graphrt.errors import ArgumentError

torch = pytest.importorskip("torch")

X = np.random.default_rng(1).standard_normal((50, 5, 4)).astype(np.float32)
W = np.random.default_rng(2).standard_normal((3, 4)).astype(np.float32)
B = np.random.default_rng(3).standard_normal(3).astype(np.float32)

TORCH: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    "up": ("SGD", {"lr": 0.001, "maximize": True}),
    "adam": ("Adam", {"lr": 0.02, "betas": (0.8, 0.99), "weight_decay": 0.1, "amsgrad": True}),
    "adamw": ("AdamW", {"lr": 0.02, "weight_decay": 0.1, "amsgrad": True}),
    "adamax": ("Adamax", {"lr": 0.02}),
    "adamax2": ("Adamax", {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "nadam": ("NAdam", {"lr": 0.02}),
    "nadam2": ("NAdam", {"lr": 0.02, "weight_decay": 0.1, "momentum_decay": 0.05}),
    "nadamw": ("NAdam", {"lr": 0.02, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "radam": ("RAdam", {"lr": 0.05}),
    "radam2": ("RAdam", {"lr": 0.05, "betas": (0.8, 0.95), "weight_decay": 0.1}),
    "radamw": ("RAdam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "adagrad": ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "adadelta2": ("Adadelta", {"lr": 0.5, "rho": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    "rmsprop": ("RMSprop", {"lr": 0.01, "alpha": 0.9, "weight_decay": 0.1, "momentum": 0.9, "centered": True}),
    "muon": ("Muon", {"lr": 0.05}),
    "muon2": ("Muon", {"lr": 0.05, "nesterov": False, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.3, "ns_steps": 3}),
}


def lion(w: np.ndarray, grad: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    m = 0.0 * w
    while True:
        g = grad(w)
        w = w * (1 - 0.01 * 0.1) - 0.01 * np.sign(0.9 * m + 0.1 * g)
        m = 0.99 * m + 0.01 * g
        yield w


def lars(w: np.ndarray, grad: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    v = 0.0 * w
    while True:
        g, decay = grad(w), 0.1 if w.ndim > 1 else 0.0
        size, slope = np.linalg.norm(w), np.linalg.norm(g)
        v = 0.9 * v + (g + decay * w) * (0.02 * size / (slope + decay * size + 1e-8) if w.ndim > 1 else 1.0)
        w = w - 0.05 * v
        yield w


def lamb(w: np.ndarray, grad: Callable[[np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    m = v = 0.0 * w
    t = 0
    while True:
        g, t = grad(w), t + 1
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        r = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-6) + 0.1 * w
        w = w - 0.02 * np.linalg.norm(w) / np.linalg.norm(r) * r
        yield w


PAPERS = {
    "lion": (lion, optim.Lion(0.01, weight_decay=0.1)),
    "lars": (lars, optim.LARS(0.05, weight_decay=0.1, trust_coefficient=0.02, decay_1d=False)),
    "lamb": (lamb, optim.LAMB(0.02, weight_decay=0.1)),
}


def loss_of(graph: grt.Graph, name: str, x: grt.Value) -> tuple[grt.Value, list[grt.Value]]:
    w, b = graph.parameter(f"{name}.w", W), graph.parameter(f"{name}.b", B)
    y = F.tanh(F.linear(x, w, b)) - 0.3
    return F.mean(y * y), [w, b]


def their_loss(w: Any, b: Any, x: np.ndarray) -> Any:
    return ((torch.nn.functional.linear(torch.from_numpy(x).double(), w, b).tanh() - 0.3) ** 2).mean()


def theirs() -> list[Any]:
    return [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (W, B)]


def test_fifty_steps(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch in float64, whose Muon is kept from rounding to bfloat16; what has no counterpart there against NumPy."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda t: t.clone())
    graph = grt.Graph()
    x = graph.input("x", X[0].shape)
    rates = {}
    made = {n: getattr(optim, kind)(**given) for n, (kind, given) in TORCH.items()} | {n: o for n, (_, o) in PAPERS.items()}
    for name, optimizer in made.items():
        loss, params = loss_of(graph, name, x)
        rates[f"lr {name}"] = optimizer.lr
        optimizer.apply(params, grt.grad(loss, params), graph.input(f"lr {name}"))
    run = grt.compile(graph, target=target)
    steps = 3 if target == "interpret" else 50
    for i in range(steps):
        run(x=X[i], **rates)
    for name, (kind, given) in TORCH.items():
        w, b = theirs()
        found = [getattr(torch.optim, kind)([w] if kind == "Muon" else [w, b], **given)]
        found += [torch.optim.AdamW([b], 3e-4)] if kind == "Muon" else []  # vectors
        for i in range(steps):
            for step in found:
                step.zero_grad()
            their_loss(w, b, X[i]).backward()
            for step in found:
                step.step()
        for n, t in (("w", w), ("b", b)):
            np.testing.assert_allclose(run.state[f"{name}.{n}"], t.detach(), rtol=1e-4, atol=1e-5, err_msg=f"{name} {n}")
    for name, (formulas, _) in PAPERS.items():
        arrays = [W.astype(np.float64), B.astype(np.float64)]
        now: dict[int, np.ndarray] = {}

        def grad_of(which: int, arrays: list[np.ndarray] = arrays, now: dict[int, np.ndarray] = now) -> Any:
            return lambda _: now[which]

        moves = [formulas(a, grad_of(i)) for i, a in enumerate(arrays)]
        for i in range(steps):
            w, b = (torch.tensor(a, requires_grad=True) for a in arrays)
            their_loss(w, b, X[i]).backward()
            now |= {0: w.grad.numpy(), 1: b.grad.numpy()}
            arrays[:] = [next(move) for move in moves]
        for n, a in zip("wb", arrays, strict=True):
            np.testing.assert_allclose(run.state[f"{name}.{n}"], a, rtol=1e-4, atol=1e-5, err_msg=f"{name} {n}")


@pytest.mark.parametrize("name", sorted(n for n, (kind, _) in TORCH.items() if kind != "Muon"))
def test_parameters_in_double(name: str, target: str) -> None:
    """Corrections and counters are as precise as the parameters."""
    kind, given = TORCH[name]
    optimizer, start = getattr(optim, kind)(**given), np.linspace(-2.0, 3.0, 24).reshape(4, 6)
    graph = grt.Graph()
    w = graph.parameter("w", start)
    loss = F.sum(F.sin(w) * w)
    optimizer.apply([w], grt.grad(loss, [w]), graph.constant(optimizer.lr, "float64"))
    run = grt.compile(graph, target=target)
    theirs = torch.tensor(start, requires_grad=True)
    step = getattr(torch.optim, kind)([theirs], **given)
    for _ in range(8):
        run()
        step.zero_grad()
        (theirs.sin() * theirs).sum().backward()
        step.step()
    rounded = 1e-7 if kind == "NAdam" else 1e-12  # torch has its product of momenta in float32
    np.testing.assert_allclose(run.state["w"], theirs.detach(), rtol=rounded, atol=rounded / 10)


def settings_of_all() -> dict[str, tuple[optim.Optimizer, Callable[[list[Any]], Any], Callable[[list[Any]], Any]]]:
    """Optimizers by what they are given, each with torch's of the parameters, and what bounds their gradients."""
    clip = torch.nn.utils
    return {
        "decay": (
            optim.AdamW(0.05, weight_decay=0.5, decay_1d=False),
            lambda p: torch.optim.AdamW([{"params": p[:1]}, {"params": p[1:], "weight_decay": 0.0}], 0.05, weight_decay=0.5),
            lambda p: None,
        ),
        "norm": (
            optim.SGD(0.5, clip_grad_norm=0.05),
            lambda p: torch.optim.SGD(p, 0.5),
            lambda p: clip.clip_grad_norm_(p, 0.05),
        ),
        "value": (
            optim.SGD(0.5, clip_grad_value=0.02),
            lambda p: torch.optim.SGD(p, 0.5),
            lambda p: clip.clip_grad_value_(p, 0.02),
        ),
        "frozen": (
            optim.SGD(0.5, clip_grad_norm=0.05, groups=[("*.b", {"frozen": True})]),
            lambda p: torch.optim.SGD(p[:1], 0.5),
            lambda p: clip.clip_grad_norm_(p[:1], 0.05),
        ),
        "mixed": (
            optim.SGD(0.5, groups=[(lambda p: p.ndim < 2, optim.AdamW(0.05))]),
            lambda p: [torch.optim.SGD(p[:1], 0.5), torch.optim.AdamW(p[1:], 0.05)],
            lambda p: None,
        ),
        "mean": (optim.SGD(0.5, ema_decay=0.7), lambda p: torch.optim.SGD(p, 0.5), lambda p: None),
    }


def test_what_all_optimizers_take(target: str) -> None:
    """No decay of vectors, bounds on gradients, frozen groups, a group with another optimizer, and running means."""
    cases = settings_of_all()
    graph = grt.Graph()
    x = graph.input("x", X[0].shape)
    rates = {}
    for name, (optimizer, _, _) in cases.items():
        loss, params = loss_of(graph, name, x)
        grads = grt.grad(loss, params)
        if name == "norm":
            for kind in (1.0, 2.0, 3.0, np.inf):
                graph.output(f"norm {kind}", optim.total_norm(grads, kind))
        rates[f"lr {name}"] = optimizer.lr
        optimizer.apply(params, grads, graph.input(f"lr {name}"))
    run = grt.compile(graph, target=target)
    norms = [{k: v for k, v in run(x=X[i], **rates).items() if k.startswith("norm")} for i in range(6)]
    for name, (_, make, bound) in cases.items():
        p = theirs()
        made = make(p)
        averaged = torch.optim.swa_utils.AveragedModel(
            torch.nn.ParameterList(p), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.7)
        )
        for i in range(6):
            for t in p:
                t.grad = None
            their_loss(*p, x=X[i]).backward()
            if name == "norm":
                for key, value in norms[i].items():
                    total = torch.nn.utils.get_total_norm([t.grad for t in p], float(key[5:]))
                    assert float(value) == pytest.approx(float(total), rel=1e-5)
            bound(p)
            for step in made if isinstance(made, list) else [made]:
                step.step()
            averaged.update_parameters(torch.nn.ParameterList(p))
        for n, t, mean in zip("wb", p, averaged.parameters(), strict=True):
            np.testing.assert_allclose(run.state[f"{name}.{n}"], t.detach(), rtol=1e-5, atol=1e-6, err_msg=f"{name} {n}")
            if name == "mean":
                np.testing.assert_allclose(run.state[f"{name}.{n}.ema"], mean.detach(), rtol=1e-5, atol=1e-6)
    assert np.array_equal(run.state["frozen.b"], B)


def test_accumulation_equals_the_large_batch(target: str) -> None:
    """Three runs of a third of the batch make its step, with counters, bounds and running means; scaled as well."""
    options: dict[str, Any] = {"clip_grad_norm": 0.05, "ema_decay": 0.5}
    whole, part = X[:6].reshape(2, 15, 4), X[:6]
    graphs = []
    for shape, steps in ((whole[0].shape, 1), (part[0].shape, 3)):
        graph = grt.Graph()
        x, lr = graph.input("x", shape), graph.input("lr")
        for name, scaler in (("plain", None), ("scaled", optim.GradScaler(8.0, growth_interval=100))):
            loss, params = loss_of(graph, name, x)
            adam = optim.Adam(0.05, accumulation_steps=steps, **options)
            if scaler is None:
                adam.apply(params, grt.grad(loss, params), lr)
            else:
                scaler.apply(adam, params, grt.grad(scaler.scale(loss), params), lr)
        graphs.append(grt.compile(graph, target=target))
    large, small = graphs
    for i, batch in enumerate(whole):
        large(x=batch, lr=0.05)
        for j in range(3):
            before = small.state["plain.w"].copy()
            small(x=part[3 * i + j], lr=0.05)
            assert np.array_equal(before, small.state["plain.w"]) == (j < 2)
    for name in large.state:
        if not name.startswith("scaler"):
            np.testing.assert_allclose(small.state[name], large.state[name], rtol=2e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optim.Lion(betas=(0.9, 1.0)), "betas must be two numbers"),
        (lambda: optim.Adadelta(rho=1.5), r"rho must lie in \[0, 1\]"),
        (lambda: optim.RAdam(betas=(0.9, 0.5)), "betas\\[1\\] above 0.6"),
        (lambda: optim.LARS(momentum=0.0, nesterov=True), "nesterov needs a momentum"),
        (lambda: optim.Muon(adjust_lr_fn="other"), "adjust_lr_fn must be None"),
        (lambda: optim.SGD(ema_decay=1.0), "ema_decay must lie in"),
        (lambda: optim.SGD(clip_grad_norm="x"), "clip_grad_norm must be a number or none, got 'x'"),
        (lambda: optim.SGD(nesterov=1), "nesterov must be true or false, got 1"),
        (lambda: optim.SGD(accumulation_steps=1.5), "accumulation_steps must be a whole number, got 1.5"),
        (lambda: optim.Adam(betas=0.9), "betas must be 2 numbers in brackets"),
        (lambda: optim.Muon(ns_coefficients=(1.0, 2.0)), "ns_coefficients must be 3 numbers in brackets"),
        (lambda: optim.Muon(beside="adamw"), "beside must be of the class Optimizer or none"),
        (lambda: optim.SGD(groups=3), "groups must be a list, got 3"),
        (lambda: optim.SGD(accumulation_steps=0), "accumulation_steps must be at least 1"),
        (lambda: optim.SGD(clip_grad_norm=-1.0), "clip_grad_norm must be at least 0"),
        (lambda: optim.SGD(groups=[("*", optim.SGD(clip_grad_norm=1.0))]), "clip_grad_norm of a group's optimizer belongs"),
        (lambda: optim.SGD(groups=[("*", {"ema_decay": 0.5})]), "SGD has no option 'ema_decay'"),
    ],
)
def test_arguments(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


def test_parameters_that_do_not_fit() -> None:
    graph = grt.Graph()
    loss, params = loss_of(graph, "p", graph.input("x", X[0].shape))
    grads, lr = grt.grad(loss, params), graph.input("lr")
    with pytest.raises(ArgumentError, match="every parameter is in a frozen group"):
        optim.SGD(groups=[("*", {"frozen": True})]).apply(params, grads, lr)
    with pytest.raises(ArgumentError, match="at least one gradient"):
        optim.total_norm([])


def test_muon_leaves_vectors_to_another() -> None:
    """Also where it is the optimizer of a group; what its own groups say comes first."""
    one_row = np.ones((1, 3), np.float32)
    for optimizer, states in (
        (optim.Muon(beside=optim.SGD(0.1, momentum=0.9)), {"w.momentum", "b.momentum", "row.momentum"}),
        (optim.SGD(groups=[("*", optim.Muon())]), {"w.momentum", "b.exp_avg", "row.exp_avg"}),
        (optim.Muon(groups=[("p.b", {"frozen": True})]), {"w.momentum", "row.exp_avg"}),
    ):
        graph = grt.Graph()
        loss, params = loss_of(graph, "p", graph.input("x", X[0].shape))
        params.append(graph.parameter("p.row", one_row))
        grads = grt.grad(loss + F.sum(params[-1] * params[-1]), params)
        optimizer.apply(params, grads, graph.input("lr"))
        moments = {name.removeprefix("p.") for name in graph.updates if name.endswith(("momentum", "exp_avg"))}
        assert moments == states
