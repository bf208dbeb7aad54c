"""Tensor types: element type, shape and physical layout.

A ``TensorType`` prints as ``f32[64,6,28,28]``; a layout other than row-major is written behind it as the order of the
dimensions in memory, outermost first: ``f32[64,6,28,28]{0,2,3,1}`` is channels-last. Shapes and dtypes are what a program
means, layouts are how it is stored, so ``same`` compares the first two only. Where many processes run one program, the type of
a value that differs from one to the other names the axes of their mesh along which it does: ``f32[16,10]@dp``.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from graphrt.errors import ArgumentError, DTypeError


@dataclass(frozen=True)
class DType:
    """One element type: its name as torch spells it, short name, NumPy type, size in bytes, and rank in promotion."""

    name: str
    short: str
    numpy: np.dtype
    rank: int

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return int(self.numpy.itemsize)

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point type, bfloat16 among them."""
        return self.numpy.kind == "f" or self.name == "bfloat16"  # NumPy does not know ml_dtypes' type as a float

    @property
    def is_bool(self) -> bool:
        """Whether it is bool."""
        return self.numpy.kind == "b"

    @property
    def is_int(self) -> bool:
        """Whether it is an integer type, signed or not; bool is none."""
        return self.numpy.kind in "iu"

    def whole(self, number: bool | int | float) -> int:
        """``number`` as this integer type holds it: cut off towards zero, and unsigned ones wrapped below zero, as in torch.

        Raises ArgumentError where it does not fit.
        """
        info = np.iinfo(self.numpy)
        if not math.isfinite(number) or not (info.min or -info.max) <= int(number) <= info.max:
            raise ArgumentError(f"{number!r} does not fit {self}, which holds {info.min} to {info.max}")
        return int(number) if info.min else int(number) % (info.max + 1)

    def holds(self, other: DType) -> bool:
        """Whether it has every number that ``other`` has, so that a cast to it loses nothing."""
        if other.is_bool or self.is_bool:
            return other.is_bool
        if other.is_float:
            if not self.is_float:
                return False
            own, its = ml_dtypes.finfo(self.numpy), ml_dtypes.finfo(other.numpy)
            return own.nmant >= its.nmant and own.maxexp >= its.maxexp and own.minexp <= its.minexp
        whole = np.iinfo(other.numpy)
        if self.is_float:
            return whole.bits - (whole.min < 0) <= ml_dtypes.finfo(self.numpy).nmant + 1
        return bool(np.iinfo(self.numpy).min <= whole.min and np.iinfo(self.numpy).max >= whole.max)

    def __repr__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return hash(self.name)  # NumPy's is slow, and every index map is a key somewhere


bool_ = DType("bool", "b1", np.dtype(np.bool_), 0)
uint8 = DType("uint8", "u8", np.dtype(np.uint8), 1)
int8 = DType("int8", "i8", np.dtype(np.int8), 2)
int16 = DType("int16", "i16", np.dtype(np.int16), 3)
int32 = DType("int32", "i32", np.dtype(np.int32), 4)
int64 = DType("int64", "i64", np.dtype(np.int64), 5)
float16 = DType("float16", "f16", np.dtype(np.float16), 6)
bfloat16 = DType("bfloat16", "bf16", np.dtype(ml_dtypes.bfloat16), 7)
float32 = DType("float32", "f32", np.dtype(np.float32), 8)
float64 = DType("float64", "f64", np.dtype(np.float64), 9)

HALVES = (float16, bfloat16)  # stored in two bytes, computed in float32
DTYPES: dict[str, DType] = {d.name: d for d in (bool_, uint8, int8, int16, int32, int64, *HALVES, float32, float64)}
_BY_SHORT = {d.short: d for d in DTYPES.values()}
_BY_NUMPY = {d.numpy: d for d in DTYPES.values()}

DTypeLike = DType | str | np.dtype | type


def as_dtype(dtype: DTypeLike) -> DType:
    """The DType that ``dtype`` names: a DType, ``"float32"``, ``"f32"``, a NumPy or torch dtype. Raises DTypeError."""
    if isinstance(dtype, DType):
        return dtype
    found = _BY_NUMPY.get(dtype) if isinstance(dtype, np.dtype) else None
    if found is None:
        text = str(dtype).removeprefix("torch.")
        found = DTYPES.get(text) or _BY_SHORT.get(text)
    if found is None and dtype is not None and not (isinstance(dtype, str) and "\0" in dtype):  # which NumPy reads no further
        try:
            found = _BY_NUMPY.get(np.dtype(dtype))
        except (TypeError, ValueError, SyntaxError):  # NumPy reads texts as lists of formats
            pass
    if found is None and "complex" in str(dtype):
        raise DTypeError(f"graphrt has no complex numbers, got {dtype}; keep real and imaginary parts in two tensors")
    if found is None and isinstance(dtype, np.dtype) and dtype.newbyteorder() in _BY_NUMPY:
        raise DTypeError(f"{dtype!r} has its bytes in the other order; convert it first, with .astype({dtype.name!r})")
    if found is None:
        raise DTypeError(f"{dtype!r} is no dtype of graphrt; it has {', '.join(DTYPES)}")
    return found


def as_array(value: Any, what: str) -> np.ndarray:
    """``value``, an array, a number or a tensor of torch, as an array of real numbers.

    Raises ArgumentError, which says ``what`` it is, and DTypeError.
    """
    try:
        array = np.asarray(value.detach() if hasattr(value, "detach") else value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"{what}: {type(value).__name__} is no array that NumPy can read: {error}") from None
    if array.dtype.kind not in "biuf":  # complex numbers, texts, objects
        as_dtype(array.dtype)
    return array


def promote(*dtypes: DType) -> DType:
    """The dtype of an operation on tensors of ``dtypes``: the highest rank, as torch promotes tensors of equal rank.

    Two exceptions follow torch: uint8 with int8 gives int16, float16 with bfloat16 float32.
    """
    best = max(dtypes, key=lambda d: d.rank)
    if best is int8 and uint8 in dtypes:
        return int16
    if best is bfloat16 and float16 in dtypes:
        return float32
    return best


Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorType:
    """``shape`` and ``dtype`` of a value, and ``order``: its dimensions in memory, outermost first (None: row-major).

    ``varying`` are the axes of the mesh of processes, in alphabetical order, along which each process has a value of its own.
    """

    shape: Shape
    dtype: DType
    order: tuple[int, ...] | None = None
    varying: tuple[str, ...] = ()

    @functools.cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @functools.cached_property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.dtype.itemsize

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def strides(self) -> Shape:
        """Distance in elements between neighbours along each dimension, for a dense tensor laid out in ``order``."""
        strides, step = [0] * self.ndim, 1
        for dim in reversed(self.order if self.order is not None else range(self.ndim)):
            strides[dim] = step
            step *= self.shape[dim]
        return tuple(strides)

    def same(self, other: TensorType) -> bool:
        """Whether shape and dtype agree, whatever the layout."""
        return self.shape == other.shape and self.dtype == other.dtype

    def like(self, other: TensorType) -> bool:
        """Whether all but the layout agrees."""
        return self.same(other) and self.varying == other.varying

    def with_order(self, order: Sequence[int] | None) -> TensorType:
        """This type stored in ``order``; row-major is kept as None so that equal layouts compare equal."""
        wanted = None if order is None or tuple(order) == tuple(range(self.ndim)) else tuple(order)
        return self if wanted == self.order else TensorType(self.shape, self.dtype, wanted, self.varying)

    def over(self, varying: tuple[str, ...]) -> TensorType:
        """This type of a value that varies over these axes of the mesh."""
        return self if varying == self.varying else TensorType(self.shape, self.dtype, self.order, varying)

    def __str__(self) -> str:
        return self._text

    @functools.cached_property
    def _text(self) -> str:
        text = f"{self.dtype.short}[{','.join(map(str, self.shape))}]"
        text = text if self.order is None else text + "{" + ",".join(map(str, self.order)) + "}"
        return f"{text}@{'*'.join(self.varying)}" if self.varying else text

    @staticmethod
    def parse(text: str) -> TensorType:
        """Reads what ``str`` printed. Raises ValueError."""
        match = re.fullmatch(r"(\w+)\[([\d,]*)\](?:\{([\d,]*)\})?(?:@([\w*]+))?", text.strip())
        ints = [tuple(int(i) for i in part.split(",") if i) for part in (match[2], match[3] or "")] if match else []
        if match is None or match[1] not in _BY_SHORT or (match[3] is not None and {*ints[1]} != {*range(len(ints[0]))}):
            raise ValueError(f"{text!r} is no tensor type; one looks like f32[64,10] or f32[8,3,9,9]{{0,2,3,1}}")
        order = ints[1] if match[3] is not None else None
        return TensorType(ints[0], _BY_SHORT[match[1]], order, tuple(match[4].split("*")) if match[4] else ())


# --- strides ----------------------------------------------------------------------------------------------------------


def by_stride(strides: Sequence[int]) -> tuple[int, ...]:
    """The dimensions from the outermost in memory to the innermost."""
    return tuple(sorted(range(len(strides)), key=lambda d: (-strides[d], d)))


def is_dense(sizes: Sequence[int], strides: Sequence[int], order: Sequence[int]) -> bool:
    """Whether dimensions in this order lie one inside the other without gaps; those of one element lie anywhere."""
    step = 1
    for d in reversed(order):
        if sizes[d] != 1 and strides[d] != step:
            return 0 in sizes
        step *= sizes[d]
    return True


def dense_order(sizes: Sequence[int], strides: Sequence[int]) -> tuple[int, ...] | None:
    """The dimensions as they lie in memory, outermost first; None for row-major, and where there are gaps."""
    order = by_stride(strides)
    return order if not is_dense(sizes, strides, range(len(sizes))) and is_dense(sizes, strides, order) else None
