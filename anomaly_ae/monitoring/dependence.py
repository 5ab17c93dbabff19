"""How many rows apart rows must be to tell something new. numpy and scipy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]
WINDOW = 5.0  # correlation times over which correlations are summed


def correlation_time(rows: Array, apart: float = 1.0, runs: Sequence[int] = ()) -> Array:
    r"""Integrated autocorrelation time of each column of rows in their order, `(n, d)` to `(d,)`, in rows; at least 1.

    .. math:: \tau = \Delta \Bigl(1 + 2 \sum_{k=1}^{M} \rho_k\Bigr)

    A mean over `n` rows is as certain as one over :math:`n / \tau` independent ones. The autocorrelations
    :math:`\rho_k` are those of ranks, which no outlier rules; the sum ends at the first :math:`M \ge 5 \tau` (Sokal
    1997, Monte Carlo methods in statistical mechanics). `apart` (:math:`\Delta`) says how many rows lie between two of
    those given; `runs` how many rows each stretch has, if there are several, whose levels may differ. What could be
    chance in independent rows counts as none; missing cells are left out.
    """
    lengths = [*runs] or [len(rows)]
    n, d = min(len(rows), max(lengths)), rows.shape[1]
    if len(rows) < 8 or n < 2:
        return np.ones(d)
    correlations = np.zeros((n, d))
    for run in np.split(rows, np.cumsum(lengths)[:-1]):
        ranks = rankdata(run, axis=0, nan_policy="omit" if np.isnan(run).any() else "propagate") / len(run)
        with np.errstate(invalid="ignore"):  # a run without a cell
            ranks -= np.nansum(ranks, axis=0) / (~np.isnan(ranks)).sum(axis=0)
        spectrum = np.fft.rfft(np.nan_to_num(ranks), n=2 * n, axis=0)
        correlations += np.fft.irfft(spectrum * spectrum.conj(), axis=0)[:n]
    power = np.where(correlations[0] > 1e-12 * len(rows), correlations[0], 0.0)
    told = np.where(power > 0, correlations / np.where(power > 0, power, 1.0), 0.0)
    sums = 2 * np.cumsum(told, axis=0) - 1
    ends = np.arange(n)[:, None] >= WINDOW * np.maximum(sums, 1.0)
    last = np.where(ends.any(axis=0), ends.argmax(axis=0), n - 1)
    times = sums[last, np.arange(d)]
    chance = (times < 1 + 3 * np.sqrt(2 * (2 * WINDOW + 1) / len(rows))) | (told[1] < 3 / np.sqrt(len(rows)))
    return np.where((power > 0) & ~chance, np.clip(apart * times, 1.0, apart * n / 4), 1.0)
