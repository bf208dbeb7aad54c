"""One call of every public function that has a gradient, for tests that go through all of them.

Arrays are float64 without ties, so that extremes and orders have a neighbourhood; a test takes them in the dtype it is about.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import graphrt as grt
from graphrt import Value
from graphrt import ops as F

Array = np.ndarray


@dataclass(frozen=True)
class Call:
    """``f`` of ``arrays``: floats are differentiated, integers and bools are not."""

    f: Callable[..., Any]
    arrays: tuple[Array, ...]
    name: str
    options: dict[str, Any]

    def values(self, graph: grt.Graph, prefix: str, dtype: Any, feeds: dict[str, Array]) -> tuple[list[Value], list[Value]]:
        """Inputs of ``graph`` in ``dtype``, put into ``feeds``, and the results that are floats."""
        inputs = []
        for i, a in enumerate(self.arrays):
            feeds[f"{prefix}{i}"] = a.astype(dtype) if a.dtype.kind == "f" else a
            inputs.append(graph.input(f"{prefix}{i}", a.shape, feeds[f"{prefix}{i}"].dtype))
        y = self.f(*inputs)
        return inputs, [v for v in (y if isinstance(y, list | tuple) else [y]) if v.dtype.is_float]


def spread(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    """Numbers of ``shape``, all different, as are their differences, in no order."""
    n = int(np.prod(shape))
    rng = np.random.default_rng(zlib.crc32(repr((shape, seed)).encode()))
    return low + (high - low) * (rng.permutation(n).reshape(shape) + rng.uniform(0.2, 0.8, shape)) / n


def positive(*shape: int, seed: int = 0) -> Array:
    return spread(*shape, seed=seed, low=0.3, high=2.0)


def unit(*shape: int, seed: int = 0) -> Array:
    return spread(*shape, seed=seed, low=-0.9, high=0.9)


def whole(high: int, *shape: int) -> Array:
    return np.arange(int(np.prod(shape))).reshape(shape) * 7 % high


def signs(*shape: int) -> Array:
    return np.where(spread(*shape) > 0, 1.0, -1.0)


CALLS: dict[str, Call] = {}


def call(name: str, *arrays: Array, label: str = "", fixed: Callable[..., Any] | None = None, **options: Any) -> None:
    """Adds a call of ``name``; ``fixed`` takes the values instead, for arguments in another order."""
    f = F.FUNCTIONS[name]
    CALLS[f"{name} {label}".rstrip()] = Call(fixed or (lambda *a: f(*a, **options)), arrays, name, options)


X = spread(3, 4)
IMAGE = spread(2, 3, 6, 5)
_UNARY: dict[Callable[..., Array], Sequence[str]] = {
    spread: (
        *("abs", "atan", "celu", "clone", "cos", "cosh", "asinh", "deg2rad", "elu", "erf", "erfc", "exp", "exp2", "expm1"),
        *("frac", "gelu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "log_softmax", "logsigmoid"),
        *("mish", "neg", "rad2deg", "relu", "relu6", "rrelu", "selu", "sigmoid", "silu", "sin", "sinc", "sinh", "softmax"),
        *("softmin", "softplus", "softshrink", "softsign", "square", "tanh", "tanhshrink", "trace"),
        *("sum", "mean", "amax", "amin", "prod", "norm", "max", "min", "median", "nan_to_num", "flatten", "tril", "triu"),
        *("diag", "fliplr", "flipud", "rot90", "diagonal"),
    ),
    positive: ("log", "log10", "log1p", "log2", "reciprocal", "rsqrt", "sqrt"),
    unit: ("acos", "asin", "atanh", "erfinv", "tan"),
}
for _make, _names in _UNARY.items():
    for _name in _names:
        call(_name, _make(3, 4))
call("acosh", spread(3, 4, low=1.2, high=3.0))
call("gelu", X, label="tanh", approximate="tanh")
for _name in ("add", "atan2", "div", "hypot", "logaddexp", "maximum", "minimum", "mul", "sub", "fmod", "remainder", "divide"):
    call(_name, spread(3, 4), positive(3, 1, seed=1))
call("pow", positive(3, 4), spread(3, 4, seed=1))
call("xlogy", spread(3, 4), positive(3, 4))
call("bincount", whole(4, 7), spread(7), minlength=4)
call("histogram", spread(20), fixed=lambda x: F.histogram(x, 4, (-2.0, 2.0), x * x))
call("straight_through", X, fixed=lambda x: F.straight_through(x, x))
call("copysign", spread(3, 4), fixed=lambda x: F.copysign(x, -1.0))
call("lerp", X, spread(3, 4, seed=1), spread(3, 4, seed=2))
call("addcmul", X, spread(3, 4, seed=1), spread(3, 4, seed=2), value=0.5)
call("addcdiv", X, spread(3, 4, seed=1), positive(3, 4), value=0.5)
call("clamp", X, min=-1.0, max=1.1)
call("clip", X, min=-1.0)
call("threshold", X, threshold=0.1, value=-3.0)
call("prelu", IMAGE, unit(3))
call("glu", X)
call("maxout", X, pool_size=2)
call("where", X > 0, X, spread(3, 4, seed=1))
call("masked_fill", X, X > 1, value=2.0)

# reductions and scans
for _name in ("sum", "mean", "amax", "amin", "prod", "logsumexp", "norm", "var", "std"):
    call(_name, IMAGE, label="dims", dim=(1, 3), keepdim=True)
call("var", X)
call("std", X)
call("prod", np.where(spread(3, 4) > 1.0, 0.0, spread(3, 4)), label="zeros", dim=1)
for _p in (1.0, 3.0, 0.7, float("inf")):
    call("norm", X, label=str(_p), p=_p, dim=1)
for _name in ("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin"):
    call(_name, spread(3, 5), dim=1)
for _name in ("cumsum", "cumprod", "logcumsumexp"):
    call(_name, spread(3, 5, seed=3), label="turned", dim=0, reverse=True, exclusive=_name != "logcumsumexp")
call("cumprod", np.where(spread(3, 5) > 1.0, 0.0, spread(3, 5)), label="zeros", dim=1)
call("sort", X, dim=1)
call("topk", X, k=2)
call("kthvalue", X, k=2)
call("median", X, label="dim", dim=1)
call("max", X, label="dim", dim=1)
call("min", X, label="dim", dim=0)

# products
for _name, _a, _b in (
    *(("matmul", (2, 3, 4), (4, 5)), ("mm", (3, 4), (4, 5)), ("bmm", (2, 3, 4), (2, 4, 5)), ("mv", (3, 4), (4,))),
    *(
        ("dot", (4,), (4,)),
        ("inner", (2, 4), (3, 4)),
        ("outer", (3,), (4,)),
        ("kron", (2, 3), (3, 2)),
        ("cross", (2, 3), (2, 3)),
    ),
):
    call(_name, spread(*_a), spread(*_b, seed=1))
call("gram_matrix", IMAGE)
call("addmm", spread(3, 5), spread(3, 4), spread(4, 5), beta=0.5, alpha=2)
call("baddbmm", spread(2, 3, 5), spread(2, 3, 4), spread(2, 4, 5), beta=0.5, alpha=2)
for _shape in ((2, 4, 3), (2, 3), (1, 3)):
    call("svd", spread(*_shape), label=str(_shape), full_matrices=False)
    call("svdvals", spread(*_shape), label=str(_shape))
call("svd", spread(4, 2), label="full", fixed=lambda x: F.svd(x)[1])
for _p in ("nuc", 2, 1):
    call("matrix_norm", spread(2, 4, 3), label=str(_p), ord=_p)
call("cond", spread(4, 3))
for _name in ("inv", "det", "slogdet", "lu_factor"):
    call(_name, spread(2, 3, 3) + np.roll(np.eye(3) * 5, 1, 1))
call("solve", spread(2, 3, 3) + np.eye(3) * 5, spread(3, 4, seed=1))
call("solve", spread(3, 3) + np.eye(3) * 5, spread(3, seed=1), label="vector")
call("solve", spread(3, 3) + np.eye(3) * 5, spread(2, 3, seed=1), label="right", left=False)
call("einsum", spread(2, 3), spread(3, 4), fixed=lambda a, b: F.einsum("ij,jk->k", a, b))
call("tensordot", spread(2, 3, 4), spread(4, 3, 5), dims=([1, 2], [1, 0]))
call("linear", spread(2, 4), spread(3, 4, seed=1), spread(3))
call("bilinear", spread(2, 3), spread(2, 4), spread(2, 3, 4), spread(2))
for _p in (0.0, 1.0, 2.0, 3.0, float("inf")):
    call("cdist", spread(2, 3), spread(4, 3, seed=1), label=str(_p), p=_p)
call("cdist", spread(2, 3), spread(4, 3, seed=1), label="product", compute_mode="use_mm_for_euclid_dist")
for _rank in (1, 2, 3):
    _size = (5, 4, 3)[:_rank]
    call(f"conv{_rank}d", spread(2, 4, *_size), spread(2, 2, *(2,) * _rank), spread(2), groups=2, padding=1)
    call(f"conv_transpose{_rank}d", spread(2, 4, *_size), spread(4, 1, *(2,) * _rank), spread(2), groups=2, stride=2)
    _x = spread(2, 3, *(6, 5, 4)[:_rank])
    for _name in ("max_pool", "sum_pool", "avg_pool"):
        call(f"{_name}{_rank}d", _x, kernel_size=3, stride=2, padding=1)
    call(f"lp_pool{_rank}d", np.abs(_x) + 0.1, norm_type=3.0, kernel_size=2)
    for _name in ("adaptive_avg_pool", "adaptive_max_pool"):
        call(f"{_name}{_rank}d", _x, output_size=2)
        call(f"{_name}{_rank}d", _x, label="uneven", output_size=3)
call("avg_pool2d", IMAGE, label="uncounted", kernel_size=3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
for _name in ("global_avg_pool", "global_avg_pool2d", "global_max_pool"):
    call(_name, IMAGE)
for _mode in ("max", "sum", "avg"):
    call("channel_pool", spread(2, 6, 4), label=_mode, kernel_size=2, mode=_mode)
call("local_conv2d", spread(1, 2, 4, 4), spread(3, 3, 2, 2, 2, 2), spread(2, 3, 3))
for _mode in ("nearest", "nearest-exact", "bilinear", "bicubic", "area"):
    call("interpolate", IMAGE, label=_mode, size=(7, 9), mode=_mode)
    call("interpolate", IMAGE, label=f"{_mode} factor", scale_factor=(1.3, 1.1), mode=_mode)
for _mode, _shape in (
    ("linear", (2, 3, 5)),
    ("bilinear", (2, 3, 5, 4)),
    ("trilinear", (1, 2, 3, 4, 3)),
    ("bicubic", (1, 2, 5, 4)),
):
    call(
        "interpolate", spread(*_shape), label=f"{_mode} aligned", size=(7,) * (len(_shape) - 2), mode=_mode, align_corners=True
    )
for _mode in ("bilinear", "bicubic", "lanczos"):
    call("interpolate", IMAGE, label=f"{_mode} antialiased", size=(3, 7), mode=_mode, antialias=True)
_BOXES = np.array([[0.3, 0.4, 3.31, 4.42], [1.1, 0.7, 3.93, 4.87]])
for _name in ("roi_align", "roi_pool"):
    call(
        _name,
        *(IMAGE, np.array([[1], [0]]), _BOXES),
        fixed=lambda x, i, b, f=F.FUNCTIONS[_name]: f(x, F.concat([F.cast(i, x.dtype), b], 1), 2),
    )
_FOUND, _TRUE = np.array([[0.1, 0.2, 1.97, 1.53], [1.03, 0.9, 2.2, 3.07]]), np.array([[0.3, 0.4, 1.8, 2.5]])
call("box_area", _FOUND)
call("box_convert", _FOUND, in_fmt="xyxy", out_fmt="cxcywh")
call("box_convert", _FOUND, label="back", in_fmt="cxcywh", out_fmt="xywh")
call("clip_boxes_to_image", _FOUND, size=(2, 1))
for _name in ("box_iou", "generalized_box_iou", "distance_box_iou"):
    call(_name, _FOUND, _TRUE)
for _name in ("generalized_box_iou_loss", "distance_box_iou_loss"):
    call(_name, _FOUND, _FOUND[::-1] * 1.1, reduction="mean")
# Squares: where aspects differ, the weight of their penalty has no gradient, which a difference quotient would see.
_SQUARES = np.array([[0.1, 0.2, 1.4, 1.5], [1.0, 0.9, 2.2, 2.1]]), np.array([[0.3, 0.4, 1.8, 1.9], [0.2, 0.3, 2.3, 2.4]])
call("complete_box_iou", *_SQUARES)
call("complete_box_iou_loss", *_SQUARES)
call("encode_boxes", _FOUND, _FOUND[::-1] * 1.1, weights=(10.0, 10.0, 5.0, 5.0))
call("decode_boxes", spread(2, 4) / 2, _FOUND, weights=(1.0, 1.0, 2.0, 2.0))
call("gather_rows", spread(2, 3, 4), np.array([[0, 2, -1, 2], [3, 1, 1, 0]]))
call(
    "crop_and_resize",
    IMAGE,
    np.array([[1], [0]]),
    _BOXES,
    fixed=lambda x, i, b: F.crop_and_resize(x, F.concat([F.cast(i, x.dtype), b], 1), (2, 3)),
)
call("soft_nms", _FOUND, np.array([0.9, 0.7]), count=2)
call("masked_topk", X, X > -1.0, fixed=lambda x, m: F.where(F.isfinite(v := F.masked_topk(x, m, 3)[0]), v, 0.0))

# normalisation and attention
call("batch_norm", IMAGE, spread(3), positive(3), positive(3, seed=1), spread(3, seed=1))
call(
    "batch_norm", IMAGE, positive(3), spread(3), label="training", fixed=lambda x, w, b: F.batch_norm(x, None, None, w, b, True)
)
call("instance_norm", IMAGE, positive(3), spread(3), fixed=lambda x, w, b: F.instance_norm(x, None, None, w, b))
call("group_norm", spread(2, 4, 5), positive(4), spread(4), fixed=lambda x, w, b: F.group_norm(x, 2, w, b))
call("layer_norm", X, positive(4), spread(4), fixed=lambda x, w, b: F.layer_norm(x, 4, w, b))
call("rms_norm", X, positive(4), fixed=lambda x, w: F.rms_norm(x, 4, w, 1e-6))
call("local_response_norm", IMAGE, size=3)
call("normalize", X)
call("weight_norm", X, positive(3, 1))
call("scaled_dot_product_attention", spread(2, 3, 4), spread(2, 5, 4), spread(2, 5, 3))
call("scaled_dot_product_attention", *(spread(1, 3, 4, seed=i) for i in range(3)), label="causal", is_causal=True)

# losses
for _name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
    call(_name, X, spread(3, 4, seed=1))
for _name in ("soft_margin_loss", "hinge_loss", "hinge_embedding_loss"):
    call(_name, X, signs(3, 4))
call("multilabel_soft_margin_loss", X, (signs(3, 4) + 1) / 2)
call("binary_cross_entropy", spread(3, 4, low=0.1, high=0.9), spread(3, 4, seed=1, low=0.1, high=0.9))
_logits = (X, spread(3, 4, low=0.1, high=0.9), positive(4), positive(4, seed=1))
call(
    "binary_cross_entropy_with_logits",
    *_logits,
    fixed=lambda x, t, w, p: F.binary_cross_entropy_with_logits(x, t, w, pos_weight=p),
)
call("sigmoid_focal_loss", X, (signs(3, 4) + 1) / 2)
call("sigmoid_focal_loss", X, spread(3, 4, low=0.1, high=0.9), label="other powers", alpha=-1.0, gamma=1.5, reduction="mean")
call("dice_loss", spread(3, 4, low=0.1, high=0.9), spread(3, 4, seed=1, low=0.1, high=0.9))
call("kl_div", X, positive(3, 4))
call("poisson_nll_loss", X, positive(3, 4) * 3, full=True)
call("gaussian_nll_loss", X, spread(3, 4, seed=1), positive(3, 4))
call("nll_loss", X, whole(4, 3))
call("ctc_loss", spread(4, 2, 3, high=0.0), np.array([[1, 2], [2, 2]]), np.array([4, 3]), np.array([2, 1]))
call("cross_entropy", X, whole(4, 3), label_smoothing=0.1)
call("cross_entropy", X, positive(3, 4) / 4, label="shares")
call("multi_margin_loss", X, whole(4, 3))
call("multilabel_margin_loss", X, np.array([[1, 2, -1, 0], [3, -1, 0, 0], [0, 1, 2, -1]]))
call("pairwise_distance", X, spread(3, 4, seed=1))
call("cosine_similarity", X, spread(3, 4, seed=1))
call("cosine_embedding_loss", X, spread(3, 4, seed=1), np.array([1, -1, 1]))
call("margin_ranking_loss", spread(5), spread(5, seed=1), signs(5))
call("triplet_margin_loss", X, spread(3, 4, seed=1), spread(3, 4, seed=2), swap=True)

# recurrent cells and networks
_HIDDEN: dict[str, int] = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "lstm": 4}
for _name, _gates in _HIDDEN.items():
    _state, _w = spread(2, 3), (unit(3 * _gates, 4), unit(3 * _gates, 3, seed=1), unit(3 * _gates), unit(3 * _gates, seed=1))
    if _name == "lstm":
        call("lstm_cell", spread(2, 4), _state, unit(2, 3), *_w, fixed=lambda x, h, c, *w: F.lstm_cell(x, (h, c), *w))
    else:
        call(f"{_name}_cell", spread(2, 4), _state, *_w)

# positions
_AT = np.array([[0, 2, 1, 1], [2, 0, 0, 1]])
call("gather", X, _AT, fixed=lambda x, i: F.gather(x, 0, i))
call("take_along_dim", X, _AT - 3, dim=0)
call("take", X, np.array([0, 5, -1, 5]))
call("index_select", X, np.array([2, 0, 2]), fixed=lambda x, i: F.index_select(x, 0, i))
call("embedding", np.array([[0, 2], [1, 2]]), X)
call("scatter", X, _AT, spread(2, 4), fixed=lambda x, i, s: F.scatter(x, 1, i, s))
call("scatter_add", X, _AT, spread(2, 4), fixed=lambda x, i, s: F.scatter_add(x, 0, i, s))
for _reduce in ("sum", "mean", "amax", "amin"):
    call(
        "scatter_reduce",
        *(X, _AT, spread(2, 4)),
        label=_reduce,
        fixed=lambda x, i, s, r=_reduce: F.scatter_reduce(x, 0, i, s, r, False),
    )
for _reduce in ("prod", "mean", "amax", "amin"):
    call(
        "index_reduce",
        X,
        np.array([2, 0]),
        spread(2, 4),
        label=_reduce,
        fixed=lambda x, i, s, r=_reduce: F.index_reduce(x, 0, i, s, r),
    )
call("put", X, np.array([7, 2, 0]), spread(3))
call("masked_scatter", X, X > 0, spread(12, seed=1))
call("select_scatter", X, spread(4), dim=0, index=1)
call("slice_scatter", X, spread(3, 2), dim=1, start=1, end=4, step=2)
call("diagonal_scatter", X, spread(3), offset=1)
call("as_strided", X, size=(2, 3), stride=(3, 2), storage_offset=1)
call("as_strided_scatter", X, spread(2, 2), size=(2, 2), stride=(4, 2), storage_offset=1)
call("embedding_renorm", X, np.array([0, 2]), fixed=lambda w, i: F.embedding_renorm(w, i, 0.7))
for _mode in ("sum", "mean", "max"):
    call("embedding_bag", np.array([[0, 2], [1, 2]]), X, label=_mode, mode=_mode)
call("grid_sample", IMAGE, unit(2, 4, 3, 2), align_corners=False)
call("grid_sample", IMAGE, unit(2, 4, 3, 2), label="bicubic", mode="bicubic", padding_mode="border", align_corners=True)
call("affine_grid", spread(2, 2, 3), size=(2, 3, 4, 5), align_corners=False)
call("addbmm", spread(3, 5), spread(2, 3, 4), spread(2, 4, 5), beta=0.5, alpha=2.0)
call("dist", X, spread(3, 4, seed=1), p=3.0)
call("index_add", X, np.array([2, 0]), spread(2, 4), fixed=lambda x, i, s: F.index_add(x, 0, i, s, alpha=0.5))

# views and movements
for _name, _options in {
    **dict.fromkeys(("cast",), {"dtype": "float64"}),
    "broadcast_to": {"size": (2, 3, 4)},
    "expand": {"shape": (2, 3, 4)},
    "chunk": {"chunks": 2},
    "diag_embed": {},
    "flip": {"dims": (0,)},
    "movedim": {"source": 0, "destination": 1},
    "moveaxis": {"source": 0, "destination": 1},
    "narrow": {"dim": 1, "start": 1, "length": 2},
    "pad": {"pad": (1, 2), "mode": "reflect"},
    "permute": {"dims": (1, 0)},
    "repeat_interleave": {"repeats": 2},
    "reshape": {"shape": (2, 6)},
    "roll": {"shifts": 1},
    "select": {"dim": 1, "index": 2},
    "split": {"split_size_or_sections": 2},
    "squeeze": {},
    "swapaxes": {"dim0": 0, "dim1": 1},
    "swapdims": {"dim0": 0, "dim1": 1},
    "tensor_split": {"indices_or_sections": 2},
    "tile": {"dims": (2, 1)},
    "transpose": {"dim0": 0, "dim1": 1},
    "unbind": {},
    "unflatten": {"dim": 1, "sizes": (2, 2)},
    "unsqueeze": {"dim": 1},
}.items():
    call(_name, X, **_options)
for _name in ("cat", "concat", "stack", "hstack", "vstack", "dstack"):
    call(_name, X, spread(3, 4, seed=1), fixed=lambda a, b, f=F.FUNCTIONS[_name]: f([a, b]))
call("repeat", X, fixed=lambda x: F.repeat(x, 2, 1))
call("getitem", X, fixed=lambda x: x[1:, ::2])
call("expand_as", spread(3, 1), X, fixed=lambda a, b: F.expand_as(a, b) * b)
call("broadcast_tensors", spread(3, 1), X, fixed=lambda a, b: F.broadcast_tensors(a, b))
call("meshgrid", spread(3), spread(4), fixed=lambda a, b: F.meshgrid(a, b))
call("pixel_shuffle", spread(1, 4, 2, 3), upscale_factor=2)
call("pixel_unshuffle", spread(1, 1, 4, 6), downscale_factor=2)
call("channel_shuffle", spread(1, 4, 2, 3), groups=2)
call("unfold", IMAGE, kernel_size=3, padding=1, stride=2)
call("fold", spread(2, 12, 9), output_size=(4, 4), kernel_size=2)
call("windows", X, dimension=1, size=2, step=1)
