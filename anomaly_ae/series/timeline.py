"""Rows in order of time: which follow each other, and where they are interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ae.errors import DataError

Array = NDArray[np.float64]
Places = NDArray[np.intp]
GAP = 3.5  # median steps; less is jitter
MISSED = 1.5  # median steps from which on a row is missing


@dataclass(frozen=True)
class Timeline:
    """Rows put in order: group by group, each in order of time, cut into runs where something is missing.

    `source` `(m,)` is the given row that each row of the timeline is, -1 where it was filled in; `place` `(n,)` the
    timeline's row that each given row is (of a duplicate, the one that was kept); `bounds` `(k, 2)` are the runs, first
    row and last row + 1.
    """

    source: Places
    place: Places
    bounds: Places

    @classmethod
    def lay(
        cls,
        n: int,
        times: Array | None,
        groups: NDArray[Any] | None,
        step: float,
        on_gap: str = "split",
        on_duplicate: str = "error",
        longest_fill: int = 0,
    ) -> Timeline:
        """Order `n` rows by group and `times`, of which a usual `step` is known.

        Raises
        ------
        DataError
            Where time goes back within a group; at a duplicate or a gap, where these are to be errors.
        """
        order = np.arange(n)
        code = np.zeros(n, dtype=np.intp)
        if groups is not None:
            code, _ = pd.factorize(groups)
            order = np.argsort(code, kind="stable")
        new = np.append(True, np.diff(code[order]) != 0)
        if times is None:
            return cls(order, np.argsort(order), _runs(new))
        steps = np.append(0.0, np.diff(times[order]))
        steps[new] = step
        if (back := np.flatnonzero(steps < 0)).size:
            raise DataError(
                f"Rows need to be in order of time, however: row {order[back[0]] + 1} is earlier than the one before. "
                "Sort them; if clocks were changed between the two, give times in UTC or with their offset."
            )
        same = steps == 0
        if same.any() and on_duplicate == "error":
            row = order[np.flatnonzero(same)[0]] + 1
            raise DataError(
                f"Rows need times of their own, however: row {row} has the time of the one before ({int(same.sum())} "
                'such rows). Choose on_duplicate="first" or "last" to keep one of them, or "keep" for all.'
            )
        kept = np.ones(n, dtype=bool)
        if on_duplicate == "first":
            kept = ~same
        elif on_duplicate == "last":
            kept = ~np.append(same[1:], False)
        number = np.cumsum(~same) - 1 if on_duplicate in ("first", "last") else np.arange(n)
        place = np.empty(n, dtype=np.intp)
        place[order] = number
        moments, new = times[order][kept], np.append(True, np.diff(code[order][kept]) != 0)
        steps = np.append(step, np.diff(moments))
        steps[new] = step
        gaps = steps > GAP * step
        if gaps.any() and on_gap == "error":
            row = order[kept][np.flatnonzero(gaps)[0]] + 1
            raise DataError(
                f"Rows need an even step, however: before row {row} are {steps[gaps][0] / step:.4g} steps of the usual "
                f'length ({int(gaps.sum())} such gaps). Choose on_gap="split" or "fill".'
            )
        source = order[kept]
        if on_gap == "fill" and step > 0:
            missed = np.where(steps > MISSED * step, np.round(steps / step) - 1, 0).astype(np.intp)
            missed[missed > longest_fill] = 0
            gaps &= missed == 0
            shift = np.cumsum(missed)
            filled = np.full(len(source) + int(missed.sum()), -1, dtype=np.intp)
            at = np.arange(len(source)) + shift
            filled[at] = source
            cut = np.zeros(len(filled), dtype=bool)
            cut[at[new | gaps]] = True
            return cls(filled, at[place], _runs(cut))
        return cls(source, place, _runs(new | gaps))

    def given(self) -> Places:
        """The given row that each row of the timeline is, `(m,)`, the first of duplicates; -1 where filled in."""
        rows = np.full(len(self.source), -1, dtype=np.intp)
        rows[self.place[::-1]] = np.arange(len(self.place))[::-1]
        return rows

    def over(self, runs: Places) -> Places:
        """Runs `(k, 2)` of rows of a timeline without filled-in ones as runs of this one, across what is filled in."""
        at = np.flatnonzero(self.source >= 0)
        run = np.searchsorted(self.bounds[:, 0], at, side="right")  # of this timeline, in which each row is
        first, last = runs[:, 0], runs[:, 1] - 1
        goes_on = (first[1:] == last[:-1] + 1) & (run[first[1:]] == run[last[:-1]])
        begins, ends = np.ones(len(runs), dtype=bool), np.ones(len(runs), dtype=bool)
        begins[1:] = ends[:-1] = ~goes_on
        return np.column_stack([at[first[begins]], at[last[ends]] + 1])

    def rows(self, values: Array) -> Array:
        """Given rows `(n, d)` in the timeline's order, NaN where filled in: `(m, d)`."""
        rows = values[self.source]
        rows[self.source < 0] = np.nan
        return rows


def usual_step(times: Array | None, groups: NDArray[Any] | None) -> float:
    """The median step between rows of one group; 1 where there are no times."""
    if times is None or len(times) < 2:
        return 1.0
    steps = np.diff(times)
    if groups is not None:
        code, _ = pd.factorize(groups)
        order = np.argsort(code, kind="stable")
        steps = np.diff(times[order])[np.diff(code[order]) == 0]
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) else 1.0


def moments(values: pd.Series | pd.Index, name: str) -> Array:
    """Times as numbers `(n,)`: numbers as they are, others in seconds, of dates and ISO 8601 text since 1970 (UTC).

    Raises
    ------
    DataError
        At a time that is missing or cannot be read.
    """
    values = pd.Series(np.asarray(values) if isinstance(values, pd.Index) and values.dtype == object else values)
    if pd.api.types.is_numeric_dtype(values.dtype) and not pd.api.types.is_bool_dtype(values.dtype):
        times = values.to_numpy(dtype=np.float64, na_value=np.nan)
    elif pd.api.types.is_timedelta64_dtype(values.dtype):
        times = values.dt.total_seconds().to_numpy(dtype=np.float64)
    else:
        dates = pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True)
        times = np.asarray((dates - pd.Timestamp(0, unit="s", tz="UTC")).dt.total_seconds(), dtype=np.float64)
    if not np.isfinite(times).all():
        row = int(np.flatnonzero(~np.isfinite(times))[0])
        where = f" in row {row + 1}" if len(values) > 1 else ""
        raise DataError(
            f"Times need to be numbers or ISO 8601, however: {name!r} has {str(values.iloc[row])!r:.60}{where}. Repair "
            "it, or leave the row out."
        )
    return times


def _runs(begins: NDArray[np.bool_]) -> Places:
    first = np.flatnonzero(begins)
    return np.column_stack([first, np.append(first[1:], len(begins))]).astype(np.intp)
