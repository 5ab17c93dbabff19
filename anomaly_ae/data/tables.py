"""CSV and Parquet in, tables of scores out: block by block, and never half-written."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from anomaly_ae.data.contract import EXACT
from anomaly_ae.errors import DataError, OutputError

PARQUET = (".parquet", ".pq")
NULLS = pyarrow.csv.ConvertOptions().null_values  # "", NA, NaN, null, N/A and the like
MOSTLY_NUMBERS = 0.2  # where a smaller share of cells is no number, they are a mistake in a column of numbers
PARSE = pyarrow.csv.ParseOptions(newlines_in_values=True)


@dataclass(frozen=True)
class Block:
    """Some rows of a table: the number of the first (1-based), the model's columns, those to keep, progress.

    `X` is indexed by the rows' numbers.
    """

    first_row: int
    X: pd.DataFrame
    kept: pa.Table
    share_read: float


@dataclass(frozen=True)
class Table:
    """A CSV or Parquet file whose header has been read and found sound."""

    path: Path
    columns: tuple[str, ...]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Table:
        """Look at a file's header.

        Raises
        ------
        DataError
            When there is no such file, it is empty, it cannot be read, or two columns have one name.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"A table needs a file, however: {path} is none. Check the path.")
        if path.stat().st_size == 0:
            raise DataError(f"A table needs a header and rows, however: {path} is empty. Give a file with both.")
        with _readable(path):
            if path.suffix in PARQUET:
                names = pyarrow.parquet.read_schema(path).names
                columns = tuple(name for name in names if not re.fullmatch(r"__index_level_\d+__", name))  # of pandas
            else:
                with pyarrow.csv.open_csv(path, parse_options=_lenient()) as reader:
                    columns = tuple(reader.schema.names)
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            raise DataError(f"A table needs distinct column names, however: {path} repeats {repeated}. Rename them.")
        return cls(path, columns)

    def require(self, names: Sequence[str], who: str) -> None:
        """Raise DataError where a column of `names` is missing."""
        if missing := [name for name in names if name not in self.columns]:
            raise DataError(
                f"{who} needs the columns {_quoted(names)}, however: {self.path} lacks {_quoted(missing)}. "
                f"It has {_quoted(self.columns)}."
            )

    def read(
        self, names: Sequence[str], size: int, progress: Callable[[float], None] = lambda share: None
    ) -> pd.DataFrame:
        """All rows of these columns, each of the type that all of its cells have: number, boolean or text.

        Raises
        ------
        DataError
            As `blocks` does; also at the few cells that are no number in a column of numbers.
        """
        if self.path.suffix in PARQUET:
            return pd.concat(self._read([], names, size, progress))
        try:
            X = pd.concat(self._read(names, [], size, progress))
        except DataError:
            X = pd.concat(self._read([], names, size, progress))
            return pd.DataFrame({name: _typed(self.path, X[name]) for name in names}, index=X.index)
        if large := [name for name in names if (X[name].abs() > EXACT).any()]:  # integers, perhaps: text says
            texts = pd.concat(self._read([], large, size, progress))
            X = X.assign(**{name: _typed(self.path, texts[name]) for name in large})
        return X

    def _read(
        self, numbers: Sequence[str], texts: Sequence[str], size: int, progress: Callable[[float], None]
    ) -> list[pd.DataFrame]:
        blocks = []
        for block in self.blocks(numbers, texts, [], size):
            blocks.append(block.X)
            progress(block.share_read)
        return blocks

    def blocks(self, numbers: Sequence[str], texts: Sequence[str], kept: Sequence[str], size: int) -> Iterator[Block]:
        """Rows in file order, `size` at a time (the last block may be shorter).

        `numbers` come as float64, NaN where a cell is empty or says so (NA, NaN, null, ...); `texts` as text from CSV
        and as they are from Parquet; both make up the block's `X`. `kept` come as text.

        Raises
        ------
        DataError
            At the first cell of `numbers` that holds something else or infinity, or row of another length than the
            header: with its row, column and value; also when there is no row at all.
        """
        ours = [*numbers, *texts]
        pending = pa.table({name: pa.array([], pa.float64()) for name in ours})
        first_row, share = 1, 0.0
        batches = (
            self._parquet(ours, kept, size) if self.path.suffix in PARQUET else self._csv(numbers, [*texts, *kept])
        )
        with contextlib.closing(batches):
            for batch, share in batches:
                table = pa.Table.from_batches([batch])
                pending = pa.concat_tables([pending, table]) if pending.num_rows else table
                while pending.num_rows >= size:
                    yield self._block(pending.slice(0, size), numbers, texts, kept, first_row, share)
                    pending, first_row = pending.slice(size), first_row + size
        if pending.num_rows:
            yield self._block(pending, numbers, texts, kept, first_row, 1.0)
        elif first_row == 1:
            raise DataError(f"A table needs rows, however: {self.path} has a header and no row. Give a file with rows.")

    def _csv(self, numbers: Sequence[str], texts: Sequence[str]) -> Generator[tuple[pa.RecordBatch, float], None, None]:
        types = {name: pa.string() for name in texts} | {name: pa.float64() for name in numbers}
        options = pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False)
        size = self.path.stat().st_size
        with pa.OSFile(str(self.path)) as stream:
            try:
                with pyarrow.csv.open_csv(stream, parse_options=PARSE, convert_options=options) as reader:
                    for batch in reader:
                        yield batch, stream.tell() / size
            except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
                self._find_bad_row(numbers)
                raise DataError(f"A table needs readable CSV, however: {self.path}: {error}. Repair it.") from error

    def _find_bad_row(self, numbers: Sequence[str]) -> None:
        """Read again, slowly, to say where the trouble is; returns if there is none to be seen."""
        wrong: list[tuple[int, int, str]] = []

        def note(row: Any) -> str:
            wrong.append((row.number, row.actual_columns, row.text))
            return "skip"

        parse = pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note)
        read = pyarrow.csv.ReadOptions(use_threads=False)
        types = {name: pa.string() for name in numbers}
        convert = pyarrow.csv.ConvertOptions(
            column_types=types, include_columns=list(numbers), strings_can_be_null=False
        )
        with _readable(self.path), pyarrow.csv.open_csv(self.path, read, parse, convert) as reader:
            row = 1
            for batch in reader:
                # rows of a wrong length are counted in file order before the cells of the same block
                if wrong:
                    break
                for name in numbers:
                    for offset, value in enumerate(batch.column(name).to_pylist()):
                        if not (value in NULLS or _is_number(value)):
                            raise DataError(_bad_cell(self.path, row + offset, name, value))
                row += batch.num_rows
        if wrong:
            number, fields, text = wrong[0]
            raise DataError(
                f"A table needs {len(self.columns)} fields a row, however: {self.path}, line {number} has {fields} "
                f"({text[:80]!r}). Repair that line."
            )

    def _parquet(
        self, names: Sequence[str], kept: Sequence[str], size: int
    ) -> Generator[tuple[pa.RecordBatch, float], None, None]:
        with _readable(self.path), pyarrow.parquet.ParquetFile(self.path) as file:
            schema = file.schema_arrow
            for name in [*names, *kept]:
                if pa.types.is_nested(schema.field(name).type):
                    raise DataError(
                        f"A table needs plain values, however: {self.path}, column {name!r} is of type "
                        f"{schema.field(name).type}. Take it apart into columns, or leave it out."
                    )
            done = 0
            for batch in file.iter_batches(size, columns=list(dict.fromkeys([*names, *kept]))):
                done += batch.num_rows
                columns = {name: pc.cast(batch.column(name), pa.string()) for name in kept}
                columns |= {name: batch.column(name) for name in names}
                yield pa.RecordBatch.from_pydict(columns), done / file.metadata.num_rows

    def _block(
        self,
        table: pa.Table,
        numbers: Sequence[str],
        texts: Sequence[str],
        kept: Sequence[str],
        first_row: int,
        share: float,
    ) -> Block:
        columns = {name: _values(table.column(name)) for name in [*numbers, *texts]}
        index = pd.RangeIndex(first_row, first_row + table.num_rows, name="row")
        for name in numbers:
            if columns[name].dtype.kind == "f" and np.isinf(columns[name]).any():
                row = int(np.flatnonzero(np.isinf(columns[name]))[0])
                raise DataError(_bad_cell(self.path, first_row + row, name, float(columns[name][row])))
        return Block(first_row, pd.DataFrame(columns, index=index), table.select(list(kept)), share)


def _lenient() -> pyarrow.csv.ParseOptions:
    """For the header alone: rows of another length are some other reader's trouble."""
    return pyarrow.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda row: "skip")


def _values(column: pa.ChunkedArray) -> NDArray[Any]:
    """A column as numpy has it: numbers as float64 with NaN, text with None where a cell says that it is missing."""
    kind = column.type
    if pa.types.is_integer(kind) and kind.bit_width == 64:  # the contract refuses those that a float cannot tell apart
        return column.to_pandas(integer_object_nulls=True).to_numpy()
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return pc.cast(column, pa.float64(), safe=False).to_numpy()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = pc.if_else(pc.is_in(column, value_set=pa.array(NULLS, kind)), pa.scalar(None, kind), column)
    return column.to_pandas(date_as_object=False).to_numpy()


def _typed(path: Path, values: pd.Series) -> pd.Series:
    """A column of text as numbers or booleans, where all of it is."""
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values
    present = values.dropna()
    numbers = pd.to_numeric(present, errors="coerce")
    wrong = ~np.isfinite(numbers)
    if not wrong.any():
        return pd.to_numeric(values)
    if wrong.sum() < MOSTLY_NUMBERS * len(wrong):
        raise DataError(_bad_cell(path, int(present.index[wrong][0]), str(values.name), present[wrong].iloc[0]))
    if present.str.lower().isin(["true", "false"]).all():
        return values.map(lambda text: text.lower() == "true", na_action="ignore")
    return values


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and np.isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _bad_cell(path: Path, row: int, column: str, value: Any) -> str:
    return (
        f"A model needs finite numbers, however: {path}, row {row}, column {column!r} has {value!r}. "
        "Repair or empty the cell, or leave the column out of the model."
    )


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(str(name)) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError, StopIteration) as error:
        raise DataError(f"A table needs a readable file, however: {path}: {error}. Check or restore it.") from error


def check_output(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Refuse, before any work is done, an output that could not be published after it."""
    path = Path(path)
    if path.is_dir():
        raise OutputError(f"An output needs a file name, however: {path} is a folder. Give a file in it.")
    if path.exists() and not overwrite:
        raise OutputError(f"An output needs a new file, however: {path} exists. Choose another, or allow overwriting.")
    folder = path.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutputError(f"An output needs a folder that can be written, however: {folder} cannot. Choose another.")
    return path


class Output:
    """A CSV or Parquet file (by its ending) that appears complete or not at all.

    Blocks go to a hidden file beside it; leaving the `with` block without an exception publishes that file.
    """

    def __init__(self, path: str | os.PathLike[str], overwrite: bool = False) -> None:
        self.path = check_output(path, overwrite)
        self._writer: Any = None

    def __enter__(self) -> Self:
        descriptor, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.absolute().parent)
        os.fchmod(descriptor, 0o644)
        self._temporary = Path(name)
        self._stream = os.fdopen(descriptor, "wb")
        return self

    def write(self, table: pa.Table) -> None:
        """Append rows; all tables have the columns of the first."""
        if self._writer is None:
            make: Callable[..., Any] = (
                pyarrow.parquet.ParquetWriter if self.path.suffix in PARQUET else pyarrow.csv.CSVWriter
            )
            self._writer = make(self._stream, table.schema)
        self._writer.write_table(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            if kind is None:
                os.replace(self._temporary, self.path)
                sync(self.path.absolute().parent)
        finally:
            self._temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
