"""Recurrent layers and cells with torch's names, arguments and defaults."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.nn.dropout import Dropout
from graphrt.nn.init import uniform_
from graphrt.nn.module import Module, Parameter
from graphrt.ops.base import integer, tensor


def _parameter(hidden_size: int, *shape: int) -> Parameter:
    """Uniform in +-1/sqrt(hidden_size)."""
    bound = 1 / math.sqrt(hidden_size)
    return uniform_(Parameter(np.empty(shape, np.float32)), -bound, bound)


def _nonlinearity(nonlinearity: str, name: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise ArgumentError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    return f"rnn_{nonlinearity}{name}"


class _Network(Module):
    """Layers of cells over input [T, N, I] ([N, T, I] with ``batch_first``, [T, I] unbatched).

    Called with the input and, if they are not zero, the initial states [layers * directions, N, H]; gives the outputs [T, N,
    directions * H] and the last states. T is static.
    """

    gates, states = 1, 1
    function = ""  # of ops

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int = 0,
    ) -> None:
        self.input_size, self.hidden_size = integer(input_size, "input_size", 1), integer(hidden_size, "hidden_size", 1)
        self.num_layers, self.proj_size = integer(num_layers, "num_layers", 1), integer(proj_size, "proj_size", 0)
        if proj_size >= hidden_size:
            raise ArgumentError(f"proj_size must be less than hidden_size {hidden_size}, got {proj_size}")
        self.bias, self.batch_first, self.bidirectional = bias, batch_first, bidirectional
        self.dropout = Dropout(dropout).p
        self.names = list[str]()
        out, rows = proj_size or hidden_size, self.gates * hidden_size
        for layer in range(num_layers):
            width = input_size if layer == 0 else out * (2 if bidirectional else 1)
            for suffix in ("", "_reverse") if bidirectional else ("",):
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, out)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                if proj_size:
                    shapes["weight_hr"] = (proj_size, hidden_size)
                for name, shape in shapes.items():
                    self.names.append(f"{name}_l{layer}{suffix}")
                    setattr(self, self.names[-1], _parameter(hidden_size, *shape))

    def _initial(self, input: Value, hx: Any, batch: int) -> list[Value]:
        """The states as [layers * directions, N, H]; zeros when ``hx`` is None."""
        cells = self.num_layers * (2 if self.bidirectional else 1)
        sizes = [self.proj_size or self.hidden_size, self.hidden_size][: self.states]
        if hx is None:
            return [F.zeros(input.graph, (cells, batch, n), input.dtype) for n in sizes]
        given = list(hx) if isinstance(hx, list | tuple) else [hx]
        if len(given) != len(sizes):
            raise ArgumentError(f"hx must be {len(sizes)} states, got {len(given)}")
        middle = (batch,) if input.ndim == 3 else ()
        for v, n in zip(given, sizes, strict=True):
            if tensor(v, "hx").shape != (cells, *middle, n):
                raise ShapeError(f"hx must be {[cells, *middle, n]}, got {list(v.shape)}")
        return given if input.ndim == 3 else [F.unsqueeze(v, 1) for v in given]

    def forward(self, input: Value, hx: Any = None) -> tuple[Value, Any]:
        if tensor(input).ndim not in (2, 3) or input.shape[-1] != self.input_size:
            raise ShapeError(f"input must be [T, N, {self.input_size}] (or [T, {self.input_size}]), got {list(input.shape)}")
        batch_first = self.batch_first and input.ndim == 3
        x = input if input.ndim == 3 else F.unsqueeze(input, 1)
        state = self._initial(input, hx, x.shape[0 if batch_first else 1])
        params = [getattr(self, n).value(input.graph) for n in self.names]
        y, *last = F.FUNCTIONS[self.function](
            x, state, params, self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, batch_first
        )
        if input.ndim == 2:
            y, last = F.squeeze(y, 1), [F.squeeze(v, 1) for v in last]
        return y, tuple(last) if len(last) > 1 else last[0]


class RNN(_Network):
    """Elman network (1990): ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or relu by ``nonlinearity``.

    Called with the input [T, N, input_size] ([N, T, input_size] with ``batch_first``, [T, input_size] unbatched) and, if it is
    not zero, the first h [num_layers * directions, N, hidden_size]; gives the outputs [T, N, directions * hidden_size] and the
    last h. ``bidirectional`` runs over the sequence from both ends, so that directions is 2; of ``num_layers`` layers each
    reads the outputs of the one before it, with ``dropout`` of that probability between them. T is static. Parameters have
    torch's names: ``weight_ih_l0`` and so on. Raises ArgumentError; when called, ShapeError.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        self.function = _nonlinearity(nonlinearity, "")
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)


class LSTM(_Network):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997); arguments and shapes as ``RNN``.

    States are pairs (h, c). ``proj_size`` projects h, and with it the outputs, to that size (Sak et al., 2014).
    """

    gates, states, function = 4, 2, "lstm"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size)


class GRU(_Network):
    """Gated recurrent units (Cho et al., EMNLP 2014); arguments and shapes as ``RNN``."""

    gates, function = 3, "gru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ) -> None:
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional)


class _Cell(Module):
    """One step: input [N, I] (or [I]) and, if not zero, the states [N, H] give the next states."""

    gates, states = 1, 1

    def __init__(self, function: str, input_size: int, hidden_size: int, bias: bool) -> None:
        self.function = function
        self.input_size, self.hidden_size = integer(input_size, "input_size", 1), integer(hidden_size, "hidden_size", 1)
        rows = self.gates * hidden_size
        self.weight_ih = _parameter(hidden_size, rows, input_size)
        self.weight_hh = _parameter(hidden_size, rows, hidden_size)
        self.bias_ih = _parameter(hidden_size, rows) if bias else None
        self.bias_hh = _parameter(hidden_size, rows) if bias else None

    def forward(self, input: Value, hx: Any = None) -> Any:
        if tensor(input).ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ShapeError(f"input must be [N, {self.input_size}] (or [{self.input_size}]), got {list(input.shape)}")
        if hx is None:
            zeros = F.zeros(input.graph, (*input.shape[:-1], self.hidden_size), input.dtype)
            hx = zeros if self.states == 1 else (zeros,) * self.states
        parameters = (self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh)
        return F.FUNCTIONS[self.function](input, hx, *(p if p is None else p.value(input.graph) for p in parameters))


class RNNCell(_Cell):
    """One step of ``RNN``: input [N, input_size] and h [N, hidden_size] give the next h; without N as well.

    h None is zeros. ``nonlinearity`` is tanh or relu.
    """

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh") -> None:
        super().__init__(_nonlinearity(nonlinearity, "_cell"), input_size, hidden_size, bias)


class LSTMCell(_Cell):
    """One step of ``LSTM``: input [N, input_size] and (h, c), each [N, hidden_size], zeros when None, give the next (h, c)."""

    gates, states = 4, 2

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__("lstm_cell", input_size, hidden_size, bias)


class GRUCell(_Cell):
    """One step of ``GRU``: input [N, input_size] and h [N, hidden_size] give the next h; without N as well.

    h None is zeros.
    """

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True) -> None:
        super().__init__("gru_cell", input_size, hidden_size, bias)
