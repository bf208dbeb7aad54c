"""Layers of transformers with torch's names, arguments and defaults, and stacks of them.

src ─▶ encoder: attends to itself, feeds forward ─▶ memory ─┐
tgt ─▶ decoder: attends to itself, ─────────▶ to the memory, feeds forward ─▶ result
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import graphrt.ops as F
from graphrt.errors import ArgumentError
from graphrt.ir import Value
from graphrt.nn.attention import MultiheadAttention
from graphrt.nn.dropout import Dropout
from graphrt.nn.layers import Linear
from graphrt.nn.module import Module
from graphrt.nn.normalization import LayerNorm
from graphrt.ops.base import integer


def _activation(given: str | Callable[[Value], Value]) -> Callable[[Value], Value]:
    """The function that ``given`` names or is. Raises ArgumentError."""
    named: dict[Any, Callable[[Value], Value]] = {"relu": F.relu, "gelu": F.gelu}
    if callable(given):
        return given
    if given not in named:
        raise ArgumentError(f"activation must be 'relu', 'gelu' or a function, got {given!r}")
    return named[given]


class TransformerEncoderLayer(Module):
    """Self-attention and a feed-forward network, each with a residual and a layer norm (Vaswani et al., NeurIPS 2017).

    src [S, N, d_model] ([N, S, d_model] with ``batch_first``) gives a result of its shape. ``nhead`` heads as of
    ``MultiheadAttention``, whose masks it takes; ``dim_feedforward`` features between the two linear layers; ``dropout`` behind
    the attention, the activation and the second layer; ``norm_first`` puts the norms, with ``layer_norm_eps``, before each
    part. ``activation`` is "relu", "gelu" or a function of a Value.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Value], Value] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        self.activation, self.norm_first = _activation(activation), norm_first
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first)
        self.linear1, self.linear2 = Linear(d_model, dim_feedforward, bias), Linear(dim_feedforward, d_model, bias)
        self.norm1, self.norm2 = (LayerNorm(d_model, layer_norm_eps, bias=bias) for _ in range(2))
        self.dropout, self.dropout1, self.dropout2 = (Dropout(dropout) for _ in range(3))

    def forward(
        self,
        src: Value,
        src_mask: Value | None = None,
        src_key_padding_mask: Value | None = None,
        is_causal: bool = False,
    ) -> Value:
        def attend(x: Value) -> Value:
            return self.dropout1(self.self_attn(x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal)[0])

        def feed(x: Value) -> Value:
            return self.dropout2(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        if self.norm_first:
            x = src + attend(self.norm1(src))
            return x + feed(self.norm2(x))
        x = self.norm1(src + attend(src))
        return self.norm2(x + feed(x))


class TransformerDecoderLayer(Module):
    """Self-attention, attention to an encoder's ``memory``, and a feed-forward network (Vaswani et al., NeurIPS 2017).

    tgt [T, N, d_model] and memory [S, N, d_model] ([N, T, d_model] and so on with ``batch_first``) give a result of tgt's
    shape. That a position does not see later ones is said by ``tgt_mask``, bool [T, T], True above the diagonal. ``nhead``,
    ``dim_feedforward``, ``dropout``, ``activation``, ``layer_norm_eps`` and ``norm_first`` as of ``TransformerEncoderLayer``.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Callable[[Value], Value] = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ) -> None:
        self.activation, self.norm_first = _activation(activation), norm_first
        attentions = (MultiheadAttention(d_model, nhead, dropout, bias, batch_first=batch_first) for _ in range(2))
        self.self_attn, self.multihead_attn = attentions
        self.linear1, self.linear2 = Linear(d_model, dim_feedforward, bias), Linear(dim_feedforward, d_model, bias)
        self.norm1, self.norm2, self.norm3 = (LayerNorm(d_model, layer_norm_eps, bias=bias) for _ in range(3))
        self.dropout, self.dropout1, self.dropout2, self.dropout3 = (Dropout(dropout) for _ in range(4))

    def forward(
        self,
        tgt: Value,
        memory: Value,
        tgt_mask: Value | None = None,
        memory_mask: Value | None = None,
        tgt_key_padding_mask: Value | None = None,
        memory_key_padding_mask: Value | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Value:
        def attend(x: Value) -> Value:
            return self.dropout1(self.self_attn(x, x, x, tgt_key_padding_mask, False, tgt_mask, is_causal=tgt_is_causal)[0])

        def look(x: Value) -> Value:
            masks = (memory_key_padding_mask, False, memory_mask)
            return self.dropout2(self.multihead_attn(x, memory, memory, *masks, is_causal=memory_is_causal)[0])

        def feed(x: Value) -> Value:
            return self.dropout3(self.linear2(self.dropout(self.activation(self.linear1(x)))))

        x = tgt
        for norm, part in ((self.norm1, attend), (self.norm2, look), (self.norm3, feed)):
            x = x + part(norm(x)) if self.norm_first else norm(x + part(x))
        return x


class _Stack(Module):
    """Base: ``num_layers`` copies of a layer, one behind the other, all with the same starting values, and a ``norm``."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None) -> None:
        self.layers = [copy.deepcopy(layer) for _ in range(integer(num_layers, "num_layers", 1))]
        self.norm = norm

    def _through(self, x: Value, *given: Any) -> Value:
        for layer in self.layers:
            x = layer(x, *given)
        return x if self.norm is None else self.norm(x)


class TransformerEncoder(_Stack):
    """``num_layers`` copies of an ``encoder_layer``, one behind the other, and a ``norm`` behind the last, if there is one.

    What it takes and gives is what a ``TransformerEncoderLayer`` does. The copies start from the same weights, as in torch.
    Raises ArgumentError.
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(encoder_layer, num_layers, norm)

    def forward(
        self, src: Value, mask: Value | None = None, src_key_padding_mask: Value | None = None, is_causal: bool = False
    ) -> Value:
        return self._through(src, mask, src_key_padding_mask, is_causal)


class TransformerDecoder(_Stack):
    """``num_layers`` copies of a ``decoder_layer``, one behind the other, and a ``norm`` behind the last, if there is one.

    What it takes and gives is what a ``TransformerDecoderLayer`` does; each layer attends to the same memory. The copies start
    from the same weights, as in torch. Raises ArgumentError.
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Value,
        memory: Value,
        tgt_mask: Value | None = None,
        memory_mask: Value | None = None,
        tgt_key_padding_mask: Value | None = None,
        memory_key_padding_mask: Value | None = None,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Value:
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        return self._through(tgt, memory, *masks, tgt_is_causal, memory_is_causal)
