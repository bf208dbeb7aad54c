"""The loops that compute a template, and the reason: the file of ``kernels/c`` that the template includes as VARIANT.

The choice follows from sizes, from the lanes of a vector and from GRAPHRT_WINOGRAD. Each special variant has a function that
says what stands in its way; the first that nothing does is taken. ``program.explain()`` prints the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from graphrt.passes.decision import Decision

Sizes = Mapping[str, Any]
THIN = 4  # rows of a product that is not worth packing for
FEW = 8  # if what is packed were not kept for the next run
PIXELS = 128  # from which on transforming a filter pays, if each run does it
EXAMPLES = 32  # for which loops are chosen that may not depend on how many there are
DEPTH = {"matmul": "K", "conv": "C", "conv_dgrad": "K", "conv_wgrad": "N"}  # the coordinate along which pairs are made
PAIRED = {"conv_wide.h", "conv_wgrad_wide.h", "matmul_packed.h"}  # loops that only move operands, and multiply and add them
LARGE_FILTER = 1 << 17  # channels by channels from which reading a filter transformed by Winograd's method takes longer
REGISTERS = 16  # elements of a window that is folded in registers


@dataclass(frozen=True)
class Variant:
    """The loops that compute a template: their ``file``, the ``reason``, and what else they are told (``more``).

    ``refused`` are files that could have computed it, with what stood in their way.
    """

    file: str
    reason: str
    more: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def macros(self) -> dict[str, str]:
        """The macros that the template is included with."""
        return {"VARIANT": f'"{self.file}"', **self.more}

    def decisions(self, node: str) -> list[Decision]:
        """The choice for the contraction or pooling ``node``, and what was refused."""
        change = "its sizes, or the processor, were others"
        refused = [Decision("template", node, file, False, reason, change=change) for file, reason in self.refused.items()]
        return [Decision("template", node, self.file, True, self.reason), *refused]


@dataclass(frozen=True)
class Processor:
    """The processor, as far as it matters here.

    ``lanes`` of a vector, the side of the largest Winograd tile (0: none), and whether bfloat16 is multiplied in ``pairs``.
    ``invariant`` says that what computes an example may not depend on how many there are.
    """

    lanes: int
    winograd: int
    pairs: bool = False
    invariant: bool = False


@dataclass(frozen=True)
class _Convolution:
    """A convolution as ``conv_core.h`` sees it: ``inputs`` and ``outputs`` are channels of a group, ``rows`` the result's."""

    images: int
    groups: int
    inputs: int
    outputs: int
    rows: int
    columns: int
    taps: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    phases: int  # after so many columns the taps that meet only zeros repeat
    whole: bool  # nothing is read outside of the input


def choose(
    template: str, sizes: Sizes, channels_last: bool, frozen: bool, processor: Processor, halves: bool = False
) -> Variant | None:
    """The variant of ``template`` for its ``sizes``; None where it has but one.

    ``channels_last`` says how what it reads lies in memory, ``frozen`` whether the program keeps what it packs, ``halves`` that
    its operands are bfloat16: they are multiplied in pairs where the processor and the loops do that, else widened.
    """
    found = _one_by_one(template, sizes, channels_last, frozen, processor)
    if found is None or template not in DEPTH:
        return found
    against = ""
    if halves:
        kept = frozen or template == "matmul"  # a pair is half as much to pack
        direct = _one_by_one(template, sizes, channels_last, kept, replace(processor, winograd=0))
        assert direct is not None
        against = _against_pairs(template, sizes, direct, found, processor)
        if not against:
            return replace(direct, reason=f"{direct.reason}; bfloat16 in pairs", more={**direct.more, "PAIRS": "1"})
    refused = {**found.refused, "pairs of bfloat16": against} if against else found.refused
    return replace(found, more={**found.more, "PAIRS": "0"}, refused=refused)


def depth(template: str, sizes: Sizes) -> tuple[int, int]:
    """The numbers that a sum of ``template`` runs over, of those that go into pairs; and the groups that have so many each."""
    groups = 1 if template in ("matmul", "conv_wgrad") else sizes["GROUPS"]
    return sizes[DEPTH[template]] // groups, groups


def _against_pairs(template: str, sizes: Sizes, direct: Variant, found: Variant, processor: Processor) -> str:
    """Why bfloat16 operands are not multiplied in pairs by the loops ``direct``; empty if they are."""
    number, groups = depth(template, sizes)
    if not processor.pairs:
        return "the processor has no instruction for them, or GRAPHRT_PAIRS is 0"
    if not {direct.file, direct.more.get("PRODUCT", "").strip('"')} & PAIRED:
        return f"{direct.file} multiplies number by number"
    small = template == "conv_wgrad" or sizes.get("C", 1) * sizes["K"] < LARGE_FILTER * sizes.get("GROUPS", 1)
    if found.file != direct.file and small:
        return f"{found.file} takes fewer products, and what it transforms is in a cache"
    if number < 2 or (number % 2 and groups > 1):
        return f"{number} {'images' if template == 'conv_wgrad' else 'numbers'} to sum over in a group, not two, four, six, ..."
    return ""


def _one_by_one(template: str, sizes: Sizes, channels_last: bool, frozen: bool, processor: Processor) -> Variant | None:
    """The variant of ``template`` for operands that are no pairs."""
    if processor.invariant and "N" in sizes and template.startswith("conv"):
        sizes = {**sizes, "N": EXAMPLES}
    if template == "matmul":
        return _product(sizes["M"], sizes["N"], THIN if frozen else FEW, processor.invariant)
    if template == "conv":
        return _conv(_forward(sizes), channels_last, frozen, processor)
    if template == "conv_dgrad":
        return _dgrad(sizes, channels_last, frozen, processor)
    if template == "conv_wgrad":
        return _wgrad(_forward(sizes), channels_last, processor)
    if template in ("max_pool", "sum_pool"):
        return _pool(sizes)
    return _pool_grad(sizes) if template in ("max_pool_grad", "sum_pool_grad") else None


def _product(m: int, n: int, thin: int, invariant: bool = False) -> Variant:
    if invariant:
        return Variant("matmul_packed.h", "rows are summed alike, however many there are")
    if 0 < m <= thin and n > 0:
        return Variant("matmul_thin.h", f"{m} rows: the second operand is read once, where it lies")
    return Variant("matmul_packed.h", f"{m} rows share what is packed of the second operand")


def _forward(s: Sizes) -> _Convolution:
    down = (s["P"] - 1) * s["STRIDE_H"] + (s["R"] - 1) * s["DIL_H"]
    across = (s["Q"] - 1) * s["STRIDE_W"] + (s["S"] - 1) * s["DIL_W"]
    return _Convolution(
        images=s["N"],
        groups=s["GROUPS"],
        inputs=s["C"] // s["GROUPS"],
        outputs=s["K"] // s["GROUPS"],
        rows=s["P"],
        columns=s["Q"],
        taps=(s["R"], s["S"]),
        stride=(s["STRIDE_H"], s["STRIDE_W"]),
        dilation=(s["DIL_H"], s["DIL_W"]),
        phases=1,
        whole=s["PAD_H"] == s["PAD_W"] == 0 and down < s["H"] and across < s["W"],
    )


def _backward(s: Sizes) -> _Convolution:
    """The gradient of the input as a convolution of stride 1 with the filter turned around."""
    strided = (s["STRIDE_H"], s["STRIDE_W"]) != (1, 1)
    padded = s["PAD_H"] != (s["R"] - 1) * s["DIL_H"] or s["PAD_W"] != (s["S"] - 1) * s["DIL_W"]
    return _Convolution(
        images=s["N"],
        groups=s["GROUPS"],
        inputs=s["K"] // s["GROUPS"],
        outputs=s["C"] // s["GROUPS"],
        rows=s["H"],
        columns=s["W"],
        taps=(s["R"], s["S"]),
        stride=(1, 1),
        dilation=(s["DIL_H"], s["DIL_W"]),
        phases=s["STRIDE_W"],
        whole=not strided and not padded and s["H"] <= s["P"] and s["W"] <= s["Q"],
    )


def _conv(c: _Convolution, channels_last: bool, frozen: bool, processor: Processor) -> Variant:
    if c.inputs == c.outputs == 1 < c.groups:
        if channels_last:
            return Variant("conv_depthwise.h", f"{c.groups} groups of one channel, which lie side by side")
        return Variant("conv_planes.h", f"{c.groups} groups of one channel, whose rows lie side by side")
    against = _against_winograd(c, processor)
    pixels = c.images * c.rows * c.columns
    if not against and not frozen and pixels < PIXELS:
        against = f"{pixels} pixels, fewer than {PIXELS}, do not pay for transforming the filter in each run"
    if not against:
        return _winograd("conv_winograd.h", c, processor, c.images, 8)  # 8 tiles stand for the transform of the filter
    refused = {"conv_winograd.h": against} if c.taps == (3, 3) else {}
    if c.taps == (1, 1) and c.phases == 1 and c.whole and _fills(c.outputs, processor.lanes)[0]:
        product = _product(pixels, c.outputs, THIN, processor.invariant)
        reason = f"1x1 without padding is a product: {product.reason}"
        return Variant("conv_pointwise.h", reason, {"PRODUCT": f'"{product.file}"'})
    return _direct("conv", c, processor, refused)


def _dgrad(s: Sizes, channels_last: bool, frozen: bool, processor: Processor) -> Variant:
    c = _backward(s)
    against = _against_taps(s, c, processor.lanes)
    if not against:
        return Variant("conv_dgrad_taps.h", f"{c.outputs} channels: taps would meet much padding, vectors of pixels meet none")
    found = _conv(c, channels_last, frozen, processor)
    few = found.file == "conv_narrow.h"
    refused = {**found.refused, "conv_dgrad_taps.h": against} if few else found.refused
    return Variant(found.file, found.reason, found.more, refused)


def _wgrad(c: _Convolution, channels_last: bool, processor: Processor) -> Variant:
    if c.inputs == c.outputs == 1 < c.groups and channels_last:
        return Variant("conv_wgrad_depthwise.h", f"{c.groups} groups of one channel, which lie side by side")
    against = _against_winograd(c, processor)
    if not against:
        return _winograd("conv_wgrad_winograd.h", c, processor, 1, 0)
    refused = {"conv_wgrad_winograd.h": against} if c.taps == (3, 3) else {}
    return _direct("conv_wgrad", c, processor, refused)


def _direct(name: str, c: _Convolution, processor: Processor, refused: Mapping[str, str]) -> Variant:
    """Products are summed as they are written, in vectors of output channels (wide) or of columns (narrow)."""
    many, channels = _fills(c.outputs, processor.lanes)
    if many or c.stride[1] != 1:
        reason = channels if many else f"columns lie {c.stride[1]} apart, so vectors are channels"
        return Variant(f"{name}_wide.h", reason, {}, refused)
    return Variant(f"{name}_narrow.h", f"{channels}, so vectors are columns", {}, refused)


def _fills(channels: int, lanes: int) -> tuple[bool, str]:
    """Whether so many output channels keep vectors of ``lanes`` busy, in words."""
    many = 4 * channels >= 3 * lanes
    return many, f"{channels} output channels fill {'' if many else 'less than '}three quarters of a vector of {lanes}"


def _against_winograd(c: _Convolution, processor: Processor) -> str:
    """Why Winograd's transforms do not compute ``c``; empty if they do."""
    many, channels = _fills(c.outputs, processor.lanes)
    if not processor.winograd:
        return "GRAPHRT_WINOGRAD is 0"
    if c.taps != (3, 3) or c.stride != (1, 1) or c.dilation != (1, 1) or c.phases != 1:
        return "it is not 3x3 of stride 1 without dilation"
    if c.inputs < 8:
        return f"{c.inputs} input channels, fewer than 8"
    if c.rows < 2 or c.columns < 2:
        return "its result is one row or one column"
    return "" if many else channels


def _winograd(file: str, c: _Convolution, processor: Processor, images: int, extra: int) -> Variant:
    """The loops of ``file`` with the tile that takes fewer products; ``extra`` tiles stand for other work."""

    def products(side: int) -> int:  # of one channel by one channel
        return (side + 2) ** 2 * (images * -(-c.rows // side) * -(-c.columns // side) + extra)

    side = 4 if processor.winograd >= 4 and products(4) < products(2) else 2
    reason = f"3x3 of stride 1: {side}x{side} outputs take {(side + 2) ** 2} products where sums take {9 * side**2}"
    return Variant(file, reason, {"SIDE": str(side)})


def _against_taps(s: Sizes, c: _Convolution, lanes: int) -> str:
    """Why the gradient ``c`` of few channels is not taken tap by tap; empty if it is."""
    many, channels = _fills(c.outputs, lanes)
    if many:
        return channels
    if c.images * c.groups < 8 or c.inputs < 8:
        return f"{c.images * c.groups} tasks of {c.inputs} channels of the result, fewer than 8"
    if (s["R"] * s["S"] + c.inputs) * s["P"] * s["Q"] > 1 << 16:
        return "the products of an image take more than 64 K numbers"
    if s["STRIDE_W"] != 1:  # every other product of a vector of columns would be with a zero
        return ""
    rows = 3 * -(-s["W"] // lanes) * s["STRIDE_H"] * (s["P"] + 3)  # vectors of narrow tiles, padding among them
    return "" if rows >= 4 * -(-s["P"] * s["Q"] // lanes) else "rows fill their vectors"


def _pool(s: Sizes) -> Variant:
    c = _forward({**s, "K": s["C"], "GROUPS": 1})
    if c.whole and s["R"] * s["S"] <= REGISTERS:
        return Variant("pool_windows.h", f"windows of {s['R']}x{s['S']} without padding are folded in registers")
    return Variant("pool_lines.h", "windows are padded" if not c.whole else f"windows have more than {REGISTERS} elements")


def _pool_grad(s: Sizes) -> Variant:
    plain = s["PAD_H"] == s["PAD_W"] == 0 and s["DIL_H"] == s["DIL_W"] == 1
    if plain and s["STRIDE_H"] >= s["R"] and s["STRIDE_W"] >= s["S"]:
        return Variant("pool_grad_apart.h", "windows lie apart: each element is met once")
    return Variant("pool_grad_sums.h", "windows overlap, or are padded or spread")
