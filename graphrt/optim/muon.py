"""Muon: momentum that is made orthogonal, for the matrices of a network, and another optimizer for the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Graph, Value
from graphrt.optim.adam import AdamW
from graphrt.optim.optimizer import Optimizer
from graphrt.optim.sgd import norm


@dataclass(eq=False, repr=False)
class Muon(Optimizer):
    """Momentum, made orthogonal by Newton-Schulz iterations (Jordan et al., "Muon", 2024), as torch.optim.Muon.

    ``v = momentum * v + (1 - momentum) * g``; with ``nesterov`` ``(1 - momentum) * g + momentum * v`` is made orthogonal, and
    without ``v``: ``ns_steps`` iterations ``X = a X + (b A + c A A) X`` with ``A = X X'`` and ``ns_coefficients`` a, b, c, from
    that matrix over its norm, at least ``eps``. Then ``p = (1 - lr * weight_decay) * p - lr * s * X``, where s is
    ``sqrt(max(1, rows / columns))`` for ``adjust_lr_fn`` None or "original", and ``0.2 * sqrt(max(rows, columns))`` for
    "match_rms_adamw". The weight of a convolution is a matrix of a row for each output channel. The iterations are float32,
    where torch's are bfloat16.

    Parameters that are vectors, such as biases, scales of norms and whatever else has one row or one column, are ``beside``'s,
    AdamW at a rate of 3e-4 where it is left out; ``groups`` come first. The authors give it embeddings and the last layer too:
    ``Muon(0.02, groups=[("embedding.*", AdamW(3e-4))])``. Other arguments as of ``Optimizer``. Raises ArgumentError for
    negative arguments and an unknown ``adjust_lr_fn``.
    """

    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: float = 1e-7
    ns_steps: int = 5
    adjust_lr_fn: str | None = None
    beside: Optimizer | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._groups.append((_is_vector, self._group((_is_vector, self.beside or AdamW(3e-4, name=self.name)))[1]))

    def _check(self) -> None:
        super()._check()
        if self.adjust_lr_fn not in (None, "original", "match_rms_adamw"):
            raise ArgumentError(f'adjust_lr_fn must be None, "original" or "match_rms_adamw", got {self.adjust_lr_fn!r}')

    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        moved = self._moment(graph, name, "momentum", p, lambda v: v + (g - v) * (1.0 - self.momentum))
        step = g + (moved - g) * self.momentum if self.nesterov else moved
        rows, columns = p.shape[0], math.prod(p.shape[1:])
        matrix = F.reshape(step, (rows, columns))
        whole = F.reshape(self._orthogonal(matrix), p.shape)
        scale = 0.2 * max(rows, columns) ** 0.5 if self.adjust_lr_fn == "match_rms_adamw" else max(1.0, rows / columns) ** 0.5
        return self._shrunk(p, lr, self.weight_decay) - whole * (lr * scale)

    def _orthogonal(self, matrix: Value) -> Value:
        """Nearly U V' of the matrix U S V'."""
        a, b, c = self.ns_coefficients
        tall = matrix.shape[0] > matrix.shape[1]
        x = F.transpose(matrix, 0, 1) if tall else matrix
        x = x / F.maximum(norm(x), self.eps)
        for _ in range(self.ns_steps):
            gram = x @ F.transpose(x, 0, 1)
            x = x * a + (gram * b + (gram @ gram) * c) @ x
        return F.transpose(x, 0, 1) if tall else x


def _is_vector(p: Value) -> bool:
    """Whether it is no matrix: of one dimension, one row or one column."""
    return p.ndim < 2 or 1 in (p.shape[0], math.prod(p.shape[1:]))
