"""compile: from a graph to a Program, one stage after the other.

target = parse(name): passes -> fuse -> arrange -> lower -> plan memory -> target.build
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from graphrt.config import Flags
from graphrt.errors import ArgumentError, GraphError
from graphrt.ir import Graph, Node, Value
from graphrt.op import Kind, Order
from graphrt.ops.body import Loop
from graphrt.passes.bucket import narrow_sums
from graphrt.passes.decision import Decision
from graphrt.passes.open_batch import UpTo, open_batch
from graphrt.passes.patterns.shard import shard_updates
from graphrt.passes.pipeline import run_passes
from graphrt.passes.quantize import check_apart
from graphrt.passes.rewrite import rewrite
from graphrt.passes.stages import Fusion
from graphrt.runtime.dump import dump
from graphrt.runtime.explanation import meant
from graphrt.runtime.fitting import fitting
from graphrt.runtime.lowering import Lowering, uncollected
from graphrt.runtime.processes import processes
from graphrt.runtime.program import Program, Recipe
from graphrt.runtime.runnable import Calling
from graphrt.runtime.state import State
from graphrt.schedule.concat_buffers import NO_BUFFERS, find_buffers
from graphrt.schedule.fusion import fuse
from graphrt.schedule.kernel_ir import Scheduled
from graphrt.schedule.lower import lower
from graphrt.schedule.memory import plan_memory
from graphrt.schedule.order import arrange
from graphrt.sharding import shardings
from graphrt.targets.limits import number_of_bytes
from graphrt.targets.target import Settings, Target, parse

Outputs = Graph | Value | Sequence[Value] | Mapping[str, Value]
TRACERS: dict[type, Callable[[Any, Any], Graph]] = {}  # how a Graph is made of a model of a class and example inputs


def compile(  # noqa: A001 - the name every framework has for it
    outputs: Outputs | Callable[..., Any],
    example_inputs: Any = None,
    *,
    target: str = "auto",
    state: State | None = None,
    precision: str = "float32",
    float32_matmul_precision: str = "highest",
    freeze: bool = False,
    tune: int | None = None,
    library: str | None = None,
    fusion: str | None = None,
    forbid: Sequence[Collection[str]] = (),
    policy: str = "all_reduce",
    bucket_bytes: int | None = None,
    reduce_dtype: str | None = None,
    batch: UpTo | None = None,
    batch_invariant: bool = False,
    memory_limit: str | int | None = None,
) -> Program:
    """Compiles a graph, or the part of one that some values need, for ``target``.

    ``outputs`` is a Graph with its own outputs and updates, one Value, a list or a dict of them (then no parameter is updated);
    the program returns a dict, one array, a list or a dict. With ``example_inputs`` it is a module of ``graphrt.nn``, or a
    torch module or function, taken in eval mode (``nn.trace``, ``from_torch``), and the program is called as it is.

    - ``target`` is auto (GRAPHRT_TARGET, else the GPU that is here, else the cpu), cuda, hip, cpu, interpret or reference
      (reference:float64 computes in double); or an absent GPU's name such as cuda:sm_90, for which it is compiled and saved,
      but cannot run. On null all of a program for cuda:sm_90 runs but its kernels: results are whatever a buffer held. On
      debug, a slow cpu, each op is a kernel, every access to memory is checked, and a warning names the op of the first NaN.
    - ``state`` shares parameters with other programs; without it those of a graph of ``from_torch`` are the model's own.
    - ``precision`` float64 beside the target reference is an older way to say reference:float64.
    - ``float32_matmul_precision``, as torch names it, is what tensor cores may do to float32 products: nothing (highest),
      three products of split tf32 (high), or one (medium). The other targets compute the highest.
    - ``freeze`` lets the program keep what it makes of parameters that it does not update (packed weights): it sees what
      ``State.set``, ``State.load`` and other programs write later, not what is written into the state's arrays.
    - ``tune`` is how far the configurations of a GPU's kernels are searched (None: GRAPHRT_TUNE): 0 takes those that are known
      for the device, and the heuristic's, 1 also times a dozen candidates of each other kernel, 2 all that fit.
    - ``library`` says when cuBLAS and cuDNN, called through torch, compute a contraction on a GPU (None: GRAPHRT_LIBRARY):
      never (the default); auto, where nothing is fused with it and tuning measured them faster; always. ``explain`` lists them.
    - ``fusion`` says which stages of fusion are used (None: GRAPHRT_FUSE, else all): all, none, some as "chain,rowops", or all
      but some as "-epilogue,-pairs"; ``graphrt.STAGES`` has them. ``forbid`` parts pairs of nodes: [("conv_0", "relu_0")].
    - ``policy``, for a graph on a mesh of processes, says what each keeps: all of everything (all_reduce), a part of the
      optimizer's state (zero1), of gradients too (zero2), or of parameters too (fsdp); ``bucket_bytes`` is how much is sent in
      one piece (None: 8 MB); ``reduce_dtype`` "bfloat16" sums gradients, rounded to 8 bits, in half as many bytes.
    - ``batch``, ``grt.up_to(256)``, makes a program for any batch up to the 256 of its graph or inputs, or GraphError at a node
      for which that is not right; with ``batch_invariant`` an example's results are the same bits whatever its batch, on
      the target cpu (``docs/use/batches.md``).
    - ``memory_limit``, bytes or a text like "2GB", is what a run may hold of state, inputs, outputs and what lies between:
      to fit, the forward pass is computed again in parts (``docs/use/memory.md``); ArgumentError says the least that was found.

    Raises TargetError when the target cannot run here, GraphError, ArgumentError, ConversionError.
    """
    if example_inputs is not None:
        outputs = trace(outputs, example_inputs)
    target = target if precision == "float32" else f"{target}:{precision}"
    rest = policy, bucket_bytes, reduce_dtype, batch_invariant, number_of_bytes(memory_limit)
    settings = Settings(float32_matmul_precision, freeze, tune, library, fusion, forbid, *rest)
    with uncollected():
        return _compile(outputs, target, state, settings, batch)


@contextmanager
def _together(graph: Graph, target: Target, orders: Mapping[str, Order]) -> Iterator[None]:
    """The block is run by the processes of the graph's mesh, each in its turn. Raises TargetError unless they compile alike."""
    if graph.mesh is None or graph.mesh.size == 1:
        yield
        return
    joined = processes(graph.mesh)
    same = [f"{name} = {_digest(a)}" for name, a in graph.initial.items() if not graph.sources[name].types[0].varying]
    captured = f"GRAPHRT_NO_GRAPH={Flags.read().no_graph:d}"  # collectives are, in all processes or in none
    about = [f"graphrt {target.name} {target.settings}", captured, f"{orders}", graph.text(lines=False), *same]
    joined.agree("\n".join(about))
    with joined.in_turn():
        yield


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def trace(model: Any, example_inputs: Any) -> Graph:
    """The graph of a model of a class in ``TRACERS``, called with ``example_inputs``."""
    return next(TRACERS[kind] for kind in type(model).__mro__ if kind in TRACERS)(model, example_inputs)


def _compile(
    outputs: Outputs | Callable[..., Any], name: str, state: State | None, settings: Settings, batch: UpTo | None = None
) -> Program:
    start = time.perf_counter()
    graph, unpack = graph_of(outputs)
    opened, chosen = None, list[Decision]()
    if batch is not None and not isinstance(batch, UpTo):
        raise ArgumentError(f"batch is the largest that the program shall take, as in batch=grt.up_to(256), got {batch!r}")
    if batch is not None and graph.mesh is not None and graph.mesh.size > 1:
        raise ArgumentError("batch= is for a program of one process; on a mesh each batch has a program of its own")
    if batch is not None:
        graph, opened, chosen = open_batch(graph, batch)
    target = parse(name, settings)
    target.require()
    if settings.reduce_dtype is not None and graph.mesh is None:
        raise ArgumentError(f"reduce_dtype={settings.reduce_dtype!r} is for several processes: build on Graph(mesh=Mesh(dp=2))")
    if settings.policy != "all_reduce" and graph.mesh is None:
        raise ArgumentError(f"policy={settings.policy!r} is for several processes: build on Graph(mesh=Mesh(dp=2))")
    if state is None:
        state = graph.state if isinstance(graph.state, State) else State()
    check_apart(graph, state.types)
    wrong = {n for n, node in graph.sources.items() if n in state.types and not state.types[n].same(node.types[0])}
    orders = {n: t.order for n, t in state.types.items() if n not in wrong}  # ``add`` complains of those, if they are read
    held = {name: name in state.sharding for name in state.types}
    graph = narrow_sums(shard_updates(graph, settings.policy, held, chosen), settings.reduce_dtype, chosen)
    built = cache(lambda: rewrite(graph, lambda node: None))  # made when it is asked for: passes build on a graph of their own
    lowered = cache(
        lambda: _with(chosen, fitting(partial(lower_graph, built(), target, orders, False), settings.memory_limit, target.name))
    )
    with _together(graph, target, orders):
        executable, interface = target.find(graph, orders) or (target.build(lowered()), lowered().interface)
    cut = shardings(graph.mesh, list(graph.sources.values()))
    initial = {**graph.initial, **{name: s.part(graph.initial[name], processes(s.mesh).coordinates) for name, s in cut.items()}}
    state.extend(interface.state, initial, interface.copies)
    state.require_apart(interface.updates)
    state.sharding.update(cut)

    def again(graph: Graph, fusion: Fusion, state: State) -> Program:
        return _compile(graph, target.name, state, replace(settings, fusion=fusion.named, forbid=[*map(tuple, fusion.apart)]))

    arguments = {
        "fusion": target.fusion.named,
        "forbid": sorted(map(sorted, target.fusion.apart)),
        "float32_matmul_precision": settings.float32_matmul_precision,
        "library": settings.library,
        "batch_invariant": settings.batch_invariant,
        "memory_limit": settings.memory_limit,
    }
    recipe = Recipe(target.fusion, arguments, again)
    calling = Calling(interface.needed, unpack, interface.updates, opened, graph.signature)
    program = Program(built, target.name, executable, state, interface, lowered, calling, recipe)
    program.compile_seconds = time.perf_counter() - start
    _debug(program, Flags.read())
    return program


def _with(decisions: Sequence[Decision], lowering: Lowering) -> Lowering:
    return replace(lowering, decisions=[*decisions, *lowering.decisions]) if decisions else lowering


def graph_of(outputs: Outputs | Callable[..., Any]) -> tuple[Graph, str]:
    """A snapshot of ``outputs`` as a graph, and how the program gives its results back. Raises ArgumentError, GraphError."""
    if isinstance(outputs, Graph):
        if not outputs.results():
            raise GraphError("the graph has no outputs and no updates; name some with graph.output(name, value)")
        return outputs.snapshot(), "dict"  # what the user adds later is another program
    if callable(outputs):
        raise ArgumentError(
            f"compile needs example_inputs, a tuple of arrays or tensors, to make a graph of this {type(outputs).__name__}: "
            "compile(model, (x,))"
        )
    if isinstance(outputs, Value):
        named, unpack = {"out": outputs}, "single"
    elif isinstance(outputs, Mapping):
        named, unpack = dict(outputs), "dict"
    else:
        named, unpack = {f"out{i}": v for i, v in enumerate(outputs if isinstance(outputs, Iterable) else ())}, "list"
    if not named or not all(isinstance(v, Value) for v in named.values()):
        raise ArgumentError(f"compile needs a Graph, a Value, or a list or dict of Values, got {outputs!r:.80}")
    graph = next(iter(named.values())).graph
    if any(v.graph is not graph for v in named.values()):
        raise GraphError("the outputs belong to different Graphs; build everything of one program on one Graph")
    found = graph.snapshot()
    found.updates, found.outputs, found.orders = {}, named, {}
    return found, unpack


def lower_graph(graph: Graph, target: Target, orders: Mapping[str, Order], body: bool = False, stretches: int = 1) -> Lowering:
    """Everything before the target's own part; ``orders`` are those of state that exists already. Raises TargetError.

    ``graph`` is a program's, or the ``body`` of one of its loops; ``stretches`` are those of the forward pass
    (``passes.checkpoints``).
    """
    flags, clock = Flags.read(), _Clock()
    passing = replace(target.passes(), stretches=stretches, bucket_bytes=target.settings.bucket_bytes)
    steps, decisions = run_passes(graph, passing, orders, target.fusion, flags.check)
    clock.note("passes")
    policy = target.schedule()
    if policy is None:
        return Lowering(steps, decisions, orders, passing)
    policy = replace(policy, fusion=policy.fusion & target.fusion)
    final = steps[-1][1]
    if not body:
        _check_names(target.fusion, final)
    buffers = find_buffers(final) if "concat" in policy.fusion else NO_BUFFERS
    groups, fused = fuse(final, policy, buffers)
    clock.note("fusion")
    schedule, arranged = arrange(final, groups, buffers, policy)
    clock.note("order")

    inside: list[Decision] = []

    def scheduled(inner: Graph) -> Scheduled:
        """A loop's body, lowered as a program of its own whose results are row-major."""
        copy = rewrite(inner, lambda node: None)
        copy.orders = {name: tuple(range(v.ndim)) for name, v in copy.outputs.items()}
        lowered = lower_graph(copy, target, {}, body=True)
        assert lowered.schedule is not None and lowered.plan is not None
        inside.extend(replace(d, saved=0) for d in lowered.decisions)  # which changes nothing that launches move
        return Scheduled(lowered.schedule, lowered.kernels, lowered.plan)

    kernels = [[lower(schedule, group, policy, scheduled) for group in launch.groups] for launch in schedule.launches]
    for launch in kernels:
        for kernel in launch:
            target.check(kernel)
    clock.note("lowering")
    memory = plan_memory(schedule, kernels, policy)
    decisions += [*inside, *fused, *arranged, *memory.decisions]
    clock.note("memory")
    return Lowering(steps, decisions, orders, passing, policy, buffers, schedule, kernels, memory, clock.seconds)


class _Clock:
    """The ``seconds`` that each stage took, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def note(self, stage: str) -> None:
        """Says that ``stage`` is over."""
        self._last, before = time.perf_counter(), self._last
        self.seconds[stage] = self._last - before


def _check_names(fusion: Fusion, graph: Graph) -> None:
    """Raises ArgumentError for a node to be kept apart that ``graph``, what is scheduled, has not, nor a loop's body."""
    nodes, pending = list[Node](), [graph]
    while pending:
        some = pending.pop().nodes
        nodes += some
        pending += [Loop.of(node).body for node in some if node.op.kind is Kind.LOOP]
    for name in sorted(set().union(*fusion.apart) - {node.name for node in nodes}):
        raise ArgumentError(f"forbid names {name!r}, which is no node of program.graph; {meant(name, nodes)}")


def _debug(program: Program, flags: Flags) -> None:
    """Prints what GRAPHRT_DEBUG asks for, on standard error; writes what GRAPHRT_DUMP does, in its folder."""
    if flags.dump:
        dump(program, Path(flags.dump))
    if flags.debug >= 5:
        for name, graph in program.passes:
            print(f"--- {name} ---\n{graph}", file=sys.stderr)
    if flags.debug >= 3:
        print(program.explain().full(), file=sys.stderr)
    if flags.debug >= 4:
        print(program.source(), file=sys.stderr)
    if flags.debug >= 1 and (plan := program.plan) is not None:
        nodes = len(program.graph.nodes)
        print(
            f"graphrt: {program.target}: {nodes} nodes, {program.launches} launches, arena {plan.size} of "
            f"{plan.unplanned} bytes, compiled in {program.compile_seconds:.2f} s",
            file=sys.stderr,
        )
