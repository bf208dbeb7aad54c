"""load_weights: torch's weights in graphrt's networks, name maps, and the report of what does not fit."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from conftest import INTERPRETED
from hypothesis import given
from safetensors.torch import save_file

import graphrt as grt
from graphrt import models, nn
from graphrt.errors import ArgumentError, InputError

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench.peers import residual

pytestmark = pytest.mark.skipif(INTERPRETED, reason="loading weights has nothing to do with the target")


def ours(first: int, depth: int) -> Callable[[str], str]:
    """Names of the torch network, a Sequential whose blocks begin at ``first``, ``depth`` to a stage, as graphrt has them."""
    parts = {"body.0": "conv1", "body.1": "bn1", "body.3": "conv2", "body.4": "bn2"}

    def rename(name: str) -> str:
        number, rest = name.split(".", 1)
        stage, block = divmod(int(number) - first, depth)
        if stage < 0:
            return f"{('conv1', 'bn1')[int(number)]}.{rest}"
        if rest in ("weight", "bias"):
            return f"fc.{rest}"
        for theirs, name in parts.items():
            rest = rest.replace(theirs, name)
        return f"layer{stage + 1}.{block}.{rest.replace('shortcut', 'downsample')}"

    return rename


NETWORKS: dict[str, Any] = {
    "resnet20": (models.resnet20, lambda: residual((3, 3, 3), (16, 32, 64), 1, 10, padded=True), ours(3, 3)),
    "resnet18": (lambda: models.resnet18(10), lambda: residual((2, 2, 2, 2), (64, 128, 256, 512), 1, 10), ours(4, 2)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_torch_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    build, peer, rename = NETWORKS[name]
    torch.manual_seed(0)
    theirs, x = peer(), torch.randn(2, 3, 32, 32)
    theirs.train()(x)  # statistics that are not the neutral ones
    save_file(theirs.eval().state_dict(), tmp_path / "net.safetensors")
    net = build().eval()
    report = grt.load_weights(net, tmp_path / "net.safetensors", names=rename)
    assert report.complete and not report.ignored and len(report.loaded) == len(theirs.state_dict())
    graph = grt.Graph()
    graph.output("y", net(graph.input("x", (2, 3, 32, 32))))
    y = grt.compile(graph, target="cpu")(x=x)["y"]
    torch.testing.assert_close(y, theirs(x), rtol=1e-4, atol=1e-4)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def peer() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()


def test_the_state_of_a_program() -> None:
    """It has what the program reads: not the counter of the norm, which the file has."""
    net = small().eval()
    graph = grt.Graph()
    y = net(graph.input("x", (2, 3)))
    program = grt.compile(y, target="cpu")
    report = grt.load_weights(program.state, peer())
    assert report.ignored == ("1.num_batches_tracked",)
    np.testing.assert_array_equal(program.state["0.weight"], peer()["0.weight"])
    assert (net.state_dict()["0.weight"] != peer()["0.weight"].numpy()).any()  # the module keeps its own


def test_what_does_not_fit_is_reported_and_nothing_is_changed() -> None:
    given = peer()
    given["0.weight"], given["head.weight"] = given["0.weight"][:2], torch.ones(1)
    del given["1.bias"], given["1.num_batches_tracked"]
    net = small()
    before = net.state_dict()
    with pytest.raises(InputError) as error:
        grt.load_weights(net, given)
    for line in (
        "the weights do not fit the Sequential: 4 loaded, 1 missing, 1 unexpected, 1 mismatched, 1 ignored",
        "missing     1.bias",
        "unexpected  head.weight",
        "mismatched  0.weight: is float32[4, 3], got float32[2, 3]",
        "names=..., or pass strict=False",
    ):
        assert line in str(error.value)
    assert all((net.state_dict()[n] == a).all() for n, a in before.items())
    report = grt.load_weights(net, given, strict=False)
    assert (report.missing, report.unexpected, report.ignored) == (("1.bias",), ("head.weight",), ("1.num_batches_tracked",))
    assert not report.complete
    np.testing.assert_array_equal(net.state_dict()["0.bias"], peer()["0.bias"])
    np.testing.assert_array_equal(net.state_dict()["0.weight"], before["0.weight"])


def test_names_as_a_dict() -> None:
    given = {f"backbone.{n}": v for n, v in peer().items()} | {"head.weight": torch.ones(7)}
    names: dict[str, str | None] = {n: n.removeprefix("backbone.") for n in given}
    names["head.weight"] = None
    report = grt.load_weights(small(), given, names=names)
    assert report.complete and report.ignored == ("head.weight",)
    with pytest.raises(InputError, match="the names map both 'backbone.0.weight' and 'backbone.0.bias' to 'w'"):
        grt.load_weights(small(), given, names=lambda n: "w")


@given(st.sampled_from([torch.float16, torch.bfloat16, torch.float64]))
def test_floats_are_converted(dtype: torch.dtype) -> None:
    net = small()
    grt.load_weights(net, {n: v.to(dtype) if v.is_floating_point() else v for n, v in peer().items()})
    np.testing.assert_array_equal(net.state_dict()["0.weight"], peer()["0.weight"].to(dtype).float())


def test_integers_are_no_weights() -> None:
    with pytest.raises(InputError, match=r"mismatched  0.bias: is float32\[4\], got int32\[4\]"):
        grt.load_weights(small(), peer() | {"0.bias": torch.ones(4, dtype=torch.int32)})


def test_bfloat16_files(tmp_path: Path) -> None:
    save_file({n: v.bfloat16() if v.is_floating_point() else v for n, v in peer().items()}, tmp_path / "half.safetensors")
    assert grt.load_weights(small(), str(tmp_path / "half.safetensors")).complete


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="into a Module or a State, got Tensor"):
        grt.load_weights(torch.ones(1), {})  # type: ignore[arg-type]
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(InputError, match="text is not a safetensors file"):
        grt.load_weights(small(), tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        grt.load_weights(small(), tmp_path / "none")


def test_a_name_map_may_give_the_shape_too(rng: np.random.Generator) -> None:
    """A 1x1 convolution, or one over a whole map, as the linear layer that it is; another shape is told, and nothing loaded."""
    net, weight = nn.Linear(6, 2), rng.standard_normal((2, 3, 2, 1)).astype("f")
    given = {"conv.weight": weight, "conv.bias": np.ones(2, np.float32)}
    report = grt.load_weights(net, given, names={"conv.weight": ("weight", (-1, 6)), "conv.bias": "bias"})
    assert report.complete
    np.testing.assert_array_equal(net.weight.array, weight.reshape(2, 6))
    for shape, described in (((-1, 4), r"\[3, 4\]"), ((2, 3), r"\[2, 3, 2, 1\]")):
        with pytest.raises(InputError, match=rf"mismatched  weight: is float32\[2, 6\], got float32{described}"):
            grt.load_weights(net, given, names={"conv.weight": ("weight", shape), "conv.bias": "bias"})
