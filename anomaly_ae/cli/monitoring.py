"""`anomaly-ae monitor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

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
    Missing,
    Model,
    Quiet,
    Report,
    State,
    Track,
    app,
    dialect_of,
    gate,
    reported,
)


@app.command(cls=Command)
def monitor(
    model: Model,
    input: Annotated[
        list[str], typer.Argument(help="Files, each a batch of its own; CSV, Parquet or Arrow, patterns.")
    ],
    asset: Asset = "",
    event_time: EventTime = None,
    state: State = None,
    report: Report = None,
    fail_on: FailOnGate = [],  # noqa: B006
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Say how far batches have moved from the rows of the fit: alarms, scores, columns, and all of them over time."""
    with reported(quiet or json_) as progress:
        from anomaly_ae.ops import monitoring
        from anomaly_ae.ops.assets import moment
        from anomaly_ae.ops.tracking import told_run

        summary = monitoring.monitor(
            model,
            input,
            asset=asset,
            event_time=None if event_time is None else moment(event_time),
            state=state,
            dialect=dialect_of(delimiter, decimal, encoding, missing),
            report=report,
            track=track,
            progress=progress,
        )
    if json_ or not quiet:
        typer.echo(json.dumps(asdict(summary), indent=2) if json_ else monitoring.told(summary))
    for line in [] if quiet or json_ else told_run(summary):
        typer.echo(line, err=True)
    gate(summary.crossed, fail_on)
