"""`anomaly-ae info`, `refit`, `promote`, `track sync` and `ui`."""

from __future__ import annotations

import enum
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from anomaly_ae.cli.app import (
    Command,
    Decimal,
    Delimiter,
    Encoding,
    Json,
    Known,
    Missing,
    Model,
    Overwrite,
    Quiet,
    Register,
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
def info(
    model: Model,
    json_: Json = False,
) -> None:
    """Say what a model is: its composition, columns, threshold and training."""
    with reported(quiet=True):
        from anomaly_ae.loading import load
        from anomaly_ae.mlflow.registry import resolve
        from anomaly_ae.ops.describe import describe, told

        facts = describe(load(resolve(model)))
    typer.echo(json.dumps(facts, indent=2) if json_ else told(facts))


class How(enum.StrEnum):
    """How a model learns again."""

    new = "new"
    warm = "warm"
    threshold = "threshold"


@app.command(cls=Command)
def refit(
    model: Model,
    data: Annotated[Path, typer.Option(help="CSV or Parquet file of newer normal rows.")],
    to: Annotated[Path | None, typer.Option(help="Folder for it; else MODEL is replaced, with --overwrite.")] = None,
    how: Annotated[How, typer.Option(help="Anew, on from the weights there are, or the threshold alone.")] = How.new,
    known: Known = None,
    register: Register = None,
    report: Report = None,
    delimiter: Delimiter = None,
    decimal: Decimal = ".",
    encoding: Encoding = None,
    missing: Missing = [],  # noqa: B006
    overwrite: Overwrite = False,
    track: Track = True,
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Have a model learn from newer normal rows; it remembers which one it comes from."""
    with reported(quiet or json_) as progress:
        from anomaly_ae.ops import refitting

        summary = refitting.refit(
            model,
            data,
            to,
            how=how.value,
            dialect=dialect_of(delimiter, decimal, encoding, missing),
            overwrite=overwrite,
            track=track,
            progress=progress,
            register=register,
            report=report,
            known=known,
        )
    finish(summary, refitting.told, json_, quiet)


@app.command(cls=Command)
def promote(
    name: Annotated[str, typer.Argument(help="Registered model.")],
    version: Annotated[str | None, typer.Option(help="Version to promote; else the challenger.")] = None,
    alias: Annotated[str, typer.Option(help="Alias that is to stand for it.")] = "champion",
    rollback: Annotated[bool, typer.Option("--rollback", help="Put back the version that was replaced last.")] = False,
    json_: Json = False,
) -> None:
    """Have the champion of a registered model be another version, or the one before again."""
    if rollback and version is not None:
        raise ConfigError("--rollback knows its version, however: --version was given as well. Leave one out.")
    with reported(quiet=True):
        from anomaly_ae.mlflow import registry

        done = registry.rollback(name, alias) if rollback else registry.promote(name, version, alias)
    if json_:
        typer.echo(json.dumps(done._asdict(), indent=2))
    else:
        before = "which stood for none before" if done.before is None else f"which was version {done.before}"
        typer.echo(f"{'put back' if rollback else 'promoted'}  version {done.version} is {name}@{alias}, {before}")


track = typer.Typer(help="Runs that MLflow has not got yet.", no_args_is_help=True)
app.add_typer(track, name="track")


@track.command(cls=Command)
def sync(json_: Json = False) -> None:
    """Send the runs that were kept because MLflow could not be reached, the oldest first."""
    with reported(quiet=True):
        from anomaly_ae.mlflow import runs
        from anomaly_ae.mlflow.store import redacted, tracking_uri

        outcome = runs.sync()
    sent = [one for one in outcome if isinstance(one, runs.Sent)]
    failed = [one for one in outcome if isinstance(one, runs.Failed)]
    if json_:
        told = {
            "sent": [
                {
                    "name": one.record.name,
                    "run_id": one.run_id,
                    "registered": None if one.registered is None else one.registered.uri,
                }
                for one in sent
            ],
            "failed": [{"record": str(one.folder), "reason": one.reason} for one in failed],
            "tracking_uri": redacted(tracking_uri()),
        }
        typer.echo(json.dumps(told, indent=2))
    else:
        for one in sent:
            begun = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.record.start / 1000))
            version = "" if one.registered is None else f", {one.registered.uri} is @{one.registered.alias}"
            typer.echo(f"sent      {one.record.name}, of {begun}: run {one.run_id}{version}")
        for other in failed:
            typer.echo(f"kept      {other.folder}: {other.reason}", err=True)
        if not outcome:
            typer.echo("nothing   is waiting")
    if failed:
        fail(f"A run needs a store that takes it, however: {len(failed)} wait still. Try again later.", 1)


@app.command(cls=Command)
def ui(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5000,
) -> None:
    """Open MLflow's pages on the runs of this folder (or of MLFLOW_TRACKING_URI)."""
    with reported(quiet=True):
        from anomaly_ae.mlflow.store import last_page, serve

        def begin() -> None:
            site = f"http://{host}:{port}"
            typer.echo(f"MLflow on {site}; stop it with Ctrl-C.", err=True)
            if page := last_page():
                typer.echo(f"The last run: {site}{page}", err=True)

        serve(host, port, begin)
