"""When rows of a series are, and of which machine: what of it a person has to know who gave a file."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd

from anomaly_ae.data.contract import listed
from anomaly_ae.errors import DataError
from anomaly_ae.series.detector import SeriesDetector
from anomaly_ae.series.timeline import Timeline, moments, named_groups, refuse_nameless, several_machines

UNSEEN = "unseen at fit, so that what is normal there is a guess"


def check_groups(detector: SeriesDetector, X: pd.DataFrame, file: object) -> None:
    """Refuse rows of a file that name no group, where the detector asks for one."""
    if detector.group is not None:
        try:
            refuse_nameless(X[detector.group], detector.group)
        except DataError as error:
            raise DataError(f"{file}: {error}") from error


def laid(detector: SeriesDetector, X: pd.DataFrame) -> Timeline:
    """Rows of a table as a fitted detector puts them in order."""
    times = None if detector.time is None else moments(X[detector.time], detector.time)
    groups = None if detector.group is None else X[detector.group].to_numpy()
    return Timeline.lay(len(X), times, groups, detector.step_, detector.on_gap, detector.on_duplicate, detector.window_)


def last_moment(detector: SeriesDetector, X: pd.DataFrame) -> datetime | None:
    """The last time of a table, where its times are dates; of numbers nobody knows what they are counted from."""
    if detector.time is None:
        return None
    column = X[detector.time]
    if pd.api.types.is_numeric_dtype(column.dtype) or pd.api.types.is_timedelta64_dtype(column.dtype):
        return None
    return datetime.fromtimestamp(float(moments(column, detector.time).max()), UTC)


def told_dropped(detector: SeriesDetector, X: pd.DataFrame, line: Timeline) -> list[str]:
    """How many rows have the time of another and do not count, if any."""
    dropped = len(line.place) - len(np.unique(line.place))
    if not dropped:
        return []
    several = detector.group is None and several_machines(moments(X[detector.time], str(detector.time)))
    question = "; several machines in one file? Name their column with --group" if several else ""
    return [
        f'{dropped:,} of {len(X):,} rows left out: they have the time of another (on_duplicate="'
        f'{detector.on_duplicate}"){question}'
    ]


def told_begun(detector: SeriesDetector, line: Timeline) -> list[str]:
    """How many rows no whole window speaks of, if any: where series begin, or of series that are short."""
    first, last = line.bounds.T
    run = np.searchsorted(first, line.place, side="right") - 1
    rows, where, known = detector.fold_.length, "", (last - first)[run]
    if detector.reduce == "last":
        where, known = " behind them", line.place - first[run] + 1
    begun = known < rows
    if not begun.any():
        return []
    count, runs = int(begun.sum()), len(np.unique(run[begun]))
    which = f"the first {count:,} rows" if runs == 1 else f"{count:,} rows, where {runs:,} stretches begin,"
    if begun.all():
        which = f"all {count:,} rows"
    return [f"{which} have no full window of {rows} rows{where} and count for less"]


def unseen_groups(detector: SeriesDetector, X: pd.DataFrame) -> list[str]:
    """Groups that no row of the fit was of; none where a model does not know which it has seen."""
    if detector.group is None or detector.groups_ is None:
        return []
    return sorted(set(named_groups(X[detector.group].dropna()) or []) - set(detector.groups_))


def told_unseen(detector: SeriesDetector, X: pd.DataFrame) -> list[str]:
    """Which groups a model has never seen, if any."""
    names = unseen_groups(detector, X)
    return [f"{UNSEEN}: {listed(names, 8)}"] if names else []
