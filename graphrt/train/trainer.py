"""Trainer: runs the programs of a network's training step and evaluation over data, and keeps checkpoints of their state."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.arguments import checked
from graphrt.data import Source
from graphrt.errors import ArgumentError, InputError, NumericError, told
from graphrt.mesh import Mesh
from graphrt.nn import Module, count_parameters, summary
from graphrt.optim import Constant, LRSchedule
from graphrt.runtime.arrays import to_numpy
from graphrt.runtime.program import Program
from graphrt.targets.limits import number_of_bytes
from graphrt.targets.target import parse
from graphrt.train.batch import Batch, as_batch, in_order, leaves, mapped, plain, spec_of
from graphrt.train.checkpoint import check_network, read_metadata, save_checkpoint, specs_from_json, specs_to_json
from graphrt.train.history import History
from graphrt.train.loop import Loop
from graphrt.train.metrics import DENOMINATOR, Metrics, Pooled, read
from graphrt.train.nan import faults, first_nan, held, why_nan
from graphrt.train.objective import Losses
from graphrt.train.programs import ASKED, Compiling, Programs
from graphrt.train.stepping import Optimizers, Step
from graphrt.types import as_dtype, float16

SKIPS = 64  # steps in a row whose loss may be NaN while float16's loss scale, 2**16 at first, is halved


class Trainer(Programs):
    """Trains ``net`` with ``loss(net(x), target)`` and ``optimizer``, at its rate times ``schedule`` (None: constant).

        trainer = grt.Trainer(net, nn.CrossEntropyLoss(), optim.SGD(lr=0.05, momentum=0.9), optim.Cosine())
        trainer.fit(train_data, epochs=10, batch_size=64, validation=test_data)

    The trainer's ``state`` holds the parameters while it runs; ``fit``, ``load`` and ``sync`` copy them back into the net. A
    new batch size compiles another program on the same state, and so does a network of which other parameters are to be trained
    or other parts are in eval mode, in which they stay while the rest trains (``nn.Module.requires_grad_``, ``eval``).

    A batch is (x, y) or (x, y, sample_weight). x may be a tuple, which is ``net(*x)``, or a dict, ``net(**x)``; y may be
    either. ``loss`` is a function of what the network returns and y. For a network of several outputs it may be a sequence of
    losses, of which each gets its output of a tuple, or a mapping of those of a dict by name; (loss, weight) weighs one, and a
    y that is one array is the target of all. A network that returns one output in evaluation mode is then measured by the
    first. Example weights make the loss a mean weighted by them, of losses with a ``reduction`` or that return [N, ...].

    ``metrics`` are names (accuracy, top_5 and the like, precision, recall, f1, auc, mean_iou, confusion_matrix, mse, mae, r2,
    grad_norm), functions of (output, target) that return a scalar Value, a ``Metric``, or a dict of them; by default the
    accuracy of class indices, and nothing for other targets. With losses by name it may be a dict of metrics by those names;
    with a sequence of losses the metrics are of the first output. A loss or metric that is a mean of something else than the
    examples has a method ``denominator(output, target)``, the scalar that it divides by.

    ``augment`` changes a training batch in the graph: one of ``nn.augment``, a function of (x, y) that returns both, or a list
    of them. Metrics of class indices that it mixed are of the class with the largest share.

    ``step`` stands in for ``loss``, for several losses of several parts of the network, each updated on its own: a function of
    (net, x, y, minimize). ``minimize(loss, net.part)`` updates the parameters of that part along the gradient of the loss; the
    part has its new parameters where it is called after that, and no gradient flows through the update. It returns the loss,
    or a dict of scalars with "loss" among them. In evaluation it is called too, and ``minimize`` does nothing. ``optimizer``
    may be a dict of optimizers by the parts' names; the schedule and a rate given to ``step`` are the first one's, to which the
    others keep their ratio.

    ``seed`` decides the order of examples, augmentation and dropout; the same seed, data and target give the same bits.
    ``autocast`` bfloat16 or float16 trains in mixed precision (``Graph.autocast``), with dynamic loss scaling for float16.
    ``target``, ``float32_matmul_precision``, ``library`` and ``memory_limit``, which each program keeps by itself, are those of
    ``compile``. ``check_nan`` stops with a NumericError at a loss that is NaN. Floats come as float32 from float64 examples.
    An optimizer with ``ema_decay`` evaluates with the running means.

    With a ``mesh`` each of its processes, which torchrun starts, is given the same data and takes its part of each batch: the
    loss, the metrics and the step are those of the whole. ``policy`` and ``reduce_dtype``, as of ``compile``, say what each
    keeps, and how gradients are sent; the policy "tensor" cuts pairs of layers along the mesh's axis tp
    (``nn.tensor_parallel``). Gradients of an optimizer's ``accumulation_steps`` are added up in each process, as of
    one batch of all their examples, and exchanged when a step updates; what ``step`` returns of such is of this process alone.
    Checkpoints are the first's to write, and fit any number of processes; ``nn.sync_batch_norm`` has batch norm see the whole.

    Raises ArgumentError for an unknown metric, for a memory_limit that is none, and where there is no optimizer, or a loss and
    a step function; TargetError for a target that is none.
    """

    @checked
    def __init__(
        self,
        net: Module,
        loss: Losses | None = None,
        optimizer: Optimizers | None = None,
        schedule: LRSchedule | None = None,
        metrics: Metrics = None,
        target: str = "auto",
        seed: int = 0,
        autocast: str | None = None,
        float32_matmul_precision: str = "highest",
        library: str | None = None,
        check_nan: bool = True,
        augment: Callable[..., Any] | Sequence[Callable[..., Any]] | None = None,
        step: Step | None = None,
        mesh: Mesh | None = None,
        policy: str = "all_reduce",
        reduce_dtype: str | None = None,
        memory_limit: str | int | None = None,
    ) -> None:
        tensor = policy == "tensor"  # the network's layers are cut, and beside them each process keeps all of everything
        policy, limit = "all_reduce" if tensor else policy, number_of_bytes(memory_limit)
        compiling = Compiling(target, autocast, float32_matmul_precision, library, mesh, policy, reduce_dtype, tensor, limit)
        if schedule is not None and not isinstance(schedule, LRSchedule):
            raise ArgumentError(f"a schedule is one of graphrt.optim, such as Cosine(); got {told(schedule)}")
        parse(target)  # before anything is built for it
        super().__init__(net, loss, optimizer, metrics, seed, compiling, augment, step)
        self.schedule: LRSchedule = schedule or Constant()
        self.measures, self.check_nan = self.objective.measures(), check_nan
        self.history = History()
        self.notes: dict[str, Any] = {}  # what else checkpoints keep, as JSON values, such as the names of classes
        self.epoch, self.batches, self.pooled = 0, 0, Pooled(self.measures)  # done so far, in this epoch, and what they gave
        half = None if autocast is None else as_dtype(autocast)
        self.asked = self.stopping = False  # whether this process was asked to stop, and whether all know of one that was
        self._rows: list[tuple[Mapping[str, Any], int, int]] = []  # of steps whose gradients are being added up
        self._nans, self._skips = 0, SKIPS if half is float16 else 0  # losses in a row that were NaN, and how many may be

    def step(self, xb: Any, yb: Any, lr: float | None = None, sample_weight: Any = None) -> dict[str, Any]:
        """One optimizer step on one batch, at the optimizer's rate unless ``lr`` is given: loss and metrics before it.

        ``sample_weight`` [N] are weights of the examples. Raises NumericError where the loss is NaN, unless ``check_nan`` is
        off.
        """
        batch = as_batch((xb, yb) if sample_weight is None else (xb, yb, sample_weight))
        batch, parts = self.share(batch)
        program = self.step_program(batch, parts)
        found = self.run_step(program, batch.named(), batch, self.optimizer.lr if lr is None else lr)
        return read(found, self.measures)

    def run_step(self, program: Program, given: Mapping[str, Any], batch: Batch, lr: float) -> Mapping[str, Any]:
        """A step on ``batch``, of which ``program`` is ``given`` what it has not prefetched. Returns the program's results."""
        asked = {ASKED: float(self.asked)} if ASKED in program.inputs else {}
        found = program({**given, "lr": float(lr), **asked})
        if asked:
            found = dict(found)
            self.stopping = bool(found.pop(ASKED) > 0)
        self.steps += 1
        nothing = found.get(f"{DENOMINATOR}loss") == 0.0  # of this process counts, where gradients are added up
        self._nans = self._nans + 1 if math.isnan(found["loss"]) and not nothing else 0
        if self._nans > self._skips and self.check_nan and parse(program.target).computes:
            raise NumericError(
                f"the loss is NaN at step {self.steps} (epoch {self.epoch + 1}, learning rate {lr:g}): {self._cause(batch)}. "
                "The step was done: go on from a checkpoint, or with check_nan=False"
            )
        return found

    def record(self, found: Mapping[str, Any], examples: int, parts: int) -> None:
        """Takes what a step ``found`` into the epoch's values.

        Where gradients are added up it is this process's own, of its part of the ``examples`` or, where ``parts`` is 0, of all
        of them, which all have; it waits for those of the other processes until a step updates.
        """
        if not self.adds_up or self.mesh is None or self.processes is None:
            self.pooled.add(found, examples)
            return
        if parts:
            even, rest = divmod(examples, self.mesh.axes[self.mesh.data])
            examples = even + (self.processes.coordinates[self.mesh.data] < rest)
        self._rows.append(({name: np.asarray(value) for name, value in found.items()}, examples, parts))
        if self.completes():
            self.gather()

    def gather(self) -> None:
        """Takes what waits in all processes into the epoch's values; all of them must call this."""
        rows, self._rows = self._rows, []
        for rank, theirs in enumerate(self.processes.all(rows) if self.processes is not None and self.adds_up else ()):
            assert self.mesh is not None
            twins = {at for axis, at in self.mesh.coordinates(rank).items() if axis != self.mesh.data}  # with the same examples
            for found, examples, parts in theirs if not any(twins) else ():
                if parts or rank == 0:
                    self.pooled.add(found, examples)

    def _cause(self, batch: Batch) -> str:
        """The cause of a loss that is NaN: the batch, the weights of before the training, or the first node with a NaN."""
        if found := why_nan(batch, self.objective.classes, self.objective.ignored):
            return found
        if found := held(self.net.state_dict()):  # as of the last sync, so before this training
            return f"the network was given {found} that holds NaN or infinity"
        x, y, weight = (None if part is None else spec_of(part) for part in batch)
        graph = self.training_graph(x, y, weight)
        if found := first_nan(graph, batch, self.target):
            return f"with the weights that the training began with, {found}"
        return (
            "nothing in the batch or the weights that the training began with says why, so the learning rate may be too high; "
            'target="debug" names the op that makes the first NaN'
        )

    @checked
    def fit(
        self,
        train: Source | Collection[Any],
        epochs: int,
        batch_size: int | None = None,
        validation: Source | Iterable[Any] | None = None,
        callbacks: Iterable[Any] = (),
        progress: bool = True,
        drop_last: bool = False,
        resume: bool = False,
    ) -> History:
        """Trains until ``epochs`` epochs are done, those before this call or before a checkpoint included.

        ``train`` is a Dataset, arrays (x, y), or another Source, of which batches of ``batch_size`` are made, such as a torch
        Dataset, or what makes its own, such as a torch DataLoader: iterated once an epoch it gives batches (x, y), ``len`` of
        them. The order of each epoch of a Source follows from the seed and the epoch's number; the last batch may be smaller,
        which the same program takes, and ``drop_last`` leaves it out.
        The schedule runs over all ``epochs`` unless it names its own. ``callbacks`` are ``Callback``s, or functions that get
        (trainer, the epoch's row) after each epoch and may return False to end the training. Loss and metrics are measured on
        ``validation`` after each epoch; ``progress`` shows them.

        ``resume`` goes on from the latest checkpoint of a ModelCheckpoint among the callbacks, if there is one, bit for bit.
        Ctrl-C is heard between two steps: that callback then leaves a checkpoint, which the KeyboardInterrupt names, and
        another ``fit`` goes on in the middle of the epoch; all processes of a mesh stop behind one step. Raises ArgumentError
        when ``train`` has less than one batch, NumericError where the loss is NaN.
        """
        loop = Loop(self, train, epochs, batch_size, validation, callbacks, progress, drop_last)
        if resume:
            loop.resume()
        loop.run()
        return self.history

    def rate(self, per_epoch: int, epochs: int, batches: int) -> float:
        """The learning rate of the step behind ``batches`` of this epoch, of ``per_epoch`` each of ``epochs``."""
        total = per_epoch * (self.schedule.epochs or epochs)
        return self.optimizer.lr * self.schedule.lr(self.epoch * per_epoch + batches, total, per_epoch)

    def finish_epoch(self, row: dict[str, Any]) -> None:
        """Counts an epoch of which ``row`` is the record."""
        self.epoch += 1
        self.batches, self.pooled = 0, Pooled(self.measures)
        self.history.append(row)

    @checked
    def evaluate(self, data: Source | Iterable[Any], batch_size: int = 256) -> dict[str, Any]:
        """Loss and metrics over ``data``, in evaluation mode: a Dataset, arrays (x, y), or batches as a DataLoader gives them.

        They are those of all examples at once, however they are cut: a mean over labels that count is one over all of them.
        Raises ArgumentError when it is empty, and NumericError for data that holds NaN or labels that name no class, unless
        ``check_nan`` is off.
        """
        pooled = Pooled(self.measures)
        for given in in_order(data, batch_size):
            batch = as_batch(given)
            examples = len(batch)
            batch, parts = self.share(batch, False)
            found = self._evaluated("eval", batch, parts)(batch.named())
            if self.check_nan and math.isnan(found["loss"]):
                if wrong := faults(batch, self.objective.classes, self.objective.ignored):
                    raise NumericError(f"the loss is NaN in evaluation: {' and '.join(wrong)}")
            pooled.add(found, examples)
        if not (values := pooled.values()):
            raise ArgumentError("there is nothing to evaluate: the dataset is empty")
        return values

    @checked
    def predict(self, x: Any, batch_size: int = 256) -> Any:
        """The network's outputs for examples ``x`` [N, ...] in evaluation mode: an array, or a dict of several.

        ``x`` may be a tuple or dict of arrays. Raises ArgumentError when N is 0, or ``batch_size`` under 1.
        """
        arrays = mapped(lambda _, part: to_numpy(part), "x", plain(x))
        count = len(Batch(arrays, None))
        if not count:
            raise ArgumentError("there is nothing to predict: x is empty")
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")

        def outputs(rows: slice) -> dict[str, np.ndarray]:
            part = Batch(mapped(lambda _, array: array[rows], "x", arrays), None)
            return self._evaluated("predict", part)(leaves("x", part.x))

        found = [outputs(slice(i, i + batch_size)) for i in range(0, count, batch_size)]
        joined = {name: np.concatenate([f[name] for f in found]) for name in found[0]}
        return joined["out"] if [*joined] == ["out"] else joined

    def sync(self, means: bool = False) -> None:
        """Copies the state's parameters and buffers into the network, or with ``means`` the running means of parameters."""
        names = {n: self.optimizer.mean_of(n) if means else n for n in self.net.state_dict()}
        found = {n: self.state.whole(mean if mean in self.state else n) for n, mean in names.items() if n in self.state}
        self.net.load_state_dict(found, strict=False)

    def push(self) -> None:
        """Copies the network's parameters and buffers into the state, after they were changed by hand."""
        self._means_at = -1
        for name, array in self.net.state_dict().items():
            if name in self.state:
                self.state.set(name, array)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes parameters, optimizer state, random counters, position and history. Raises ArgumentError before a step.

        A run that goes on from a checkpoint equals one that was never interrupted, bit for bit.
        """
        if self._trained is None:
            raise ArgumentError("there is nothing to save yet: a checkpoint is taken after at least one training step")
        self.gather()
        metadata = {
            "epoch": self.epoch,
            "steps": self.steps,
            "batches": self.batches,
            "pooled": self.pooled.to_json(),
            "seed": self.seed,  # with the epoch it is the state of the shuffling generator
            "batch": specs_to_json(self._specs[self._trained], self._programs[self._trained].inputs),
            "optimizer": repr(self.optimizer),
            "counted": self.optimizer.counted,
            "weights": [n for n in self.net.state_dict() if n in self.state],
            "history": self.history.to_json(),
            "notes": self.notes,
        }
        save_checkpoint(path, self.state, metadata, self.processes)

    def load(self, path: str | Path) -> None:
        """Reads what ``save`` wrote, made with the same network and kind of optimizer, whose numbers may be others.

        Raises InputError listing what differs.
        """
        metadata = read_metadata(path)
        check_network(path, self.net.state_dict())
        trained = f"{path} was trained with {metadata['optimizer']}, and this trainer has {self.optimizer!r}"
        if metadata["optimizer"].partition("(")[0] != type(self.optimizer).__name__:
            raise InputError(f"{trained}: its moments mean something else there; load_weights takes the parameters alone")
        try:
            specs = specs_from_json(metadata["batch"])
        except (TypeError, ValueError, IndexError) as error:
            raise InputError(f"{path} is not what was written: its batch is {metadata['batch']!r}: {error}") from None
        history = History.from_json(metadata["history"])
        counted = metadata.get("counted", {})
        own = self.optimizer.counted
        if any(own.get(name, first) != first for name, first in counted.items()):
            raise ArgumentError("the optimizer was given parameters in another order than the checkpoint's; make a new one")
        self.optimizer.counted = {**own, **counted}
        key = self._key("train", specs)
        if key not in self._programs:
            self._compile(key, specs)
        self._trained = key
        first = next(iter(self.optimizer.counted.values()))  # older files name counters after no parameter
        old = {f"optimizer.{what}": f"{first}.{what}" for what in ("step", "started", "correction1", "correction2")}
        bare = {n.removeprefix("loss."): n for n in self.state if n.startswith("loss.")}  # and a loss's as if it were the net's
        waiting = tuple(f"{name}." for name, p in self.net.named_parameters() if not p.trainable)
        names = old | {name: n for name, n in bare.items() if name not in self.state}
        try:
            self.state.load(path, names, more=lambda name: name.startswith(waiting))  # moments of what is frozen at the moment
        except InputError as error:
            if metadata["optimizer"] == repr(self.optimizer):
                raise
            raise InputError(f"{trained}: {error}") from None
        self.epoch, self.steps, self.seed = metadata["epoch"], metadata["steps"], metadata["seed"]
        self.batches, self.pooled = metadata.get("batches", 0), Pooled(self.measures)
        if "pooled" in metadata:
            self.pooled.take(metadata["pooled"])
        self.history, self._means_at = history, -1
        self.notes = {**metadata.get("notes", {}), **self.notes}
        self.sync()

    def summary(self) -> str:
        """The network by module, and what its training step compiled to."""
        lines = [summary(self.net), f"{count_parameters(self.net):,} trainable parameters, {self.optimizer!r}"]
        for key, program in self._programs.items():
            kind, named, *_ = key
            arena = f", arena {program.plan.size:,} bytes" if program.plan else ""
            shapes = ", ".join(str(list(shape)) for name, (shape, _) in named if name.startswith("x"))
            lines.append(
                f"{kind} {shapes} on {program.target}: {program.launches} launches{arena}, "
                f"compiled in {program.compile_seconds:.2f} s, {self._made_because(key)}"
            )
        lines += [f"a batch of {size} is given to all processes whole: {why}" for size, why in sorted(self.given_whole.items())]
        return "\n".join(lines)
