"""What is odd about the times and groups of a file, beside the series that a model was fitted on."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ae.ops.series_times import unseen_groups
from anomaly_ae.series.detector import SeriesDetector
from anomaly_ae.series.rows import TELLING
from anomaly_ae.series.timeline import (
    GAP,
    by_groups,
    readable_moments,
    several_machines,
    steps_between,
    usual_step,
)

KindInTime = Literal[
    "missing group",
    "unseen group",
    "missing time",
    "unreadable time",
    "time order",
    "duplicate time",
    "step",
    "gap",
]


class Odd(NamedTuple):
    """One way in which times or groups are odd: in how many rows, the first of them (from 1), and in words."""

    kind: KindInTime
    column: str
    rows: int
    first_row: int
    sentence: str


def odd_in_time(detector: SeriesDetector, X: pd.DataFrame, times: pd.Series | None) -> list[Odd]:
    """What scoring would refuse, tell of or begin anew at.

    `X` has the columns of time and group that a file has, as they are written and indexed by their rows' numbers;
    `times` are those of the first, numbers where text of CSV is of numbers.
    """
    found, fit = _of_groups(detector, X), np.ones(len(X), dtype=bool)
    if detector.group in X:
        fit = X[detector.group].notna().to_numpy()
    if times is None:
        return found
    column, moments = X[detector.time], readable_moments(times)
    missing = column.isna().to_numpy()
    found += _counted("missing time", column, missing, "without a time")
    unreadable = np.isnan(moments) & ~missing
    found += _counted("unreadable time", column, unreadable, "neither a number nor ISO 8601", show=True)
    fit = fit & ~np.isnan(moments)
    if fit.any() and (detector.group is None or detector.group in X):
        groups = None if detector.group is None else X[detector.group].to_numpy()[fit]
        found += _in_order(detector, column, np.flatnonzero(fit), moments[fit], groups)
    return found


def _of_groups(detector: SeriesDetector, X: pd.DataFrame) -> list[Odd]:
    if detector.group is None or detector.group not in X:
        return []
    groups = X[detector.group]
    found = _counted("missing group", groups, groups.isna().to_numpy(), "without a name")
    unseen = groups.map(str, na_action="ignore").isin(unseen_groups(detector, X)).to_numpy()
    return found + _counted("unseen group", groups, unseen, "of a group unseen at fit", show=True)


def _in_order(
    detector: SeriesDetector, column: pd.Series, rows: NDArray[np.intp], times: NDArray[Any], groups: Any
) -> list[Odd]:
    """Of the `rows` of a column that have a time and a name: which come too early, at once or too late."""
    order, new = by_groups(len(times), groups)
    steps = steps_between(times[order], new, detector.step_)
    follow = rows[order]

    def where(odd: NDArray[np.bool_]) -> NDArray[np.bool_]:
        marked = np.zeros(len(column), dtype=bool)
        marked[follow[odd]] = True
        return marked

    question = "; several machines in one file?" if groups is None and several_machines(times) else ""
    if (steps < 0).any():  # all else is then a guess
        return _counted("time order", column, where(steps < 0), "earlier than the one before", more=question)
    found = []
    if detector.on_duplicate != "keep":
        found = _counted("duplicate time", column, where(steps == 0), "at the time of the one before", more=question)
    apart = usual_step(times, groups, TELLING, detector.step_)
    if not 1 / GAP < apart / detector.step_ < GAP:
        said = (
            f"{column.name}: rows are {apart:.6g} apart, {detector.step_:.6g} at fit: another unit of time, or another "
            "rate"
        )
        return [*found, Odd("step", str(column.name), len(column), 1, said)]
    gaps = steps > GAP * detector.step_
    longest = f"; the longest is {steps.max() / detector.step_:.4g} steps"
    return found + _counted("gap", column, where(gaps), f"after a gap of more than {GAP} steps", more=longest)


def _counted(
    kind: KindInTime, column: pd.Series, odd: NDArray[np.bool_], what: str, show: bool = False, more: str = ""
) -> list[Odd]:
    count = int(odd.sum())
    if not count:
        return []
    first = int(np.argmax(odd))
    row, value = int(column.index[first]), f": {str(column.iloc[first])!r:.60}" if show else ""
    said = f"{column.name}: {count:,} of {len(column):,} rows {what} (first in row {row}{value}){more}"
    return [Odd(kind, str(column.name), count, row, said)]
