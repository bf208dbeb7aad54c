"""Integer index expressions: affine sums of axes, quotients and remainders, kept in a normal form.

Views are index maps, and a chain of views is their composition; a reshape writes a quotient and a remainder, and the next
one must find that ``c*(e//c) + e%c`` is ``e`` again. Every expression carries its range, which is what decides each
simplification. Division is floor division; C and Triton divide towards zero, so operands of a quotient or remainder are
kept non-negative and the printed text means the same everywhere.

A compilation composes the same maps again and again, so what is costly is remembered: hashes, ranges, the order of terms, and
sums, quotients and remainders as a whole.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

Atom = tuple  # ("axis", name, extent) | ("div", Expr, c) | ("mod", Expr, c)
_remembered = functools.lru_cache(1 << 16)


@dataclass(frozen=True)
class Expr:
    """``const + sum(coefficient * atom)``; ``terms`` is sorted, so equal expressions compare equal."""

    terms: tuple[tuple[Atom, int], ...] = ()
    const: int = 0

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.terms, self.const))

    def __hash__(self) -> int:
        return self._hash

    def range(self) -> tuple[int, int]:
        """Smallest and largest value over the extents of the axes (interval arithmetic)."""
        return self._range

    @functools.cached_property
    def _range(self) -> tuple[int, int]:
        low = high = self.const
        for atom, k in self.terms:
            a, b = _atom_range(atom)
            low += min(k * a, k * b)
            high += max(k * a, k * b)
        return low, high

    def __add__(self, other: Expr | int) -> Expr:
        other = as_expr(other)
        if not other.terms:
            return Expr(self.terms, self.const + other.const) if other.const else self
        if not self.terms:
            return Expr(other.terms, self.const + other.const) if self.const else other
        return _normal((*self.terms, *other.terms), self.const + other.const)

    def __sub__(self, other: Expr | int) -> Expr:
        return self + as_expr(other) * -1

    def __mul__(self, k: int) -> Expr:
        return Expr(tuple((a, c * k) for a, c in self.terms), self.const * k) if k else Expr()

    def __floordiv__(self, c: int) -> Expr:
        return _floordiv(self, c)

    def __mod__(self, c: int) -> Expr:
        return _mod(self, c)

    def axes(self) -> set[str]:
        """Names of the axes the expression depends on."""
        return set(self._axes)

    def runs_along(self, names: Set[str]) -> bool:
        """Whether the expression depends on one of the axes ``names``."""
        return not self._axes.isdisjoint(names)

    @functools.cached_property
    def _axes(self) -> frozenset[str]:
        return frozenset().union(*({atom[1]} if atom[0] == "axis" else atom[1].axes() for atom, _ in self.terms))

    def stride(self, axis: str) -> int | None:
        """Change for one step along ``axis``; 0 if independent of it, None if not affine in it."""
        step = 0
        for atom, k in self.terms:
            if atom[0] == "axis":
                step += k if atom[1] == axis else 0
            elif axis in atom[1].axes():
                return None
        return step

    def common_stride(self, axis: str) -> int:
        """Change for most single steps along ``axis``: quotients do not change, and remainders do not start again."""
        step = 0
        for atom, k in self.terms:
            if atom[0] == "axis":
                step += k if atom[1] == axis else 0
            else:
                inside = atom[1].common_stride(axis)
                step += k * int(math.fmod(inside, atom[2]) if atom[0] == "mod" else inside / atom[2])
        return step

    def substitute(self, values: dict[str, Expr]) -> Expr:
        """The expression with each axis named in ``values`` replaced."""
        total = Expr(const=self.const)
        for atom, k in self.terms:
            if atom[0] == "axis":
                part = values.get(atom[1], Expr(((atom, 1),)))
            else:
                inner = atom[1].substitute(values)
                part = inner // atom[2] if atom[0] == "div" else inner % atom[2]
            total = total + part * k
        return total

    def renamed(self, names: Mapping[str, str]) -> Expr:
        """The expression with axes called otherwise."""
        terms = []
        for atom, k in self.terms:
            inner = names.get(atom[1], atom[1]) if atom[0] == "axis" else atom[1].renamed(names)
            terms.append(((atom[0], inner, atom[2]), k))
        return Expr(tuple(terms), self.const)

    def render(self, division: str = "//") -> str:
        """Source text; ``division`` is ``//`` in Python and Triton, ``/`` in C."""
        parts = []
        for atom, k in self.terms:
            if atom[0] == "axis":
                text = atom[1]
            else:
                sign = division if atom[0] == "div" else "%"
                inner = atom[1].render(division)
                atomic = len(atom[1].terms) == 1 and atom[1].const == 0 and atom[1].terms[0][1] == 1
                text = f"({inner if atomic else f'({inner})'} {sign} {atom[2]})"
            parts.append(text if k == 1 else f"{text} * {k}" if k > 0 else f"{text} * ({k})")
        if self.const or not parts:
            parts.append(str(self.const) if self.const >= 0 or not parts else f"({self.const})")
        return " + ".join(parts)

    def __str__(self) -> str:
        return self.render()


def as_expr(value: Expr | int) -> Expr:
    """``value`` as an expression; an int as a constant."""
    return value if isinstance(value, Expr) else Expr(const=value)


def axis(name: str, extent: int) -> Expr:
    """An axis running over ``0 <= name < extent``; an axis of one step is the constant 0."""
    return Expr(((("axis", name, extent), 1),)) if extent != 1 else Expr()


def axes(prefix: str, shape: Sequence[int]) -> tuple[Expr, ...]:
    """One axis per dimension of ``shape``, named ``prefix0``, ``prefix1`` and so on."""
    return _axes(prefix, tuple(shape))


@_remembered
def _axes(prefix: str, shape: tuple[int, ...]) -> tuple[Expr, ...]:
    return tuple(axis(f"{prefix}{i}", n) for i, n in enumerate(shape))


def linearize(index: Sequence[Expr], strides: Sequence[int]) -> Expr:
    """The dot product of ``index`` and ``strides``: an offset in elements."""
    total = Expr()
    for e, k in zip(index, strides, strict=True):
        total = total + e * k
    return total


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense row-major tensor of ``shape``."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def delinearize(offset: Expr, shape: Sequence[int]) -> tuple[Expr, ...]:
    """The row-major index in ``shape`` at ``offset``."""
    index: list[Expr] = []
    for i, (n, k) in enumerate(zip(shape, row_major(shape), strict=True)):
        e = offset // max(k, 1)
        index.append(e if i == 0 else e % max(n, 1))
    return tuple(index)


@_remembered
def renumbered(index: tuple[Expr, ...], old: tuple[int, ...], new: tuple[int, ...]) -> tuple[Expr, ...]:
    """The index in shape ``new`` of the element that is at ``index`` in shape ``old``, both in rows."""
    return delinearize(linearize(index, row_major(old)), new)


def _atom_range(atom: Atom) -> tuple[int, int]:
    if atom[0] == "axis":
        return 0, max(atom[2] - 1, 0)
    low, high = atom[1].range()
    if atom[0] == "div":
        return low // atom[2], high // atom[2]
    return (low % atom[2], high % atom[2]) if low // atom[2] == high // atom[2] else (0, atom[2] - 1)


@_remembered
def _order(atom: Atom) -> str:
    """By which atoms with equal coefficients are sorted."""
    return str(atom)


@_remembered
def _normal(terms: tuple[tuple[Atom, int], ...], const: int) -> Expr:
    total: dict[Atom, int] = {}
    for atom, k in terms:
        total[atom] = total.get(atom, 0) + k
    for atom, k in list(total.items()):  # k*(e % c) + k*c*(e // c) = k*e
        if atom[0] != "mod" or not total.get(atom):
            continue
        quotient = atom[1] // atom[2]
        if len(quotient.terms) == 1 and quotient.terms[0][1] == 1 and total.get(quotient.terms[0][0]) == k * atom[2]:
            del total[atom], total[quotient.terms[0][0]]
            rest = (*total.items(), *((a, j * k) for a, j in atom[1].terms))
            return _normal(rest, const + k * (atom[1].const - atom[2] * quotient.const))
    kept = ((a, k) for a, k in total.items() if k)
    return Expr(tuple(sorted(kept, key=lambda t: (-abs(t[1]), _order(t[0])))), const)


def _split(e: Expr, c: int) -> tuple[Expr, Expr]:
    """``e`` as ``c*q + r`` by the coefficients that ``c`` divides."""
    q = tuple((a, k // c) for a, k in e.terms if k % c == 0)
    r = tuple((a, k) for a, k in e.terms if k % c)
    return Expr(q, e.const // c), Expr(r, e.const % c)


@_remembered
def _floordiv(e: Expr, c: int) -> Expr:
    if c == 1:
        return e
    q, r = _split(e, c)
    low, high = r.range()
    if low // c == high // c:
        return q + low // c
    g = math.gcd(c, *(k for _, k in r.terms))
    if g > 1:  # (g*x + d) // (g*y) = x // y for 0 <= d < g
        return q + _floordiv(Expr(tuple((a, k // g) for a, k in r.terms), r.const // g), c // g)
    # drop a part that cannot carry: r = big + small with big a multiple of g' and 0 <= small < g'
    for g2 in sorted({math.gcd(k, c) for _, k in r.terms if math.gcd(k, c) > 1}, reverse=True):
        small = Expr(tuple((a, k) for a, k in r.terms if k % g2), r.const % g2)
        lo, hi = small.range()
        if 0 <= lo and hi < g2:
            big = Expr(tuple((a, k // g2) for a, k in r.terms if k % g2 == 0), r.const // g2)
            return q + _floordiv(big, c // g2)
    if len(r.terms) == 1 and r.const == 0 and r.terms[0][1] == 1:
        atom = r.terms[0][0]
        if atom[0] == "div":  # (x // a) // c = x // (a*c)
            return q + _floordiv(atom[1], atom[2] * c)
        if atom[0] == "mod" and atom[2] % c == 0:  # (x % (c*b)) // c = (x // c) % b
            return q + _mod(_floordiv(atom[1], c), atom[2] // c)
    shift = -(low // c) if low < 0 else 0  # C and Triton divide towards zero: keep the operand non-negative
    return q - shift + Expr(((("div", r + shift * c, c), 1),))


@_remembered
def _mod(e: Expr, c: int) -> Expr:
    if c == 1:
        return Expr()
    _, r = _split(e, c)
    low, high = r.range()
    if low // c == high // c:
        return r - (low // c) * c
    for g in sorted({math.gcd(k, c) for _, k in r.terms if math.gcd(k, c) > 1}, reverse=True):
        small = Expr(tuple((a, k) for a, k in r.terms if k % g), r.const % g)
        lo, hi = small.range()
        if 0 <= lo and hi < g:  # (g*x + d) % (g*y) = g*(x % y) + d for 0 <= d < g
            big = Expr(tuple((a, k // g) for a, k in r.terms if k % g == 0), r.const // g)
            return _mod(big, c // g) * g + small
    if len(r.terms) == 1 and r.const == 0 and r.terms[0][1] == 1 and r.terms[0][0][0] == "mod":
        atom = r.terms[0][0]
        if atom[2] % c == 0:
            return _mod(atom[1], c)
    shift = -(low // c) if low < 0 else 0
    return Expr(((("mod", r + shift * c, c), 1),))
