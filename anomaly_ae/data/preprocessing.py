"""What happens to columns before a net sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler

from anomaly_ae.errors import DataError

LIMIT = 1e6  # standard deviations; further away is as far, and squares stay finite in every float type


@dataclass(frozen=True)
class Scaler:
    r"""Columns of mean 0 and standard deviation 1, at most `LIMIT` from 0.

    .. math:: z_j = \mathrm{clip}\bigl((x_j - m_j) / s_j, \pm 10^6\bigr)

    A column that is constant keeps its own unit, `s_j = 1`.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def fit(cls, X: NDArray[np.float64]) -> Scaler:
        """Learn means and standard deviations of rows `(n, d)`."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaler = StandardScaler().fit(X)
        too_large = ~np.isfinite(scaler.var_)  # its scale would be 1, as if the column were constant
        if too_large.any():
            raise DataError(
                f"Scaler needs columns whose squares are finite, however: column {int(np.argmax(too_large))} reaches "
                f"{np.abs(X[:, np.argmax(too_large)]).max():.3g}. Rescale that column or leave it out."
            )
        return cls(scaler.mean_, scaler.scale_)

    def transform(self, X: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows `(n, d)` in units of the columns to standardised rows."""
        with np.errstate(over="ignore"):
            return np.clip((X - self.mean) / self.scale, -LIMIT, LIMIT)

    def inverse_transform(self, Z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardised rows `(n, d)` back to units of the columns."""
        return Z * self.scale + self.mean
