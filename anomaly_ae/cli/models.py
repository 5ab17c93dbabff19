"""`anomaly-ae info` and `ui`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from anomaly_ae.cli.app import Json, app, reported


@app.command()
def info(
    model: Annotated[Path, typer.Argument(help="Model folder that fit wrote.")],
    json_: Json = False,
) -> None:
    """Say what a model is: its composition, columns, threshold and training."""
    with reported(quiet=True):
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
    with reported(quiet=True):
        from anomaly_ae.mlflow.store import serve

        typer.echo(f"MLflow on http://{host}:{port}; stop it with Ctrl-C.", err=True)
        serve(host, port)
