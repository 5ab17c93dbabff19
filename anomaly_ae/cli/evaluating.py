"""`anomaly-ae evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from anomaly_ae.cli.app import (
    Command,
    Decimal,
    Delimiter,
    Encoding,
    Json,
    Missing,
    Model,
    Quiet,
    Report,
    Track,
    app,
    dialect_of,
    fail,
    finish,
    reported,
)
from anomaly_ae.errors import ConfigError


@app.command(cls=Command)
def evaluate(
    model: Model,
    input: Annotated[Path, typer.Argument(help="CSV, Parquet or Arrow file of rows, normal ones and anomalies.")],
    label: Annotated[
        str | None, typer.Option(help="Column of the labels: 1 or true of an anomaly, 0 or false of others.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="File that has the labels; of a series, ranges with columns start and end.")
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(help="Column of both files that says which label is whose; else `row`, or their order."),
    ] = None,
    anomaly: Annotated[list[str], typer.Option(help="Label of an anomaly; may be given again.")] = [],  # noqa: B006
    normal: Annotated[
        list[str], typer.Option(help="Label of a normal row; may be given again. Others are anomalies, by kinds.")
    ] = [],  # noqa: B006
    cause: Annotated[str | None, typer.Option(help="Column that names the column at fault, to judge blame by.")] = None,
    prevalence: Annotated[
        str | None, typer.Option(help="Share of anomalies in use (0.1%): says which precision to expect there.")
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Spoil rows by noise, gaps, scale and rotation, and look again.")
    ] = False,
    at_least: Annotated[
        list[str], typer.Option(help="Figure below which to exit 4: auroc=0.9; may be given again.")
    ] = [],  # noqa: B006
    at_most: Annotated[
        list[str], typer.Option(help="Figure above which to exit 4: false_alarm_rate=0.06; may be given again.")
    ] = [],  # noqa: B006
    report: Report = None,
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how good a model is on rows whose labels are known: figures with intervals, and whether its promise is kept.

    Alarms are those that score raises; nothing is tuned on the labels.
    """
    with reported(quiet or json_) as progress:
        from anomaly_ae.ops import evaluating, evaluation_summary
        from anomaly_ae.ops.labels import Labels

        least, most = (_bounds(given, evaluation_summary.GATES) for given in (at_least, at_most))
        summary = evaluating.evaluate(
            model,
            input,
            Labels(label, anomaly, normal, labels, on, cause),
            prevalence=None if prevalence is None else _share(prevalence),
            robustness=robustness,
            dialect=dialect_of(delimiter, decimal, encoding, missing),
            report=report,
            track=track,
            progress=progress,
        )
    finish(summary, evaluation_summary.told, json_, quiet)
    if low := evaluation_summary.missed_gates(summary.metrics, least, most):
        fail(f"A gate needs figures within its bounds, however: {'; '.join(low)}. Look at the report.", 4)


def _share(told: str) -> float:
    try:
        return float(told.removesuffix("%")) / (100 if told.endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"--prevalence needs a share, however: {told!r}. Try 0.1%.") from None


def _bounds(given: list[str], names: tuple[str, ...]) -> dict[str, float]:
    bounds = {}
    for one in given:
        name, _, value = one.partition("=")
        try:
            bounds[name] = float(value)
        except ValueError:
            raise ConfigError(f"A gate needs a figure and a number, however: {one!r}. Try auroc=0.9.") from None
        if name not in names:
            raise ConfigError(f"A gate needs a figure out of {', '.join(names)}, however: {name!r}. Choose from them.")
    return bounds
