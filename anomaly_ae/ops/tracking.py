"""Runs of finished jobs: the result is published already, so a run that cannot be logged is only a warning."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from anomaly_ae import storage
from anomaly_ae.errors import warn
from anomaly_ae.mlflow import outbox, runs
from anomaly_ae.mlflow.store import redacted, tracking_uri

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Summary = TypeVar("Summary", bound=Any)
Entry = tuple[outbox.Record, Mapping[str, str | bytes], Path | None]  # a run, its files by name, its model folder


def tracked(summary: Summary, told: Callable[[], Entry], *more: Entry) -> Summary:
    """The summary with its run; runs are written down first, then sent, then forgotten.

    What the store does not take waits in the outbox, and a warning says so. `more` entries are sent after it.
    """
    sent = _sent(told)
    if sent is None:
        for entry in more:  # the store is not there: they wait with the first
            _kept(*entry)
        return summary
    for entry in more:
        _sent(lambda entry=entry: entry)  # type: ignore[misc]
    made = sent.registered
    known = {} if made is None else {"registered": made.uri, "alias": made.alias}
    return replace(summary, run_id=sent.run_id, tracking_uri=redacted(tracking_uri()), **known)


def _sent(told: Callable[[], Entry]) -> runs.Sent | None:
    fate = "but its run is lost"
    try:
        folder = _kept(*told())
        fate = f"and its run waits in {folder.parent}: send it with {_command(folder.parent)}"
        with outbox.held(folder, wait=True) as mine:
            if mine:  # else a `track sync` was quicker
                sent = runs.send(folder)
                outbox.forget(folder)
                return sent
    except Exception as error:
        warn(f"{runs.reason(error)} The result is complete, {fate}.")
    return None


def _kept(*told: Any) -> Path:
    try:
        return outbox.keep(outbox.outbox(), *told)
    except OSError:  # a working directory that cannot be written
        return outbox.keep(_elsewhere(), *told)


@cache
def _elsewhere() -> Path:
    return Path(tempfile.mkdtemp(prefix="mlflow-outbox-"))


def _command(place: Path) -> str:
    elsewhere = "" if place == outbox.outbox() else f"ANOMALY_AE_OUTBOX={place} "
    return f"{elsewhere}anomaly-ae track sync"


def told_run(summary: Any) -> list[str]:
    """The run and the version of a summary, for a person."""
    lines = []
    if summary.run_id:
        lines.append(f"run       {summary.run_id} in {summary.tracking_uri}; look at it with: anomaly-ae ui")
    if getattr(summary, "registered", None):
        lines.append(f"version   {summary.registered} is @{summary.alias}")
    return lines


def picture(draw: Callable[[], Figure]) -> dict[str, bytes]:
    """A histogram as a file of a run; none without matplotlib."""
    try:
        figure = draw()
    except ImportError:
        return {}
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return {"score_histogram.png": stream.getvalue()}


def written(make: Callable[[], str]) -> dict[str, str]:
    """A page as a file of a run; none without matplotlib and jinja2."""
    try:
        return {"report.html": make()}
    except ImportError:
        return {}


def digest(*paths: str | Path) -> str:
    """SHA-256 of a file, or of those of several files; of standard input of its name."""
    found: Sequence[str] = [storage.digest(Path(path)) if Path(path).is_file() else str(path) for path in paths]
    return found[0] if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()
