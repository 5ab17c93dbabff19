"""Columns in and out of an estimator: what scikit-learn checks of them, and the contract for what it does not know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_ae.data.contract import Column, Contract, is_plain, listed
from anomaly_ae.errors import DataError, warn

Array = NDArray[np.float64]
MIN_ROWS = 3  # one to fit, one to validate, one to calibrate
COPIES, APART = 0.05, 0.9  # share of rows that are copies, and of the others the share that a column tells apart
RARE, POOLED = 0.1, 0.2  # levels a row, of which more are too rare to learn, and share of rows whose levels are pooled


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
            rows = self._numbers(X, "Give a DataFrame, whose columns may hold text", ensure_min_samples=self._fewest)
            self.contract_ = Contract.numeric(rows)
        if np.isnan(rows).all():
            raise DataError(f"{type(self).__name__} needs values, however: every cell is missing. Give other rows.")
        return rows

    def fit_predict(self, X: ArrayLike, y: Any = None) -> NDArray[np.intp]:
        """`fit`, and what `predict` says of the same rows, `(n,)`.

        Rows that were learned from are less strange than others: few of them are alarms, whatever they hold. To find
        the anomalies among rows of which some may be: `sklearn.model_selection.cross_val_predict(detector, X)`.

        Warns
        -----
        UserWarning
            Of that.
        """
        warn(
            f"{type(self).__name__} is to judge rows that it did not learn from, however: fit_predict has it judge "
            "those that it did, which are rarely alarms. Fit on normal rows and predict others, or use "
            "cross_val_predict."
        )
        verdicts: NDArray[np.intp] = self.fit(X, y).predict(X)  # type: ignore[attr-defined]
        return verdicts

    def _checked(self, X: ArrayLike) -> Array:
        """Rows `(n, d)` as codes of the contract."""
        check_is_fitted(self)
        if self._is_as_wanted(X):
            return np.asarray(X)
        X = as_frame(X)
        self._refuse(X)
        self._refuse_order(X)
        if is_plain(X) and self.contract_.all_numbers:
            return self._numbers(X, "Repair it", reset=False)
        if not isinstance(X, pd.DataFrame):
            raise DataError(
                f"{type(self).__name__} was fitted on a table with columns of several types, however: this is "
                f"{type(X).__name__}. Give a DataFrame with the same columns."
            )
        validate_data(self, X, reset=False, skip_check_array=True)
        if not len(X):
            raise DataError(f"{type(self).__name__} needs a row or more, however: the table has none. Give it rows.")
        return self.contract_.codes(X)

    def _numbers(self, X: ArrayLike, to_do: str, **checks: Any) -> Array:
        """An array, or a table of numbers alone, as scikit-learn checks it; says what `to_do` where it holds text."""
        try:
            return np.asarray(validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", **checks))
        except ValueError as error:
            if not str(error).startswith("could not convert string to float: "):
                raise
            text = str(error).partition(": ")[2].removeprefix("np.str_(").removesuffix(")")
            raise DataError(
                f"{type(self).__name__} needs numbers in an array, however: it holds the text {text}. {to_do}."
            ) from error

    def _is_as_wanted(self, X: Any) -> bool:
        """Whether all checks would hand `X` back as it is: a row of a stream comes thousands of times."""
        plain = type(X) is np.ndarray and X.dtype == np.float64 and X.ndim == 2
        if not plain or hasattr(self, "feature_names_in_") or not self.contract_.all_numbers:
            return False
        if X.shape[1] != self.n_features_in_ or not len(X):
            return False
        with np.errstate(over="ignore", invalid="ignore"):
            finite = np.isfinite(X.sum())  # a fourth of the time of a look at each
        return bool(finite) or not np.isinf(X).any()

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

    def _refuse_order(self, X: ArrayLike) -> None:
        """Raise DataError where names that are no text, which scikit-learn leaves alone, are in another order."""
        if not isinstance(X, pd.DataFrame) or hasattr(self, "feature_names_in_"):
            return
        names = [str(name) for name in X.columns]
        if names != self.contract_.names and sorted(names) == sorted(self.contract_.names):
            raise DataError(
                f"{type(self).__name__} needs columns in the order of its fit, however: they are {listed(names, 8)} "
                f"and were {listed(self.contract_.names, 8)}. Put them in that order."
            )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = True
        return tags

    def _as_given(self, codes: Array, index: pd.Index | None = None) -> Array | pd.DataFrame:
        if self.contract_.all_numbers:
            return codes
        table = self.contract_.table(codes)
        return table if index is None else table.set_axis(index)


def warn_of_copies(rows: Array, columns: Sequence[Column], who: str) -> None:
    """Warn where rows are copies of others, though some number tells nearly all that differ apart: no chance."""
    with np.errstate(over="ignore", invalid="ignore"):
        sums = rows @ np.linspace(1, 2, rows.shape[1])  # alike for the same rows alone; of rows with gaps none
    copied = pd.Series(sums).duplicated().to_numpy() & np.isfinite(sums)
    copies = int(copied.sum())
    different = rows[~copied]
    if copies <= COPIES * len(rows) or len(different) < 2:
        return
    for place, column in enumerate(columns):
        if column.kind == "number" and len(np.unique(different[:, place])) > APART * len(different):
            warn(
                f"{who} needs rows that come once, however: {copies:,} of {len(rows):,} are copies of others, though "
                f"{column.name!r} tells these apart. Where copies both teach and calibrate, the threshold is too low: "
                "drop them (X.drop_duplicates())."
            )
            return


def warn_of_pooled(rows: Array, columns: Sequence[Column], most: int, who: str) -> None:
    """Warn where levels beyond the `most` frequent ones of a category, which share a cell, are many and no rarities."""
    for place, column in enumerate(columns):
        if not most < len(column.levels) <= RARE * len(rows):
            continue
        counts = np.bincount(rows[rows[:, place] >= 0, place].astype(np.intp))  # the others are missing or unseen
        pooled = 1 - np.sort(counts)[-most:].sum() / counts.sum()
        if pooled > POOLED:
            warn(
                f"{who} needs cells for levels that it is to tell apart, however: {column.name!r} has "
                f"{len(column.levels)}, and those beyond the {most} most frequent hold {pooled:.0%} of rows. Set "
                f"preprocessing=Preprocessing(max_levels={len(column.levels)}), or leave the column out."
            )


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
