"""What events of a series are worth against labelled ranges; never point-adjusted.

Point adjustment calls a whole range found when one row of it is: uniformly random scores then reach an F1 above .9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from anomaly_ae.errors import DataError
from anomaly_ae.evaluation.intervals import Estimate, rate
from anomaly_ae.evaluation.surface import VUSPR, ranges

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]


@dataclass(frozen=True)
class EventDetection:
    """How many labelled ranges were found, how late, and how many events are of none.

    A range is found where an event overlaps it. Ranges come series by series, each in order of time: `starts` are the
    rows they begin at, by their places among those given, and `delays` (rows) how far into them the first row of an
    event is, None of those that were missed. `precision` is of events: the share that overlaps a range.
    `vus_pr`, of scores, is the mean over series that have ranges.
    """

    ranges: int
    events: int
    false_events: int
    recall: Estimate | None
    precision: Estimate | None
    starts: list[int]
    delays: list[int | None]
    vus_pr: float | None

    @property
    def found(self) -> int:
        """How many of the ranges."""
        return sum(delay is not None for delay in self.delays)

    @property
    def median_delay(self) -> float | None:
        """Rows, over the ranges that were found."""
        found = [delay for delay in self.delays if delay is not None]
        return float(np.median(found)) if found else None


def evaluate_events(
    is_anomaly: ArrayLike,
    event: ArrayLike,
    score: ArrayLike | None = None,
    *,
    series: ArrayLike | None = None,
    buffer: int = 100,
) -> EventDetection:
    """Compare events with labelled ranges.

    Parameters
    ----------
    is_anomaly : booleans of shape (n,), in order of time
        Which rows are of a range.
    event : integers of shape (n,)
        The number of the event that a row is of, 0 of none: the column `event` of a scored series.
    score : array of shape (n,) or None, default=None
        Larger = stranger, for VUS-PR.
    series : array of shape (n,) or None, default=None
        Which series a row is of; `None` is one.
    buffer : int >= 0 (rows), default=100
        Widest buffer of VUS-PR, which forgives scores that rise somewhat before or after a range.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae.evaluation import evaluate_events
    >>> truth, event = np.zeros(100, dtype=bool), np.zeros(100, dtype=int)
    >>> truth[20:30] = truth[60:70] = True
    >>> event[23:32], event[80:85] = 1, 2
    >>> found = evaluate_events(truth, event)
    >>> found.starts, found.delays, found.false_events
    ([20, 60], [3, None], 1)
    """
    label, number = np.asarray(is_anomaly, dtype=bool), np.asarray(event)
    of = np.zeros(len(label), dtype=np.intp) if series is None else np.unique(series, return_inverse=True)[1]
    if not len(label) == len(number) == len(of):
        raise DataError(
            f"Events and labels need to be of the same rows, however: {len(number):,} and {len(label):,}. Give a "
            "number and a label a row."
        )
    starts: list[int] = []
    delays: list[int | None] = []
    reported, right, volumes = 0, 0, []
    for one in range(of.max(initial=-1) + 1):
        rows = np.flatnonzero(of == one)
        mine, numbers = label[rows], number[rows]
        reported += len(np.setdiff1d(numbers, [0]))
        right += len(np.setdiff1d(numbers[mine], [0]))
        for start, end in ranges(mine):
            within = np.flatnonzero(numbers[start:end])
            starts.append(int(rows[start]))
            delays.append(int(within[0]) if len(within) else None)
        if score is not None and mine.any() and not mine.all():
            volumes.append(VUSPR(mine, min(buffer, len(mine)))(np.asarray(score)[rows]))
    found = sum(delay is not None for delay in delays)
    return EventDetection(
        ranges=len(delays),
        events=reported,
        false_events=reported - right,
        recall=rate(found, len(delays)),
        precision=rate(right, reported),
        starts=starts,
        delays=delays,
        vus_pr=float(np.mean(volumes)) if volumes else None,
    )


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
