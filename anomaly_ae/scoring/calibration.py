"""Who is learned from, who stops training, who sets the threshold; and p-values. numpy and scipy only."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


class Split(NamedTuple):
    """Row numbers of the three kinds of normal rows; `validate` is empty where there are too few."""

    fit: NDArray[np.intp]
    validate: NDArray[np.intp]
    calibrate: NDArray[np.intp]


def splits(n: int, folds: int, rng: np.random.RandomState) -> list[Split]:
    """Divide `n` rows at random into the three kinds, once (`folds=1`) or rotating through `folds` folds.

    Once: 60 % fit, 20 % validate, 20 % calibrate. Rotating: fold `k` calibrates net `k`, the next fold validates
    it, the others fit it; every row calibrates exactly one net. No row is ever of two kinds for one net.
    """
    order = rng.permutation(n)
    if folds == 1:
        fifth = max(1, n // 5)
        return [Split(order[2 * fifth :], order[fifth : 2 * fifth], order[:fifth])]
    parts = np.array_split(order, min(folds, n))
    return [
        Split(
            fit=np.concatenate([part for j, part in enumerate(parts) if j not in (k, (k + 1) % len(parts))]),
            validate=parts[(k + 1) % len(parts)],
            calibrate=parts[k],
        )
        for k in range(len(parts))
    ]


def p_values(scores: ArrayLike, calibration: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Conformal p-values of `scores` against sorted calibrate scores: `(n,)`, each in [1/(m+1), 1].

    .. math:: p(s) = \frac{1 + \#\{i : s_i \ge s\}}{m + 1}
    """
    at_least = len(calibration) - np.searchsorted(calibration, scores, side="left")
    return (1 + at_least) / (len(calibration) + 1)


def false_alarm_band(alpha: float, n: int, coverage: float = 0.95) -> tuple[float, float]:
    """Interval that holds the false-alarm rate of one conformal threshold on `n` calibrate rows.

    The rate is Beta(l, n + 1 - l) with l = floor(alpha (n + 1)) (Vovk 2012, arXiv:1209.2673).
    """
    rank = max(1, math.floor(alpha * (n + 1) + 1e-9))
    low, high = stats.beta.interval(coverage, rank, n + 1 - rank)
    return float(low), float(high)


def lower_median(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Lower median over the first axis of `(k, n)`, and which of the `k` it is: both `(n,)`.

    It exceeds a threshold only where more than half of the `k` do. Where each does so with probability alpha, that
    happens with probability below 2 alpha (Markov): the promise of cross-fitting.
    """
    which = np.argsort(values, axis=0, kind="stable")[(len(values) - 1) // 2]
    return np.take_along_axis(values, which[None], axis=0)[0], which


class Reservoir:
    """A uniform sample, bounded in size, of rows that arrive in pieces: those with the smallest random keys so far."""

    def __init__(self, capacity: int, width: int) -> None:
        self.capacity = capacity
        self.rows = np.empty((0, width))
        self._keys = np.empty(0)

    def add(self, rows: NDArray[np.float64], rng: np.random.RandomState) -> None:
        """Offer rows `(n, width)` to the sample."""
        keys = np.concatenate([self._keys, rng.random_sample(len(rows))])
        kept = np.sort(np.argsort(keys, kind="stable")[: self.capacity])
        self.rows = np.concatenate([self.rows, rows])[kept]
        self._keys = keys[kept]
