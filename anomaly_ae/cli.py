"""The shell: `anomaly-ae fit`, `score`, `check`, `plot`, `watch`, `info`, `ui`. Thin; the work is in `ops`."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from anomaly_ae.version import __version__

if TYPE_CHECKING:
    from anomaly_ae.ops.job import FitSummary, Progress, ScoreSummary

app = typer.Typer(
    help="Learn what normal rows look like, then say of new rows how strange they are and which column is to blame.",
    epilog="Exit codes: 0 done; 1 failed; 2 usage, configuration or input; 3 too many bad rows; 4 a gate was crossed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Json = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on standard output.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there already.")]
Track = Annotated[bool, typer.Option("--track/--no-track", help="Log a run in MLflow (MLFLOW_TRACKING_URI).")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")]


class OnBadRow(enum.StrEnum):
    """What to do with a row that cannot be scored."""

    fail = "fail"


class FailOn(enum.StrEnum):
    """Kinds of findings of a check."""

    any = "any"
    missing_column = "missing-column"
    extra_column = "extra-column"
    type = "type"
    missing_values = "missing-values"
    range = "range"
    unseen_category = "unseen-category"


@app.command()
def fit(
    config: Annotated[Path | None, typer.Argument(help="YAML file of a detector; without it the default one.")] = None,
    data: Annotated[Path, typer.Option(help="CSV or Parquet file of normal rows.")] = ...,  # type: ignore[assignment]
    model: Annotated[Path, typer.Option(help="Folder to write the model to.")] = ...,  # type: ignore[assignment]
    exclude: Annotated[list[str], typer.Option(help="Column to leave out; may be given again, or a,b.")] = [],  # noqa: B006
    time: Annotated[str | None, typer.Option(help="Column of times: rows are a series.")] = None,
    group: Annotated[str | None, typer.Option(help="Column that says which series a row is of.")] = None,
    overwrite: Overwrite = False,
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn from a file of normal rows and write a model folder."""
    with _reported(quiet or json_) as progress:
        if time or group or (config and "SeriesDetector" in config.read_text()):
            from anomaly_ae.ops import series

            made = series.fit(data, model, config, time, group, _names(exclude), overwrite)
            return _finish(made, series.told_fit, json_, quiet)
        from anomaly_ae.ops import job

        summary = job.fit(data, model, config, _names(exclude), overwrite, track, progress)
    return _finish(summary, _told_fit, json_, quiet)


@app.command()
def score(
    model: Annotated[Path, typer.Argument(help="Model folder that fit wrote.")],
    input: Annotated[Path, typer.Argument(help="CSV or Parquet file to score.")],
    output: Annotated[Path, typer.Option(help="File to write scores to: CSV, or Parquet by its ending.")],
    keep: Annotated[list[str], typer.Option(help="Column to copy to the output; may be given again, or a,b.")] = [],  # noqa: B006
    top: Annotated[int, typer.Option(min=0, help="How many blamed columns to name a row.")] = 3,
    events: Annotated[Path | None, typer.Option(help="File for the events of a series: CSV or Parquet.")] = None,
    on_bad_row: Annotated[OnBadRow, typer.Option(help="What to do with a row that cannot be scored.")] = OnBadRow.fail,
    overwrite: Overwrite = False,
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score every row of a file: how strange, whether alarming, and which columns are to blame."""
    with _reported(quiet or json_) as progress:
        from anomaly_ae import storage

        if storage.kind(model) == "SeriesDetector":
            from anomaly_ae.ops import series

            made = series.score(model, input, output, events, _names(keep), top, overwrite)
            return _finish(made, series.told_score, json_, quiet)
        from anomaly_ae.ops import job

        summary = job.score(model, input, output, _names(keep), top, overwrite, track, progress)
    return _finish(summary, _told_score, json_, quiet)


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="Model folder that fit wrote.")],
    input: Annotated[Path, typer.Argument(help="CSV or Parquet file to compare with the rows of the fit.")],
    fail_on: Annotated[list[FailOn], typer.Option(help="Finding to exit 4 on; may be given again.")] = [],  # noqa: B006
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a file's columns with those of the fit: missing ones, types, gaps, ranges, categories."""
    with _reported(quiet or json_) as progress:
        from anomaly_ae.ops import check as checking

        summary = checking.check(model, input, progress)
    typer.echo(json.dumps(asdict(summary), indent=2) if json_ else checking.told(summary))
    if summary.findings and not (quiet or json_):
        typer.echo(f"checked   {summary.rows:,} rows: {len(summary.findings)} findings", err=True)
    found = [finding.kind for finding in summary.findings if {"any", finding.kind.replace(" ", "-")} & set(fail_on)]
    if found:
        kinds = ", ".join(sorted(set(found)))
        _fail(f"--fail-on needs a file as at fit, however: {len(found)} findings ({kinds}). Repair {input}.", 4)


@app.command()
def plot(
    model: Annotated[Path, typer.Argument(help="Model folder of a series.")],
    input: Annotated[Path, typer.Argument(help="CSV or Parquet file to draw.")],
    output: Annotated[Path, typer.Option(help="Picture to write: PNG, SVG or PDF by its ending.")],
    channel: Annotated[list[str], typer.Option(help="Channel to draw; may be given again, or a,b.")] = [],  # noqa: B006
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Draw a series: channels, what was expected of them, the score, its threshold, and events."""
    with _reported(quiet):
        from anomaly_ae.ops import series_plot

        target, events = series_plot.plot(model, input, output, _names(channel), overwrite)
    if not quiet:
        typer.echo(f"drawn     {len(events)} events in {target}", err=True)


@app.command()
def watch(
    model: Annotated[Path, typer.Argument(help="Model folder of a series.")],
    state: Annotated[Path | None, typer.Option(help="File to go on from, and to keep where the stream stands.")] = None,
    top: Annotated[int, typer.Option(min=0, help="How many blamed channels to name an alarm.")] = 3,
    quiet: Quiet = False,
) -> None:
    """Score rows as they come: CSV with a header or JSON lines in, JSON lines out, events on standard error."""
    with _reported(quiet=True):
        from anomaly_ae.ops import watch as watching

        summary = watching.watch(
            model,
            sys.stdin,
            lambda record: print(json.dumps(record, default=str), flush=True),
            lambda sentence: None if quiet else typer.echo(sentence, err=True),
            state,
            top,
        )
    if not quiet:
        typer.echo(f"watched   {summary.rows:,} rows: {summary.alarms:,} alarms, {summary.events} events", err=True)
    if summary.bad_rows:
        _fail(f"A watch needs rows that can be scored, however: {summary.bad_rows} cannot. Look at their error.", 3)


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="Model folder that fit wrote.")],
    json_: Json = False,
) -> None:
    """Say what a model is: its composition, columns, threshold and training."""
    with _reported(quiet=True):
        from anomaly_ae.loading import load
        from anomaly_ae.ops.describe import describe, told

        facts = describe(load(model))
    typer.echo(json.dumps(facts, indent=2) if json_ else told(facts))


@app.command()
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 5000,
) -> None:
    """Open MLflow's pages on the runs of this folder (or of MLFLOW_TRACKING_URI)."""
    with _reported(quiet=True):
        from anomaly_ae.mlflow import serve

        typer.echo(f"MLflow on http://{host}:{port}; stop it with Ctrl-C.", err=True)
        serve(host, port)


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


def _names(given: list[str]) -> list[str]:
    return [name for names in given for name in names.split(",") if name]


@contextlib.contextmanager
def _reported(quiet: bool) -> Iterator[Progress | None]:
    """Errors as one sentence and an exit code; warnings as one line each; a progress bar on a terminal."""
    # MLflow and OpenTelemetry print notices of their own; what people need of them is in our messages
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    warnings.simplefilter("default", UserWarning)
    warnings.showwarning = lambda message, *_: typer.echo(f"warning: {message}", err=True)
    try:
        with _bar() if not quiet and sys.stderr.isatty() else contextlib.nullcontext() as progress:
            yield progress
    except ValueError as error:  # ours, and scikit-learn's of a parameter out of range
        _fail(error, 2)
    except OSError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("interrupted; nothing was written", 130)


def _fail(error: object, code: int) -> None:
    typer.echo(f"error: {' '.join(str(error).split())}", err=True)
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


def _finish(summary: Any, told: Any, as_json: bool, quiet: bool) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(summary), indent=2))
    elif not quiet:
        typer.echo(told(summary), err=True)


def _told_fit(s: FitSummary) -> str:
    promise = "" if s.promised_false_alarm_rate is None else _promise(s.promised_false_alarm_rate, s.nets)
    lines = [
        f"fitted    {s.detector}",
        f"rows      {s.rows:,} of {len(s.columns)} columns from {s.data}, {s.seconds:.1f} s, at most {s.epochs} epochs",
        f"threshold {s.threshold:.6g}{promise}",
        f"model     {s.model}",
    ]
    if s.constant_columns:
        lines.insert(2, f"note      constant in these rows: {', '.join(s.constant_columns)}")
    return "\n".join(lines + _told_run(s))


def _promise(rate: float, nets: int) -> str:
    return f", false alarms at most {rate:.2g}" + (f" (cross-fitted: at most {2 * rate:.2g})" if nets > 1 else "")


def _told_score(s: ScoreSummary) -> str:
    promise = (
        "" if s.promised_false_alarm_rate is None else f"; {s.promised_false_alarm_rate:.1%} expected of normal rows"
    )
    lines = [
        f"scored    {s.rows:,} rows in {s.seconds:.1f} s",
        f"alarms    {s.alarms:,} ({s.alarm_rate:.1%}{promise})",
        f"output    {s.output}",
    ]
    if s.ignored_columns:
        shown = ", ".join(s.ignored_columns[:8]) + (", ..." if len(s.ignored_columns) > 8 else "")
        lines.insert(1, f"note      columns the model does not know, ignored: {shown}")
    lines += _told_run(s)
    if s.top_anomalies:
        lines += ["", "strangest rows"]
    for row in s.top_anomalies:
        lines.append(
            f"  row {row['row']:<6} score {row['anomaly_score']:<10.4g} p {row['p_value']:.4f}  {row['reasons']}"
        )
    return "\n".join(lines)


def _told_run(s: FitSummary | ScoreSummary) -> list[str]:
    return [f"run       {s.run_id} in {s.tracking_uri}; look at it with: anomaly-ae ui"] if s.run_id else []
