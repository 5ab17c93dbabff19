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
MANY = 0.1  # share of rows that have the time of another, from which on it is no accident


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
            Where a row names no group, or time goes back within one; at a duplicate or a gap, where these are to be
            errors.
        """
        order, new = by_groups(n, groups)
        if times is None:
            return cls(order, np.argsort(order), _runs(new))
        steps = steps_between(times[order], new, step)
        _refuse_going_back(times, groups, order, steps)
        same = steps == 0
        if same.any() and on_duplicate == "error":
            row = order[np.flatnonzero(same)[0]] + 1
            advice = 'choose on_duplicate="first" or "last" to keep one of them, or "keep" for all.'
            raise DataError(
                f"Rows need times of their own, however: row {row} has the time of the one before "
                f"({int(same.sum()):,} such rows). {_or_machines(times, groups, advice)}"
            )
        series = np.cumsum(new)
        kept = np.ones(n, dtype=bool)
        if on_duplicate == "first":
            kept = ~same
        elif on_duplicate == "last":
            kept = ~np.append(same[1:], False)
        number = np.cumsum(~same) - 1 if on_duplicate in ("first", "last") else np.arange(n)
        place = np.empty(n, dtype=np.intp)
        place[order] = number
        new = np.append(True, np.diff(series[kept]) != 0)
        steps = steps_between(times[order][kept], new, step)
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

    @property
    def order(self) -> Places:
        """All given rows, `(n,)`, group by group: of groups that take turns, each second row would be of one."""
        return np.argsort(self.place, kind="stable")

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


def by_groups(n: int, groups: NDArray[Any] | None) -> tuple[Places, NDArray[np.bool_]]:
    """`n` rows group by group, `(n,)`, each in the order given, and which of them are the first of one.

    Raises
    ------
    DataError
        Where a row names no group.
    """
    if groups is None:
        return np.arange(n), np.arange(n) == 0
    refuse_nameless(groups)
    code, _ = pd.factorize(groups)
    order = np.argsort(code, kind="stable")
    return order, np.append(True, np.diff(code[order]) != 0)


def steps_between(times: Array, new: NDArray[np.bool_], step: float) -> Array:
    """The time since the row before, `(n,)`; a usual `step` where a row is the first of a group."""
    steps = np.append(0.0, np.diff(times))
    steps[new] = step
    return steps


def refuse_nameless(groups: Any, column: str | None = None) -> None:
    """Raise DataError where some of `groups` `(n,)`, which are those of a `column`, are missing."""
    nameless = np.flatnonzero(pd.isna(groups))
    if len(nameless):
        named = "a group" if column is None else f"a group in {column!r}"
        raise DataError(
            f"Rows need {named}, however: row {nameless[0] + 1} names none ({len(nameless):,} such rows). Say which "
            "machine they are of, or leave them out."
        )


def named_groups(groups: Any) -> list[str] | None:
    """Which groups there are, by their names; None where there are none."""
    return None if groups is None else sorted({str(group) for group in pd.unique(pd.Series(groups))})


def usual_step(times: Array | None, groups: NDArray[Any] | None, fewest: int = 1, otherwise: float = 1.0) -> float:
    """The median step between rows of one group; another where there are fewer than `fewest` steps.

    Raises
    ------
    DataError
        Where a row names no group, or time goes back within one: steps then mean nothing.
    """
    if times is None or len(times) < 2:
        return otherwise
    order, new = by_groups(len(times), groups)
    steps = steps_between(times[order], new, 0.0)
    _refuse_going_back(times, groups, order, steps)
    steps = steps[steps > 0]
    return float(np.median(steps)) if len(steps) >= fewest else otherwise


def several_machines(times: Array) -> bool:
    """Whether so many rows, which no group tells apart, have the time of another that they may be of several."""
    return len(times) - len(np.unique(times)) >= MANY * len(times)


def _refuse_going_back(times: Array, groups: NDArray[Any] | None, order: Places, steps: Array) -> None:
    if (back := np.flatnonzero(steps < 0)).size:
        advice = "sort them; if clocks were changed between the two, give times in UTC or with their offset."
        raise DataError(
            f"Rows need to be in order of time, however: row {order[back[0]] + 1} is earlier than the one before. "
            f"{_or_machines(times, groups, advice)}"
        )


def _or_machines(times: Array, groups: NDArray[Any] | None, advice: str) -> str:
    """Advice on times, after a question where it would be bad advice."""
    if groups is None and several_machines(times):
        return f"Several machines in one file? Name their column with --group (group=). If it is one: {advice}"
    return advice[0].upper() + advice[1:]


def moments(values: pd.Series | pd.Index, name: str) -> Array:
    """Times as numbers `(n,)`: numbers as they are, others in seconds, of dates and ISO 8601 text since 1970 (UTC).

    Raises
    ------
    DataError
        At a time that is missing or cannot be read.
    """
    values = pd.Series(np.asarray(values) if isinstance(values, pd.Index) and values.dtype == object else values)
    times = readable_moments(values)
    if np.isnan(times).any():
        row = int(np.flatnonzero(np.isnan(times))[0])
        where = f" in row {row + 1}" if len(values) > 1 else ""
        raise DataError(
            f"Times need to be ISO 8601 or a count, as of seconds, however: {name!r} has "
            f"{str(values.iloc[row])!r:.60}{where}. Repair it, or leave the row out."
        )
    return times


def readable_moments(values: pd.Series) -> Array:
    """Times as `moments` has them, `(n,)`; NaN where one is missing or cannot be read."""
    if pd.api.types.is_bool_dtype(values.dtype):
        times = np.full(len(values), np.nan)
    elif pd.api.types.is_numeric_dtype(values.dtype):
        times = values.to_numpy(dtype=np.float64, na_value=np.nan)
        if _are_written_together(times):
            times[:] = np.nan
    elif pd.api.types.is_timedelta64_dtype(values.dtype):
        times = values.dt.total_seconds().to_numpy(dtype=np.float64)
    else:
        written = values.mask(values.isin(["now", "today"]))  # which are times to pandas
        dates = pd.to_datetime(written, format="ISO8601", errors="coerce", utc=True)
        times = np.asarray((dates - pd.Timestamp(0, unit="s", tz="UTC")).dt.total_seconds(), dtype=np.float64)
    return np.where(np.isfinite(times), times, np.nan)


def _are_written_together(times: Array) -> bool:
    """Whether numbers are dates without signs between their parts, as 20260312143000: no count of anything."""
    known = times[np.isfinite(times)]
    if not len(known) or (known < 19e12).any() or (known > 22e12).any():
        return False
    sizes = (known // 10**place % 100 for place in (8, 6, 4, 2, 0))  # month, day, hour, minute, second
    return all((size <= most).all() for size, most in zip(sizes, (12, 31, 23, 59, 60), strict=True))


def _runs(begins: NDArray[np.bool_]) -> Places:
    first = np.flatnonzero(begins)
    return np.column_stack([first, np.append(first[1:], len(begins))]).astype(np.intp)
