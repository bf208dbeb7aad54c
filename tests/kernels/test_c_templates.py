"""The C templates by themselves, with closures written here by hand and NumPy in float64 as the oracle.

Every case becomes one group of its template's C file, which is compiled, as the compiler's own programs are, for the first
test that needs it. The closures note an index out of range and count the stores of each element; outputs start as NaN. Each
case runs on the pool and again in one thread with its tasks in reverse, and must give the same bits; there scratch memory is
NaN at first, as long as was asked for, and what is written behind it is noted too.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import graphrt
from graphrt.targets.cpu.build import FLAGS, compiler, headers, options, vector_bytes
from graphrt.targets.cpu.template import included
from graphrt.targets.cpu.variants import Processor, choose

HEAD = r"""
#include "program.c"
#include "elementwise.h"
const grt_plan GRT_PLAN;
static int outside;
enum { FENCE = 8192 };
static struct { char *memory; size_t size; } fenced[2];
static void look_at_fences(void) {
  for (int kind = 0; kind < 2; kind++)
    for (size_t i = 0; fenced[kind].memory && i < FENCE; i++) {
      char *fence = &fenced[kind].memory[fenced[kind].size + i];
      outside |= *fence != 0x5A, *fence = 0x5A;
    }
}
static void *fenced_memory(int kind, size_t bytes) {
  look_at_fences();
  free(fenced[kind].memory);
  fenced[kind].memory = aligned_alloc(64, (bytes + FENCE + 63) / 64 * 64);
  memset(fenced[kind].memory, 0xFF, bytes);
  memset(fenced[kind].memory + bytes, 0x5A, FENCE);
  fenced[kind].size = bytes;
  return fenced[kind].memory;
}
int take_outside(void) { look_at_fences(); const int o = outside; outside = 0; return o; }
static void backwards(grt_task task, long tasks, void **buf) { while (tasks-- > 0) task(tasks, buf); }
void bind_backwards(void) { grt_bind(backwards, fenced_memory, GRT_TRY, GRT_ALONE); }
"""
CTYPES: dict[str, Any] = {"float": np.float32, "double": np.float64}


def offset(dims: str, sizes: Sequence[int], order: str) -> str:
    """The C text of an element's offset: letters ``dims`` with ``sizes``, stored in ``order`` from the outermost."""
    stride, terms = 1, []
    for letter in reversed(order):
        terms.append(f"{letter} * {stride}")
        stride *= sizes[dims.index(letter)]
    return " + ".join(terms)


def pixel(dims: str, rows: int, columns: int, stride: tuple[int, int] = (1, 1)) -> str:
    """C text that finds image, row and column, three of ``dims``, by the number of a pixel that is given as the column."""
    image, row, column = dims[0], dims[2], dims[3]
    at = f"{row} = {column} / {columns} % {rows} * {stride[0]}; {column} = {column} % {columns} * {stride[1]};"
    return f"  {image} = {column} / {rows * columns}; {at}\n"


def closure(
    name: str, kind: str, slot: int, dims: str, sizes: Sequence[int], order: str, shift: int = 0, first: str = ""
) -> str:
    """A loader (returns x + shift, so padding that goes through it shows), which begins with the text ``first``."""
    params = ", ".join(f"int {d}" for d in dims)
    check = " | ".join(f"((unsigned){d} >= {n}u)" for d, n in zip(dims, sizes, strict=True))
    at = offset(dims, sizes, order)
    extra = f" + {shift}" if shift else ""
    return (
        f"GRT_INLINE {kind} {name}(void *const *restrict buf, {params}) {{\n{first}  if ({check}) outside = 1;\n"
        f"  return ((const {kind} *)buf[{slot}])[{at}]{extra}; }}"
    )


def store(
    name: str, kind: str, slot: int, dims: str, sizes: Sequence[int], order: str, index: bool = False, first: str = ""
) -> str:
    """The store of value (and index, in slot + 2), which begins with ``first``; slot + 1 counts the stores of each element."""
    params = ", ".join(f"int {d}" for d in dims) + f", {kind} value" + (", int index" if index else "")
    check = " | ".join(f"((unsigned){d} >= {n}u)" for d, n in zip(dims, sizes, strict=True))
    also = f" ((int *)buf[{slot + 2}])[at] = index;" if index else ""
    return (
        f"GRT_INLINE void {name}(void *const *restrict buf, {params}) {{\n{first}  if ({check}) outside = 1;\n"
        f"  const int at = {offset(dims, sizes, order)};\n"
        f"  ((int *)buf[{slot + 1}])[at] += 1; (({kind} *)buf[{slot}])[at] = value;{also} }}"
    )


def group(name: str, header: str, closures: Sequence[str], macros: dict[str, object]) -> str:
    opened = f"typedef void *const *{name}_buffers;\nGRT_INLINE {name}_buffers {name}_open(void **table) {{ return table; }}"
    template = included(header, {"NAME": name, "FROZEN": 0, **macros})
    return "\n".join([opened, *closures, *template, f"void run_{name}(void **buf) {{ {name}(buf); }}", ""])


def variant(template: str, kind: str, sizes: dict[str, int], last: bool = False, winograd: int = 0) -> dict[str, str]:
    """The macros that name the loops of ``template``, as the compiler chooses them."""
    chosen = choose(template, sizes, last, False, Processor(vector_bytes() // np.dtype(CTYPES[kind]).itemsize, winograd))
    return chosen.macros if chosen else {}


def lay(x: np.ndarray, dims: str, order: str) -> np.ndarray:
    return np.ascontiguousarray(x.transpose([dims.index(d) for d in order]))


def unlay(x: np.ndarray, dims: str, order: str) -> np.ndarray:
    return x.transpose([order.index(d) for d in dims])


def shaped(dims: str, sizes: Sequence[int], order: str) -> tuple[int, ...]:
    return tuple(sizes[dims.index(d)] for d in order)


# --- matmul ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Matmul:
    b: int
    m: int
    n: int
    k: int
    a_fast_m: int = 0
    b_fast_n: int = 1
    kind: str = "float"
    a_direct: int = 0
    b_direct: int = 0

    def text(self, name: str) -> str:
        a, b = "bkm" if self.a_fast_m else "bmk", "bkn" if self.b_fast_n else "bnk"
        macros = {
            **{"T": self.kind, "BATCH": self.b, "M": self.m, "N": self.n, "K": self.k},
            **{"LOAD_A": f"{name}_a", "LOAD_B": f"{name}_b", "STORE_C": f"{name}_store"},
            **{"A_FAST_M": self.a_fast_m, "B_FAST_N": self.b_fast_n, "A_DIRECT": self.a_direct},
            **{"B_DIRECT": self.b_direct, **variant("matmul", self.kind, {"M": self.m, "N": self.n})},
        }
        closures = [
            closure(f"{name}_a", self.kind, 0, "bmk", (self.b, self.m, self.k), a, shift=1),
            closure(f"{name}_b", self.kind, 1, "bkn", (self.b, self.k, self.n), b),
            store(f"{name}_store", self.kind, 2, "bmn", (self.b, self.m, self.n), "bmn"),
        ]
        return group(name, "matmul.h", closures, macros)

    def data(self, rng: np.random.Generator) -> tuple[list[np.ndarray], tuple[int, ...], np.ndarray]:
        kind = CTYPES[self.kind]
        a, b = (rng.standard_normal(s).astype(kind) for s in ((self.b, self.m, self.k), (self.b, self.k, self.n)))
        expected = (a.astype(np.float64) + 1) @ b.astype(np.float64)
        arrays = [lay(a, "bmk", "bkm" if self.a_fast_m else "bmk"), lay(b, "bkn", "bkn" if self.b_fast_n else "bnk")]
        return arrays, expected.shape, expected

    def result(self, y: np.ndarray) -> np.ndarray:
        return y

    def terms(self) -> int:
        return self.k


MATMULS = [
    *(Matmul(1, 37, 29, 53, a, b, kind) for a, b, kind in product((0, 1), (0, 1), ("float", "double"))),
    *(Matmul(*s) for s in ((1, 64, 10, 84), (3, 1, 1, 1), (2, 7, 33, 1), (1, 1, 100, 9), (1, 130, 70, 800), (1, 50, 1, 20))),
    *(Matmul(*s, b_fast_n=0, a_direct=1, kind=kind) for s in ((1, 37, 40, 70), (2, 5, 70, 400)) for kind in CTYPES),
    *(Matmul(*s, b_direct=1) for s in ((1, 37, 64, 70), (2, 5, 70, 800), (1, 130, 200, 9), (1, 9, 11, 30), (1, 300, 40, 8))),
    *(Matmul(*s, a_fast_m=1, b_direct=1, kind="double") for s in ((1, 20, 784, 64), (2, 11, 39, 600))),
    *(Matmul(1, 8, 71, 1100, b_fast_n=fast) for fast in (0, 1)),  # few rows, sums of several blocks
    Matmul(2, 5, 9, 0),  # an empty sum is zero, and is stored
]

# --- convolution and its gradients -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Conv:
    n: int
    c: int
    h: int
    w: int
    k: int
    r: int
    s: int
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int, int, int] = (0, 0, 0, 0)  # top, bottom, left, right
    dil: tuple[int, int] = (1, 1)
    groups: int = 1
    kind: str = "float"
    last: bool = True  # channels last
    op: str = "conv"
    splits: int = 2
    filter: str = ""  # memory order of w, if not that of the layout
    winograd: int = 0
    direct: int = 1  # whether loading is declared to be no more than that

    @property
    def out(self) -> tuple[int, int]:
        (top, bottom, left, right), (dh, dw) = self.pad, self.dil
        p = (self.h + top + bottom - (self.r - 1) * dh - 1) // self.stride[0] + 1
        return p, (self.w + left + right - (self.s - 1) * dw - 1) // self.stride[1] + 1

    def sizes(self, dims: str) -> tuple[int, ...]:
        p, q = self.out
        named = {"n": self.n, "c": self.c, "h": self.h, "w": self.w, "k": self.k, "p": p, "q": q, "r": self.r, "s": self.s}
        named |= {"d": self.c // self.groups, "z": self.splits}  # d: a channel inside its group; z: a split
        return tuple(named[d] for d in dims)

    def orders(self) -> tuple[str, str, str]:
        """Memory order of x, dy and w."""
        x, dy, w = ("nhwc", "npqk", "krsd") if self.last else ("nchw", "nkpq", "kdrs")
        return x, dy, self.filter or w

    def macros(self, name: str) -> dict[str, object]:
        p, q = self.out
        last = int(self.last)
        return {
            **{"W_FAST_K": int(self.filter.endswith("k"))},
            **{"T": self.kind, "CN": self.n, "CC": self.c, "CH": self.h, "CW": self.w, "CK": self.k},
            **{"CR": self.r, "CS": self.s, "CP": p, "CQ": q, "STRIDE_H": self.stride[0], "STRIDE_W": self.stride[1]},
            **{"PAD_H": self.pad[0], "PAD_W": self.pad[2], "DIL_H": self.dil[0], "DIL_W": self.dil[1]},
            **{"GROUPS": self.groups, "X_CHANNELS_LAST": last},
            **{"X_DIRECT": self.direct, "DY_DIRECT": self.direct, "STORE": f"{name}_store"},
        }

    def variant(self, template: str) -> dict[str, str]:
        letters = {name[-1] if len(name) == 2 else name: n for name, n in self.macros("").items() if isinstance(n, int)}
        return variant(template, self.kind, letters, self.last, self.winograd)

    def text(self, name: str) -> str:
        macros, (x, dy, w) = {**self.macros(name), **self.variant(self.op)}, self.orders()
        by_number = macros.get("VARIANT") == '"conv_pointwise.h"'

        def first(dims: str) -> str:
            if not by_number or dims not in ("nchw", "nkpq"):
                return ""
            return pixel(dims, *self.out, self.stride if self.op == "conv" and dims == "nchw" else (1, 1))

        def load(letter: str, slot: int, dims: str, order: str, shift: int) -> str:
            macros[f"LOAD_{letter}"] = f"{name}_{letter}"
            return closure(f"{name}_{letter}", self.kind, slot, dims, self.sizes(dims), order, shift, first(dims))

        if self.op == "conv":
            closures = [load("X", 0, "nchw", x, 1), load("W", 1, "kdrs", w, 0)]
            out, order = "nkpq", dy
        elif self.op == "conv_dgrad":
            macros["DY_CHANNELS_LAST"] = int(self.last)
            closures = [load("DY", 0, "nkpq", dy, 1), load("W", 1, "kdrs", w, 0)]
            out, order = "nchw", x
        else:
            macros |= {"DY_CHANNELS_LAST": int(self.last), "SPLITS": self.splits, "STORED_FAST_K": int(w.endswith("k"))}
            closures = [load("X", 0, "nchw", x, 1), load("DY", 1, "nkpq", dy, 0)]
            out, order = "zkdrs", "z" + w
        if self.op == "conv_wgrad":
            closures.append(store(f"{name}_store", self.kind, 2, "zkdrs", self.sizes("zkdrs"), order))
        else:
            closures.append(store(f"{name}_store", self.kind, 2, out, self.sizes(out), order, first=first(out)))
        return group(name, f"{self.op}.h", closures, macros)

    def data(self, rng: np.random.Generator) -> tuple[list[np.ndarray], tuple[int, ...], np.ndarray]:
        kind = CTYPES[self.kind]
        orders = self.orders()
        x, dy, w = (rng.standard_normal(self.sizes(d)).astype(kind) for d in ("nchw", "nkpq", "kdrs"))
        operands = {"conv": (x, w), "conv_dgrad": (dy, w), "conv_wgrad": (x, dy)}[self.op]
        dims = {"conv": ("nchw", "kdrs"), "conv_dgrad": ("nkpq", "kdrs"), "conv_wgrad": ("nchw", "nkpq")}[self.op]
        order = {"conv": (0, 2), "conv_dgrad": (1, 2), "conv_wgrad": (0, 1)}[self.op]
        arrays = [lay(o, d, orders[i]) for o, d, i in zip(operands, dims, order, strict=True)]
        expected = self.oracle(operands[0].astype(np.float64) + 1, operands[1].astype(np.float64))
        shape = {"conv": ("nkpq", orders[1]), "conv_dgrad": ("nchw", orders[0]), "conv_wgrad": ("zkdrs", "z" + orders[2])}
        out, out_order = shape[self.op]
        return arrays, shaped(out, self.sizes(out), out_order), expected

    def oracle(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        (top, bottom, left, right), g, (p, q) = self.pad, self.groups, self.out
        padded = np.zeros((self.n, self.c, self.h + top + bottom, self.w + left + right))
        inside = (slice(None), slice(None), slice(top, top + self.h), slice(left, left + self.w))
        if self.op != "conv_dgrad":
            padded[inside] = a
        xg = padded.reshape(self.n, g, self.c // g, *padded.shape[2:])  # a view
        y, dw = np.zeros((self.n, g, self.k // g, p, q)), np.zeros((g, self.k // g, self.c // g, self.r, self.s))
        for r, s in product(range(self.r), range(self.s)):
            rows = slice(r * self.dil[0], r * self.dil[0] + (p - 1) * self.stride[0] + 1, self.stride[0])
            columns = slice(s * self.dil[1], s * self.dil[1] + (q - 1) * self.stride[1] + 1, self.stride[1])
            window = xg[..., rows, columns]
            if self.op == "conv_wgrad":
                dw[..., r, s] = np.einsum("ngkpq,ngcpq->gkc", b.reshape(y.shape), window)
            else:
                w = b.reshape(dw.shape)[..., r, s]
                if self.op == "conv":
                    y += np.einsum("ngcpq,gkc->ngkpq", window, w)
                else:
                    window += np.einsum("ngkpq,gkc->ngcpq", a.reshape(y.shape), w)
        if self.op == "conv_dgrad":
            return padded[inside]
        return dw.reshape(self.sizes("kdrs")) if self.op == "conv_wgrad" else y.reshape(self.sizes("nkpq"))

    def result(self, y: np.ndarray) -> np.ndarray:
        x, dy, w = self.orders()
        if self.op == "conv_wgrad":
            return unlay(y.astype(np.float64).sum(0), "kdrs", w)  # the parts of the batch, added
        return unlay(y, "nkpq", dy) if self.op == "conv" else unlay(y, "nchw", x)

    def terms(self) -> int:
        p, q = self.out
        return {"conv": self.c, "conv_dgrad": self.k, "conv_wgrad": self.n * p * q}[self.op] * self.r * self.s


CONVS = [
    Conv(3, 1, 9, 9, 6, 5, 5),  # few channels: vectors of columns
    Conv(2, 6, 14, 14, 16, 5, 5),
    Conv(2, 3, 32, 32, 16, 3, 3, pad=(1, 1, 1, 1)),
    Conv(1, 20, 7, 9, 20, 3, 3, pad=(1, 1, 1, 1), last=False),
    Conv(1, 3, 9, 7, 3, 3, 3, stride=(2, 2), pad=(1, 1, 1, 1)),
    Conv(1, 16, 9, 9, 32, 3, 3, stride=(2, 2), pad=(1, 1, 1, 1)),
    Conv(1, 20, 9, 9, 3, 3, 3, stride=(3, 2), pad=(0, 2, 1, 0)),  # asymmetric
    Conv(3, 20, 7, 7, 40, 1, 1, stride=(2, 2)),
    Conv(1, 3, 9, 9, 20, 3, 3, pad=(2, 2, 2, 2), dil=(2, 2)),
    Conv(1, 4, 11, 9, 6, 3, 2, stride=(2, 1), pad=(1, 2, 0, 1), dil=(1, 2), groups=2),
    Conv(2, 20, 7, 9, 20, 3, 3, pad=(1, 1, 1, 1), groups=20),  # depthwise
    Conv(1, 20, 9, 9, 20, 3, 3, stride=(2, 2), pad=(1, 1, 1, 1), groups=20, last=False),
    Conv(1, 3, 5, 40, 7, 1, 3, pad=(0, 0, 1, 1), last=False),
    Conv(3, 1, 1, 1, 1, 1, 1),
    Conv(1, 1, 1, 7, 3, 3, 3, pad=(1, 1, 1, 1)),  # taps that only ever meet padding
    Conv(1, 70, 8, 8, 70, 3, 3, pad=(1, 1, 1, 1)),  # more than one block of output channels
    Conv(1, 3, 7, 9, 20, 3, 3, stride=(2, 1), pad=(1, 1, 1, 1), kind="double"),
    Conv(1, 400, 5, 5, 70, 3, 3, pad=(1, 1, 1, 1), filter="rsdk"),  # blocks of input channels too, whatever vectors are
    Conv(9, 16, 2, 3, 33, 2, 2, pad=(0, 1, 1, 0), filter="rsdk"),
    *(
        conv
        for tile in (2, 4)
        for conv in (
            Conv(2, 16, 7, 9, 20, 3, 3, pad=(1, 1, 1, 1), winograd=tile),  # tiles that hang over the edge
            Conv(2, 70, 8, 8, 70, 3, 3, pad=(1, 1, 1, 1), filter="rsdk", winograd=tile),  # blocks on both sides
            Conv(2, 32, 9, 10, 40, 3, 3, pad=(2, 0, 1, 2), groups=2, winograd=tile),
            Conv(1, 16, 40, 8, 16, 3, 3, winograd=tile, last=False),
            Conv(2, 12, 8, 8, 12, 3, 3, pad=(1, 1, 1, 1), kind="double", winograd=tile),
        )
    ),
    Conv(17, 12, 2, 2, 16, 3, 3, pad=(1, 1, 1, 1), filter="rsdk", winograd=4),  # small images together, in tiles of 2
    Conv(17, 12, 4, 4, 16, 3, 3, pad=(1, 1, 1, 1), filter="rsdk", winograd=4),  # the same in tiles of 4
    Conv(2, 3, 9, 9, 3, 3, 3, pad=(1, 1, 1, 1), groups=3, kind="double", last=False),
    Conv(3, 3, 9, 20, 16, 3, 3, pad=(1, 1, 1, 1), last=False),  # few input channels, in lines along the columns
    Conv(2, 4, 9, 11, 20, 3, 1, stride=(2, 3), pad=(0, 1, 2, 2), last=False),
    Conv(8, 6, 14, 14, 16, 5, 5),  # gradient of few channels by taps
    Conv(9, 3, 9, 20, 11, 4, 5, stride=(2, 1), pad=(1, 0, 2, 0), last=False),
    Conv(4, 10, 8, 13, 16, 3, 3, stride=(3, 1), pad=(0, 2, 1, 3), dil=(2, 3), groups=2),
    Conv(8, 2, 12, 7, 8, 3, 7, kind="double", filter="rsdk"),
    Conv(8, 3, 14, 14, 16, 4, 4, stride=(2, 2), pad=(1, 1, 1, 1)),  # columns that a stride lays apart
    Conv(8, 2, 9, 13, 8, 3, 5, stride=(1, 3), pad=(1, 0, 3, 1), dil=(1, 2), last=False),
    Conv(4, 4, 11, 21, 16, 2, 3, stride=(2, 4), pad=(0, 1, 2, 0), groups=2, kind="double"),  # no tap meets some of them
    *(
        conv
        for last in (True, False)  # depthwise, in vectors of channels or of columns
        for conv in (
            Conv(2, 37, 9, 35, 37, 3, 3, pad=(1, 1, 1, 1), groups=37, last=last),
            Conv(2, 16, 11, 34, 16, 5, 5, stride=(2, 2), pad=(2, 1, 2, 0), groups=16, last=last, direct=0),
            Conv(1, 5, 20, 19, 5, 3, 4, stride=(3, 3), pad=(0, 2, 4, 1), groups=5, last=last),
            Conv(3, 18, 7, 7, 18, 7, 7, pad=(3, 3, 3, 3), groups=18, last=last, splits=1),
            Conv(1, 33, 30, 15, 33, 3, 3, stride=(1, 2), pad=(2, 2, 0, 3), dil=(2, 3), groups=33, last=last, direct=0),
            Conv(2, 3, 6, 70, 3, 2, 13, stride=(1, 2), pad=(0, 0, 6, 6), groups=3, last=last),  # many taps in a row
            Conv(1, 9, 40, 3, 9, 30, 1, pad=(9, 0, 0, 2), groups=9, kind="double", last=last),  # and in a column
            Conv(1, 4, 3, 3, 4, 1, 1, pad=(2, 1, 3, 1), groups=4, last=last),  # results of padding alone
        )
    ),
]

# --- pooling -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pool(Conv):
    mode: str = "max"
    op: str = "pool"

    def text(self, name: str) -> str:
        macros, (x, y, _) = self.macros(name), ("nhwc", "npqc", "") if self.last else ("nchw", "ncpq", "")
        macros |= {"CHANNELS_LAST": int(self.last), "OP_MAX" if self.mode == "max" else "OP_SUM": 1, "INDEXED": 1}
        for unused in ("CK", "GROUPS", "X_CHANNELS_LAST"):
            macros.pop(unused)
        source, order, out, out_order = ("ncpq", y, "nchw", x) if self.op == "pool_grad" else ("nchw", x, "ncpq", y)
        load = "LOAD_DY" if self.op == "pool_grad" else "LOAD_X"
        macros |= {
            load: f"{name}_load",
            "LOAD_INDEX": f"{name}_index",
            **self.variant(self.op.replace("pool", f"{self.mode}_pool")),
        }
        indexed = self.op == "pool" and self.mode == "max"
        closures = [
            closure(f"{name}_load", self.kind, 0, source, self.sizes(source), order),
            closure(f"{name}_index", "int", 1, "ncpq", self.sizes("ncpq"), y),
            store(f"{name}_store", self.kind, 2, out, self.sizes(out), out_order, indexed),
        ]
        return group(name, f"{self.op}.h", closures, macros)

    def windows(self, x: np.ndarray, fill: float) -> np.ndarray:
        """[r*S + s, n, c, p, q]: every tap of every window, ``fill`` in the padding."""
        (top, bottom, left, right), (p, q) = self.pad, self.out
        xp = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
        taps = []
        for r, s in product(range(self.r), range(self.s)):
            h, w = r * self.dil[0], s * self.dil[1]
            rows, columns = (
                slice(h, h + (p - 1) * self.stride[0] + 1, self.stride[0]),
                slice(w, w + (q - 1) * self.stride[1] + 1),
            )
            taps.append(xp[:, :, rows, columns][..., :: self.stride[1]])
        return np.stack(taps)

    def chosen(self, x: np.ndarray) -> np.ndarray:
        """The first tap in the window that is NaN, else the first that is largest; padding never."""
        key = np.where(np.isnan(x), 2.0, np.arctan(x))  # order kept; -inf stays above the padding's -3
        return self.windows(key, -3.0).argmax(0)

    def data(self, rng: np.random.Generator) -> tuple[list[np.ndarray], tuple[int, ...], np.ndarray]:
        kind, orders = CTYPES[self.kind], ("nhwc", "npqc") if self.last else ("nchw", "ncpq")
        x = rng.integers(-3, 3, self.sizes("nchw")).astype(kind)  # many equal elements
        if self.mode == "max":
            x[rng.random(x.shape) < 0.3] = -np.inf
            x[rng.random(x.shape) < 0.05] = np.nan
        index = self.chosen(x.astype(np.float64))
        dy = rng.standard_normal(self.sizes("ncpq")).astype(kind)
        if self.op == "pool":
            wins = self.windows(x.astype(np.float64), 0.0)
            expected = wins.sum(0) if self.mode == "sum" else np.take_along_axis(wins, index[None], 0)[0]
            source, out, order = lay(x, "nchw", orders[0]), "ncpq", orders[1]
        elif self.op == "pool_gather":
            expected = np.take_along_axis(self.windows(x.astype(np.float64), 0.0), index[None], 0)[0]
            source, out, order = lay(x, "nchw", orders[0]), "ncpq", orders[1]
        else:
            positions = self.windows(np.arange(x.size, dtype=np.float64).reshape(x.shape), -1.0).astype(int)
            expected = np.zeros(x.size + 1)  # the last one takes what falls on padding
            for tap, at in enumerate(positions):
                share = dy.astype(np.float64) * (index == tap if self.mode == "max" else 1)
                np.add.at(expected, at.ravel(), share.ravel())
            expected = expected[:-1].reshape(x.shape)
            source, out, order = lay(dy, "ncpq", orders[1]), "nchw", orders[0]
        self_index = lay(index.astype(np.int32), "ncpq", orders[1])
        return [source, self_index], shaped(out, self.sizes(out), order), expected

    def result(self, y: np.ndarray) -> np.ndarray:
        if self.op == "pool_grad":
            return unlay(y, "nchw", "nhwc" if self.last else "nchw")
        return unlay(y, "ncpq", "npqc" if self.last else "ncpq")

    def terms(self) -> int:
        return self.r * self.s


_POOLS = [
    Pool(3, 6, 8, 8, 0, 2, 2, stride=(2, 2)),
    Pool(2, 20, 9, 7, 0, 3, 3, stride=(2, 2), pad=(1, 1, 1, 1)),
    Pool(1, 3, 7, 9, 0, 3, 2, stride=(1, 1), pad=(0, 1, 1, 0)),
    Pool(1, 1, 9, 9, 0, 2, 2, stride=(3, 3)),  # gaps between the windows
    Pool(1, 17, 9, 9, 0, 3, 3, stride=(1, 2), pad=(1, 1, 1, 1), dil=(2, 2), kind="double"),
    Pool(1, 3, 1, 1, 0, 1, 1),
    Pool(1, 2, 7, 9, 0, 2, 2, stride=(2, 2), pad=(0, 1, 0, 1)),  # the last windows hang over the edge
    Pool(1, 2, 9, 40, 0, 2, 2, stride=(1, 3), dil=(2, 5)),
    *(Pool(1, 2, h, w, 0, r, r, stride=(2, 2)) for h, w, r in ((5, 2300, 2), (200, 61, 2), (90, 100, 3))),  # several blocks
]


# --- scans -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scan:
    """Running sums or products along the middle one of three dimensions."""

    o: int
    r: int
    i: int
    op: str = "sum"
    kind: str = "float"

    def text(self, name: str) -> str:
        sizes = (self.o, self.r, self.i)
        macros: dict[str, object] = {"T": self.kind, "OP": self.op, "START": int(self.op == "prod")}
        macros |= dict(zip(("CO", "CR", "CI"), sizes, strict=True)) | {"LOAD_X": f"{name}_x", "STORE": f"{name}_store"}
        closures = [
            closure(f"{name}_x", self.kind, 0, "oci", sizes, "oci"),
            store(f"{name}_store", self.kind, 1, "oci", sizes, "oci"),
        ]
        return group(name, "scan.h", closures, macros)

    def data(self, rng: np.random.Generator) -> tuple[list[np.ndarray], tuple[int, ...], np.ndarray]:
        x = rng.uniform(0.5, 1.5, (self.o, self.r, self.i)).astype(CTYPES[self.kind])
        expected = (np.cumsum if self.op == "sum" else np.cumprod)(x.astype(np.float64), 1)
        return [x], x.shape, expected

    def result(self, y: np.ndarray) -> np.ndarray:
        return y

    def terms(self) -> int:
        return self.r


SCANS = [Scan(2, 5, 130), Scan(3, 40, 64, "prod"), Scan(1, 7, 65, kind="double"), Scan(4, 9, 1, "prod"), Scan(2, 3, 20)]


def pools(op: str, modes: Sequence[str]) -> list[Conv]:
    return [replace(c, op=op, mode=m, last=last) for c, m, last in product(_POOLS, modes, (True, False))]


CASES: dict[str, Sequence[Any]] = {
    "matmul": MATMULS,
    **{op: [replace(c, op=op) for c in CONVS] for op in ("conv", "conv_dgrad", "conv_wgrad")},
    "pool": pools("pool", ("max", "sum")),
    "pool_grad": pools("pool_grad", ("max", "sum")),
    "pool_gather": pools("pool_gather", ("max",)),
    "scan": SCANS,
}
CASES["conv_wgrad"] = [
    *(replace(c, splits=min(c.n, 3)) for c in CASES["conv_wgrad"]),
    *(replace(c, op="conv_wgrad", filter="kdrs" if c.last else "rsdk") for c in CONVS[::2]),  # stored the other way
    Conv(3, 6, 7, 7, 20, 3, 3, op="conv_wgrad", splits=2),  # parts of unequal length
]

# --- building and running ----------------------------------------------------------------------------------------------


def shared_object(source: str, path: Path) -> Path:
    text = path.with_suffix(".c")
    text.write_text(source)
    subprocess.run([*compiler(), *options(), "-I", str(headers()), str(text), "-o", str(path), "-lm"], check=True)
    return path


def source(name: str) -> str:
    """The C file of a template's cases, of the pool of threads, or of the scalars."""
    if name == "pool_of_threads":
        return (headers() / "runtime.c").read_text()
    return SCALAR if name == "scalar" else HEAD + "\n".join(c.text(f"g{i}") for i, c in enumerate(CASES[name]))


class Objects(dict[str, Path]):
    """Shared objects by the name of their source, each compiled when a test first asks for it."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        self[name] = shared_object(source(name), self.folder / f"{name}.so")
        return self[name]


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Objects:
    return Objects(tmp_path_factory.mktemp("templates"))


def bound(objects: Objects, op: str) -> ctypes.CDLL:
    library = ctypes.CDLL(str(objects[op]))
    pool = ctypes.CDLL(str(objects["pool_of_threads"]))
    functions = pool.grt_parallel, pool.grt_memory, pool.grt_try, pool.grt_alone
    library.grt_bind(*(ctypes.cast(function, ctypes.c_void_p) for function in functions))
    return library


def launch(function: Callable[..., Any], arrays: Sequence[np.ndarray]) -> None:
    function((ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays)))


def outputs(shape: Sequence[int], kind: str) -> list[np.ndarray]:
    """The result, full of NaN; how often each element was stored; the index, full of nonsense."""
    return [np.full(shape, np.nan, CTYPES[kind]), np.zeros(shape, np.int32), np.full(shape, -7, np.int32)]


ALL = [(op, i) for op, cases in CASES.items() for i in range(len(cases))]


@pytest.mark.at_O3
@pytest.mark.parametrize(("op", "number"), ALL, ids=[f"{op}-{i}" for op, i in ALL])
def test_template_agrees_with_numpy(op: str, number: int, objects: Objects, rng: np.random.Generator) -> None:
    case = CASES[op][number]
    arrays, shape, expected = case.data(rng)
    library = bound(objects, op)
    function = getattr(library, f"run_g{number}")
    y, again = outputs(shape, case.kind), outputs(shape, case.kind)
    launch(function, [*arrays, *y])
    library.bind_backwards()
    launch(function, [*arrays, *again])
    assert not library.take_outside(), f"a closure was called out of range: {case}"
    assert (y[1] == 1).all(), f"not stored exactly once: {case}"
    for one, other in zip(y, again, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=f"the order of tasks matters: {case}")
    eps = 4 * float(np.finfo(CTYPES[case.kind]).eps) * max(case.terms(), 1)
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(1.0, float(finite.max())) if finite.size else 1.0
    np.testing.assert_allclose(case.result(y[0]), expected, rtol=eps, atol=eps * scale, err_msg=str(case))
    if op == "pool" and case.mode == "max":
        order = "npqc" if case.last else "ncpq"
        np.testing.assert_array_equal(unlay(arrays[1], "ncpq", order), unlay(y[2], "ncpq", order))


# --- the pool of threads -----------------------------------------------------------------------------------------------

BUSY = 1  # a convolution of several tasks that packs its filter first


VARIANTS = {
    "matmul.h": ("matmul_thin.h", "matmul_packed.h"),
    "conv.h": ("conv_wide.h", "conv_narrow.h", "conv_winograd.h", "conv_depthwise.h", "conv_planes.h", "conv_pointwise.h"),
    "conv_dgrad.h": (
        *("conv_wide.h", "conv_narrow.h", "conv_winograd.h", "conv_depthwise.h", "conv_planes.h"),
        *("conv_pointwise.h", "conv_dgrad_taps.h"),
    ),
    "conv_wgrad.h": ("conv_wgrad_wide.h", "conv_wgrad_narrow.h", "conv_wgrad_depthwise.h", "conv_wgrad_winograd.h"),
    "pool.h": ("pool_windows.h", "pool_lines.h"),
    "pool_grad.h": ("pool_grad_apart.h", "pool_grad_sums.h"),
}


@pytest.mark.parametrize("hints", [{}, {"CHANNELS_LAST": 1, "X_CHANNELS_LAST": 1, "OP_MAX": 1, "PAD_H": 1}])
def test_templates_leave_no_macros_behind(hints: dict[str, int], tmp_path: Path) -> None:
    """The next kernel of a text may define its own."""
    sizes = dict.fromkeys("BATCH M N K CN CC CH CW CK CR CS CP CQ CO CI CJ STRIDE_H STRIDE_W DIL_H DIL_W".split(), 32)
    known = {"NAME": "g0", "T": "float", "GROUPS": 1, "PAD_W": 0, **sizes, "CR": 3, "CS": 3, "SIDE": 4, "OP": "sum", **hints}
    files = {p.name for p in headers().glob("*.h") if "#ifndef GRAPHRT_" not in p.read_text()}
    included_elsewhere = {"conv_core.h", "conv_wgrad_tile.h", *(v for found in VARIANTS.values() for v in found)}
    names = [(name, v) for name in sorted(files - included_elsewhere) for v in VARIANTS.get(name, ("",))]
    assert included_elsewhere < files and {name for name, _ in names} > VARIANTS.keys()

    def defined(lines: Sequence[str]) -> set[str]:
        text = tmp_path / "macros.c"
        text.write_text("\n".join([HEAD, '#include "tile.h"', *lines, ""]))
        found = subprocess.run(
            [*compiler(), "-E", "-dM", "-Werror", "-I", str(headers()), str(text)], check=True, capture_output=True, text=True
        ).stdout
        return {line.split()[1] for line in found.splitlines()}

    def macros(variant: str) -> dict[str, object]:
        return {**known, "VARIANT": f'"{variant}"', "PRODUCT": '"matmul_packed.h"'} if variant else known

    assert defined([line for name, variant in names for line in included(name, macros(variant))]) == defined([])
    before = [f"#define {name} {value}" for name, value in macros("conv_wide.h").items()]
    assert "V_STRIDE_H" in defined([*before, '#include "conv.h"'])


def conv_result(library: ctypes.CDLL, seed: int) -> tuple[Callable[[], bytes], bytes]:
    """A call that runs the BUSY convolution on operands of its own, and what it gave the first time."""
    case = CASES["conv"][BUSY]
    arrays, shape, expected = case.data(np.random.default_rng(seed))

    def run() -> bytes:
        y = outputs(shape, case.kind)
        launch(getattr(library, f"run_g{BUSY}"), [*arrays, *y])
        return y[0].tobytes()

    first = run()
    np.testing.assert_allclose(case.result(np.frombuffer(first, np.float32).reshape(shape)), expected, rtol=1e-3, atol=1e-3)
    return run, first


def test_the_same_code_serves_two_python_threads(objects: Objects) -> None:
    """Two programs with the same text are one shared object: what a launch packs must belong to the launch."""
    library, wrong = bound(objects, "conv"), []
    runs = [conv_result(library, seed) for seed in range(2)]

    def repeat(run: Callable[[], bytes], first: bytes) -> None:
        wrong.append(sum(run() != first for _ in range(1500)))

    threads = [threading.Thread(target=repeat, args=r) for r in runs]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == [0, 0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_computes_too(objects: Objects) -> None:
    run, first = conv_result(bound(objects, "conv"), 3)
    child = os.fork()
    if child == 0:
        os._exit(0 if run() == first else 1)
    assert run() == first
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


CONTRACTIONS = ("matmul", "conv", "conv_dgrad", "conv_wgrad")
DIGEST = "import sys; sys.path.insert(0, sys.argv[1]); import test_c_templates as t; print(t.digest(sys.argv[2]))"


def digest(folder: str) -> str:
    """A hash of the results of every case of the contractions."""
    objects = Objects(Path(folder))
    objects.update({p.stem: p for p in Path(folder).glob("*.so")})
    total = hashlib.sha256()
    for op in CONTRACTIONS:
        library = bound(objects, op)
        for i, case in enumerate(CASES[op]):
            arrays, shape, _ = case.data(np.random.default_rng(i))
            y = outputs(shape, case.kind)
            launch(getattr(library, f"run_g{i}"), [*arrays, *y])
            total.update(y[0].tobytes())
    return total.hexdigest()


def test_the_number_of_threads_changes_no_bit(objects: Objects) -> None:
    here, folder = str(Path(__file__).parent), str(objects.folder)
    assert all(objects[name].exists() for name in ("pool_of_threads", *CONTRACTIONS))
    root = str(Path(graphrt.__file__).parents[1])
    found = []
    for threads in ("1", "2", "5"):
        env = {**os.environ, "GRAPHRT_THREADS": threads, "PYTHONPATH": root + os.pathsep + os.environ.get("PYTHONPATH", "")}
        command = [sys.executable, "-c", DIGEST, here, folder]
        found.append(subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert found[0]
    assert len(set(found)) == 1


# --- scalars -----------------------------------------------------------------------------------------------------------

SCALAR = r"""
#include "elementwise.h"
float uniform(long long seed, long long counter, unsigned stream, unsigned index) {
  return grt_uniform(seed, counter, stream, index);
}
void largest(const float *restrict a, const float *restrict b, float *restrict y) {
  for (int i = 0; i < 4096; i++) y[i] = grt_max(a[i], b[i]);
}
void smallest(const double *restrict a, const double *restrict b, double *restrict y) {
  for (int i = 0; i < 4096; i++) y[i] = grt_min(a[i], b[i]);
}
"""


def test_philox_known_answer(objects: Objects) -> None:
    uniform = ctypes.CDLL(str(objects["scalar"])).uniform
    uniform.restype = ctypes.c_float
    uniform.argtypes = [ctypes.c_longlong, ctypes.c_longlong, ctypes.c_uint, ctypes.c_uint]
    assert uniform(0, 0, 0, 0) == (0x6627E8D5 >> 8) * 2.0**-24  # Random123's known answer for a zero counter and key
    seed, counter, stream, index = -0x123456789ABCDEF, 2**33 + 5, 77, 0xFFFFFFFF
    c, k = [index, counter & 0xFFFFFFFF, stream, 0], [seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF]
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & 0xFFFFFFFF, (a >> 32) ^ c[3] ^ k[1], a & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    assert uniform(seed, counter, stream, index) == (c[0] >> 8) * 2.0**-24


@pytest.mark.parametrize(("name", "kind", "oracle"), [("largest", "float", np.maximum), ("smallest", "double", np.minimum)])
def test_extremes_carry_nan(name: str, kind: str, oracle: Any, objects: Objects, rng: np.random.Generator) -> None:
    values = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0, -1.0], CTYPES[kind])
    a, b, y = rng.choice(values, 4096), rng.choice(values, 4096), np.empty(4096, CTYPES[kind])
    getattr(ctypes.CDLL(str(objects["scalar"])), name)(*(ctypes.c_void_p(x.ctypes.data) for x in (a, b, y)))
    np.testing.assert_array_equal(y, oracle(a, b))


def test_extremes_vectorise(tmp_path: Path) -> None:
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    if "clang" in version or "Free Software Foundation" not in version:
        pytest.skip("reads GCC's report")
    text = tmp_path / "scalar.c"
    text.write_text(SCALAR)
    command = [*compiler(), *FLAGS, "-fopt-info-vec-optimized", "-I", str(headers()), str(text), "-o", str(tmp_path / "s.so")]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert report.count("loop vectorized") >= 2


# --- elementary functions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "erf", "sigmoid", "rsqrt"])
def test_elementary_functions_are_within_two_ulp(name: str) -> None:
    """Over the whole range of float32, every 4001st bit pattern and the ends, with the special cases of C's own functions."""
    import graphrt as grt
    from graphrt import ops as F

    ends = np.array(
        [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 88.72284, 88.7229, -87.33655, -103.97, -104.1, 1.0, -1.0]
    )
    x = np.concatenate([np.arange(0, 2**32, 4001, dtype=np.uint64).astype(np.uint32).view(np.float32), ends.astype(np.float32)])
    graph = grt.Graph()
    graph.output("y", getattr(F, name)(graph.input("x", x.shape)))
    y = grt.compile(graph, target="cpu")(x=x)["y"]
    from scipy import special

    with np.errstate(all="ignore"):
        oracles = {"exp": np.exp, "log": np.log, "tanh": np.tanh, "erf": special.erf, "rsqrt": lambda v: 1 / np.sqrt(v)}
        exact = oracles.get(name, lambda v: 1 / (1 + np.exp(-v)))(x.astype(np.float64))
        rounded = exact.astype(np.float32)
        ulp = np.spacing(np.abs(rounded)).astype(np.float64)
        finite = np.isfinite(rounded)
        np.testing.assert_array_equal(y[~finite], rounded[~finite])
        worst = np.max(np.abs(y[finite] - exact[finite]) / ulp[finite])
    assert worst <= 2, f"{name} is {worst:.2f} ULP off"
