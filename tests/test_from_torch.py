"""from_torch beside torch: modules of torch.nn, whole networks, the calling convention, shared parameters, errors."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import INTERPRETED, target_parameters
from torch import nn
from torch.nn import functional as F
from torch_cases import FAMILIES, Bundle, close, modes, objective, tensors
from torch_models import MODELS

import graphrt as grt
from graphrt import errors

COMPILED = [] if INTERPRETED else target_parameters()  # what would take the interpreter minutes

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")


def leaves(tree: Any) -> Any:
    """``tree`` with float tensors copied, and asked for gradients, unless they are targets that torch gives none."""
    if isinstance(tree, list | tuple):
        return type(tree)(leaves(t) for t in tree)
    return tree.clone().requires_grad_() if isinstance(tree, torch.Tensor) and tree.is_floating_point() else tree


def compare(module: nn.Module, args: tuple[Any, ...], target: str, train: bool) -> None:
    """Results, gradients of inputs and parameters, and buffers after one call, ours and torch's."""
    theirs = copy.deepcopy(module).train(train)
    mine, other = leaves(args), leaves(args)
    ours = grt.to_torch(grt.compile(grt.from_torch(module, args, train=train), target=target))
    got, expected = ours(*mine), theirs(*other)
    names = [f"result {i}" for i in range(len(tensors(expected)))]
    for name, a, b in zip(names, tensors(got), tensors(expected), strict=True):
        close(a, b, 1e-4, name)
    objective(expected).backward()
    objective(got).backward()
    for i, (a, b) in enumerate(zip(tensors(list(mine)), tensors(list(other)), strict=True)):
        if b.requires_grad:
            close(_grad(a), _grad(b), 1e-3, f"gradient of input {i}")
    for name, p in theirs.named_parameters():
        close(_grad(module.get_parameter(name)), _grad(p), 1e-3, f"gradient of {name}")
    for name, buffer in theirs.named_buffers():
        close(module.get_buffer(name), buffer, 1e-4, f"buffer {name}")


def _grad(t: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(t) if t.grad is None else t.grad


@modes()
def test_modules_of_torch_nn(family: str, train: bool) -> None:
    torch.manual_seed(0)
    cases = FAMILIES[family]
    compare(Bundle(cases), ([inputs for _, inputs in cases],), "reference", train)


@pytest.mark.parametrize("train", [pytest.param(False, marks=pytest.mark.proof), True], ids=["eval", "train"])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", COMPILED)
def test_networks(name: str, train: bool, target: str) -> None:
    torch.manual_seed(0)
    compare(MODELS[name](), (torch.randn(2, 3, 32, 32),), target, train)


@pytest.mark.interpret
@pytest.mark.parametrize("name", MODELS)
def test_networks_on_the_interpreter(name: str) -> None:
    torch.manual_seed(0)
    net, size = MODELS[name]().eval(), 32 if name == "ViT" else 16
    x = torch.randn(1, 3, size, size)
    close(grt.compile(net, x, target="interpret")(x), net(x), 1e-4, "logits")


@pytest.mark.interpret
@pytest.mark.parametrize("name", MODELS)
def test_gradients_of_networks_on_the_interpreter(name: str) -> None:
    torch.manual_seed(0)
    size = 32 if name == "ViT" else 16
    compare(MODELS[name](), (torch.randn(2, 3, size, size),), "interpret", True)


# --- how a program is called ------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    total: torch.Tensor
    parts: dict[str, Any]


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor, extra: dict[str, Any], *, power: int = 1) -> Pair:
        y = self.fc(x) ** power
        return Pair(y + extra["shift"], {"twice": [y * 2], "number": power, "nothing": None})


class Optional(torch.nn.Module):
    """A module whose second argument may be left out."""

    def forward(self, x: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        return x * 2 if y is None else x * 2 + y


def test_calls_with_other_arguments_than_the_example_name_them() -> None:
    x = torch.ones(2, 4)
    one, two = grt.compile(Optional(), (x,), target="reference"), grt.compile(Optional(), (x, x), target="reference")
    torch.testing.assert_close(two(x, x), 3 * x)
    torch.testing.assert_close(two(x, y=x), 3 * x)
    with pytest.raises(errors.InputError, match="'y' was left out of the example"):
        one(x, x)
    with pytest.raises(errors.InputError, match="missing argument 'y'"):
        two(x)
    with pytest.raises(errors.InputError, match="too many positional arguments"):
        two(x, x, x)
    for value in (None, "text"):
        with pytest.raises(errors.InputError, match=f"input 'y' .*, got {value!r}"):
            two(x, value)


class Defaults(torch.nn.Module):
    """Defaults of several kinds, by position and by name only."""

    def forward(
        self, x: torch.Tensor, power: float = 2.0, shape: Any = (-1,), y: torch.Tensor | None = None, *, mode: str = "sum"
    ) -> torch.Tensor:
        z = (x**power).reshape(shape)
        return (z if y is None else z + y).sum() if mode == "sum" else z


def test_a_default_may_be_given_or_left_out(tmp_path: Path) -> None:
    """In the example, in the call, in neither or in both; and so may that of a program that was saved."""
    x, plain, all_of_them = torch.randn(3, 4), {}, {"power": 2.0, "shape": (-1,), "y": None, "mode": "sum"}
    for i, example in enumerate((plain, {"shape": (-1,)}, all_of_them)):
        program = grt.compile(Defaults(), {"x": x, **example}, target="cpu")
        program.save(tmp_path / str(i))
        for called in (program, grt.load(tmp_path / str(i))):
            for args, named in (((), {}), ((2,), {}), ((2.0, (-1,), None), {}), ((), {"mode": "sum"}), ((), all_of_them)):
                torch.testing.assert_close(called(x, *args, **named), (x * x).sum())
            for named in ({"power": 3.0}, {"shape": (3, 4)}, {"y": x}, {"mode": "none"}, {"power": x}):
                with pytest.raises(errors.InputError, match="make another graph|the example had|structure of the example"):
                    called(x, **named)


def test_arguments_and_results_keep_their_structure() -> None:
    net, x = Nested(), torch.randn(4, 3)
    program = grt.compile(net, {"x": x, "extra": {"shift": torch.ones(2), "unused": 7}, "power": 2}, target="reference")
    for extra in ({"shift": torch.ones(2), "unused": 7}, {"unused": 7, "shift": torch.zeros(2)}):
        found, expected = program(x * 2, extra, power=2), net(x * 2, extra, power=2)
        assert isinstance(found, Pair) and found.parts["number"] == 2 and found.parts["nothing"] is None
        torch.testing.assert_close(found.total, expected.total)
        torch.testing.assert_close(found.parts["twice"], expected.parts["twice"])
    assert list(program.outputs) == ["total", "parts.twice.0"]
    by_name = program(x=x, extra_shift=torch.ones(2))
    torch.testing.assert_close(by_name.total, net(x, {"shift": torch.ones(2)}, power=2).total)
    with pytest.raises(errors.InputError, match="made for 2 where the arguments have 3"):
        program(x, {"shift": torch.ones(2), "unused": 7}, power=3)
    with pytest.raises(errors.InputError, match="structure of the example inputs"):
        program(x, [torch.ones(2)], power=2)
    with pytest.raises(errors.InputError, match=r"got shape \[5, 3\]"):
        program(torch.randn(5, 3), {"shift": torch.ones(2), "unused": 7}, power=2)


def test_one_tensor_given_twice_is_two_inputs() -> None:
    x = torch.ones(3)
    program = grt.compile(lambda a, b: a - b, (x, x), target="reference")
    assert program(x * 3, x).tolist() == [2.0, 2.0, 2.0]


def test_a_value_that_is_asked_for_is_given_by_name() -> None:
    graph = grt.from_torch(Nested(), (torch.ones(1, 3), {"shift": torch.ones(2)}))
    assert set(grt.compile(graph, target="reference")(torch.ones(1, 3), {"shift": torch.ones(2)})._fields) == {"total", "parts"}
    graph.output("weight", graph.sources["fc.weight"].outputs[0])
    found = grt.compile(graph, target="reference")(torch.ones(1, 3), {"shift": torch.ones(2)})
    assert list(found) == ["total", "parts.twice.0", "weight"]


# --- parameters and buffers -------------------------------------------------------------------------------------------------


def test_a_program_trains_the_module_itself(target: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 4))
    other = copy.deepcopy(net)
    x, y = torch.randn(6, 3, 5, 5), torch.randint(4, (6,))
    graph = grt.from_torch(lambda x, y: F.cross_entropy(net(x), y), (x, y), train=True)
    params = graph.parameters()
    assert [p.name for p in params] == [f"net.{n}" for n, _ in net.named_parameters()]
    grt.optim.SGD(lr=0.1, momentum=0.9).apply(params, grt.grad(graph.outputs["out"], params), graph.constant(0.1))
    program = grt.compile(graph, target=target)
    optimizer = torch.optim.SGD(other.parameters(), 0.1, 0.9)
    for _ in range(3):
        optimizer.zero_grad()
        expected = F.cross_entropy(other(x), y)
        expected.backward()
        optimizer.step()
        torch.testing.assert_close(program(x, y), expected.detach(), rtol=1e-4, atol=1e-5)
    program.state.sync_to_torch()
    for name, value in other.state_dict().items():
        torch.testing.assert_close(net.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_state_shares_memory_where_the_layout_allows() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 2, 3)).to(memory_format=torch.channels_last)
    net[1].weight = nn.Parameter(torch.randn(2, 3, 3, 6)[..., ::2])  # not dense: copied
    program = grt.compile(net, torch.randn(1, 2, 8, 8), target="cpu")
    x = torch.randn(1, 2, 8, 8)
    with torch.no_grad():
        net[0].weight.mul_(2.0)
        torch.testing.assert_close(program(x), net(x), rtol=1e-4, atol=1e-5)
        program.state.set("0.bias", [1.0, 2.0, 3.0])
        assert net[0].bias.tolist() == [1.0, 2.0, 3.0]
        program.state.set("1.weight", torch.ones(2, 3, 3, 3))
        assert not torch.equal(net[1].weight, torch.ones(2, 3, 3, 3))
        program.state.sync_to_torch()
        assert torch.equal(net[1].weight, torch.ones(2, 3, 3, 3))


def test_a_tied_parameter_is_one_parameter() -> None:
    net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    net[1].weight = net[0].weight
    graph = grt.from_torch(net, torch.tensor([1, 2]))
    assert [p.name for p in graph.parameters()] == ["0.weight"]


def test_the_mode_of_a_module_is_left_alone() -> None:
    net = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3))
    net[1].eval()
    grt.from_torch(net, torch.randn(4, 3), train=True)
    assert net.training and net[0].training and not net[1].training


def test_frozen_parameters_and_detached_values_get_no_gradient() -> None:
    net = nn.Linear(3, 3)
    net.bias.requires_grad_(False)
    graph = grt.from_torch(lambda x: (net(x).detach() * net(x)).sum(), torch.randn(2, 3))
    assert [p.name for p in graph.parameters()] == ["net.weight"]
    x = torch.randn(2, 3)
    found = grt.compile(grt.grad(graph.outputs["out"], graph.parameters()), target="reference")(x)[0]
    (net(x).detach() * net(x)).sum().backward()
    torch.testing.assert_close(found, net.weight.grad)


class Clipped(nn.Module):
    """A layer that holds its weights in a range, as the critics of Wasserstein GANs do, and scales them in place."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.scale = nn.Linear(4, 3), nn.Parameter(torch.tensor(1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.fc.weight.clamp_(-0.2, 0.2)
            self.scale.mul_(self.fc.weight.abs().max()).add_(1.0)
        return self.fc(x) * self.scale + self.fc.weight.sum()


def test_what_is_written_into_a_parameter_has_its_gradient(target: str) -> None:
    compare(Clipped(), (torch.randn(5, 4),), target, True)
    net = Clipped()
    theirs, x = copy.deepcopy(net), torch.randn(5, 4)
    grt.compile(grt.from_torch(net, x), target=target)(x)
    theirs(x)
    for mine, other in zip(net.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_dropout_drops_in_training_mode_only() -> None:
    x = torch.ones(1000)
    program = grt.compile(grt.from_torch(nn.Dropout(0.25), x, train=True), target="reference")
    first, second = program(x), program(x)
    assert first.unique().tolist() == pytest.approx([0.0, 4 / 3]) and not torch.equal(first, second)
    assert 0.15 < (first == 0).float().mean() < 0.35
    assert torch.equal(grt.compile(nn.Dropout(0.25), x, target="reference")(x), x)


def test_bfloat16_modules(target: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(36, 3)).bfloat16().eval()
    x = torch.randn(2, 2, 5, 5).bfloat16()
    found = grt.compile(net, x, target=target)(x)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, net(x), rtol=0.03, atol=0.03)


# --- origins and errors -----------------------------------------------------------------------------------------------------


class Oriented(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.stem(x).sum()  # the line that is looked for


def test_nodes_know_the_users_line_and_the_module() -> None:
    graph = grt.from_torch(Oriented(), torch.randn(2, 3))
    lines, start = inspect.getsourcelines(Oriented)
    line = start + next(i for i, text in enumerate(lines) if "looked for" in text)
    (matmul,) = [n for n in graph.nodes if n.op.name == "matmul"]
    assert matmul.origin.file == __file__ and matmul.origin.line == line and matmul.origin.source == "stem.0"


class Unknown(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.eigvalsh(x) + torch.special.airy_ai(x)


def test_operators_without_an_entry_are_named_with_the_line_and_the_remedy() -> None:
    with pytest.raises(errors.ConversionError, match="no entry for") as caught:
        grt.from_torch(Unknown(), torch.randn(3, 3))
    text = str(caught.value)
    assert "aten._linalg_eigh.default at" in text and "aten.special_airy_ai.default at" in text
    assert f"{__file__}:{inspect.getsourcelines(Unknown)[1] + 2}" in text and "frontends/torch/aten" in text


def test_what_an_entry_refuses_names_operator_and_line() -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.index_put(x, (x > 0,), torch.ones(2))

    with pytest.raises(errors.ConversionError, match=r"aten.index_put.* at .*test_from_torch.py:\d+.*depends on the data"):
        grt.from_torch(Masked(), torch.randn(3))


def test_control_flow_on_values_is_explained() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x

    with pytest.raises(errors.ConversionError, match=r"(?s)torch.export cannot trace.*torch.where") as caught:
        grt.from_torch(f, torch.randn(3))
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (3, (torch.ones(2),), "torch.nn.Module or a function"),
        (nn.ReLU(), 3, "must be a tuple, a dict or a tensor"),
        (nn.ReLU(), (torch.ones(2), torch.ones(2)), "do not fit forward"),
    ],
)
def test_bad_arguments(model: Any, example: Any, message: str) -> None:
    with pytest.raises(errors.ArgumentError, match=message):
        grt.from_torch(model, example)


def test_compile_asks_for_example_inputs() -> None:
    with pytest.raises(errors.ArgumentError, match="needs example_inputs"):
        grt.compile(nn.ReLU())


def test_labels_outside_the_classes_of_torch_losses() -> None:
    """Where torch raises, the loss and its gradients are NaN; -100 does not count."""
    torch.manual_seed(0)
    net, x = torch.nn.Linear(4, 3), torch.randn(5, 4)
    weight, good, bad = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([0, 1, -100, 2, 1]), torch.tensor([0, 1, -100, 2, 3])

    def loss(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        margin = torch.nn.functional.multi_margin_loss(net(x)[:2], t[:2])
        return F.cross_entropy(net(x), t, weight) + F.cross_entropy(net(x).t()[None], t[None]) + margin

    program = grt.compile(grt.from_torch(loss, (x, good)), target="cpu")
    assert program(x, good).item() == pytest.approx(loss(x, good).item(), rel=1e-5)
    assert program(x, bad).isnan()
    gradients = []
    for call in (torch.compile(loss, backend="graphrt"), loss):
        net.zero_grad()
        call(x, good).backward()
        assert net.weight.grad is not None
        gradients.append(net.weight.grad.clone())
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)
    net.zero_grad()
    torch.compile(loss, backend="graphrt")(x, bad).backward()
    assert net.weight.grad.isnan().all()


class Remembers(nn.Module):
    """State in a plain attribute, assigned anew or written into; and a mask that nothing changes."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.linear, self.in_place = nn.Linear(3, 3), in_place
        self.hidden, self.mask = torch.zeros(2, 3), torch.tensor([1.0, 0.0, 2.0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            self.hidden.mul_(0.5).add_(self.linear(x))
        else:
            self.hidden = self.hidden * 0.5 + self.linear(x)
        return self.hidden * self.mask


@pytest.mark.parametrize("in_place", [False, True])
def test_tensors_in_plain_attributes_are_state(in_place: bool) -> None:
    ours, x = Remembers(in_place), torch.randn(2, 3)
    theirs, mask = copy.deepcopy(ours), ours.mask
    program = grt.compile(ours, (x,), target="reference")
    assert list(ours.state_dict()) == ["linear.weight", "linear.bias"] and ours.mask is mask
    with torch.no_grad():
        for _ in range(3):
            close(program(x), theirs(x), 1e-5, "result")
            close(ours.hidden, theirs.hidden, 1e-5, "hidden state")


def test_a_tensor_kept_where_there_was_none_is_an_error() -> None:
    class Keeps(nn.Module):
        hidden = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.hidden = x if self.hidden is None else self.hidden + x
            return self.hidden

    with pytest.raises(errors.ConversionError, match=r"cannot trace Keeps: .* self\.hidden was assigned during export"):
        grt.from_torch(Keeps(), (torch.ones(2),))


@pytest.mark.parametrize("kind", ["tensors", "arrays", "to_torch"])
def test_what_a_model_writes_into_its_arguments_is_written(kind: str) -> None:
    def f(x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(x, mean, var, training=True)

    x, mean, var = torch.randn(8, 3), torch.zeros(3), torch.ones(3)
    call: Any = grt.compile(f, (x, mean, var), target="reference")
    call = grt.to_torch(call) if kind == "to_torch" else call
    ours: list[Any] = [x.clone().requires_grad_(kind == "to_torch"), mean.clone(), var.clone()]
    ours = [v.numpy() for v in ours] if kind == "arrays" else ours
    y = call(*ours)
    close(torch.as_tensor(y).detach(), f(x, mean, var), 1e-5, "result")
    if kind == "to_torch":
        y.square().sum().backward()
    close(torch.as_tensor(ours[1]), mean, 1e-5, "running mean")
    close(torch.as_tensor(ours[2]), var, 1e-5, "running variance")
    if kind == "arrays":
        ours[1].setflags(write=False)
        with pytest.raises(errors.InputError, match="the model writes into its input 'mean', which must be"):
            call(*ours)


def test_results_lie_as_torch_has_them_in_memory_of_their_own() -> None:
    class Same(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3))

        def forward(self, x: torch.Tensor) -> Any:
            return self.weight, x, x * 2, (x * 2).transpose(1, 3), x.contiguous() + 1, self.weight.t()

    net, x = Same(), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    found, expected = grt.compile(net, (x,), target="cpu")(x), net(x)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b) and a.stride() == b.stride()
        assert a.data_ptr() not in (net.weight.data_ptr(), x.data_ptr())


def test_numpy_examples_no_inputs_profiles_and_the_line_in_a_function() -> None:
    x = np.ones((2, 3), np.float32)
    linear = nn.Linear(3, 2)
    program = grt.compile(linear, (x,), target="cpu")
    close(torch.as_tensor(program(x)), linear(torch.as_tensor(x)), 1e-5, "of an array")
    assert [p.name for p in program.profile(x, runs=1)] == [p.name for p in program.profile(input=x, runs=1)]
    assert all(isinstance(v, torch.Tensor) for v in grt.compile(lambda: (torch.ones(2), linear.bias * 2), (), target="cpu")())

    def unknown(x: torch.Tensor) -> torch.Tensor:
        y = x * 2
        return torch.linalg.eigvalsh(y)

    line = unknown.__code__.co_firstlineno + 2
    with pytest.raises(errors.ConversionError, match=rf"aten._linalg_eigh.default at .*test_from_torch.py:{line}: "):
        grt.from_torch(unknown, (torch.ones(2, 2),))

    def branches(x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x

    line = branches.__code__.co_firstlineno + 1
    with pytest.raises(errors.ConversionError, match=rf"cannot trace .*branches at .*test_from_torch.py:{line}: "):
        grt.from_torch(branches, (torch.ones(2),))


class Integers(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        whole = torch.div(x, 3, rounding_mode="trunc"), torch.div(x, -3, rounding_mode="floor"), torch.fmod(x, 3), x % 3
        return (*whole, x**45, 3 ** x.abs(), torch.pow(x, x % 5), x.abs())


def test_integers_are_divided_and_raised_as_in_torch() -> None:
    for dtype in (torch.int8, torch.int64):
        x = torch.tensor([-128, -127, -7, -1, 0, 1, 5, 100, 127], dtype=dtype)
        for ours, theirs in zip(grt.compile(Integers(), (x,), target="cpu")(x), Integers()(x), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
