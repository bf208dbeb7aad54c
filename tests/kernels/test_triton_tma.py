"""``conv_tma``: computed in Triton's interpreter against NumPy, and compiled for GPUs that have a tensor memory accelerator."""

from __future__ import annotations

import os
from typing import Any

import pytest

triton = pytest.importorskip("triton")

import triton.language as tl  # noqa: E402
from layers import RESNET50, conv  # noqa: E402

from kernels.triton import closures as cl  # noqa: E402
from kernels.triton import config as cfg  # noqa: E402
from kernels.triton.conv_tma import conv_tma, unprepared  # noqa: E402
from kernels.triton.cost import Machine  # noqa: E402
from kernels.triton.tiles import cast  # noqa: E402

HERE = Machine(interpret=True)
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="needs TRITON_INTERPRET=1, set before Triton is imported")
compiled = pytest.mark.skipif(INTERPRETED, reason="compiles, so it cannot run under TRITON_INTERPRET=1")


@triton.jit
def affine_relu(blocks, n, c, h, w, mask, ARGS):
    """A batch norm and its ReLU applied to what was loaded: not 0 at 0, so what lies outside is masked after it."""
    x = blocks[0]
    scale = tl.load(ARGS[13] + c, mask=c < ARGS[4], other=0.0)
    shift = tl.load(ARGS[14] + c, mask=c < ARGS[4], other=0.0)
    return tl.where(mask, cast(tl.maximum(x.to(tl.float32) * scale + shift, 0.0), x.dtype), 0)


@triton.jit
def where_inside(blocks, n, c, h, w, mask, ARGS):
    """What a prologue is told of places: 1 more for each image, row and column."""
    x = blocks[0]
    return tl.where(mask, (x.to(tl.float32) + n + h + w).to(x.dtype), 0)


@triton.jit
def norm_gradient(blocks, n, c, h, w, mask, ARGS):
    """The gradient of a batch norm's input: two maps for one operand."""
    dy, other = blocks
    scale = tl.load(ARGS[13] + c, mask=c < ARGS[7], other=0.0)
    shift = tl.load(ARGS[14] + c, mask=c < ARGS[7], other=0.0)
    return tl.where(mask, cast(dy.to(tl.float32) * scale + other.to(tl.float32) * shift + 1.0, dy.dtype), 0)


# --- where it applies ------------------------------------------------------------------------------------------------


def test_takes() -> None:
    z = conv(2, 64, 14, 64, 3)
    assert cfg.conv_takes_tma("fwd", z, 2, "sm_90") and cfg.conv_takes_tma("dgrad", z, 2, "sm_100")
    assert not cfg.conv_takes_tma("wgrad", z, 2, "sm_90") and not cfg.conv_takes_tma("fwd", z, 2, "sm_80")
    assert not cfg.conv_takes_tma("fwd", conv(2, 3, 14, 64, 3), 2, "sm_90")  # 6 bytes a pixel
    assert not cfg.conv_takes_tma("fwd", conv(2, 64, 14, 64, 3, 1, 1, 2), 2, "sm_90")  # groups
    strided = conv(2, 64, 14, 64, 1, 2)
    assert cfg.conv_takes_tma("fwd", strided, 2, "sm_90") and not cfg.conv_takes_tma("dgrad", strided, 2, "sm_90")
    assert not cfg.conv_takes_tma("fwd", conv(2, 64, 14, 64, 3, 2), 2, "sm_90")


def test_boxes() -> None:
    """Powers of two that waste least; with segments only those that take pixels in the order of memory."""
    assert [cfg.conv_box("fwd", conv(256, 64, s, 64, 3), 128) for s in (56, 28, 14, 7)] == [(8, 8), (4, 4), (2, 2), (1, 1)]
    assert cfg.conv_box("fwd", conv(256, 64, 7, 64, 1), 128) == (1, 128)  # every pixel by itself: in any order
    assert cfg.conv_box("fwd", conv(256, 64, 14, 64, 3), 128, 64) is None
    assert cfg.conv_box("fwd", conv(4, 64, 8, 64, 3), 128, 64) == (8, 8)
    assert cfg.conv_box("dgrad", conv(4, 64, 32, 64, 3), 128, 64) == (4, 32)
    assert cfg.conv_box("fwd", conv(4, 64, 128, 64, 3), 64, 64) == (1, 64)
    assert not cfg.conv_tma_configs("fwd", conv(256, 64, 14, 64, 3), 2, segment=64)


# --- numbers --------------------------------------------------------------------------------------------------------

CASES = {
    "padded": ((3, 24, (5, 9), 16, (3, 3)), dict(pads=(1, 1, 1, 1))),
    "asymmetric": ((1, 8, (9, 7), 8, (3, 2)), dict(pads=(2, 0, 0, 1), dil=(2, 1))),
    "pointwise": ((3, 16, (7, 7), 24, (1, 1)), {}),
    "pointwise_padded": ((1, 8, (5, 5), 8, (1, 1)), dict(pads=(1, 1, 1, 1))),
    "pointwise_strided": ((3, 16, (7, 9), 8, (1, 1)), dict(stride=(2, 3))),
    "small": ((1, 8, (1, 1), 8, (3, 3)), dict(pads=(1, 1, 1, 1))),
}
TILES = {"whole": {}, "row": dict(BM=32, BN=16, BK=16, BH=1, BW=8), "box": dict(BM=16, BN=32, BK=16, BH=4, BW=2, PROGRAMS=3)}


@interpreted
@pytest.mark.interpret
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("w_rows", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_conv_tma(name: str, w_rows: bool, tile: str) -> None:
    """Forward, and where the stride is 1 the gradient, of halves; filters in both orders."""
    import numpy as np
    from test_triton_interpret import conv_args, conv_case, conv_data, conv_reference, device, poisoned, written

    z = conv_case(*CASES[name][0], **CASES[name][1])
    x, w, dy = (t.astype(np.float16) for t in conv_data(z))
    y, dx, _ = conv_reference(z, x, w, dy)
    x_, w_, dy_ = device(x, 0, 2, 3, 1), device(w, 2, 3, 1, 0) if w_rows else device(w, 0, 2, 3, 1), device(dy, 0, 2, 3, 1)
    for kind, expected in (("fwd", y), ("dgrad", dx)):
        gradient = kind == "dgrad"
        if not cfg.conv_takes_tma(kind, z, 2, "sm_90"):
            assert gradient and z.STRIDE_H > 1
            continue
        ((_, config),) = cfg.conv_tma_configs(kind, z, 2, HERE)
        config |= TILES[tile]
        if cfg.is_pointwise(z):
            config |= dict(BH=1, BW=config["BM"])
        out = poisoned(expected.size)
        args = conv_args(z, out, w_, dy_) if gradient else conv_args(z, x_, w_, out)
        conv_tma[(cfg.conv_tma_grid(kind, z, config),)](
            args, unprepared, cl.store_x if gradient else cl.store_y, X_PLACES=(2 if gradient else 0,), W_PLACE=1,
            W_ROWS=w_rows, GRADIENT=gradient, G=z, INPUT_PRECISION="ieee", ACC=tl.float32, NAME="conv", **config,
        )  # fmt: skip
        expected = expected.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(written(out, expected.shape), expected, rtol=1e-3, atol=1e-3)


@interpreted
@pytest.mark.interpret
@pytest.mark.parametrize("prepare", [affine_relu, where_inside], ids=["affine_relu", "where_inside"])
@pytest.mark.parametrize("name", ["padded", "pointwise", "pointwise_padded", "pointwise_strided"])
def test_a_prologue_is_masked_at_the_edges(name: str, prepare: Any) -> None:
    """A prologue that makes something of the zeros that lie outside; and one that asks where it is."""
    import numpy as np
    import torch
    from test_triton_interpret import conv_args, conv_case, conv_data, conv_reference, device, poisoned, written

    z = conv_case(*CASES[name][0], **CASES[name][1])
    x, w, dy = (t.astype(np.float16) for t in conv_data(z))
    scale, shift = np.random.default_rng(4).standard_normal((2, z.C)).astype(np.float32) + 1
    if prepare is affine_relu:
        a = np.maximum(x.astype(np.float32) * scale[:, None, None] + shift[:, None, None], 0).astype(np.float16)
    else:
        n, h, w_at = (np.arange(size, dtype=np.float32) for size in (z.N, z.H, z.W))
        a = (x + n[:, None, None, None] + h[:, None] + w_at).astype(np.float16)
    expected = conv_reference(z, a, w, dy)[0].transpose(0, 2, 3, 1)
    ((_, config),) = cfg.conv_tma_configs("fwd", z, 2, HERE)
    out = poisoned(expected.size)
    args = (*conv_args(z, device(x, 0, 2, 3, 1), device(w, 2, 3, 1, 0), out), *map(torch.from_numpy, (scale, shift)))
    conv_tma[(cfg.conv_tma_grid("fwd", z, config),)](
        args, prepare, cl.store_y, X_PLACES=(0,), W_PLACE=1, W_ROWS=True, GRADIENT=False, G=z, INPUT_PRECISION="ieee",
        ACC=tl.float32, NAME="conv", **config,
    )  # fmt: skip
    np.testing.assert_allclose(written(out, expected.shape), expected, rtol=2e-3, atol=2e-2)


@interpreted
@pytest.mark.interpret
@pytest.mark.parametrize("name", ["padded", "pointwise"])
def test_a_prologue_makes_one_operand_of_two_maps(name: str) -> None:
    import numpy as np
    import torch
    from test_triton_interpret import conv_args, conv_case, conv_data, conv_reference, device, poisoned, written

    z = conv_case(*CASES[name][0], **CASES[name][1])
    x, w, dy = (t.astype(np.float16) for t in conv_data(z))
    rng = np.random.default_rng(4)
    scale, shift = rng.standard_normal((2, z.K)).astype(np.float32)
    other = rng.standard_normal(dy.shape).astype(np.float16)
    given = dy.astype(np.float32) * scale[:, None, None] + other.astype(np.float32) * shift[:, None, None] + 1
    expected = conv_reference(z, x, w, given.astype(np.float16))[1].transpose(0, 2, 3, 1)
    ((_, config),) = cfg.conv_tma_configs("dgrad", z, 2, HERE)
    out = poisoned(expected.size)
    args = conv_args(z, out, device(w, 2, 3, 1, 0), device(dy, 0, 2, 3, 1))
    args = (*args, *map(torch.from_numpy, (scale, shift)), device(other, 0, 2, 3, 1))
    conv_tma[(cfg.conv_tma_grid("dgrad", z, config),)](
        args, norm_gradient, cl.store_x, X_PLACES=(2, 15), W_PLACE=1, W_ROWS=True, GRADIENT=True, G=z, INPUT_PRECISION="ieee",
        ACC=tl.float32, NAME="conv", **config,
    )  # fmt: skip
    np.testing.assert_allclose(written(out, expected.shape), expected, rtol=2e-3, atol=2e-2)


# --- code -----------------------------------------------------------------------------------------------------------

LAYERS = {
    "3x3": RESNET50["resnet50-256x14-256-3x3"],
    "1x1": RESNET50["resnet50-512x7-2048-1x1"],
    "strided": RESNET50["resnet50-512x28-1024-1x1s2"],
    "few": conv(128, 16, 32, 32, 3),
}


@compiled
@pytest.mark.aot
@pytest.mark.proof
@pytest.mark.parametrize("target,cores", [("sm_90", "HGMMA"), ("sm_100", "UTCHMMA")])
@pytest.mark.parametrize("kind,prepare", [("fwd", unprepared), ("fwd", affine_relu), ("dgrad", unprepared),
                                          ("dgrad", norm_gradient)],
                         ids=["fwd", "fwd_affine_relu", "dgrad", "dgrad_norm_gradient"])  # fmt: skip
@pytest.mark.parametrize(
    "layer", [pytest.param(n, marks=pytest.mark.kernels if n in ("strided", "few") else []) for n in LAYERS]
)
def test_code(layer: str, kind: str, prepare: Any, target: str, cores: str) -> None:
    """Maps and filters come by TMA alone, tensor cores multiply, and nothing spills, in one program a tile and in many."""
    from ahead import build

    z, gradient, prologue = LAYERS[layer], kind == "dgrad", prepare is not unprepared
    places = (2, 15) if prepare is norm_gradient else (2,) if gradient else (0,)
    if gradient and layer == "strided":
        assert not cfg.conv_takes_tma(kind, z, 2, target)
        return
    loads = (2 * prologue * len(places), 0)
    found = [c for _, c in cfg.conv_tma_configs(kind, z, 2, Machine(target), prologues=loads) if c["BM"] >= 64]
    walking = [c for c in found if c["PROGRAMS"]]
    assert walking or prologue
    for config, w_rows in ((next(c for c in found if not c["PROGRAMS"]), True), *((c, False) for c in walking[:1])):
        args = ["*bf16"] * 3 + [
            "*fp32",
            *(z.C, z.H, z.W, z.K, z.R, z.S, z.C, z.P, z.Q),
            "*fp32",
            "*fp32",
            "*bf16",
        ]
        r = build(
            conv_tma, target, args, config, PREPARE_X=prepare, EPILOGUE=cl.store_x if gradient else cl.store_y,
            X_PLACES=places, W_PLACE=1, W_ROWS=w_rows, GRADIENT=gradient, G=z, INPUT_PRECISION="tf32",
            ACC=tl.float32, NAME="conv",
        )  # fmt: skip
        assert r.name == "conv" and r.spills == 0 and r.uses("UTMALDG") and r.uses(cores), r
        assert all(".128" in i for i in r.accesses("STG.E")), r
        narrow = r.accesses("LDG.E", "LDGSTS.E")
        assert not narrow if not prologue else not any(".U16" in i for i in narrow), r
        assert r.programs(target) * r.warps >= 4, r
