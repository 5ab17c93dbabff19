"""How well a detector still tells when rows are less clean than those of its fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.evaluation.detection import evaluate
from anomaly_ae.truth import truth

Array = NDArray[np.float64]
Spoil = Callable[[Array, float, Array, np.random.Generator], Array]


def _noise(values: Array, level: float, spread: Array, rng: np.random.Generator) -> Array:
    return values + level * spread * rng.standard_normal(values.shape)


def _missing(values: Array, level: float, spread: Array, rng: np.random.Generator) -> Array:
    return np.where(rng.random(values.shape) < level, np.nan, values)


def _scale(values: Array, level: float, spread: Array, rng: np.random.Generator) -> Array:
    return values * np.exp(level * rng.standard_normal(values.shape[1]))


def _rotation(values: Array, level: float, spread: Array, rng: np.random.Generator) -> Array:
    turned, order = values.copy(), rng.permutation(values.shape[1])
    middle, usual = np.nanmean(values, axis=0), np.where(spread > 0, spread, 1.0)
    for one, other in zip(order[::2], order[1::2], strict=False):
        a, b = ((values[:, j] - middle[j]) / usual[j] for j in (one, other))
        turned[:, one] = middle[one] + usual[one] * (np.cos(level) * a - np.sin(level) * b)
        turned[:, other] = middle[other] + usual[other] * (np.sin(level) * a + np.cos(level) * b)
    return turned


SPOILS: Mapping[str, tuple[Spoil, tuple[float, ...]]] = {
    "noise": (_noise, (0.0, 0.1, 0.2, 0.5, 1.0)),
    "missing": (_missing, (0.0, 0.05, 0.1, 0.2, 0.4)),
    "scale": (_scale, (0.0, 0.01, 0.05, 0.1, 0.2)),
    "rotation": (_rotation, (0.0, 0.1, 0.2, 0.4, 0.8)),
}


def robustness_curves(
    detector: Any,
    X: ArrayLike,
    y: ArrayLike,
    *,
    kinds: Sequence[str] = tuple(SPOILS),
    levels: Sequence[float] | None = None,
    columns: Sequence[str] | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """Spoil rows more and more, and evaluate the detector on them.

    Each kind spoils columns of numbers, in normal rows and anomalies alike:

    - `noise`: normal noise of `level` times the column's standard deviation over the normal rows;
    - `missing`: cells are emptied with a probability of `level`;
    - `scale`: each column is multiplied by its own factor, log-normal of scale `level`: sensors out of calibration;
    - `rotation`: standardised columns are turned, in pairs at random, by an angle of `level` radians: what columns have
      to do with each other is no longer so.

    Parameters
    ----------
    detector, X, y
        As of `evaluate`.
    kinds : names of the above, default=all
    levels : sequence of float >= 0 or None, default=None
        `None` is five levels a kind that begin at 0.
    columns : names or None, default=None
        The columns to spoil, of a DataFrame; `None` is all that are numbers.
    random_state : int, default=0

    Returns
    -------
    DataFrame with a row a kind and level: `kind`, `level`, `auroc`, `average_precision`, `recall`, `false_alarm_rate`.
    At level 0 they are those of `evaluate`.

    References
    ----------
    Hendrycks and Dietterich (2019), Benchmarking neural network robustness, arXiv:1903.12261.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import AutoencoderDetector
    >>> from anomaly_ae.evaluation import robustness_curves
    >>> rng = np.random.default_rng(0)
    >>> det = AutoencoderDetector(effort="fast", random_state=0).fit(rng.normal(size=(500, 3)))
    >>> X, y = rng.normal(size=(400, 3)), np.repeat([1, -1], 200)
    >>> X[200:] += 3
    >>> curve = robustness_curves(det, X, y, kinds=["noise"], levels=[0, 2])
    >>> bool(curve["auroc"][0] > curve["auroc"][1])
    True
    """
    if unknown := [kind for kind in kinds if kind not in SPOILS]:
        raise ConfigError(f"kinds needs names out of {list(SPOILS)}, however: {unknown}. Choose from them.")
    if levels is not None and not all(level >= 0 for level in levels):
        raise ConfigError(f"levels needs numbers of at least 0, however: {list(levels)}. Try [0, 0.1].")
    rows = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X))
    numbers = rows.select_dtypes("number").columns if columns is None else pd.Index(columns)
    if not len(numbers):
        raise DataError(
            "Rows need columns of numbers to be spoilt, however: there are none. Evaluate them as they are."
        )
    clean = rows[numbers].to_numpy(dtype=np.float64)
    anomalous, known = truth(y)
    spread = np.nan_to_num(np.nanstd(clean[known & ~anomalous], axis=0))
    lines = []
    for kind in kinds:
        spoil, usual = SPOILS[kind]
        for level in usual if levels is None else levels:
            spoilt = rows.copy()
            if level > 0:
                spoilt[numbers] = spoil(clean, level, spread, np.random.default_rng(random_state))
            found = evaluate(detector, spoilt if isinstance(X, pd.DataFrame) else spoilt.to_numpy(), y)
            told = {name: getattr(found, name).value for name in ("auroc", "average_precision", "recall")}
            lines.append({"kind": kind, "level": level, **told, "false_alarm_rate": found.false_alarm_rate.value})
    return pd.DataFrame(lines)
