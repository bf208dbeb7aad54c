"""Every op of graphrt, each defined in one place. The public functions are the entries of FUNCTIONS."""

from graphrt.ops import (  # noqa: F401 - importing registers
    contraction,
    elementwise,
    functional,
    random,
    reduction,
    slicing,
    source,
    view,
    window,
)
from graphrt.ops.base import FUNCTIONS
from graphrt.ops.contraction import conv2d, linear, matmul
from graphrt.ops.elementwise import (
    abs,
    add,
    cast,
    clone,
    cos,
    div,
    eq,
    erf,
    exp,
    floor,
    ge,
    gt,
    le,
    log,
    logical_and,
    logical_not,
    logical_or,
    lt,
    maximum,
    minimum,
    mul,
    ne,
    neg,
    pow,
    relu,
    rsqrt,
    sigmoid,
    sign,
    sin,
    sqrt,
    stop_gradient,
    sub,
    tanh,
    where,
)
from graphrt.ops.functional import (
    batch_norm,
    binary_cross_entropy_with_logits,
    cross_entropy,
    elu,
    gelu,
    hinge_loss,
    l1_loss,
    layer_norm,
    leaky_relu,
    log_softmax,
    movedim,
    mse_loss,
    nll_loss,
    silu,
    softmax,
    softplus,
)
from graphrt.ops.random import dropout, manual_seed, uniform
from graphrt.ops.reduction import all, amax, amin, any, argmax, argmin, logsumexp, mean, prod, std, sum, var
from graphrt.ops.slicing import concat, flip, pad, stack
from graphrt.ops.view import expand, flatten, permute, reshape, squeeze, transpose, unsqueeze
from graphrt.ops.window import avg_pool2d, global_avg_pool2d, max_pool2d, sum_pool2d

__all__ = [
    "FUNCTIONS", "abs", "add", "all", "amax", "amin", "any", "argmax", "argmin", "avg_pool2d", "batch_norm",
    "binary_cross_entropy_with_logits", "cast", "clone", "concat", "conv2d", "cos", "cross_entropy", "div", "dropout", "elu", "eq",
    "erf", "exp", "expand", "flatten", "flip", "floor", "ge", "gelu", "global_avg_pool2d", "gt", "hinge_loss", "l1_loss",
    "layer_norm", "le", "leaky_relu", "linear", "log", "log_softmax", "logical_and", "logical_not", "logical_or",
    "logsumexp", "lt", "manual_seed", "matmul", "max_pool2d", "maximum", "mean", "minimum", "movedim", "mse_loss", "mul",
    "ne", "neg", "nll_loss", "pad", "permute", "pow", "prod", "relu", "reshape", "rsqrt", "sigmoid", "sign", "silu", "sin",
    "softmax", "softplus", "sqrt", "squeeze", "stack", "std", "stop_gradient", "sub", "sum", "sum_pool2d", "tanh",
    "transpose", "uniform", "unsqueeze", "var", "where",
]  # fmt: skip
