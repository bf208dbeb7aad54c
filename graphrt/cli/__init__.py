"""The command line: train a network and use it, look at what it compiles to, compile it for a machine, list what there is."""

from __future__ import annotations

from typing import Annotated

import typer

from graphrt.bench.command import app as bench
from graphrt.cli.catalogue import commands as catalogue
from graphrt.cli.catalogue import version
from graphrt.cli.compiling import commands as compiling
from graphrt.cli.seeing import commands as seeing
from graphrt.cli.trained import commands as trained
from graphrt.cli.training import commands as training
from graphrt.errors import AccessError, GraphrtError, NumericError
from graphrt.inspection.command import commands as inspection

app = typer.Typer(no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)


def _version(wanted: bool) -> None:
    """Prints the version and ends, if that is ``wanted``."""
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="print the version", is_eager=True, callback=_version)] = False,
) -> None:
    """Options of the command line as a whole, which does nothing without a command."""


for group in (training, trained, seeing, catalogue, compiling, inspection):
    app.add_typer(group)
app.add_typer(bench, name="bench")


def main() -> None:
    """Entry point: an error prints as one message.

    The exit status is 2 for what was asked for wrongly, on the command line, in a file or in the data, or cannot be had here; 1
    for a run that failed, and for packages and places in the file system that are missing; 130 for Ctrl-C.
    """
    try:
        app()
    except (GraphrtError, ImportError, OSError) as error:
        typer.echo(f"graphrt: {error}", err=True)
        failed = isinstance(error, NumericError | AccessError) or not isinstance(error, GraphrtError)
        raise SystemExit(1 if failed else 2) from None
