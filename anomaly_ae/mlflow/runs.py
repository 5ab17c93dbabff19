"""Runs of fitting and scoring jobs: what they say, and how a store gets them."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from anomaly_ae.errors import AnomalyError
from anomaly_ae.estimator import Detector
from anomaly_ae.mlflow.epochs import parameters
from anomaly_ae.mlflow.flavor import log_model
from anomaly_ae.mlflow.outbox import Input, Point, Record, alone, forget, held, kept, now, sweep
from anomaly_ae.mlflow.registry import Version, register
from anomaly_ae.mlflow.store import connected, log_points, redacted, said, tracking_uri
from anomaly_ae.promise import promised
from anomaly_ae.version import __version__

if TYPE_CHECKING:
    from anomaly_ae.series.detector import SeriesDetector

KIND = "mlflow.experimentKind"
RECORD = "anomaly_ae.record"
WATCH = "anomaly_ae.watch"
COLUMNS = 50  # whose drift is drawn


class Model(NamedTuple):
    """A model as runs name it: by its folder's name or its place in a registry, and by its manifest's digest."""

    name: str
    digest: str

    @property
    def tags(self) -> dict[str, str]:
        """What a run says of it."""
        return {"anomaly_ae.model": self.name, "anomaly_ae.model_digest": self.digest}


def of_fit(
    detector: Detector | SeriesDetector, source: Input, model: Model, start: int, register: str | None, did: str = "fit"
) -> Record:
    """Parameters, a curve an epoch, the threshold and what it promises."""
    end = now()
    curves = detector.history_.drop(columns=["net"]).groupby("epoch").mean()  # over the nets that got that far
    curves = curves.rename(columns={"seconds": "epoch_seconds"})
    points: list[Point] = [
        (name, value, end, epoch)
        for name in curves.columns
        for epoch, value in zip(curves.index.tolist(), curves[name].tolist(), strict=True)
    ]
    facts = {
        "rows": detector.n_rows_seen_,
        "threshold": detector.threshold_.value_,
        "p_value_resolution": detector.threshold_.resolution_,
        "calibrate_rows": len(detector.calibration_scores_),
        "seconds": (end - start) / 1000,
    }
    if (events := getattr(detector, "events_", None)) is not None:
        facts["event_level"] = events.level_
    if (rate := promised(detector)) is not None:
        facts["promised_false_alarm_rate"] = rate
    points += _now(facts, end)
    params = {name: str(value) for name, value in parameters(detector).items()}
    name = f"{did} {type(detector).__name__} on {source.name}"
    tags = {**model.tags, "anomaly_ae.version": __version__}
    return Record("fit", name, start, end, source, tags, params, points, register)


def of_score(
    source: Input,
    model: Model,
    start: int,
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
    did: str = "score",
) -> Record:
    """Metrics, and which model it was."""
    end = now()
    return Record(did, f"{did} {source.name}", start, end, source, {**model.tags, **tags}, {}, _now(metrics, end))


def of_monitor(batch: Mapping[str, Any], asset: str, model: Model, start: int) -> Record:
    """What was found in a batch, as a run of its own."""
    end, source = now(), Input(batch["name"], batch["digest"])
    tags = {**model.tags, "anomaly_ae.asset": asset, "anomaly_ae.event_time": batch["event_time"]}
    return Record("monitor", f"monitor {source.name}", start, end, source, tags, {}, _now(monitored(batch), end))


def of_watch(batch: Mapping[str, Any], asset: str, model: Model) -> Record:
    """Points at a batch's event time for the long run of a model and an asset."""
    when = int(datetime.fromisoformat(batch["event_time"]).timestamp() * 1000)
    told = (
        monitored(batch)
        | {
            f"psi {re.sub(r'[^-a-zA-Z0-9_. :]', '_', feature['name'])[:200]}": feature["psi"]  # a / would make groups
            for feature in sorted(batch["features"], key=lambda feature: str(feature["name"]))[:COLUMNS]
            if feature["kind"] != "date"  # which move on by nature
        }
    )
    key = hashlib.sha256(f"{model.digest} {asset}".encode()).hexdigest()[:32]
    name = f"watch {asset or 'all rows'}, {model.name}"
    tags = {**model.tags, "anomaly_ae.asset": asset, WATCH: key}
    points: list[Point] = [(metric, float(value), when, batch["minute"]) for metric, value in told.items()]
    return Record("watch", name, now(), now(), Input(batch["name"], batch["digest"]), tags, {}, points, into=key)


def monitored(batch: Mapping[str, Any]) -> dict[str, float]:
    """What was found in a batch, in numbers."""
    low, high = batch["alarm_interval"]
    numbers = {
        "alarm_rate": batch["alarm_rate"],
        "alarm_rate_low": low,
        "alarm_rate_high": high,
        "alarm_rate_promised": batch["promised"],
        **{f"score_{name}": batch["score"][name] for name in ("ks", "wasserstein", "psi")},
        "drifting_columns": len(batch["drifting"]),
        "martingale_log10": batch["martingale"]["log10"],
        "gates_crossed": len(batch["crossed"]),
        "rows": batch["rows"],
    }
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _now(metrics: Mapping[str, float], when: int) -> list[Point]:
    return [(name, float(value), when, 0) for name, value in metrics.items()]


class Sent(NamedTuple):
    """A record that the store has: under which run, and as which version of a registered model."""

    record: Record
    run_id: str
    registered: Version | None = None


class Failed(NamedTuple):
    """A record that the store has not got, and why."""

    folder: Path
    reason: str


def send(folder: Path, patience: int = 5) -> Sent:
    """Have a store hold the run of a record, once however often it is sent: a run that was half sent is completed.

    The run ends when the job did, and only then counts as finished.
    """
    record = Record.read(folder)
    with connected(patience) as mlflow:
        with _first(tracking_uri()):
            client = mlflow.MlflowClient()
            experiment = _experiment(client, record.experiment)
        if record.into is not None:
            return Sent(record, _continued(client, experiment, record, folder))
        found = client.search_runs([experiment], f"tags.`{RECORD}` = '{record.id}'", max_results=1)
        run = found[0] if found else client.create_run(experiment, record.start, _tags(record), record.name)
        run_id = run.info.run_id
        if run.info.status == "FINISHED":
            return Sent(record, run_id)
        _fill(client, run_id, record, folder)
        model_id, registered = _model(client, run_id, folder), None
        if record.register is not None:
            source = f"models:/{model_id}"
            registered = register(client, record.register, source, run_id, model_id, _of_version(record))
        client.set_terminated(run_id, "FINISHED", record.end)
    return Sent(record, run_id, registered)


def _of_version(record: Record) -> dict[str, str]:
    """What helps to choose among versions of a registered model, as tags."""
    numbers = {name: value for name, value, *_ in record.points}
    facts = {
        "rows": f"{numbers['rows']:.0f}",
        "data": record.input.name,
        "data_digest": record.input.digest,
        "alpha": record.params.get("threshold.alpha"),
        "promised_false_alarm_rate": numbers.get("promised_false_alarm_rate"),
    }
    return {**record.tags, **{f"anomaly_ae.{name}": f"{fact}" for name, fact in facts.items() if fact is not None}}


def _first(uri: str) -> contextlib.AbstractContextManager[None]:
    """One process at a time, where the first one makes the tables; a server that is away is not waited for in turn."""
    is_file = uri.startswith("sqlite")
    return alone(hashlib.sha256(uri.encode()).hexdigest()[:32]) if is_file else contextlib.nullcontext()


def _continued(client: Any, experiment: str, record: Record, folder: Path) -> str:
    """The id of the long run that a record goes into; the first record begins it."""
    with alone(f"{record.into}"):
        found = client.search_runs([experiment], f"tags.`{WATCH}` = '{record.into}'", max_results=1)
        run = found[0] if found else client.create_run(experiment, record.start, _tags(record), record.name)
    run_id = str(run.info.run_id)
    log_points(client, run_id, record.points)  # a point that is there already stays one point
    client.log_artifacts(run_id, str(folder / "files"))
    return run_id


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:  # the kind: without it the pages open on the traces of language models
            return str(client.create_experiment(name, tags={KIND: "custom_model_development"}))
        except MlflowException:  # another job was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    elif KIND not in found.tags:
        client.set_experiment_tag(found.experiment_id, KIND, "custom_model_development")
    return str(found.experiment_id)


def _tags(record: Record) -> dict[str, str]:
    tags = {"anomaly_ae.job": record.kind, RECORD: record.id, **record.tags, "mlflow.source.name": "anomaly-ae"}
    with contextlib.suppress(OSError, KeyError):  # a container may know no name for who runs it
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _fill(client: Any, run_id: str, record: Record, folder: Path) -> None:
    """All of this may be done again without harm."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Param

    log_points(client, run_id, record.points)  # a point that is there already stays one point
    params = [Param(name, value[:6000]) for name, value in record.params.items()]  # longer a store refuses
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])
    place = json.dumps({"uri": record.input.name})
    dataset = Dataset(record.input.name[:500], record.input.digest[:12], "local", place)
    context = InputTag("mlflow.data.context", {"fit": "training", "evaluate": "evaluation"}.get(record.kind, "scoring"))
    client.log_inputs(run_id, [DatasetInput(dataset, [context])])
    client.log_artifacts(run_id, str(folder / "files"))


def _model(client: Any, run_id: str, folder: Path) -> str | None:
    """The model of a record in MLflow's keeping, logged where it is not yet."""
    if not (folder / "model").is_dir():
        return None
    there = [output.model_id for output in client.get_run(run_id).outputs.model_outputs]
    ready = [one for one in there if client.get_logged_model(one).status == "READY"]  # one half sent is not
    return str(ready[0] if ready else log_model(folder / "model", run_id=run_id).model_id)


def sync(patience: int = 60) -> Sequence[Sent | Failed]:
    """Send all records that are kept, the oldest first, and keep those that still fail.

    A record that another process is sending is left to it.
    """
    outcome: list[Sent | Failed] = []
    sweep()
    for folder in kept():
        with held(folder) as mine:
            if not mine:
                continue
            try:
                outcome.append(send(folder, patience))
                forget(folder)
            except Exception as error:
                outcome.append(Failed(folder, reason(error)))
    return outcome


def reason(error: Exception) -> str:
    """What went wrong, in a sentence without secrets."""
    return redacted(str(error)) if isinstance(error, AnomalyError) else f"Tracking failed: {said(error)}."
