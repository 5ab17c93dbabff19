"""Loops over cells that numba compiles: what numpy and torch do in several passes is done where a cell already lies.

Their results are those of numpy and torch to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.compiled import exactly

__all__ = ["binned", "interpolated", "raised", "seen", "standardized", "triangles", "unfolded"]

Array = NDArray[np.float64]
Cell = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Numbers = NDArray[np.int64]
HALF, ONE = np.float32(0.5), np.float32(1)  # of either type the same


@exactly
def binned(values: Array, edges: Array, counts: Numbers) -> None:
    """Add to `counts` `(d, bins)` how many of `values` `(n, d)` lie between ascending `edges` `(d, bins - 1)`."""
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            if values[i, j] == values[i, j]:  # what is missing lies nowhere
                place = 0
                for k in range(edges.shape[1]):
                    place += values[i, j] > edges[j, k]
                counts[j, place] += 1


@exactly
def interpolated(x: Array, knots: Array, levels: Array, narrow: float, y: Array) -> None:
    """Write the levels at `x` `(n,)`, linear between knots `(k,)` and the outer ones beyond them, into `y` `(n,)`.

    Where knots are the same, no further than `narrow` apart, it is the level of the first. Few knots are counted sooner
    than halved, for nothing waits.
    """
    for i in range(len(x)):
        right = 0
        for q in range(len(knots)):
            right += knots[q] < x[i]
        right = min(max(right, 1), len(knots) - 1)
        along = (x[i] - knots[right - 1]) / max(knots[right] - knots[right - 1], narrow)
        along = 0.0 if along < 0 else along
        along = 1.0 if along > 1 else along
        y[i] = levels[right - 1] + along * (levels[right] - levels[right - 1])


@exactly
def standardized(raw: Array, mean: Array, rate: Array, end: float, z: Cell) -> None:
    """Write numbers `(n, m)` less the mean of their column, times its rate and at most `end` off, into `z`."""
    for i in range(raw.shape[0]):
        for j in range(raw.shape[1]):
            cell = (raw[i, j] - mean[j]) * rate[j]
            cell = -end if cell < -end else cell
            z[i, j] = end if cell > end else cell


@exactly
def raised(z: Cell, height: Cell, low: Cell, high: Cell, odd: Mask) -> None:
    """Multiply cells `(n, m)` by the height of their column; which rows have one not between its ends goes to `odd`."""
    for i in range(z.shape[0]):
        beyond = 0
        for j in range(z.shape[1]):
            z[i, j] *= height[j]
            beyond += not (low[j] <= z[i, j] <= high[j])
        odd[i] = beyond > 0


@exactly
def seen(codes: Array, low: Array, high: Array, missing: Numbers, beyond: Numbers) -> None:
    """Add to `missing` and `beyond` `(d,)` how many of `codes` `(n, d)` are missing, and lie below or above an end."""
    for i in range(codes.shape[0]):
        for j in range(codes.shape[1]):
            missing[j] += codes[i, j] != codes[i, j]
            beyond[j] += (codes[i, j] < low[j]) | (codes[i, j] > high[j])


@exactly
def triangles(turns: Cell, phase: Cell) -> None:
    """Put triangle waves, between 0 and 1/2, in the place of `turns` `(n, m)`; each column has a phase."""
    for i in range(turns.shape[0]):
        for j in range(turns.shape[1]):
            turn = turns[i, j] + phase[j]
            turns[i, j] = abs(abs(turn - np.trunc(turn)) - HALF)


@exactly
def unfolded(z: Cell, far: np.float32) -> None:
    """Put z + sqrt(z^2 + 1), whose logarithm is arsinh z, in the place of each of `z` `(n,)`; 2 z where z is `far`."""
    for i in range(len(z)):
        size = abs(z[i])
        near = min(size, far)
        grown = size + size if size > far else near + np.sqrt(near * near + ONE)
        z[i] = ONE / grown if z[i] < 0 else grown
