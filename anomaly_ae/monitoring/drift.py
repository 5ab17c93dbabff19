"""How far rows have moved away from those of the fit: of the score, and of each column. numpy and scipy only."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from anomaly_ae.monitoring.profile import BINS, Counts, Profile

Array = NDArray[np.float64]
LEVEL = 0.001  # of a test on a batch: what a gate calls drift in one of so many normal batches
FEW, FEW_OF_MANY = 5, 20  # rows of a level; of many levels, those that happen to have more are not that frequent
QUESTIONS = 4  # asked of each column: values, contributions, gaps, range
PART = "its part in the scores"
LITTLE = 0.1  # of the largest part in the growth of scores


@dataclass(frozen=True)
class FeatureDrift:
    """One column of some rows beside the reference rows.

    `p_value` is that of the strongest of four questions, times four: have its values moved (Kolmogorov and Smirnov; of
    classes chi-square), does it contribute more to the scores (Kolmogorov and Smirnov, one-sided), has it more or fewer
    gaps (Fisher), more values beyond the range or categories of the fit (beta-binomial)? `adjusted` allows for all
    columns (Benjamini and Yekutieli); the column `drifts` where it is below the level, and `why` names the question.
    One that contributes more and has not moved itself is only `affected` where others have moved, for these are beside
    it in every row, or contribute ten times as much. Dates move on by nature: of them only contributions and gaps
    count. `statistic` is the greatest distance of the two distributions of values, in [0, 1], `psi` their population
    stability index; `excess`, in [0, 1], the column's part in the growth of the mean score since the fit, 0 where the
    score has not grown. `reference` and `seen` are shares of the bins that `labels` name.
    """

    name: str
    kind: str
    p_value: float
    adjusted: float
    drifts: bool
    affected: bool
    why: str
    statistic: float
    psi: float
    excess: float
    residual_p_value: float
    missing: float
    missing_reference: float
    beyond: float
    labels: list[str]
    reference: list[float]
    seen: list[float]


@dataclass(frozen=True)
class ScoreDrift:
    """Scores beside the calibrate scores: are they larger?

    `ks` is the greatest excess of one distribution function over the other, in [0, 1], and `p_value` that of finding
    as much by chance, one-sided; `wasserstein` the mean distance between equal quantiles, in units of the score; `psi`
    the population stability index over deciles.
    """

    ks: float
    p_value: float
    wasserstein: float
    psi: float


def score_drift(scores: Array, calibration: Array, time: float = 1.0, factor: float = 1.0, step: int = 1) -> ScoreDrift:
    """Compare scores `(n,)` with sorted calibrate scores `(m,)`; `time` is their correlation time, in rows.

    The scores are of every `step`-th row, the calibrate scores of all.
    `factor` is by how much a score of a normal row may be more often beyond a value than calibrate scores are: 2 where
    these are cross-fitted, for that is what cross-fitting promises.
    """
    both = np.concatenate([scores, calibration])
    above, normal = (
        1 - np.searchsorted(np.sort(some), both, side="right") / len(some) for some in (scores, calibration)
    )
    excess = float(max(0.0, (above - np.minimum(1, factor * normal)).max()))
    bins = np.searchsorted(np.quantile(calibration, np.arange(1, 10) / 10), both, side="left")
    counts = [np.bincount(some, minlength=10) for some in (bins[: len(scores)], bins[len(scores) :])]
    return ScoreDrift(
        ks=excess,
        p_value=_one_sided(excess, len(scores) / max(1.0, time / step), len(calibration) / time / factor**2),
        wasserstein=float(stats.wasserstein_distance(scores, calibration)),
        psi=population_stability(counts[0], counts[1]),
    )


def feature_drift(profile: Profile, counts: Counts, level: float = LEVEL) -> list[FeatureDrift]:
    """Compare every column with the profile; those that drift come first, in order of what they add to the score."""
    grown = np.maximum(0.0, _mean(counts) - _mean(profile.reference))
    excess = grown / grown.sum() if grown.sum() > 0 else grown
    asked, told = zip(*(_compared(profile, counts, place) for place in range(len(profile.columns))), strict=True)
    own = [min(p for question, p in each.items() if question != PART) for each in asked]
    p_values = np.minimum(1, QUESTIONS * np.array([[min(each.values()) for each in asked], own]))
    adjusted, moved = (stats.false_discovery_control(some, method="by") for some in p_values)
    strange, itself = adjusted < level, moved < level
    # where none has moved itself, relations have: those that count for next to nothing are only beside them
    drifts = strange & (itself | (~itself.any() & (excess >= LITTLE * excess.max())))
    features = [
        FeatureDrift(
            **feature,
            why=min((question for question in each if question != PART or not itself[place]), key=each.__getitem__),
            p_value=float(p_values[0, place]),
            adjusted=float(adjusted[place]),
            drifts=bool(drifts[place]),
            affected=bool(strange[place] and not drifts[place]),
            excess=float(excess[place]),
        )
        for place, (each, feature) in enumerate(zip(asked, told, strict=True))
    ]
    return sorted(features, key=lambda one: (not one.drifts, not one.affected, -one.excess, one.p_value))


def population_stability(seen: NDArray[np.int64], reference: NDArray[np.int64]) -> float:
    r"""Population stability index of counts, each bin with half a row more so that none is empty.

    .. math:: \sum_k (p_k - q_k) \ln \frac{p_k}{q_k}
    """
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (seen, reference))
    return float(((p - q) * np.log(p / q)).sum())


def rate_interval(alarms: int, rows: int, time: float = 1.0, coverage: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval for a rate of alarms, as wide as if only every `time`-th row were told."""
    n = max(rows / time, 1e-9)
    k, tail = alarms / rows * n, (1 - coverage) / 2
    low = stats.beta.ppf(tail, k, n - k + 1) if alarms else 0.0
    high = stats.beta.ppf(1 - tail, k + 1, n - k) if alarms < rows else 1.0
    return float(low), float(high)


def alarms_by_chance(alarms: int, rows: int, promised: float, calibrated: int, time: float = 1.0) -> float:
    r"""How probable as many alarms are, in normal rows, where `calibrated` scores set a threshold to a `promised` rate.

    .. math:: K \sim \operatorname{BetaBinomial}(n, l, m + 1 - l), \quad l = \alpha (m + 1)

    for the threshold lies where chance put it, and a batch's rows share it. Only every `time`-th row tells anything.
    """
    n, m = max(1, round(rows / time)), calibrated / time
    expected = min(max(promised * (m + 1), 1e-9), m + 1 - 1e-9)
    return float(stats.betabinom.sf(math.ceil(alarms / rows * n - 1e-9) - 1, n, expected, m + 1 - expected))


def can_tell(rows: int, promised: float | None, calibrated: int, time: float = 1.0, factor: float = 1.0) -> bool:
    """Whether so many rows are enough for alarms or scores to cross their gate, were all of them strange."""
    alarms = promised is not None and alarms_by_chance(rows, rows, promised, calibrated, time) < LEVEL
    return alarms or _one_sided(1.0, rows / time, calibrated / time / factor**2) < LEVEL


def _compared(profile: Profile, counts: Counts, place: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The p-value of each question to a column, and what else there is to say of it."""
    column, reference = profile.columns[place], profile.reference
    seen, normal = counts.cells[place], reference.cells[place]
    time, residual_time = float(profile.time[place]), float(profile.residual_time[place])
    # of rows that were looked at, as many are worth a test as there are correlation times among all of them
    looked = counts.looked / max(1, counts.rows)
    thin, thin_normal = max(1.0, time * looked), max(1.0, time * normal.sum() / profile.fit_rows)
    ks, psi = _distance(seen, normal), population_stability(seen, normal)
    ordered = column.kind in ("number", "boolean")
    if not seen.sum() or not normal.sum() or column.kind == "date":
        moved = 1.0
    elif ordered:
        moved = _two_sided(ks, seen.sum() / thin, normal.sum() / thin_normal)
    else:
        pooled = BINS - 1 if len(column.levels) >= BINS else 0
        moved = _classes(seen / thin, normal / thin_normal, pooled)
    parts, parts_normal = counts.residuals[place], reference.residuals[place]
    above, above_normal = (1 - np.cumsum(some) / max(1, some.sum()) for some in (parts, parts_normal))
    excess = float(max(0.0, (above - np.minimum(1, profile.factor * above_normal)).max()))
    thin = max(1.0, residual_time * looked)
    thin_normal = max(1.0, residual_time * parts_normal.sum() / profile.told_rows)
    blamed = _one_sided(excess, parts.sum() / thin, parts_normal.sum() / thin_normal / profile.factor**2)
    gaps = _gaps(counts, reference, place, time)
    out = 1.0 if column.kind == "date" else _beyond(counts, reference, place, profile.fit_rows, time)
    questions = {"its values": moved, PART: blamed, "its gaps": gaps, "values unseen at fit": out}
    labels = profile.labels(place)
    return questions, {
        "name": column.name,
        "kind": column.kind,
        "statistic": ks,
        "psi": psi,
        "residual_p_value": blamed,
        "missing": float(counts.missing[place] / max(1, counts.rows)),
        "missing_reference": float(reference.missing[place] / max(1, reference.rows)),
        "beyond": float(counts.beyond[place] / max(1, counts.rows)),
        "labels": labels,
        "reference": (normal / max(1, normal.sum()))[: len(labels)].tolist(),
        "seen": (seen / max(1, seen.sum()))[: len(labels)].tolist(),
    }


def _mean(counts: Counts) -> Array:
    return counts.totals / np.maximum(1, counts.residuals.sum(axis=1))


def _distance(seen: NDArray[np.int64], normal: NDArray[np.int64]) -> float:
    if not seen.sum() or not normal.sum():
        return 0.0
    return float(np.abs(np.cumsum(seen) / seen.sum() - np.cumsum(normal) / normal.sum()).max())


def _two_sided(distance: float, n: float, m: float) -> float:
    return float(stats.kstwobign.sf(distance * math.sqrt(n * m / (n + m))))


def _one_sided(excess: float, n: float, m: float) -> float:
    return math.exp(-2 * excess**2 * n * m / (n + m)) if n and m else 1.0


def _classes(seen: Array, normal: Array, pooled: int) -> float:
    """Chi-square of two rows of counts; classes that normally hold few, and that one, are put together."""
    # by what is normal alone: of levels that are there because the fit saw them others see fewer, and unseen ones
    rare = normal < (FEW_OF_MANY if pooled else FEW)
    rare[pooled] = True
    table = np.stack([np.append(row[~rare], row[rare].sum()) for row in (seen, normal)])
    table = table[:, table.sum(axis=0) > 0]
    return float(stats.chi2_contingency(table, correction=False).pvalue) if table.shape[1] > 1 else 1.0


def _gaps(counts: Counts, reference: Counts, place: int, time: float) -> float:
    table = [
        [round(some.missing[place] / time), round((some.rows - some.missing[place]) / time)]
        for some in (counts, reference)
    ]
    return float(stats.fisher_exact(table).pvalue)


def _beyond(counts: Counts, reference: Counts, place: int, fit_rows: int, time: float) -> float:
    # how much lies beyond the range of m rows is itself by chance, Beta(2, m - 1) at most; beyond all levels that they
    # had, as much as is of levels that one row had
    hits, n = math.ceil(counts.beyond[place] / time), math.ceil((counts.rows - counts.missing[place]) / time)
    m = max(2.0, fit_rows / time)
    alone = m * reference.beyond[place] / max(1, reference.rows)
    return float(stats.betabinom.sf(hits - 1, max(hits, n), 2 + alone, max(1.0, m - 1 - alone)))
