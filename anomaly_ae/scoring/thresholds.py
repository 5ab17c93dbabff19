"""Thresholds: where strange becomes alarm. numpy only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from anomaly_ae.errors import warn
from anomaly_ae.ranges import POSITIVE, PROPER_SHARE, check_range

NORMAL = 1.4826  # standard deviations in a median absolute deviation, of a normal distribution
FEWEST = 10  # excesses that say how a tail falls
HEAVIEST = 0.5  # of tails whose variance is finite
__all__ = ["MAD", "Conformal", "PeaksOverThreshold", "Quantile"]


def rows_needed(alpha: float) -> int:
    """How many calibrate rows it takes for a p-value of `alpha`."""
    return math.ceil(1 / alpha - 1 - 1e-9)


class Conformal(BaseEstimator):
    r"""The threshold that keeps a promised false-alarm rate on new normal rows (split conformal).

    .. math:: p(s) = \frac{1 + \#\{i : s_i \ge s\}}{n + 1}, \qquad \text{alarm where } p(s) \le \alpha

    with :math:`s_i` the scores of `n` calibrate rows. For exchangeable rows the rate of false alarms is at most
    `alpha` on average over calibrations; for one calibration it is distributed as
    :math:`\mathrm{Beta}(l, n + 1 - l)` with :math:`l = \lfloor \alpha (n+1) \rfloor`.

    Parameters
    ----------
    alpha : float in (0, 1), default=0.05
        Promised rate of false alarms.

    Attributes
    ----------
    value_ : float
        Scores above it are alarms.
    resolution_ : float
        Smallest p-value there can be, `1 / (n + 1)`. If it exceeds `alpha`, `value_` is the largest calibrate score
        and a warning says how many rows the promise would take.

    Raises
    ------
    ConfigError
        At `fit`, when `alpha` is out of range.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world;
    Bates et al. (2023), Testing for outliers with conformal p-values, arXiv:2104.08279.

    Examples
    --------
    >>> from anomaly_ae import Conformal
    >>> Conformal(alpha=0.1).fit([1, 2, 3, 4, 5, 6, 7, 8, 9]).value_
    9.0
    """

    def __init__(self, alpha: float = 0.05) -> None:
        self.alpha = alpha

    def fit(self, scores: ArrayLike) -> Conformal:
        """Set the threshold from the scores of calibrate rows, `(n,)`."""
        check_range(self, PROPER_SHARE, "alpha")
        scores = np.sort(np.asarray(scores, dtype=np.float64))
        n = len(scores)
        self.resolution_ = 1 / (n + 1)
        rank = math.floor(self.alpha * (n + 1) + 1e-9)  # 1e-9: 0.07 * 100 is 7.000000000000001, 0.29 * 100 is 28.99..
        if rank == 0:
            warn(
                f"Conformal(alpha={self.alpha:g}) needs {rows_needed(self.alpha)} calibrate rows, however: {n}. The "
                f"threshold is the largest calibrate score, a false-alarm rate of about {self.resolution_:.2g}. Give "
                "fit more rows."
            )
        self.value_ = float(scores[n - min(max(rank, 1), n)])
        return self


class Quantile(BaseEstimator):
    r"""A quantile of the calibrate scores; a rule of thumb without a promise for few rows.

    .. math:: t = Q_{\text{level}}(s_1, \dots, s_n)

    Parameters
    ----------
    level : float in (0, 1), default=0.99
        Share of normal rows meant to stay below the threshold.

    Attributes
    ----------
    value_ : float
        Scores above it are alarms.
    resolution_ : float
        Smallest p-value there can be, `1 / (n + 1)`.

    Raises
    ------
    ConfigError
        At `fit`, when `level` is out of range.

    Warns
    -----
    UserWarning
        At `fit`, when most normal rows would be alarms.

    References
    ----------
    Hyndman and Fan (1996), Sample quantiles in statistical packages, The American Statistician 50.

    Examples
    --------
    >>> from anomaly_ae import Quantile
    >>> Quantile(level=0.5).fit([1, 2, 3]).value_
    2.0
    """

    def __init__(self, level: float = 0.99) -> None:
        self.level = level

    def fit(self, scores: ArrayLike) -> Quantile:
        """Set the threshold from the scores of calibrate rows, `(n,)`."""
        check_range(self, PROPER_SHARE, "level")
        if self.level < 0.5:
            warn(
                f"Quantile needs a level near 1, the share of normal rows that stay below, however: {self.level:g}, by "
                f"which {1 - self.level:.0%} of them are alarms. Set level={1 - self.level:g}."
            )
        scores = np.asarray(scores, dtype=np.float64)
        self.resolution_ = 1 / (len(scores) + 1)
        self.value_ = float(np.quantile(scores, self.level))
        return self


class MAD(BaseEstimator):
    r"""So many robust standard deviations above the median of the calibrate scores; a rule of thumb without a promise.

    .. math:: t = m + 1.4826 \, k \operatorname{median}_i |s_i - m|, \quad m = \operatorname{median}_i s_i

    Less than half of the calibrate rows may be anomalies, however strange, and move it little. Scores have heavier
    tails than a normal distribution: more than its share of normal rows are alarms.

    Parameters
    ----------
    k : float > 0, default=3
        How many standard deviations.

    Attributes
    ----------
    value_ : float
        Scores above it are alarms.
    resolution_ : float
        Smallest p-value there can be, `1 / (n + 1)`.

    Raises
    ------
    ConfigError
        At `fit`, when `k` is not positive.

    References
    ----------
    Leys et al. (2013), Detecting outliers: do not use standard deviation around the mean, use absolute deviation around
    the median, Journal of Experimental Social Psychology 49.

    Examples
    --------
    >>> from anomaly_ae import MAD
    >>> round(MAD(k=2).fit([1, 2, 3, 4, 500]).value_, 3)
    5.965
    """

    def __init__(self, k: float = 3.0) -> None:
        self.k = k

    def fit(self, scores: ArrayLike) -> MAD:
        """Set the threshold from the scores of calibrate rows, `(n,)`."""
        check_range(self, POSITIVE, "k")
        scores = np.asarray(scores, dtype=np.float64)
        self.resolution_ = 1 / (len(scores) + 1)
        middle = np.median(scores)
        self.value_ = float(middle + NORMAL * self.k * np.median(np.abs(scores - middle)))
        return self


class PeaksOverThreshold(BaseEstimator):
    r"""The score that hardly a normal row exceeds, by how the tail of calibrate scores falls.

    .. math:: t = u + \frac{\sigma}{\xi} \left(\left(\frac{\text{risk}}{P(S > u)}\right)^{-\xi} - 1\right), \quad
        S - u \mid S > u \sim \mathrm{GPD}(\xi, \sigma)

    with `u` the `level` quantile of the calibrate scores, of which at least ten lie beyond, and the generalised Pareto
    distribution by probability-weighted moments, its shape at most 1/2. An estimate, no promise: for a rate of false
    alarms below one in `n + 1`, which no ranks can tell.

    Parameters
    ----------
    risk : float in (0, 1), default=0.001
        Share of normal rows meant to be alarms.
    level : float in (0, 1), default=0.9
        Where the tail begins.

    Attributes
    ----------
    value_ : float
        Scores above it are alarms.
    resolution_ : float
        Smallest p-value there can be, `1 / (n + 1)`.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.

    References
    ----------
    Siffer et al. (2017), Anomaly detection in streams with extreme value theory, KDD;
    Hosking and Wallis (1987), Parameter and quantile estimation for the generalized Pareto distribution, Technometrics.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import PeaksOverThreshold
    >>> scores = -np.log(1 - (np.arange(1000) + 0.5) / 1000)  # one in e^s is larger than s
    >>> round(PeaksOverThreshold(risk=np.exp(-10)).fit(scores).value_)
    10
    """

    def __init__(self, risk: float = 0.001, level: float = 0.9) -> None:
        self.risk = risk
        self.level = level

    def fit(self, scores: ArrayLike) -> PeaksOverThreshold:
        """Set the threshold from the scores of calibrate rows, `(n,)`."""
        check_range(self, PROPER_SHARE, "risk", "level")
        scores = np.sort(np.asarray(scores, dtype=np.float64))
        n = len(scores)
        self.resolution_ = 1 / (n + 1)
        start = np.quantile(scores, max(0.0, min(self.level, 1 - FEWEST / n)))
        excess = scores[scores > start] - start
        share = len(excess) / n
        if self.risk >= share or not len(excess):  # not in the tail
            self.value_ = float(np.quantile(scores, 1 - self.risk))
            return self
        above = 1 - (np.arange(1, len(excess) + 1) - 0.35) / len(excess)
        mean, weighted = excess.mean(), (above * excess).mean()
        shape = min(HEAVIEST, 2 - mean / (mean - 2 * weighted)) if mean > 2 * weighted else HEAVIEST
        scale, fold = mean * (1 - shape), np.log(share / self.risk)  # of that shape and mean
        self.value_ = float(start + scale * (np.expm1(shape * fold) / shape if abs(shape) > 1e-9 else fold))
        return self
