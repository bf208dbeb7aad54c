"""One time step of recurrent networks."""

from __future__ import annotations

import torch
from torch import Tensor

import graphrt.ops as F
from graphrt.bench.builder import Builder, Pattern, Sizes
from graphrt.ir import Value

STEP = {"n": (3, 16, 256), "i": (5, 256, 1024), "h": (4, 256, 1024)}


def _weights(b: Builder, gates: int) -> list[Value]:
    rows = gates * b["h"]
    w_ih, w_hh = b.parameter("w_ih", rows, "i"), b.parameter("w_hh", rows, "h")
    return [w_ih, w_hh, b.parameter("b_ih", rows), b.parameter("b_hh", rows)]


def _lstm_cell(b: Builder) -> tuple[Value, ...]:
    x, h, c = b.input("x", "n", "i"), b.input("h", "n", "h"), b.input("c", "n", "h")
    return F.lstm_cell(x, (h, c), *_weights(b, 4))


def _torch_lstm_cell(_: Sizes, x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    return torch.lstm_cell(x, (h, c), *weights)


def _gru_cell(b: Builder) -> Value:
    x, h = b.input("x", "n", "i"), b.input("h", "n", "h")
    return F.gru_cell(x, h, *_weights(b, 3))


PATTERNS = (
    Pattern(
        "lstm_cell",
        "recurrent",
        "one step of an LSTM: two products, whose sum and gates are one launch",
        _lstm_cell,
        STEP,
        _torch_lstm_cell,
    ),
    Pattern(
        "gru_cell",
        "recurrent",
        "one step of a GRU: two products, and one launch for the gates",
        _gru_cell,
        STEP,
        lambda _, *operands: torch.gru_cell(*operands),
    ),
)
