"""A contraction by the vendor's library instead of a template: cuBLAS and cuDNN (hipBLAS, MIOpen), called through torch.

    operands, strided views of buffers ──▶ torch.matmul, convolution or its backward ──▶ result, a strided view

Only what computes nothing on load and nothing behind can be such a call, and only where somebody asked for it: ``always``
for every contraction, which the scheduler then leaves alone, ``auto`` where tuning measured that it is faster. It is one more
launch in the captured graph, on torch's current stream. In it torch's global settings are the program's: its precision of
float32 products, deterministic algorithms, none that are chosen by timing; afterwards they are as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from graphrt.errors import TargetError
from graphrt.types import Shape

LIBRARY = {"library": 1}  # the configuration of a launch that the library computes, where a template's has its blocks
_REDUCTIONS = ("allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")


@dataclass(frozen=True)
class View:
    """A tensor in buffer number ``buffer`` of a launch: ``strides`` and ``offset`` are in elements."""

    buffer: int
    shape: Shape
    strides: Shape
    offset: int = 0

    @staticmethod
    def parse(entry: Mapping[str, Any]) -> View:
        """The view whose fields are in ``entry``, maybe as JSON."""
        return View(entry["buffer"], tuple(entry["shape"]), tuple(entry["strides"]), entry["offset"])

    def of(self, buffers: Sequence[Any]) -> Any:
        """The tensor; ``buffers`` are torch tensors of one dimension. Raises TargetError where it does not fit."""
        flat = buffers[self.buffer][self.offset :]
        if sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) >= flat.numel():
            raise TargetError(f"a tensor {list(self.shape)} of strides {list(self.strides)} lies outside its buffer")
        return flat.as_strided(self.shape, self.strides)


@dataclass(frozen=True)
class LibraryCall:
    """One contraction: ``op`` is matmul, conv, conv_dgrad or conv_wgrad, ``library`` who computes it.

    ``operands`` are those of the op, in its order; ``results`` are of one shape and all get the result. ``geometry`` has what
    a convolution has besides. ``precision`` is that of float32 products: highest, high or medium.
    """

    op: str
    library: str
    operands: tuple[View, ...]
    results: tuple[View, ...]
    geometry: tuple[tuple[str, Any], ...] = ()
    precision: str = "highest"

    @property
    def name(self) -> str:
        """Its name in reports."""
        return f"library_{self.op}"

    @property
    def buffers(self) -> int:
        """The number of buffers that it takes."""
        return 1 + max(v.buffer for v in (*self.operands, *self.results))

    def __str__(self) -> str:
        more = "".join(f", {n} {v}" for n, v in self.geometry)
        shapes = " and ".join(str(list(v.shape)) for v in self.operands)
        return f"{self.op} of {shapes}{more}, by {self.library} through torch"

    def described(self) -> dict[str, Any]:
        """The fields of it, for a manifest, as ``parse`` reads them."""
        return asdict(self)

    @staticmethod
    def parse(entry: dict[str, Any]) -> LibraryCall:
        """The call that was ``described``, maybe as JSON."""
        geometry = tuple((n, tuple(v) if isinstance(v, list | tuple) else v) for n, v in entry["geometry"])
        operands, results = (tuple(map(View.parse, entry[side])) for side in ("operands", "results"))
        return LibraryCall(entry["op"], entry["library"], operands, results, geometry, entry["precision"])

    def bind(self, buffers: Sequence[Any]) -> Callable[[Any], object]:
        """A launch on ``buffers``, which runs on torch's current stream. Raises TargetError where a tensor does not fit."""
        if len(buffers) != self.buffers:
            raise TargetError(f"{self.name} takes {self.buffers} buffers, got {len(buffers)}")
        a, b = (v.of(buffers) for v in self.operands)
        first, *others = (v.of(buffers) for v in self.results)

        def launch(stream: Any) -> None:
            with _settings(first.device.type, self.precision):
                self._compute(a, b, first)
                for other in others:
                    other.copy_(first)

        return launch

    def check(self, buffers: Sequence[Any]) -> None:
        """Raises what ``bind`` and torch raise for ``buffers`` of these sizes and dtypes; computes nothing."""
        import torch

        self.bind([torch.empty(b.shape, dtype=b.dtype, device="meta") for b in buffers])(None)

    def _compute(self, a: Any, b: Any, out: Any) -> None:
        import torch

        if self.op == "matmul":
            torch.matmul(a, b, out=out)
            return
        g = dict(self.geometry)
        shared = (g["stride"], g["padding"], g["dilation"], False, (0, 0), g["groups"])
        aten = torch.ops.aten
        if self.op == "conv":
            out.copy_(aten.convolution(a, b, None, *shared))
        elif self.op == "conv_dgrad":  # of the input only the shape is looked at
            out.copy_(aten.convolution_backward(a, out, b, None, *shared, (True, False, False))[0])
        else:
            out.copy_(aten.convolution_backward(a, b, out, None, *shared, (False, True, False))[1])


@contextmanager
def _settings(device: str, precision: str) -> Iterator[None]:
    """torch's global settings as a program wants them: deterministic, with sums in float32, tf32 only where medium allows it.

    Other threads see them too for that moment, which is when a program runs for the first time; a captured graph has them in
    it.
    """
    import torch

    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    wanted = [(matmul, name, False) for name in ("allow_fp16_accumulation", *_REDUCTIONS)]
    wanted += [(cudnn, "enabled", True), (cudnn, "deterministic", True), (cudnn, "benchmark", False)]
    before = [(module, name, _setting(module, name)) for module, name, _ in wanted]
    products = (matmul, cudnn.conv)
    rounded = [p.fp32_precision for p in products]
    try:
        for module, name, value in wanted:
            setattr(module, name, value)
        for p in products:
            p.fp32_precision = "tf32" if precision == "medium" else "ieee"
        with torch.no_grad(), torch.autocast(device if device != "meta" else "cpu", enabled=False):
            yield
    finally:
        for module, name, was in before:
            setattr(module, name, was)
        for p, was in zip(products, rounded, strict=True):
            p.fp32_precision = "none"  # where a wider setting decided, it goes on to
            if p.fp32_precision != was:
                p.fp32_precision = was


def _setting(module: Any, name: str) -> Any:
    """A setting of torch, as it can be set again: those of reductions may have a second part."""
    value = getattr(module, name)
    return (value, False) if name in _REDUCTIONS and not getattr(module, f"{name}_split_k", True) else value
