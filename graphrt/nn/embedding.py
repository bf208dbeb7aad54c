"""Tables of rows that are read by number, with torch's names, arguments and defaults."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np

import graphrt.ops as F
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.nn.init import normal_
from graphrt.nn.module import Module, Parameter
from graphrt.ops.base import dim_index, integer
from graphrt.runtime.arrays import to_numpy

T = TypeVar("T", bound="_Table")


class _Table(Module):
    """A ``weight`` [num_embeddings, embedding_dim] from the normal distribution, zeros in the row ``padding_idx``.

    The row ``padding_idx`` gets no gradient. Rows whose ``norm_type`` norm exceeds ``max_norm`` are scaled down to it when they
    are read, in training for good. ``scale_grad_by_freq`` divides the gradient of a row by how often it is read. Raises
    ArgumentError, for ``sparse`` too: gradients are dense.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None,
        max_norm: float | None,
        norm_type: float,
        scale_grad_by_freq: bool,
        sparse: bool,
    ) -> None:
        if sparse:
            raise ArgumentError("graphrt has no sparse gradients; leave sparse out: the results are the same")
        self.num_embeddings = integer(num_embeddings, "num_embeddings", 1)
        self.embedding_dim = integer(embedding_dim, "embedding_dim", 1)
        self.padding_idx = None if padding_idx is None else dim_index(padding_idx, num_embeddings, "padding_idx")
        self.max_norm, self.norm_type, self.scale_grad_by_freq = max_norm, norm_type, scale_grad_by_freq
        self.weight = normal_(Parameter(np.empty((num_embeddings, embedding_dim), np.float32)))
        if self.padding_idx is not None:
            self.weight.array[self.padding_idx] = 0.0

    @classmethod
    def from_pretrained(cls: type[T], embeddings: Any, freeze: bool = True, **options: Any) -> T:
        """A layer of the rows ``embeddings`` [V, D], an array or tensor that is copied; ``freeze`` keeps the optimizer away.

        ``options`` are those of the constructor. Raises ShapeError.
        """
        rows = to_numpy(embeddings)
        if rows.ndim != 2:
            raise ShapeError(f"embeddings must be [V, D], got {list(rows.shape)}")
        table = cls(*rows.shape, **options)
        table.weight = Parameter(rows, trainable=not freeze)
        return table

    def _rows(self, input: Value) -> Value:
        """The table in the graph of ``input``, of which ``input`` names rows."""
        weight = self.weight.value(input.graph)
        if self.max_norm is not None and self.training:
            graph = input.graph
            graph.advance(weight, F.embedding_renorm(graph.latest(weight), input, self.max_norm, self.norm_type))
        return weight


class Embedding(_Table):
    __doc__ = f"""The rows [..., embedding_dim] that integers [...] name; NaN for one that names none, where torch raises.

    {_Table.__doc__}"""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)

    def forward(self, input: Value) -> Value:
        weight = self._rows(input)
        return F.embedding(input, weight, self.padding_idx, self.max_norm, self.norm_type, self.scale_grad_by_freq)


class EmbeddingBag(_Table):
    __doc__ = f"""Sums, means or maxima of bags of rows, as [B, embedding_dim].

    ``mode`` is sum, mean or max; the row ``padding_idx`` takes no part. Called with integers ``input`` [B, L], or [N] and where
    each bag starts, ``offsets`` [B], of which ``include_last_offset`` has one more, the end; and, for "sum",
    ``per_sample_weights`` of the shape of ``input``. Raises ShapeError, DTypeError, ArgumentError when called.

    {_Table.__doc__}"""

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        mode: str = "mean",
        sparse: bool = False,
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
        self.mode, self.include_last_offset = mode, include_last_offset

    def forward(self, input: Value, offsets: Value | None = None, per_sample_weights: Value | None = None) -> Value:
        return F.embedding_bag(
            input,
            self._rows(input),
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )
