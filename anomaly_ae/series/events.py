"""Events: from rows that are strange to what happened, from when to when, and to which channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from anomaly_ae.ranges import NOT_NONE, check_range, whole
from anomaly_ae.scoring.attribution import shares
from anomaly_ae.series.tails import TOP, Tails

__all__ = ["Events"]

Array = NDArray[np.float64]
Places = NDArray[np.intp]
EXTREME = 50  # rows that the tail is told from, at most a tenth of all
COMMON = 0.5  # share of calibrate rows that are beyond any level
BLAMED = 3  # channels named an event


class Events(BaseEstimator):
    r"""When strange rows make an event.

    .. math:: \text{open where } s_t > u, \quad \text{closed where } s_t \le q + h (u - q), \qquad
        \hat P(S > u) = r / m

    with the tail of calibrate rows' 50 largest scores (the largest tenth, if fewer; of many, one in `m`) taken as
    exponential in the logarithm, so that `u` can be for rates that no calibrate row has shown. Rows in a row are
    strange together: `r` is how many of these largest there are for each event that they make. `q` is the median.

    Parameters
    ----------
    every : int >= 2 (rows), default=5000
        `m`: one false event in so many normal rows is aimed at. It is no promise, and of more rows than there are
        calibrate rows an extrapolation.
    hysteresis : float in (0, 1], default=0.5
        `h`: an event goes on until the score has fallen to this share of the way from what is usual to where it opens.
    shortest : int >= 1 (rows), default=3
        Fewer strange rows, one isolated row say, make no event.
    merge : int >= 0 (rows), default=30
        Events no further apart are one.

    Attributes
    ----------
    level_, closes_ : float
        `u`, and the score at which an event closes.
    guessed_ : bool
        Whether `u` is beyond what calibrate rows have shown.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Canny (1986), A computational approach to edge detection, IEEE TPAMI 8 (hysteresis); Siffer et al. (2017), Anomaly
    detection in streams with extreme value theory, KDD; Leadbetter (1983), Extremes and local dependence in stationary
    sequences (the extremal index, 1 / r).

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import Events
    >>> rule = Events(shortest=1, merge=1).fit(np.linspace(1, 2, 100))
    >>> rule.spans(np.array([1.0, 9, 9, 1, 9, 1, 1, 1, 9]))
    array([[1, 5],
           [8, 9]])
    """

    level_: float
    closes_: float
    guessed_: bool

    def __init__(self, every: int = 5000, hysteresis: float = 0.5, shortest: int = 3, merge: int = 30) -> None:
        self.every = every
        self.hysteresis = hysteresis
        self.shortest = shortest
        self.merge = merge

    def fit(self, scores: Array, together: float = 1.0) -> Events:
        """Set the level from the scores of calibrate rows `(m,)`, `together` of which make an event."""
        self.check()
        share = min(COMMON, together / self.every)
        self._open_at(self._tails(scores).exceeded_by(share), scores)
        self.guessed_ = share * len(scores) < 1
        return self

    def together(self, runs: Sequence[Array], step: int = 1) -> float:
        """`r` of runs of calibrate rows, each of the scores of every `step`-th of rows that follow each other.

        Of an event that only one of these rows is in, it counts this row alone, so that `r` is rather too small.
        """
        self.check()
        scores = np.concatenate(runs)
        level = self._tails(scores).last_seen
        thinned = Events(hysteresis=self.hysteresis, shortest=-(-self.shortest // step), merge=self.merge // step)
        thinned._open_at(level, scores)
        events = sum(len(thinned.spans(run)) for run in runs)
        rows = float((scores > level).sum()) / max(events, 1)
        return max(1.0, 1 + step * (rows - 1))

    def check(self) -> None:
        """Refuse hyperparameters that are out of range."""
        for name, low in (("every", 2), ("shortest", 1), ("merge", 0)):
            check_range(self, whole(low), name)
        check_range(self, NOT_NONE, "hysteresis")

    def _open_at(self, level: float, scores: Array) -> None:
        usual = float(np.median(scores))
        self.level_, self.closes_ = level, usual + self.hysteresis * (level - usual)

    def _tails(self, scores: Array) -> Tails:
        top = max(TOP, min(1 - EXTREME / len(scores), 1 - 1 / self.every))
        return Tails.learn(np.asarray(scores, dtype=np.float64)[:, None], top=top)

    def spans(self, scores: Array) -> Places:
        """Events among rows that follow each other: first row and last row + 1, `(k, 2)`."""
        strange, goes_on = scores > self.level_, scores > self.closes_
        first = np.flatnonzero(goes_on & ~np.append(False, goes_on[:-1]))
        last = np.flatnonzero(goes_on & ~np.append(goes_on[1:], False)) + 1
        # an event begins where it opens; that it was above the lower level before is told by its channels
        found: list[list[int]] = []
        for begin, end in zip(first, last, strict=True):
            rows = np.flatnonzero(strange[begin:end])
            if not len(rows):
                continue
            opened = int(begin + rows[0])
            if found and opened - found[-1][1] <= self.merge:
                found[-1][1] = int(end)
            else:
                found.append([opened, int(end)])
        kept = [span for span in found if strange[span[0] : span[1]].sum() >= self.shortest]
        return np.array(kept, dtype=np.intp).reshape(-1, 2)

    def names(self, channels: int) -> list[str]:
        """The columns of a table of events."""
        blamed = [
            f"channel_{k}{what}" for k in range(1, min(BLAMED, channels) + 1) for what in ("", "_share", "_since")
        ]
        return ["start", "end", "peak", "rows", "severity", *blamed]

    def told(
        self,
        scores: Array,
        contributions: Array,
        usual: Array,
        channels: Sequence[str],
        first: int,
        last: int,
        began: Places | None = None,
    ) -> dict[str, Any]:
        """What there is to say of the event of rows `first` to `last`, rows by their numbers.

        `began` `(d,)` says from which row on each channel deviated, if that is known better than by `contributions`.
        """
        beyond = np.maximum(contributions[first:last] - usual, 0)
        share = shares(beyond.sum(axis=0)[None])[0]
        began = since(contributions, usual, first, last, self.merge) if began is None else began
        peak = first + int(np.argmax(scores[first:last]))
        facts: dict[str, Any] = {"start": first, "end": last - 1, "peak": peak, "rows": last - first}
        facts["severity"] = float(scores[peak] / self.level_)
        for k, j in enumerate(np.argsort(-share, kind="stable")[:BLAMED], 1):
            facts |= {
                f"channel_{k}": channels[j],
                f"channel_{k}_share": float(share[j]),
                f"channel_{k}_since": int(began[j]),
            }
        return facts


@dataclass
class Unfolding:
    """What rows so far make of an event, row by row: of all of them `Events.spans` finds the same events.

    `strange` rows it has so far (none: there is no event in sight), and the last `quiet` rows were not of it.
    """

    strange: int = 0
    quiet: int = 0

    def end(self, rule: Events) -> bool:
        """Begin anew, for what comes next does not follow the rows so far: whether that ends an event."""
        was_event = self.strange >= rule.shortest
        self.strange = self.quiet = 0
        return was_event

    def now(self, rule: Events) -> str | None:
        """Whether an event that has opened "goes on"."""
        return "goes on" if self.strange >= rule.shortest else None

    def add(self, rule: Events, score: float) -> str | None:
        """Take the next row, where an event "opens" (it has enough strange rows now), "goes on" or "closes", if any."""
        before = self.strange
        if score > rule.level_:
            self.strange, self.quiet = self.strange + 1, 0
        elif self.strange and (self.quiet or score <= rule.closes_):
            self.quiet += 1
        if self.quiet > rule.merge:
            return "closes" if self.end(rule) else None
        return "opens" if before < rule.shortest <= self.strange else self.now(rule)


def is_place(name: str) -> bool:
    """Whether a column of a table of events holds rows."""
    return name in ("start", "end", "peak") or name.endswith("_since")


def since(contributions: Array, levels: Array, first: int, last: int, slack: int) -> Places:
    """For each channel the row from which on it deviated, `(d,)`.

    Back from where it deviates most within rows `first` to `last`, as long as no more than `slack` rows in a row are
    at or below the channel's usual level.
    """
    began = np.empty(contributions.shape[1], dtype=np.intp)
    for j, (column, level) in enumerate(zip(contributions.T, levels, strict=True)):
        peak = first + int(np.argmax(column[first:last]))
        above = np.flatnonzero(column[: peak + 1] > level)
        if not len(above):
            began[j] = peak
            continue
        breaks = np.flatnonzero(np.diff(above) > slack + 1)
        began[j] = above[breaks[-1] + 1] if len(breaks) else above[0]
    return began
