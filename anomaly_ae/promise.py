"""What a fitted detector promises of false alarms: decided here, whoever tells it."""

from __future__ import annotations

from typing import Any

from anomaly_ae.scoring.thresholds import promised_rate


def promised(detector: Any) -> float | None:
    r"""The rate of false alarms that a detector, of rows or of series, promises not to exceed; None without a promise.

    .. math:: \min(1, \max(\alpha, 1 / (n + 1)) \cdot (1 + [\text{cross-fitted}]))

    In practice cross-fitted detectors as well have a rate of about :math:`\alpha`; twice that is what can be proved.
    """
    rate = promised_rate(detector.threshold_)
    return None if rate is None else min(1.0, rate * (1 + is_cross_fitted(detector)))


def is_cross_fitted(detector: Any) -> bool:
    """Whether the rows that a threshold was set by were each judged by nets that others of them have trained."""
    profile = getattr(detector, "profile_", None)
    if profile is not None:
        return bool(profile.factor > 1)
    return len(getattr(detector, "folds_", ())) > 1  # a detector that has no profile yet, or none


def percent(rate: float) -> str:
    """A promised rate for a person: 10%, 0.05%."""
    return f"{100 * rate:.3g}%"
