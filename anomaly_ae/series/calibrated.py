"""What readings mean, once held-out rows have been read: rarities, threshold, events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone

from anomaly_ae.errors import ConfigError
from anomaly_ae.explanation import Verdict, known
from anomaly_ae.scoring.calibration import p_values
from anomaly_ae.series.events import Events
from anomaly_ae.series.fold import Rarity, Raw, Reading, SeriesFold
from anomaly_ae.series.tails import Tails
from anomaly_ae.storage import below

Array = NDArray[np.float64]
USUAL = 0.99  # share of calibrate rows on which a channel contributes no more than usual


@dataclass
class Calibrated:
    """One way from windows to rows, calibrated by `scores` `(m,)` of held-out rows; `usual` `(d,)` of channels.

    `together` of the strangest of them make an event. `held_out` are their readings run by run, there only right after
    learning.
    """

    rarities: list[Rarity]
    scores: Array
    usual: Array
    together: float
    threshold: Any
    events: Events
    smoothing: int
    held_out: list[Reading] = field(default_factory=list)

    @classmethod
    def learn(
        cls,
        fold: SeriesFold,
        rarities: list[Rarity],
        held_out: Sequence[Raw],
        step: int,
        threshold: BaseEstimator,
        events: Events,
        smoothing: int,
    ) -> Self:
        """From what was said of runs of held-out rows, of every `step`-th."""
        told = [smoothed(fold.fuse(raw, rarities), smoothing) for raw in held_out]
        columns = np.concatenate([one.columns for one in told if one.columns is not None])
        scores = np.sort(np.concatenate([one.scores for one in told]))
        if not np.isfinite(scores).all():
            raise ConfigError(
                "SeriesDetector needs a training that stays finite, however: scores of calibrate rows are not. Lower "
                "the detector's learning_rate."
            )
        usual = np.quantile(columns, USUAL, axis=0)
        together = events.together([one.scores for one in told], step)
        return cls(rarities, scores, usual, together, threshold, events, smoothing, told)._set()

    def _set(self) -> Self:
        self.threshold = clone(self.threshold).fit(self.scores)
        self.events = clone(self.events).fit(self.scores, self.together)
        return self

    def reading(self, fold: SeriesFold, raw: Raw) -> Reading:
        """Scores and contributions of rows that follow each other."""
        return smoothed(fold.fuse(raw, self.rarities), self.smoothing)

    def verdict(self, told: Reading) -> Verdict:
        """What is said of rows."""
        score = known(told.scores)
        columns = np.empty((len(score), 0)) if told.columns is None else told.columns
        alarm, first = score > self.threshold.value_, np.zeros(len(score), dtype=np.intp)
        return Verdict(score, p_values(score, self.scores), alarm, columns, first)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        found: dict[str, NDArray[Any]] = {"scores": self.scores, "usual": self.usual}
        found["together"] = np.array([self.together])
        for number, rarity in enumerate(self.rarities):
            found[f"{number}.usual"] = rarity.usual
            for kind, tails in (("channels", rarity.channels), ("rows", rarity.rows)):
                if tails is not None:
                    found |= {f"{number}.{kind}.{name}": array for name, array in tails.state.items()}
        return found

    @classmethod
    def from_state(
        cls, state: Mapping[str, Any], views: int, threshold: BaseEstimator, events: Events, smoothing: int
    ) -> Self:
        """What `state` was taken from, of so many views."""
        rarities = [
            Rarity(state[f"{number}.usual"], *(_tails(state, f"{number}.{kind}.") for kind in ("channels", "rows")))
            for number in range(views)
        ]
        together = float(state.get("together", [1])[0])  # as it was taken to be before
        return cls(rarities, state["scores"], state["usual"], together, threshold, events, smoothing)._set()


def _tails(state: Mapping[str, Any], prefix: str) -> Tails | None:
    mine = below(prefix, state)
    return Tails.from_state(mine) if mine else None


def smoothed(told: Reading, rows: int) -> Reading:
    """The mean over each row and those before it, `rows` in all."""
    return told.each(lambda values: trailing_mean(values, rows))


def trailing_mean(values: Array, rows: int) -> Array:
    """The mean over each row and those before it, `rows` in all; over fewer where the series begins."""
    if rows == 1:
        return values
    total, count = values.copy(), np.ones(len(values))
    for back in range(1, min(rows, len(values))):
        total[back:] += values[:-back]
        count[back:] += 1
    return total / count.reshape(-1, *[1] * (values.ndim - 1))
