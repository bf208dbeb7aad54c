"""The command line: train a network and use it, look at what it compiles to, compile it for a machine, list what there is."""

from __future__ import annotations

import typer

from graphrt.bench.command import app as bench
from graphrt.cli.catalogue import commands as catalogue
from graphrt.cli.compiling import commands as compiling
from graphrt.cli.seeing import commands as seeing
from graphrt.cli.training import commands as training
from graphrt.errors import GraphrtError
from graphrt.inspection.command import commands as inspection

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)
for group in (training, seeing, catalogue, compiling, inspection):
    app.add_typer(group)
app.add_typer(bench, name="bench")


def main() -> None:
    """Entry point: errors of graphrt and missing packages print as one message, with exit status 1."""
    try:
        app()
    except (GraphrtError, ImportError, OSError) as error:
        typer.echo(f"graphrt: {error}", err=True)
        raise SystemExit(1) from None
