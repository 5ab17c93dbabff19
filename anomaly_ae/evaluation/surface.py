"""The volume under the precision-recall surface: scores of a series against labelled ranges, never point-adjusted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.errors import DataError

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]

LAGS, SHORTEST, LONGEST, OTHERWISE, ROWS = 400, 3, 300, 125, 20_000  # of TSB-AD's rule for the buffer
CUTS = 250  # thresholds of VUS-PR, evenly spaced in rank


def ranges(label: Labels) -> list[tuple[int, int]]:
    """First row and the row after the last of each run of true."""
    steps = np.diff(np.concatenate([[0], np.asarray(label, dtype=np.int8), [0]]))
    return list(zip(np.flatnonzero(steps == 1).tolist(), np.flatnonzero(steps == -1).tolist(), strict=True))


def buffer_length(x: Array) -> int:
    """TSB-AD's widest buffer around a labelled range: the lag of the highest peak of the autocorrelation of `x`.

    Peaks at lags 6 to 303 count; 125 where there is none.
    """
    centred = np.asarray(x, dtype=np.float64)[:ROWS] - np.mean(x[:ROWS])
    if not centred @ centred > 0:
        return OTHERWISE
    spectrum = np.fft.rfft(centred, 2 * len(centred))
    lags = np.fft.irfft(np.abs(spectrum) ** 2)[: min(LAGS + 1, len(centred))]
    rest = lags[SHORTEST:]
    peaks = 1 + np.flatnonzero((rest[1:-1] > rest[:-2]) & (rest[1:-1] > rest[2:]))
    if not len(peaks):
        return OTHERWISE
    peak = int(peaks[np.argmax(rest[peaks])])
    return peak + SHORTEST if SHORTEST <= peak <= LONGEST else OTHERWISE


class VUSPR:
    """Volume under the precision-recall surface: range-aware average precision, averaged over buffers 0 to `widest`.

    A buffer of width w softens each labelled range: w // 2 rows on each side count sqrt(1 - distance / w). Recall is
    weighted by the share of ranges with any alarm. Equals `RangeAUC_volume_opt` of TSB-AD; what depends on labels
    alone is computed once.

    Parameters
    ----------
    label : array of 0 and 1, shape (n,), with at least one of each
    widest : widest buffer, rows, at least 0

    References
    ----------
    Paparrizos et al., Volume Under the Surface, PVLDB 2022. Liu and Paparrizos, The Elephant in the Room, NeurIPS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae.evaluation.surface import VUSPR
    >>> label = np.array([0, 0, 1, 1, 0, 0, 0, 0])
    >>> round(VUSPR(label, 0)(label.astype(float)), 3)
    1.0
    """

    def __init__(self, label: Labels, widest: int) -> None:
        label = np.asarray(label).astype(bool)
        runs = [(start, end - 1) for start, end in ranges(label)]
        if not runs or label.all():
            raise DataError(
                "VUS-PR needs rows labelled 0 and rows labelled 1, however: all are the same. Give a longer series."
            )
        self.rows, self.positive = len(label), int(label.sum())
        near = np.zeros(self.rows, dtype=bool)
        for first, last in runs:
            near[max(first - widest // 2, 0) : last + widest // 2 + 1] = True
        self.near = np.flatnonzero(near)
        self.segments = [self._merged(runs, width) for width in range(widest + 1)]
        self.soft = np.stack([self._softened(label, runs, width)[self.near] for width in range(widest + 1)])
        self.outside = ~label[self.near]

    def _merged(self, runs: Sequence[tuple[int, int]], width: int) -> list[tuple[int, int]]:
        """Ranges with their buffers, joined where these meet; first and last rows."""
        half, first = width // 2, max(runs[0][0] - width // 2, 0)
        found = []
        for (_, last), (following, _) in itertools.pairwise(runs):
            if last + half < following - half:
                found.append((first, last + half))
                first = following - half
        return [*found, (first, min(runs[-1][1] + half, self.rows - 1))]

    def _softened(self, label: Labels, runs: Sequence[tuple[int, int]], width: int) -> Array:
        soft = label.astype(np.float64)
        for first, last in runs if width else ():
            after = np.arange(last + 1, min(last + width // 2 + 1, self.rows))
            before = np.arange(max(first - width // 2, 0), first)
            soft[after] += np.sqrt(1 - (after - last) / width)
            soft[before] += np.sqrt(1 - (first - before) / width)
        return np.minimum(soft, 1)

    def __call__(self, score: Array) -> float:
        """VUS-PR of scores `(n,)`, larger = stranger."""
        score = np.asarray(score, dtype=np.float64)
        falling = np.sort(score)[::-1][np.linspace(0, self.rows - 1, CUTS).astype(int)]
        cut = np.searchsorted(-falling, -score)  # the first threshold that a row reaches
        alarms = np.cumsum(np.bincount(cut, minlength=CUTS))
        order = np.argsort(cut[self.near], kind="stable")
        upto = np.searchsorted(cut[self.near][order], np.arange(CUTS), side="right")
        caught = self._running(self.soft[:, order], upto)
        spread = self._running((self.soft * self.outside)[:, order], upto)
        recall = np.minimum(caught / (self.positive + spread / 2), 1)
        for width, segments in enumerate(self.segments):
            earliest = [cut[first : last + 1].min() for first, last in segments]
            recall[width] *= np.cumsum(np.bincount(earliest, minlength=CUTS)) / len(segments)
        return float((np.diff(recall, prepend=0.0) * caught / alarms).sum(axis=1).mean())

    @staticmethod
    def _running(values: Array, upto: NDArray[np.intp]) -> Array:
        return np.pad(np.cumsum(values, axis=1), ((0, 0), (1, 0)))[:, upto]
