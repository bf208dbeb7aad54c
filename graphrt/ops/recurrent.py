"""Recurrent networks: cells, and networks of them, which are loops over the time steps of a sequence of static length.

    x [T, N, I] -- one matmul for all steps --> gates [T, N, G*H];   step t: gates[t] + h @ w_hh.T --> next h

Elman (1990); Hochreiter and Schmidhuber, "Long Short-Term Memory", 1997; Cho et al., the gated unit (GRU), EMNLP 2014.
Names, arguments and gate order follow torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import function, integer, require_float, tensor
from graphrt.ops.dropout import dropout as _dropout
from graphrt.ops.elementwise import relu, sigmoid, tanh
from graphrt.ops.loop import scan
from graphrt.ops.matmul import linear
from graphrt.ops.movement import chunk, unbind
from graphrt.ops.slicing import concat, stack
from graphrt.ops.view import transpose

State = tuple[Value, ...]


@dataclass(frozen=True)
class _Cell:
    """One kind of cell: its gates, its states, and the step from the two products to the next states, the output first."""

    gates: int
    states: int
    step: Callable[[Value, Value, State], State]
    apart: bool = False  # the recurrent product is used on its own, so its bias stays with it


def _lstm_step(x: Value, h: Value, state: State) -> State:
    i, f, g, o = chunk(x + h, 4, -1)
    c = sigmoid(f) * state[1] + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def _gru_step(x: Value, h: Value, state: State) -> State:
    (xr, xz, xn), (hr, hz, hn) = chunk(x, 3, -1), chunk(h, 3, -1)
    n = tanh(xn + sigmoid(xr + hr) * hn)
    return (n + sigmoid(xz + hz) * (state[0] - n),)


_TANH = _Cell(1, 1, lambda x, h, state: (tanh(x + h),))
_RELU = _Cell(1, 1, lambda x, h, state: (relu(x + h),))
_LSTM = _Cell(4, 2, _lstm_step)
_GRU = _Cell(3, 1, _gru_step, apart=True)


@dataclass(frozen=True)
class _Weights:
    """The parameters of one cell; ``w_hr`` projects the output of an LSTM (Sak et al., 2014)."""

    w_ih: Value
    w_hh: Value
    b_ih: Value | None = None
    b_hh: Value | None = None
    w_hr: Value | None = None

    def check(self, cell: _Cell, inputs: int, state: Sequence[Value]) -> None:
        """Raises ShapeError when the parameters, ``inputs`` features and the states do not fit one another."""
        named = {"w_ih": self.w_ih, "w_hh": self.w_hh, "b_ih": self.b_ih, "b_hh": self.b_hh, "w_hr": self.w_hr}
        given = {k: tensor(v, k) for k, v in named.items() if v is not None}
        out, hidden = state[0].shape[-1], state[-1].shape[-1]
        rows = cell.gates * hidden
        wanted = {"w_ih": (rows, inputs), "w_hh": (rows, out), "b_ih": (rows,), "b_hh": (rows,), "w_hr": (out, hidden)}
        for name, v in given.items():
            if v.shape != wanted[name]:
                raise ShapeError(f"{name} must be {list(wanted[name])}, got {list(v.shape)}")
        if ("b_ih" in given) != ("b_hh" in given) or (out != hidden and self.w_hr is None):
            raise ShapeError(f"b_ih and b_hh go together, and a state of size {out} beside {hidden} needs w_hr")

    def inputs(self, cell: _Cell, x: Value) -> Value:
        """The product with the input: both biases, where the step only adds the two products."""
        bias = self.b_ih if cell.apart or self.b_ih is None or self.b_hh is None else self.b_ih + self.b_hh
        return linear(x, self.w_ih, bias)

    def step(self, cell: _Cell, x: Value, state: State) -> State:
        """The next states from the input's product and the states."""
        h, *rest = cell.step(x, linear(state[0], self.w_hh, self.b_hh if cell.apart else None), state)
        return (h if self.w_hr is None else linear(h, self.w_hr), *rest)


# --- cells -------------------------------------------------------------------------------------------------------


def _run_cell(cell: _Cell, input: Value, hx: Any, *parameters: Value | None) -> State:
    states = tuple(hx) if isinstance(hx, list | tuple) else (hx,)
    if len(states) != cell.states:
        raise ArgumentError(f"hx must be {cell.states} Value{'s' * (cell.states > 1)}, got {len(states)}")
    require_float(input.dtype, "input")
    lead = input.shape[:-1]
    if input.ndim not in (1, 2) or any(tensor(s, "hx").shape[:-1] != lead or s.ndim != input.ndim for s in states):
        raise ShapeError(
            f"input [N, I] (or [I]) needs states [N, H], got {list(input.shape)}, {[list(s.shape) for s in states]}"
        )
    weights = _Weights(*parameters)  # type: ignore[arg-type]
    weights.check(cell, input.shape[-1], states)
    return weights.step(cell, weights.inputs(cell, input), states)


@function
def rnn_tanh_cell(
    input: Value, hx: Value, w_ih: Value, w_hh: Value, b_ih: Value | None = None, b_hh: Value | None = None
) -> Value:
    """``tanh(input @ w_ih.T + b_ih + hx @ w_hh.T + b_hh)``: the next h of an Elman network (1990).

    input [N, I], hx [N, H], w_ih [H, I], w_hh [H, H], b_ih and b_hh [H].
    """
    return _run_cell(_TANH, input, hx, w_ih, w_hh, b_ih, b_hh)[0]


@function
def rnn_relu_cell(
    input: Value, hx: Value, w_ih: Value, w_hh: Value, b_ih: Value | None = None, b_hh: Value | None = None
) -> Value:
    """``relu`` of what is the same as in ``rnn_tanh_cell``, which says what the operands are."""
    return _run_cell(_RELU, input, hx, w_ih, w_hh, b_ih, b_hh)[0]


@function
def lstm_cell(
    input: Value, hx: Sequence[Value], w_ih: Value, w_hh: Value, b_ih: Value | None = None, b_hh: Value | None = None
) -> State:
    """The next (h, c) of an LSTM from input [N, I] and ``hx`` (h, c), each [N, H].

    ``w_ih`` [4H, I], ``w_hh`` [4H, H], ``b_ih`` and ``b_hh`` [4H], gates in the order i, f, g, o.
    """
    return _run_cell(_LSTM, input, hx, w_ih, w_hh, b_ih, b_hh)


@function
def gru_cell(input: Value, hx: Value, w_ih: Value, w_hh: Value, b_ih: Value | None = None, b_hh: Value | None = None) -> Value:
    """The next h of a GRU from input [N, I] and ``hx`` [N, H].

    ``w_ih`` [3H, I], ``w_hh`` [3H, H], ``b_ih`` and ``b_hh`` [3H], gates in the order r, z, n.
    """
    return _run_cell(_GRU, input, hx, w_ih, w_hh, b_ih, b_hh)[0]


# --- networks ----------------------------------------------------------------------------------------------------


def _direction(cell: _Cell, input: Value, state: State, weights: _Weights, reverse: bool) -> tuple[Value, State]:
    """One layer in one direction: [T, N, I] and states [N, H] give the outputs [T, N, H] and the last states."""
    weights.check(cell, input.shape[-1], state)

    def step(state: State, x: Value) -> tuple[State, Value]:
        after = weights.step(cell, x, state)
        return after, after[0]

    last, outputs = scan(step, state, weights.inputs(cell, input), reverse=reverse)
    return outputs, last


def _layers(cell: _Cell, x: Value, states: State, layers: list[list[_Weights]], drop: Callable[[Value], Value]) -> State:
    """Layers over layers, each in one or two directions, ``drop`` between them: [T, N, I] gives outputs and last states."""
    initial = list(zip(*(unbind(s, 0) for s in states), strict=True))
    last = list[State]()
    for i, directions in enumerate(layers):
        x, outputs = drop(x) if i else x, list[Value]()
        for reverse, weights in zip((False, True), directions, strict=False):
            y, state = _direction(cell, x, initial[len(last)], weights, reverse)
            outputs.append(y)
            last.append(state)
        x = concat(outputs, -1)
    return (x, *(stack(s) for s in zip(*last, strict=True)))


def _check_network(cell: _Cell, x: Value, states: State, cells: int) -> None:
    """Raises DTypeError, ShapeError when x [T, N, I] and the states [cells, N, H] do not fit."""
    require_float(x.dtype, "input")
    if len(states) != cell.states or x.ndim != 3:
        raise ShapeError(f"a recurrent network needs a 3-D input and {cell.states} states, got {x!r} and {len(states)}")
    if any(tensor(s, "hx").ndim != 3 or s.shape[:2] != (cells, x.shape[1]) for s in states):
        raise ShapeError(f"states must be [{cells}, {x.shape[1]}, H], got {[list(s.shape) for s in states]}")
    if x.shape[0] == 0:
        raise ShapeError(f"a sequence needs at least one step, got [T, N, I] {list(x.shape)}")


def _by_layer(params: Sequence[Value], has_biases: bool, num_layers: int, directions: int) -> list[list[_Weights]]:
    """w_ih, w_hh, b_ih, b_hh, w_hr, as far as there are, for each direction of each layer."""
    cells = num_layers * directions
    if not isinstance(params, list | tuple) or len(params) % cells or not 2 <= (each := len(params) // cells) <= 5:
        raise ArgumentError(f"params must hold the parameters of {cells} cells one after the other")
    weights = [_weights(params[i * each : (i + 1) * each], has_biases) for i in range(cells)]
    return [weights[i : i + directions] for i in range(0, cells, directions)]


def _weights(params: Sequence[Value], has_biases: bool) -> _Weights:
    count = 4 if has_biases else 2
    if len(params) not in (count, count + 1):
        raise ArgumentError(f"params needs {count} tensors a cell, or one more for w_hr, got {len(params)}")
    biases = params[2:4] if has_biases else (None, None)
    return _Weights(*params[:2], *biases, *params[count:])


def _network_function(name: str, cell: _Cell, doc: str) -> Callable[..., State]:
    def f(
        input: Value,
        hx: Any,
        params: Sequence[Value],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> State:
        states, directions = tuple(hx) if isinstance(hx, list | tuple) else (hx,), 2 if bidirectional else 1
        x = transpose(input, 0, 1) if batch_first and input.ndim == 3 else input
        _check_network(cell, x, states, integer(num_layers, "num_layers", 1) * directions)
        layers = _by_layer(params, has_biases, num_layers, directions)
        y, *last = _layers(cell, x, states, layers, lambda v: _dropout(v, dropout, train))
        return (transpose(y, 0, 1) if batch_first else y, *last)

    f.__name__, f.__doc__ = name, doc
    return function(f)


rnn_tanh = _network_function(
    "rnn_tanh",
    _TANH,
    """Outputs [T, N, D*H] and last states [num_layers*D, N, H] of layers of tanh cells over input [T, N, I].

    D is 2 if ``bidirectional``, else 1; with ``batch_first`` input and outputs are [N, T, ...]. ``hx`` has the first states.
    ``params`` lists w_ih, w_hh and, with ``has_biases``, b_ih and b_hh, of each direction of each layer. ``dropout`` is the
    probability of dropping elements between layers, in ``train`` only. T is static.
    """,
)
rnn_relu = _network_function("rnn_relu", _RELU, "``rnn_tanh`` with relu cells; all arguments as in ``rnn_tanh``.")
lstm = _network_function(
    "lstm", _LSTM, "Outputs, last h and last c of LSTM layers; ``hx`` is (h, c), the other arguments as in ``rnn_tanh``."
)
gru = _network_function("gru", _GRU, "Outputs and last h of GRU layers; arguments as in ``rnn_tanh``.")
