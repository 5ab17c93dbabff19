"""Loops that numba compiles: where rows are many and each wants a little work of its own, torch would wait for memory.

Each row's result is the same to the bit whatever rows are beside it. Compiled code is kept beside this file or in the
user's cache, so that only a machine's first use waits for it, some seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.compiled import compiled, robust

__all__ = ["nearest", "offsets", "packed", "residuals"]

Array = NDArray[np.float64]
Kept = NDArray[Any]  # of float32 or float64
Places = NDArray[np.int64]
STRIDE = 16  # cells that a sum takes at once
GROUP = 8  # distances, whose smallest are looked at first
HALVINGS = 16  # of the interval in which the bound of candidates lies
SLACK = 2  # groups that may lie below it beyond those asked for
LANES = 8  # rows whose matrices are solved side by side


def packed(rows: NDArray[Any]) -> Kept:
    """Rows as kernels read them `(m, padded)`: with zeros to whole strides, and in float32 where that loses nothing."""
    with np.errstate(over="ignore"):
        short = rows.astype(np.float32)
    kept = short if (short == rows).all() else rows.astype(np.float64)
    return np.pad(kept, ((0, 0), (0, -rows.shape[1] % STRIDE)))


@robust
@compiled
def offsets(places: Array, order: Places, home: Places, centres: Array, off: NDArray[np.float32]) -> None:
    """Write into `off` `(len(order), width)` how far rows of `places`, in some order, are from the centres at home."""
    for i in range(len(order)):
        row = order[i]
        for t in range(places.shape[1]):
            off[i, t] = places[row, t] - centres[home[row], t]


@robust
@compiled
def nearest(
    far: Kept,
    lists: Places,
    home: Places,
    memory: Kept,
    places: Array,
    rows: Places,
    own: Places,
    p: float,
    count: int,
    apart: Array,
    which: Places,
) -> None:
    """Write who is nearest to some `rows` of `places` `(n, width)`, nearest first, into `which`, how far into `apart`.

    `far` `(len(rows), m)` is roughly how far row `rows[i]` is from those of the (packed) memory that
    `lists[home[rows[i]]]` names; the `count` nearest by that, and a few more, are measured: by the sum of the `p`-th
    powers of differences. Row `r` is no neighbour of `own[r]`.
    """
    m, k, width = far.shape[1], which.shape[1], places.shape[1]
    groups = m // GROUP
    low, place = np.empty(groups, far.dtype), np.zeros(memory.shape[1])
    hit, at, length = np.empty(groups + 1, np.int64), np.empty(m + 1, np.int64), np.empty(m)
    for i in range(len(rows)):
        row, centre, mine = rows[i], home[rows[i]], own[rows[i]]
        # as many groups of eight have a smallest below some bound as there are candidates to find: these are among them
        for q in range(groups):
            low[q] = far[i, q]
        for start in range(groups, groups * GROUP, groups):
            others = far[i, start : start + groups]  # whose places from 0 on let eight be compared at once
            for q in range(groups):
                low[q] = others[q] if others[q] < low[q] else low[q]
        below = bound = low[0]
        for q in range(groups):
            below = low[q] if low[q] < below else below
            bound = low[q] if low[q] > bound else bound
        for _ in range(HALVINGS):
            middle = np.float32(0.5) * (below + bound)
            within = np.float32(0)
            for q in range(groups):
                within += np.float32(1) if low[q] <= middle else np.float32(0)
            if within < count:
                below = middle
            else:
                bound = middle
                if within <= count + SLACK:
                    break
        hits = 0
        for q in range(groups):
            hit[hits] = q
            hits += int(low[q] <= bound)
        found = 0
        for h in range(hits):
            q = hit[h]
            for member in range(GROUP):
                other = member * groups + q
                at[found] = other
                found += int(far[i, other] <= bound)
        for other in range(groups * GROUP, m):
            at[found] = other
            found += int(far[i, other] <= bound)
        if found <= k:  # distances that are no numbers give no bound: all are measured
            found = m
            for other in range(m):
                at[other] = other
        for t in range(width):
            place[t] = places[row, t]
        for c in range(found):
            at[c] = lists[centre, at[c]]
        for c in range(found):  # without a branch that depends on what is read, so that many reads wait side by side
            other = at[c]
            total = 0.0
            if p == 2:
                for t in range(len(place)):
                    total += (memory[other, t] - place[t]) ** 2
            elif p == 1:
                for t in range(len(place)):
                    total += abs(memory[other, t] - place[t])
            else:
                for t in range(len(place)):
                    total += abs(memory[other, t] - place[t]) ** p
            length[c] = total if other != mine else np.inf
        for c in range(1, found):
            total, other = length[c], at[c]
            rank = c
            while rank > 0 and length[rank - 1] > total:
                length[rank], at[rank] = length[rank - 1], at[rank - 1]
                rank -= 1
            length[rank], at[rank] = total, other
        for c in range(k):
            which[row, c], apart[row, c] = at[c], length[c]


@compiled
def _solve(matrices: Array, b: Array) -> None:
    """Put the solutions of positive definite systems `(side, side, lanes)`, of which the lower half is read, into `b`.

    By Cholesky's factors, which take the place of the matrices, with the reciprocals of their diagonals.
    """
    side = len(b)
    pivot = np.empty(LANES)
    for j in range(side):
        for i in range(j):
            for lane in range(LANES):
                matrices[j, j, lane] -= matrices[j, i, lane] ** 2
                b[j, lane] -= matrices[j, i, lane] * b[i, lane]
        for lane in range(LANES):
            pivot[lane] = 1 / np.sqrt(matrices[j, j, lane])
            matrices[j, j, lane] = pivot[lane]
            b[j, lane] *= pivot[lane]
        for i in range(j + 1, side):
            for h in range(j):
                for lane in range(LANES):
                    matrices[i, j, lane] -= matrices[i, h, lane] * matrices[j, h, lane]
            for lane in range(LANES):
                matrices[i, j, lane] *= pivot[lane]
    for j in range(side - 1, -1, -1):
        for i in range(j + 1, side):
            for lane in range(LANES):
                b[j, lane] -= matrices[i, j, lane] * b[i, lane]
        for lane in range(LANES):
            b[j, lane] *= matrices[j, j, lane]


@robust
@compiled
def residuals(memory: Kept, which: Places, places: Array, ridge: float, off: Array) -> None:
    r"""Write what is left of each row by the linear denoiser of its neighbours into `off` `(n, width)`.

    .. math:: \lambda (S + \lambda I)^{-1} (x - \mu), \quad \lambda = \text{ridge} \cdot \mathrm{tr}(S) / k + 10^{-12}

    with the mean :math:`\mu` and scatter `S` of the rows of the (packed) memory that `which` `(n, k)` names; by their
    Gram matrix where that is smaller.
    """
    n, k = which.shape
    width, padded = places.shape[1], memory.shape[1]
    by_scatter = width <= k
    side, long = (width, (k + STRIDE - 1) // STRIDE * STRIDE) if by_scatter else (k, padded)
    near, x = np.zeros((LANES, side, long)), np.zeros((LANES, padded))
    factor, b = np.zeros((side, side, LANES)), np.zeros((side, LANES))
    spread, centre, raw = np.empty(LANES), np.empty(padded), np.empty((k, padded))
    for first in range(0, n, LANES):
        lanes = min(LANES, n - first)
        for lane in range(lanes):
            row = first + lane
            for t in range(padded):
                centre[t] = 0.0
            for i in range(k):
                other = which[row, i]  # not read anew for each cell
                for t in range(padded):
                    raw[i, t] = memory[other, t]
                    centre[t] += raw[i, t]
            for t in range(padded):
                centre[t] /= k
            for t in range(width):
                x[lane, t] = places[row, t] - centre[t]
            for i in range(k):
                if by_scatter:
                    for t in range(width):
                        near[lane, t, i] = raw[i, t] - centre[t]
                else:
                    for t in range(padded):
                        near[lane, i, t] = raw[i, t] - centre[t]
            trace = 0.0
            for i in range(side):
                for j in range(i + 1):
                    total = 0.0
                    for t in range(long):
                        total += near[lane, i, t] * near[lane, j, t]
                    factor[i, j, lane] = total
                trace += factor[i, i, lane]
                if by_scatter:
                    b[i, lane] = x[lane, i]
                else:
                    total = 0.0
                    for t in range(padded):
                        total += near[lane, i, t] * x[lane, t]
                    b[i, lane] = total
            spread[lane] = ridge * trace / k + 1e-12
            for i in range(side):
                factor[i, i, lane] += spread[lane]
        _solve(factor, b)  # lanes beyond the last row hold anything
        for lane in range(lanes):
            if by_scatter:
                for t in range(width):
                    off[first + lane, t] = spread[lane] * b[t, lane]
            else:
                for i in range(side):
                    for t in range(padded):
                        x[lane, t] -= b[i, lane] * near[lane, i, t]
                for t in range(width):
                    off[first + lane, t] = x[lane, t]
