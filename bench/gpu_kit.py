"""The kernels of bench.gpu, compiled where there is no GPU: an archive that a run unpacks, so that none of its time goes there.

python -m bench.gpu_kit [--out build/gpu-kit.tar] [--target cuda:sm_90] [--tune 0]      make gpu-kit
python -m bench.gpu --kit build/gpu-kit.tar

It holds the files of graphrt's cache of kernels for the programs of the planned steps, at their batches, and for tuning the
first candidates of the kernels that take most of the time, with what a static model says of each. Their names follow from all
that they are made of: Triton's version and graphrt's sources must be those of the machine with the GPU, which is said where
they are not. The tests of the step "correctness" are not in it.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import graphrt
from bench.conv_shapes import layers
from bench.gpu_checks import KINDS
from bench.gpu_kernels import CHOICES, GOALS, GROUPS, kept, momentum, our_conv, running
from bench.gpu_parts import Settings, switched
from bench.gpu_training import NETWORKS, batch_of, step_of
from graphrt import Graph, Program, models
from graphrt.config import Flags
from graphrt.files import whole
from graphrt.targets.triton.compile.build import identity
from graphrt.targets.triton.tune.bounds import FOLDER

KERNELS = "triton/kernels"
MANIFEST = "kit.json"
SHARE, MOST = 0.005, 5  # tuning tries so many candidates of kernels with such a part of the predicted step
SMALL = (("MLP 784-128-10", 64, False, "never"), ("LeNet-5", 64, False, "never"))
STEPS = (*SMALL, ("ResNet-50", 256, True, "never"), ("ResNet-50", 256, True, "always"))


def programs(settings: Settings) -> Iterator[tuple[str, Program, int]]:
    """Name, program and level of tuning of all that the planned steps compile; with ``dry`` settings little of each.

    The smallest come first, the candidates of tuning last: they take longest, and a run does without them.
    """
    for name, (make, _, flag) in KINDS.items():
        with switched(flag):
            yield name, graphrt.compile(make()[0], target=settings.target), 0
    n = settings.ours(1 << 18, 64)
    for name, (build, _) in GROUPS.items():
        g = Graph()
        kept(g, build(g, n))
        yield name, running(g, settings), 0
    yield "SGD with momentum", momentum(n, settings)[0], 0
    steps = [(s, _step(*s, settings)) for s in (STEPS[:1] if settings.dry else STEPS)]
    for (name, batch, _, library), program in steps:
        yield f"{name} b{batch}, library {library}", program, 0
    for small in SMALL[:1] if settings.dry else SMALL:
        for flag, how in (("GRAPHRT_PDL", "dependent"), ("GRAPHRT_PERSISTENT", "joined")):
            with switched(flag):
                yield f"{small[0]} b{small[1]}, {how} launches", _step(*small, settings), 0
    for name, choice in CHOICES.items():
        yield from ((f"{name}, {way}", program, 0) for way, program in choice.programs(settings).items())
    for kind in GOALS:
        shapes = [s for s in layers("ResNet-50", settings.ours(256)) if kind != "dgrad" or s[0][1] != 3]
        for layer in settings.some(shapes):
            yield f"{kind} {layer}", our_conv(layer, kind, settings), 0
    for (name, batch, _, library), program in steps:
        if settings.tune and name == "ResNet-50" and library == "never":
            yield f"{name} b{batch}, tuning", program, 1


def _step(name: str, batch: int, half: bool, library: str, settings: Settings) -> Program:
    x, y = batch_of(name, settings.ours(batch), "cpu")
    return step_of(models.get(NETWORKS[name].model).build(), x, y, settings, half, library)


def pack(out: Path, settings: Settings, show: bool = True) -> int:
    """Compiles everything and writes the archive; returns how many kernels are in it."""
    keys: dict[str, None] = {}
    for name, program, tune in programs(settings):
        start = time.monotonic()
        found = program._executable.prepared(tune, SHARE, MOST)  # type: ignore[attr-defined]
        keys.update(dict.fromkeys(found))
        if show:
            print(f"{name}: {len(found)} kernels in {time.monotonic() - start:.0f} s, {len(keys)} in all", flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    root = Flags.read().cache
    with whole(out) as part, tarfile.open(part, "w:xz") as archive:
        about = json.dumps({"target": settings.target, "compiler": identity(), "kernels": len(keys)}).encode()
        head = tarfile.TarInfo(MANIFEST)
        head.size = len(about)
        archive.addfile(head, io.BytesIO(about))
        for folder in (KERNELS, FOLDER):
            for path in (root / folder / key for key in keys):
                if path.exists():
                    archive.add(path, f"{folder}/{path.name}")
    return len(keys)


def unpacked(file: Path) -> tuple[str, bool]:
    """Puts the kernels of an archive into the cache; says how many, or why they are of no use here, and whether they are."""
    root, count = Flags.read().cache, 0
    with tarfile.open(file) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is None:
                continue
            if member.name == MANIFEST:
                about = json.loads(content.read())
                if about["compiler"] != identity():
                    return f"{file.name} is of {about['compiler']}, here is {identity()}: kernels are compiled again", False
            elif re.fullmatch(f"({KERNELS}|{FOLDER})/[0-9a-f]{{32}}", member.name):
                path = root / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
                count += member.name.startswith(KERNELS)
    return f"{file.name}: {count} kernels for {about['target']} need not be compiled", True


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the archive."""
    parser = argparse.ArgumentParser("bench.gpu_kit", description="the kernels of bench.gpu, compiled without a GPU")
    parser.add_argument("--out", type=Path, default=Path("build/gpu-kit.tar"))
    parser.add_argument("--target", default="cuda:sm_90", help="as ahead of time")
    parser.add_argument("--tune", type=int, choices=(0, 1), default=1, help="0: no candidates of tuning, which take longest")
    given = parser.parse_args(arguments)
    count = pack(given.out, Settings(False, 0.0, given.tune, ahead=given.target))
    print(f"{given.out}: {count} kernels, {given.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
