"""Runs an image on a driver: eagerly once, from then on as one graph over buffers that never move.

A run fills the input slots, replays the graph, and copies the outputs out; all of it on torch's current stream, in order with
whatever else is there. The state's lock and event keep programs that share it one behind the other, on any threads and
streams.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from graphrt.config import Flags
from graphrt.mesh import Mesh
from graphrt.runtime.arrays import flat, to_numpy, view
from graphrt.runtime.runnable import Binary
from graphrt.runtime.state import State
from graphrt.runtime.watch import Watch, watch
from graphrt.targets.triton.collective import beside
from graphrt.targets.triton.driver import Driver, Launch
from graphrt.targets.triton.graphs import Graphs, Outputs
from graphrt.targets.triton.image import Buffer, Image
from graphrt.targets.triton.staging import Slots
from graphrt.types import TensorType


class DeviceBinary(Binary):
    """An image bound to a device: its arena, its loaded kernels and, once attached to a state, its launches.

    ``outputs`` are the types of the results, which lie in the arena of ``image``.
    """

    def __init__(self, image: Image, driver: Driver, outputs: Mapping[str, TensorType]) -> None:
        self.image, self._driver = image, driver
        flags = Flags.read()
        self._poison, self._graphs = flags.poison, not flags.no_graph
        self._memory = driver.allocate(image.size)
        self._kernels = [driver.load(kernel) for kernel in image.kernels]
        inputs = image.buffers("input")
        slots = {name: view(self._memory, b.offset, b.type) for name, b in inputs.items()}
        self._slots = Slots(driver, slots, {name: b.type for name, b in inputs.items()})
        self._outputs = Outputs(driver, self._memory, image.buffers("output"), outputs)
        self._captured = Graphs(driver, image, self._outputs, self._bound)
        self._state = image.buffers("state").keys()
        self._state_of: dict[str, Any] = {}
        self._launches: list[Launch] = []
        self._replay: Callable[[], None] | None = None
        self._watch: Watch | None = None  # where runs wait for other processes
        self._clocks: dict[int, Callable[[], list[float]]] = {}  # of all launches a number of times; 0: of each launch
        self._stream = driver.stream()  # of the last run
        self._done = self._over(self._stream)  # the memory is zeroed, later: the last run is over
        self._streams: set[Any] = {self._stream}

    def attach(self, state: State, written: Collection[str] = ()) -> None:
        """Moves the state's buffers to the device and packs the launches: addresses are final."""
        self._state_of = {name: state.on_device(name, self._driver) for name in self._state}
        self._launches = self._bound({})
        for number in self.image.until:
            self._watch = watch(Mesh.parse(self.image.kernels[self.image.launches[number].kernel].mesh))
        self._captured.attach([self._memory, *self._state_of.values()])

    def _alone(self) -> tuple[Image, Sequence[Any]]:
        """The image, and its loaded kernels, in which each launch that is told apart is one."""
        return self.image, self._kernels

    def _bound(self, given: Mapping[Buffer, Any], apart: bool = False) -> list[Launch]:
        """The launches on the arena and the state, but on the tensors ``given`` in place of some buffers.

        Where they are to run ``apart`` none begins before the one in front has ended, and none is joined with another.
        """
        image, kernels = self._alone() if apart else (self.image, self._kernels)
        scratch = self._memory[self.image.size - self.image.scratch :] if self.image.scratch else None
        found = dict(given)

        def tensor(b: Buffer) -> Any:
            if b not in found:
                found[b] = self._state_of[b.name] if b.space == "state" else flat(self._memory, b.offset, b.type)
            return found[b]

        launches = [
            self._driver.bind(
                kernels[launch.kernel], launch.grid, [*map(tensor, launch.buffers)], scratch, dependent and not apart
            )
            for launch, dependent in zip(image.launches, image.dependent(), strict=True)
        ]
        return beside(self._driver, launches, image.until) if image.until else launches

    def takes(self, value: Any) -> bool:
        """Tensors on the program's own device stay there."""
        return self._driver.owns(value)

    def misplaced(self, value: Any) -> str:
        """Why a tensor cannot be an input: it lies on a device other than the program's and the CPU."""
        device = getattr(value, "device", None)
        if device is None or self._driver.owns(value) or str(device) == "cpu":
            return ""
        return f"lies on {device}; the program runs on {self._driver.where} and takes tensors of it or of the CPU"

    def prefetch(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Starts the copy of inputs for the next run."""
        return self._slots.prefetch(inputs)

    def run(self, inputs: Mapping[str, Any], state: State, tensors: bool = False) -> dict[str, Any]:
        """Runs every launch. Results are tensors of the device that no later run overwrites, or new arrays, which takes a wait.

        Tensors that lie where those of an earlier call did are read there, and not copied.
        """
        with state.lock:
            stream = self._begin(state)
            replay, held, region = self._choose(inputs) if tensors else (self._replay, {}, None)
            self._fill({n: v for n, v in inputs.items() if n not in held} if held else inputs, stream)
            if replay is not None:
                replay()
            elif self._graphs and self._launches:
                self._first()
            else:
                self._driver.run(self._launches)
            if not tensors:
                results = {}
            elif region is not None:
                results = self._outputs.given(region)
            else:
                results = self._outputs.copy(self._driver.clone)
            self._end(state, stream)
        if tensors:
            return results
        return {name: to_numpy(t) for name, t in self._outputs.copy(self._driver.fetch).items()}

    def _choose(self, inputs: Mapping[str, Any]) -> tuple[Callable[[], None] | None, Mapping[str, Any], int | None]:
        """The graph for a call that wants tensors, if there is one, the inputs it reads in place, and the region of results."""
        if self._replay is None or self.image.until:  # a graph with collectives is captured by all processes, or none
            return self._replay, {}, None
        held = {} if self._slots.staged(inputs) else self._captured.in_place(inputs)
        region = self._outputs.free()
        found, read = self._captured.find(held, region)
        return (self._replay, {}, None) if found is None else (found, read, region)

    def one_by_one(self, inputs: Mapping[str, Any], state: State) -> Iterator[Callable[[Buffer], Any]]:
        """Runs once, launch by launch: before the first and behind each, what reads a buffer as it is then."""

        def read(b: Buffer) -> Any:
            if b.space == "state":
                return self._driver.fetch(state.on_device(b.name, self._driver).as_strided(b.type.shape, b.type.strides))
            return self._driver.fetch(view(self._memory, b.offset, b.type))

        with state.lock:
            stream = self._begin(state)
            self._fill(inputs, stream)
            yield read
            for launch in self._bound({}, apart=True):
                self._driver.run([launch])
                yield read
            self._end(state, stream)

    def time(self, inputs: Mapping[str, Any], state: State) -> list[float]:
        """Runs once and returns the seconds of each launch."""
        return self._timed(inputs, state, lambda: [[launch] for launch in self._bound({}, apart=True)], 0)

    def elapsed(self, inputs: Mapping[str, Any], state: State, runs: int) -> float:
        """Seconds of ``runs`` runs of all launches, which on a GPU are one graph."""
        return sum(self._timed(inputs, state, lambda: [self._launches * runs], runs))

    def _timed(
        self, inputs: Mapping[str, Any], state: State, groups: Callable[[], Sequence[Sequence[Launch]]], key: int
    ) -> list[float]:
        """Runs ``groups`` by the clock ``key``, which is made the first time, and behind a first run."""
        if self._graphs and self._launches and self._replay is None:
            self.run(inputs, state, True)
        with state.lock:
            self._fill(inputs, self._begin(state))
            if key not in self._clocks:
                self._clocks[key] = self._driver.clock(groups(), self._graphs)
            return self._clocks[key]()

    def _begin(self, state: State) -> Any:
        """Orders what follows behind earlier runs, on the current stream, which is returned."""
        stream = self._driver.stream()
        if stream != self._stream:  # else it is in order
            _wait(stream, self._stream, self._done)
        if state.stream is not None and stream != state.stream:
            _wait(stream, state.stream, state.done)
        if stream not in self._streams:
            self._streams.add(stream)
            for memory in (self._memory, *self._outputs.regions(), *self._state_of.values()):
                self._driver.keep(memory, stream)
        state.refresh(self._state)
        return stream

    def _fill(self, inputs: Mapping[str, Any], stream: Any) -> None:
        """Everything else before the launches."""
        self._slots.fill(inputs, stream)
        if self._poison:
            self._memory[: self.image.temporary].fill_(0xFF)  # every float in it is NaN

    def _end(self, state: State, stream: Any) -> None:
        """Takes note that a run on ``stream`` is enqueued; what the host fetches behind it is there when the call returns."""
        self._done = state.done = self._over(stream, self._done)
        self._stream = state.stream = stream
        if self._watch is not None:
            self._watch.begun(stream.record_event().query)

    def _over(self, stream: Any, event: Any = None) -> Any:
        """An event behind a run on ``stream``, where one is needed: a stream that lasts is asked when another must wait."""
        return None if self._driver.lasts(stream) else stream.record_event(event)

    def _first(self) -> None:
        """The first run, on a side stream, loads what is loaded lazily; then the launches become a graph."""
        stream, side = self._driver.stream(), self._driver.fork()
        side.wait_stream(stream)
        with self._driver.using(side):
            self._driver.run(self._launches)
        stream.wait_stream(side)
        self._replay = self._driver.capture(self._launches)


def _wait(stream: Any, other: Any, event: Any) -> None:
    """Lets ``stream`` wait for ``event``, or where there is none for all that ``other`` has got."""
    if event is not None:
        stream.wait_event(event)
    else:
        stream.wait_stream(other)
