"""Where events begin and end, sharper than means over windows can tell."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.series.calibrated import Calibrated
from anomaly_ae.series.events import Events, since
from anomaly_ae.series.fold import Raw, SeriesFold

Array = NDArray[np.float64]
Places = NDArray[np.intp]


class Edges(NamedTuple):
    """Of an event its first row and last row + 1, and for each channel the row from which on it deviated, `(d,)`."""

    first: int
    last: int
    since: Places


def edges(fold: SeriesFold, causal: Calibrated, rows: Array, first: int, last: int) -> Edges:
    """Those of the event that the means over windows see in rows `first` to `last` of some that follow each other.

    A mean over the windows that hold a row is strange up to a window before anything happens, and after. A window that
    ends at a row knows nothing of what comes: it tells where an event opens, and since when channels deviate. One that
    begins at a row knows nothing of what was: it tells in the same way where the event is over.
    """
    low, high = max(0, first - 2 * fold.length), min(len(rows), last + fold.length)
    raw = fold.raw(rows[low:high], "last")
    ends, begins = (causal.reading(fold, told) for told in (raw, _turned(fold, raw)))
    start = _opened(ends.scores[first - low : last - low], causal.events)
    stop = _opened(begins.scores[first - low : last - low][::-1], causal.events)
    start, stop = first - low + start, last - low - stop
    if start >= stop:  # means alone see it
        start, stop = first - low, last - low
    assert ends.columns is not None  # as they were asked for
    whole = min(fold.length, first - low)  # from here on windows are whole
    began = since(ends.columns[whole:], causal.usual, start - whole, last - low - whole, causal.events.merge) + whole
    return Edges(start + low, stop + low, np.minimum(began, stop - 1) + low)


def _turned(fold: SeriesFold, raw: Raw) -> Raw:
    """What the windows that begin at rows say, by what those that end there say; the last ones say it of all others."""
    place = np.arange(len(raw.surprise))
    views = [
        told.at(np.minimum(place + eye.length - 1, place[-1])) for eye, told in zip(fold.eyes, raw.views, strict=True)
    ]
    return Raw(views, raw.surprise)


def _opened(scores: Array, rule: Events) -> int:
    """From which row on they are strange, if at all: back from where an event opens, as long as it would go on."""
    strange = np.flatnonzero(scores > rule.level_)
    if not len(strange):
        return len(scores)
    calm = np.flatnonzero(scores[: strange[0]] <= rule.hysteresis * rule.level_)
    return int(calm[-1]) + 1 if len(calm) else 0
