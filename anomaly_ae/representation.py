"""Codes of rows, rows of codes, and new rows: what the first net of a detector makes of its columns."""

from __future__ import annotations

from numbers import Integral

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_is_fitted

from anomaly_ae.columns import ColumnsMixin, as_frame
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.folds import Fold
from anomaly_ae.nn.core import codes

Array = NDArray[np.float64]


class RepresentationMixin(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ColumnsMixin):
    """`transform`, `inverse_transform`, `reconstruct` and `sample`."""

    folds_: list[Fold]

    def transform(self, X: ArrayLike) -> Array:
        """Codes of rows, `(n, code)`."""
        rows = self._checked(X)
        return self.folds_[0].read(rows, lambda p: codes(p.levels))

    def inverse_transform(self, X: ArrayLike) -> Array | pd.DataFrame:
        """Rows that codes `X` `(n, code)` stand for, `(n, n_features)`: a table where some columns are no numbers."""
        check_is_fitted(self)
        codes: Array = check_array(X, dtype=np.float64)
        if codes.shape[1] != self._n_features_out:
            raise DataError(
                f"{type(self).__name__} needs codes of {self._n_features_out} columns, however: {codes.shape[1]}. "
                "Give what transform returned."
            )
        return self._as_given(self.folds_[0].decode(codes))

    def reconstruct(self, X: ArrayLike) -> Array | pd.DataFrame:
        """Rows as the model would expect them, `(n, n_features)`; without gaps, `inverse_transform(transform(X))`."""
        X = as_frame(X)
        rows = self._checked(X)
        return self._as_given(self.folds_[0].reconstruct(rows), getattr(X, "index", None))

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = None
    ) -> Array | pd.DataFrame:
        """New rows like the normal ones, `(n_samples, n_features)`."""
        check_is_fitted(self)
        if not isinstance(n_samples, Integral) or isinstance(n_samples, bool) or n_samples < 0:
            raise ConfigError(f"sample needs a whole number of rows, however: {n_samples!r}. Try 10.")
        return self._as_given(self.folds_[0].sample(n_samples, check_random_state(random_state).randint(2**31 - 1)))

    @property
    def _n_features_out(self) -> int:
        return int(self.folds_[0].net.latent.width)
