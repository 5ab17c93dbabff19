"""Loops over cells that numba compiles: what numpy and torch do in several passes is done where a cell already lies.

Their results are those of numpy and torch to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.compiled import compiled, robust

__all__ = ["standardized", "triangles"]

Array = NDArray[np.float64]
Cell = NDArray[np.floating[Any]]
HALF = np.float32(0.5)  # of either type of turns the same


@robust
@compiled
def standardized(raw: Array, mean: Array, scale: Array, end: float, z: Cell) -> None:
    """Write numbers `(n, m)` less the mean of their column, in units of its scale and at most `end` off, into `z`."""
    for i in range(raw.shape[0]):
        for j in range(raw.shape[1]):
            cell = (raw[i, j] - mean[j]) / scale[j]
            cell = -end if cell < -end else cell
            z[i, j] = end if cell > end else cell


@robust
@compiled
def triangles(turns: Cell, phase: Cell) -> None:
    """Put triangle waves, between 0 and 1/2, in the place of `turns` `(n, m)`; each column has a phase."""
    for i in range(turns.shape[0]):
        for j in range(turns.shape[1]):
            turn = turns[i, j] + phase[j]
            turns[i, j] = abs(abs(turn - np.trunc(turn)) - HALF)
