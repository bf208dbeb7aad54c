"""The commands that list what there is: networks, layers of one, data, ops, flags, the version."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from graphrt.cli.options import names_of, show
from graphrt.errors import ArgumentError, unknown

commands = typer.Typer()


@commands.command()
def models(
    weights: Annotated[
        bool, typer.Option("--weights", help="only those that read another library's weights, and whose")
    ] = False,
) -> None:
    """Lists the networks: the input of one example, parameters, and the first line of what is said of each."""
    from graphrt import nn
    from graphrt.models import DETECTORS, MODELS
    from graphrt.models.weights import WEIGHTS

    if weights:
        show([(name, whose) for name, whose in sorted(WEIGHTS.items())], ("network", "weights by name of"))
        return
    rows = []
    for name, model in {**MODELS, **DETECTORS}.items():
        with nn.init.skip_init():
            count = nn.count_parameters(model.build(), trainable=False)
        rows.append((name, "x".join(map(str, model.input_shape)), f"{count:,}", _first(model.build)))
    show(rows, ("network", "input", "parameters", ""))


@commands.command()
def summary(
    model: Annotated[
        str,
        typer.Argument(
            help="a network of graphrt.models, one that graphrt train has for scenes, or an ONNX file",
            autocompletion=names_of("models.MODELS", "models.DETECTORS", "train.tasks.TASKS"),
        ),
    ],
    batch: Annotated[int, typer.Option(min=1, help="batch size")] = 1,
) -> None:
    """Prints MODEL by layer: output shape, parameters, multiplications, bytes of the output and receptive field."""
    from graphrt import nn
    from graphrt.models import DETECTORS, MODELS, Model
    from graphrt.train.tasks import TASKS

    if model.endswith(".onnx"):
        typer.echo(_onnx_summary(model, batch))
        return
    known = {**MODELS, **DETECTORS}
    if model not in known and model not in TASKS:
        raise ArgumentError(unknown("model", model, {**known, **TASKS}))
    if model in known:
        one = known[model]
    else:
        task = TASKS[model]
        given = {"proposals": (task.slots, 4)} if "proposals" in task.given else {}
        one = Model(task.build, (1 if task.kind == "denoising" else 3, task.size, task.size), more=given)
    with nn.init.skip_init():
        net = one.build()
    more = {name: (batch, *shape) for name, shape in one.more.items()}
    shape = (batch, *one.input_shape)
    typer.echo(nn.summary(net, {"input": shape, **more} if more else shape, one.dtype))


def _onnx_summary(path: str, batch: int) -> str:
    """The nodes of an ONNX file that compute with parameters or multiply, and the totals."""
    from graphrt.inspection.subject import find
    from graphrt.ops.body import contracted

    graph = find(path, "cpu", batch, False, "float32", {}).outputs
    lines, products = [f"{'node':<40} {'op':<14} {'output':<20} {'parameters':>13} {'multiplications':>17}"], 0
    for node in graph.nodes:
        own = [v for v in node.inputs if v.node.op.name == "parameter"]
        count = contracted(node) // 2
        products += count
        if own or count:
            shape, size = "x".join(map(str, node.outputs[0].shape)), sum(v.type.size for v in own)
            lines.append(f"{node.origin.source or node.name:<40} {node.op.name:<14} {shape:<20} {size:>13,} {count:>17,}")
    total = sum(v.type.size for v in graph.parameters(trainable=False))
    return "\n".join([*lines, f"{'total':<76} {total:>13,} {products:>17,}"])


@commands.command()
def data() -> None:
    """Lists the data that ``train`` takes by name; a folder of pictures, a folder for each class, is data too."""
    from graphrt.cli.datasets import DATA
    from graphrt.data import scenes

    drawn = [("scenes", f"for networks that find or outline shapes: {_first(scenes)}")]
    show([*((name, _first(entry.load)) for name, entry in DATA.items()), *drawn], ("data", ""))


@commands.command()
def ops(
    name: Annotated[
        str,
        typer.Argument(
            help="one of them: all that is said of it",
            autocompletion=names_of("ops.FUNCTIONS", "ops.CREATIONS", "op.REGISTRY"),
        ),
    ] = "",
) -> None:
    """Lists the functions of graphrt.ops and the ops of the graph, as docs/ops.md has them, or all that is said of one."""
    import inspect
    import re

    from graphrt.op import REGISTRY
    from graphrt.ops import CREATIONS, FUNCTIONS
    from graphrt.ops.document import row

    functions = {**FUNCTIONS, **CREATIONS}
    if not name:
        show([(n, _first(f)) for n, f in sorted(functions.items())], ("function", ""))
        show([(n, op.kind.value) for n, op in sorted(REGISTRY.items()) if n not in functions], ("op of the graph", "kind"))
        return
    if name not in functions and name not in REGISTRY:
        raise ArgumentError(unknown("op", name, {**functions, **REGISTRY}))
    if name in functions:
        signature = re.sub(r"(: |-> )'([^']*)'", r"\1\2", str(inspect.signature(functions[name])))  # annotations are texts
        typer.echo(f"graphrt.ops.{name}{signature}\n\n{inspect.getdoc(functions[name])}")
    if name in REGISTRY:
        titles = ("", "arguments", "dtypes", "kind", "lowered by", "gradient")
        about = "; ".join(f"{title} {cell}".strip() for title, cell in zip(titles, row(REGISTRY[name]), strict=True))
        typer.echo(f"op of the graph: {about}".replace("`", ""))


@commands.command()
def flags() -> None:
    """Lists the environment variables that graphrt reads, with their values now."""
    from graphrt.config import Flags

    show(Flags.read().table(), ("variable", "value", "meaning"))


@commands.command()
def version() -> None:
    """Prints the version."""
    from graphrt import __version__

    typer.echo(__version__)


def _first(documented: Any) -> str:
    """The first sentence of its docstring."""
    import inspect

    text = " ".join((inspect.getdoc(documented) or "").split("\n\n")[0].split())
    return text.split(". ")[0].rstrip(".").replace("``", "")
