"""What a fitted detector promises of false alarms: decided here, whoever tells it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, mannwhitneyu

from anomaly_ae.errors import warn
from anomaly_ae.scoring.thresholds import rows_needed

LEARNED, BY_CHANCE = 0.4, 1e-6  # so few rows above the median before, and so surely: they were learned from
STRANGE, RARELY = 2.0, 1e-3  # times as many alarms as promised, and so surely: anomalies are among them


def promised(detector: Any) -> float | None:
    r"""The rate of false alarms that a detector, of rows or of series, promises not to exceed; None without a promise.

    .. math:: \min(1, \max(\alpha, 1 / (n + 1)) \cdot (1 + [\text{cross-fitted}]))

    with `n` the held-out rows, of a series those that are worth independent ones. In practice cross-fitted detectors
    as well have a rate of about :math:`\alpha`; twice that is what can be proved.
    """
    alpha = getattr(detector.threshold_, "alpha", None)
    if alpha is None:
        return None
    least = max(detector.threshold_.resolution_, 1 / (independent_rows(detector) + 1))
    return min(1.0, max(alpha, least) * (1 + is_cross_fitted(detector)))


def independent_rows(detector: Any) -> float:
    """How many independent rows those are worth that a threshold was set by: of a series, rows of a window are one."""
    if not hasattr(detector, "fold_"):
        return float(len(detector.calibration_scores_))
    return float(detector.profile_.told_rows / _apart(detector))


def _apart(detector: Any) -> float:
    """How far apart rows are independent."""
    if not hasattr(detector, "fold_"):
        return 1.0
    shortest = min(eye.length for eye in detector.fold_.eyes)  # few held-out rows hide how long they are alike
    return float(max(shortest, detector.profile_.score_time))


def warn_of_few(detector: Any) -> None:
    """Warn where the held-out rows of a series are so alike that no threshold of theirs keeps its rate."""
    alpha, independent = getattr(detector.threshold_, "alpha", None), independent_rows(detector)
    if alpha is None or 1 / (independent + 1) <= alpha:
        return
    warn(
        f"A rate of false alarms of {percent(alpha)} needs {rows_needed(alpha)} independent rows held out, however: "
        f"{detector.profile_.told_rows:,} that follow each other tell as much as {independent:.0f}, and up to "
        f"{percent(promised(detector) or 1)} of normal rows may be alarms. Give more rows of normal operation, or take "
        "shorter windows."
    )


def warn_of_calibrating(
    detector: Any, scores: NDArray[np.float64], before: NDArray[np.float64], threshold: float
) -> None:
    """Warn where rows that calibrate look learned from, or full of anomalies, by scores and threshold of before."""
    _warn_of_learned(detector, scores, before)
    warn_of_alarms(detector, scores, threshold)


def _warn_of_learned(detector: Any, scores: NDArray[np.float64], before: NDArray[np.float64]) -> None:
    above, step = float((scores > np.median(before)).mean()), math.ceil(_apart(detector))
    if above >= LEARNED or mannwhitneyu(scores[::step], before[::step], alternative="less").pvalue >= BY_CHANCE:
        return
    warn(
        f"{type(detector).__name__} needs rows that no fit has seen, however: {above:.0%} of these are stranger than "
        "half of those held out before, as if they had been learned from. The threshold would be too low, and alarms "
        "too many: take others."
    )


def warn_of_alarms(detector: Any, scores: NDArray[np.float64], threshold: float) -> None:
    """Warn where far more of the rows that are to be taken for normal are alarms than is promised of such."""
    usual, alarms = promised(detector), scores > threshold
    if usual is None or alarms.mean() < STRANGE * usual:
        return
    some = alarms[:: math.ceil(_apart(detector))]
    if binomtest(int(some.sum()), len(some), usual, alternative="greater").pvalue >= RARELY:
        return
    warn(
        f"{type(detector).__name__} needs normal rows, however: {alarms.mean():.0%} of these are alarms by the "
        f"threshold that was, where at most {percent(usual)} of normal rows are. What they have in common will be "
        "normal from now on: leave anomalies out, unless normal operation has changed."
    )


def is_cross_fitted(detector: Any) -> bool:
    """Whether the rows that a threshold was set by were each judged by nets that others of them have trained."""
    profile = getattr(detector, "profile_", None)
    if profile is not None:
        return bool(profile.factor > 1)
    return len(getattr(detector, "folds_", ())) > 1  # a detector that has no profile yet, or none


def percent(rate: float) -> str:
    """A promised rate for a person: 10%, 0.05%."""
    return f"{100 * rate:.3g}%"
