"""NumPy arrays and torch tensors over the same memory, bfloat16 included, which neither library gives the other."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from graphrt.types import TensorType, bfloat16, dense_order

_CPU = 1  # of DLPack's kinds of devices


def from_dlpack(value: Any) -> Any:
    """``value`` over the same memory, where it is another library's array that has ``__dlpack__``; anything else as it is.

    What lies in the host's memory becomes an array, what lies on a device, or has a dtype that NumPy lacks, a torch tensor.
    """
    if isinstance(value, np.ndarray) or hasattr(value, "detach") or not hasattr(value, "__dlpack__"):
        return value
    if value.__dlpack_device__()[0] == _CPU:
        try:
            return np.from_dlpack(value)
        except (BufferError, RuntimeError):
            pass
    import torch

    return torch.from_dlpack(value)


def to_numpy(value: Any) -> np.ndarray:
    """A NumPy array of ``value``: over the same memory if it is a CPU tensor or an array, also of another library that has
    ``__dlpack__``. Raises what torch raises."""
    value = from_dlpack(value)
    if not hasattr(value, "detach"):
        return np.asarray(value)
    import torch

    tensor = value.detach()
    if tensor.layout is not torch.strided:
        raise TypeError(f"a tensor of layout {tensor.layout} has no dense memory")
    tensor = tensor if tensor.device.type == "cpu" else tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(bfloat16.numpy)
    return tensor.numpy()


def as_it_lies(value: Any, dtype: np.dtype, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray | None:
    """The array over the memory of ``value``, an array or a tensor of the host of that dtype, shape and ``strides`` in bytes.

    None for anything else, which ``to_numpy`` may take all the same. It is there for calls that take microseconds.
    """
    if type(value) is not np.ndarray:
        if not getattr(value, "is_cpu", False):
            return None
        try:
            value = value.numpy()
        except (TypeError, RuntimeError):  # on a device, of a dtype or layout that NumPy lacks, or with a gradient
            return None
    fits = value.strides == strides and value.shape == shape and value.dtype == dtype and value.flags.aligned
    return value if fits else None


def order_of(value: Any) -> tuple[int, ...] | None:
    """The dimensions of an array or tensor in memory, outermost first; None for row-major, and where there are gaps."""
    if hasattr(value, "stride"):
        return dense_order(value.shape, value.stride()) if "strided" in str(value.layout) else None
    if hasattr(value, "strides"):
        return dense_order(value.shape, [step // value.itemsize for step in value.strides])
    return None


def from_numpy(array: np.ndarray) -> Any:
    """A torch tensor over the memory of ``array``."""
    import torch

    if array.dtype == bfloat16.numpy:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def view(memory: Any, offset: int, type: TensorType) -> Any:
    """``type`` at ``offset`` bytes into the torch.uint8 tensor ``memory``, in its logical shape."""
    return flat(memory, offset, type).as_strided(type.shape, type.strides)


def flat(memory: Any, offset: int, type: TensorType) -> Any:
    """``type`` at ``offset`` bytes into ``memory``, as one dimension in memory order."""
    return memory[offset : offset + type.nbytes].view(getattr(sys.modules["torch"], type.dtype.name))
