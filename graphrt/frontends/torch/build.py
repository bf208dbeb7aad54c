"""From torch's FX graph of ATen operators to graphrt nodes.

One walk in order; each operator's entry in the ATen table builds nodes on the values of its arguments. Sizes that torch left
symbolic are plain numbers here, since every Value has a shape. Nodes carry the user's line and the path of the module that
was called as their origin.
"""

from __future__ import annotations

import functools
import operator
import os
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx
from torch.nn.attention import SDPBackend, sdpa_kernel

import graphrt.frontends.torch.aten  # noqa: F401 - fills the table
import graphrt.ops as F
from graphrt.errors import ConversionError, GraphrtError
from graphrt.frontends.torch.rewrite import Rewritten, states_of_lstm
from graphrt.frontends.torch.table import ATEN, REFUSED, Entry, Storage
from graphrt.frontends.torch.views import Layouts, chain
from graphrt.ir import Graph, Origin, Value
from graphrt.op import Kind
from graphrt.runtime.arrays import to_numpy
from graphrt.types import as_dtype, by_stride, is_dense

_OURS = tuple(os.path.dirname(os.path.abspath(f)) + os.sep for f in (torch.__file__, F.__file__, __file__))
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
# Of what is known here, or of what no graph stops for.
_CHECKS = ("_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_constrain_range", "_linalg_check_errors")
_EFFECT = "with_effects"


def translate(
    module: fx.GraphModule,
    graph: Graph,
    inputs: Sequence[Any],
    phase: str = "fwd",
    written: Mapping[fx.Node, fx.Node] = types.MappingProxyType({}),
) -> list[Any]:
    """Appends what ``module`` computes of ``inputs`` (Values, numbers, None) to ``graph``; returns its flat outputs.

    ``written`` has the parameter that a node's result was written into, whose gradient that of the result is. Raises
    ConversionError naming the operator and the user's line.
    """
    check(module)
    return _walk(module, graph, inputs, phase, written)


def output(graph: Graph, name: str, value: Value, order: Sequence[int] | None) -> None:
    """Makes ``value`` an output that lies in ``order``: a copy where it is a source, or an output already."""
    shared = value.node.op.kind is Kind.SOURCE or value in graph.outputs.values()
    graph.output(name, F.clone(value) if shared else value, order)


def check(module: fx.GraphModule) -> None:
    """Raises ConversionError listing every operator of ``module`` that the table lacks, with the lines that use it."""
    lacking: dict[str, list[str]] = {}
    for node in _calls(module):
        if _entry(node) is None and not callable_on_numbers(node):
            lacking.setdefault(_spelled(node), []).append(where(node))
    if lacking:
        lines = [_lacking(name, places) for name, places in lacking.items()]
        remedy = (
            "\nTo add one, write a function of graphrt.ops for it in graphrt/frontends/torch/aten (docs/torch_coverage.md "
            "lists what is there), or register a decomposition."
        )
        known = all(name.removeprefix("aten.") in REFUSED for name in lacking)
        raise ConversionError("graphrt has no entry for\n" + "\n".join(lines) + ("" if known else remedy))


def _lacking(name: str, places: Sequence[str]) -> str:
    """A line of a message: an operator, where it is used, and what to write instead where that is known."""
    advice = REFUSED.get(name.removeprefix("aten."))
    return f"  {name} at {', '.join(dict.fromkeys(places))}" + (f": {advice}" if advice else "")


def _calls(module: fx.GraphModule) -> Iterable[fx.Node]:
    """The calls in ``module`` that mean something, those in modules it wraps among them."""
    for node in module.graph.nodes:
        if node.op != "call_function" or _is_check(node):
            continue
        inner = _wrapped(module, node)
        if inner is None:
            yield node
        else:
            yield from _calls(inner)


def _is_check(node: fx.Node) -> bool:
    """Whether ``node`` is a check, by itself or as an effect, which takes a token and returns it."""
    called = node.args[1] if str(node.target) == _EFFECT else node.target
    return any(c in str(called) for c in _CHECKS)


def _wrapped(module: fx.GraphModule, node: fx.Node) -> fx.GraphModule | None:
    """The graph that ``with torch.no_grad()`` and the like put around a part of the model."""
    if str(node.target) not in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
        return None
    (inner,) = [a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"]
    return getattr(module, str(inner.target))


def _entry(node: fx.Node) -> Entry | None:
    return ATEN.get(str(node.target).removeprefix("aten.")) if isinstance(node.target, torch._ops.OpOverload) else None


def callable_on_numbers(node: fx.Node) -> bool:
    """Whether ``node`` calculates with sizes, or takes one of several results: Python's own functions do that."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target).startswith("aten.sym_")
    return not isinstance(node.target, torch._ops.OperatorBase)


def _spelled(node: fx.Node) -> str:
    name = str(node.target)
    return name if "." in name else f"torch.ops.higher_order.{name}"


def is_users(file: str) -> bool:
    """Whether ``file`` is neither torch's nor graphrt's, nor of Python's own library."""
    return not file.startswith((*_OURS, "<")) and os.path.dirname(file) != os.path.dirname(os.__file__)


def origin(node: fx.Node, phase: str = "fwd") -> Origin:
    """The user's line that ``node`` comes from, which is the innermost one outside torch, and the path of its module."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    own = [f for f in frames if is_users(f[0])] or frames or [("?", "0")]
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = re.sub(r"L\['(\w+)'\]\.?|_modules\['(\w+)'\]", r"\2", str(stack[-1][0])) if stack else ""
    return Origin(own[-1][0], int(own[-1][1]), phase, path)


def where(node: fx.Node) -> str:
    """``file:line`` of the user's code for messages."""
    found = origin(node)
    return f"{found.file}:{found.line}" + (f" in {found.source}" if found.source else "")


def _walk(
    module: fx.GraphModule, graph: Graph, inputs: Sequence[Any], phase: str, written: Mapping[fx.Node, fx.Node]
) -> list[Any]:
    env: dict[fx.Node, Any] = {}
    given = iter(inputs)
    storage_of = functools.partial(_storage, env, Layouts(module.graph.find_nodes(op="placeholder"), inputs))
    for node in module.graph.nodes:
        if node.op == "placeholder":
            env[node] = next(given)
        elif node.op == "get_attr":
            found = getattr(module, str(node.target))
            env[node] = graph.constant(to_numpy(found)) if isinstance(found, torch.Tensor) else found
        elif node.op == "output":
            (results,) = fx.map_arg(node.args, lambda n: env[n])
            return list(results) if isinstance(results, list | tuple) else [results]
        elif _is_check(node):
            env[node] = (env[node.args[0]],) if str(node.target) == _EFFECT else None
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: env[n])
            try:
                with graph.at(origin(node, phase)):
                    env[node] = _call(module, graph, node, args, dict(kwargs), phase, storage_of)
                    if node in written:
                        env[node] = F.straight_through(env[node], env[written[node]])
            except GraphrtError as error:
                if isinstance(error, ConversionError) and error.located:
                    raise
                found = ConversionError(f"{_spelled(node)} at {where(node)}: {error}")
                found.located = True
                raise found from error
    raise AssertionError("an FX graph ends in an output")


def _call(
    module: fx.GraphModule,
    graph: Graph,
    node: fx.Node,
    args: Any,
    kwargs: Any,
    phase: str,
    storage_of: Callable[[fx.Node, fx.Node], Storage],
) -> Any:
    inner = _wrapped(module, node)
    if inner is not None:
        first = args.index(inner)
        results = _walk(inner, graph, args[first + 1 :], phase, {})
        no_grad = str(node.target) == "wrap_with_set_grad_enabled" and not args[0]
        return [F.stop_gradient(v) if no_grad and isinstance(v, Value) and v.dtype.is_float else v for v in results]
    entry = _entry(node)
    if entry is None:
        if str(node.target).startswith("aten.sym_"):
            return _size(node, *args)
        assert callable(node.target)
        return node.target(*args, **kwargs)
    before: list[Any] = [graph] if entry.creates else []
    if entry.reads_memory or entry.writes_memory:
        tensor = node.all_input_nodes[0]
        before = [storage_of(tensor, chain(tensor)[0] if entry.reads_memory else tensor)]
    result = entry.function(*before, *args, **kwargs)
    return _fitted(result, node.meta.get("val"), node)


def _storage(env: Mapping[fx.Node, Any], layouts: Layouts, tensor: fx.Node, base: fx.Node) -> Storage:
    """The place of ``tensor`` in the storage of ``base`` in torch. Raises ConversionError where there are gaps."""
    order = by_stride(layouts.strides(base))
    if not is_dense(env[base].shape, layouts.strides(base), order):
        raise ConversionError("it reads what lies beside its tensor in memory, which a graph does not know")
    return Storage(env[base], order, layouts.start(base), layouts.start(tensor))


def _size(node: fx.Node, value: Value, dim: int | None = None) -> int:
    name = str(node.target).removeprefix("aten.sym_").split(".")[0]
    if name == "size" and dim is not None:
        return value.shape[dim]
    if name == "numel":
        return value.type.size
    raise ConversionError(f"{_spelled(node)} asks how a tensor lies in memory, which a graph does not say")


def _fitted(result: Any, expected: Any, node: fx.Node) -> Any:
    """``result`` with the dtypes that torch says it has. Raises ConversionError where its shape is another one.

    Of several results those that nobody reads are left alone: what torch notes there for a gradient depends on the device.
    """
    if isinstance(result, list | tuple):
        pairs = enumerate(zip(result, expected, strict=True))
        return [_fitted(r, e, node) if _reads(node, i) else r for i, (r, e) in pairs]
    if result is None and isinstance(expected, torch.Tensor):
        raise ConversionError("one of its results that are used is kept by torch for a gradient of its own, and not given here")
    if not isinstance(result, Value) or not isinstance(expected, torch.Tensor):
        return result
    shape = tuple(expected.shape)
    if 0 in shape and shape != result.shape:  # nothing in it that could be wrong
        result = F.zeros(result.graph, list(shape), result.dtype)
    if all(isinstance(n, int) for n in shape) and shape != result.shape:
        raise ConversionError(f"its entry gives {list(result.shape)} where torch has {list(shape)}; this is a fault of graphrt")
    return F.cast(result, as_dtype(str(expected.dtype)))


def _reads(node: fx.Node, i: int) -> bool:
    """Whether any user of ``node`` takes its result number ``i``, or all of them."""
    return any(user.target is not operator.getitem or (user.args[1] == i and user.users) for user in node.users)


def decompositions(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """``table``, torch's decompositions into core ATen; operators that have an entry stay whole."""
    return {op: f for op, f in table.items() if str(op).removeprefix("aten.") not in ATEN}


@contextmanager
def tracing(inputs: Iterable[Any] = ()) -> Iterator[None]:
    """While a model is traced, attention that is differentiated is the operators of torch's CPU kernel if ``inputs`` lie there,
    else products and a softmax, and never a GPU's kernel; and functions that look at their tensors' numbers do not."""
    there = [x for x in inputs if isinstance(x, torch.Tensor)]
    whole = [SDPBackend.FLASH_ATTENTION] if there and all(x.device.type == "cpu" for x in there) else []
    with sdpa_kernel([*whole, SDPBackend.MATH]), states_of_lstm(), Rewritten():
        yield
