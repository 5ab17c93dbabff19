"""Thresholds: where strange becomes alarm. numpy only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator

from anomaly_ae.errors import warn
from anomaly_ae.ranges import PROPER_SHARE, check_range

__all__ = ["Conformal", "Quantile"]


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
