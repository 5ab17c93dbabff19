"""A whole table, or one block after the other, whose every row must be good unless bad ones are set aside."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from anomaly_ae.data.coding import plain
from anomaly_ae.data.contract import EXACT
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.rejects import Reject, remedy
from anomaly_ae.data.sources import Columnar, Source, Trouble, Wanted, open_source, require
from anomaly_ae.errors import DataError, EmptyTableError

MOSTLY_NUMBERS = 0.2  # where a smaller share of cells is no number, they are a mistake in a column of numbers


@dataclass(frozen=True)
class Block:
    """Some rows of a table, indexed by their numbers (from 1), and how much of it has then been read."""

    X: pd.DataFrame
    share_read: float


@dataclass(frozen=True)
class Table:
    """A CSV, Parquet or Arrow file whose header has been read and found sound."""

    source: Source
    dialect: Dialect

    @classmethod
    def open(cls, path: str | os.PathLike[str], dialect: Dialect | None = None) -> Table:
        """Look at a file's header; see `open_source`."""
        dialect = dialect or Dialect()
        return cls(open_source(path, dialect), dialect)

    @property
    def columns(self) -> tuple[str, ...]:
        return self.source.columns

    @property
    def nameless(self) -> tuple[str, ...]:
        return self.source.nameless

    @property
    def is_text(self) -> bool:
        """Whether cells are what is written in them, and have no type of their own."""
        return not isinstance(self.source, Columnar)

    def require(self, names: Sequence[str], who: str) -> None:
        """Raise DataError where a column of `names` is missing."""
        require(self.source, names, who)

    def read(
        self, names: Sequence[str], size: int, progress: Callable[[float], None] = lambda share: None
    ) -> pd.DataFrame:
        """All rows of these columns, each of the type that all of its cells have: number, boolean or text.

        Raises
        ------
        DataError
            As `blocks` does; also at the few cells that are no number in a column of numbers.
        """
        if not self.is_text:
            return self._whole([], names, size, progress)
        try:
            X = self._whole(names, [], size, progress)
        except DataError:
            X = self._whole([], names, size, progress)
            return pd.DataFrame({name: self.typed(X[name]) for name in names}, index=X.index)
        if large := [name for name in names if (X[name].abs() > EXACT).any()]:  # integers, perhaps: text says
            texts = self._whole([], large, size, progress)
            X = X.assign(**{name: self.typed(texts[name]) for name in large})
        return X

    def texts(self, names: Sequence[str], size: int) -> pd.DataFrame:
        """All rows of these columns as they are written: of CSV as text, 01 and 1 are two."""
        return self._whole([], names, size, lambda share: None)

    def _whole(
        self, numbers: Sequence[str], texts: Sequence[str], size: int, progress: Callable[[float], None]
    ) -> pd.DataFrame:
        blocks = []
        for block in self.blocks(numbers, texts, size):
            blocks.append(block.X)
            progress(block.share_read)
        return pd.concat(blocks)

    def blocks(
        self,
        numbers: Sequence[str],
        texts: Sequence[str],
        size: int,
        aside: Callable[[Reject], None] | None = None,
        more: Callable[[pa.Table], list[Trouble]] = lambda table: [],
    ) -> Iterator[Block]:
        """Rows in file order, `size` at a time (the last block may be shorter).

        `numbers` come as float64, NaN where a cell is empty or says so (NA, NaN, null, ...); `texts` as text from CSV
        and as they are from Parquet and Arrow. A row that cannot be read so, is of another length than the header, or
        in trouble by what `more` says of the table of a chunk, goes to `aside`.

        Raises
        ------
        DataError
            At the first such row, with its place, where there is no `aside`; EmptyTableError where there is no row.
        """
        wanted = Wanted(numbers, texts, judge=lambda table: (None, sorted([*_infinite(table, numbers), *more(table)])))
        pending, rows, done, share = None, np.empty(0, np.int64), 0, 0.0
        for chunk, _ in self.source.chunks(wanted):
            part = self.source.part(chunk, wanted)
            for reject in part.rejects:
                reject = reject._replace(row=done + 1 + reject.row)
                if aside is None:
                    raise DataError(
                        f"A table needs rows that can be read, however: {reject.place}: {reject.reason}. Repair "
                        f"it{reject.remedy and f', {reject.remedy}'}, or leave the column out."
                    )
                aside(reject)
            pending = part.table if pending is None else pa.concat_tables([pending, part.table])
            rows, done, share = np.append(rows, done + 1 + part.good), done + part.rows, part.share
            while pending.num_rows >= size:
                yield self._block(pending.slice(0, size), numbers, texts, rows[:size], share)
                pending, rows = pending.slice(size), rows[size:]
        if pending is not None and pending.num_rows:
            yield self._block(pending, numbers, texts, rows, 1.0)
        elif not done:
            raise EmptyTableError(
                f"A table needs rows, however: {self.source.name} has a header and no row. Give a file with rows."
            )

    def _block(
        self, table: pa.Table, numbers: Sequence[str], texts: Sequence[str], rows: NDArray[np.int64], share: float
    ) -> Block:
        index = pd.Index(rows, name="row")
        columns = {name: plain(table.column(name), self.dialect.nulls) for name in [*numbers, *texts]}
        return Block(pd.DataFrame(columns, index=index), share)

    def pointed(self, values: pd.Series) -> pd.Series:
        """Numbers that are written as text with a point before their decimals; what has one already is then none."""
        if self.dialect.decimal == "." or pd.api.types.is_numeric_dtype(values.dtype):
            return values
        return values.map(self.dialect.pointed)

    def as_numbers(self, values: pd.Series) -> pd.Series:
        """A column of text as numbers, NaN for the few cells that are none; as it is where most are none."""
        if pd.api.types.is_numeric_dtype(values.dtype) or not pd.api.types.is_string_dtype(values.dropna()):
            return values
        numbers = pd.to_numeric(self.pointed(values.dropna()), errors="coerce")
        return numbers.reindex(values.index) if _mostly(~np.isfinite(numbers)) else values

    def typed(self, values: pd.Series) -> pd.Series:
        """A column of CSV's text as numbers or booleans, where all of it is; others are of their type already."""
        if not self.is_text or pd.api.types.is_numeric_dtype(values.dtype):
            return values
        present = values.dropna()
        numbers = pd.to_numeric(self.pointed(present), errors="coerce")
        wrong = ~np.isfinite(numbers)
        if not wrong.any():
            return pd.to_numeric(self.pointed(values))
        if _mostly(wrong):
            row, value = present.index[wrong][0], present[wrong].iloc[0]
            raise DataError(
                f"A model needs finite numbers, however: {self.source.name}, row {row}, column {values.name!r} has "
                f"{value!r}. Repair or empty the cell, {remedy(value)}, or leave the column out of the model."
            )
        if present.str.lower().isin(["true", "false"]).all():
            return values.map(lambda text: text.lower() == "true", na_action="ignore")
        return values


def _mostly(wrong: pd.Series) -> bool:
    """Whether so few cells are `wrong` that they are a mistake in a column of numbers."""
    return bool(wrong.sum() < MOSTLY_NUMBERS * len(wrong))


def _infinite(table: pa.Table, numbers: Sequence[str]) -> list[Trouble]:
    """Infinite numbers."""
    found: list[Trouble] = []
    for name in numbers:
        column: Any = table.column(name)
        if pa.types.is_floating(column.type):
            rows = np.flatnonzero(np.isinf(column.to_numpy()))
            found += [Trouble(int(row), name, f"{column[int(row)].as_py()} is infinite") for row in rows]
    return found
