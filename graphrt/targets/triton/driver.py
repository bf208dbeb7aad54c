"""Driver: the operations of a device that a program runs on. Three do: a GPU, none (null), Triton's interpreter.

Memory is torch's: a buffer is a torch tensor, and streams and events have the methods of torch.cuda's. Everything but
``fetch`` is asynchronous where the device is: it returns when the work is on the current stream.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import numpy as np

Launch = Callable[[Any], object]
"""A kernel with its grid and pointers bound; called with a stream it runs there."""


class Driver(Protocol):
    """One device. ``target`` names its architecture (cuda:sm_90), ``where`` it for messages (cuda:0).

    ``model`` is what its maker calls it (NVIDIA H200), ``units`` are its multiprocessors (None: as many as such a GPU usually
    has). ``simulated`` is one that runs no kernels: neither its results nor its times mean anything.
    """

    target: str
    where: str
    model: str
    units: int | None
    simulated: bool

    def allocate(self, size: int) -> Any:
        """``size`` zeroed bytes on the device, aligned to 256, as a torch.uint8 tensor."""

    def pinned(self, size: int) -> Any:
        """``size`` bytes of host memory from which copies to the device run on while the host does."""

    def place(self, flat: Any) -> Any:
        """The values of a flat CPU tensor in memory that launches can point to: new memory, or the same where they can."""

    def fetch(self, tensor: Any) -> Any:
        """``tensor`` in new host memory, once what is on the current stream is done."""

    def owns(self, tensor: Any) -> bool:
        """Whether ``tensor`` lies on this device."""

    def stream(self) -> Any:
        """torch's current stream on this device."""

    def fork(self) -> Any:
        """A new stream."""

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Makes ``stream`` the current one inside."""

    def keep(self, tensor: Any, stream: Any) -> None:
        """Tells the allocator that ``tensor`` is used on ``stream`` too, so that its memory outlives the work there."""

    def lasts(self, stream: Any) -> bool:
        """Whether ``stream`` cannot be destroyed behind one's back."""

    def copy(self, target: Any, source: Any) -> None:
        """Copies the tensor ``source``, of the device or pinned, to ``target`` on the current stream."""

    def clone(self, tensor: Any) -> Any:
        """A copy in new memory, made on the current stream."""

    def borrow(self, tensor: Any) -> None:
        """Lets launches point to ``tensor``, which is a caller's, while the caller has it."""

    def load(self, kernel: Any) -> Any:
        """A compiled kernel, or a library's call as it is, loaded. Raises TargetError when this device cannot run it."""

    def bind(self, loaded: Any, grid: int, buffers: Sequence[Any], scratch: Any, dependent: bool = False) -> Launch:
        """A launch of ``grid`` blocks on ``buffers``, tensors in the order of the kernel's pointers.

        One that is ``dependent`` may begin before the launch in front of it has ended; its kernel must wait for that.
        """

    def run(self, launches: Sequence[Launch]) -> None:
        """Runs ``launches`` in order on the current stream."""

    def capture(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """``launches`` as one graph, not run; what is returned replays it on the current stream."""

    def clock(self, groups: Sequence[Sequence[Launch]], graph: bool = True) -> Callable[[], list[float]]:
        """A function that runs ``groups`` of launches in order and returns the seconds of each group.

        With ``graph`` all of them are one graph, captured here: no launch waits for the host, which takes longer than a short
        kernel does.
        """


class HostStream:
    """The stream of a driver whose work is done when a call returns."""

    def wait_event(self, event: Any) -> None:
        """Nothing is under way."""

    def wait_stream(self, stream: Any) -> None:
        """Nothing is under way."""

    def record_event(self, event: Any = None) -> Any:
        """An event that has happened; the stream itself serves."""
        return self

    def query(self) -> bool:
        """Nothing is under way."""
        return True

    def synchronize(self) -> None:
        """Nothing is under way."""


class HostDriver:
    """The common part of drivers that use the CPU's memory."""

    where = model = "cpu"
    units: int | None = None
    simulated = False
    _stream = HostStream()

    def allocate(self, size: int) -> Any:
        """``size`` zeroed bytes at a multiple of 256. A page that nobody touches takes no memory: plans for GPUs are large."""
        import torch

        memory = torch.from_numpy(np.zeros(size + 256, np.uint8))
        start = -memory.data_ptr() % 256
        return memory[start : start + size]

    def pinned(self, size: int) -> Any:
        """Host memory."""
        import torch

        return torch.empty(size, dtype=torch.uint8)

    def fetch(self, tensor: Any) -> Any:
        """A copy."""
        return tensor.clone()

    def owns(self, tensor: Any) -> bool:
        """Tensors of the CPU are the device's."""
        import torch

        return isinstance(tensor, torch.Tensor) and tensor.device.type == "cpu"

    def stream(self) -> Any:
        """The only stream."""
        return self._stream

    def fork(self) -> Any:
        """The only stream."""
        return self._stream

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Nothing changes."""
        return nullcontext()

    def keep(self, tensor: Any, stream: Any) -> None:
        """Memory is freed when nothing uses it."""

    def lasts(self, stream: Any) -> bool:
        """There is only one."""
        return True

    def copy(self, target: Any, source: Any) -> None:
        """At once."""
        target.copy_(source)

    def clone(self, tensor: Any) -> Any:
        """At once."""
        return tensor.clone()

    def borrow(self, tensor: Any) -> None:
        """Launches can point to any memory."""

    def run(self, launches: Sequence[Launch]) -> None:
        """One after the other."""
        for launch in launches:
            launch(self._stream)

    def capture(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """A graph is a list."""
        kept = list(launches)
        return lambda: self.run(kept)

    def clock(self, groups: Sequence[Sequence[Launch]], graph: bool = True) -> Callable[[], list[float]]:
        """By the host's clock."""
        kept = [list(group) for group in groups]

        def seconds() -> list[float]:
            found = []
            for group in kept:
                start = time.perf_counter()
                self.run(group)
                found.append(time.perf_counter() - start)
            return found

        return seconds
