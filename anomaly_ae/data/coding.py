"""Columns of a file as the contract's numbers, and which cells are none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_ae.data.contract import TRUTH, UNSEEN, Column
from anomaly_ae.data.dialect import NULLS
from anomaly_ae.data.sources import Trouble
from anomaly_ae.errors import ConfigError, DataError

Array = NDArray[np.float64]
WANTED = {"number": "a finite number", "boolean": "true or false", "date": "a date", "category": "a plain value"}


class Coder:
    """Tables as codes `(n, d)` of a contract's columns, which are called `names` there, and what is wrong with cells.

    A judge of rows for `Wanted`. `nulls` are the texts that stand for a missing value; with `refuse_unseen` a category
    that was not there at fit is wrong as well.
    """

    def __init__(
        self,
        columns: Sequence[Column],
        names: Sequence[str],
        nulls: Sequence[str] = NULLS,
        refuse_unseen: bool = False,
    ) -> None:
        self.columns = list(zip(columns, names, strict=True))
        self.nulls, self.refuse_unseen = nulls, refuse_unseen

    @property
    def numbers(self) -> list[str]:
        """The names of columns to be read as numbers."""
        return [name for column, name in self.columns if column.kind == "number"]

    @property
    def texts(self) -> list[str]:
        """The names of the others."""
        return [name for column, name in self.columns if column.kind != "number"]

    def __call__(self, table: pa.Table) -> tuple[Array, list[Trouble]]:
        codes = np.empty((table.num_rows, len(self.columns)))
        troubles: list[Trouble] = []
        for place, (column, name) in enumerate(self.columns):
            values = table.column(name)
            if column.kind == "number" and pa.types.is_float64(values.type):
                codes[:, place] = values.to_numpy()
            elif column.kind == "category" and pa.types.is_string(values.type):
                codes[:, place] = self._levels(column, values)
            else:
                cells = pd.Series(plain(values, self.nulls))
                codes[:, place], wrong = coded(column, cells)
                troubles += [
                    Trouble(row, name, f"{str(cells.iloc[row])!r:.80} is not {WANTED[column.kind]}")
                    for row in np.flatnonzero(wrong).tolist()
                ]
        if np.isinf(codes).any():
            troubles += [
                Trouble(int(row), self.columns[place][1], "an infinite number")
                for row, place in zip(*np.nonzero(np.isinf(codes)), strict=True)
            ]
        if self.refuse_unseen:
            for place, (column, name) in enumerate(self.columns):
                unseen = np.flatnonzero(codes[:, place] == UNSEEN) if column.kind == "category" else ()
                troubles += [
                    Trouble(int(row), name, f"{table.column(name)[int(row)].as_py()!r:.80} was not there at fit")
                    for row in unseen
                ]
        places = {name: place for place, (_, name) in enumerate(self.columns)}
        return codes, sorted(troubles, key=lambda trouble: (trouble.row, places[trouble.column]))

    def _levels(self, column: Column, values: pa.ChunkedArray) -> Array:
        found = pc.index_in(values, value_set=pa.array(column.levels, pa.string()))
        codes: Array = pc.fill_null(found, int(UNSEEN)).to_numpy().astype(np.float64)
        missing = pc.or_(pc.is_null(values), pc.is_in(values, value_set=pa.array(self.nulls)))
        codes[missing.to_numpy()] = np.nan
        return codes


class Coders:
    """Several coders on one table: their codes beside each other `(n, d_1 + d_2 + ...)`, and all their troubles.

    Raises
    ------
    ConfigError
        When one of them takes a column for numbers and another does not: the column is read once.
    """

    def __init__(self, coders: Sequence[Coder]) -> None:
        self.coders = list(coders)
        self.numbers = list(dict.fromkeys(name for coder in coders for name in coder.numbers))
        self.texts = list(dict.fromkeys(name for coder in coders for name in coder.texts))
        if clash := sorted(set(self.numbers) & set(self.texts)):
            raise ConfigError(
                f"Models side by side need columns of the same kind, however: {clash} are numbers to one alone. "
                "Score with one after the other."
            )

    def __call__(self, table: pa.Table) -> tuple[Array, list[Trouble]]:
        codes, troubles = zip(*(coder(table) for coder in self.coders), strict=True)
        return np.hstack(codes), [trouble for some in troubles for trouble in some]


def plain(column: pa.ChunkedArray, nulls: Sequence[str] = NULLS) -> NDArray[Any]:
    """A column as numpy has it: numbers as float64 with NaN, text with None where a cell says that it is missing."""
    kind = column.type
    if pa.types.is_integer(kind) and kind.bit_width == 64:  # the contract refuses those that a float cannot tell apart
        return column.to_pandas(integer_object_nulls=True).to_numpy()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pc.cast(column, pa.float64(), safe=False).to_numpy()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = pc.if_else(pc.is_in(column, value_set=pa.array(nulls, kind)), pa.scalar(None, kind), column)
    return column.to_pandas(date_as_object=False).to_numpy()


def coded(column: Column, values: pd.Series) -> tuple[Array, NDArray[np.bool_]]:
    """The codes of cells `(n,)`, NaN where one has none, and which hold what the column does not take, `(n,)`."""
    wrong = np.zeros(len(values), dtype=bool)
    try:
        return column.codes(values), wrong
    except DataError:
        wrong = misread(column, values)
    codes = np.full(len(values), np.nan)
    codes[~wrong] = column.codes(values[~wrong])
    return codes, wrong


def misread(column: Column, values: pd.Series) -> NDArray[np.bool_]:
    """Which cells hold something that `column.codes` refuses, `(n,)`."""
    wrong = _suspect(column, values) & values.notna().to_numpy()
    # the contract has the last word
    wrong[~wrong] = [not read for read in _readable(column, values[~wrong])]
    return wrong


def _suspect(column: Column, values: pd.Series) -> NDArray[np.bool_]:
    """Most of these cells at once: one by one a column of them would take minutes."""
    match column.kind:
        case "number" if values.dtype.kind not in "mMc":
            numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
            return ~np.isfinite(numbers)
        case "boolean":
            return np.asarray(~values.astype("string").str.lower().isin(list(TRUTH)).to_numpy(dtype=bool))
        case "date" if not pd.api.types.is_numeric_dtype(values.dtype):
            return np.asarray(pd.to_datetime(values, format="ISO8601", errors="coerce", utc=True).isna())
        case _:
            return np.full(len(values), column.kind != "category")


def _readable(column: Column, values: pd.Series) -> list[bool]:
    """Whether `column.codes` takes each cell, by halves of what it refuses."""
    try:
        column.codes(values)
    except DataError:
        if len(values) == 1:
            return [False]
    else:
        return [True] * len(values)
    middle = len(values) // 2
    return _readable(column, values.iloc[:middle]) + _readable(column, values.iloc[middle:])
