"""Columns in and out of an estimator: what scikit-learn checks of them, and the contract for what it does not know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_ae.data.contract import Contract, is_plain
from anomaly_ae.errors import DataError

Array = NDArray[np.float64]
MIN_ROWS = 3  # one to fit, one to validate, one to calibrate


class ColumnsMixin:
    """Takes arrays of numbers as scikit-learn does and tables with columns of any kind by their contract."""

    _fewest: ClassVar[int] = MIN_ROWS  # rows to fit on

    contract_: Contract
    n_features_in_: int

    def _learn_columns(self, X: ArrayLike) -> Array:
        """The contract of the columns, and rows `(n, d)` as its codes."""
        rows: Array
        X = as_frame(X)
        self._refuse(X)
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, skip_check_array=True)
            if len(X) < self._fewest:
                raise DataError(
                    f"{type(self).__name__} needs {self._fewest} rows or more, however: {len(X)}. Give it more."
                )
            self.contract_ = Contract.learn(X)
            rows = self.contract_.codes(X)
        else:
            rows = validate_data(
                self, X, dtype=np.float64, ensure_min_samples=self._fewest, ensure_all_finite="allow-nan"
            )
            self.contract_ = Contract.numeric(rows)
        if np.isnan(rows).all():
            raise DataError(f"{type(self).__name__} needs values, however: every cell is missing. Give other rows.")
        return rows

    def _checked(self, X: ArrayLike) -> Array:
        """Rows `(n, d)` as codes of the contract."""
        check_is_fitted(self)
        if self._is_as_wanted(X):
            return np.asarray(X)
        X = as_frame(X)
        self._refuse(X)
        if is_plain(X) and self.contract_.all_numbers:
            return validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite="allow-nan")
        if not isinstance(X, pd.DataFrame):
            raise DataError(
                f"{type(self).__name__} was fitted on a table with columns of several types, however: this is "
                f"{type(X).__name__}. Give a DataFrame with the same columns."
            )
        validate_data(self, X, reset=False, skip_check_array=True)
        if not len(X):
            raise DataError(f"{type(self).__name__} needs a row or more, however: the table has none. Give it rows.")
        return self.contract_.codes(X)

    def _is_as_wanted(self, X: Any) -> bool:
        """Whether all checks would hand `X` back as it is: a row of a stream comes thousands of times."""
        plain = type(X) is np.ndarray and X.dtype == np.float64 and X.ndim == 2
        if not plain or hasattr(self, "feature_names_in_") or not self.contract_.all_numbers:
            return False
        return X.shape[1] == self.n_features_in_ and len(X) > 0 and not np.isinf(X).any()

    def _refuse(self, X: ArrayLike) -> None:
        """Raise DataError at what holds no columns that a model could tell apart."""
        if (isinstance(X, Mapping) and not issparse(X)) or getattr(getattr(X, "dtype", None), "names", None):
            raise DataError(
                f"{type(self).__name__} needs an array or a DataFrame, however: this is {type(X).__name__}. Give "
                "pandas.DataFrame(X)."
            )
        if not isinstance(X, pd.DataFrame):
            return
        if not X.shape[1]:
            raise DataError(f"{type(self).__name__} needs columns to look at, however: there is none. Give it some.")
        check_distinct(X, type(self).__name__)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = True
        return tags

    def _as_given(self, codes: Array, index: pd.Index | None = None) -> Array | pd.DataFrame:
        if self.contract_.all_numbers:
            return codes
        table = self.contract_.table(codes)
        return table if index is None else table.set_axis(index)


def check_distinct(X: pd.DataFrame, who: str) -> None:
    """Raise DataError where two columns have one name."""
    if not X.columns.is_unique:
        repeated = sorted({str(name) for name in X.columns[X.columns.duplicated()]})
        raise DataError(f"{who} needs distinct column names, however: {', '.join(repeated)} are repeated. Rename them.")


def as_frame(X: Any) -> Any:
    """What is a table to others as a DataFrame, masked cells as missing ones; anything else as it is."""
    if isinstance(X, np.ma.MaskedArray):
        return np.ma.filled(X.astype(np.float64), np.nan)
    if not isinstance(X, pd.DataFrame) and hasattr(X, "to_pandas") and hasattr(X, "columns"):
        return X.to_pandas()
    return X
