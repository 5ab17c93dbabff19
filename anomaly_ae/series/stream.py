"""A series as it comes: rows scored one by one, in constant memory, as they would be together."""

from __future__ import annotations

import enum
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from anomaly_ae.columns import as_frame
from anomaly_ae.data.drafts import write_whole
from anomaly_ae.errors import ConfigError, DataError, warn
from anomaly_ae.explanation import Blamed, Texts, Verdict, known
from anomaly_ae.series.calibrated import smoothed
from anomaly_ae.series.channels import Encoded, Standing
from anomaly_ae.series.fold import Reading
from anomaly_ae.series.rows import TELLING
from anomaly_ae.series.timeline import GAP, MISSED, refuse_nameless

Array = NDArray[np.float64]
FORMAT = "anomaly_ae stream"
VERSION = 3


class Came(enum.Enum):
    """How a row came after the one before it of its series."""

    FIRST = enum.auto()  # there is none
    NEXT = enum.auto()
    AGAIN = enum.auto()  # at the same time, so that the one before counts in its place
    ANEW = enum.auto()  # so late that it begins anew
    BACK = enum.auto()  # earlier, from before a jump that was the clock's


@dataclass
class Tail:
    """All that is kept of one series: what the next row's score depends on."""

    cells: Array  # the last rows' cells (k, channels), NaN where absent
    standing: Standing | None = None
    time: float | None = None
    begun: float | None = None  # the first row since rows were missing
    astray: int = 0  # rows in a row that came at another step than at fit, fewer than 0 if sooner
    before: Tail | None = None  # what was kept where rows were missing, as long as it may have been the clock
    scores: Array = field(default_factory=lambda: np.empty(0))  # before smoothing
    columns: Array = field(default_factory=lambda: np.empty((0, 0)))

    @property
    def is_alone(self) -> bool:
        """Whether no row has followed the first one since rows were missing."""
        return self.begun == self.time

    def was_ahead_of(self, time: float) -> bool:
        """Whether a row of that time tells that the clock had jumped: it is nearer to what was before that."""
        if self.time is None or time >= self.time:
            return False
        if self.before is None or self.before.time is None:
            return self.is_alone
        return 0 <= time - self.before.time <= self.time - time

    def has_seen(self, time: float) -> bool:
        """Whether a row of that time was taken or is older than those that were."""
        if self.time is None or self.begun is None:
            return False
        if self.begun <= time <= self.time:
            return True
        if self.before is not None:
            return self.before.time is not None and time <= self.before.time
        return time <= self.time and not self.is_alone

    @property
    def state(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "cells": _listed(self.cells),
            "standing": None if self.standing is None else [_listed(values) for values in self.standing],
            "time": self.time,
            "begun": self.begun,
            "astray": self.astray,
            "before": self.before and self.before.state,
            "scores": _listed(self.scores),
            "columns": _listed(self.columns),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], width: int, columns: int) -> Tail:
        """What `state` was taken from, of so many channels and columns."""
        return cls(
            _array(state["cells"]).reshape(-1, width),
            None if state["standing"] is None else Standing(*map(_array, state["standing"])),
            state["time"],
            state["begun"],
            state["astray"],
            None if state["before"] is None else cls.from_state(state["before"], width, columns),
            _array(state["scores"]),
            _array(state["columns"]).reshape(-1, columns),
        )


class Stream:
    r"""Rows of a fitted `SeriesDetector` as they come, from one series or from many at a time.

    .. math:: s_t = s(x_{t-L+1}, \dots, x_t)

    A row's score, p-value and contributions are those of a detector with `reduce="last"`, whatever its own `reduce`,
    and threshold and events are those calibrated for them. Memory is that of `L` rows a series, or twice that.

    A clock that jumps ahead is not believed before the next row agrees with it, nor at all where it jumps over more
    than the detector has seen at fit: when it comes back, the series goes on from before that, with a warning.

    Parameters
    ----------
    detector : SeriesDetector
        A fitted one.

    Raises
    ------
    ConfigError
        When the detector would replace rows by later duplicates.

    References
    ----------
    Gama et al. (2014), A survey on concept drift adaptation, ACM Computing Surveys 46 (what a stream may keep).

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import SeriesDetector
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> det = SeriesDetector(reduce="last", random_state=0).fit(X[:300])
    >>> stream = det.stream()
    >>> scores = np.concatenate([stream.update(row) for row in X[300:]])
    >>> np.allclose(scores, det.anomaly_score(X[300:]), atol=1e-6)
    True
    """

    def __init__(self, detector: Any) -> None:
        if detector.on_duplicate == "last":
            raise ConfigError(
                'A stream cannot take back a row, however: on_duplicate is "last". Choose "first", "keep" or "error".'
            )
        self.detector = detector
        self.calibrated = detector.calibrated_["last"]
        self.tails: dict[str, Tail] = {}
        self.is_warned = False  # of times in another unit
        self.came = Came.FIRST  # the last row that was taken
        self._last: tuple[Encoded, Array, Array] | None = None  # its window, codes, and how long it has held these
        self._given: Any = None  # the rows that it came with
        self.note: dict[str, Any] = {}  # plain data that who uses the stream wants to be kept with it

    @property
    def level(self) -> float:
        """The score above which an event opens."""
        return float(self.calibrated.events.level_)

    def update(self, X: ArrayLike) -> Array:
        """Scores of what comes next, `(n,)`: a row as an array, mapping or Series, or rows as an array or DataFrame.

        Rows that cannot all be taken, for one goes back in time, are none: the stream is then as it was.
        """
        return known(self._told(X, self._columns_are_kept).scores)

    def assess(self, X: ArrayLike) -> Verdict:
        """Everything there is to say of a row, or rows, that come next."""
        return self.calibrated.verdict(self._told(X, True))

    def reason(self, column: str) -> str:
        """What a column of the last row held, and what the others let expect ("flow 3.1, expected 11.8 to 12.9").

        Or for how many rows it has stood still or been missing, if that is longer than ever.

        Raises
        ------
        ConfigError
            When no row has come yet, or there is no such column.
        """
        names, fold = self.detector.contract_.names, self.detector.fold_
        if self._last is None:
            raise ConfigError("A reason needs a row that it is of, however: none has come yet. Take one first.")
        if column not in names:
            raise ConfigError(
                f"A reason needs a column of the detector, however: {column!r} is none. Take one of {names}."
            )
        (seen, codes, stood), j = self._last, names.index(column)
        expected, cell = fold.expected_of(seen)[-1:, j], np.array([j])
        blamed = Blamed(np.zeros(1, np.intp), cell, np.ones(1), expected, fold.channels.margin[cell])
        raw = as_frame(self._given)
        texts = Texts.of(self.detector.contract_.columns, codes, blamed, lambda row, j: raw[column].iloc[-1])
        (said,) = texts.lasting(blamed, fold.channels.lasted(stood, np.isnan(codes))[0, cell])
        return f"{column} {said}"

    @property
    def _columns_are_kept(self) -> bool:
        """Whether a later row may need what this one's columns contribute."""
        return self.calibrated.smoothing > 1 or self.detector.on_duplicate == "first"

    def _told(self, X: ArrayLike, explained: bool) -> Reading:
        if isinstance(X, pd.Series):  # a row of a table
            X = X.to_frame().T.infer_objects()
        elif isinstance(X, Mapping):
            X = pd.DataFrame([X])
        elif not isinstance(X, pd.DataFrame):
            X = np.asarray(X, dtype=np.float64)
            X = X[None] if X.ndim == 1 else X
        taken, self._given = self.detector._taken(X), X
        n = len(taken.codes)
        if taken.times is None and taken.groups is None:
            return self._next("", taken.codes, explained)
        if taken.groups is not None:
            refuse_nameless(taken.groups, self.detector.group)
        keys = np.array([""] * n) if taken.groups is None else np.array([str(group) for group in taken.groups])
        scores, columns = np.empty(n), np.empty((n, self.detector.n_features_in_))
        before = {key: replace(self.tails[key]) for key in {*keys} & {*self.tails}}
        try:
            for row in range(n):
                which = f"row {row + 1} of these" if n > 1 else "this row"
                time = None if taken.times is None else float(taken.times[row])
                told = self._at(keys[row], taken.codes[row : row + 1], time, which, explained)
                scores[row] = told.scores[-1]
                if told.columns is not None:
                    columns[row] = told.columns[-1]
        except DataError:  # rows that cannot all be taken are none
            self.tails = {key: tail for key, tail in self.tails.items() if key not in {*keys}} | before
            raise
        return Reading(scores, columns if explained else None)

    def _at(self, key: str, row: Array, time: float | None, which: str, explained: bool) -> Reading:
        """A row at a time: what happened since the last one of its series decides whether it goes on."""
        detector, (tail, came) = self.detector, self._followed(key, time)
        begun, before, missed, astray, steps = time, None, 0, 0, 1.0
        if tail is not None and tail.time is not None and time is not None:
            steps = (time - tail.time) / detector.step_
            self._refuse(steps, which)
            astray = _astray(tail.astray, steps)
            if steps == 0 and detector.on_duplicate == "first":
                self.came = Came.AGAIN
                return Reading(tail.scores.mean(keepdims=True), tail.columns.mean(axis=0, keepdims=True))
            if steps <= GAP:
                begun, before = tail.begun, tail.before if steps == 0 or self._is_far(tail) else None
            else:
                before = tail.before if tail.is_alone and self._is_far(tail) else replace(tail, before=None)
            missed = round(steps) - 1 if detector.on_gap == "fill" and steps > MISSED else 0
            missed = missed if missed <= detector.window_ else 0
            if steps > GAP and not missed:
                came = Came.ANEW
                del self.tails[key]
        told = self._next(key, np.vstack([np.full((missed, row.shape[1]), np.nan), row]), explained)
        kept = self.tails[key]
        kept.time, kept.begun, kept.astray, kept.before, self.came = time, begun, astray, before, came
        if abs(astray) >= TELLING and not self.is_warned:
            self._warn_of_step(steps)
        return told

    def _warn_of_step(self, steps: float) -> None:
        """Warn, once, of times in another unit or rows at another rate."""
        self.is_warned = True
        so = "each begins anew and no event opens" if self.came is Came.ANEW else "windows are others"
        warn(
            f"A stream needs rows about as far apart as at fit, however: the last {TELLING} are about {steps:.4g} "
            f"times as far, so that {so}. Give times in the same unit, and rows at the same step "
            f"({self.detector.step_:.6g} in that unit, seconds where they are dates)."
        )

    def _followed(self, key: str, time: float | None) -> tuple[Tail | None, Came]:
        """What a row of that time follows, and how: where the clock had jumped ahead, what came before that."""
        tail = self.tails.get(key)
        if tail is None or time is None or tail.time is None or not tail.was_ahead_of(time):
            return tail, Came.FIRST if tail is None else Came.NEXT
        ahead, where = (tail.time - time) / self.detector.step_, f" in {key}" if key else ""
        warn(
            f"A stream needs a clock that goes evenly, however: it jumped {ahead:.4g} steps ahead{where}, and back. "
            "The series goes on from before that; look at the clock."
        )
        if tail.before is None:
            del self.tails[key]
        else:
            self.tails[key] = replace(tail.before)
        return self.tails.get(key), Came.BACK

    def _is_far(self, tail: Tail) -> bool:
        """Whether more was missing before these rows than all that the detector has seen at fit."""
        if tail.before is None or tail.before.time is None or tail.begun is None:
            return False
        return tail.begun - tail.before.time > self.detector.n_rows_seen_ * self.detector.step_

    def _refuse(self, steps: float, which: str) -> None:
        """Refuse a row that comes so many steps after the one before."""
        if steps < 0:
            raise DataError(
                f"Rows need to be in order of time, however: {which} is {-steps:.4g} steps earlier than the one "
                "before. Give times in UTC or with their offset."
            )
        if steps == 0 and self.detector.on_duplicate == "error":
            raise DataError(
                f"Rows need times of their own, however: {which} has the time of the one before. "
                'Choose on_duplicate="first" or "keep".'
            )
        if steps > GAP and self.detector.on_gap == "error":
            raise DataError(
                f"Rows need an even step, however: before {which} are {steps:.4g} steps of the usual length. "
                'Choose on_gap="split" or "fill".'
            )

    def _next(self, key: str, rows: Array, explained: bool) -> Reading:
        """Rows that follow those of a series so far."""
        fold, calibrated = self.detector.fold_, self.calibrated
        tail = self.tails.get(key) or Tail(np.empty((0, len(fold.channels.used))), columns=np.empty((0, rows.shape[1])))
        encoded, tail.standing = fold.channels.encode(rows, tail.standing)
        fresh = encoded.x.numpy() if encoded.mask is None else np.where(encoded.mask.numpy(), encoded.x.numpy(), np.nan)
        cells = np.vstack([tail.cells, fresh])
        absent = np.isnan(cells)
        mask = torch.from_numpy(~absent) if absent.any() else None
        known_cells = np.where(absent, 0.0, cells) if absent.any() else cells
        seen = Encoded(torch.from_numpy(known_cells), mask, encoded.surprise)
        told = fold.fuse(fold.raw_next(seen, len(rows), explained), calibrated.rarities)
        self._last = seen, rows[-1:], tail.standing.rows[None]
        tail.cells = cells[max(0, len(cells) - fold.length + 1) :] if fold.length > 1 else cells[:0]
        smooth = calibrated.smoothing
        every = told.each(lambda new, old: np.concatenate([old, new]), Reading(tail.scores, tail.columns))
        tail.scores = every.scores[-smooth:]
        if every.columns is not None:
            tail.columns = every.columns[-smooth:]
        self.tails[key] = tail
        return smoothed(every, smooth).at(slice(-len(rows), None))

    # --- keeping -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write where the stream stands, as JSON; the file appears complete or not at all."""
        path = Path(path)
        state = {
            "format": FORMAT,
            "version": VERSION,
            "columns": self.detector.contract_.names,
            "rows": self.detector.fold_.length,
            "model": self._model,
            "note": self.note,
            "series": {key: tail.state for key, tail in self.tails.items()},
        }
        write_whole(path, json.dumps(state))
        return path

    def restore(self, path: str | os.PathLike[str]) -> Stream:
        """Go on where `save` stood.

        Raises
        ------
        DataError
            When the file is no such state, or one of another model.
        """
        try:
            state = json.loads(Path(path).read_text())
            fits = state["format"] == FORMAT and state["version"] == VERSION
            fits = fits and state["columns"] == self.detector.contract_.names
            fits = fits and state["rows"] == self.detector.fold_.length and state["model"] == self._model
            note = dict(state["note"])
            widths = len(self.detector.fold_.channels.used), len(state["columns"])
            tails = {key: Tail.from_state(tail, *widths) for key, tail in state["series"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"A stream goes on from a state that it saved, however: {path}: {error}. Begin anew without it."
            ) from error
        if not fits:
            raise DataError(
                f"A stream goes on from a state of its own model, however: {path} is of another. Begin anew."
            )
        self.tails, self.note = tails, note
        return self

    @property
    def _model(self) -> str:
        """What no other fit has: its calibrate scores."""
        return hashlib.sha256(self.calibrated.scores.tobytes()).hexdigest()[:16]


def _astray(rows: int, steps: float) -> int:
    """How many rows in a row came too late, or, below 0, too soon, with one more after so many steps."""
    if steps == 0:  # a duplicate says nothing
        return rows
    if steps > GAP:
        return max(rows, 0) + 1
    return min(rows, 0) - 1 if steps < 1 / GAP else 0


def _listed(values: Array) -> list[Any]:
    """Values as JSON has them; NaN is null there."""
    cells = values.astype(object)
    cells[np.isnan(values)] = None
    return cells.tolist()


def _array(values: list[Any]) -> Array:
    return np.array(values, dtype=np.float64)
