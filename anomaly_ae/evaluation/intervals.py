"""Figures with what chance makes of them: an estimate and its 95 % interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import binomtest

Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Estimate:
    """A figure in [0, 1] and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def rate(hits: int, of: int) -> Estimate | None:
    """`hits` of `of` rows, with the exact interval of Clopper and Pearson (1934); None of no rows."""
    if not of:
        return None
    around = binomtest(hits, of).proportion_ci()
    return Estimate(hits / of, float(around.low), float(around.high))


def of_auroc(area: float, anomalies: int, normal: int) -> Estimate:
    r"""The area under the ROC curve of so many rows.

    .. math:: |\hat A - A| \le z \sqrt{\frac{A (1 - A)}{m n} \left[1 + N \left(\frac{1 - A}{2 - A} +
              \frac{A}{1 + A}\right)\right]}, \quad N = \frac{m + n}{2} - 1

    solved for :math:`A`, so that an area of 1 has an interval as well.

    References
    ----------
    Newcombe (2006), Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
    Statistics in Medicine 25 (method 5).
    """
    each, pairs = (anomalies + normal) / 2 - 1, anomalies * normal

    def beyond(a: float, seen: float) -> float:
        noise = a * (1 - a) / pairs * (1 + each * ((1 - a) / (2 - a) + a / (1 + a)))
        return seen - a - Z * float(np.sqrt(noise))

    def low(seen: float) -> float:
        return 0.0 if seen <= 0 else float(brentq(beyond, 0.0, min(seen, 1 - 1e-12), args=(seen,)))

    return Estimate(area, low(area), 1 - low(1 - area))


def of_average_precision(precision: float, anomalies: int) -> Estimate:
    r"""The average precision over so many anomalies: normal on the logit scale.

    .. math:: \mathrm{logit}(\hat p) \pm z / \sqrt{m \hat p (1 - \hat p)}

    where :math:`\hat p` is held half an anomaly away from 0 and 1.

    References
    ----------
    Boyd, Eng and Page (2013), Area under the precision-recall curve: point estimates and confidence intervals, ECML.
    """
    held = float(np.clip(precision, 0.5 / anomalies, 1 - 0.5 / anomalies))
    around = Z / np.sqrt(anomalies * held * (1 - held))
    low, high = expit(logit(held) - around), expit(logit(held) + around)
    return Estimate(precision, min(float(low), precision), max(float(high), precision))
