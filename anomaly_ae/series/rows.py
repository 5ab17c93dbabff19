"""Rows of a series in: their columns, times and groups, laid on a timeline."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from anomaly_ae.columns import ColumnsMixin, as_frame
from anomaly_ae.data.written import meant
from anomaly_ae.errors import DataError, warn
from anomaly_ae.series.timeline import GAP, Timeline, by_groups, moments, steps_between, usual_step

Array = NDArray[np.float64]
TELLING = 10  # rows whose usual step means something
TORN = 0.05  # share of rows after a gap, from which on a series is in pieces


class Taken(NamedTuple):
    """What `X` holds: codes `(n, d)`, and times `(n,)` as numbers and groups `(n,)` where there are any."""

    codes: Array
    times: Array | None
    groups: NDArray[Any] | None
    said: Any  # the times as they were given


class SeriesRowsMixin(ColumnsMixin):
    """Takes rows with a column of times and one of groups, or a table indexed by times, or an array."""

    time: str | None
    group: str | None
    on_gap: str
    on_duplicate: str
    step_: float
    window_: int

    def _taken(self, X: ArrayLike, reset: bool = False) -> Taken:
        if not reset:
            check_is_fitted(self)
        X = as_frame(X)
        times = groups = None
        said: Any = None
        named = [name for name in (self.time, self.group) if name is not None]
        if isinstance(X, pd.DataFrame):
            if missing := [name for name in named if name not in X.columns]:
                raise DataError(
                    f"{type(self).__name__} needs the columns {named} for time and group, however: {missing} is not "
                    f"there.{meant(missing, X.columns)} {self._way_to(missing, X.index)}"
                )
            if self.time is not None:
                said, times = X[self.time].to_numpy(), moments(X[self.time], self.time)
            elif isinstance(X.index, pd.DatetimeIndex):
                said, times = X.index, moments(X.index, "the index")
            if self.group is not None:
                groups = X[self.group].to_numpy()
            X = X.drop(columns=named)
        elif named:
            raise DataError(
                f"{type(self).__name__} needs a DataFrame to find the columns {named}, however: {type(X).__name__}. "
                "Give one, or leave out time and group."
            )
        codes = self._learn_columns(X) if reset else self._checked(X)
        if reset:
            self.step_ = usual_step(times, groups)
            self._warn_of_times()
            self._warn_of_gaps(times, groups)
        elif times is not None and len(times) >= TELLING:
            self._warn_of_step(usual_step(times, groups, TELLING, self.step_) / self.step_)
        return Taken(codes, times, groups, said)

    def _way_to(self, missing: list[str], index: pd.Index) -> str:
        """What to do about columns that are not there; the index may be what was meant."""
        if set(missing) <= set(index.names):
            return "The index is named so: give X.reset_index()."
        if missing == [self.time] and isinstance(index, pd.DatetimeIndex):
            return f"The index has dates: leave time out, or give X.reset_index(names={self.time!r})."
        return "Give a table that has them."

    def _warn_of_times(self) -> None:
        stamps = [column.name for column in self.contract_.columns if column.rising]
        if self.time is None and stamps:
            warn(
                f"{type(self).__name__} needs to know which column says when rows were taken, however: {stamps[0]!r} "
                f"rises from row to row, and time is None. Set time={stamps[0]!r}, to know where rows are missing."
            )

    def _warn_of_gaps(self, times: NDArray[np.float64] | None, groups: NDArray[Any] | None) -> None:
        if times is None or self.on_gap != "split":
            return
        order, new = by_groups(len(times), groups)
        gaps = (steps_between(times[order], new, self.step_) > GAP * self.step_).mean()
        if gaps > TORN:
            warn(
                f"{type(self).__name__} needs rows at about even steps, however: {gaps:.0%} of them come more than "
                f"{GAP:g} times the usual step of {self.step_:.4g} after the one before, and no window reaches across. "
                'Resample them, set on_gap="fill", or leave time out, so that rows follow each other as they come.'
            )

    def _warn_of_step(self, steps: float) -> None:
        if not 1 / GAP < steps < GAP:
            warn(
                f"{type(self).__name__} needs rows about as far apart as at fit, however: these are {steps:.4g} times "
                "as far, so that windows are others. Give times in the same unit, and rows at the same step."
            )

    def _timeline(self, taken: Taken, longest_fill: int | None = None) -> Timeline:
        fill = self.window_ if longest_fill is None else longest_fill
        return Timeline.lay(
            len(taken.codes), taken.times, taken.groups, self.step_, self.on_gap, self.on_duplicate, fill
        )
