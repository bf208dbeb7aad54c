"""Is a trained network as good with weights of eight bits, and how much smaller is it?

python -m bench.eight_bits [--work LeNet] [--seeds 3] [--save]

The recipes are those of ``bench.accuracy``.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import graphrt as grt
from bench.accuracy import RECIPES, Recipe, fitted
from bench.measure import report


def scores(recipe: Recipe, seed: int) -> dict[str, float]:
    """The score of a trained network, the score with weights of eight bits, and the bytes of both programs when saved."""
    trainer, test, _ = fitted(recipe, seed)
    graph = trainer.evaluation_graph((test.x.shape, str(test.x.dtype)))
    found = dict[str, float]()
    graph.initial |= {name: trainer.state[name] for name in graph.sources if name in trainer.state}
    for bits, one in ((32, graph), (8, grt.quantize_weights(graph))):
        program = grt.compile(one, target="cpu", state=grt.State())
        found[f"{bits} bits"] = recipe.score(program({"x": test.x})["out"], test.y)
        with tempfile.TemporaryDirectory() as folder:
            program.save(Path(folder) / "net.grt")
            found[f"bytes, {bits} bits"] = sum(f.stat().st_size for f in (Path(folder) / "net.grt").glob("*.safetensors"))
    return found


def main(
    work: Annotated[list[str] | None, typer.Option(help="recipes, by how their names begin; all when left out")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds")] = 3,
    save: Annotated[bool, typer.Option(help="write bench/results/eight_bits.jsonl")] = False,
) -> None:
    """Prints the mean score over seeds in float32 and with int8 weights, the largest difference, and the bytes of weights."""
    for one in work or ():
        if not any(name.startswith(one) for name in RECIPES):
            raise typer.BadParameter(f"no recipe begins with {one!r}; there is {', '.join(RECIPES)}", param_hint="--work")
    rows = list[dict[str, Any]]()
    for name, make in RECIPES.items():
        if work and not any(name.startswith(one) for one in work):
            continue
        found = [scores(make(), seed) for seed in range(seeds)]
        mean = {key: float(np.mean([f[key] for f in found])) for key in found[0]}
        most = max((f["8 bits"] - f["32 bits"] for f in found), key=abs)
        rows.append({"recipe": name, "seeds": seeds, **mean, "largest difference": most})
        print(rows[-1], flush=True)
    report("weights of eight bits", rows, "eight_bits" if save else None)


if __name__ == "__main__":
    typer.run(main)
