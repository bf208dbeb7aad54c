"""Language models: a transformer as GPT-2 has it, and a recurrent network over characters."""

from __future__ import annotations

import graphrt.ops as F
from graphrt import nn
from graphrt.ir import Value


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and those before it."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        self.c_attn, self.c_proj = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.heads, self.resid_dropout = heads, nn.Dropout(dropout)

    def forward(self, input: Value) -> Value:
        batch, length, size = input.shape
        parts = F.chunk(self.c_attn(input), 3, 2)
        q, k, v = (F.transpose(F.reshape(p, (batch, length, self.heads, size // self.heads)), 1, 2) for p in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.resid_dropout(self.c_proj(F.reshape(F.transpose(y, 1, 2), (batch, length, size))))


class GPTBlock(nn.Module):
    """Attention and two layers, each behind a norm and beside a shortcut."""

    def __init__(self, size: int, heads: int, dropout: float) -> None:
        self.ln_1, self.attn, self.ln_2 = nn.LayerNorm(size), CausalSelfAttention(size, heads, dropout), nn.LayerNorm(size)
        wide = {"c_fc": nn.Linear(size, 4 * size), "act": nn.GELU("tanh"), "c_proj": nn.Linear(4 * size, size)}
        self.mlp = nn.Sequential({**wide, "dropout": nn.Dropout(dropout)})

    def forward(self, input: Value) -> Value:
        x = input + self.attn(self.ln_1(input))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """Integers [N, T] -> logits [N, vocab, T] of the next ones; names of parameters as GPT-2's."""

    def __init__(self, vocab: int, length: int, size: int, depth: int, heads: int, dropout: float = 0.0) -> None:
        self.wte, self.wpe = nn.Embedding(vocab, size), nn.Embedding(length, size)
        self.drop, self.ln_f = nn.Dropout(dropout), nn.LayerNorm(size)
        self.h = nn.Sequential(*(GPTBlock(size, heads, dropout) for _ in range(depth)))
        for name, p in self.named_parameters():
            if p.ndim > 1:  # the way out of a block is narrower, so that what is added up over the depth keeps its size
                nn.init.normal_(p, std=0.02 / ((2 * depth) ** 0.5 if name.endswith("c_proj.weight") else 1.0))
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, input: Value) -> Value:
        x = self.drop(self.wte(input) + self.wpe.weight.value(input.graph)[: input.shape[1]])
        logits = F.linear(self.ln_f(self.h(x)), self.wte.weight.value(input.graph))
        return F.transpose(logits, 1, 2)


def gpt2(vocab: int = 50257, length: int = 1024, dropout: float = 0.1) -> nn.Module:
    """Integers [N, T] -> logits [N, vocab, T], T up to ``length``; 124,439,808 parameters by default.

    Radford et al., "Language models are unsupervised multitask learners", 2019: the smallest GPT-2, whose last layer shares the
    table of its first. ``vocab`` is the number of tokens, ``dropout`` that of all parts.
    """
    return GPT(vocab, length, 768, 12, 12, dropout)


def gpt_small(vocab: int = 128, length: int = 64, dropout: float = 0.0) -> nn.Module:
    """``gpt2`` of 4 layers, 4 heads and 128 channels, for characters; 817,920 parameters by default; arguments as there.

    ``vocab`` is the number of characters, ``length`` the most positions, ``dropout`` that of all parts.
    """
    return GPT(vocab, length, 128, 4, 4, dropout)


class CharLSTM(nn.Module):
    """Integers [N, T] -> logits [N, vocab, T] of the next ones."""

    def __init__(self, vocab: int, size: int, hidden: int, layers: int, dropout: float) -> None:
        self.embedding = nn.Embedding(vocab, size)
        self.lstm = nn.LSTM(size, hidden, layers, batch_first=True, dropout=dropout)
        self.head = nn.Linear(hidden, vocab)

    def forward(self, input: Value) -> Value:
        found, _ = self.lstm(self.embedding(input))
        return F.transpose(self.head(found), 1, 2)


def char_lstm(vocab: int = 128, size: int = 32, hidden: int = 128, layers: int = 1, dropout: float = 0.0) -> nn.Module:
    """Integers [N, T] -> logits [N, vocab, T]: characters of ``vocab``, a table of ``size`` numbers each, an LSTM.

    It has ``layers`` of ``hidden`` units with ``dropout`` between them; 103,552 parameters by default. Graves, "Generating
    sequences with recurrent neural networks", 2013.
    """
    return CharLSTM(vocab, size, hidden, layers, dropout)
