"""What scores and alarms of a series are worth against labelled ranges; never point-adjusted.

Point adjustment calls a whole range found when one row of it is: uniformly random scores then reach an F1 above .9.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

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
    >>> label = np.array([0, 0, 1, 1, 0, 0, 0, 0])
    >>> round(VUSPR(label, 0)(label.astype(float)), 3)
    1.0
    """

    def __init__(self, label: Labels, widest: int) -> None:
        label = np.asarray(label).astype(bool)
        runs = [(start, end - 1) for start, end in ranges(label)]
        if not runs or label.all():
            raise ValueError("VUS-PR needs rows labelled 0 and rows labelled 1, however: all are the same.")
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


def counts(label: Labels, alarm: Labels) -> dict[str, int]:
    """Rows alarmed and labelled, alarmed only, labelled only, neither."""
    label, alarm = np.asarray(label, dtype=bool), np.asarray(alarm, dtype=bool)
    pairs = {"tp": label & alarm, "fp": ~label & alarm, "fn": label & ~alarm, "tn": ~label & ~alarm}
    return {name: int(rows.sum()) for name, rows in pairs.items()}


def rates(tp: int, fp: int, fn: int, tn: int) -> dict[str, float]:
    """F1, false-alarm rate FP / (FP + TN) and missed-alarm rate FN / (FN + TP) by rows; 0 where undefined."""
    return {
        "f1": 2 * tp / max(2 * tp + fp + fn, 1),
        "far": fp / max(fp + tn, 1),
        "mar": fn / max(fn + tp, 1),
    }


def composite_f1(label: Labels, alarm: Labels) -> float:
    """Harmonic mean of precision by rows and recall by events: an event is found when a row of it is alarmed.

    References
    ----------
    Garg et al., An Evaluation of Anomaly Detection and Diagnosis in Multivariate Time Series, 2021, arXiv:2109.11428.
    """
    label, alarm = np.asarray(label, dtype=bool), np.asarray(alarm, dtype=bool)
    events = ranges(label)
    precision = float(label[alarm].mean()) if alarm.any() else 0.0
    recall = float(np.mean([alarm[start:end].any() for start, end in events])) if events else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def found(score: Array, start: int, end: int, least: int = 100) -> bool:
    """Whether the row of the top score lies within max(`least`, its length) of the one event from `start` to `end`."""
    top, slack = int(np.argmax(score)), max(least, end - start)
    return start - slack <= top <= end + slack


def diagnosis(contributions: Array, events: Sequence[tuple[int, int, Sequence[int]]]) -> dict[str, float]:
    """HitRate@100 %, @150 % and NDCG@100 %, means over events, of channels ranked by their mean share in an event.

    HitRate@P % is the share of the channels at fault among the first P % times as many channels.

    Parameters
    ----------
    contributions : array of shape (n, channels), larger = more to blame
    events : (first row, row after the last, channels at fault) of each

    References
    ----------
    Su et al., OmniAnomaly, KDD 2019. Tuli et al., TranAD, VLDB 2022, arXiv:2201.07284.
    """
    lines = []
    for start, end, faulty in events:
        order = np.argsort(-contributions[start:end].mean(axis=0), kind="stable")
        right = np.isin(order, list(faulty))
        n = len(faulty)
        gain = 1 / np.log2(np.arange(n) + 2)
        hits = [right[: int(share * n + 0.5)].sum() / n for share in (1.0, 1.5)]
        lines.append([*hits, (right[:n] * gain).sum() / gain.sum()])
    return dict(zip(("hit100", "hit150", "ndcg"), np.mean(lines, axis=0).tolist(), strict=True))
