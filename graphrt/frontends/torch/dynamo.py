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
from graphrt.frontends.torch.build import check, decompositions, tracing, translate
from graphrt.ir import Graph, Value
from graphrt.runtime.arrays import from_numpy
from graphrt.types import as_dtype

Runner = Callable[[list[Any]], Sequence[Any]]
_warned: set[str] = set()


def backend(module: fx.GraphModule, example_inputs: Sequence[Any], options: Mapping[str, Any] | None = None) -> Any:
    """The backend that torch.compile calls. ``options`` may name the ``target``; else it follows the tensors' device."""
    unknown = set(options or {}) - {"target"}
    if unknown:
        raise ArgumentError(f"the options of backend graphrt are target, got {', '.join(sorted(unknown))}")
    target = (options or {}).get("target", "")

    def compiler(phase: str) -> Callable[[fx.GraphModule, Sequence[Any]], Runner]:
        return lambda module, inputs: _compile(module, phase, target)

    with tracing():
        return aot_autograd(
            fw_compiler=compiler("fwd"),
            bw_compiler=compiler("bwd"),
            decompositions=decompositions(core_aten_decompositions()),
            partition_fn=min_cut_rematerialization_partition,
        )(module, example_inputs)


def _compile(module: fx.GraphModule, phase: str, target: str) -> Runner:
    """A function of a list of tensors and numbers that does what ``module`` does, and empties the list as torch wants."""
    eager = make_boxed_func(module.forward)
    try:
        check(module)
    except GraphrtError as error:
        return _fall_back(eager, error)
    return _boxed(_Compiled(module, phase, target, eager))


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
    """What a program is made for: a tensor's dtype, sizes and order in memory, or a number."""
    return (v.dtype, tuple(v.shape), dense_order(v), v.device.type) if isinstance(v, torch.Tensor) else v


def dense_order(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """The dimensions of ``tensor`` as they lie in memory, outermost first; None for row-major, and where there are gaps."""
    strides: Sequence[int] = tensor.stride()
    order = tuple(sorted(range(tensor.ndim), key=lambda d: (-strides[d], d)))
    return order if tensor.permute(order).is_contiguous() and not tensor.is_contiguous() else None


class _Compiled:
    """A graph as programs, one for each set of sizes and memory orders, made when it is met."""

    def __init__(self, module: fx.GraphModule, phase: str, target: str, eager: Runner) -> None:
        self._module, self._phase, self._target, self._eager = module, phase, target, eager
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
            return _Static(self._module, args, self._phase, self._target)
        except TargetError:
            raise
        except GraphrtError as error:
            return _fall_back(self._eager, error)


class _Static:
    """A graph of known sizes as a program. Arguments among its results are handed through, as are numbers and None."""

    def __init__(self, module: fx.GraphModule, inputs: Sequence[Any], phase: str, target: str) -> None:
        graph = Graph()
        values = [self._source(graph, i, v) for i, v in enumerate(inputs)]
        self._results: list[tuple[str, Any]] = []  # (argument, its number), (program, the output's name), (constant, it)
        place = {n: i for i, n in enumerate(n for n in module.graph.nodes if n.op == "placeholder")}
        for node, v in zip(_outputs(module), translate(module, graph, values, phase), strict=True):
            if node in place:
                self._results.append(("argument", place[node]))
            elif isinstance(v, Value):  # a name for each node: a clone is another tensor, although its value is the same
                if node.name not in graph.outputs:
                    graph.output(node.name, v)
                self._results.append(("program", node.name))
            else:
                self._results.append(("constant", v))
        read = {v for n in graph.nodes for v in n.inputs} | set(graph.outputs.values())
        self._inputs = [(i, v.node.name) for i, v in enumerate(values) if isinstance(v, Value) and v in read]
        devices = {v.device for v in inputs if isinstance(v, torch.Tensor)} or {torch.device("cpu")}
        self._device = max(devices, key=lambda d: d.type != "cpu")
        kind = "hip" if self._device.type == "cuda" and torch.version.hip else self._device.type
        self._program = compile(graph, target=target or kind) if graph.outputs else None

    @staticmethod
    def _source(graph: Graph, i: int, v: Any) -> Any:
        if not isinstance(v, torch.Tensor):
            return v
        return graph.input(f"arg{i}", tuple(v.shape), as_dtype(str(v.dtype)), dense_order(v))

    def __call__(self, args: list[Any]) -> Sequence[Any]:
        found: Mapping[str, Any] = {}
        if self._program is not None:
            if "rng.seed" in self._program.state:  # torch.manual_seed decides what graphrt draws
                self._program.state.set("rng.seed", torch.randint(2**62, ()).item())
                self._program.state.set("rng.counter", 0)
            found = self._program({name: args[i] for i, name in self._inputs})
        sources = {"argument": args.__getitem__, "program": lambda name: self._tensor(found[name]), "constant": lambda v: v}
        results = [sources[kind](what) for kind, what in self._results]
        args.clear()
        return results

    def _tensor(self, value: Any) -> torch.Tensor:
        tensor = from_numpy(value) if isinstance(value, np.ndarray) else value
        return tensor if self._device.type == "cpu" else tensor.to(self._device)


def _outputs(module: fx.GraphModule) -> Sequence[Any]:
    """The nodes, and constants, that ``module`` returns."""
    (results,) = next(n for n in reversed(module.graph.nodes) if n.op == "output").args
    return results if isinstance(results, list | tuple) else [results]
