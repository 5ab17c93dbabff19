"""What a fitted detector promises of false alarms: decided here, whoever tells it."""

from __future__ import annotations

import math
import warnings
from typing import Any

from anomaly_ae.scoring.thresholds import promised_rate


def promised(detector: Any) -> float | None:
    r"""The rate of false alarms that a detector, of rows or of series, promises not to exceed; None without a promise.

    .. math:: \min(1, \max(\alpha, 1 / (n + 1)) \cdot (1 + [\text{cross-fitted}]))

    with `n` the independent ones among held-out rows. In practice cross-fitted detectors as well have a rate of about
    :math:`\alpha`; twice that is what can be proved.
    """
    rate = promised_rate(detector.threshold_)
    if rate is None:
        return None
    return min(1.0, max(rate, 1 / (independent_rows(detector) + 1)) * (1 + is_cross_fitted(detector)))


def independent_rows(detector: Any) -> float:
    """How many of the rows that a threshold was set by say something that those before them did not."""
    profile = getattr(detector, "profile_", None)
    if profile is None or profile.score_time <= 1:
        return float(len(detector.calibration_scores_))
    return float(profile.told_rows / profile.score_time)


def warn_of_few(detector: Any) -> None:
    """Warn where held-out rows are so much alike that a threshold's rate of false alarms cannot be told by them."""
    rate, independent = promised_rate(detector.threshold_), independent_rows(detector)
    rows = detector.profile_.told_rows
    if rate is None or 1 / (independent + 1) <= rate or independent >= rows:
        return
    warnings.warn(
        f"A rate of false alarms of {percent(rate)} needs {math.ceil(1 / rate - 1 - 1e-9)} independent rows held out, "
        f"however: {rows:,} that follow each other tell as much as {independent:.0f}. Of normal rows "
        f"{percent(1 / (independent + 1))} may be alarms. Give fit more rows, or set a shorter window=.",
        UserWarning,
        stacklevel=6,  # who called fit
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
