"""Attribution: which column is to blame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shares(contributions: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Each column's share of what a row's columns contribute: `(n, d)`, rows add up to 1.

    .. math:: a_j = c_j / \sum_i c_i

    A row without any contribution gets equal shares.
    """
    return _of_total(contributions, contributions)


def top(contributions: NDArray[np.float64], k: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The `k` columns with the largest shares, largest first, and their shares: both `(n, k)`."""
    d = contributions.shape[1]
    k = min(k, d)
    if 4 * k >= d:
        columns = np.argsort(-contributions, axis=1, kind="stable")[:, :k]
    else:  # of many columns a few are found sooner one by one
        left, rows = contributions.copy(), np.arange(len(contributions))
        columns = np.empty((len(contributions), k), dtype=np.intp)
        for rank in range(k):
            columns[:, rank] = left.argmax(axis=1)
            left[rows, columns[:, rank]] = -np.inf
    return columns, _of_total(np.take_along_axis(contributions, columns, axis=1), contributions)


def _of_total(some: NDArray[np.float64], contributions: NDArray[np.float64]) -> NDArray[np.float64]:
    total = contributions.sum(axis=1, keepdims=True)
    return np.divide(some, total, out=np.full_like(some, 1 / contributions.shape[1]), where=total > 0)
