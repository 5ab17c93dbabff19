"""The contract of columns: what each was when the model was fitted, and tables as matrices of numbers by it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomaly_ae.data.written import MOSTLY, WRITTEN, written_as
from anomaly_ae.errors import DataError, warn

Array = NDArray[np.float64]
Kind = Literal["number", "boolean", "category", "date"]
EXACT = 2**53  # integers beyond it share a float with their neighbours
LABELS = frozenset(
    {"label", "labels", "class", "target", "y", "anomaly", "is_anomaly", "outlier", "is_outlier", "fault"}
)
TRUTH = {"true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}
FEW_LEVELS = 10
FEWEST = 20  # rows whose order tells something
UNSEEN = -1.0  # the code of a category that was not there at fit
DATES = (-62_135_596_800.0, 253_402_300_799.0)  # seconds since 1970 of the first and last moment of years 1 to 9999


@dataclass(frozen=True)
class Column:
    """One column as it was at fit: its kind, its range or categories, and the share of its cells that were missing.

    `low` and `high` are in units of the column; of a date, seconds since 1970 (UTC). `rising` is a date that never
    falls from one row to the next, of 20 or more: it says when rows were taken.
    """

    name: str
    kind: Kind
    low: float | None
    high: float | None
    missing: float
    levels: tuple[str, ...] = ()
    rising: bool = False

    @property
    def constant(self) -> bool:
        """Whether it held one value or none."""
        return len(self.levels) <= 1 if self.kind == "category" else self.low == self.high

    def codes(self, values: pd.Series) -> Array:
        """Values as numbers `(n,)`: NaN where missing, a category's place in `levels`, `UNSEEN` of others.

        Raises
        ------
        DataError
            At values of another type, or infinite ones.
        """
        match self.kind:
            case "number":
                codes = _numbers(values, self.name)
            case "boolean":
                codes = _booleans(values, self.name)
            case "date":
                codes = _seconds(values, self.name)
            case "category":
                codes = (
                    pd.Index(self.levels, dtype=object)
                    .get_indexer(pd.Index(_text(values, self.name)))
                    .astype(np.float64)
                )
                codes[values.isna().to_numpy()] = np.nan
        if np.isinf(codes).any():
            where = _where(values, int(np.flatnonzero(np.isinf(codes))[0]))
            raise DataError(
                f"A model needs finite numbers, however: column {self.name!r} has infinity {where}. Repair the cell, "
                "or leave the column out."
            )
        return codes

    def is_unseen(self, code: float) -> bool:
        """Whether a code stands for a category that was not there at fit."""
        return self.kind == "category" and code == UNSEEN

    def shown(self, code: float, margin: float = 0.0) -> str:
        """A code as a person would write it; a number as finely as an interval of this margin, if that is finer."""
        if math.isnan(code):
            return "missing"
        match self.kind:
            case "number":
                return _number(code, _decimals(margin) if margin else 0)
            case "date":
                return _date(code)
            case "category" if code == UNSEEN:
                return "(unseen)"
        return str(self.value(code))

    def intervals(self, expected: Array, margins: Array) -> list[str]:
        """What was expected of cells `(m,)`, as a person would write it: of numbers and dates give or take a margin."""
        if self.rising:  # how late it is counts for nothing
            return ["another time of day or week"] * len(expected)
        if self.kind not in ("number", "date"):
            return ["(a rarer one)" if self.is_unseen(code) else self.shown(code) for code in expected.tolist()]
        low, high = self._within(expected - margins, expected + margins)
        ways = {margin: _interval(margin) for margin in set(margins.tolist()) if margin and self.kind == "number"}
        cells = zip(expected.tolist(), margins.tolist(), low.tolist(), high.tolist(), strict=True)
        return [
            self.shown(code) if not margin or code != code
            else ways[margin] % (first, last) if ways
            else f"{_date(first)} to {_date(last)}"
            for code, margin, first, last in cells
        ]  # fmt: skip

    def _within(self, low: Array, high: Array) -> tuple[Array, Array]:
        """What of intervals lies in the range at fit: no count is expected to be below 0."""
        if self.kind == "date" or self.low is None or self.high is None:
            return low, high
        meets = (low <= self.high) & (high >= self.low)
        return np.where(meets, np.maximum(low, self.low), low), np.where(meets, np.minimum(high, self.high), high)

    def reasons(
        self, held: Sequence[str], told: Sequence[str], codes: Array, expected: Array, margins: Array
    ) -> list[str]:
        """Why cells are to blame: what they hold, and what was expected; with what it may be odd that is expected."""
        if self.rising:
            alike = [False] * len(held)
        elif self.kind in ("number", "date"):
            alike = (np.abs(codes - expected) <= margins).tolist()
        else:
            alike = [one == other for one, other in zip(held, told, strict=True)]
        return [
            f"{holds}, odd beside the others (expected {usual})" if same else f"{holds}, expected {usual}"
            for holds, usual, same in zip(held, told, alike, strict=True)
        ]

    def value(self, code: float) -> Any:
        """What a code stands for; None where it is missing."""
        if np.isnan(code):
            return None
        match self.kind:
            case "number":
                return float(code)
            case "boolean":
                return bool(code >= 0.5)
            case "date":
                return _moment(float(np.clip(code, *DATES)))
            case _:
                return self.levels[int(code)] if 0 <= code < len(self.levels) else "(unseen)"


@dataclass(frozen=True)
class Contract:
    """All columns as they were at fit, in order."""

    columns: tuple[Column, ...]

    @classmethod
    def learn(cls, X: pd.DataFrame) -> Contract:
        """Find out what each column of a table is.

        Numbers, booleans and dates by their types; a column of text is a date where all of it is written as
        ISO 8601, else a category.

        Raises
        ------
        DataError
            At nested values, integers beyond 2^53, infinite numbers, or values that are none of these kinds.

        Warns
        -----
        UserWarning
            Of columns that look like identifiers or labels, or like numbers or dates that are written as text.
        """
        columns = tuple(_learned(str(name), X.iloc[:, place]) for place, name in enumerate(X.columns))
        looks = [_looks_like(column, X.iloc[:, place]) for place, column in enumerate(columns)]
        for kind in WRITTEN:
            if texts := [column for column, look in zip(columns, looks, strict=True) if look == kind]:
                example = next((level for level in texts[0].levels[::-1] if re.search(r"\d", level)), "")
                _warn(
                    texts,
                    f"of text that look like {kind}",
                    f", such as {example!r}. They are learned as categories: convert them (of a file say how it is "
                    "written: --decimal, --missing; dates as 2026-11-27), or leave them out.",
                )
        others = [(column, X.iloc[:, place]) for place, column in enumerate(columns) if looks[place] is None]
        _warn(
            [column for column, values in others if _is_identifier(column, values)],
            "that look like identifiers",
            ". They say nothing of what is normal: leave them out.",
        )
        _warn(
            [column for column, values in others if _is_label(column, values)],
            "that look like labels",
            ". A model that sees them learns them: leave them out.",
        )
        return cls(columns)

    @classmethod
    def numeric(cls, X: Array) -> Contract:
        """The contract of a matrix of numbers `(n, d)`, whose columns are called x0, x1, ..."""
        low, high = np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)
        missing = np.isnan(X).mean(axis=0)
        return cls(
            tuple(
                Column(f"x{j}", "number", None if np.isnan(lo) else lo, None if np.isnan(hi) else hi, share)
                for j, (lo, hi, share) in enumerate(zip(low.tolist(), high.tolist(), missing.tolist(), strict=True))
            )
        )

    @property
    def names(self) -> list[str]:
        return [column.name for column in self.columns]

    @property
    def all_numbers(self) -> bool:
        return all(column.kind == "number" for column in self.columns)

    def codes(self, X: pd.DataFrame) -> Array:
        """A table with these columns, in this order, as numbers `(n, d)`; see `Column.codes`."""
        codes = [column.codes(X.iloc[:, place]) for place, column in enumerate(self.columns)]
        return np.column_stack(codes) if codes else np.empty((len(X), 0))

    def table(self, codes: Array) -> pd.DataFrame:
        """Numbers back to a table of values."""
        return pd.DataFrame(
            {column.name: [column.value(code) for code in codes[:, place]] for place, column in enumerate(self.columns)}
        )

    def to_json(self) -> list[dict[str, Any]]:
        """The contract as plain data."""
        return [asdict(column) | {"levels": list(column.levels)} for column in self.columns]

    @classmethod
    def from_json(cls, data: Sequence[Mapping[str, Any]]) -> Contract:
        """The contract that `to_json` gave; raises TypeError or KeyError at anything else."""
        return cls(tuple(Column(**{**column, "levels": tuple(column["levels"])}) for column in data))


def is_plain(X: ArrayLike) -> bool:
    """Whether scikit-learn's own conversion to numbers is right for `X`: all but tables with columns of other types."""
    return not isinstance(X, pd.DataFrame) or all(
        pd.api.types.is_numeric_dtype(t) and not (pd.api.types.is_bool_dtype(t) or isinstance(t, pd.SparseDtype))
        for t in X.dtypes
    )


def _learned(name: str, values: pd.Series) -> Column:
    kind = _kind(name, values)
    levels: tuple[str, ...] = ()
    if kind == "category":
        levels = tuple(sorted(set(_text(values.dropna(), name))))
    draft = Column(name, kind, None, None, float(values.isna().mean()), levels)
    codes = draft.codes(values)
    present = codes[~np.isnan(codes)]
    if kind == "category" or not len(present):
        return draft
    low, high = float(present.min()), float(present.max())
    rising = kind == "date" and len(present) >= FEWEST and low < high and bool((np.diff(present) >= 0).all())
    return Column(name, kind, low, high, draft.missing, rising=rising)


def _kind(name: str, values: pd.Series) -> Kind:
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        return "date"
    present = values.dropna()
    inferred = "empty" if present.empty else pd.api.types.infer_dtype(present, skipna=True)
    if inferred == "boolean":
        return "boolean"
    if inferred in ("integer", "floating", "mixed-integer-float", "decimal", "empty"):
        if inferred == "integer" and max(abs(int(present.max())), abs(int(present.min()))) > EXACT:
            raise DataError(
                f"A model needs numbers that floats can tell apart, however: column {name!r} has integers beyond 2^53. "
                "Leave it out if it is an identifier; make it text if it is a category."
            )
        return "number"
    if inferred in ("datetime64", "datetime", "date"):
        return "date"
    if inferred in ("timedelta64", "timedelta", "period", "complex"):
        raise DataError(
            f"A model needs numbers, booleans, dates or categories, however: column {name!r} has values of type "
            f"{inferred}. Convert it, spans of time for instance to seconds (.dt.total_seconds())."
        )
    if inferred == "string" and present.str.fullmatch(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?").all():
        return "date"
    return "category"


def _numbers(values: pd.Series, name: str) -> Array:
    if values.dtype == np.float64:
        return values.to_numpy()
    if values.dtype.kind in "mMc" and values.notna().any():
        raise _other_type(values, name, "numbers", values.dropna())
    numbers = pd.to_numeric(values, errors="coerce")
    bad = numbers.isna() & values.notna()
    if bad.any():
        raise _other_type(values, name, "numbers", values[bad])
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _booleans(values: pd.Series, name: str) -> Array:
    codes = values.astype("string").str.lower().map(TRUTH)
    bad = codes.isna() & values.notna()
    if bad.any():
        raise _other_type(values, name, "true or false", values[bad])
    return np.asarray(codes.to_numpy(dtype=np.float64, na_value=np.nan))


def _seconds(values: pd.Series, name: str) -> Array:
    if pd.api.types.is_numeric_dtype(values.dtype) and values.notna().any():
        raise _other_type(values, name, "dates", values.dropna())
    dates = pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True)
    bad = dates.isna() & values.notna()
    if bad.any():
        raise _other_type(values, name, "dates", values[bad])
    seconds = (dates - pd.Timestamp(0, unit="s", tz="UTC")).dt.total_seconds()
    return np.asarray(seconds.to_numpy(dtype=np.float64, na_value=np.nan))


def _text(values: pd.Series, name: str) -> NDArray[np.object_]:
    texts = values.astype(object).to_numpy()
    for row, value in enumerate(texts):
        if isinstance(value, list | dict | set | tuple | np.ndarray):
            raise DataError(
                f"A model needs plain values, however: column {name!r} has {value!r:.60} {_where(values, row)}. Take "
                "it apart into columns, or leave it out."
            )
    # whole numbers become floats as soon as one cell of their column is missing
    whole = (int(v) if isinstance(v, float) and v.is_integer() else v for v in texts)
    return np.array([str(value) for value in whole], dtype=object)


def _number(value: float, decimals: int | None = 0) -> str:
    """A number with four significant digits, with all before its point, and with as many after it as are asked for."""
    plain = 1e-4 <= abs(value) < 1e12 or (value and decimals and abs(value) < 1)
    if decimals is None or not plain:
        return f"{value:.4g}"
    text = f"{value:.{max(decimals, 3 - math.floor(math.log10(abs(value))))}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


@lru_cache(1024)
def _decimals(margin: float) -> int | None:
    """Of an interval's bounds: two significant digits of half its width; None where they would be too many."""
    digits = 1 - math.floor(math.log10(margin))
    return max(0, digits) if -12 < digits < 7 else None


@lru_cache(1024)
def _interval(margin: float) -> str:
    """How to write an interval."""
    decimals = _decimals(margin)
    bound = "%.4g" if decimals is None else f"%.{decimals}f"
    return f"{bound} to {bound}"


def _moment(seconds: float) -> pd.Timestamp:
    return pd.Timestamp(np.datetime64(round(seconds * 1e6), "us"))  # nanoseconds end in 2262


def _date(seconds: float) -> str:
    if not DATES[0] <= seconds <= DATES[1]:
        return "beyond all dates"
    moment = _moment(round(seconds))
    return str(moment.date()) if moment == moment.normalize() else str(moment)


def _where(values: pd.Series, place: int) -> str:
    where, label = "in row" if values.index.name == "row" else "at index", values.index[place]
    return f"{where} {label!r}" if isinstance(label, str) else f"{where} {label}"


def _other_type(values: pd.Series, name: str, wanted: str, wrong: pd.Series) -> DataError:
    return DataError(
        f"A model needs columns of the types that it was fitted on, however: column {name!r} was {wanted} and has "
        f"{str(wrong.iloc[0])!r:.60} {_where(wrong, 0)}. Repair the cell, or fit a model on such rows."
    )


def _is_identifier(column: Column, values: pd.Series) -> bool:
    n = len(values)
    if n < FEWEST or column.missing:
        return False
    if column.kind == "category":
        return len(column.levels) > 0.9 * n
    # whole numbers of a CSV file come as floats
    return column.kind == "number" and bool((np.diff(column.codes(values)) == 1).all())


def _looks_like(column: Column, values: pd.Series) -> str | None:
    """What a category of many levels is but for a few cells, "numbers" or "dates"; few may be versions or sizes."""
    if column.kind != "category" or len(column.levels) <= FEW_LEVELS:
        return None
    if values.dtype == object and np.mean([isinstance(value, Real) for value in values.dropna()]) > MOSTLY:
        return "numbers"
    return written_as(column.levels)


def _is_label(column: Column, values: pd.Series) -> bool:
    return column.name.lower() in LABELS and values.nunique(dropna=True) <= 3


def _warn(columns: Sequence[Column], like: str, advice: str) -> None:
    if columns:
        names = listed([column.name for column in columns])
        warn(f"Columns {like}: {names}{advice}")


def listed(names: Sequence[str], most: int | None = None) -> str:
    """Names for a person, the first `most` of them."""
    shown = ", ".join(name or "(without a name)" for name in names[:most])
    return shown + (", ..." if most is not None and len(names) > most else "")
