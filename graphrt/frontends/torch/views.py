"""The results of torch's graph that share memory, and the order in which the others lie.

Values of graphrt have no memory, and torch's tensors do: ``a, b = y[:2], y[2:]`` gives three tensors over one storage, and who
writes into ``a`` writes into ``y``. So a program returns only what the results are views of, in the order of torch's plan, and
the views themselves are torch's own, taken of it after each run.

    %mul = x * 2                       program
    %slice = mul[0:2]                  after it, by torch
    return (mul, slice)
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from graphrt.types import by_stride, dense_order, is_dense

Strides = tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """A graph without the views at its end: ``module`` returns ``bases``, then the ``numbers`` that the views need.

    ``results`` are what the graph returned, nodes or constants; those that are neither bases nor constants come from ``views``,
    in the order in which they are taken. ``visible`` are the bases that have to lie as torch planned.
    """

    module: fx.GraphModule
    arguments: Sequence[fx.Node]
    results: Sequence[Any]
    bases: Sequence[fx.Node]
    visible: Collection[fx.Node]
    views: Sequence[fx.Node]
    numbers: Sequence[fx.Node]


def cut(module: fx.GraphModule, visible: int | None) -> Cut:
    """``module`` cut where its results become views: its first ``visible`` results (None: all), and any of an argument.

    The others are what a forward pass keeps for the backward pass, which nobody sees.
    """
    (results,) = next(n for n in reversed(module.graph.nodes) if n.op == "output").args
    results = list(results) if isinstance(results, list | tuple) else [results]
    seen: dict[fx.Node, None] = {}
    bases: dict[fx.Node, None] = {}
    shown: set[fx.Node] = set()
    for i, node in enumerate(results):
        if isinstance(node, fx.Node):
            base, views = chain(node)
            if visible is None or i < visible:
                shown.add(base)
            elif base.op != "placeholder":
                base, views = node, []
            bases[base] = None
            seen |= dict.fromkeys(views)
    views = [n for n in module.graph.nodes if n in seen]
    numbers = list(dict.fromkeys(n for v in views for n in v.all_input_nodes[1:]))
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.graph_copy(module.graph, copies)
    graph.output(tuple(copies[n] for n in [*bases, *numbers]))
    graph.eliminate_dead_code()
    arguments = module.graph.find_nodes(op="placeholder")
    return Cut(fx.GraphModule(module, graph), arguments, results, list(bases), shown, views, numbers)


def chain(node: fx.Node) -> tuple[fx.Node, list[fx.Node]]:
    """The tensor that ``node`` is a view of, and the views from there on to it."""
    views: list[fx.Node] = []
    while _is_view(node):
        views.insert(0, node)
        node = node.all_input_nodes[0]
    return node, views


def _is_view(node: fx.Node) -> bool:
    """Whether torch gives the memory of the first operand, or one of several such views."""
    if node.target is operator.getitem:
        return _is_view(node.all_input_nodes[0])
    return isinstance(node.target, torch._ops.OpOverload) and node.target.is_view


class Views:
    """The views of a cut graph, for known sizes: ``numbers`` has those that they depend on."""

    def __init__(self, nodes: Sequence[fx.Node], numbers: Mapping[fx.Node, Any]) -> None:
        self._steps: list[Any] = [(n, n.all_input_nodes[0], n.target, *self._rest(n, numbers)) for n in nodes]

    @staticmethod
    def _rest(node: fx.Node, numbers: Mapping[fx.Node, Any]) -> tuple[Any, Any]:
        args, kwargs = fx.map_arg((node.args[1:], node.kwargs), lambda n: numbers[n])
        return tuple(args), dict(kwargs)

    def take(self, found: dict[Any, Any]) -> None:
        """Adds each view to ``found``, which holds what they are views of."""
        for node, of, call, args, kwargs in self._steps:
            found[node] = call(found[of], *args, **kwargs)


class Layouts:
    """The layouts that torch planned in a graph with these ``arguments``, given ``inputs``, tensors or Values."""

    def __init__(self, arguments: Sequence[fx.Node], inputs: Sequence[Any]) -> None:
        self._known: dict[Any, int] = {}
        for node, given in zip(arguments, inputs, strict=True):
            plan = node.meta.get("val")
            if isinstance(plan, torch.Tensor) and given is not None:  # a token of effects is nothing
                strides = given.stride() if isinstance(given, torch.Tensor) else given.type.strides
                for size, number in zip([*plan.shape, *plan.stride()], [*given.shape, *strides], strict=True):
                    self._bind(size, number)
            elif isinstance(plan, torch.SymInt):
                self._bind(plan, given)

    def _bind(self, size: Any, number: int) -> None:
        if not isinstance(size, int) and size.node.expr.is_Symbol:
            self._known[size.node.expr] = number

    def _number(self, size: Any) -> int:
        return size if isinstance(size, int) else int(size.node.expr.xreplace(self._known))

    def strides(self, node: fx.Node) -> Strides:
        """The strides of the tensor, in elements."""
        return tuple(map(self._number, node.meta["val"].stride()))

    def start(self, node: fx.Node) -> int:
        """The element of its storage with which the tensor begins."""
        return self._number(node.meta["val"].storage_offset())


def order_of(plan: Any) -> tuple[int, ...] | None:
    """How a tensor that is to be made lies in torch's plan of known sizes, row-major where that has gaps."""
    if not all(isinstance(n, int) for n in (*plan.shape, *plan.stride())):
        return None
    return dense_order(plan.shape, plan.stride()) or tuple(range(len(plan.shape)))


def laid(tensor: torch.Tensor, strides: Strides) -> torch.Tensor:
    """``tensor`` with these strides, copied unless it differs in dimensions of one element only; as it is if they have gaps."""
    if tensor.stride() == strides or not is_dense(tensor.shape, strides, by_stride(strides)):
        return tensor
    if all(a == b or n == 1 for n, a, b in zip(tensor.shape, tensor.stride(), strides, strict=True)):
        return tensor.as_strided(tensor.shape, strides)
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
