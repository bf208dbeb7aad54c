"""The interface of each kernel template: its operands' and output's coordinates, and its sizes.

The letters are the field's: N batch, C input channels, H W input, K output channels, R S filter, P Q output; B M N K for
matrix products; for what walks one dimension O before it, R along it, I behind it and J along a scattered result. A template
hands coordinates to its closures; here they are turned into indices of the op's values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from graphrt.index import Expr, delinearize
from graphrt.ir import Node
from graphrt.schedule.group import Index

Coordinates = dict[str, Expr]


@dataclass(frozen=True)
class TemplateSpec:
    """``operands`` and ``output`` name the coordinates of each closure; ``sizes`` gives the template's constants.

    ``family`` is matmul, conv, pool, attention or line: what is launched and tiled alike. ``result`` names the operand by which
    a template reads what it has stored, ``factors`` those that tensor cores multiply, ``once`` those of which each element is
    loaded once.
    """

    name: str
    family: str
    operands: dict[str, tuple[str, ...]]
    output: tuple[str, ...]
    sizes: Callable[[Node], dict[str, Any]]
    extents: Callable[[Node], dict[str, int]]
    result: str = ""
    factors: tuple[str, ...] = ()
    once: tuple[str, ...] = ()

    def operand_index(self, node: Node, operand: str, at: Coordinates) -> Index:
        """The index of operand ``operand`` at the closure's coordinates."""
        if operand == self.result:
            return self.output_index(node, at)
        v = node.inputs[list(self.operands).index(operand)]
        return self._index(node, v.shape, self.operands[operand], at)

    def operand_extents(self, node: Node, operand: str) -> dict[str, int]:
        """The range of each coordinate of an operand."""
        names = self.output if operand == self.result else self.operands[operand]
        extents = {c: self.extents(node)[c] for c in names}
        if names[0] in "ob":
            return extents
        v = node.inputs[list(self.operands).index(operand)]
        return {**extents, **dict(zip(names[len(names) - v.ndim :], v.shape, strict=True))}  # c of a filter is of its group

    def output_index(self, node: Node, at: Coordinates) -> Index:
        """The index of the result at the closure's coordinates."""
        return self._index(node, node.types[0].shape, self.output, at)

    @staticmethod
    def _index(node: Node, shape: tuple[int, ...], names: tuple[str, ...], at: Coordinates) -> Index:
        if names[0] == "o":  # what lies before the op's dimension, the dimension, what lies behind it
            dim = node.attrs["dim"]
            return (*delinearize(at["o"], shape[:dim]), at[names[1]], *delinearize(at["i"], shape[dim + 1 :]))
        if names[0] == "b":  # any number of batch dimensions
            return (*delinearize(at["b"], shape[: len(shape) - len(names) + 1]), *(at[c] for c in names[1:]))
        return tuple(at[c] for c in names[len(names) - len(shape) :])


def _matmul_sizes(node: Node) -> dict[str, Any]:
    *batch, m, k = node.inputs[0].shape
    return {"BATCH": math.prod(batch), "M": m, "N": node.types[0].shape[-1], "K": k}


def _matmul_extents(node: Node) -> dict[str, int]:
    s = _matmul_sizes(node)
    return {"b": s["BATCH"], "m": s["M"], "n": s["N"], "k": s["K"]}


def _geometry(node: Node) -> dict[str, Any]:
    return {
        f"{short}_{axis}": value
        for axis, i in (("H", 0), ("W", 1))
        for short, value in (
            ("STRIDE", node.attrs["stride"][i]),
            ("PAD", node.attrs["padding"][i][0]),
            ("DIL", node.attrs["dilation"][i]),
        )
    }


def _conv_sizes(node: Node) -> dict[str, Any]:
    """Sizes of a 2-D convolution or of either gradient."""
    groups = node.attrs["groups"]
    first, second, out = node.inputs[0].shape, node.inputs[1].shape, node.types[0].shape
    x, w, y = {
        "conv": (first, second, out),
        "conv_dgrad": (out, second, first),
        "conv_wgrad": (second, out[-4:], first),
    }[node.op.template or ""]
    n, c, h, wide = x
    sizes = {"N": n, "C": c, "H": h, "W": wide, "K": y[1], "R": w[2], "S": w[3], "P": y[2], "Q": y[3]}
    splits = {"SPLITS": max(node.attrs["splits"], 1)} if "splits" in node.attrs else {}
    return {**sizes, **_geometry(node), "GROUPS": groups, **splits}


def _conv_extents(node: Node) -> dict[str, int]:
    s = _conv_sizes(node)
    # for a filter c counts within its group: its extent there is smaller, which only widens a range
    return {**{c.lower(): s[c] for c in "NCHWKRSPQ"}, "split": s.get("SPLITS", 1)}


def _pool_sizes(node: Node) -> dict[str, Any]:
    backward = "shape" in node.attrs
    x = node.types[0].shape if backward else node.inputs[0].shape
    y = node.inputs[0].shape if backward else node.types[0].shape
    r, s = node.attrs["kernel"]
    n, c, h, w = x
    return {"N": n, "C": c, "H": h, "W": w, "P": y[2], "Q": y[3], "R": r, "S": s, **_geometry(node)}


def _pool_extents(node: Node) -> dict[str, int]:
    s = _pool_sizes(node)
    return {c.lower(): s[c] for c in "NCHWPQ"}


def _line_sizes(node: Node) -> dict[str, Any]:
    """Sizes of an op along one dimension: O before it, R along its operand, J along a scattered result, I behind it."""
    shape, dim, options = node.inputs[0].shape, node.attrs["dim"], {"OP": "op", "DESCENDING": "descending"}
    sizes = {"O": math.prod(shape[:dim]), "R": shape[dim], "I": math.prod(shape[dim + 1 :])}
    if "size" in node.attrs:
        sizes["J"] = node.attrs["size"]
    return {**sizes, **{name: node.attrs[a] for name, a in options.items() if a in node.attrs}}


def _line_extents(node: Node) -> dict[str, int]:
    s = _line_sizes(node)
    return {c.lower(): s[c] for c in "ORIJ" if c in s}


def _nms_sizes(node: Node) -> dict[str, Any]:
    *batch, n, _ = node.inputs[0].shape
    return {"BATCH": math.prod(batch), "N": n}


def _nms_extents(node: Node) -> dict[str, int]:
    s = _nms_sizes(node)
    return {"b": s["BATCH"], "m": s["N"], "n": s["N"]}


def _matrix_sizes(node: Node) -> dict[str, Any]:
    *batch, m, n = node.inputs[0].shape
    return {"BATCH": math.prod(batch), "M": m, "N": n}


def _matrix_extents(node: Node) -> dict[str, int]:
    s = _matrix_sizes(node)
    return {"b": s["BATCH"], "m": s["M"], "n": s["N"], "k": node.types[0].shape[-2]}


def _system_sizes(node: Node) -> dict[str, Any]:
    *batch, n, r = node.inputs[1].shape
    return {"BATCH": math.prod(batch), "N": n, "R": r}


def _system_extents(node: Node) -> dict[str, int]:
    s = _system_sizes(node)
    return {"b": s["BATCH"], "m": s["N"], "n": s["N"] + s["R"], "k": s["N"] + 2, "c": s["N"], "r": s["R"]}


def _attention_sizes(node: Node) -> dict[str, Any]:
    *batch, m, k = node.inputs[0].shape
    n, v = node.inputs[2].shape[-2:]
    sizes = {"BATCH": math.prod(batch), "M": m, "N": n, "K": k, "V": v}
    return {**sizes, "SCALE": node.attrs["scale"], "ROWS": node.attrs["rows"]}


def _attention_extents(node: Node) -> dict[str, int]:
    s = _attention_sizes(node)
    return {"b": s["BATCH"], **{c.lower(): s[c] for c in "MNKV"}}


def _attention(name: str, output: str, *rows: str) -> TemplateSpec:
    """The forward pass, or with ``rows``, which are known of each query, a gradient."""
    operands = {"Q": "bmk", "K": "bnk", "V": "bnv", **({"DY": "bmv"} if rows else {}), "BIAS": "bmn", "KEEP": "bmn"}
    operands |= {row: "bmv" if row == "Y" else "bm" for row in rows}
    coordinates = {operand: tuple(at) for operand, at in operands.items()}
    factors = ("Q", "K", "V", "DY") if rows else ("Q", "K", "V")
    once = ("BIAS", "KEEP", "Y", "DLSE")
    return TemplateSpec(
        name, "attention", coordinates, tuple(output), _attention_sizes, _attention_extents, factors=factors, once=once
    )


_X, _Y, _W = tuple("nchw"), tuple("ncpq"), tuple("kcrs")
_DY = tuple("nkpq")


TEMPLATES: dict[str, TemplateSpec] = {
    spec.name: spec
    for spec in (
        TemplateSpec(
            "matmul",
            "matmul",
            {"A": tuple("bmk"), "B": tuple("bkn")},
            tuple("bmn"),
            _matmul_sizes,
            _matmul_extents,
            factors=("A", "B"),
        ),
        TemplateSpec(
            "matmul_pair",
            "matmul",
            {"A": tuple("bmk"), "B": tuple("bkn"), "C": tuple("bkn")},
            tuple("bmn"),
            _matmul_sizes,
            _matmul_extents,
            factors=("A", "B", "C"),
        ),
        TemplateSpec("conv", "conv", {"X": _X, "W": _W}, _DY, _conv_sizes, _conv_extents, factors=("X", "W")),
        TemplateSpec("conv_dgrad", "conv", {"DY": _DY, "W": _W}, _X, _conv_sizes, _conv_extents, factors=("DY", "W")),
        TemplateSpec(
            "conv_wgrad", "conv", {"DY": _DY, "X": _X}, ("split", *_W), _conv_sizes, _conv_extents, factors=("DY", "X")
        ),
        _attention("attention", "bmv"),
        _attention("attention_dq", "bmk", "Y", "LSE", "DLSE"),
        _attention("attention_dkv", "bnk", "LSE", "DELTA"),
        _attention("attention_dscores", "bmn", "LSE", "DELTA"),
        TemplateSpec("max_pool", "pool", {"X": _X}, _Y, _pool_sizes, _pool_extents),
        TemplateSpec("sum_pool", "pool", {"X": _X}, _Y, _pool_sizes, _pool_extents),
        TemplateSpec("max_pool_grad", "pool", {"DY": _Y, "INDEX": _Y}, _X, _pool_sizes, _pool_extents),
        TemplateSpec("sum_pool_grad", "pool", {"DY": _Y}, _X, _pool_sizes, _pool_extents),
        TemplateSpec("scan", "line", {"X": tuple("ori")}, tuple("ori"), _line_sizes, _line_extents),
        TemplateSpec("recurrence", "line", {"A": tuple("ori"), "X": tuple("ori")}, tuple("ori"), _line_sizes, _line_extents),
        TemplateSpec("sort", "line", {"X": tuple("ori")}, tuple("ori"), _line_sizes, _line_extents),
        TemplateSpec("scatter", "line", {"INDEX": tuple("ori"), "X": tuple("ori")}, tuple("oji"), _line_sizes, _line_extents),
        TemplateSpec("nms", "line", {"X": tuple("bmn")}, tuple("bn"), _nms_sizes, _nms_extents),
        TemplateSpec("svd", "line", {"X": tuple("bmn")}, tuple("bkn"), _matrix_sizes, _matrix_extents, "Y"),
        TemplateSpec("lu", "line", {"A": tuple("bmc"), "B": tuple("bmr")}, tuple("bkn"), _system_sizes, _system_extents, "Y"),
        TemplateSpec("max_pool_gather", "pool", {"X": _X, "INDEX": _Y}, _Y, _pool_sizes, _pool_extents),
    )
}
