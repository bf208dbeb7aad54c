"""Training steps that users write: several losses of several parts of a network in one program; freezing and unfreezing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import INTERPRETED

import graphrt as grt
from graphrt import nn, optim
from graphrt import ops as F
from graphrt.data import Dataset
from graphrt.errors import ArgumentError, GraphError, NumericError
from graphrt.train import Trainer

torch = pytest.importorskip("torch")


class Pair(nn.Module):
    """A generator of six numbers, and a critic of them."""

    def __init__(self) -> None:
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6, bias=False), nn.BatchNorm1d(6))
        self.critic = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, z: grt.Value) -> grt.Value:
        return self.generator(z)


def bce(logits: grt.Value, label: float) -> grt.Value:
    return F.binary_cross_entropy_with_logits(logits, F.full_like(logits, label))


def adversarial(net: Pair, x: grt.Value, z: grt.Value, minimize: Callable[..., None]) -> dict[str, grt.Value]:
    fake = net.generator(z)
    loss = bce(net.critic(x), 1.0) + bce(net.critic(F.stop_gradient(fake)), 0.0)
    minimize(loss, net.critic)
    fooled = bce(net.critic(fake), 1.0)
    minimize(fooled, net.generator)
    return {"loss": loss, "generator_loss": fooled}


def pair(step: Any = adversarial, target: str = "reference", **options: Any) -> Trainer:
    nn.manual_seed(1)
    given = {"optimizer": {"critic": optim.SGD(0.1, momentum=0.9), "generator": optim.Adam(0.01)}, **options}
    return Trainer(Pair(), step=step, target=target, **given)


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [(rng.standard_normal((16, 6)).astype("f") + 1, rng.standard_normal((16, 4)).astype("f")) for _ in range(count)]


def test_two_networks_with_an_optimizer_each_equal_torch(target: str) -> None:
    """The critic is updated first, and the generator by the critic as it is then, in one program."""
    trainer = pair(target=target)
    theirs = torch.nn.ModuleDict(
        {
            "generator": torch.nn.Sequential(
                torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6, bias=False), torch.nn.BatchNorm1d(6)
            ),
            "critic": torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LeakyReLU(0.2), torch.nn.Linear(8, 1)),
        }
    )
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in trainer.net.state_dict().items()})
    generator, critic = theirs["generator"], theirs["critic"]
    first = torch.optim.SGD(critic.parameters(), 0.1, momentum=0.9)
    second = torch.optim.Adam(generator.parameters(), 0.01)

    def loss_of(logits: Any, label: float) -> Any:
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label))

    for x, z in batches(4 if INTERPRETED else 20):
        found = trainer.step(x, z)
        fake = generator(torch.from_numpy(z))
        loss = loss_of(critic(torch.from_numpy(x)), 1.0) + loss_of(critic(fake.detach()), 0.0)
        first.zero_grad()
        loss.backward()
        first.step()
        fooled = loss_of(critic(fake), 1.0)
        second.zero_grad()
        fooled.backward()
        second.step()
        assert found == pytest.approx({"loss": loss.item(), "generator_loss": fooled.item()}, rel=1e-4)
    assert len(trainer._programs) == 1
    trainer.sync()
    own = trainer.net.state_dict()
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(own[name], tensor, rtol=1e-3, atol=1e-4, err_msg=name)


def test_fit_evaluate_and_checkpoints_of_a_step_function(tmp_path: Path) -> None:
    """History, evaluation without updates, predictions by ``forward``, and a run that goes on bit for bit."""

    def drawing(net: Pair, x: grt.Value, y: grt.Value, minimize: Callable[..., None]) -> dict[str, grt.Value]:
        return adversarial(net, x, F.normal(x.graph, (x.shape[0], 4)), minimize)

    x = np.concatenate([x for x, _ in batches(3)])
    data = Dataset(x, np.zeros(len(x), np.int64))
    whole = pair(drawing, metrics="grad_norm", schedule=optim.Cosine())
    history = whole.fit(data, 4, 16, progress=False)
    assert history.columns().keys() >= {"loss", "generator_loss", "grad_norm"} and not history.accuracy
    halves = pair(drawing, metrics="grad_norm", schedule=optim.Cosine())
    halves.fit(data, 4, 16, callbacks=[lambda trainer, row: trainer.epoch < 2], progress=False)
    halves.save(tmp_path / "half.safetensors")
    halves = pair(drawing, metrics="grad_norm", schedule=optim.Cosine(), seed=3)
    halves.load(tmp_path / "half.safetensors")
    assert halves.fit(data, 4, 16, progress=False).loss == history.loss
    assert all(np.array_equal(whole.state[name], halves.state[name]) for name in whole.state)
    before = {name: array.copy() for name, array in whole.state.items() if name != "rng.counter"}
    assert whole.evaluate(data, 16).keys() == {"loss", "generator_loss"}
    assert all(np.array_equal(whole.state[name], array) for name, array in before.items())
    assert whole.predict(np.zeros((5, 4), np.float32)).shape == (5, 6)


def test_one_loss_of_everything_is_the_usual_step() -> None:
    """Also in float16, whose losses are scaled, and with a frozen part."""
    data = batches(1)[0]
    target = data[0][:, :1].copy()

    def step(net: nn.Module, x: grt.Value, y: grt.Value, minimize: Callable[..., None]) -> grt.Value:
        loss = F.mse_loss(net(x), y)
        minimize(loss)
        return loss

    for options in ({}, {"autocast": "float16"}):
        found = []
        for how in ({"step": step}, {"loss": nn.MSELoss()}):
            nn.manual_seed(0)
            net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
            net[0].requires_grad_(False)
            trainer = Trainer(net, optimizer=optim.Adam(0.01), target="reference", metrics="grad_norm", **how, **options)
            found.append([trainer.step(data[0], target) for _ in range(3)])
        assert found[0] == found[1] and found[0][2]["loss"] < found[0][0]["loss"], options
    halves = pair(autocast="float16")
    losses = [halves.step(*data)["loss"] for _ in range(12)]
    assert losses[-1] < losses[0] and {"scaler.scale", "scaler1.scale"} <= set(halves.state)


def test_step_functions_that_do_not_fit() -> None:
    x, z = batches(1)[0]

    def twice(net: Pair, x: grt.Value, z: grt.Value, minimize: Callable[..., None]) -> grt.Value:
        for _ in range(2):
            loss = bce(net.critic(x), 1.0)
            minimize(loss, net.critic)
        return loss

    def returning(found: Any) -> Any:
        def step(net: Pair, x: grt.Value, z: grt.Value, minimize: Callable[..., None]) -> Any:
            loss = bce(net.critic(x), 1.0)
            minimize(loss, net.critic)
            return found(loss, x)

        return step

    cases: list[tuple[Any, type[Exception], str]] = [
        (twice, GraphError, "has an update already"),
        (returning(lambda loss, x: {"critic": loss}), ArgumentError, "with \"loss\" among them, got the names 'critic'"),
        (returning(lambda loss, x: None), ArgumentError, "returns its loss, .* got NoneType"),
        (returning(lambda loss, x: {"loss": loss, "x": x}), ArgumentError, "x must return a scalar"),
        (lambda net, x, z, minimize: bce(net.critic(x), 1.0), ArgumentError, "has minimised nothing"),
        (lambda net, x, z, minimize: minimize(F.mean(x), nn.ReLU()), ArgumentError, "ReLU has no trainable parameters"),
    ]
    for step, error, message in cases:
        with pytest.raises(error, match=message):
            pair(step).step(x, z)
    with pytest.raises(ArgumentError, match="takes no sample_weight"):
        pair().step(x, z, sample_weight=np.ones(16, "f"))
    for given in ({}, {"loss": nn.MSELoss()}, {"optimizer": optim.SGD(0.1)}):
        with pytest.raises(ArgumentError, match="needs an optimizer, and either a loss or a step function"):
            Trainer(Pair(), **given)
    with pytest.raises(ArgumentError, match="needs an optimizer, and either"):
        pair(loss=nn.MSELoss())
    with pytest.raises(ArgumentError, match="metrics may be grad_norm alone"):
        pair(metrics=["accuracy"])
    with pytest.raises(ArgumentError, match="an optimizer is one of graphrt.optim"):
        pair(optimizer={"critic": 3})
    with pytest.raises(ArgumentError, match=r"got the class Adam, of which Adam\(\.\.\.\) makes one"):
        pair(optimizer=optim.Adam)
    with pytest.raises(ArgumentError, match="no parameter is named like 'generatr"):
        pair(optimizer={"critic": optim.SGD(0.1), "generatr": optim.SGD(0.1)}).step(x, z)
    with pytest.raises(ArgumentError, match=r"critic\.\S+ has no optimizer: the parts that have one are generator"):
        pair(optimizer={"generator": optim.SGD(0.1)}).step(x, z)
    with pytest.raises(NumericError, match="x holds NaN"):
        pair().step(np.full_like(x, np.nan), z)


def test_unfreezing_goes_on_with_the_moments_of_before(tmp_path: Path) -> None:
    """As torch's Adam passes parameters without gradient over: they, and their count of steps, wait, also in a checkpoint."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((16, 6)).astype("f"), rng.integers(0, 3, 16)
    nn.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    theirs = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    theirs.load_state_dict({name: torch.from_numpy(array) for name, array in net.state_dict().items()})
    trainer = Trainer(net, nn.CrossEntropyLoss(), optim.Adam(0.02), target="reference")
    optimizer = torch.optim.Adam(theirs.parameters(), 0.02)
    for i, frozen in enumerate([False] * 5 + [True] * 4 + [False] * 5 + [True] * 2 + [False] * 3):
        if i in (7, 15, 17):
            trainer.save(tmp_path / "run.safetensors")
            trainer = Trainer(net, nn.CrossEntropyLoss(), optim.Adam(0.02), target="reference")
            trainer.load(tmp_path / "run.safetensors")
        net[0].requires_grad_(not frozen)
        theirs[0].requires_grad_(not frozen)
        found = trainer.step(x, y)["loss"]
        loss = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert found == pytest.approx(loss.item(), rel=1e-5)
    trainer.sync()
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(net.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, err_msg=name)
