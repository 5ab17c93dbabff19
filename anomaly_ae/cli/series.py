"""`anomaly-ae plot` and `watch`: for series."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from anomaly_ae.cli.app import (
    Command,
    Decimal,
    Delimiter,
    Encoding,
    Missing,
    Model,
    Overwrite,
    Quiet,
    app,
    dialect_of,
    fail,
    names,
    reported,
)
from anomaly_ae.cli.ending import Ending


@app.command(cls=Command)
def plot(
    model: Model,
    input: Annotated[Path, typer.Argument(help="CSV or Parquet file to draw.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Picture to write: PNG, SVG or PDF by its ending.")],
    channel: Annotated[list[str], typer.Option(help="Channel to draw; may be given again, or a,b.")] = [],  # noqa: B006
    group_value: Annotated[
        list[str], typer.Option(help="Machine to draw, as its group is named; may be given again; else the strangest.")
    ] = [],  # noqa: B006
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw a series: channels, what was expected of them, the score, its threshold, events; machines side by side."""
    with reported(quiet) as progress:
        from anomaly_ae.mlflow.registry import resolve
        from anomaly_ae.ops import series_plot

        dialect = dialect_of(delimiter, decimal, encoding, missing)
        target, events = series_plot.plot(
            resolve(model), input, output, names(channel), overwrite, dialect, progress, group_value
        )
    if not quiet:
        typer.echo(f"drawn     {len(events)} events in {target}", err=True)


@app.command(cls=Command)
def watch(
    model: Model,
    state: Annotated[Path | None, typer.Option(help="File to go on from, and to keep where the stream stands.")] = None,
    top: Annotated[int, typer.Option(min=0, help="How many blamed channels to name an alarm.")] = 3,
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    quiet: Quiet = False,
) -> None:
    """Score rows as they come: CSV with a header or JSON lines in, JSON lines out, events on standard error.

    Ctrl-C and SIGTERM end it between two rows, with the state saved; the exit code is then 130 or 143. With --state a
    last line without an end, of a file that is being written, is left for the next call.
    """
    with reported(quiet=True):
        from anomaly_ae.data.streams import MARK_IT
        from anomaly_ae.mlflow.registry import resolve
        from anomaly_ae.ops import watch as watching
        from anomaly_ae.ops.lines import ended

        def tell(sentence: str) -> None:
            if not quiet:
                typer.echo(sentence, err=True)

        dialect = dialect_of(delimiter, decimal, encoding, missing)
        with Ending(io.TextIOWrapper(sys.stdin.buffer, encoding or "utf-8", MARK_IT)) as lines:
            summary = watching.watch(
                resolve(model),
                lines if state is None else ended(lines, tell),
                lambda record: print(json.dumps(record, default=str), flush=True),
                tell,
                state,
                top,
                dialect,
            )
    if not quiet:
        typer.echo(watching.told_watch(summary), err=True)
    if lines.exit_code is not None:
        raise typer.Exit(lines.exit_code)
    if summary.bad_rows:
        fail(f"A watch needs rows that can be scored, however: {summary.bad_rows} cannot. Look at their error.", 3)
