"""The app, its options, and how every command reports: shared by the commands."""

from __future__ import annotations

import contextlib
import enum
import gc
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_ae.errors import BadRowsError
from anomaly_ae.version import __version__

if TYPE_CHECKING:
    from anomaly_ae.data.dialect import Dialect
    from anomaly_ae.ops.arguments import Progress

app = typer.Typer(
    help="Learn what normal rows look like, then say of new rows how strange they are and which column is to blame.",
    epilog="Exit codes: 0 done; 1 failed; 2 usage, configuration or input; 3 too many bad rows; 4 a gate was crossed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[Path, typer.Argument(help="Folder that fit wrote; or models:/NAME@champion, runs:/ID/model.")]
Asset = Annotated[str, typer.Option(help="Which machine, site or customer the rows are of: each is watched by itself.")]
EventTime = Annotated[
    str | None, typer.Option(help="When rows were measured (ISO 8601); else a series' last date, or the file's.")
]
State = Annotated[Path | None, typer.Option(help="File that remembers earlier batches; else in anomaly-ae-monitor/.")]
Remember = Annotated[
    bool, typer.Option("--remember/--no-remember", help="Whether monitoring is to judge later batches beside this one.")
]
Report = Annotated[Path | None, typer.Option(help="HTML file for a page to look at.")]
Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
Known = Annotated[Path | None, typer.Option(help="CSV or Parquet file of rows that are known for anomalies.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Register = Annotated[str | None, typer.Option(help="Registered model that gets it as a new version.")]
Track = Annotated[bool, typer.Option("--track/--no-track", help="Log a run in MLflow (MLFLOW_TRACKING_URI).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]


class Gate(enum.StrEnum):
    """What a gate may be crossed by."""

    any = "any"
    alarms = "alarms"
    scores = "scores"
    features = "features"
    martingale = "martingale"


FailOnGate = Annotated[list[Gate], typer.Option("--fail-on", help="Drift to exit 4 on; may be given again.")]
Delimiter = Annotated[str | None, typer.Option(help="What stands between fields; else as the header has it.")]
Decimal = Annotated[str, typer.Option(help="What stands before decimals: a point or a comma.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of CSV; else UTF-8, or as its byte order mark says.")]
Missing = Annotated[
    list[str], typer.Option(help="What else stands for a missing value, beside NA and the like; may be given again.")
]


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"anomaly-ae {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


def names(given: list[str]) -> list[str]:
    return [name for names in given for name in names.split(",") if name]


def dialect_of(delimiter: str | None, decimal: str, encoding: str | None, missing: list[str]) -> Dialect:
    from anomaly_ae.data.dialect import Dialect

    return Dialect(delimiter, decimal, encoding, tuple(missing))


@contextlib.contextmanager
def reported(quiet: bool) -> Iterator[Progress | None]:
    """Warnings as one line each; a progress bar on a terminal."""
    # MLflow and OpenTelemetry print notices of their own; what people need of them is in our messages
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    warnings.simplefilter("default", UserWarning)
    warnings.showwarning = lambda message, *_: typer.echo(f"warning: {message}", err=True)
    seen = sys.stderr is not None and sys.stderr.isatty()
    with _bar() if seen and not quiet else contextlib.nullcontext() as progress:
        yield progress


class Command(typer.core.TyperCommand):
    """A command whose errors are one sentence and an exit code, and with --json an object on standard output."""

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        gc.set_threshold(50_000, 20, 20)  # to look for garbage among what is imported is a tenth of a short job
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # who reads has seen enough
            _let_go()
            raise typer.Exit(128 + 13) from None  # as of SIGPIPE
        except KeyboardInterrupt:
            fail("interrupted; what is there is whole. Give the same command again", 130)
        except (ValueError, OSError) as error:  # ours, and scikit-learn's of a parameter out of range
            code = 3 if isinstance(error, BadRowsError) else 2 if isinstance(error, ValueError) else 1
            if ctx.params.get("json_"):
                with contextlib.suppress(OSError):
                    facts = getattr(error, "facts", {})  # of bad rows
                    typer.echo(json.dumps({"error": _sentence(error), "exit_code": code, **facts}, indent=2))
            fail(error, code)


def _let_go() -> None:
    """Of what standard output has not taken, have no more said when the process ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sentence(error: object) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is None:  # of no file: of a stream
        return (
            f"Standard output needs a place that takes it, however: {error.strerror}. Send it elsewhere, or make room."
        )
    return " ".join(str(error).split())


def fail(error: object, code: int) -> None:
    with contextlib.suppress(OSError):  # of what cannot be said the code tells
        typer.echo(f"error: {_sentence(error)}", err=True)
    raise typer.Exit(code)


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda share, what: bar.update(task, completed=share, description=what)


def finish(summary: Any, told: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(summary), indent=2))
    elif not quiet:
        typer.echo(told(summary), err=True)


def gate(crossed: list[str] | None, asked: list[Gate]) -> None:
    """Exit 4 where a gate that was asked for is crossed."""
    if asked and crossed is None:
        fail("A gate needs a batch that was monitored, however: this one was not. See the warning.", 1)
    hit = [name for name in crossed or [] if {"any", name} & set(asked)]
    if hit:
        fail(f"--fail-on needs rows as at fit, however: {', '.join(hit)} crossed the gate. Look at the report.", 4)
