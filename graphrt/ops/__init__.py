"""Every op of graphrt, each defined in one place. The public functions are the entries of FUNCTIONS."""

from graphrt.ops import window  # importing registers
from graphrt.ops.activation import elu, gelu, leaky_relu, log_softmax, silu, softmax, softplus
from graphrt.ops.base import FUNCTIONS
from graphrt.ops.contraction import linear, matmul
from graphrt.ops.convolution import conv2d
from graphrt.ops.detection import box_area, box_iou, nms, roi_align, roi_pool
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
from graphrt.ops.indexing import (
    embedding,
    gather,
    index_add,
    index_select,
    one_hot,
    scatter,
    scatter_add,
    scatter_reduce,
    take,
    take_along_dim,
)
from graphrt.ops.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    hinge_loss,
    l1_loss,
    mse_loss,
    nll_loss,
)
from graphrt.ops.normalization import batch_norm, layer_norm
from graphrt.ops.pooling import avg_pool2d, global_avg_pool2d, max_pool2d, sum_pool2d
from graphrt.ops.random import dropout, manual_seed, uniform
from graphrt.ops.reduction import all, amax, amin, any, argmax, argmin, logsumexp, mean, prod, std, sum, var
from graphrt.ops.resize import interpolate
from graphrt.ops.scan import cummax, cummin, cumprod, cumsum, logcumsumexp
from graphrt.ops.slicing import concat, flip, pad, stack
from graphrt.ops.sorting import argsort, kthvalue, median, randperm, sort, topk
from graphrt.ops.transcendental import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    bitwise_and,
    bitwise_left_shift,
    bitwise_not,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    ceil,
    cosh,
    erfc,
    erfinv,
    exp2,
    expm1,
    floor_divide,
    fmod,
    log1p,
    log2,
    log10,
    remainder,
    round,
    sinh,
    tan,
    trunc,
)
from graphrt.ops.view import expand, flatten, movedim, permute, reshape, squeeze, transpose, unsqueeze
