"""Image: a program as a driver runs it, without graph or source: kernels, launches, and where every buffer lies.

One arena holds it all: first what lives between launches, then the slots of inputs and outputs, which stay where they are so
that a captured graph finds them, then a word at which programs meet, then scratch memory that some kernels want. State lies
outside, where programs share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphrt.schedule.memory import ALIGNMENT, MemoryPlan
from graphrt.schedule.schedule import Slot
from graphrt.targets.triton.emit.launch import LaunchCode
from graphrt.targets.triton.kernel import KernelBinary
from graphrt.types import TensorType


@dataclass(frozen=True)
class Buffer:
    """A tensor's place: ``offset`` bytes into the arena, or the buffer ``name`` of the state."""

    space: str  # arena | input | output | state | barrier
    name: str
    type: TensorType
    offset: int = 0


@dataclass(frozen=True)
class ImageLaunch:
    """``grid`` blocks of kernel number ``kernel`` on ``buffers``, in the order of its pointers."""

    kernel: int
    grid: int
    buffers: tuple[Buffer, ...]


@dataclass(frozen=True)
class Image:
    """``size`` bytes of arena, of which the first ``temporary`` are nothing between runs and the last ``scratch`` scratch.

    ``until`` has the launches that are collectives, and the one before which each must be over.
    """

    kernels: Sequence[Any]  # KernelBinary, LibraryCall, CollectiveCall, or the interpreter's JitKernel
    launches: Sequence[ImageLaunch]
    size: int
    temporary: int
    scratch: int
    until: Mapping[int, int] = field(default_factory=dict)

    def buffers(self, *spaces: str) -> dict[str, Buffer]:
        """The buffers of ``spaces`` that launches use, by name."""
        return {b.name: b for launch in self.launches for b in launch.buffers if b.space in spaces}

    def dependent(self) -> list[bool]:
        """Whether each launch may begin before the one in front has ended: both wait for what is in front of them.

        The first waits for other work than a kernel's, and a library's kernels are not ours to look into. Where collectives run
        beside the launches none does: events lie between.
        """
        if self.until:
            return [False] * len(self.launches)
        waits = [isinstance(k := self.kernels[launch.kernel], KernelBinary) and k.dependent for launch in self.launches]
        return [here and before for here, before in zip(waits, [False, *waits], strict=False)]


def make_image(
    codes: Sequence[LaunchCode],
    kernels: Sequence[Any],
    numbers: Sequence[int],
    plan: MemoryPlan,
    until: Mapping[int, int] | None = None,
) -> Image:
    """The image of a program whose launch i, which has work, runs ``kernels[numbers[i]]``; ``until`` as of ``Image``."""
    place, temporary = _places(codes, plan)
    launches = [
        ImageLaunch(number, code.grid, tuple(map(place, code.slots))) for code, number in zip(codes, numbers, strict=True)
    ]
    end = max([temporary, *(b.offset + aligned(b.type.nbytes) for launch in launches for b in launch.buffers)])
    wanted = [launch.grid * k.scratch for launch in launches if isinstance(k := kernels[launch.kernel], KernelBinary)]
    scratch = aligned(max(wanted)) if any(wanted) else 0
    return Image(kernels, launches, end + scratch, temporary, scratch, until or {})


def _places(codes: Sequence[LaunchCode], plan: MemoryPlan) -> tuple[Callable[[Slot], Buffer], int]:
    """The place of each slot, and the end of the temporary part of the arena: outputs lie side by side, as do inputs.

    What is behind these moves none of them.
    """
    found = dict.fromkeys(slot for code in codes for slot in code.slots)
    end = temporary = aligned(plan.size)
    offsets = dict(plan.offset)
    for space in ("output", "input", "barrier"):
        for slot in found:
            if slot.space == space:
                offsets[slot] = end
                end += aligned(slot.type.nbytes)
    return lambda s: Buffer(s.space, s.name, s.type, offsets.get(s, 0)), temporary


def aligned(nbytes: int) -> int:
    """The bytes that a buffer of ``nbytes`` takes in the arena."""
    return max(-(-nbytes // ALIGNMENT), 1) * ALIGNMENT
