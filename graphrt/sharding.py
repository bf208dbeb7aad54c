"""Sharding: how a parameter is cut into parts, of which each process of a mesh has one.

A parameter's attribute ``cuts`` says so: (axis of the mesh, dimension, whole shape), one behind the other. Where no dimension
is a multiple of the processes, it is cut as a flat array, filled up with zeros: then the dimension is None. Where it is SUM,
each has an array of the whole shape, and the parameter is their sum, as gradients are that are still to be added up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphrt.errors import ShapeError
from graphrt.mesh import Mesh
from graphrt.types import Shape

Cut = tuple[str, int | None, Shape]
SUM = -1


def cut_of(axis: str, size: int, shape: Shape) -> Cut:
    """The cut of a tensor of ``shape`` along an ``axis`` of ``size``: of its first dimension that is a multiple of that."""
    return axis, next((d for d, n in enumerate(shape) if n and n % size == 0), None), shape


def part_shape(cut: Cut, size: int) -> Shape:
    """The shape of each of ``size`` parts. Raises ShapeError where the dimension is no multiple of it."""
    _, dim, shape = cut
    if dim is None:
        return (-(-math.prod(shape) // size),)
    if dim == SUM:
        return shape
    if shape[dim] % size:
        raise ShapeError(f"dimension {dim} of {list(shape)} must be a multiple of {size}, the processes along {cut[0]}")
    return tuple(n // size if d == dim else n for d, n in enumerate(shape))


@dataclass(frozen=True)
class Sharding:
    """The ``cuts`` of a parameter of the processes of ``mesh``."""

    mesh: Mesh
    cuts: tuple[Cut, ...]

    @property
    def whole(self) -> Shape:
        """The shape of the parameter."""
        return self.cuts[0][2]

    def part(self, array: np.ndarray, at: Mapping[str, int]) -> np.ndarray:
        """The part of ``array`` that belongs to the process ``at`` these coordinates."""
        for cut in self.cuts:
            axis, dim, _ = cut
            size = self.mesh.axes[axis]
            if dim == SUM:
                array = array if at[axis] == 0 else np.zeros_like(array)
                continue
            if dim is None:
                length = part_shape(cut, size)[0]
                array = np.pad(array.reshape(-1), (0, length * size - array.size))
            array = np.split(array, size, dim or 0)[at[axis]]
        return array

    def join(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The parameter of which each process, by rank, has one of ``parts``."""
        found = dict(enumerate(parts))
        for axis, dim, shape in reversed(self.cuts):
            for row in self.mesh.groups(axis):
                if dim == SUM:
                    found.update(dict.fromkeys(row, np.sum([found[rank] for rank in row], 0)))
                    continue
                array = np.concatenate([found[rank] for rank in row], dim or 0)
                array = array if dim is not None else array[: math.prod(shape)].reshape(shape)
                found.update(dict.fromkeys(row, array))
        return found[0]


def shardings(mesh: Mesh | None, nodes: Sequence[Any]) -> dict[str, Sharding]:
    """The sharding of each parameter among ``nodes`` that has one, by name."""
    if mesh is None:
        return {}
    return {n.name: Sharding(mesh, n.attrs["cuts"]) for n in nodes if "cuts" in n.attrs}
