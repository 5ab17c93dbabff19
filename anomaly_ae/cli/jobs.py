"""`anomaly-ae fit`, `score` and `check`."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from anomaly_ae.cli.app import (
    Asset,
    Command,
    Decimal,
    Delimiter,
    Encoding,
    EventTime,
    FailOnGate,
    Json,
    Known,
    Missing,
    Model,
    Overwrite,
    Quiet,
    Register,
    Remember,
    Report,
    State,
    Track,
    app,
    dialect_of,
    fail,
    finish,
    gate,
    names,
    reported,
)
from anomaly_ae.errors import ConfigError


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
    unreadable_row = "unreadable-row"
    type = "type"
    missing_values = "missing-values"
    range = "range"
    unseen_category = "unseen-category"
    missing_group = "missing-group"
    unseen_group = "unseen-group"
    missing_time = "missing-time"
    unreadable_time = "unreadable-time"
    time_order = "time-order"
    duplicate_time = "duplicate-time"
    step = "step"
    gap = "gap"


@app.command(cls=Command)
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
    alpha: Annotated[
        float | None, typer.Option(help="Rate of false alarms to promise; else as the configuration says, or 0.05.")
    ] = None,
    known: Known = None,
    register: Register = None,
    report: Report = None,
    overwrite: Overwrite = False,
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn from a file of normal rows and write a model folder."""
    with reported(quiet or json_) as progress:
        from anomaly_ae.ops import fitting, series, series_summary

        dialect = dialect_of(delimiter, decimal, encoding, missing)
        if time or group or series.is_series_config(config):
            if known is not None:
                raise ConfigError("--known needs a model of rows, however: this one is of series. Leave it out.")
            made = series.fit(
                data, model, config, time, group, names(exclude), dialect, overwrite, track, register, progress, report,
                alpha,
            )  # fmt: skip
            return finish(made, series_summary.told_fit, json_, quiet)
        summary = fitting.fit(
            data, model, config, names(exclude), dialect, overwrite, track, progress, register, report, known, alpha
        )
    return finish(summary, fitting.told_fit, json_, quiet)


@app.command(cls=Command)
def score(
    model: Model,
    input: Annotated[list[str], typer.Argument(help="CSV, Parquet or Arrow files, 'patterns*.csv', or - for CSV.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="File for scores: .csv, .jsonl, .parquet; or - for standard output.")
    ],
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
    challenger: Annotated[
        Path | None, typer.Option(help="A second model, to judge the same rows in the same pass.")
    ] = None,
    asset: Asset = "",
    event_time: EventTime = None,
    remember: Remember = True,
    state: State = None,
    report: Report = None,
    fail_on: FailOnGate = [],  # noqa: B006
    log_samples: Annotated[int, typer.Option(min=0, help="Of how many strangest rows the run holds the values.")] = 0,
    events: Annotated[
        Path | None, typer.Option(help="File for the events of a series: .csv, .jsonl, .parquet.")
    ] = None,
    overwrite: Overwrite = False,
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score every row of files: how strange, whether alarming, and which columns are to blame.

    The same command again does nothing where the job is complete, and goes on where it was interrupted. Series are
    scored as a whole: their output is not to be there yet, or --overwrite.
    """
    if json_ and output == "-":
        fail("standard output carries scores or --json, however: both were asked for. Give --output a file.", 2)
    with reported(quiet or json_) as progress:
        from anomaly_ae import storage
        from anomaly_ae.mlflow.registry import pinned, resolve
        from anomaly_ae.ops.assets import moment

        dialect = dialect_of(delimiter, decimal, encoding, missing)
        when = None if event_time is None else moment(event_time)
        name = pinned(model)
        folder = resolve(name)
        kind = storage.kind(folder)
        if kind == "SeriesDetector":
            from anomaly_ae.ops import series, series_summary

            if len(input) != 1:
                raise ConfigError(
                    f"A series needs one input, however: {', '.join(input)}. Put them together, or score one by one."
                )
            own = {
                "--on-unseen": on_unseen is not OnUnseen.score, "--log-samples": log_samples > 0,
                "--challenger": challenger is not None,
            }  # fmt: skip
            if asked := ", ".join(option for option, given in own.items() if given):
                raise ConfigError(f"{asked} needs a model of rows, however: {name} is one of series. Leave it out.")
            made = series.score(
                name, input[0], output, events, names(keep), top, dialect, overwrite, track, asset, when, state, report,
                progress, remember, on_bad_row.value, max_bad_rows, rejects, None if format is None else format.value,
            )  # fmt: skip
            finish(made, series_summary.told_score, json_, quiet)
            return gate(made.monitoring["crossed"] if made.monitoring else None, fail_on)
        if events is not None and kind is not None:  # what is no model at all the job refuses
            raise ConfigError(f"--events needs a model of series, however: {name} is none. Leave it out.")
        from anomaly_ae.ops import scoring

        summary = scoring.score_file(
            name,
            input,
            output,
            keep=names(keep),
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
            challenger=challenger,
            log_samples=log_samples,
            asset=asset,
            event_time=when,
            remember=remember,
            state=state,
            report=report,
        )
    finish(summary, scoring.told_score, json_, quiet)
    return gate(summary.monitoring["crossed"] if summary.monitoring else None, fail_on)


@app.command(cls=Command)
def check(
    model: Model,
    input: Annotated[Path, typer.Argument(help="CSV or Parquet file to compare with the rows of the fit.")],
    fail_on: Annotated[list[FailOn], typer.Option(help="Finding to exit 4 on; may be given again.")] = [],  # noqa: B006
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare a file's columns with those of the fit: missing ones, types, gaps, ranges, categories, times."""
    with reported(quiet or json_) as progress:
        from anomaly_ae.ops import check as checking

        summary = checking.check(model, input, progress, dialect_of(delimiter, decimal, encoding, missing))
    typer.echo(json.dumps(asdict(summary), indent=2) if json_ else checking.told(summary))
    if summary.findings and not (quiet or json_):
        typer.echo(f"checked   {summary.rows:,} rows: {_counted(summary.findings)}", err=True)
    found = [finding.kind for finding in summary.findings if {"any", finding.kind.replace(" ", "-")} & set(fail_on)]
    if found:
        kinds = ", ".join(sorted(set(found)))
        fail(f"--fail-on needs a file as at fit, however: {_counted(found)} ({kinds}). Repair {input}.", 4)


def _counted(findings: list[Any]) -> str:
    return "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
