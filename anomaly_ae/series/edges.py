"""Where events begin and end, sharper than means over windows can tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.series.calibrated import Calibrated, smoothed
from anomaly_ae.series.channels import Encoded
from anomaly_ae.series.events import since
from anomaly_ae.series.fold import Reading, SeriesFold

Array = NDArray[np.float64]
Places = NDArray[np.intp]
COARSE = 32  # rows a window that are looked at first


class Edges(NamedTuple):
    """Of an event its first row and last row + 1, and for each channel the row from which on it deviated, `(d,)`."""

    first: int
    last: int
    since: Places


@dataclass(frozen=True)
class Look:
    """What windows say of rows that follow each other, a window or more, by the calibration of those that end there."""

    fold: SeriesFold
    causal: Calibrated
    encoded: Encoded

    @property
    def step(self) -> int:
        """From row to row of those that are looked at first."""
        return max(1, self.fold.length // COARSE)

    def edges(self, first: int, last: int) -> Edges:
        """Those of the event that the means over windows see in rows `first` to `last`.

        A mean over the windows that hold a row is strange up to a window before anything happens, and after. A window
        that ends at a row knows nothing of what comes: it tells where an event opens, and since when channels deviate.
        One that begins at a row knows nothing of what was: it tells in the same way where the event is over.
        """
        start = self._edge(np.arange(first, last, self.step), begin=False)
        stop = self._edge(np.arange(last - 1, first - 1, -self.step), begin=True)
        if start is None or stop is None or start > stop:  # means alone see it
            start, stop = first, last - 1
        before = np.arange(max(0, first - self.fold.length), last, self.step)
        told = self._told(before, begin=False, explained=True).columns
        assert told is not None  # as it is asked for
        begin = min(int(np.searchsorted(before, start)), len(before) - 1)
        end = max(begin + 1, int(np.searchsorted(before, stop, side="right")))
        began = before[since(told, self.causal.usual, begin, end, self.causal.events.merge // self.step)]
        began = np.where((began > start) & (began < start + self.step), start, np.minimum(began, stop))
        return Edges(start, stop + 1, began)

    def _told(self, at: Places, begin: bool, explained: bool = False) -> Reading:
        """Of rows in either order, by the windows that end or `begin` there."""
        raw = self.fold.raw_at(self.encoded, at, begin, explained)
        return smoothed(self.fold.fuse(raw, self.causal.rarities), -(-self.causal.smoothing // self.step))

    def _edge(self, at: Places, begin: bool) -> int | None:
        """The first of rows from which on they are strange: back from where an event opens, as long as it goes on."""
        rule = self.causal.events
        scores = self._told(at, begin).scores
        strange = np.flatnonzero(scores > rule.level_)
        if not len(strange):
            return None
        goes_on = rule.closes_
        calm = np.flatnonzero(scores[: strange[0]] <= goes_on)
        if not len(calm):
            return int(at[0])
        found, before = at[calm[-1] + 1], at[calm[-1]]
        between = np.arange(before, found, np.sign(found - before))[1:]
        calm = np.flatnonzero(self._told(between, begin).scores <= goes_on) if len(between) else between
        rest = between[calm[-1] + 1 :] if len(calm) else between
        return int(rest[0] if len(rest) else found)
