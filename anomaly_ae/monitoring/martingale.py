"""A bet against the exchangeability of scores, which grows rich only where they have become stranger."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

JUMP = 0.01  # share of the capital that changes its bet from one score to the next
STEEP = (0.0, 1.0, 2.0)  # slopes of the linear bets; 0 keeps the capital
POWER = 0.5  # of the bet on p-values close to 0
BETS = len(STEEP) + 1
MUCH = 1e200  # capital that is counted in another unit, lest it overflow
KEPT_BITS = 44  # of a float's 64 that a score loses before it is compared: it keeps eight bits of its mantissa


@dataclass
class Martingale:
    r"""A conformal test martingale over scores in the order in which they come, against *stranger than before*.

    The p-value of a score is its rank, ties broken at random, among all scores before it, those that calibrated the
    model first:

    .. math:: p_t = \frac{\#\{i < t : s_i > s_t\} + \theta_t (1 + \#\{i < t : s_i = s_t\})}{t}

    While scores are exchangeable these are independent and uniform, so that no bet on small ones grows on average. The
    capital starts at 1, all of it in reserve. Before each score some of the reserve, of which
    :math:`1 / \log_2 (2 + t)` is left after `t` scores, is spread evenly over four bets: none,
    :math:`1 + (1/2 - p)`, :math:`1 + 2 (1/2 - p)` and :math:`\frac12 p^{-1/2}`; after each score one hundredth of what
    is at stake is spread anew (the simple jumper). So there is always some capital that has not lost in a long normal
    life, and drift is found nearly as fast after years as after days. The probability that the capital of exchangeable
    scores *ever* reaches :math:`1/\alpha` is at most :math:`\alpha` (Ville 1939). Scores that become ordinary, or
    calibrate scores that are stranger than those of new rows, cannot make it rich.

    Scores are compared after rounding to eight binary digits, whatever the data are, so that the state stays small.

    Parameters
    ----------
    calibration : array `(m,)`, default=()
        Scores of the calibrate rows.

    References
    ----------
    Vovk, Petej, Nouretdinov, Ahlberg, Carlsson and Gammerman 2021, Retrain or not retrain: conformal test martingales
    for change-point detection, arXiv:2102.10439.
    Shin, Ramdas and Rinaldo 2022, E-detectors: a nonparametric framework for sequential change detection,
    arXiv:2203.03532 (bets that begin at every time).

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> martingale = Martingale.of(rng.normal(size=500))
    >>> martingale.update(rng.normal(size=1000), rng).log10 < 2
    True
    >>> martingale.update(rng.normal(0.7, size=200), rng).log10 > 2
    True
    """

    log10: float = 0.0  # of the capital, the reserve with it
    highest: float = 0.0  # log10 of the capital at its best
    stakes: list[float] = field(default_factory=lambda: [0.0] * BETS)  # what is on each bet, in units of e^scale
    scale: float = 0.0
    bets: int = 0  # scores so far that were bet on
    seen: list[int] = field(default_factory=list)  # scores so far, rounded, in order of size

    @classmethod
    def of(cls, calibration: NDArray[np.float64]) -> Martingale:
        """One that knows these scores and has bet on none."""
        return cls(seen=sorted(_rounded(calibration)))

    def update(self, scores: NDArray[np.float64], rng: np.random.Generator) -> Martingale:
        """Bet on scores `(n,)` one after the other; returns itself."""
        for score, theta in zip(_rounded(scores), rng.random(len(scores)).tolist(), strict=True):
            before, equal = bisect_left(self.seen, score), bisect_right(self.seen, score)
            total = len(self.seen) + 1
            self._bet((total - 1 - equal + theta * (1 + equal - before)) / total)
            insort(self.seen, score)
        return self

    def _bet(self, p: float) -> None:
        unit, left = math.exp(-self.scale), _reserve(self.bets + 1)
        fresh = (_reserve(self.bets) - left) / BETS * unit
        paid = [1 + slope * (0.5 - p) for slope in STEEP] + [POWER * max(p, 1e-12) ** (POWER - 1)]
        won = [(stake + fresh) * factor for stake, factor in zip(self.stakes, paid, strict=True)]
        at_stake = sum(won)
        self.stakes = [(1 - JUMP) * stake + JUMP / BETS * at_stake for stake in won]
        self.bets += 1
        self.log10 = (math.log(at_stake + left * unit) + self.scale) / math.log(10)
        self.highest = max(self.highest, self.log10)
        if at_stake > MUCH or (self.scale > 0 and at_stake < 1 / MUCH):
            self.stakes = [stake / at_stake for stake in self.stakes]
            self.scale += math.log(at_stake)

    def to_json(self) -> dict[str, Any]:
        """The state as plain data."""
        told = {name: value for name, value in vars(self).items() if name != "seen"}
        return told | {"seen": [[value, len(list(same))] for value, same in groupby(self.seen)]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Martingale:
        """The martingale that `to_json` gave."""
        seen = [value for value, count in data["seen"] for _ in range(count)]
        return cls(**{**data, "seen": seen})


def _reserve(bets: int) -> float:
    """What is not at stake after so many bets, of 1."""
    return 1 / math.log2(2 + bets)


def _rounded(scores: NDArray[np.float64]) -> Iterable[int]:
    """Integers in the order of the scores, equal where these agree in their first eight binary digits."""
    bits = (np.asarray(scores, dtype=np.float64) + 0.0).view(np.int64)
    ordered: list[int] = (np.where(bits < 0, np.int64(-(2**63)) - bits, bits) >> KEPT_BITS).tolist()
    return ordered
