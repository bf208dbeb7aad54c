"""Starting values of parameters, drawn from one seed.

``manual_seed(seed)`` starts a series of generators; each draw takes the next one, so what a parameter starts from depends on
the seed and on how many draws came before it, not on their sizes, nor on the order in which modules are called.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from graphrt.errors import ArgumentError
from graphrt.nn.module import Parameter

_seed, _draws, _skipping = 0, 0, False

_GAINS = {"linear": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5.0 / 3.0, "relu": math.sqrt(2.0)}


def manual_seed(seed: int) -> None:
    """Restarts the series of generators at ``seed`` (an int of at least 0). Raises ArgumentError."""
    global _seed, _draws
    if not isinstance(seed, int) or seed < 0:
        raise ArgumentError(f"seed must be an int >= 0, got {seed!r}")
    _seed, _draws = seed, 0


def generator() -> np.random.Generator:
    """The next generator of the series."""
    global _draws
    _draws += 1
    return np.random.default_rng([_seed, _draws])


@contextmanager
def skip_init() -> Iterator[None]:
    """Modules made inside keep what is in memory for random starting values: to be counted, or filled with weights."""
    global _skipping
    before, _skipping = _skipping, True
    try:
        yield
    finally:
        _skipping = before


def calculate_gain(nonlinearity: str, a: float = 0.0) -> float:
    """Factor by which ``nonlinearity`` wants weights larger, as in torch. Raises ArgumentError for an unknown one."""
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1.0 + a * a))
    if nonlinearity not in _GAINS:
        raise ArgumentError(f"nonlinearity must be leaky_relu, {', '.join(_GAINS)}; got {nonlinearity!r}")
    return _GAINS[nonlinearity]


def fans(parameter: Parameter) -> tuple[int, int]:
    """(fan in, fan out) of a weight [out, in, ...]: elements that one output reads, that one input feeds."""
    shape = parameter.array.shape
    if len(shape) < 2:
        raise ArgumentError(f"fan in and out need a weight of at least 2 dimensions, got shape {list(shape)}")
    taps = math.prod(shape[2:])
    return shape[1] * taps, shape[0] * taps


def _fill(parameter: Parameter, values: np.ndarray) -> Parameter:
    parameter.array[...] = values
    return parameter


def uniform_(parameter: Parameter, low: float = 0.0, high: float = 1.0, rng: np.random.Generator | None = None) -> Parameter:
    """Fills ``parameter`` with numbers of [low, high) from ``rng``, or from the next generator of the series; returns it."""
    return parameter if _skipping else _fill(parameter, (rng or generator()).uniform(low, high, parameter.array.shape))


def normal_(parameter: Parameter, mean: float = 0.0, std: float = 1.0, rng: np.random.Generator | None = None) -> Parameter:
    """Fills with normal numbers of that ``mean`` and deviation ``std``; ``rng`` as of ``uniform_``."""
    return parameter if _skipping else _fill(parameter, (rng or generator()).normal(mean, std, parameter.array.shape))


def trunc_normal_(
    parameter: Parameter,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    rng: np.random.Generator | None = None,
) -> Parameter:
    """Fills with normal numbers of which those outside [a, b] were drawn again; ``rng`` as of ``uniform_``.

    Raises ArgumentError where that interval has none of ``mean`` and ``std`` within four deviations.
    """
    if not (a < b and std > 0 and mean - 4 * std < b and a < mean + 4 * std):
        raise ArgumentError(
            f"need numbers of [a, b] within 4 deviations of the mean, got [{a}, {b}], mean {mean} and std {std}"
        )
    if _skipping:
        return parameter
    rng = rng or generator()
    values = rng.normal(mean, std, parameter.array.shape)
    while (outside := (values < a) | (values > b)).any():
        values[outside] = rng.normal(mean, std, int(outside.sum()))
    return _fill(parameter, values)


def constant_(parameter: Parameter, value: float) -> Parameter:
    """Fills with ``value``."""
    return _fill(parameter, np.asarray(value))


def zeros_(parameter: Parameter) -> Parameter:
    """Fills with zeros."""
    return constant_(parameter, 0.0)


def ones_(parameter: Parameter) -> Parameter:
    """Fills with ones."""
    return constant_(parameter, 1.0)


def _kaiming_std(parameter: Parameter, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"mode must be 'fan_in' or 'fan_out', got {mode!r}")
    fan = fans(parameter)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(max(fan, 1))


def kaiming_uniform_(
    parameter: Parameter,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    rng: np.random.Generator | None = None,
) -> Parameter:
    """Keeps the variance through rectifiers, uniform: He et al., "Delving Deep into Rectifiers", ICCV 2015.

    ``a`` is the negative slope of ``leaky_relu``, ``nonlinearity`` what follows the layer (``calculate_gain``), ``mode`` whose
    variance is kept: fan_in that of the forward pass, fan_out that of the backward pass. ``rng`` as of ``uniform_``. Raises
    ArgumentError.
    """
    bound = math.sqrt(3.0) * _kaiming_std(parameter, a, mode, nonlinearity)
    return uniform_(parameter, -bound, bound, rng)


def kaiming_normal_(
    parameter: Parameter,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    rng: np.random.Generator | None = None,
) -> Parameter:
    """Keeps the variance through rectifiers, normal: He et al., "Delving Deep into Rectifiers", ICCV 2015.

    ``a`` is the negative slope of ``leaky_relu``, ``nonlinearity`` what follows the layer (``calculate_gain``), ``mode`` whose
    variance is kept: fan_in that of the forward pass, fan_out that of the backward pass. ``rng`` as of ``uniform_``. Raises
    ArgumentError.
    """
    return normal_(parameter, 0.0, _kaiming_std(parameter, a, mode, nonlinearity), rng)


def xavier_uniform_(parameter: Parameter, gain: float = 1.0, rng: np.random.Generator | None = None) -> Parameter:
    """Keeps the variance both ways, uniform: Glorot and Bengio, "Understanding the difficulty...", AISTATS 2010.

    The bound of uniform numbers, or the deviation of normal ones, is multiplied by ``gain``. ``rng`` as of ``uniform_``. Raises
    ArgumentError for fewer than 2 dimensions.
    """
    bound = gain * math.sqrt(6.0 / sum(fans(parameter)))
    return uniform_(parameter, -bound, bound, rng)


def xavier_normal_(parameter: Parameter, gain: float = 1.0, rng: np.random.Generator | None = None) -> Parameter:
    """Keeps the variance both ways, normal: Glorot and Bengio, "Understanding the difficulty...", AISTATS 2010.

    The bound of uniform numbers, or the deviation of normal ones, is multiplied by ``gain``. ``rng`` as of ``uniform_``. Raises
    ArgumentError for fewer than 2 dimensions.
    """
    return normal_(parameter, 0.0, gain * math.sqrt(2.0 / sum(fans(parameter))), rng)


def weights(shape: tuple[int, ...], bias: bool) -> tuple[Parameter, Parameter | None]:
    """Weight [*shape], [out, in, ...], and bias [out], both uniform in +-1/sqrt(fan in): torch's kaiming_uniform_(a=sqrt 5)."""
    weight = kaiming_uniform_(_empty(shape), a=math.sqrt(5.0))
    if not bias:
        return weight, None
    bound = 1.0 / math.sqrt(max(fans(weight)[0], 1))
    return weight, uniform_(_empty(shape[:1]), -bound, bound)


def _empty(shape: tuple[int, ...]) -> Parameter:
    """A float32 parameter whose memory nothing has touched yet."""
    made = Parameter(np.empty(0, np.float32))
    made.array = np.empty(shape, np.float32)
    return made
