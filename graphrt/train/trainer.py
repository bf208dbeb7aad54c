"""Trainer: compiles a network's training step and evaluation to programs that share one state, and runs them."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.autodiff import grad
from graphrt.compiler import compile as compile_graph
from graphrt.data import Dataset, batches
from graphrt.errors import ArgumentError, NumericError
from graphrt.ir import Graph, Value
from graphrt.nn import Module, count_parameters, summary
from graphrt.nn.module import changes, in_mode
from graphrt.ops.base import widened
from graphrt.optim import Constant, GradScaler, LRSchedule, Optimizer
from graphrt.runtime.arrays import to_numpy
from graphrt.runtime.program import Program
from graphrt.runtime.state import State
from graphrt.targets.target import parse
from graphrt.train.batch import Batch, Spec, as_batch, count_batches, laid_spec_of, one_epoch, plain, spec_of
from graphrt.train.checkpoint import check_network, read_metadata, save_checkpoint
from graphrt.train.history import History
from graphrt.train.metrics import (
    DENOMINATOR,
    Accuracy,
    Metrics,
    Pooled,
    accuracy,
    denominator,
    has_classes,
    is_sum,
    measured,
    named,
)
from graphrt.train.nan import why_nan
from graphrt.train.progress import TrainingProgress
from graphrt.types import as_dtype, float16

SKIPS = 64  # steps in a row whose loss may be NaN while float16's loss scale, 2**16 at first, is halved
_Key = tuple[str, tuple[tuple[int, ...], str], tuple[tuple[int, ...], str] | None, tuple[bool, ...]]  # of a program
Callback = Callable[["Trainer", dict[str, float]], bool | None]


class Trainer:
    """Trains ``net`` with ``loss(net(x), target)`` and ``optimizer``, at its rate times ``schedule`` (None: constant).

        trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.05, momentum=0.9), optim.Cosine())
        trainer.fit(train_data, epochs=10, batch_size=64, validation=test_data)

    The trainer's ``state`` holds the parameters while it runs; ``fit``, ``load`` and ``sync`` copy them back into the net. A
    new batch size compiles another program on the same state, and so does a network of which other parameters are to be trained
    or other parts are in eval mode, in which they stay while the rest trains (``nn.Module.requires_grad_``, ``eval``).

    ``metrics`` are names (accuracy, mae, mse), functions of (output, target) that return a scalar Value, or a dict of either;
    by default the accuracy of class indices, and nothing for other targets. A loss or metric that is a mean of something else
    than the examples has a method ``denominator(output, target)``, the scalar that it divides by. ``seed`` decides the order of
    examples and dropout; the same seed, data and target give the same bits. ``autocast`` bfloat16 or float16 trains in mixed
    precision (``Graph.autocast``), with dynamic loss scaling for float16. ``target``, ``float32_matmul_precision`` and
    ``library`` are those of ``compile``. ``check_nan`` stops with a NumericError at a loss that is NaN. Floats come as float32
    from float64 examples. Raises ArgumentError for an unknown metric.
    """

    def __init__(
        self,
        net: Module,
        loss: Module | Callable[[Value, Value], Value],
        optimizer: Optimizer,
        schedule: LRSchedule | None = None,
        metrics: Metrics = None,
        target: str = "auto",
        seed: int = 0,
        autocast: str | None = None,
        float32_matmul_precision: str = "highest",
        library: str | None = None,
        check_nan: bool = True,
    ) -> None:
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.schedule: LRSchedule = schedule or Constant()
        self.metrics, self.target, self.seed, self.check_nan = named(metrics), target, seed, check_nan
        self.autocast, self.float32_matmul_precision, self.library = autocast, float32_matmul_precision, library
        self.state, self.history = State(), History()
        self.epoch, self.steps = 0, 0  # done so far
        self._programs: dict[_Key, Program] = {}
        self._trained: Program | None = None  # of the last training step, for checkpoints
        self._classes: int | None = None  # of the network's logits, where targets are class indices
        half = None if autocast is None else as_dtype(autocast)
        self._nans, self._skips = 0, SKIPS if half is float16 else 0  # losses in a row that were NaN, and how many may be
        self._marks: tuple[int, tuple[bool, ...]] = (-1, ())  # modes and what is trainable, as of a number of changes

    # --- programs -------------------------------------------------------------------------------------------------

    def training_graph(self, x: Spec, y: Spec) -> Graph:
        """The graph of one training step: inputs x, y, lr; outputs loss and metrics; updates of everything trainable."""
        graph = Graph()
        xv, yv = graph.input("x", *x), graph.input("y", *y)
        with self._building(graph, True):
            loss = self._outputs(graph, xv, yv, False)
        params = graph.parameters()
        if not params:
            raise ArgumentError("the network has no trainable parameters")
        lr = graph.input("lr")
        if self.autocast is not None and as_dtype(self.autocast) is float16:
            scaler = GradScaler()
            scaler.apply(self.optimizer, params, grad(scaler.scale(loss), params), lr)
        else:
            self.optimizer.apply(params, grad(loss, params), lr)
        if "rng.seed" in graph.sources:
            F.manual_seed(graph, self.seed)
        return graph

    def evaluation_graph(self, x: Spec, y: Spec | None = None) -> Graph:
        """The graph of evaluation mode: inputs x and y, outputs loss and metrics, with what those are means of that are none of
        the examples; without ``y`` the network's output, out."""
        graph = Graph()
        with self._building(graph, False):
            if y is None:
                for name, value in _outputs(self.net(graph.input("x", *x))).items():
                    graph.output(name, widened(value))
            else:
                self._outputs(graph, graph.input("x", *x), graph.input("y", *y), True)
        return graph

    def _outputs(self, graph: Graph, x: Value, y: Value, denominators: bool) -> Value:
        """Makes loss and metrics outputs, and their ``denominators`` if those are asked for. Returns the loss."""
        found = self.net(x)
        classes = has_classes(found, y)
        self._classes = found.shape[1] if classes else None
        metrics = ({"accuracy": accuracy} if classes else {}) if self.metrics is None else self.metrics
        for name, given in {"loss": self.loss, **metrics}.items():
            metric = Accuracy(self._ignored) if given is accuracy else given
            graph.output(name, measured(name, metric, found, y))
            if denominators and (share := denominator(metric, found, y)) is not None:
                graph.output(DENOMINATOR + name, share)
        return graph.outputs["loss"]

    @property
    def _ignored(self) -> int | None:
        return getattr(self.loss, "ignore_index", -100)

    def program(self, kind: str, x: Any, y: Any = None) -> Program:
        """The compiled "train", "eval" or "predict" program for a batch like arrays ``x`` and ``y``; made once.

        Its inputs lie in memory as the first batch does, which may be channels last; batches that lie otherwise are rearranged.
        """
        key = self._key(kind, spec_of(x), None if y is None else spec_of(y))
        if key not in self._programs:
            self._programs[key] = self._compiled(kind, laid_spec_of(x), None if y is None else laid_spec_of(y))
        program = self._programs[key]
        if kind == "train":
            self._trained = program
        return program

    def _key(self, kind: str, x: Spec, y: Spec | None) -> _Key:
        return kind, x[:2], None if y is None else y[:2], self._mode() if kind == "train" else ()

    def _compiled(self, kind: str, x: Spec, y: Spec | None) -> Program:
        graph = self.training_graph(x, y) if kind == "train" and y is not None else self.evaluation_graph(x, y)
        return compile_graph(
            graph,
            target=self.target,
            state=self.state,
            float32_matmul_precision=self.float32_matmul_precision,
            library=self.library,
        )

    def _mode(self) -> tuple[bool, ...]:
        """The modes of the net's parts and which parameters are trainable."""
        if self._marks[0] != changes():
            parts = [m.training for m in self.net.modules()]
            self._marks = changes(), (*parts, *(p.trainable for p in self.net.parameters()))
        return self._marks[1]

    @contextmanager
    def _building(self, graph: Graph, training: bool) -> Iterator[None]:
        """The context in which a forward graph is built: the modules' mode, and autocast."""
        with in_mode(self.net, training), graph.autocast(self.autocast or "bfloat16", enabled=self.autocast is not None):
            yield

    # --- running --------------------------------------------------------------------------------------------------

    def step(self, xb: Any, yb: Any, lr: float | None = None) -> dict[str, float]:
        """One optimizer step on one batch, at the optimizer's rate unless ``lr`` is given: loss and metrics before it.

        Raises NumericError where the loss is NaN, unless ``check_nan`` is off.
        """
        batch = as_batch((xb, yb))
        return self._step(self.program("train", *batch), _named(batch), batch, self.optimizer.lr if lr is None else lr)

    def _step(self, program: Program, given: Mapping[str, Any], batch: Batch, lr: float) -> dict[str, float]:
        """A step on ``batch``, of which ``program`` is ``given`` what it has not prefetched."""
        results = {name: float(value) for name, value in program({**given, "lr": float(lr)}).items()}
        self.steps += 1
        self._nans = self._nans + 1 if math.isnan(results["loss"]) else 0
        if self._nans > self._skips and self.check_nan and parse(program.target).computes:
            raise NumericError(
                f"the loss is NaN at step {self.steps} (epoch {self.epoch + 1}, learning rate {lr:g}): "
                f"{why_nan(batch, self._classes, self._ignored)}. The step was done: go on from a checkpoint, or with "
                "check_nan=False"
            )
        return results

    def fit(
        self,
        train: Dataset | Collection[Any],
        epochs: int,
        batch_size: int | None = None,
        validation: Dataset | Iterable[Any] | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool = True,
    ) -> History:
        """Trains until ``epochs`` epochs are done, those before this call or before a checkpoint included.

        ``train`` is a Dataset, of which batches of ``batch_size`` are made, or what makes its own, such as a torch DataLoader:
        iterated once an epoch it gives batches (x, y), ``len`` of them. The order of each epoch of a Dataset follows from the
        seed and the epoch's number; a last smaller batch is dropped. The schedule runs over all ``epochs`` unless it names its
        own. After each epoch every callback gets (trainer, the epoch's row); one that returns False ends the training.
        Raises ArgumentError when ``train`` has less than one batch, NumericError where the loss is NaN.
        """
        per_epoch = count_batches(train, batch_size)
        callbacks = list(callbacks)
        going = True
        with TrainingProgress(epochs, progress) as bar:
            while going and self.epoch < epochs:
                bar.start(self.epoch + 1, per_epoch)
                row = self._epoch(train, batch_size, per_epoch, epochs, bar)
                if validation is not None:
                    row |= {f"val_{k}": v for k, v in self.evaluate(validation, batch_size or 256).items()}
                self.epoch += 1
                self.history.append(row)
                bar.finish(row)
                going = all([callback(self, row) is not False for callback in callbacks])
        self.sync()
        return self.history

    def _epoch(
        self, train: Dataset | Collection[Any], batch_size: int | None, per_epoch: int, epochs: int, bar: TrainingProgress
    ) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, self.epoch])
        total = per_epoch * (self.schedule.epochs or epochs)
        coming = one_epoch(train, batch_size, rng)
        waiting: deque[tuple[Program, Batch]] = deque()

        def bring() -> None:
            """Compiles for the next batch if need be, and sends it on its way."""
            if (given := next(coming, None)) is not None:
                batch = as_batch(given)
                program = self.program("train", *batch)
                program.prefetch(_named(batch))
                waiting.append((program, batch))

        sums: dict[str, float] = {}
        lr, images, steps = self.optimizer.lr, 0, 0
        try:
            bring()
            start = time.perf_counter()  # the first batch was waited for, and its program
            while waiting:
                program, batch = waiting[0]
                bring()  # it travels while this step is computed
                waiting.popleft()
                lr = self.optimizer.lr * self.schedule.lr(self.epoch * per_epoch + steps, total)
                size = len(batch[0])
                images, steps = images + size, steps + 1
                for name, value in self._step(program, {}, batch, lr).items():
                    sums[name] = sums.get(name, 0.0) + value * size
                bar.advance(size, {name: value / images for name, value in sums.items()})
        finally:
            for program in {program for program, _ in waiting}:
                program.forget()  # an interrupted epoch leaves nothing behind
        if not images:
            raise ArgumentError("the loader gave no batch in this epoch; an iterator is used up after one, a DataLoader is not")
        seconds = time.perf_counter() - start
        means = {name: value / images for name, value in sums.items()}
        return {**means, "lr": lr, "images_per_second": images / seconds, "seconds": seconds}

    def evaluate(self, data: Dataset | Iterable[Any], batch_size: int = 256) -> dict[str, float]:
        """Loss and metrics over ``data``, in evaluation mode: a Dataset, or batches (x, y) as a DataLoader gives them.

        They are those of all examples at once, however they are cut: a mean over labels that count is one over all of them.
        Raises ArgumentError when it is empty.
        """
        pooled = Pooled([n for n, m in {"loss": self.loss, **(self.metrics or {})}.items() if is_sum(m)])
        for given in batches(data, batch_size) if isinstance(data, Dataset) else data:
            batch = as_batch(given)
            found = self.program("eval", *batch)(_named(batch))
            pooled.add({name: float(value) for name, value in found.items()}, len(batch[0]))
        if not (values := pooled.values()):
            raise ArgumentError("there is nothing to evaluate: the dataset is empty")
        return values

    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """The network's outputs for examples ``x`` [N, ...] in evaluation mode: an array, or a dict of several.

        Raises ArgumentError when N is 0.
        """
        array = to_numpy(plain(x))
        if not len(array):
            raise ArgumentError("there is nothing to predict: x is empty")
        parts = [array[i : i + batch_size] for i in range(0, len(array), batch_size)]
        found = [self.program("predict", part)(x=part) for part in parts]
        outputs = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        return outputs["out"] if [*outputs] == ["out"] else outputs

    def sync(self) -> None:
        """Copies the state's parameters and buffers into the network."""
        self.net.load_state_dict({n: self.state[n] for n in self.net.state_dict() if n in self.state}, strict=False)

    def push(self) -> None:
        """Copies the network's parameters and buffers into the state, after they were changed by hand."""
        for name, array in self.net.state_dict().items():
            if name in self.state:
                self.state.set(name, array)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes parameters, optimizer state, random counters, position and history. Raises ArgumentError before a step.

        A run that goes on from a checkpoint taken between epochs equals one that was never interrupted, bit for bit.
        """
        if self._trained is None:
            raise ArgumentError("there is nothing to save yet: a checkpoint is taken after at least one training step")
        metadata = {
            "epoch": self.epoch,
            "steps": self.steps,
            "seed": self.seed,  # with the epoch it is the state of the shuffling generator
            "batch": [(t.shape, t.dtype.name, t.order) for t in (self._trained.inputs["x"], self._trained.inputs["y"])],
            "optimizer": repr(self.optimizer),
            "counted": self.optimizer.counted,
            "weights": [n for n in self.net.state_dict() if n in self.state],
            "history": self.history.to_json(),
        }
        save_checkpoint(path, self.state, metadata)

    def load(self, path: str | Path) -> None:
        """Reads what ``save`` wrote, made with the same network and optimizer. Raises InputError listing what differs."""
        metadata = read_metadata(path)
        check_network(path, self.net.state_dict())
        batch = (spec if len(spec) == 3 else (*spec, None) for spec in metadata["batch"])  # older files say no order
        x, y = ((tuple(shape), dtype, None if order is None else tuple(order)) for shape, dtype, order in batch)
        counted = metadata.get("counted", {})
        own = self.optimizer.counted
        if any(own.get(name, first) != first for name, first in counted.items()):
            raise ArgumentError("the optimizer was given parameters in another order than the checkpoint's; make a new one")
        self.optimizer.counted = {**own, **counted}
        key = self._key("train", x, y)
        if key not in self._programs:
            self._programs[key] = self._compiled("train", x, y)
        self._trained = self._programs[key]
        first = next(iter(self.optimizer.counted.values()))  # older files name counters after no parameter
        old = {f"optimizer.{what}": f"{first}.{what}" for what in ("step", "started", "correction1", "correction2")}
        self.state.load(path, old)
        self.epoch, self.steps, self.seed = metadata["epoch"], metadata["steps"], metadata["seed"]
        self.history = History.from_json(metadata["history"])
        self.sync()

    def summary(self) -> str:
        """The network by module, and what its training step compiled to."""
        lines = [summary(self.net), f"{count_parameters(self.net):,} trainable parameters, {self.optimizer!r}"]
        for (kind, (shape, _), *_), program in self._programs.items():
            arena = f", arena {program.plan.size:,} bytes" if program.plan else ""
            lines.append(
                f"{kind} {list(shape)} on {program.target}: {program.launches} launches{arena}, "
                f"compiled in {program.compile_seconds:.2f} s"
            )
        return "\n".join(lines)


def _outputs(found: Any) -> dict[str, Value]:
    """The results of a network by name: out, or out0 and so on, or a dict's own names. Raises ArgumentError."""
    pairs = (
        found.items() if isinstance(found, Mapping) else enumerate(found) if isinstance(found, list | tuple) else [("", found)]
    )
    named = {key if isinstance(key, str) and key else f"out{key}": value for key, value in pairs}
    for value in named.values():
        if not isinstance(value, Value):
            raise ArgumentError(
                f"predict needs a network that returns a Value, or a tuple or dict of them, got {type(value).__name__}"
            )
    return named


def _named(batch: Batch) -> dict[str, Any]:
    return {"x": batch[0], "y": batch[1]}
