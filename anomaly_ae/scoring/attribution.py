"""Attribution: which column is to blame."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def shares(contributions: NDArray[np.float64]) -> NDArray[np.float64]:
    r"""Each column's share of what a row's columns contribute: `(n, d)`, rows add up to 1.

    .. math:: a_j = c_j / \sum_i c_i

    A row without any contribution gets equal shares.
    """
    total = contributions.sum(axis=1, keepdims=True)
    equal = np.full_like(contributions, 1 / contributions.shape[1])
    return np.divide(contributions, total, out=equal, where=total > 0)


def top(contributions: NDArray[np.float64], k: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The `k` columns with the largest shares, largest first, and their shares: both `(n, k)`."""
    share = shares(contributions)
    k = min(k, share.shape[1])
    if 4 * k >= share.shape[1]:
        columns = np.argsort(-share, axis=1, kind="stable")[:, :k]
    else:  # of many columns a few are found sooner one by one
        left, rows = share.copy(), np.arange(len(share))
        columns = np.empty((len(share), k), dtype=np.intp)
        for rank in range(k):
            columns[:, rank] = left.argmax(axis=1)
            left[rows, columns[:, rank]] = -np.inf
    return columns, np.take_along_axis(share, columns, axis=1)
