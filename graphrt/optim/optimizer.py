"""Optimizer: what all optimizers share. ``apply`` appends the update of every parameter to the graph of its gradient.

The learning rate is a scalar Value, so a schedule changes it without another compilation. Moments are state of the program,
named after their parameter; a counter is named after the first parameter of those that it counts for. So optimizers of
different parameters share a graph, or a State, and none of their own state. The arithmetic follows torch.optim.

    gradients ─▶ summed over micro-steps ─▶ clipped ─▶ _update, by group ─▶ averaged (EMA)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from numbers import Real
from typing import Any

import graphrt.ops as F
from graphrt.arguments import check_fields
from graphrt.errors import ArgumentError, DTypeError, GraphError
from graphrt.ir import Graph, Value
from graphrt.ops.reverse import zeros_like
from graphrt.optim.gradients import clip_grad_norm, clip_grad_value, of_all, own_part
from graphrt.types import float64

Groups = Sequence[tuple[Any, "Mapping[str, Any] | Optimizer"]]
_OF_ALL = ("groups", "name", "clip_grad_value", "clip_grad_norm", "accumulation_steps", "ema_decay")  # a group has none


@dataclass
class _Part:
    """Parameters that one optimizer updates and that share its counters, which are named after ``first``."""

    optimizer: Optimizer
    first: str
    params: list[Value] = field(default_factory=list)
    grads: list[Value] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """One of several runs of which each adds to the gradients of an update.

    ``share`` is what it adds to the number that their sum is divided by; the last one ``completes`` them, and updates.
    """

    share: Value
    completes: bool


@dataclass(eq=False, repr=False)
class Optimizer(ABC):
    """Base: holds the base learning rate ``lr`` and what every optimizer takes by name; subclasses write ``_update``.

    ``groups`` are torch's param_groups, each (which, options), such as ``("*.bias", {"weight_decay": 0.0})``. ``which`` is a
    pattern of names as of ``fnmatch``, a list of patterns, or a function of the parameter's Value that says whether it belongs;
    a parameter is in the first group that fits. ``options`` are arguments of the optimizer, or ``{"frozen": True}`` for
    parameters that stay as they are, or another optimizer, such as an AdamW beside a Muon; the others, and all of the
    parameters that no group has, are the optimizer's own. A group's ``lr`` keeps its ratio to ``lr`` when a schedule changes
    that.

    ``decay_1d`` False leaves ``weight_decay`` off parameters of at most one dimension: biases, and scales of norms.
    ``maximize`` follows the gradient upwards. ``clip_grad_value`` and ``clip_grad_norm`` bound each element of the gradients
    that the update gets, and the norm of all of them, as the functions of those names.
    ``accumulation_steps`` k makes one update of the mean gradient of k runs, at the rate of the last of them: the step of a
    batch k times as large, where the loss is a mean and the batches are of one size; ``Trainer`` weighs batches of several
    sizes. ``ema_decay`` keeps a running mean of each parameter beside it, in the state ``PARAMETER.ema``, as
    torch.optim.swa_utils does: it starts at what the first update leaves.

    ``name`` keeps the state of two optimizers apart that update the same parameters in programs on one State.
    """

    lr: float = 1e-3
    maximize: bool = field(default=False, kw_only=True)
    decay_1d: bool = field(default=True, kw_only=True)
    clip_grad_value: float | None = field(default=None, kw_only=True)
    clip_grad_norm: float | None = field(default=None, kw_only=True)
    accumulation_steps: int = field(default=1, kw_only=True)
    ema_decay: float | None = field(default=None, kw_only=True)
    groups: Groups = field(default=(), kw_only=True)
    name: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        self.counted: dict[str, str] = {}  # the parameter after which the counters of each are named, once it was updated
        self._counters: set[str] = set()
        self._check()
        self._groups: list[tuple[Any, Optimizer | None]] = [self._group(given) for given in self.groups]  # None: frozen

    def _check(self) -> None:
        """Raises ArgumentError for arguments that make no sense."""
        check_fields(self)
        for key, value in self._arguments().items():
            if isinstance(value, Real) and not float(value) >= 0.0:
                raise ArgumentError(f"{key} must be at least 0, got {value}")
        if self.accumulation_steps < 1:
            raise ArgumentError(f"accumulation_steps must be at least 1, got {self.accumulation_steps}")
        if self.ema_decay is not None and not self.ema_decay < 1.0:
            raise ArgumentError(f"ema_decay must lie in [0, 1), got {self.ema_decay}")

    def _arguments(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def _group(self, given: Any) -> tuple[Any, Optimizer | None]:
        """A group's optimizer. Raises ArgumentError."""
        if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], Mapping | Optimizer)):
            raise ArgumentError(f'a group is (which, options), such as ("*.bias", {{"weight_decay": 0.0}}), got {given!r}')
        which, options = given
        if isinstance(options, Optimizer):
            own = {f.name: f.default for f in fields(options)}
            if extra := [key for key in _OF_ALL[2:] if getattr(options, key) != own[key]] + ["groups"] * bool(options.groups):
                raise ArgumentError(f"{', '.join(extra)} of a group's optimizer belongs to the optimizer that has the groups")
            made = options
        else:
            own = {key: value for key, value in self._arguments().items() if key not in _OF_ALL}
            if unknown := options.keys() - own.keys() - {"frozen"}:
                names = f"{', '.join(map(repr, sorted(unknown)))}; there is {', '.join(own)}, frozen"
                raise ArgumentError(f"{type(self).__name__} has no option {names}")
            if options.get("frozen"):
                return which, None
            make: Callable[..., Optimizer] = type(self)
            made = make(**{**own, **{k: v for k, v in options.items() if k != "frozen"}}, name=self.name)
        if made.lr != self.lr and not self.lr:
            raise ArgumentError("a group with a learning rate of its own needs an lr above 0, to which it keeps its ratio")
        return which, made

    # --- the update -----------------------------------------------------------------------------------------------

    def apply(self, params: Sequence[Value], grads: Sequence[Value], lr: Value, run: Run | None = None) -> None:
        """Updates each of ``params`` (float parameters of one graph) by its gradient of the same shape.

        ``lr`` is a float scalar of the graph. A parameter that the network itself has written is stepped from what was
        written. With ``accumulation_steps`` the graph counts its runs, each for as much, unless it is one ``run``, which says
        what it counts for: each process adds up its own then, and those of all are summed when the last run updates.

        Raises ArgumentError for lists of two lengths, a group's pattern that no parameter of the graph has, and where all
        parameters are frozen, DTypeError, GraphError for a parameter that an optimizer has updated.
        """
        if len(params) != len(grads) or not params:
            raise ArgumentError(f"need a gradient for each of at least one parameter, got {len(params)} and {len(grads)}")
        for p in params:
            if not p.dtype.is_float:
                raise DTypeError(f"only float parameters can be optimized; {p!r}")
        graph = params[0].graph
        self._check_patterns(graph)
        counted = dict(self.counted)
        with graph.transaction(), graph.phase("opt"):
            parts = self._parts(params, grads, counted)
            full = [self._add_up(graph, part, run) for part in parts]
            if run is None or run.completes:
                self._clip(parts)
                for part, done in zip(parts, full, strict=True):
                    before = dict(graph.updates)
                    self._step(graph, part, lr)
                    if done is not None:
                        keep_unless(graph, before, done)
        self.counted = counted

    def _check_patterns(self, graph: Graph) -> None:
        names = [v.name for v in graph.parameters(trainable=False)]
        for which, _ in self._groups:
            for pattern in [] if callable(which) else [which] if isinstance(which, str) else which:
                if not any(fnmatchcase(n, pattern) for n in names):
                    raise ArgumentError(f"no parameter is named like {pattern!r}; there is {', '.join(names)}")

    def _parts(self, params: Sequence[Value], grads: Sequence[Value], counted: dict[str, str]) -> list[_Part]:
        """The parameters by optimizer and counters; takes note in ``counted`` of those that are new."""
        parts: dict[int, dict[str, _Part]] = {}
        for p, g in zip(params, grads, strict=True):
            if (optimizer := self._of(p)) is None:
                continue
            own = parts.setdefault(id(optimizer), {})
            fresh = next((first for first in own if first not in self.counted.values()), p.name)
            first = counted.setdefault(p.name, fresh)
            part = own.setdefault(first, _Part(optimizer, first))
            part.params.append(p)
            part.grads.append(-g if optimizer.maximize else g)
        if not parts:
            raise ArgumentError("every parameter is in a frozen group, so there is nothing to update")
        return [part for own in parts.values() for part in own.values()]

    def _of(self, p: Value) -> Optimizer | None:
        """The optimizer of parameter ``p``, None for one that is frozen."""
        found = next((made for which, made in self._groups if _fits(which, p)), self)
        return found if found is self or found is None else found._of(p)

    def _all(self) -> list[Optimizer]:
        """Itself and the optimizers of its groups."""
        return [self, *(one for _, made in self._groups if made is not None for one in made._all())]

    def part_ways(self, waiting: Collection[str]) -> dict[str, str]:
        """Parameters ``waiting`` for later steps get counters of their own where others share theirs, which will run on.

        Returns the names of new states, which programs built from now on have, and those of the states whose values are theirs.
        """
        copies: dict[str, str] = {}
        for first in dict.fromkeys(self.counted.values()):
            members = [name for name, of in self.counted.items() if of == first]
            still = [name for name in members if name in waiting]
            if 0 < len(still) < len(members):
                moved = [name for name in members if name not in waiting] if first in waiting else still
                self.counted |= dict.fromkeys(moved, moved[0])
                for one in self._all():
                    copies |= {one._name(moved[0], what): one._name(first, what) for what in one._counters}
        return copies

    def _add_up(self, graph: Graph, part: _Part, run: Run | None) -> Value | None:
        """Adds the gradients to those of the runs before; complete ones become their mean. Returns whether this run completes
        them, where the graph counts its runs; None where it is known already."""
        if run is None and self.accumulation_steps == 1:
            return None
        axis = "" if run is None or graph.mesh is None else graph.mesh.data
        self._counters.add("accumulated_share")
        if run is None:
            last = float(self.accumulation_steps - 1)
            before, _ = self._counter(graph, part.first, "accumulated_share", lambda v: F.where(F.eq(v, last), 0.0, v + 1.0))
        completes = F.eq(before, last) if run is None else run.completes

        def added(of: str, what: str, like: Value, value: Value) -> Value:
            before = graph.parameter_like(self._name(of, what), like, axis)
            now = before + (own_part(value, axis) if axis else value)
            kept = F.where(completes, 0.0, now) if isinstance(completes, Value) else zeros_like(now) if completes else now
            graph.update(before, kept)
            return of_all(now, axis, of if like.node.name == of else "") if axis and completes else now

        share = before + 1.0 if run is None else added(part.first, "accumulated_share", run.share, run.share)
        for i, (p, g) in enumerate(zip(part.params, part.grads, strict=True)):
            part.grads[i] = added(p.name, "accumulated", graph.sources[p.name].outputs[0], g) / F.cast(share, g.dtype)
        return completes if isinstance(completes, Value) else None

    def _clip(self, parts: list[_Part]) -> None:
        grads = [g for part in parts for g in part.grads]
        if self.clip_grad_value is not None:
            grads = clip_grad_value(grads, self.clip_grad_value)
        if self.clip_grad_norm is not None:
            grads, _ = clip_grad_norm(grads, self.clip_grad_norm)
        clipped = iter(grads)
        for part in parts:
            part.grads = [next(clipped) for _ in part.grads]

    def _step(self, graph: Graph, part: _Part, lr: Value) -> None:
        optimizer = part.optimizer
        rate = lr if optimizer.lr == self.lr else lr * (optimizer.lr / self.lr)
        shared = optimizer._shared(graph, part.first)
        share = self._ema_share(graph, part.first)
        for p, g in zip(part.params, part.grads, strict=True):
            now = graph.latest(p)
            if now.node.origin.phase == "opt":
                raise GraphError(f"parameter {p.name!r} has an update already: {now!r}")
            fitting = [F.cast(v, p.dtype) if v.dtype is float64 and p.dtype is not float64 else v for v in shared]
            new = graph.advance(p, optimizer._update(graph, p.name, now, g, rate, fitting))
            if share is not None:
                mean = self._like(graph, p.name, "ema")
                graph.update(mean, mean + (new - mean) * F.cast(share, p.dtype))

    def _ema_share(self, graph: Graph, of: str) -> Value | None:
        """How far the running means move to what they are means of: all the way at first."""
        if self.ema_decay is None:
            return None
        step, _ = self._counter(graph, of, "ema_step", lambda v: v + 1, "int64")
        return F.where(F.eq(step, 0), 1.0, 1.0 - self.ema_decay)

    def mean_of(self, name: str) -> str:
        """The state that has the running mean of the parameter ``name``, if ``ema_decay`` is given."""
        return self._name(name, "ema")

    # --- what subclasses use --------------------------------------------------------------------------------------

    def _own(self, graph: Graph, of: str, what: str, value: Any = None, **kind: Any) -> Value:
        """State of this optimizer that is named after the parameter ``of``."""
        return graph.parameter(self._name(of, what), value, trainable=False, **kind)

    def _like(self, graph: Graph, of: str, what: str, start: float = 0.0) -> Value:
        """State of this optimizer like the parameter ``of``, sharded as that is, ``start`` everywhere at first."""
        return graph.parameter_like(self._name(of, what), graph.sources[of].outputs[0], start=start)

    def _name(self, of: str, what: str) -> str:
        return f"{of}.{self.name}.{what}" if self.name else f"{of}.{what}"

    def _moment(self, graph: Graph, of: str, what: str, p: Value, advance: Callable[[Value], Value]) -> Value:
        """State like ``p`` that starts at 0, after ``advance``."""
        before = self._like(graph, of, what)
        graph.update(before, advance(before))
        return graph.updates[before.name]

    def _counter(
        self, graph: Graph, of: str, what: str, advance: Callable[[Value], Value], dtype: str | None = None
    ) -> tuple[Value, Value]:
        """A scalar that starts at 0, as precise as ``_scalar`` says: its value before and after ``advance``, once a run."""
        name = self._name(of, what)
        if name in graph.updates:  # applied before, to others of its parameters
            return graph.sources[name].outputs[0], graph.updates[name]
        self._counters.add(what)
        before = self._own(graph, of, what, dtype=dtype or self._scalar(graph, of))
        graph.update(before, advance(before))
        return before, graph.updates[name]

    def _scalar(self, graph: Graph, of: str) -> str:
        """The dtype of what the parameters of a group share, the first of which is ``of``."""
        return "float64" if graph.sources[of].types[0].dtype is float64 else "float32"

    def _count(self, graph: Graph, of: str) -> Value:
        """The number of this step, from 1."""
        return self._counter(graph, of, "step", lambda v: v + 1, "int64")[1]

    def _correction(self, graph: Graph, of: str, number: int, beta: float) -> Value:
        """``1 - beta**t`` by recurrence: in float32 the subtraction would lose most digits while t is small."""
        return self._counter(graph, of, f"correction{number}", lambda v: v * beta + (1.0 - beta))[1]

    def _decay(self, p: Value, weight_decay: float) -> float:
        """``weight_decay``, or 0 for a parameter that has none."""
        return weight_decay if self.decay_1d or p.ndim > 1 else 0.0

    def _penalized(self, p: Value, g: Value, weight_decay: float) -> Value:
        """The gradient with that of the penalty ``weight_decay / 2 * sum(p**2)``."""
        decay = self._decay(p, weight_decay)
        return g + p * decay if decay else g

    def _shrunk(self, p: Value, lr: Value, weight_decay: float) -> Value:
        """``p`` after decoupled decay."""
        decay = self._decay(p, weight_decay)
        return p * (1.0 - lr * decay) if decay else p

    def _shared(self, graph: Graph, of: str) -> list[Value]:
        """The values that all parameters of a group share, as bias corrections; state is named after the first, ``of``."""
        return []

    @abstractmethod
    def _update(self, graph: Graph, name: str, p: Value, g: Value, lr: Value, shared: list[Value]) -> Value:
        """The next value of the parameter ``name``, which is ``p``; updates of the optimizer's own state go into ``graph``."""

    def __repr__(self) -> str:
        defaults = {f.name: f.default for f in fields(self)}
        always = [key for key in defaults if key not in _OF_ALL and key not in ("maximize", "decay_1d")]
        shown = {k: v for k, v in self._arguments().items() if k in always or v != defaults[k]}
        return f"{type(self).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"


def keep_unless(graph: Graph, before: Mapping[str, Value], condition: Value) -> None:
    """Keeps state as the updates ``before`` left it where ``condition`` is False."""
    for name, new in list(graph.updates.items()):
        old = before.get(name, graph.sources[name].outputs[0])
        if new is not old:
            graph.put(graph.updates, name, F.where(condition, new, old))


def check_betas(betas: tuple[float, float]) -> None:
    """Raises ArgumentError for anything but two numbers in [0, 1)."""
    if len(betas) != 2 or not all(0.0 <= b < 1.0 for b in betas):
        raise ArgumentError(f"betas must be two numbers in [0, 1), got {betas}")


def _fits(which: Any, p: Value) -> bool:
    """Whether parameter ``p`` is in the group of ``which``."""
    if callable(which):
        return bool(which(p))
    return any(fnmatchcase(p.name, pattern) for pattern in ([which] if isinstance(which, str) else which))
