"""Runs that wait for their store: a folder of plain files for each, which needs no MLflow to be written."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_ae.data.drafts import sync

EXPERIMENT = "anomaly-ae"
Point = tuple[str, float, int, int]  # of a curve: metric, value, time in milliseconds, epoch


class Input(NamedTuple):
    """A file that a job read, by its name and what it held."""

    name: str
    digest: str


def experiment_name() -> str:
    """The experiment that the jobs' runs are of."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT


@dataclass(frozen=True)
class Record:
    """What a finished job was, as a run will say it; times in milliseconds since 1970.

    `register` names the registered model that gets the run's model as a new version. `id` is the record's own: by it a
    store is asked whether it has the run already. With `into`, its points and files go into the one long run of that
    key instead, which never ends.
    """

    kind: str
    name: str
    start: int
    end: int
    input: Input
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: list[Point]
    register: str | None = None
    into: str | None = None
    experiment: str = field(default_factory=experiment_name)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def read(cls, folder: Path) -> Record:
        """The record that a folder of the outbox holds."""
        told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        points: list[Point] = [(name, value, when, step) for name, value, when, step in told.pop("points")]
        return cls(**{**told, "input": Input(*told["input"]), "points": points})


def now() -> int:
    """The time in milliseconds since 1970."""
    return int(time.time() * 1000)


def outbox() -> Path:
    """Where runs wait: the folder of `ANOMALY_AE_OUTBOX`, else `mlflow-outbox` in the working directory."""
    return Path(os.environ.get("ANOMALY_AE_OUTBOX") or "mlflow-outbox")


def keep(place: Path, record: Record, files: Mapping[str, str | bytes], model: Path | None = None) -> Path:
    """Write a record, its files by name and a copy of its model folder; all of it is there afterwards, or nothing."""
    place.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".", dir=place))
    try:
        (temporary / "files").mkdir()
        for name, content in files.items():
            (temporary / "files" / name).write_bytes(content.encode() if isinstance(content, str) else content)
        if model is not None:
            shutil.copytree(model, temporary / "model")
        (temporary / "run.json").write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")
        for path in temporary.rglob("*"):
            sync(path)
        folder = place / f"{record.end}-{record.id[:12]}"
        temporary.rename(folder)
        sync(place)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def kept() -> list[Path]:
    """The folders of all records, of the job that began first first."""
    found = [path.parent for path in outbox().glob("*/run.json")]
    return sorted(found, key=lambda folder: (_start(folder), folder.name))


def _start(folder: Path) -> int:
    try:
        return Record.read(folder).start
    except (OSError, ValueError, KeyError, TypeError):
        return 0  # a damaged one, which whoever sends it will speak of


@contextlib.contextmanager
def held(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether the record is there and nobody else sends it; nobody will until the block is left."""
    import fcntl  # not there on Windows

    try:
        stream: Any = (folder / "run.json").open("rb")
    except FileNotFoundError:
        yield False
        return
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield (folder / "run.json").exists()


@contextlib.contextmanager
def alone(key: str) -> Iterator[None]:
    """While the block lasts, no other process of this machine is in one with the same key."""
    import fcntl  # not there on Windows

    with (Path(tempfile.gettempdir()) / f"anomaly-ae-{os.getuid()}-{key}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def forget(folder: Path) -> None:
    """Remove a record in one step, and the outbox with the last of them."""
    gone = folder.with_name(f".{folder.name}")
    folder.rename(gone)
    shutil.rmtree(gone)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


def sweep() -> None:
    """Remove what processes left that were killed while they wrote or removed a record, an hour later."""
    for path in outbox().glob(".*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - 3600:
                shutil.rmtree(path, ignore_errors=True)
