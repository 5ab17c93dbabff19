"""What is remembered of the batches of a model and an asset, and batches judged beside it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from anomaly_ae.data.drafts import write_whole
from anomaly_ae.data.streams import STDIN
from anomaly_ae.errors import AnomalyError, ConfigError, OutputError, warn
from anomaly_ae.mlflow import runs
from anomaly_ae.monitoring.history import Evidence, History, Normal
from anomaly_ae.ops.arguments import Path_
from anomaly_ae.ops.report import more_alarms, tells, window_page
from anomaly_ae.ops.tracking import Entry, digest

FOLDER = "anomaly-ae-monitor"  # in the working directory
FORMAT = "anomaly_ae monitor 2"


@dataclass(frozen=True)
class Place:
    """Where a batch belongs: to which model and asset, when it happened, and the file that remembers those before."""

    model: str
    model_digest: str
    asset: str
    event_time: datetime | None = None
    state: Path | None = None

    @property
    def file(self) -> Path:
        """The state's file: as it was asked for, else one a model and asset in the folder of the environment's
        `ANOMALY_AE_MONITOR`, else in one of the working directory."""
        name = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in self.asset or "default")
        if name != (self.asset or "default"):  # others may become the same
            name += f"-{hashlib.sha256(self.asset.encode()).hexdigest()[:6]}"
        folder = Path(os.environ.get("ANOMALY_AE_MONITOR") or FOLDER)
        return self.state or folder / f"{name}-{self.model_digest[:12]}.json"

    def tags(self, found: Mapping[str, Any] | None) -> dict[str, str]:
        """What a run of the batch says of the place, with what was found in it."""
        asset = {"anomaly_ae.asset": self.asset} if self.asset else {}
        return asset | ({"anomaly_ae.event_time": found["event_time"]} if found else {})

    def when(self, inputs: Sequence[Path_]) -> datetime:
        """When the batch happened: as it was said, else when the last of its files was written, else now."""
        if self.event_time is not None:
            return self.event_time
        times = [Path(name).stat().st_mtime for name in inputs if os.fspath(name) != STDIN]
        return datetime.fromtimestamp(max(times), UTC) if times else datetime.now(UTC)


def moment(text: str) -> datetime:
    """A time as people write it (ISO 8601); without a zone it is local time.

    Raises
    ------
    ConfigError
        At anything else.
    """
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise ConfigError(
            f"An event time is written as 2026-03-02T06:00+01:00 (ISO 8601), however: {text!r}. Write it so."
        ) from error


def add(place: Place, normal: Normal, evidence: Evidence, inputs: Sequence[Path_]) -> tuple[dict[str, Any], History]:
    """Judge a batch beside the ones before it, and remember it; one that was here before changes nothing.

    Returns what is found, with `repeated` where it was known, and the history with it.
    """
    names = [os.fspath(name) for name in inputs]
    key = uuid4().hex if STDIN in names else digest(*names)  # what came through a pipe may be anything
    name = Path(inputs[0]).name + (f" and {len(inputs) - 1} more" if len(inputs) > 1 else "")
    with _history(place, normal) as history:
        found = history.find(key)
        if found is not None:
            return {**found, "repeated": True}, history
        return {**history.add(normal, evidence, key, place.when(inputs), name), "repeated": False}, history


def alone(normal: Normal, evidence: Evidence, inputs: Sequence[Path_], place: Place) -> dict[str, Any]:
    """Judge a batch by itself; nothing is remembered."""
    history = History(normal.martingale())
    found = history.add(normal, evidence, "alone", place.when(inputs), Path(inputs[0]).name)
    return {**found, "repeated": False}


def monitored(
    place: Place, detector: Any, evidence: Evidence | None, inputs: Sequence[str], remember: bool, track: bool
) -> tuple[dict[str, Any] | None, list[Entry]]:
    """What is found in a batch of a job that is complete, and what MLflow is to draw of it where runs are tracked.

    Trouble with it is a warning; there is nothing to find where the model has no profile.
    """
    if evidence is None:
        return None, []
    try:
        normal = Normal.of(detector)
        if not remember:
            return alone(normal, evidence, inputs, place), []
        found, history = add(place, normal, evidence, inputs)
    except (AnomalyError, OSError) as error:
        warn(f"{error} The result is complete, but not monitored.")
        return None, []
    return found, [chart(place, found, history)] if track else []


def chart(place: Place, found: Mapping[str, Any], history: History) -> Entry:
    """What the long run of a model and an asset gets of a batch; one that was here before adds nothing to it."""
    model = runs.Model(place.model, place.model_digest)
    batch = {"features": [], **found}
    page = window_page(history.batches, place.model, place.asset)
    return runs.of_watch(batch, place.asset, model), {"monitoring.html": page}, None


def brief(found: Mapping[str, Any]) -> dict[str, Any]:
    """What is found, without the bins of every column."""
    return {name: value for name, value in found.items() if name != "features"}


@contextlib.contextmanager
def _history(place: Place, normal: Normal) -> Iterator[History]:
    """What is remembered, for one process at a time; written when the block is left and something was added."""
    import fcntl  # not there on Windows

    file = place.file
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.with_name(f".{file.name}.lock").open("w")
    except OSError as error:
        raise OutputError(
            f"A monitor needs a place for its state, however: {file}: {error.strerror}. Choose one with --state FILE."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        history = _read(file, place) if file.exists() else History(normal.martingale())
        before = len(history.batches), history.martingale.log10
        yield history
        if (len(history.batches), history.martingale.log10) != before:
            told = {"format": FORMAT, "model_digest": place.model_digest, "asset": place.asset, **history.to_json()}
            write_whole(file, json.dumps(told) + "\n")


def _read(file: Path, place: Place) -> History:
    try:
        told = json.loads(file.read_text())
        whose = told["model_digest"], told["asset"]
        history = History.from_json(told) if told["format"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"A monitor needs its state as it wrote it, however: {file} is damaged ({type(error).__name__}). Restore "
            "it, or remove it to begin anew."
        ) from error
    if history is None:
        raise ConfigError(
            f"A monitor needs a state of its own version, however: {file} is {told['format']!r} instead of {FORMAT!r}. "
            "Remove it to begin anew, or choose another --state."
        )
    if whose != (place.model_digest, place.asset):
        raise ConfigError(
            f"A state is of one model and asset, however: {file} is of model {whose[0][:12]}, asset {whose[1]!r}. "
            "Choose another --state."
        )
    return history


def told_drift(monitoring: dict[str, Any] | None) -> list[str]:
    """What was found of drift, a line a finding."""
    if monitoring is None:
        return []
    none = "none: alarms, scores and columns are as at fit"
    if not tells([monitoring]):
        none = "too few rows to tell"
    elif more_alarms(monitoring):
        none = "none beyond doubt, but more alarms than are expected of normal rows"
    findings = monitoring["findings"] or [none]
    return [f"drift     {findings[0]}", *(f"          {finding}" for finding in findings[1:])]
