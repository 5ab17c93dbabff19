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
    from anomaly_ae.data.dialect import Dialect
    from anomaly_ae.ops.fitting import FitSummary, Progress
    from anomaly_ae.ops.scoring import ScoreSummary

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


Delimiter = Annotated[str | None, typer.Option(help="What stands between fields; else as the header has it.")]
Decimal = Annotated[str, typer.Option(help="What stands before decimals: a point or a comma.")]
Encoding = Annotated[str | None, typer.Option(help="Encoding of CSV; else UTF-8, or as its byte order mark says.")]
Missing = Annotated[
    list[str], typer.Option(help="What else stands for a missing value, beside NA and the like; may be given again.")
]


class OnBadRow(enum.StrEnum):
    """What to do with a row that cannot be scored."""

    quarantine = "quarantine"
    skip = "skip"
    fail = "fail"


class OnUnseen(enum.StrEnum):
    """What to do with a category that was not there at fit."""

    score = "score"
    reject = "reject"


class FormatName(enum.StrEnum):
    """Formats of an output."""

    csv = "csv"
    jsonl = "jsonl"
    parquet = "parquet"


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
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    time: Annotated[str | None, typer.Option(help="Column of times: rows are a series.")] = None,
    group: Annotated[str | None, typer.Option(help="Column that says which series a row is of.")] = None,
    overwrite: Overwrite = False,
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn from a file of normal rows and write a model folder."""
    with _reported(quiet or json_) as progress:
        dialect = _dialect(delimiter, decimal, encoding, missing)
        if time or group or (config and config.is_file() and "SeriesDetector" in config.read_text()):
            from anomaly_ae.ops import series

            made = series.fit(data, model, config, time, group, _names(exclude), dialect, overwrite)
            return _finish(made, series.told_fit, json_, quiet)
        from anomaly_ae.ops import fitting

        summary = fitting.fit(data, model, config, _names(exclude), dialect, overwrite, track, progress)
    return _finish(summary, _told_fit, json_, quiet)


@app.command()
def score(
    model: Annotated[Path, typer.Argument(help="Model folder that fit wrote.")],
    input: Annotated[list[str], typer.Argument(help="CSV, Parquet or Arrow files, 'patterns*.csv', or - for CSV.")],
    output: Annotated[str, typer.Option(help="File for scores: .csv, .jsonl, .parquet; or - for standard output.")],
    keep: Annotated[list[str], typer.Option(help="Column to copy to the output; may be given again, or a,b.")] = [],  # noqa: B006
    top: Annotated[int, typer.Option(min=0, help="How many blamed columns to name a row.")] = 3,
    on_bad_row: Annotated[
        OnBadRow, typer.Option(help="What to do with a row that cannot be scored.")
    ] = OnBadRow.quarantine,
    max_bad_rows: Annotated[str, typer.Option(help="More bad rows than this, by number or share, are exit 3.")] = "1%",
    rejects: Annotated[
        Path | None, typer.Option(help="CSV file for bad rows, with place and reason; else OUTPUT.rejects.csv.")
    ] = None,
    on_unseen: Annotated[OnUnseen, typer.Option(help="What to do with a category unseen at fit.")] = OnUnseen.score,
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    format: Annotated[FormatName | None, typer.Option(help="Format of the output; else by its ending.")] = None,
    events: Annotated[Path | None, typer.Option(help="File for the events of a series: CSV or Parquet.")] = None,
    overwrite: Overwrite = False,
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score every row of files: how strange, whether alarming, and which columns are to blame.

    The same command again does nothing where the job is complete, and goes on where it was interrupted.
    """
    if json_ and output == "-":
        _fail("standard output carries scores or --json, however: both were asked for. Give --output a file.", 2)
    with _reported(quiet or json_) as progress:
        from anomaly_ae import storage

        dialect = _dialect(delimiter, decimal, encoding, missing)
        if storage.kind(model) == "SeriesDetector":
            from anomaly_ae.ops import series

            if len(input) != 1 or output == "-":
                _fail(f"A series needs one input and an output file, however: {input}, {output}. Give one of each.", 2)
            made = series.score(model, input[0], output, events, _names(keep), top, dialect, overwrite)
            return _finish(made, series.told_score, json_, quiet)
        if events is not None:
            _fail(f"--events needs a model of series, however: {model} is none. Leave it out.", 2)
        from anomaly_ae.ops import scoring

        summary = scoring.score_file(
            model,
            input,
            output,
            keep=_names(keep),
            top=top,
            on_bad_row=on_bad_row.value,
            max_bad_rows=max_bad_rows,
            rejects=rejects,
            on_unseen=on_unseen.value,
            dialect=dialect,
            format=None if format is None else format.value,
            overwrite=overwrite,
            track=track,
            progress=progress,
        )
    return _finish(summary, _told_score, json_, quiet)


@app.command()
def check(
    model: Annotated[Path, typer.Argument(help="Model folder that fit wrote.")],
    input: Annotated[Path, typer.Argument(help="CSV or Parquet file to compare with the rows of the fit.")],
    fail_on: Annotated[list[FailOn], typer.Option(help="Finding to exit 4 on; may be given again.")] = [],  # noqa: B006
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a file's columns with those of the fit: missing ones, types, gaps, ranges, categories."""
    with _reported(quiet or json_) as progress:
        from anomaly_ae.ops import check as checking

        summary = checking.check(model, input, progress, _dialect(delimiter, decimal, encoding, missing))
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


def _dialect(delimiter: str | None, decimal: str, encoding: str | None, missing: list[str]) -> Dialect:
    from anomaly_ae.data.dialect import Dialect

    return Dialect(delimiter, decimal, encoding, tuple(missing))


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
        _fail(error, 3 if type(error).__name__ == "BadRowsError" else 2)
    except OSError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        _fail("interrupted; what is there is whole, and the same command again goes on with it", 130)


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
    done = f"complete  already; {s.scored:,} rows were scored" if s.complete_already else f"scored    {s.scored:,} rows"
    again = f", {s.resumed_rows:,} of them before the interruption" if 0 < s.resumed_rows < s.scored else ""
    lines = [
        f"{done}{again} in {s.seconds:.1f} s",
        f"alarms    {s.alarms:,} ({s.alarm_rate:.1%}{promise})",
        f"output    {s.output}",
    ]
    if s.ignored_columns:
        shown = ", ".join(s.ignored_columns[:8]) + (", ..." if len(s.ignored_columns) > 8 else "")
        lines.insert(1, f"note      columns the model does not know, ignored: {shown}")
    if s.rejected:
        where = f", in {s.rejects} with place and reason" if s.rejects else ", left out"
        lines.append(f"bad rows  {s.rejected:,} of {s.rows:,}{where}")
    lines += _told_run(s)
    if s.top_anomalies:
        lines += ["", "strangest rows"]
    for row in s.top_anomalies:
        place = f"{row['file']}, row {row['row']}" if "file" in row else f"row {row['row']:<6}"
        lines.append(f"  {place} score {row['anomaly_score']:<10.4g} p {row['p_value']:.4f}  {row['reasons']}")
    return "\n".join(lines)


def _told_run(s: FitSummary | ScoreSummary) -> list[str]:
    return [f"run       {s.run_id} in {s.tracking_uri}; look at it with: anomaly-ae ui"] if s.run_id else []
