"""The driver of a GPU: torch.cuda for memory, streams and graphs, the vendor's driver library for kernels.

torch.cuda is the interface to AMD's GPUs too. Kernels are loaded and launched through libcuda or libamdhip64 by ctypes, with
arguments packed once, so a launch costs one foreign call and needs no Triton.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from graphrt.errors import TargetError
from graphrt.targets.triton.collective import Call
from graphrt.targets.triton.driver import Launch
from graphrt.targets.triton.kernel import KernelBinary

_SHARED = 48 << 10  # bytes of shared memory that a CUDA kernel may have without asking
_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_capturing = threading.Lock()  # torch captures one graph at a time
_PREFER_SHARED = 1  # CU_FUNC_CACHE_PREFER_SHARED
_DEPENDENT = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


class DriverLibrary(Protocol):
    """The part of a vendor's driver library that runs kernels."""

    launch: Any  # f(function, grid x y z, block x y z, shared bytes, stream, arguments, extra) -> status
    launch_together: Any  # as launch, without extra: raises no more than run at once, which may wait for each other
    launch_as: Any  # f(Launching, function, arguments, extra) -> status; None where the library has no such function

    def activate(self, device: int) -> None:
        """Makes ``device`` the one of this thread."""

    def load_kernel(self, code: bytes, entry: str, shared: int) -> Any:
        """The function ``entry`` of a module. Raises TargetError in the library's words."""

    def check(self, status: int) -> None:
        """Raises TargetError unless ``status`` is 0."""


class Cuda:
    """The driver library of CUDA, libcuda."""

    def __init__(self, path: str = "libcuda.so.1") -> None:
        self._lib = _open(path)
        self.launch = _launcher(self._lib.cuLaunchKernel)
        self.launch_together = _launcher(self._lib.cuLaunchCooperativeKernel, 0)
        self.launch_as = getattr(self._lib, "cuLaunchKernelEx", None)  # from CUDA 11.8 on
        if self.launch_as is not None:
            self.launch_as.argtypes = [ctypes.c_void_p] * 4
            self.launch_as.restype = ctypes.c_int
        self._contexts: dict[int, ctypes.c_void_p] = {}

    def activate(self, device: int) -> None:
        """Makes the primary context, torch's, current in this thread."""
        if device not in self._contexts:
            context = ctypes.c_void_p()
            self.check(self._lib.cuInit(0))
            self.check(self._lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
            self._contexts[device] = context
        self.check(self._lib.cuCtxSetCurrent(self._contexts[device]))

    def load_kernel(self, code: bytes, entry: str, shared: int) -> ctypes.c_void_p:
        """Loads a cubin; large shared memory is asked for."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self._lib.cuModuleLoadData(ctypes.byref(module), code))
        self.check(self._lib.cuModuleGetFunction(ctypes.byref(function), module, entry.encode()))
        if shared > _SHARED:
            self.check(self._lib.cuFuncSetCacheConfig(function, _PREFER_SHARED))
            self.check(self._lib.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, shared))
        return function

    def check(self, status: int) -> None:
        """Raises TargetError with CUDA's name of the error."""
        if status:
            text = ctypes.c_char_p()
            self._lib.cuGetErrorString(status, ctypes.byref(text))
            raise TargetError(f"CUDA error {status}: {(text.value or b'unknown').decode()}")


class Hip:
    """The driver library of HIP, libamdhip64."""

    def __init__(self, path: str = "") -> None:
        self._lib = _open(path or _torch_library("libamdhip64.so"))
        self.launch, self.launch_as = _launcher(self._lib.hipModuleLaunchKernel), None
        self.launch_together = _launcher(self._lib.hipModuleLaunchCooperativeKernel, 0)

    def activate(self, device: int) -> None:
        """Selects the device in this thread."""
        self.check(self._lib.hipSetDevice(device))

    def load_kernel(self, code: bytes, entry: str, shared: int) -> ctypes.c_void_p:
        """Loads an hsaco."""
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self._lib.hipModuleLoadData(ctypes.byref(module), code))
        self.check(self._lib.hipModuleGetFunction(ctypes.byref(function), module, entry.encode()))
        return function

    def check(self, status: int) -> None:
        """Raises TargetError with HIP's words."""
        if status:
            self._lib.hipGetErrorString.restype = ctypes.c_char_p
            raise TargetError(f"HIP error {status}: {self._lib.hipGetErrorString(status).decode()}")


def _open(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path)
    except OSError as error:
        raise TargetError(f"the GPU's driver library cannot be loaded: {error}") from None


def _torch_library(name: str) -> str:
    """The library that torch brings along and has loaded, for there must be one runtime only; else the system's."""
    import torch

    bundled = os.path.join(os.path.dirname(torch.__file__), "lib", name)
    return bundled if os.path.exists(bundled) else name


def _launcher(function: Any, extra: int = 1) -> Any:
    size = ctypes.c_uint
    function.argtypes = [ctypes.c_void_p, *[size] * 7, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_void_p] * extra]
    function.restype = ctypes.c_int
    return function


class Attribute(ctypes.Structure):
    """CUlaunchAttribute: its number, and a value in the first four of 64 bytes."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60)]


class Launching(ctypes.Structure):
    """CUlaunchConfig: grid, block, bytes of shared memory, stream and attributes of a launch."""

    _fields_ = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(Attribute)),
        ("count", ctypes.c_uint),
    ]


def prepare(
    library: DriverLibrary,
    function: Any,
    grid: int,
    threads: int,
    shared: int,
    pointers: Sequence[int],
    dependent: bool = False,
    together: bool = False,
) -> Launch:
    """A launch of ``grid`` blocks with its arguments packed: addresses of a kernel's arguments, the last two its scratch.

    One that is ``dependent`` begins when all blocks of the launch in front have let it (or ended), if the library can do that.
    All blocks of one that is ``together`` run at once, or it is an error.
    """
    values = (ctypes.c_void_p * len(pointers))(*pointers)
    step = ctypes.sizeof(ctypes.c_void_p)
    packed = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(values) + i * step for i in range(len(pointers))))
    call, check = library.launch, library.check
    if dependent and library.launch_as is not None:
        return _dependent(library, function, Launching((grid, 1, 1), (threads, 1, 1), shared), packed, values)

    if together:
        call = library.launch_together

        def launch_together(stream: int, values: Any = values) -> None:
            if status := call(function, grid, 1, 1, threads, 1, 1, shared, stream, packed):
                check(status)

        return launch_together

    def launch(stream: int, values: Any = values) -> None:  # the values must live as long as the launch
        if status := call(function, grid, 1, 1, threads, 1, 1, shared, stream, packed, None):
            check(status)

    return launch


def _dependent(library: DriverLibrary, function: Any, how: Launching, packed: Any, values: Any) -> Launch:
    """A launch as ``how`` says that may begin before the one in front has ended. A program's launches are one thread's."""
    attributes = (Attribute * 1)(Attribute(_DEPENDENT, value=1))
    how.attributes, how.count = attributes, 1
    call, check, given = library.launch_as, library.check, ctypes.byref(how)

    def launch(stream: int, kept: Any = (values, attributes)) -> None:  # which must live as long as the launch
        how.stream = stream
        if status := call(given, function, packed, None):
            check(status)

    return launch


class GpuDriver:
    """GPU number ``index`` of torch.cuda, running kernels through ``library``."""

    simulated = False

    def __init__(self, index: int, library: DriverLibrary) -> None:
        import torch

        self._torch, self._library, self._index = torch, library, index
        self._device = torch.device("cuda", index)
        self.where, self.target = str(self._device), architecture(index)
        self.model = str(torch.cuda.get_device_name(index))
        self.units: int | None = torch.cuda.get_device_properties(index).multi_processor_count

    def allocate(self, size: int) -> Any:
        """Allocates with torch's allocator."""
        return self._torch.zeros(size, dtype=self._torch.uint8, device=self._device)

    def pinned(self, size: int) -> Any:
        """Page-locked memory."""
        return self._torch.empty(size, dtype=self._torch.uint8, pin_memory=True)

    def place(self, flat: Any) -> Any:
        """A copy on the device, there when this returns."""
        return flat.to(self._device)

    def fetch(self, tensor: Any) -> Any:
        """Waits for the current stream."""
        return tensor.cpu()

    def owns(self, tensor: Any) -> bool:
        """Whether it is a tensor of this GPU."""
        return getattr(tensor, "device", None) == self._device

    def stream(self) -> Any:
        """torch's current stream."""
        return self._torch.cuda.current_stream(self._device)

    def fork(self) -> Any:
        """A stream of torch's pool."""
        return self._torch.cuda.Stream(self._device)

    def using(self, stream: Any) -> AbstractContextManager[Any]:
        """Makes the stream torch's current one (torch.cuda.stream)."""
        return self._torch.cuda.stream(stream)

    def keep(self, tensor: Any, stream: Any) -> None:
        """Keeps the tensor's memory until the stream is done with it (record_stream)."""
        tensor.record_stream(stream)

    def lasts(self, stream: Any) -> bool:
        """Whether it is torch's own: the number of one that was made elsewhere (ExternalStream) is its address, an even one."""
        return stream.stream_id == 0 or bool(stream.stream_id & 1)

    def copy(self, target: Any, source: Any) -> None:
        """Does not wait."""
        target.copy_(source, non_blocking=True)

    def clone(self, tensor: Any) -> Any:
        """Does not wait."""
        return tensor.clone()

    def borrow(self, tensor: Any) -> None:
        """Launches can point to any memory of the GPU."""

    def load(self, kernel: KernelBinary | Call) -> Any:
        """The kernel's function on this GPU."""
        if isinstance(kernel, Call):
            return kernel
        if not can_run(kernel.target, self.target):
            raise TargetError(f"a kernel for {kernel.target} does not run on {self.where}, which is {self.target}")
        with self._torch.cuda.device(self._device):
            self._library.activate(self._index)
            return kernel, self._library.load_kernel(kernel.code, kernel.entry, kernel.shared)

    def bind(self, loaded: Any, grid: int, buffers: Sequence[Any], scratch: Any, dependent: bool = False) -> Launch:
        """Arguments packed for the library's launch; no more blocks than run at once of those that wait for each other."""
        if isinstance(loaded, Call):
            return loaded.bind(buffers)
        kernel, function = loaded
        pointers = [b.data_ptr() for b in buffers] + [0 if scratch is None else scratch.data_ptr(), 0]
        together = kernel.cooperative > 0
        if together:
            grid = min(grid, kernel.cooperative * (self.units or 1))
        return prepare(self._library, function, grid, kernel.threads, kernel.shared, pointers, dependent, together)

    def run(self, launches: Sequence[Launch]) -> None:
        """Runs ``launches`` in order on torch's current stream."""
        stream = self.stream().cuda_stream
        with self._torch.cuda.device(self._device):  # and gives the thread its own device back
            self._library.activate(self._index)
            for launch in launches:
                launch(stream)

    def capture(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """A CUDA graph; other threads may go on using the GPU meanwhile."""
        graph = self._torch.cuda.CUDAGraph()
        side = self.fork()
        side.wait_stream(self.stream())
        with _capturing, no_collection(), self.using(side):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                self.run(launches)
            finally:
                graph.capture_end()
        self.stream().wait_stream(side)
        return graph.replay

    def clock(self, groups: Sequence[Sequence[Launch]], graph: bool = True) -> Callable[[], list[float]]:
        """By events between the groups, which are part of the graph. Graphs of HIP have none: there launches go one by one."""
        graph = graph and not self._torch.version.hip
        events = [self._torch.cuda.Event(enable_timing=True, external=graph) for _ in range(len(groups) + 1)]

        def recorded(event: Any) -> Launch:
            return lambda stream: event.record()

        launches = [recorded(events[0])]
        for group, event in zip(groups, events[1:], strict=True):
            launches += [*group, recorded(event)]
        run = self.capture(launches) if graph else functools.partial(self.run, launches)

        def seconds() -> list[float]:
            run()
            self.stream().synchronize()
            return [a.elapsed_time(b) / 1e3 for a, b in zip(events, events[1:], strict=False)]

        return seconds


@contextmanager
def no_collection() -> Iterator[None]:
    """Garbage is collected before, and none inside: what a CUDA object does when it goes would break a capture."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def architecture(index: int) -> str:
    """The architecture of GPU ``index``, as cuda:sm_90 or hip:gfx942."""
    import torch

    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return f"hip:{properties.gcnArchName.split(':')[0]}"
    return f"cuda:sm_{properties.major}{properties.minor}"


def can_run(built: str, device: str) -> bool:
    """Whether code for ``built`` runs on ``device``: the same, or before sm_90 a later one of the same generation."""
    if built == device:
        return True
    old, new = (re.fullmatch(r"cuda:sm_(\d+)(\d)", t) for t in (built, device))
    return bool(old and new and old[1] == new[1] and int(old[1]) < 9 and old[2] <= new[2])


@functools.cache
def driver(index: int) -> GpuDriver:
    """The driver of GPU ``index``, made once. Raises TargetError."""
    import torch

    return GpuDriver(index, Hip() if torch.version.hip else Cuda())
