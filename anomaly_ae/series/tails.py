"""How rare a row's score is, in nats. numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
KNOTS = 65
TOP = 0.9  # beyond this quantile the tail is exponential in the logarithm of the score
FEWEST = 10  # rows beyond it
SMALLEST = 1e-9
POOLED = 10  # independent rows that the mean excess of all columns is worth
STEEPEST = 0.05  # so that no view drowns the others by a tail that held-out rows made look steep


class Tails:
    r"""For each of `k` columns of scores, :math:`-\log \hat P(S \ge s)` as validate rows have it; see `Fused`.

    Ranks up to a quantile `q`, .9 where rows are many, then :math:`\log P = \log P(q) - (\log s - \log q) / e` with `e`
    the mean excess.
    `knots` `(k, 65)` are logarithms of scores, `last` the levels' upper end, `excess` and `origin` `(k,)`.
    """

    def __init__(self, knots: Array, last: float, excess: Array, origin: Array) -> None:
        self.knots, self.last, self.excess, self.origin = knots, last, excess, origin
        self.levels = -np.log1p(-np.linspace(0, last, KNOTS))  # in nats

    @classmethod
    def learn(cls, scores: Array, dependence: float = 1.0, top: float = TOP) -> Tails:
        """From scores `(m, k)` of held-out rows, of which `dependence` rows are worth one; `top` in place of .9.

        Where so few are worth little, the mean excess is that of all columns rather than a column's own.
        """
        low, middle = scores.min(axis=0), np.median(scores, axis=0)
        origin = np.where(low < 0, 2 * low - middle, 0.0)
        logs = np.log(np.maximum(scores - origin, SMALLEST))
        last = max(0.5, min(top, 1 - FEWEST / len(scores)))
        knots = np.quantile(logs, np.linspace(0, last, KNOTS), axis=0).T
        beyond = logs > knots[:, -1]
        count = beyond.sum(axis=0)
        excess = np.where(beyond, logs - knots[:, -1], 0.0).sum(axis=0) / np.maximum(count, 1)
        if beyond.any():
            worth = count / dependence
            pooled = (count * excess).sum() / count.sum()
            excess = (worth * excess + POOLED * pooled) / (worth + POOLED)
        return cls(knots, last, np.where(beyond.any(axis=0), np.maximum(excess, STEEPEST), 1.0), origin)

    def nats(self, scores: Array) -> Array:
        """Scores `(n, k)` as nats, each 0 or more."""
        logs = np.log(np.maximum(scores - self.origin, SMALLEST))
        inside = np.empty_like(logs)
        for column, knots in enumerate(self.knots):
            inside[:, column] = np.interp(logs[:, column], knots, self.levels)
        inside[logs <= self.knots[:, 0]] = 0.0  # the least there was, also where all were alike
        return inside + np.maximum(logs - self.knots[:, -1], 0) / self.excess

    def exceeded_by(self, share: float) -> float:
        """The score of the first column that so small a share of rows exceeds."""
        nats, beyond = -np.log(share), self.levels[-1]
        if nats <= beyond:
            log = float(np.interp(nats, self.levels, self.knots[0]))
        else:
            log = float(self.knots[0, -1] + (nats - beyond) * self.excess[0])
        return float(np.exp(log) + self.origin[0])

    @property
    def last_seen(self) -> float:
        """The score of the first column from which on its tail is told by the mean excess."""
        return float(np.exp(self.knots[0, -1]) + self.origin[0])

    @property
    def state(self) -> dict[str, Array]:
        """What was learned, as arrays."""
        return {"knots": self.knots, "last": np.array([self.last]), "excess": self.excess, "origin": self.origin}

    @classmethod
    def from_state(cls, state: dict[str, Array]) -> Tails:
        return cls(state["knots"], float(state["last"][0]), state["excess"], state["origin"])
