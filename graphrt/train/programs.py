"""Programs: a network's training step, evaluation and prediction, each compiled for the shapes it meets, on one state.

net, loss, optimizer ─▶ graph of a step, or of evaluation mode ─▶ program, for each shape, mode and choice of what is trainable
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import graphrt.ops as F
from graphrt.compiler import compile as compile_graph
from graphrt.errors import ArgumentError, GraphError
from graphrt.ir import Graph, Value
from graphrt.mesh import Mesh
from graphrt.nn import Module
from graphrt.nn.augment import Compose
from graphrt.nn.module import changes, in_mode, inside, stepped
from graphrt.nn.parallel import tensor_parallel
from graphrt.ops.base import widened
from graphrt.ops.collective import everywhere
from graphrt.optim import Run, total_norm
from graphrt.passes.open_batch import UpTo, norms_over_batch, up_to
from graphrt.runtime.lowering import uncollected
from graphrt.runtime.processes import processes
from graphrt.runtime.program import Program
from graphrt.runtime.state import State
from graphrt.train.batch import WEIGHT, Batch, Spec, Tree, called, inputs, laid_spec_of, leaves, mapped, plain, spec_of
from graphrt.train.metrics import Metrics
from graphrt.train.objective import Losses, Objective, classes_of, outputs_by_name
from graphrt.train.sharing import mixes, part_of_batch
from graphrt.train.stepping import Minimize, Optimizers, Step, made_one, outputs_of_step
from graphrt.types import TensorType, as_dtype, float16

MOST_PROGRAMS = 16
ASKED = "asked_to_stop"  # an input of a training step of several processes, and its output: how many were
STEPS = ("train", "accumulate")  # kinds of programs: that update, and that add up gradients for one that does
# Of a program: its inputs, modes, whether it evaluates running means, and the examples of a batch that processes have parts of.
_Key = tuple[str, tuple[tuple[str, Any], ...], tuple[int, ...], bool, int]


def _of_any_batch(key: _Key) -> _Key:
    """``key`` without the batch."""
    kind, named, *rest = key
    return (kind, tuple((name, (shape[1:], dtype)) for name, (shape, dtype) in named), *rest)  # type: ignore[return-value]


def _size(key: _Key) -> int:
    """The batch in ``key``; 0 where its inputs have none."""
    sizes = {shape[:1] for _, (shape, _) in key[1]}
    return int(sizes.pop()[0]) if len(sizes) == 1 and sizes != {()} else 0


def _resized(tree: Tree, batch: int) -> Tree:
    """The specs of ``tree`` for a batch of that size."""
    return mapped(lambda _, spec: ((batch, *spec[0][1:]), *spec[1:]), "", tree)


@dataclass(frozen=True)
class Compiling:
    """How a trainer's programs are compiled, as ``Trainer`` says; ``cut_layers`` has the network cut along the axis tp."""

    target: str
    autocast: str | None
    float32_matmul_precision: str
    library: str | None
    mesh: Mesh | None = None
    policy: str = "all_reduce"
    reduce_dtype: str | None = None
    cut_layers: bool = False
    memory_limit: int | None = None


class Programs:
    """The programs of a ``Trainer``, whose arguments these are, those of compiling together."""

    def __init__(
        self,
        net: Module,
        loss: Losses | None,
        optimizer: Optimizers | None,
        metrics: Metrics,
        seed: int,
        compiling: Compiling,
        augment: Callable[..., Any] | Sequence[Callable[..., Any]] | None,
        step: Step | None,
    ) -> None:
        if optimizer is None or (loss is None) == (step is None):
            raise ArgumentError("a Trainer needs an optimizer, and either a loss or a step function")
        self.net, self.loss, self.step_function, self.optimizer = net, loss, step, made_one(optimizer)
        self.parts = tuple(optimizer) if isinstance(optimizer, Mapping) else ()  # that have an optimizer of their own
        self.augment = None if augment is None else Compose(augment if isinstance(augment, list | tuple) else [augment])
        self.objective = Objective(loss, metrics)
        self.target, self.seed, self.autocast, self.compiling = compiling.target, seed, compiling.autocast, compiling
        self.mesh = compiling.mesh
        if compiling.cut_layers and (self.mesh is None or "tp" not in self.mesh.axes):
            raise ArgumentError(f"policy='tensor' cuts layers along an axis tp, as of Mesh(tp=2); the mesh is {self.mesh}")
        self.processes = None if self.mesh is None else processes(self.mesh)
        self.state, self.steps = State(), 0
        self._cuts_layers = compiling.cut_layers  # until the shapes of a batch say which layers follow one another
        self._programs: OrderedDict[_Key, Program] = OrderedDict()  # the last used at the end
        self._specs: dict[_Key, Batch] = {}
        self._closed: dict[_Key, str] = {}  # what takes one batch alone, by the key of any batch, and why
        self._reasons: dict[_Key, str] = {}  # why each program was made
        self._mixing: dict[tuple[Any, ...], str] = {}  # why examples of such a batch are not told apart, "" where they are
        self.given_whole: dict[int, str] = {}  # sizes of batches that all processes were given whole, and why
        self._trained: _Key | None = None  # of the last training step, for checkpoints
        self._means, self._means_at = State(), -1  # what is evaluated where the optimizer keeps means, and of which step
        self._parted = 0  # how often parameters that were frozen parted from those that were not
        self._marks: tuple[int, tuple[bool, ...]] = (-1, ())  # modes and what is trainable, as of a number of changes

    @property
    def first(self) -> bool:
        """Whether this process is the only one, or the first of a mesh, which writes files and shows progress."""
        return self.processes is None or self.processes.rank == 0

    def share(self, batch: Batch, training: bool = True) -> tuple[Batch, int]:
        """This process's part of ``batch`` (``part_of_batch``), and how many examples all have together; 0 where each has all.

        A batch with fewer examples than processes, or that ``given_whole`` has a reason for, all have whole.
        """
        mesh, size = self.mesh, len(batch)
        if mesh is None or self.processes is None or (parts := mesh.axes.get(mesh.data, 1)) == 1 or size < parts:
            return batch, 0
        if size % parts and (why := self._mixes(_resized(spec_of(batch.x), -(-size // parts)), -(-size // parts), training)):
            self.given_whole[size] = why
            return batch, 0
        return part_of_batch(batch, parts, self.processes.coordinates[mesh.data]), size

    def _mixes(self, x: Tree, rows: int, training: bool) -> str:
        """Why no example may stand twice in a part of ``rows`` like ``x``; empty where one may."""
        if self.step_function is not None:
            return "a step function says what it is a mean of"
        key = training, self._mode() if training else (), tuple((n, spec[:2]) for n, spec in leaves("x", x).items())
        if key not in self._mixing:
            graph = Graph()
            with self._building(graph, training):
                self._mixing[key] = mixes(self.net, graph, x, rows)
        return self._mixing[key]

    @property
    def adds_up(self) -> bool:
        """Whether gradients of several steps are added up by a program that updates nothing, and exchanges nothing."""
        of_one_loss = self.step_function is None and (self.autocast is None or as_dtype(self.autocast) is not float16)
        return of_one_loss and self.optimizer.accumulation_steps > 1

    def training_graph(
        self, x: Tree, y: Tree, sample_weight: Spec | None = None, parts: int = 0, completes: bool = True
    ) -> Graph:
        """The graph of one training step: inputs x, y, lr; outputs loss and metrics; updates of everything trainable.

        ``x`` and ``y`` are (shape, dtype) of an array, or a tuple or dict of them; ``sample_weight`` is one, or None. They are
        those of the part that each process of the mesh has of ``parts`` examples, or where that is 0 of a batch that all have.
        A step that ``adds_up`` gradients of several ``completes`` them, or not; its loss and metrics are this process's.
        """
        self._cut_layers(x)
        graph = Graph(self.mesh)
        batch = Batch(x, y, sample_weight)
        xv, yv, weight = self._inputs(graph, batch, parts)
        with self._building(graph, True):
            minimize, loss = self._forward(graph, xv, yv, weight, True, parts)
        if loss is not None and self.adds_up:
            minimize(loss[0], run=Run(loss[1], completes))
        elif loss is not None:
            minimize(graph.outputs["loss"])
        if completes:
            self._measure_gradients(graph, minimize.grads)
            self._hear(graph)
        if "rng.seed" in graph.sources:
            F.manual_seed(graph, self.seed)
        return graph

    def _cut_layers(self, x: Tree) -> None:
        """Cuts the network's pairs of layers before its first graph, where the policy says so. Raises ArgumentError."""
        if self._cuts_layers and self.mesh is not None:
            example = mapped(lambda _, spec: TensorType(spec[0], as_dtype(spec[1])), "x", x)
            tensor_parallel(self.net, example if isinstance(example, Mapping | tuple) else (example,), self.mesh)
            self._cuts_layers = False

    def _last(self, graph: Graph, parts: int) -> Value | None:
        """Whether the last example counts in this process: where there are more than each has, it does in the first ones."""
        rest = parts % self.mesh.axes[self.mesh.data] if self.mesh is not None and parts else 0
        return F.lt(F.axis_index(graph, self.mesh.data), rest) if self.mesh is not None and rest else None

    def _forward(
        self, graph: Graph, x: Tree, y: Tree, weight: Value | None, training: bool, parts: int
    ) -> tuple[Minimize, tuple[Value, Value] | None]:
        """Loss and metrics, and the updates of a step function. Returns what updates, and what ``Objective.outputs`` does."""
        half = training and self.autocast is not None and as_dtype(self.autocast) is float16
        labels = y
        if training and self.augment is not None:
            x, y = self.augment(x, y)
            labels = classes_of(y, labels)
        with stepped() as table:
            minimize = Minimize(graph, self.optimizer if training else None, self.parts, half, table)
            if self.step_function is None:
                outputs, last = called(self.net, x), self._last(graph, parts)
                apart = (parts or next(iter(leaves("x", x).values())).shape[0]) if training and self.adds_up else 0
                share = not training or apart > 0
                return minimize, self.objective.outputs(graph, outputs, y, labels, weight, share, apart, last)
            if weight is not None:
                raise ArgumentError(f"a step function takes no {WEIGHT}; make it a part of y")
            with inside(self.net, graph):
                for parameter in self.net.parameters() if training else ():
                    parameter.value(graph)  # known to groups before the part is called
                outputs_of_step(graph, self.step_function(self.net, x, y, minimize))
        if training and not minimize.grads:
            raise ArgumentError("the step function has minimised nothing: minimize(loss, net.part) is how it does")
        return minimize, None

    def _inputs(self, graph: Graph, batch: Batch, parts: int) -> tuple[Tree, Tree, Value | None]:
        over = graph.mesh.data if parts and graph.mesh is not None else ()
        weight = None if batch.weight is None else inputs(graph, WEIGHT, batch.weight, over)
        return inputs(graph, "x", batch.x, over), inputs(graph, "y", batch.y, over), weight

    def _hear(self, graph: Graph) -> None:
        """Lets processes say that they were asked to stop, in a message of gradients, so that all know after the same step."""
        if self.mesh is not None and self.mesh.size > 1:
            asked = graph.input(ASKED, varying=[*self.mesh.axes])
            with graph.phase("bwd"):
                graph.output(ASKED, everywhere(asked, "sum"))

    def _measure_gradients(self, graph: Graph, grads: list[Value]) -> None:
        if self.objective.grad_norm is not None:
            with graph.phase("opt"):
                graph.output(self.objective.grad_norm, total_norm(grads))

    def evaluation_graph(self, x: Tree, y: Tree | None = None, sample_weight: Spec | None = None, parts: int = 0) -> Graph:
        """The graph of evaluation mode: inputs x and y, outputs loss and metrics, with what those are means of that are none of
        the examples; without ``y`` the network's output, out. Arguments as of ``training_graph``."""
        self._cut_layers(x)
        graph = Graph(self.mesh)
        with self._building(graph, False):
            if y is None:
                for name, value in outputs_by_name(called(self.net, inputs(graph, "x", x))).items():
                    graph.output(name, widened(value))
            else:
                self._forward(graph, *self._inputs(graph, Batch(x, y, sample_weight), parts), False, parts)
        if "rng.seed" in graph.sources:
            F.manual_seed(graph, self.seed)
        return graph

    def program(self, kind: str, x: Any, y: Any = None, sample_weight: Any = None) -> Program:
        """The compiled "train", "eval" or "predict" program for a batch like arrays ``x``, ``y``, ``sample_weight``; made once.

        "accumulate" is the one that adds up gradients, where there is one (``adds_up``).
        It takes smaller batches as well, unless the network's results depend on the batch in another way than by its count. The
        ``MOST_PROGRAMS`` that were used last are kept; ``summary`` says which dimension made each of them necessary.
        Its inputs lie in memory as the first batch does, which may be channels last; batches that lie otherwise are rearranged.
        """
        batch = Batch(plain(x), None if y is None else plain(y), sample_weight)
        return self.program_of(kind, *((batch, 0) if kind == "predict" else self.share(batch, kind in STEPS)))

    def step_program(self, batch: Batch, parts: int = 0, ahead: int = 0) -> Program:
        """The program of the step behind ``ahead`` others that are to come, on ``batch``, which is what ``share`` gives."""
        program = self.program_of("train", batch, parts)  # first: what it can shard is sharded
        return program if self.completes(ahead + 1) else self.program_of("accumulate", batch, parts)

    def completes(self, ahead: int = 0) -> bool:
        """Whether the step ``ahead`` of those done updates, and is not one of several whose gradients are added up."""
        return not self.adds_up or (self.steps + ahead) % self.optimizer.accumulation_steps == 0

    def program_of(self, kind: str, batch: Batch, parts: int = 0) -> Program:
        """``program`` for ``batch``, which is what ``share`` gives, as ``parts`` is."""
        if kind in STEPS:
            self._part_ways()
        key = self._key(kind, Batch(*(None if part is None else spec_of(part) for part in batch)), parts)
        if (serving := self._serving(key)) is None:
            self._refuse_one_example(key)
            serving = key
            self._compile(key, Batch(*(None if part is None else laid_spec_of(part) for part in batch)))
        self._programs.move_to_end(serving)
        if kind == "train":
            self._trained = serving
        return self._programs[serving]

    def _serving(self, key: _Key) -> _Key | None:
        """The key of a program that takes what ``key`` says: that very batch, or a larger one and any below."""
        if key in self._programs:
            return key
        of_any, size = _of_any_batch(key), _size(key)
        for other, program in self._programs.items():
            opened = program.batch
            if opened is not None and _of_any_batch(other) == of_any and opened.least <= size <= opened.most:
                return other
        return None

    def _refuse_one_example(self, key: _Key) -> None:
        """Raises ArgumentError for an input of the shape that one example has in a batch that was met before."""
        given = {name: shape for name, (shape, _) in key[1] if name.split(".")[0] == "x"}
        for other in self._programs:
            met = {name: shape[1:] for name, (shape, _) in other[1] if name.split(".")[0] == "x"}
            if given == met and any(given.values()):
                shapes = " and ".join(str(list(shape)) for shape in given.values())
                raise ArgumentError(f"x is a batch [N, ...], got {shapes}, which is one example; x[None] is a batch of one")

    def _reason(self, key: _Key) -> str:
        """Why there is no program for ``key``: the dimension in which it differs from the last of its kind that was used."""
        before = next((other for other in reversed(self._programs) if other[0] == key[0]), None)
        if before is None:
            return "the first"
        if before[2:] != key[2:]:
            return "modes, or what is trainable, changed"
        old = dict(before[1])
        for name, (shape, dtype) in key[1]:
            if name not in old or len(old[name][0]) != len(shape) or old[name][1] != dtype:
                was = f"{list(old[name][0])} {old[name][1]}" if name in old else "not there"
                return f"{name} is {list(shape)} {dtype}, and was {was}"
            for d, (new, was) in enumerate(zip(shape, old[name][0], strict=True)):
                if new != was:
                    closed = self._closed.get(_of_any_batch(key), "")
                    because = f" ({closed})" if not d and closed else ""
                    return f"dimension {d} of {name} is {new}, and was {was}{because}"
        return "inputs were taken away"

    def _key(self, kind: str, specs: Batch, parts: int = 0) -> _Key:
        named = tuple((name, spec[:2]) for name, spec in specs.named().items())
        mode = (self._parted, *self._mode()) if kind in STEPS else ()
        return kind, named, mode, kind not in STEPS and self.optimizer.ema_decay is not None, parts

    @uncollected()
    def _compile(self, key: _Key, specs: Batch) -> None:
        """Adds a program for ``specs``, and if it can for any batch up to the largest that was met."""
        if self.processes is not None:
            self.processes.agree(f"{key[0]} with {self.optimizer!r}, seed {self.seed}")
        of_any, reason = _of_any_batch(key), self._reason(key)
        others = [_size(other) for other in self._programs if _of_any_batch(other) == of_any]
        most, program = max([_size(key), *others]), None
        if most and of_any not in self._closed and not self.adds_up and (self.mesh is None or self.mesh.size == 1):
            larger = Batch(*(None if part is None else _resized(part, most) for part in specs))
            try:
                program, specs = self._compiled(key, larger, up_to(most, dict.fromkeys(specs.named(), 0)), not others), larger
            except GraphError as error:
                self._closed[of_any] = str(error)
        self._programs[key] = self._compiled(key, specs) if program is None else program
        self._specs[key], self._reasons[key], self._means_at = specs, reason, -1
        if len(self._programs) > MOST_PROGRAMS:
            oldest = next(other for other in self._programs if other not in (key, self._trained))
            del self._programs[oldest], self._specs[oldest], self._reasons[oldest]

    def _compiled(self, key: _Key, specs: Batch, batch: UpTo | None = None, first: bool = False) -> Program:
        """The program of ``specs``, for any ``batch``.

        The first of a network that is normalised over the batch is for that batch alone, and faster; the second, for another
        batch, is for any.
        """
        kind, *_, means, parts = key
        if kind in STEPS:
            graph = self.training_graph(*specs, parts, kind == "train")
        else:
            graph = self.evaluation_graph(*specs, parts)
        alone = first and kind == "train" and batch is not None and norms_over_batch(graph, batch)
        return compile_graph(
            graph,
            target=self.target,
            state=self._means if means else self.state,
            float32_matmul_precision=self.compiling.float32_matmul_precision,
            library=self.compiling.library,
            policy=self.compiling.policy,
            reduce_dtype=self.compiling.reduce_dtype,
            memory_limit=self.compiling.memory_limit,
            batch=None if alone else batch,
        )

    def _made_because(self, key: _Key) -> str:
        """The batches that a program takes, and why it was made."""
        opened = self._programs[key].batch
        return ("" if opened is None else f"takes any batch up to {opened.most}, ") + f"made because: {self._reasons[key]}"

    def _evaluated(self, kind: str, batch: Batch, parts: int = 0) -> Program:
        """The program for ``batch``; where the optimizer keeps running means, they are what it reads."""
        program = self.program_of(kind, batch, parts)
        if self.optimizer.ema_decay is not None and self._means_at != self.steps:
            for name in self._means:
                mean = self.optimizer.mean_of(name)
                if (source := mean if mean in self.state else name) in self.state:
                    self._means.set(name, self.state[source])
            self._means_at = self.steps
        return program

    def _part_ways(self) -> None:
        """Parameters that were frozen keep the count of their own steps: programs made from now on count them apart."""
        if self._marks[0] == changes():
            return
        frozen = {name for name, p in self.net.named_parameters() if not p.trainable}
        copies = self.optimizer.part_ways(frozen)
        for name, old in copies.items():
            if old in self.state:
                self.state.add(name, self.state.types[old], self.state[old])
        self._parted += bool(copies)

    def _mode(self) -> tuple[bool, ...]:
        """The modes of the net's parts and which parameters are trainable."""
        if self._marks[0] != changes():
            augment = () if self.augment is None else self.augment.modules()
            parts = [m.training for m in (*self.net.modules(), *augment)]
            self._marks = changes(), (*parts, *(p.trainable for p in self.net.parameters()))
        return self._marks[1]

    @contextmanager
    def _building(self, graph: Graph, training: bool) -> Iterator[None]:
        """The context in which a forward graph is built: the modules' mode, and autocast."""
        with in_mode(self.net, training), graph.autocast(self.autocast or "bfloat16", enabled=self.autocast is not None):
            yield
