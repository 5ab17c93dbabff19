"""A series read line by line from a pipe: each row is scored as it comes."""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import check_output
from anomaly_ae.data.streams import NO_TEXT
from anomaly_ae.errors import AnomalyError, DataError
from anomaly_ae.explanation import Verdict
from anomaly_ae.ops.series import loaded
from anomaly_ae.scoring.attribution import top
from anomaly_ae.series.events import Unfolding
from anomaly_ae.series.stream import Came, Stream

SAVE_EVERY = 5.0  # seconds
PATIENCE = 10.0  # times as long as the last save took, at the least


@dataclass
class WatchSummary:
    """What a watch saw."""

    rows: int = 0
    bad_rows: int = 0
    alarms: int = 0
    events: int = 0
    gaps: int = 0  # where rows were missing, so that the series began anew
    is_other_step: bool = False  # whether many rows in a row came at another step than at fit


@dataclass
class Alert(Unfolding):
    """An event as it unfolds, its number once it is open, and how far each channel has been beyond its usual level."""

    number: int = 0
    blamed: np.ndarray = field(default_factory=lambda: np.zeros(0))


@dataclass
class Saved:
    """When a state was saved last, and how long that took."""

    at: float = field(default_factory=time.monotonic)
    took: float = 0.0

    def is_old(self, matters: bool) -> bool:
        """Whether it is time to save again; sooner where what happened since `matters`."""
        return time.monotonic() - self.at >= max(0.0 if matters else SAVE_EVERY, PATIENCE * self.took)

    def __enter__(self) -> None:
        self.at = time.monotonic()

    def __exit__(self, *error: object) -> None:
        self.took, self.at = time.monotonic() - self.at, time.monotonic()


def watch(
    model: str | Path,
    lines: Iterable[str],
    write: Callable[[dict[str, Any]], None],
    tell: Callable[[str], None],
    state: str | Path | None = None,
    top_channels: int = 3,
    dialect: Dialect | None = None,
) -> WatchSummary:
    """Score rows of CSV (with a header) or JSON lines as they come; `dialect` is how these are written.

    `write` gets one record a row: `row` (from 1), time and group, `anomaly_score`, `p_value`, `is_anomaly`, `event`
    ("opens", "goes on", "closes" or None), of alarms and events the blamed channels with their shares, and
    `begins_anew` where rows were missing before it; of a row that cannot be scored, its `error`. `tell` gets a sentence
    where an event opens or closes. With `state` the stream goes on from that file where there is one, with rows and
    events counted on, and is saved to it every five seconds, where an event opens or closes, and at the end.

    Raises
    ------
    AnomalyError
        When the model is none of a series, the header lacks a column, or the state is of another model.
    """
    detector, dialect = loaded(model), dialect or Dialect()
    stream = detector.stream()
    if state is not None and check_output(state).exists():
        stream.restore(state)
    names = detector.contract_.names
    keys = [name for name in (detector.time, detector.group) if name is not None]
    numbers = {column.name for column in detector.contract_.columns if column.kind == "number"}
    summary = WatchSummary(stream.note.get("rows", 0), events=stream.note.get("events", 0))
    before = replace(summary)
    alerts = {
        key: Alert(alert["strange"], alert["quiet"], alert["number"], np.array(alert["blamed"]))
        for key, alert in stream.note.get("alerts", {}).items()
    }

    saved = Saved()

    def save() -> None:
        told = {key: asdict(alert) | {"blamed": alert.blamed.tolist()} for key, alert in alerts.items()}
        stream.note = {"rows": summary.rows, "events": summary.events, "alerts": told}
        if state is not None:
            with saved:
                stream.save(state)

    try:
        for cells in _records(lines, [*keys, *names], dialect):
            summary.rows += 1
            record: dict[str, Any] = {"row": summary.rows}
            try:
                if isinstance(cells, DataError):
                    raise cells
                record |= {key: cells.get(key) for key in keys}
                held = {name: _cell(cells, name, name in numbers, dialect) for name in [*keys, *names]}
                if detector.time is not None:
                    held[detector.time] = _as_number(held[detector.time], dialect)
                frame = pd.DataFrame({name: [value] for name, value in held.items()})
                group = str(record.get(detector.group or "", ""))
                verdict = stream.assess(frame if hasattr(detector, "feature_names_in_") or keys else frame.to_numpy())
            except AnomalyError as error:
                summary.bad_rows += 1
                write(record | {"error": str(error)})
                continue
            alert = alerts.setdefault(group, Alert())
            summary.is_other_step = stream.is_warned
            ended = stream.came in (Came.ANEW, Came.BACK) and alert.end(stream.calibrated.events)
            if ended:
                why = "rows are missing" if stream.came is Came.ANEW else "its clock was wrong"
                tell(f"event {alert.number} closes before row {summary.rows}, for {why}")
            told = _told(stream, verdict, names, alert, summary, record, tell, top_channels)
            if ended:
                told["event"] = told["event"] or "closes"
            if stream.came is Came.ANEW:
                summary.gaps += 1
                told["begins_anew"] = True
            write(record | told)
            if saved.is_old(told["event"] in ("opens", "closes")):
                save()
    finally:
        save()
    return replace(summary, rows=summary.rows - before.rows, events=summary.events - before.events)


def told_watch(s: WatchSummary) -> str:
    """A watch for a person."""
    told = f"watched   {s.rows:,} rows: {s.alarms:,} alarms, {s.events:,} events"
    if s.gaps:
        told += f"; {s.gaps:,} began the series anew, for rows were missing before them"
    return told + ("\nnote      rows are not as far apart as at fit: see the warning" if s.is_other_step else "")


def _told(
    stream: Stream,
    verdict: Verdict,
    names: list[str],
    alert: Alert,
    summary: WatchSummary,
    record: dict[str, Any],
    tell: Callable[[str], None],
    top_channels: int,
) -> dict[str, Any]:
    score, rule = float(verdict.anomaly_score[0]), stream.calibrated.events
    beyond = np.maximum(verdict.contributions[0] - stream.calibrated.usual, 0)
    if stream.came is Came.AGAIN:
        event = alert.now(rule)
    else:
        is_new = not alert.strange
        event = alert.add(rule, score)
        alert.blamed = beyond if is_new else alert.blamed + beyond
    where = ", ".join(str(value) for value in record.values())
    if event == "opens":
        summary.events += 1
        alert.number = summary.events
        which, share = top(alert.blamed[None], top_channels or 1)
        blamed = ", ".join(f"{names[j]} {s:.0%}" for j, s in zip(which[0], share[0], strict=True) if s >= 0.1)
        tell(f"event {alert.number} opens at row {where}: score {score:.4g}, level {rule.level_:.4g}; {blamed}")
    elif event == "closes":
        tell(f"event {alert.number} closes at row {where}")
    alarm = bool(verdict.is_anomaly[0])
    summary.alarms += alarm
    told: dict[str, Any] = {"anomaly_score": score, "p_value": float(verdict.p_value[0]), "is_anomaly": alarm}
    told["event"] = event
    if (alarm or event) and top_channels:
        which, share = top(beyond[None] if beyond.any() else verdict.contributions, top_channels)
        told["blamed"] = {names[j]: round(float(s), 4) for j, s in zip(which[0], share[0], strict=True)}
    return told


def _records(lines: Iterable[str], names: list[str], dialect: Dialect) -> Iterator[dict[str, Any] | DataError]:
    """Rows as mappings; of those that are none, why."""
    lines = (line for line in lines if line.strip())
    first = next(lines, None)
    if first is None:
        raise DataError("A watch needs rows, however: standard input has none. Pipe CSV with a header, or JSON lines.")
    first = first.lstrip("\ufeff")
    read: Callable[[str], dict[str, Any] | DataError] = _json
    if first.lstrip().startswith("{"):
        lines = chain([first], lines)
    else:
        dialect = dialect.of(first)
        header = next(csv.reader([first], delimiter=dialect.separator))
        if missing := [name for name in names if name not in header]:
            raise DataError(
                f"The model needs the columns {names}, however: the header lacks {missing}. It has {header}: name them "
                "as at fit, or say what is between them (--delimiter)."
            )
        read = partial(_fields, header=header, separator=dialect.separator)
    for line in lines:
        if NO_TEXT in line:
            yield DataError(f"A row needs text, however: {_shown(line)} is none. Give its encoding (--encoding).")
        else:
            yield read(line)


def _fields(line: str, header: list[str], separator: str) -> dict[str, Any] | DataError:
    try:
        cells = next(csv.reader([line], delimiter=separator))
    except csv.Error as error:
        return DataError(f"A row needs fields, however: {_shown(line)} ({error}). Repair what writes it.")
    if len(cells) != len(header):
        return DataError(
            f"A row needs {len(header)} fields, however: {len(cells)} ({_shown(line)}). Give each column one, empty "
            "where it is missing, and quote delimiters."
        )
    return dict(zip(header, cells, strict=True))


def _json(line: str) -> dict[str, Any] | DataError:
    try:
        row = json.loads(line)
    except ValueError as error:
        return DataError(f"A row needs JSON, however: {_shown(line)} ({error}). Write an object a line.")
    if isinstance(row, dict):
        return row
    return DataError(f"A row needs a JSON object, however: {_shown(line)}. Write values by their columns' names.")


def _shown(line: str) -> str:
    return repr(line.strip()[:80])


def _cell(cells: dict[str, Any], name: str, is_number: bool, dialect: Dialect) -> Any:
    if name not in cells:
        raise DataError(
            f"A row needs the column {name!r}, however: it has {sorted(cells)}. Give it, as null where it is missing."
        )
    value = cells[name]
    if value is None or (isinstance(value, str) and value.strip() in dialect.nulls):
        return np.nan if is_number else None
    if not is_number:
        return value
    try:
        number = float(dialect.pointed(value))
    except (OverflowError, TypeError, ValueError):
        number = math.inf
    if math.isinf(number):
        raise DataError(
            f"A row needs finite numbers, however: column {name!r} has {value!r:.60}. Leave it empty where it is "
            "missing, or say how decimals and missing values are written (--decimal, --missing)."
        )
    return number


def _as_number(said: Any, dialect: Dialect) -> Any:
    """A time as a number, where it is written as one."""
    try:
        return float(dialect.pointed(said))
    except (OverflowError, TypeError, ValueError):
        return said
