"""Products of tensors: einsum, and everything that is one with other arguments.

A product of two tensors with named dimensions has four kinds of names: in both and kept (batch), in both and summed
(contracted), in one only (free). Views bring the operands to [batch, free, contracted] and [batch, contracted, free], and
one matmul does the rest; without contracted or without free names it is a multiplication, and a sum.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Value
from graphrt.ops.base import (
    biased,
    broadcast_shape,
    cast,
    dim_index,
    function,
    in_float32,
    integer,
    integers,
    lift,
    require_float,
    tensor,
)
from graphrt.ops.elementwise import abs, eq, maximum, ne, pow, sqrt, where
from graphrt.ops.matmul import matmul
from graphrt.ops.movement import diagonal, roll
from graphrt.ops.reduction import amax, norm, sum
from graphrt.ops.view import permute, reshape, transpose, unsqueeze

Names = list[Hashable]
_EUCLID = "use_mm_for_euclid_dist"
_MODES = (f"{_EUCLID}_if_necessary", _EUCLID, f"donot_{_EUCLID}")


# --- einsum ------------------------------------------------------------------------------------------------------


def _arrange(x: Value, names: Names, groups: Sequence[Names], sizes: dict[Hashable, int]) -> Value:
    """``x`` with one dimension for each group of its names, in their order."""
    order = [n for group in groups for n in group]
    return reshape(permute(x, [names.index(n) for n in order]), [math.prod(sizes[n] for n in g) for g in groups])


def _sum_out(x: Value, names: Names, keep: set[Hashable]) -> tuple[Value, Names]:
    dims = [d for d, n in enumerate(names) if n not in keep]
    return (sum(x, dims) if dims else x), [n for n in names if n in keep]


def _pair(a: Value, left: Names, b: Value, right: Names, keep: set[Hashable]) -> tuple[Value, Names]:
    """The product of ``a`` and ``b``, summed over the names that are not in ``keep``."""
    a, left = _sum_out(a, left, keep | set(right))
    b, right = _sum_out(b, right, keep | set(left))
    sizes = dict(zip([*left, *right], [*a.shape, *b.shape], strict=True))
    batch = [n for n in left if n in right and n in keep]
    inner = [n for n in left if n in right and n not in keep]
    rows, columns = [n for n in left if n not in right], [n for n in right if n not in left]
    names = [*batch, *rows, *columns]
    if inner and (rows or columns) and (a.dtype.is_float or b.dtype.is_float):
        front = [batch] if batch else []
        y = matmul(_arrange(a, left, [*front, rows, inner], sizes), _arrange(b, right, [*front, inner, columns], sizes))
        return reshape(y, [sizes[n] for n in names]), names
    every = [*names, *inner]
    wide = [
        reshape(_arrange(x, own, [[n] for n in every if n in own], sizes), [sizes[n] if n in own else 1 for n in every])
        for x, own in ((a, left), (b, right))
    ]
    return _sum_out(wide[0] * wide[1], every, keep)


def _contract(operands: Sequence[Value], names: Sequence[Names], output: Names) -> Value:
    """The operands' product from left to right, summed over the names that are not in ``output``."""
    sizes: dict[Hashable, int] = {}
    for x, own in zip(operands, names, strict=True):
        for name, n in zip(own, x.shape, strict=True):
            if sizes.get(name, 1) not in (1, n) and n != 1:
                raise ShapeError(f"dimension {name!r} has size {sizes[name]} in one operand and {n} in {list(x.shape)}")
            sizes[name] = n if sizes.get(name, 1) == 1 else sizes[name]
    parts = []
    for x, own in zip(operands, names, strict=True):  # a size-1 dimension that broadcasts is as good as none
        real = [d for d, name in enumerate(own) if x.shape[d] == sizes[name]]
        parts.append((reshape(x, [x.shape[d] for d in real]), [own[d] for d in real]))
    y, left = parts[0]
    for i, (x, right) in enumerate(parts[1:], 1):
        later = {n for _, own in parts[i + 1 :] for n in own}
        y, left = _pair(y, left, x, right, later | set(output))
    y, left = _sum_out(y, left, set(output))
    return permute(y, [left.index(n) for n in output])


def _term(term: str, what: str) -> tuple[list[str], int | None]:
    """The letters of one operand, and before which of them the ellipsis stands."""
    head, dots, tail = term.partition("...")
    if not all(c.isalpha() and c.isascii() for c in head + tail):
        raise ArgumentError(f"equation: {what} {term!r} may hold letters and one '...' only")
    return [*head, *tail], len(head) if dots else None


def _operand(x: Value, term: str) -> tuple[Value, Names]:
    """``x`` with a name for each dimension: letters, and for the ellipsis numbers from the right; diagonals taken."""
    letters, at = _term(term, "operand")
    covered = x.ndim - len(letters)
    if covered < 0 or (covered and at is None):
        raise ShapeError(f"equation: {term!r} names {len(letters)} dimensions, its operand has shape {list(x.shape)}")
    names: Names = list(letters)
    if at is not None:
        names[at:at] = range(-covered, 0)
    for name in dict.fromkeys(letters):
        while names.count(name) > 1:
            i = names.index(name)
            j = names.index(name, i + 1)
            if x.shape[i] != x.shape[j]:
                raise ShapeError(f"equation: {name!r} has sizes {x.shape[i]} and {x.shape[j]} in one operand {term!r}")
            x = diagonal(x, 0, i, j)
            names = [n for d, n in enumerate(names) if d not in (i, j)] + [name]
    return x, names


def _spelled(args: Sequence[Any]) -> tuple[str, list[Any]]:
    """The other form of einsum, (operand, [0, 1], operand, [1, 2], [0, 2]), as equation and operands."""

    def letters(names: Any) -> str:
        names = [n if n is Ellipsis else integer(n, "each dimension", 0) for n in names]
        if any(n is not Ellipsis and n >= 52 for n in names):
            raise ArgumentError(f"dimensions must be numbers from 0 to 51 or ..., got {names}")
        return "".join("..." if n is Ellipsis else chr(ord("A") + n if n < 26 else ord("a") + n - 26) for n in names)

    pairs = len(args) // 2
    lists = [*args[1 : 2 * pairs : 2], *args[2 * pairs :]]
    if not all(isinstance(names, list | tuple) for names in lists):
        raise ArgumentError("einsum takes an equation and its operands, or operands with a list of dimensions behind each")
    text = ",".join(letters(names) for names in lists[:pairs])
    return text + ("->" + letters(lists[-1]) if len(args) % 2 else ""), [*args[: 2 * pairs : 2]]


@function
def einsum(equation: Any, *operands: Any) -> Value:
    """The operands' product over named dimensions, summed over names that the output lacks: ``einsum("bik,bkj->bij", x, y)``.

    ``equation`` as of torch.einsum: without ``->`` the output has the ellipsis and every name that occurs once, sorted; ``...``
    stands for dimensions that broadcast; a name twice in one operand takes its diagonal; size 1 broadcasts.
    """
    if isinstance(equation, Value):
        equation, spelled = _spelled((equation, *operands))
        operands = tuple(spelled)
    if not isinstance(equation, str):
        raise ArgumentError(f"equation must be a string, got {type(equation).__name__}")
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    text, arrow, result = equation.replace(" ", "").partition("->")
    terms = text.split(",")
    if len(terms) != len(operands):
        raise ArgumentError(f"equation {equation!r} has {len(terms)} operands, {len(operands)} were given")
    parts = [_operand(tensor(x, f"operand {i}"), term) for i, (x, term) in enumerate(zip(operands, terms, strict=True))]
    found = {n for _, names in parts for n in names}
    covered: Names = [*sorted(n for n in found if isinstance(n, int))]
    if arrow:
        letters, at = _term(result, "the output")
        output: Names = list(letters)
        if len(set(output)) != len(output) or not set(output) <= found:
            raise ArgumentError(f"equation: the output {result!r} must name dimensions of the operands, each once")
        if at is not None:
            output[at:at] = covered
    else:
        plain = text.replace("...", "").replace(",", "")
        output = [*covered, *sorted(c for c in set(plain) if plain.count(c) == 1)]
    return _contract([x for x, _ in parts], [names for _, names in parts], output)


@function
def tensordot(a: Value, b: Value, dims: Any = 2) -> Value:
    """Product summed over the last ``dims`` dimensions of ``a`` and first of ``b``, or over two lists of dimensions."""
    if isinstance(dims, int):
        count = integer(dims, "dims", 0)
        if count > min(a.ndim, b.ndim):
            raise ArgumentError(f"dims {dims} is more than {list(a.shape)} or {list(b.shape)} has")
        pairs = [list(range(a.ndim - count, a.ndim)), list(range(count))]
    else:
        if not isinstance(dims, list | tuple) or len(dims) != 2:
            raise ArgumentError(f"dims must be an int or two lists of dimensions, got {dims!r}")
        named = [integers([d] if isinstance(d, int) else d, "dims") for d in dims]
        pairs = [[dim_index(d, x.ndim, "dims") for d in ds] for ds, x in zip(named, (a, b), strict=True)]
    if len(pairs[0]) != len(pairs[1]) or any(len(set(p)) != len(p) for p in pairs):
        raise ArgumentError(f"dims must name equally many dimensions of both, each once, got {dims!r}")
    left: Names = [f"a{d}" for d in range(a.ndim)]
    right: Names = [left[pairs[0][pairs[1].index(d)]] if d in pairs[1] else f"b{d}" for d in range(b.ndim)]
    output = [n for n in [*left, *right] if not (n in left and n in right)]
    return _contract([a, b], [left, right], output)


# --- matrices and vectors ----------------------------------------------------------------------------------------


def _ranks(name: str, *operands: tuple[Value, int]) -> None:
    for x, rank in operands:
        if x.ndim != rank:
            raise ShapeError(f"{name} takes operands of {[r for _, r in operands]} dimensions, got {list(x.shape)}")


@function
def mm(input: Value, mat2: Value) -> Value:
    """[m, k] @ [k, n], the matrices ``input`` and ``mat2``."""
    _ranks("mm", (input, 2), (mat2, 2))
    return matmul(input, mat2)


@function
def bmm(input: Value, mat2: Value) -> Value:
    """[b, m, k] @ [b, k, n], a product of ``input`` and ``mat2`` for each b."""
    _ranks("bmm", (input, 3), (mat2, 3))
    if input.shape[0] != mat2.shape[0]:
        raise ShapeError(f"bmm needs one batch size, got input {list(input.shape)} and mat2 {list(mat2.shape)}")
    return matmul(input, mat2)


@function
def mv(input: Value, vec: Value) -> Value:
    """[m, k] @ [k], a matrix times the vector ``vec``."""
    _ranks("mv", (input, 2), (vec, 1))
    return matmul(input, vec)


@function
def dot(input: Value, tensor: Value) -> Value:
    """The sum of the products of two vectors of one length."""
    _ranks("dot", (input, 1), (tensor, 1))
    return matmul(input, tensor)


@function
def inner(input: Value, other: Value) -> Value:
    """Product summed over the last dimension of both: [..., k] and [***, k] -> [..., ***]."""
    if input.ndim == 0 or other.ndim == 0:
        return input * other
    if input.shape[-1] != other.shape[-1]:
        raise ShapeError(f"inner needs last dimensions of one size, got {list(input.shape)} and {list(other.shape)}")
    return tensordot(input, other, ([-1], [-1]))


@function
def outer(input: Value, vec2: Value) -> Value:
    """[m] and ``vec2`` [n] -> [m, n], the product of every pair."""
    _ranks("outer", (input, 1), (vec2, 1))
    return unsqueeze(input, 1) * vec2


def _blend(input: Value, product: Value, beta: float, alpha: float) -> Value:
    shape = broadcast_shape(input.shape, product.shape)
    if shape != product.shape:
        raise ShapeError(f"input {list(input.shape)} does not broadcast to the product {list(product.shape)}")
    scaled = product if alpha == 1 else product * alpha
    return scaled if beta == 0 else biased(scaled, input if beta == 1 else input * beta)


@function
@in_float32
def addmm(input: Value, mat1: Value, mat2: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """``beta * input + alpha * mat1 @ mat2``; with ``beta`` 0 whatever ``input`` holds."""
    return _blend(input, mm(mat1, mat2), beta, alpha)


@function
@in_float32
def baddbmm(input: Value, batch1: Value, batch2: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """``beta * input + alpha * batch1 @ batch2`` for each of a batch: input [b, m, n], batch1 [b, m, k], batch2 [b, k, n]."""
    return _blend(input, bmm(batch1, batch2), beta, alpha)


@function
@in_float32
def addbmm(input: Value, batch1: Value, batch2: Value, *, beta: float = 1, alpha: float = 1) -> Value:
    """``beta * input`` plus ``alpha`` times the sum of a batch's products ``batch1 @ batch2``.

    input is [m, n], batch1 [b, m, k], batch2 [b, k, n]; with ``beta`` 0 whatever ``input`` holds.
    """
    _ranks("addbmm", (batch1, 3), (batch2, 3))
    if batch1.shape[0] != batch2.shape[0] or batch1.shape[2] != batch2.shape[1]:
        raise ShapeError(f"addbmm needs [b, m, k] and [b, k, n], got {list(batch1.shape)} and {list(batch2.shape)}")
    b, m, k = batch1.shape
    tall = reshape(permute(batch1, (1, 0, 2)), (m, b * k))  # the sum over the batch is one longer sum of products
    return _blend(input, matmul(tall, reshape(batch2, (b * k, batch2.shape[2]))), beta, alpha)


@function
def bilinear(input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Value:
    """``input1 @ weight[o] @ input2 + bias[o]``: [..., i], [..., j], weight [out, i, j], bias [out] -> [..., out]."""
    fits = weight.ndim == 3 and input1.ndim and input2.ndim
    if not fits or (input1.shape[-1], input2.shape[-1]) != weight.shape[1:] or input1.shape[:-1] != input2.shape[:-1]:
        shapes = [list(v.shape) for v in (input1, input2, weight)]
        raise ShapeError(f"bilinear needs [..., i], [..., j] with equal leading sizes and weight [out, i, j], got {shapes}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ShapeError(f"bias must be [{weight.shape[0]}], got {list(bias.shape)}")
    half = tensordot(input1, weight, ([-1], [1]))
    y = sum(half * unsqueeze(input2, -2), -1)
    return biased(y, bias)


@function
def kron(input: Value, other: Value) -> Value:
    """The Kronecker product: a copy of ``other`` times each element of ``input``, in its place."""
    rank = max(input.ndim, other.ndim)
    a, b = ([1] * (rank - v.ndim) + list(v.shape) for v in (input, other))
    left = reshape(input, [m for n in a for m in (n, 1)])
    right = reshape(other, [m for n in b for m in (1, n)])
    return reshape(left * right, [n * m for n, m in zip(a, b, strict=True)])


@function
@in_float32
def cross(input: Value, other: Value, dim: int | None = None) -> Value:
    """The vector product along ``dim`` of size 3 (the first such one when None)."""
    a, b = lift(input, other)
    if dim is None:
        dim = next((d for d, n in enumerate(a.shape) if n == 3), None)
        if dim is None:
            raise ShapeError(f"cross needs a dimension of size 3, got {list(a.shape)}")
    at = dim_index(dim, a.ndim)
    if input.ndim != other.ndim or a.shape[at] != 3:
        raise ShapeError(f"cross needs size 3 along {dim}, got input {list(input.shape)} and other {list(other.shape)}")
    return roll(a, -1, at) * roll(b, -2, at) - roll(a, -2, at) * roll(b, -1, at)


# --- distances ---------------------------------------------------------------------------------------------------


def _rooted(total: Value, p: float) -> Value:
    """``total ** (1/p)``, with gradient 0 at 0."""
    zero = eq(total, 0.0)
    safe = where(zero, 1.0, total)
    return where(zero, 0.0, sqrt(safe) if p == 2 else pow(safe, 1 / p))


@function
@in_float32
def dist(input: Value, other: Value, p: float = 2) -> Value:
    """The p-norm of all of ``input - other``, broadcast."""
    return norm(input - other, p)


def _euclidean(x1: Value, x2: Value) -> Value:
    """Squared distances by ``|a|^2 + |b|^2 - 2ab``: one matmul, less exact for points that lie close together."""
    norms = unsqueeze(sum(x1 * x1, -1), -1) + unsqueeze(sum(x2 * x2, -1), -2)
    return maximum(norms - matmul(x1, transpose(x2, -1, -2)) * 2.0, 0.0)


@function
@in_float32
def cdist(x1: Value, x2: Value, p: float = 2.0, compute_mode: str = _MODES[0]) -> Value:
    """The p-norm of each difference: ``x1`` [..., n, k] and ``x2`` [..., m, k] -> [..., n, m]; batches broadcast.

    ``compute_mode`` says whether p = 2 goes through a matmul: "use_mm_for_euclid_dist_if_necessary" (above 25 points),
    "use_mm_for_euclid_dist" or "donot_use_mm_for_euclid_dist".
    """
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise ShapeError(f"cdist needs [..., n, k] and [..., m, k], got {list(x1.shape)} and {list(x2.shape)}")
    if not p >= 0:
        raise ArgumentError(f"p must be a number >= 0, got {p!r}")
    if compute_mode not in _MODES:
        raise ArgumentError(f"compute_mode must be {', '.join(_MODES)}, got {compute_mode!r}")
    require_float(x1.dtype, "x1")
    require_float(x2.dtype, "x2")
    many = max(x1.shape[-2], x2.shape[-2]) > 25
    if p == 2 and (compute_mode == _MODES[1] or (compute_mode == _MODES[0] and many)):
        return _rooted(_euclidean(x1, x2), p)
    d = abs(unsqueeze(x1, -2) - unsqueeze(x2, -3))
    if p == 0:
        return sum(cast(ne(d, 0.0), d.dtype), -1)
    if p == 1 or d.shape[-1] == 0:
        return sum(d, -1)
    if p == math.inf:
        return amax(d, -1)
    if p == 2:
        return _rooted(sum(d * d, -1), p)
    zero = eq(d, 0.0)
    return _rooted(sum(where(zero, 0.0, pow(where(zero, 1.0, d), p)), -1), p)
