"""``torch.compile(model, backend="graphrt")``: forward and backward graphs from AOTAutograd, each a graphrt program.

Parameters are inputs of these graphs, so they stay where they are and any optimizer of torch updates them. A graph that cannot
be compiled runs in eager mode, with one warning that says why. A program is compiled for each set of sizes, and orders in
memory, that is met, up to torch._dynamo.config.recompile_limit; then eager mode takes over as well. So what the forward pass
keeps for the backward pass stays as it lies, channels-last where graphrt likes it so.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from functorch.compile import make_boxed_func, min_cut_rematerialization_partition
from torch import fx
from torch._decomp import core_aten_decompositions
from torch._dynamo.backends.common import aot_autograd

from graphrt.compiler import compile
from graphrt.errors import ArgumentError, GraphrtError, TargetError
from graphrt.frontends.torch.build import check, decompositions, output, tracing, translate
from graphrt.frontends.torch.views import Cut, Layouts, Strides, Views, cut, laid
from graphrt.ir import Graph, Value
from graphrt.runtime.arrays import from_numpy
from graphrt.types import as_dtype, dense_order

Runner = Callable[[list[Any]], Sequence[Any]]
_warned: set[str] = set()


def backend(module: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None) -> Any:
    """The function that ``torch.compile(model, backend="graphrt")`` calls with the ``module`` it traced and ``example_inputs``.

    ``options`` may name the ``target``; else it follows the tensors' device. Raises ArgumentError for other options.
    """
    unknown = set(options or {}) - {"target"}
    if unknown:
        raise ArgumentError(f"the options of backend graphrt are target, got {', '.join(sorted(unknown))}")
    target = (options or {}).get("target", "")

    def compiler(kind: str) -> Callable[[fx.GraphModule, Sequence[Any]], Runner]:
        return lambda module, inputs: _compile(module, kind, target)

    with tracing(example_inputs):
        return aot_autograd(
            fw_compiler=compiler("forward"),
            bw_compiler=compiler("backward"),
            inference_compiler=compiler("inference"),
            decompositions=decompositions(core_aten_decompositions()),
            partition_fn=min_cut_rematerialization_partition,
        )(module, example_inputs)


def _compile(module: fx.GraphModule, kind: str, target: str) -> Runner:
    """A function of a list of tensors and numbers that does what ``module`` does, and empties the list as torch wants."""
    eager = _eager(module, kind)
    try:
        check(module)
    except GraphrtError as error:
        return _fall_back(eager, error)
    return _boxed(_Compiled(cut(module, _visible(kind)), "bwd" if kind == "backward" else "fwd", target, eager))


def _visible(kind: str) -> int | None:
    """The number of results of a graph that the user sees; the forward pass keeps those behind them. None: all."""
    context = torch._guards.TracingContext.try_get()
    if kind != "forward" or context is None or context.fw_metadata is None:
        return None
    return context.fw_metadata.num_forward_returns


def _eager(module: fx.GraphModule, kind: str) -> Runner:
    """``module`` as it is. What a forward program kept for it may lie otherwise than torch planned."""
    if kind != "backward":
        return make_boxed_func(module.forward)
    nodes = module.graph.find_nodes(op="placeholder")

    def run(*args: Any) -> Any:
        layouts = Layouts(nodes, args)
        return module.forward(
            *(laid(v, layouts.strides(n)) if isinstance(v, torch.Tensor) else v for n, v in zip(nodes, args, strict=True))
        )

    return make_boxed_func(run)


def _boxed(call: Runner) -> Runner:
    """``call`` as a function with torch's mark of those that take one list and empty it."""

    def run(args: list[Any]) -> Sequence[Any]:
        return call(args)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def _fall_back(eager: Runner, error: object) -> Runner:
    message = f"graphrt leaves this part of the model to eager mode: {error}"
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=2)
    return eager


def _described(v: Any) -> Any:
    """The kind of argument that a program is made for: a tensor's dtype, sizes and order in memory, or a number."""
    return (v.dtype, tuple(v.shape), dense_order(v.shape, v.stride()), v.device.type) if isinstance(v, torch.Tensor) else v


class _Compiled:
    """A graph as programs, one for each set of sizes and memory orders, made when it is met."""

    def __init__(self, graph: Cut, phase: str, target: str, eager: Runner) -> None:
        self._graph, self._phase, self._target, self._eager = graph, phase, target, eager
        self._made: dict[tuple[Any, ...], Runner] = {}
        self._met: dict[tuple[Any, ...], Runner] = {}  # by what can be read off the arguments in no time

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        key = tuple((v.dtype, v.shape, v.stride(), v.device) if isinstance(v, torch.Tensor) else v for v in args)
        if key not in self._met:
            described = tuple(map(_described, args))
            if described not in self._made:
                self._made[described] = self._make(args)
            self._met[key] = self._made[described]
        return self._met[key](args)

    def _make(self, args: Sequence[Any]) -> Runner:
        limit = torch._dynamo.config.recompile_limit
        if len(self._made) >= limit:
            return _fall_back(self._eager, f"it has met {limit} sets of sizes (torch._dynamo.config.recompile_limit)")
        try:
            return _Static(self._graph, args, self._phase, self._target)
        except TargetError:
            raise
        except GraphrtError as error:
            return _fall_back(self._eager, error)


class _Static:
    """A graph of known sizes as a program, and the views that torch takes of its results.

    Arguments among the results are handed through, as are numbers and None.
    """

    def __init__(self, graph: Cut, inputs: Sequence[Any], phase: str, target: str) -> None:
        built = Graph()
        values = [self._source(built, i, v) for i, v in enumerate(inputs)]
        found = translate(graph.module, built, values, phase)
        numbers = dict(zip(graph.numbers, found[len(graph.bases) :], strict=True))
        self._views, self._results = Views(graph.views, numbers), graph.results
        place = {n: i for i, n in enumerate(graph.arguments)}
        layouts = Layouts(graph.arguments, inputs)
        self._arguments = [(n, place[n]) for n in graph.bases if n in place]
        self._constants: dict[Any, Any] = {}
        self._outputs: list[tuple[fx.Node, str, Strides | None]] = []
        for node, v in zip(graph.bases, found[: len(graph.bases)], strict=True):
            if node in place:
                continue
            if not isinstance(v, Value):
                self._constants[node] = v
                continue
            strides = layouts.strides(node) if node in graph.visible else None
            # a name for each node: a clone is another tensor, although its value is the same
            output(built, node.name, v, None if strides is None else dense_order(v.shape, strides) or tuple(range(v.ndim)))
            self._outputs.append((node, node.name, strides))
        read = {v for n in built.nodes for v in n.inputs} | set(built.outputs.values())
        self._inputs = [(i, v.node.name) for i, v in enumerate(values) if isinstance(v, Value) and v in read]
        devices = {v.device for v in inputs if isinstance(v, torch.Tensor)} or {torch.device("cpu")}
        self._device = max(devices, key=lambda d: d.type != "cpu")
        kind = "hip" if self._device.type == "cuda" and torch.version.hip else self._device.type
        self._program = compile(built, target=target or kind) if built.outputs else None

    @staticmethod
    def _source(graph: Graph, i: int, v: Any) -> Any:
        if not isinstance(v, torch.Tensor):
            return v
        return graph.input(f"arg{i}", tuple(v.shape), as_dtype(str(v.dtype)), dense_order(v.shape, v.stride()))

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        tensors: dict[Any, Any] = dict(self._constants)
        if self._program is not None:
            if "rng.seed" in self._program.state:  # torch.manual_seed decides what graphrt draws
                self._program.state.set("rng.seed", torch.randint(2**62, ()).item())
                self._program.state.set("rng.counter", 0)
            found = self._program({name: args[i] for i, name in self._inputs})
            for node, name, strides in self._outputs:
                tensors[node] = self._tensor(found[name], strides)
        for node, i in self._arguments:
            tensors[node] = args[i]
        args.clear()
        self._views.take(tensors)
        return [tensors[r] if isinstance(r, fx.Node) else r for r in self._results]

    def _tensor(self, value: Any, strides: Strides | None) -> torch.Tensor:
        tensor = from_numpy(value) if isinstance(value, np.ndarray) else value
        tensor = tensor if self._device.type == "cpu" else tensor.to(self._device)
        return tensor if strides is None else laid(tensor, strides)
