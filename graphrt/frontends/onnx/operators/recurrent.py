"""Recurrent networks of one layer, in one direction or both, unrolled over a sequence of static length.

One matmul computes the input's part of all gates for all steps. A sequence shorter than the longest keeps its last state and
gives zeros from then on. Y is [T, directions, N, H]; with ``layout`` 1 the batch comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import graphrt.ops as F
from graphrt.errors import ConversionError
from graphrt.frontends.onnx.table import operator
from graphrt.ir import Value

Activation = Callable[[Value], Value]
States = tuple[Value, ...]

# Names as ONNX spells them -> the function of the tensor, alpha and beta, and the two's defaults.
_ACTIVATIONS: dict[str, tuple[Callable[[Value, float, float], Value], float, float]] = {
    "affine": (lambda x, a, b: x * a + b, 1.0, 0.0),
    "elu": (lambda x, a, b: F.elu(x, a), 1.0, 0.0),
    "hardsigmoid": (lambda x, a, b: F.clamp(x * a + b, 0.0, 1.0), 0.2, 0.5),
    "leakyrelu": (lambda x, a, b: F.leaky_relu(x, a), 0.01, 0.0),
    "relu": (lambda x, a, b: F.relu(x), 0.0, 0.0),
    "scaledtanh": (lambda x, a, b: F.tanh(x * b) * a, 1.0, 1.0),
    "sigmoid": (lambda x, a, b: F.sigmoid(x), 0.0, 0.0),
    "softplus": (lambda x, a, b: F.softplus(x), 0.0, 0.0),
    "softsign": (lambda x, a, b: F.softsign(x), 0.0, 0.0),
    "tanh": (lambda x, a, b: F.tanh(x), 0.0, 0.0),
    "thresholdedrelu": (lambda x, a, b: F.threshold(x, a, 0.0), 1.0, 0.0),
}
_USES_ALPHA = ("affine", "elu", "hardsigmoid", "leakyrelu", "scaledtanh", "thresholdedrelu")
_USES_BETA = ("affine", "hardsigmoid", "scaledtanh")


@dataclass(frozen=True)
class _Cell:
    """The weights of one direction: r [G*H, H], the halves of the bias [G*H], peepholes [3*H]; activations; switches."""

    r: Value
    rb: Value | None
    p: Value | None
    act: Sequence[Activation]
    flag: int  # input_forget of an LSTM, linear_before_reset of a GRU

    def part(self, v: Value | None, i: int) -> Value | None:
        """Gate ``i``'s rows of a weight or bias."""
        size = self.r.shape[1]
        return None if v is None else v[i * size : (i + 1) * size]

    def recur(self, h: Value, *gates: int) -> Value:
        """The recurrent product of some gates, with their bias."""
        size = self.r.shape[1]
        rows = slice(gates[0] * size, (gates[-1] + 1) * size)
        return F.linear(h, self.r[rows], None if self.rb is None else self.rb[rows])

    def peep(self, gate: Value, i: int, c: Value) -> Value:
        weight = self.part(self.p, i)
        return gate if weight is None else gate + c * weight


@dataclass(frozen=True)
class _Kind:
    """One kind of network: its step, the activations of one direction unless the model names others, and the switch."""

    step: Callable[[_Cell, Value, States], States]
    activations: Sequence[str]
    flag: int = 0


def _rnn_step(cell: _Cell, x: Value, state: States) -> States:
    return (cell.act[0](x + cell.recur(state[0], 0)),)


def _lstm_step(cell: _Cell, x: Value, state: States) -> States:
    """Gates in ONNX's order: input, output, forget, cell."""
    h, c = state
    i, o, f, g = F.chunk(x + cell.recur(h, 0, 3), 4, -1)
    enter = cell.act[0](cell.peep(i, 0, c))
    keep = 1.0 - enter if cell.flag else cell.act[0](cell.peep(f, 2, c))
    c = keep * c + enter * cell.act[1](g)
    return cell.act[0](cell.peep(o, 1, c)) * cell.act[2](c), c


def _gru_step(cell: _Cell, x: Value, state: States) -> States:
    """Gates in ONNX's order: update, reset, hidden."""
    (h,) = state
    xz, xr, xh = F.chunk(x, 3, -1)
    hz, hr = F.chunk(cell.recur(h, 0, 1), 2, -1)
    z, r = cell.act[0](xz + hz), cell.act[0](xr + hr)
    new = cell.act[1](xh + (r * cell.recur(h, 2) if cell.flag else cell.recur(r * h, 2)))
    return (new + z * (h - new),)


def _activations(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float], clip: float | None) -> list[Activation]:
    """The named functions; alphas and betas go to those that use them, in order."""
    found, alpha, beta = list[Activation](), list(alphas), list(betas)
    for name in map(str.lower, names):
        if name not in _ACTIVATIONS:
            raise ConversionError(f"activation {name!r} is none of {', '.join(_ACTIVATIONS)}")
        f, a, b = _ACTIVATIONS[name]
        a = alpha.pop(0) if name in _USES_ALPHA and alpha else a
        b = beta.pop(0) if name in _USES_BETA and beta else b
        found.append(lambda x, f=f, a=a, b=b: f(x if clip is None else F.clamp(x, -clip, clip), a, b))  # type: ignore[misc]
    return found


def _direction(
    step: Callable[[_Cell, Value, States], States], cell: _Cell, gates: Value, state: States, lens: Value | None, reverse: bool
) -> tuple[Value, States]:
    """Outputs [T, N, H] and the last states, from the input's part of the gates [T, N, G*H]."""
    if lens is None:
        last, y = F.scan(lambda old, x: ((new := step(cell, x, old)), new[0]), state, gates, reverse=reverse)
        return y, last
    alive = F.unsqueeze(F.unsqueeze(lens, 0) > F.unsqueeze(F.arange(lens.graph, gates.shape[0]), 1), 2)

    def masked(old: States, element: tuple[Value, Value]) -> tuple[States, Value]:
        x, alive = element
        new = step(cell, x, old)
        return tuple(F.where(alive, n, o) for n, o in zip(new, old, strict=True)), F.where(alive, new[0], 0.0)

    last, y = F.scan(masked, state, (gates, alive), reverse=reverse)
    return y, last


def _network(
    kind: _Kind,
    x: Value,
    weights: tuple[Value, Value, Value | None, Value | None],
    lens: Value | None,
    initial: Sequence[Value | None],
    options: dict[str, Any],
) -> list[Value]:
    """Both directions over ``x``; ``weights`` are W, R, B and P, the peepholes."""
    w, r, b, p = weights
    if options["layout"]:
        x = F.transpose(x, 0, 1)
        initial = [None if s is None else F.transpose(s, 0, 1) for s in initial]
    count, hidden, each = w.shape[0], r.shape[-1], len(kind.activations)
    named = list(options["activations"]) or list(kind.activations) * count
    act = _activations(named, options["activation_alpha"], options["activation_beta"], options["clip"])
    zeros = F.full(x.graph, (x.shape[1], hidden), 0.0, x.dtype)
    ys, lasts = list[Value](), list[States]()
    for d in range(count):
        half, gate = w.shape[1], slice(d * each, (d + 1) * each)
        gates = F.linear(x, w[d], None if b is None else b[d, :half])
        cell = _Cell(r[d], None if b is None else b[d, half:], None if p is None else p[d], act[gate], kind.flag)
        state = tuple(zeros if s is None else s[d] for s in initial)
        y, last = _direction(kind.step, cell, gates, state, lens, options["direction"] == "reverse" or d == 1)
        ys.append(y)
        lasts.append(last)
    results = [F.stack(ys, 1), *(F.stack(s) for s in zip(*lasts, strict=True))]
    if options["layout"]:
        return [F.permute(results[0], (2, 0, 1, 3)), *(F.transpose(s, 0, 1) for s in results[1:])]
    return results


@operator("RNN")
def rnn(
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    *,
    activations: Sequence[str] = (),
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
) -> list[Value]:
    options = dict(
        activations=activations,
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        clip=clip,
        direction=direction,
        layout=layout,
    )
    return _network(_Kind(_rnn_step, ["Tanh"]), x, (w, r, b, None), sequence_lens, [initial_h], options)


@operator("LSTM")
def lstm(
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    initial_c: Value | None = None,
    p: Value | None = None,
    *,
    activations: Sequence[str] = (),
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> list[Value]:
    options = dict(
        activations=activations,
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        clip=clip,
        direction=direction,
        layout=layout,
    )
    kind = _Kind(_lstm_step, ["Sigmoid", "Tanh", "Tanh"], input_forget)
    return _network(kind, x, (w, r, b, p), sequence_lens, [initial_h, initial_c], options)


@operator("GRU")
def gru(
    x: Value,
    w: Value,
    r: Value,
    b: Value | None = None,
    sequence_lens: Value | None = None,
    initial_h: Value | None = None,
    *,
    activations: Sequence[str] = (),
    activation_alpha: Sequence[float] = (),
    activation_beta: Sequence[float] = (),
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
) -> list[Value]:
    options = dict(
        activations=activations,
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        clip=clip,
        direction=direction,
        layout=layout,
    )
    kind = _Kind(_gru_step, ["Sigmoid", "Tanh"], linear_before_reset)
    return _network(kind, x, (w, r, b, None), sequence_lens, [initial_h], options)
