"""What scores, alarms and p-values of rows are worth where labels are known. Nothing is tuned on the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.pipeline import Pipeline

from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.evaluation.intervals import Estimate, of_auroc, of_average_precision, rate
from anomaly_ae.monitoring.drift import alarms_by_chance
from anomaly_ae.promise import independent_rows, promised
from anomaly_ae.truth import truth

Array = NDArray[np.float64]
SURE = 0.025  # a promise is not kept where so many false alarms are less probable
ALPHAS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)


class Promise(NamedTuple):
    """A rate of false alarms, the `rows` that set the threshold to it, of which each `apart`-th is worth one.

    `alpha` is the rate that was asked for, which of a cross-fitted detector is half of what can be promised.
    """

    rate: float
    rows: int
    apart: float = 1.0
    alpha: float = 0.0

    @classmethod
    def of(cls, detector: Any) -> Promise | None:
        """That of a fitted detector; None of one that promises nothing."""
        rate = promised(detector) if hasattr(detector, "threshold_") else None
        if rate is None:
            return None
        rows = len(detector.calibration_scores_)
        return cls(rate, rows, max(1.0, rows / independent_rows(detector)), detector.threshold_.alpha)

    def by_chance(self, false_alarms: int, rows: int) -> float:
        """How probable so many false alarms in normal rows are where it holds."""
        return alarms_by_chance(false_alarms, rows, self.rate, self.rows, self.apart)


@dataclass(frozen=True)
class OperatingPoint:
    """What alarms at p-values up to `alpha` would be worth.

    `precision` is that of these rows; with a prevalence it is the one to expect there, counting on a false-alarm rate
    of no less than `alpha`: that none is seen among some hundred normal rows does not mean that there will be none.
    """

    alpha: float
    alarms: int
    recall: float
    false_alarm_rate: float
    precision: float | None


@dataclass(frozen=True)
class Detection:
    r"""How well anomalies are told from normal rows; estimates with 95 % intervals.

    `auroc` and `average_precision` are of the scores, over all thresholds; a random order has an average precision of
    the anomalies' share. The others are of the alarms: `recall`, of the anomalies how many alarm; `false_alarm_rate`,
    of the normal rows how many do, beside the one that was `promised`; `precision`, of the alarms how many are right,
    in these rows; and with `prevalence` :math:`\pi` as `expected_precision` where anomalies have that share,

    .. math:: \frac{\pi\, \mathrm{recall}}{\pi\, \mathrm{recall} + (1 - \pi)\, \mathrm{false\ alarm\ rate}},

    between what both ends of both intervals make of it, where the false-alarm rate is taken to be no less than the one
    asked for, and no less than half of one in all: that none is seen does not mean there will be none.

    `by_chance` is how probable so many false alarms are where the promise holds, given where chance may have put the
    threshold. `kinds` has the recall of each kind of anomaly, `operating_points` what other levels of the p-value would
    give. Rows without a label, `unlabelled`, count for nothing.
    """

    rows: int
    anomalies: int
    unlabelled: int
    auroc: Estimate
    average_precision: Estimate
    recall: Estimate
    false_alarm_rate: Estimate
    precision: Estimate | None
    f1: float
    promised: float | None
    by_chance: float | None
    prevalence: float | None
    expected_precision: Estimate | None
    kinds: dict[str, Estimate]
    operating_points: list[OperatingPoint]

    @property
    def keeps_promise(self) -> bool | None:
        """False where more normal rows alarm than chance explains; None where nothing is promised."""
        return None if self.by_chance is None else self.by_chance >= SURE


def evaluate(
    detector: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    kinds: ArrayLike | None = None,
    prevalence: float | None = None,
) -> Detection:
    """Have a fitted detector judge rows, and compare with what is known of them.

    Parameters
    ----------
    detector : fitted detector
        One of ours, any outlier detector of scikit-learn, or a pipeline that ends in one.
    X : array or DataFrame of shape (n, n_features)
    y : array of shape (n,)
        -1 of an anomaly, 1 of a normal row, 0 where nobody knows, as scikit-learn has it; or booleans, true of an
        anomaly.
    kinds : array of shape (n,) or None, default=None
        What kind of anomaly a row is, for the recall of each; of normal rows it counts for nothing.
    prevalence : float in (0, 1) or None, default=None
        Share of anomalies where the detector is to be used, for the precision to expect there.

    Raises
    ------
    ConfigError, DataError
        When labels are of another kind, or there are not both anomalies and normal rows.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import AutoencoderDetector
    >>> from anomaly_ae.evaluation import evaluate
    >>> rng = np.random.default_rng(0)
    >>> det = AutoencoderDetector(random_state=0).fit(rng.normal(size=(500, 3)))
    >>> X, y = rng.normal(size=(1000, 3)), np.repeat([1, -1], [950, 50])
    >>> X[950:, 0] += 8
    >>> found = evaluate(det, X, y, prevalence=0.001)
    >>> found.recall.value, found.keeps_promise, bool(found.expected_precision.value < 0.1)
    (1.0, True, True)
    """
    if isinstance(detector, Pipeline):
        X, detector = detector[:-1].transform(X), detector[-1]
    if hasattr(detector, "assess"):
        verdict = detector.assess(X)
        score, p_value, alarm = verdict.anomaly_score, verdict.p_value, verdict.is_anomaly
    else:
        score, alarm = -detector.decision_function(X), detector.predict(X) == -1
        p_value = detector.p_values(X) if hasattr(detector, "p_values") else None
    return evaluate_scores(y, score, alarm, p_value, kinds=kinds, prevalence=prevalence, promise=Promise.of(detector))


def evaluate_scores(
    y: ArrayLike,
    score: ArrayLike,
    alarm: ArrayLike,
    p_value: ArrayLike | None = None,
    *,
    kinds: ArrayLike | None = None,
    prevalence: float | None = None,
    promise: Promise | None = None,
) -> Detection:
    """Compare scores `(n,)`, larger = stranger, alarms `(n,)` and p-values `(n,)` with labels; see `evaluate`."""
    is_anomaly, known = truth(y)
    check_prevalence(prevalence)
    if not len(np.asarray(score)) == len(np.asarray(alarm)) == len(known) or not np.isfinite(score).all():
        raise DataError(
            f"An evaluation needs a finite score, an alarm and a label a row, however: {len(np.asarray(score)):,}, "
            f"{len(np.asarray(alarm)):,} and {len(known):,} are given. Look for gaps."
        )
    anomaly, score, alarm = is_anomaly[known], np.asarray(score)[known], np.asarray(alarm, dtype=bool)[known]
    m = int(anomaly.sum())
    n = len(anomaly) - m
    if not m or not n:
        raise DataError(
            f"An evaluation needs anomalies and normal rows, however: {m:,} and {n:,} are labelled so (-1 and 1, "
            "or true and false). Say which labels are anomalies, or give rows of both."
        )
    hits, false = int(alarm[anomaly].sum()), int(alarm[~anomaly].sum())
    recall, false_alarms = rate(hits, m), rate(false, n)
    least = max(0.5 / n, 0.0 if promise is None else promise.alpha)
    assert recall is not None  # both are of some rows
    assert false_alarms is not None
    return Detection(
        rows=len(anomaly),
        anomalies=m,
        unlabelled=len(known) - len(anomaly),
        auroc=of_auroc(float(roc_auc_score(anomaly, score)), m, n),
        average_precision=of_average_precision(float(average_precision_score(anomaly, score)), m),
        recall=recall,
        false_alarm_rate=false_alarms,
        precision=rate(hits, hits + false),
        f1=2 * hits / (m + hits + false),
        promised=None if promise is None else promise.rate,
        by_chance=None if promise is None else promise.by_chance(false, n),
        prevalence=prevalence,
        expected_precision=None if prevalence is None else _expected(prevalence, recall, false_alarms, least),
        kinds={} if kinds is None else _by_kind(np.asarray(kinds)[known][anomaly], alarm[anomaly]),
        operating_points=[] if p_value is None else _points(anomaly, np.asarray(p_value)[known], prevalence),
    )


def check_prevalence(prevalence: float | None) -> None:
    """Raise ConfigError where a share of anomalies is none."""
    if prevalence is not None and not 0 < prevalence < 1:
        raise ConfigError(f"prevalence needs a share between 0 and 1, however: {prevalence}. Try 0.001.")


def _precision(prevalence: float, recall: float, false_alarms: float) -> float | None:
    right, wrong = prevalence * recall, (1 - prevalence) * false_alarms
    return right / (right + wrong) if right + wrong else None


def _expected(prevalence: float, recall: Estimate, false_alarms: Estimate, least: float) -> Estimate | None:
    value = _precision(prevalence, recall.value, max(false_alarms.value, least))
    low = _precision(prevalence, recall.low, max(false_alarms.high, least))
    high = _precision(prevalence, recall.high, max(false_alarms.low, 0.5 * least))
    return None if value is None or low is None or high is None else Estimate(value, low, high)


def _by_kind(kinds: NDArray[Any], alarm: NDArray[np.bool_]) -> dict[str, Estimate]:
    names = np.array([str(kind) for kind in kinds])
    told = {name: rate(int(alarm[names == name].sum()), int((names == name).sum())) for name in np.unique(names)}
    return {str(name): estimate for name, estimate in told.items() if estimate is not None}


def _points(anomaly: NDArray[np.bool_], p_value: Array, prevalence: float | None) -> list[OperatingPoint]:
    points = []
    for alpha in ALPHAS:
        alarm = p_value <= alpha
        if not alarm.any():  # no p-value is so small
            continue
        recall, false = float(alarm[anomaly].mean()), float(alarm[~anomaly].mean())
        precision = (
            float(anomaly[alarm].mean()) if prevalence is None else _precision(prevalence, recall, max(false, alpha))
        )
        points.append(OperatingPoint(alpha, int(alarm.sum()), recall, false, precision))
    return points
