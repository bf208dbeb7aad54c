"""Trainer: compiles a network's training step and evaluation to programs that share one state, and runs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import graphrt.ops as F
from graphrt.autodiff import grad
from graphrt.compiler import compile as compile_graph
from graphrt.data import Dataset, batches
from graphrt.errors import ArgumentError, ShapeError
from graphrt.ir import Graph, Value
from graphrt.nn import Module, count_parameters, summary
from graphrt.ops.base import widened
from graphrt.optim import Constant, GradScaler, Optimizer, Schedule
from graphrt.runtime.arrays import to_numpy
from graphrt.runtime.program import Program
from graphrt.runtime.state import State
from graphrt.train.checkpoint import read_metadata, save_checkpoint
from graphrt.train.history import History
from graphrt.train.progress import TrainingProgress
from graphrt.types import as_dtype, float16

METRICS = ("accuracy",)
Spec = tuple[tuple[int, ...], str]  # shape and dtype of an array
Callback = Callable[["Trainer", dict[str, float]], bool | None]


class Trainer:
    """Trains ``net`` with ``loss(net(x), target)``.

    The trainer's ``state`` holds the parameters while it runs; ``fit``, ``load`` and ``sync`` copy them back into the net.
    A new batch size compiles another program on the same state. ``seed`` decides the order of examples and dropout; the same
    seed, data and target give the same bits. ``autocast`` bfloat16 or float16 trains in mixed precision
    (``Graph.autocast``), with dynamic loss scaling for float16. ``float32_matmul_precision`` and ``library`` are those of
    ``compile``. Raises ArgumentError for an unknown metric.
    """

    def __init__(
        self,
        net: Module,
        loss: Module | Callable[[Value, Value], Value],
        optimizer: Optimizer,
        schedule: Schedule | None = None,
        metrics: Sequence[str] = ("accuracy",),
        target: str = "auto",
        seed: int = 0,
        autocast: str | None = None,
        float32_matmul_precision: str = "highest",
        library: str | None = None,
    ) -> None:
        unknown = [m for m in metrics if m not in METRICS]
        if unknown:
            raise ArgumentError(f"unknown metrics {unknown}; there is {', '.join(METRICS)}")
        self.net, self.loss, self.optimizer = net, loss, optimizer
        self.schedule: Schedule = schedule or Constant()
        self.metrics, self.target, self.seed = tuple(metrics), target, seed
        self.autocast, self.float32_matmul_precision, self.library = autocast, float32_matmul_precision, library
        self.state, self.history = State(), History()
        self.epoch, self.steps = 0, 0  # done so far
        self._programs: dict[tuple[str, Spec, Spec | None], Program] = {}
        self._batch: tuple[Spec, Spec] | None = None  # of the last training step, for checkpoints

    # --- programs -------------------------------------------------------------------------------------------------

    def training_graph(self, x: Spec, y: Spec) -> Graph:
        """The graph of one training step: inputs x, y, lr; outputs loss and metrics; updates of everything trainable."""
        graph = Graph()
        xv, yv = graph.input("x", *x), graph.input("y", *y)
        with self._building(graph, True):
            loss = self._outputs(graph, xv, yv)
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
        """The graph of evaluation mode: inputs x and y, outputs loss and metrics; without ``y`` the network's output, out."""
        graph = Graph()
        with self._building(graph, False):
            if y is None:
                graph.output("out", widened(self.net(graph.input("x", *x))))
            else:
                self._outputs(graph, graph.input("x", *x), graph.input("y", *y))
        return graph

    def _outputs(self, graph: Graph, x: Value, y: Value) -> Value:
        logits = self.net(x)
        loss = graph.output("loss", self.loss(logits, y))
        if "accuracy" in self.metrics:
            if logits.ndim < 2 or not y.dtype.is_int:
                raise ShapeError(f"accuracy needs logits [N, C, ...] and integer classes, got {logits.type} and {y.type}")
            graph.output("accuracy", F.mean(F.cast(F.eq(F.argmax(logits, 1), F.cast(y, "int64")), "float32")))
        return loss

    def program(self, kind: str, x: Any, y: Any = None) -> Program:
        """The compiled "train", "eval" or "predict" program for a batch like arrays ``x`` and ``y``; made once."""
        return self._program(kind, _spec(x), None if y is None else _spec(y))

    def _program(self, kind: str, x: Spec, y: Spec | None) -> Program:
        key = (kind, x, y)
        if key not in self._programs:
            graph = self.training_graph(x, y) if kind == "train" and y is not None else self.evaluation_graph(x, y)
            self._programs[key] = compile_graph(
                graph,
                target=self.target,
                state=self.state,
                float32_matmul_precision=self.float32_matmul_precision,
                library=self.library,
            )
        if kind == "train" and y is not None:
            self._batch = (x, y)
        return self._programs[key]

    @contextmanager
    def _building(self, graph: Graph, training: bool) -> Iterator[None]:
        """What holds while a forward graph is built: the modules' mode, and autocast."""
        with _mode(self.net, training), graph.autocast(self.autocast or "bfloat16", enabled=self.autocast is not None):
            yield

    # --- running --------------------------------------------------------------------------------------------------

    def step(self, xb: Any, yb: Any, lr: float | None = None) -> dict[str, float]:
        """One optimizer step on one batch, at the optimizer's rate unless ``lr`` is given: loss and metrics before it."""
        return self._step(self.program("train", xb, yb), {"x": xb, "y": yb}, self.optimizer.lr if lr is None else lr)

    def _step(self, program: Program, batch: Mapping[str, Any], lr: float) -> dict[str, float]:
        results = program({**batch, "lr": float(lr)})
        self.steps += 1
        return {name: float(value) for name, value in results.items()}

    def fit(
        self,
        train: Dataset,
        epochs: int,
        batch_size: int,
        validation: Dataset | None = None,
        callbacks: Iterable[Callback] = (),
        progress: bool = True,
    ) -> History:
        """Trains until ``epochs`` epochs are done, those before this call or before a checkpoint included.

        The order of each epoch follows from the seed and the epoch's number; a last smaller batch is dropped. The schedule
        runs over all ``epochs`` unless it names its own. After each epoch every callback gets (trainer, the epoch's row);
        one that returns False ends the training. Raises ArgumentError when ``train`` has less than one batch.
        """
        per_epoch = len(train) // max(batch_size, 1)
        if batch_size < 1 or per_epoch < 1:
            raise ArgumentError(f"{len(train)} examples make no batch of {batch_size}")
        callbacks = list(callbacks)
        self.program("train", train.x[:batch_size], train.y[:batch_size])  # compiled outside what is timed
        going = True
        with TrainingProgress(epochs, progress) as bar:
            while going and self.epoch < epochs:
                bar.start(self.epoch + 1, per_epoch)
                row = self._epoch(train, batch_size, per_epoch, epochs, bar)
                if validation is not None:
                    row |= {f"val_{k}": v for k, v in self.evaluate(validation, batch_size).items()}
                self.epoch += 1
                self.history.append(row)
                bar.finish(row)
                going = all([callback(self, row) is not False for callback in callbacks])
        self.sync()
        return self.history

    def _epoch(self, train: Dataset, batch_size: int, per_epoch: int, epochs: int, bar: TrainingProgress) -> dict[str, float]:
        rng = np.random.default_rng([self.seed, self.epoch])
        totals: dict[str, float] = {}
        total = per_epoch * (self.schedule.epochs or epochs)
        lr, start = self.optimizer.lr, time.perf_counter()
        program = self.program("train", train.x[:batch_size], train.y[:batch_size])
        coming = batches(train, batch_size, shuffle=True, rng=rng, drop_last=True)
        try:
            program.prefetch(_named(next(coming)))
            for i in range(per_epoch):
                if i + 1 < per_epoch:
                    program.prefetch(_named(next(coming)))  # it travels while this step is computed
                lr = self.optimizer.lr * self.schedule.lr(self.epoch * per_epoch + i, total)
                for name, value in self._step(program, {}, lr).items():
                    totals[name] = totals.get(name, 0.0) + value
                bar.advance(batch_size, {name: value / (i + 1) for name, value in totals.items()})
        finally:
            program.forget()  # an interrupted epoch leaves nothing behind
        seconds = time.perf_counter() - start
        means = {name: value / per_epoch for name, value in totals.items()}
        return {**means, "lr": lr, "images_per_second": per_epoch * batch_size / seconds, "seconds": seconds}

    def evaluate(self, data: Dataset, batch_size: int = 256) -> dict[str, float]:
        """Means of loss and metrics over ``data``, in evaluation mode. Raises ArgumentError when it is empty."""
        if not len(data):
            raise ArgumentError("there is nothing to evaluate: the dataset is empty")
        totals: dict[str, float] = {}
        for xb, yb in batches(data, batch_size):
            for name, value in self.program("eval", xb, yb)(x=xb, y=yb).items():
                totals[name] = totals.get(name, 0.0) + float(value) * len(xb)
        return {name: value / len(data) for name, value in totals.items()}

    def predict(self, x: Any, batch_size: int = 256) -> np.ndarray:
        """The network's outputs for examples ``x`` [N, ...] in evaluation mode. Raises ArgumentError when N is 0."""
        array = to_numpy(x)
        if not len(array):
            raise ArgumentError("there is nothing to predict: x is empty")
        parts = [array[i : i + batch_size] for i in range(0, len(array), batch_size)]
        return np.concatenate([self.program("predict", part)(x=part)["out"] for part in parts])

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
        if self._batch is None:
            raise ArgumentError("there is nothing to save yet: a checkpoint is taken after at least one training step")
        metadata = {
            "epoch": self.epoch,
            "steps": self.steps,
            "seed": self.seed,  # with the epoch it is the state of the shuffling generator
            "batch": self._batch,
            "optimizer": repr(self.optimizer),
            "history": self.history.to_json(),
        }
        save_checkpoint(path, self.state, metadata)

    def load(self, path: str | Path) -> None:
        """Reads what ``save`` wrote, made with the same network and optimizer. Raises InputError listing what differs."""
        metadata = read_metadata(path)
        x, y = ((tuple(shape), dtype) for shape, dtype in metadata["batch"])
        self._program("train", x, y)
        self.state.load(path)
        self.epoch, self.steps, self.seed = metadata["epoch"], metadata["steps"], metadata["seed"]
        self.history = History.from_json(metadata["history"])
        self.sync()

    def summary(self) -> str:
        """The network by module, and what its training step compiled to."""
        lines = [summary(self.net), f"{count_parameters(self.net):,} trainable parameters, {self.optimizer!r}"]
        for (kind, (shape, _), _), program in self._programs.items():
            arena = f", arena {program.plan.size:,} bytes" if program.plan else ""
            lines.append(
                f"{kind} {list(shape)} on {program.target}: {program.launches} launches{arena}, "
                f"compiled in {program.compile_seconds:.2f} s"
            )
        return "\n".join(lines)


@contextmanager
def _mode(net: Module, training: bool) -> Iterator[None]:
    """Builds in training or evaluation mode, then gives every module its mode back."""
    before = [(m, m.training) for m in net.modules()]
    net.train(training)
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode


def _named(batch: tuple[Any, Any]) -> dict[str, Any]:
    return {"x": batch[0], "y": batch[1]}


def _spec(value: Any) -> Spec:
    array = value if hasattr(value, "dtype") else to_numpy(value)
    return tuple(array.shape), as_dtype(array.dtype).name
