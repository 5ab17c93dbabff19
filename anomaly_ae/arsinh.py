"""Inverse hyperbolic sines of many numbers at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.compiled import pays

__all__ = ["FAR", "arsinh"]

Numbers = NDArray[np.floating[Any]]
FAR = np.float32(1e9)  # where the square root is the number itself, in either type


def arsinh(z: Numbers) -> Numbers:
    r"""Put the inverse hyperbolic sine of each number of a contiguous array in its place, off by two roundings of 1.

    .. math:: \operatorname{arsinh} z = \ln(z + \sqrt{z^2 + 1}) = -\operatorname{arsinh}(-z)

    Where a processor lacks AVX-512, numpy's own takes one number after the other; its logarithm takes many at a time.
    """
    if pays(z.size):
        from anomaly_ae import loops

        loops.unfolded(z.reshape(-1), FAR)
    else:
        size = np.abs(z)
        near = np.minimum(size, FAR)  # whose square is a number
        grown = np.where(size > FAR, size + size, near + np.sqrt(near * near + 1))
        np.copyto(z, np.where(z < 0, 1 / grown, grown))
    return np.log(z, out=z)
