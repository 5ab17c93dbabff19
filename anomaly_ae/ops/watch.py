"""A series read line by line from a pipe: each row is scored as it comes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.drafts import Draft, check_output
from anomaly_ae.errors import AnomalyError, DataError
from anomaly_ae.explanation import Verdict
from anomaly_ae.ops.lines import as_number, cell, records
from anomaly_ae.ops.series import loaded
from anomaly_ae.ops.series_times import UNSEEN
from anomaly_ae.scoring.attribution import top
from anomaly_ae.series.detector import SeriesDetector
from anomaly_ae.series.events import BLAMED, Events, Unfolding
from anomaly_ae.series.stream import Came, Tail
from anomaly_ae.series.timeline import GAP, moments

Array = NDArray[np.float64]
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
    seen: int = 0  # rows that were left out, for the state knows them
    seen_until: str = ""  # where that ends
    is_other_step: bool = False  # whether many rows in a row came at another step than at fit


class Row(NamedTuple):
    """A row that came: its time and group as they were written, its cells, or why it has none."""

    said: dict[str, Any]
    group: str
    time: float | None
    cells: dict[str, Any] | AnomalyError


@dataclass
class Alert(Unfolding):
    """An event as it unfolds: how far each channel has been beyond its usual level, and what a table of events has."""

    number: int = 0  # once it is open
    blamed: Array = field(default_factory=lambda: np.zeros(0))
    start: Any = None
    last: Any = None
    peak: float = 0.0
    reasons: dict[str, str] = field(default_factory=dict)  # what the channels most to blame held at the peak

    def take(
        self, rule: Events, score: float, beyond: Array, place: Any, why: Callable[[Array], dict[str, str]]
    ) -> str | None:
        """Take the next row, as `add`; `why` says what channels, of those so much to blame, held in it."""
        is_new = not self.strange
        event = self.add(rule, score)
        self.blamed = beyond if is_new else self.blamed + beyond
        if self.strange and is_new:
            self.start, self.peak = place, 0.0
        if self.strange and not self.quiet:
            self.last = place
            if score > self.peak:
                self.peak, self.reasons = score, why(self.blamed)
        return event

    @property
    def named(self) -> dict[str, Any]:
        """By what a record names it."""
        return {"event_number": self.number, "since": self.start}

    def told(self, rule: Events) -> dict[str, Any]:
        """What there is to say of it in the end."""
        return {"start": self.start, "end": self.last, "severity": self.peak / rule.level_}

    def span(self, rule: Events) -> str:
        """The same for a person."""
        return f"{self.start} to {self.last}, severity {self.peak / rule.level_:.3g}"


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
    `begins_anew` where rows were missing before it; of a row that cannot be scored, its `error`. Of an event it has its
    `event_number` and `since` when rows are strange (the time as it was written; without times, the row), and where it
    closes `start`, `end` and `severity`, as in the table of events: where rows are missing, of the event before them,
    even if another opens at once. Where it opens and closes `reason` is what the channel most to blame held at the
    strangest row so far, and what was expected there or for how many rows it went on (`Stream.reason`). `tell` gets a
    sentence where an event opens or closes.

    With `state` the stream goes on from that file where there is one, with rows and events counted on, and is saved to
    it where an event opens or closes, at the end, and with rows that come five seconds or more after the last time: a
    process that is killed outright says again what it said since. One process at a time may use it. Rows at or before
    the time where it ended are left out and counted, so that a file that grows may be given again.

    Raises
    ------
    AnomalyError
        When the model is none of a series, the header lacks a column, or the state is of another model.
    """
    place = None if state is None else check_output(state)
    with _own(place):
        watch = Watch(loaded(model), write, tell, place, top_channels)
        watch.run(lines, dialect or Dialect())
    return watch.summary


@contextlib.contextmanager
def _own(state: Path | None) -> Iterator[None]:
    """While the block lasts, no other process goes on from the same state."""
    if state is None:
        yield
        return
    with Draft(state) as lock:
        try:
            yield
        finally:
            lock.discard_if_empty()


def told_watch(s: WatchSummary) -> str:
    """A watch for a person."""
    told = f"watched   {s.rows:,} rows: {s.alarms:,} alarms, {s.events:,} events"
    if s.seen:
        told += f"; {s.seen:,} rows already seen, for the state ends at {s.seen_until}"
        if not s.rows:
            told += "\nnote      none of them was new: if the clock was set back, begin anew with another state"
    if s.gaps:
        told += f"; {s.gaps:,} began the series anew, for rows were missing before them"
    return told + ("\nnote      rows are not as far apart as at fit: see the warning" if s.is_other_step else "")


class Watch:
    """A stream, and what is told of its rows and events."""

    def __init__(
        self,
        detector: SeriesDetector,
        write: Callable[[dict[str, Any]], None],
        tell: Callable[[str], None],
        state: Path | None,
        top_channels: int,
    ) -> None:
        self.detector, self.write, self.tell, self.state, self.top = detector, write, tell, state, top_channels
        self.stream = detector.stream()
        if state is not None and state.exists():
            self.stream.restore(state)
        self._ended = {key: replace(tail) for key, tail in self.stream.tails.items()}
        note = self.stream.note
        try:
            self.rows, self.events = (int(note.get(name, 0)) for name in ("rows", "events"))  # also of watches before
            self._ends = dict(note.get("ends", {}))  # the last times, as they were written
            self.alerts = {
                key: Alert(**alert | {"blamed": np.array(alert["blamed"])})
                for key, alert in note.get("alerts", {}).items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"A watch goes on from a state that it saved, however: {state} has another note ({error}). Begin anew "
                "with another file."
            ) from error
        self.summary, self.saved = WatchSummary(), Saved()
        self.names = detector.contract_.names
        self.keys = [name for name in (detector.time, detector.group) if name is not None]
        self._numbers = {column.name for column in detector.contract_.columns if column.kind == "number"}
        self._is_table = bool(self.keys) or hasattr(detector, "feature_names_in_")

    def run(self, lines: Iterable[str], dialect: Dialect) -> None:
        """Take all rows, and save where the stream stands then."""
        try:
            given = records(lines, [*self.keys, *self.names], dialect)
            for row in self._new(self._row(cells, dialect) for cells in given):
                self._take(row)
        finally:
            self.save()

    def save(self) -> None:
        """Write where the stream stands, where that is asked for."""
        if self.state is None:
            return
        told = {key: asdict(alert) | {"blamed": alert.blamed.tolist()} for key, alert in self.alerts.items()}
        self.stream.note = {"rows": self.rows, "events": self.events, "ends": self._ends, "alerts": told}
        with self.saved:
            self.stream.save(self.state)

    def _new(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Rows that the state does not know.

        After some that it does, those without a time and one that does not come next are held until another tells: if
        it is known, so were they.
        """
        held: list[Row] = []
        last_is_seen = False
        for row in rows:
            ended = self._ended.get(row.group)
            if row.time is not None and ended is not None and ended.has_seen(row.time):
                last_is_seen = True
                self.summary.seen += 1 + len(held)
                self.summary.seen_until = self._ends.get(row.group, "")
                held.clear()
            elif last_is_seen and all(one.time is None for one in held) and self._may_be_known(row, ended):
                held.append(row)
            else:
                last_is_seen = False
                yield from [*held, row]
                held.clear()
        yield from held

    def _may_be_known(self, row: Row, ended: Tail | None) -> bool:
        if row.time is None or ended is None or ended.time is None:
            return row.time is None
        return not 0 <= row.time - ended.time <= GAP * self.detector.step_

    def _take(self, row: Row) -> None:
        self.rows += 1
        self.summary.rows += 1
        record: dict[str, Any] = {"row": self.rows} | row.said
        try:
            if isinstance(row.cells, AnomalyError):
                raise row.cells
            frame = pd.DataFrame({name: [value] for name, value in row.cells.items()})
            verdict = self.stream.assess(frame if self._is_table else frame.to_numpy())
        except AnomalyError as error:
            self.summary.bad_rows += 1
            self.write(record | {"error": f"row {self.rows}: {error}"})
            return
        if self.detector.time is not None:
            self._ends[row.group] = str(row.said[self.detector.time])
        told = self._told(verdict, row.group, record)
        self.write(record | told)
        if self.saved.is_old(told["event"] in ("opens", "closes")):
            self.save()

    def _row(self, given: dict[str, Any] | DataError, dialect: Dialect) -> Row:
        if isinstance(given, DataError):
            return Row({}, "", None, given)
        said, time = {key: given.get(key) for key in self.keys}, None
        group = str(said.get(self.detector.group or "", ""))
        try:
            cells = {key: cell(given, key, False, dialect) for key in self.keys}
            if (name := self.detector.time) is not None:
                time = cells[name] = float(moments(pd.Series([as_number(cells[name], dialect)]), name)[0])
            cells |= {name: cell(given, name, name in self._numbers, dialect) for name in self.names}
            if (name := self.detector.group) is not None and cells[name] is None:
                raise DataError(f"A row needs a group in {name!r}, however: it names none. Say of which machine it is.")
        except AnomalyError as error:
            return Row(said, group, time, error)
        return Row(said, group, time, cells)

    def _told(self, verdict: Verdict, group: str, record: dict[str, Any]) -> dict[str, Any]:
        """What is said of a row beside what it is."""
        score, alarm, came = float(verdict.anomaly_score[0]), bool(verdict.is_anomaly[0]), self.stream.came
        self.summary.alarms += alarm
        self.summary.is_other_step = self.stream.is_warned
        told: dict[str, Any] = {"anomaly_score": score, "p_value": float(verdict.p_value[0]), "is_anomaly": alarm}
        beyond = np.maximum(verdict.contributions[0] - self.stream.calibrated.usual, 0)
        if group not in self.alerts:
            self._meet(group)
        told |= self._event(self.alerts[group], score, beyond, record)
        if not self.top:
            told = {name: value for name, value in told.items() if name not in ("blamed", "reason")}
        elif (alarm or told["event"]) and "blamed" not in told:
            told["blamed"] = self._shares(beyond if beyond.any() else verdict.contributions[0])
        if came is Came.ANEW:
            self.summary.gaps += 1
            told["begins_anew"] = True
        return told

    def _shares(self, blamed: Array) -> dict[str, float]:
        """The channels most to blame."""
        which, share = top(blamed[None], self.top or 1)
        return {self.names[j]: round(float(s), 4) for j, s in zip(which[0], share[0], strict=True)}

    def _meet(self, group: str) -> None:
        """Begin with a group, and tell if no row of the fit was of it."""
        self.alerts[group] = Alert()
        if self.detector.groups_ is not None and group not in self.detector.groups_:
            self.tell(f"{UNSEEN}: {group}")

    def _event(self, alert: Alert, score: float, beyond: Array, record: dict[str, Any]) -> dict[str, Any]:
        """What becomes of an event with a row, as the row's record has it; where it opens or closes is told.

        To blame are then the channels of all its rows.
        """
        rule, came = self.stream.calibrated.events, self.stream.came
        facts: dict[str, Any] = {"event": None}
        if came in (Came.ANEW, Came.BACK) and alert.end(rule):
            why = "rows are missing" if came is Came.ANEW else "its clock was wrong"
            facts = {"event": "closes"} | alert.named | self._closed(alert, rule, f"before row {self.rows}, for {why}")
        again = came is Came.AGAIN
        event = alert.now(rule) if again else alert.take(rule, score, beyond, self._place(record), self._why)
        where = ", ".join(str(value) for value in record.values())
        if event == "opens":
            self.events += 1
            self.summary.events += 1
            alert.number = self.events
            facts |= (blame := self._blame(alert))
            self.tell(
                f"event {alert.number}, since {alert.start}, is confirmed at row {where}: score {score:.4g}, level "
                f"{rule.level_:.4g}; {_named(**blame)}"
            )
        elif event == "closes":
            facts |= self._closed(alert, rule, f"at row {where}")
        return facts | {"event": event} | alert.named if event else facts

    def _closed(self, alert: Alert, rule: Events, when: str) -> dict[str, Any]:
        """What there is to say of an event in the end, which is told."""
        blame = self._blame(alert)
        self.tell(f"event {alert.number} closes {when}: {alert.span(rule)}; {_named(**blame)}")
        return alert.told(rule) | blame

    def _blame(self, alert: Alert) -> dict[str, Any]:
        """The channels to blame, and what the first of them, of those that were blamed at the peak, held there."""
        order = [self.names[j] for j in np.argsort(-alert.blamed, kind="stable")]
        reason = next((alert.reasons[name] for name in order if name in alert.reasons), "")
        return {"blamed": self._shares(alert.blamed), "reason": reason}

    def _why(self, blamed: Array) -> dict[str, str]:
        names = [self.names[j] for j in top(blamed[None], BLAMED)[0][0]]
        return {name: self.stream.reason(name) for name in names}

    def _place(self, record: dict[str, Any]) -> Any:
        """The time of a row as it was written, or its number where there are no times."""
        return record["row"] if self.detector.time is None else record[self.detector.time]


def _named(blamed: dict[str, float], reason: str) -> str:
    """Why there is an event: the first channel to blame, and others with a tenth of it or more."""
    shares = [f"{name} {share:.0%}" for k, (name, share) in enumerate(blamed.items()) if share >= 0.1 or not k]
    return "; ".join(filter(None, [reason, ", ".join(shares)]))
