"""One input, CSV, Parquet or Arrow: its columns, and its rows part by part with those that cannot be read set aside."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
from numpy.typing import NDArray

from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.records import LONGEST, Piece, pieces, spans_of, well_formed
from anomaly_ae.data.rejects import Reject
from anomaly_ae.data.sifting import sift
from anomaly_ae.data.streams import STDIN, Text, readable
from anomaly_ae.data.written import meant
from anomaly_ae.errors import DataError, EmptyTableError

PARQUET = (".parquet", ".pq")
ARROW = (".arrow", ".feather", ".ipc")
ROWS, TIMES, CELLS = 8192, 4, 1 << 20  # read and judged together: so many rows, or some times as many of few cells


class Trouble(NamedTuple):
    """What is wrong with a row of a table: its place from 0, the column, the reason."""

    row: int
    column: str
    reason: str


Judge = Callable[[pa.Table], tuple[Any, list[Trouble]]]  # what a table's rows are worth, and which are worth nothing


@dataclass(frozen=True)
class Wanted:
    """The columns to read: as numbers, as text (from Parquet: as they are), and as text to hand on; and who judges."""

    numbers: Sequence[str]
    texts: Sequence[str]
    kept: Sequence[str] = ()
    judge: Judge | None = None

    @property
    def columns(self) -> list[str]:
        """All of them, once each."""
        return list(dict.fromkeys([*self.numbers, *self.texts, *self.kept]))


class Position(NamedTuple):
    """Where reading can begin: after so many rows, at this byte and line."""

    rows: int = 0
    offset: int = 0
    line: int = 1


@dataclass(frozen=True)
class Part:
    """Some rows of an input: how many, which of them are good (from 0), these as a table and as judged, and the others.

    Numbers of rows count from the part's first.
    """

    rows: int
    good: NDArray[np.intp]
    table: pa.Table
    judged: Any
    rejects: list[Reject]
    share: float


def at_once(columns: int) -> int:
    """How many rows of so many columns are read and judged together; of fewer, threads wait for their turns more."""
    return ROWS * max(1, min(TIMES, CELLS // (ROWS * max(1, columns))))


class Source(Protocol):
    """A table to read."""

    @property
    def name(self) -> str: ...

    @property
    def columns(self) -> tuple[str, ...]: ...

    @property
    def nameless(self) -> tuple[str, ...]:
        """The empty name, where several columns have it; they are then not among `columns`."""
        ...

    def chunks(self, wanted: Wanted, start: Position | None = None) -> Iterator[tuple[Any, Position]]:
        """Raw chunks of it from a position on, and where each begins but for its rows; cheap."""
        ...

    def part(self, chunk: Any, wanted: Wanted) -> Part:
        """What a chunk holds; may be called in any thread and order."""
        ...


# --- opening ---------------------------------------------------------------------------------------------------------


def expand(
    inputs: Iterable[str | os.PathLike[str]], own: Iterable[str | os.PathLike[str]] = ()
) -> tuple[list[str], bool]:
    """The files that paths and patterns stand for, in order, and whether there may be several.

    No pattern stands for the job's `own` files, which may lie beside its inputs.

    Raises
    ------
    DataError
        When a pattern matches nothing, a file is named twice, or a name is not UTF-8.
    """
    given, found = [os.fspath(path) for path in inputs], []
    if not given:
        raise DataError("A job needs an input, however: there is none. Name a file.")
    ours = {os.path.realpath(path) for path in own}
    patterns = [path for path in given if glob.has_magic(path) and not Path(path).exists()]
    for path in given:
        matches = [path]
        if path in patterns:
            matches = [one for one in sorted(glob.glob(path, recursive=True)) if os.path.realpath(one) not in ours]
        if not matches:
            raise DataError(f"A pattern needs a file that it matches, however: {path} matches none. Check it.")
        found += matches
    real = [os.path.realpath(path) if path != STDIN else path for path in found]
    if repeated := sorted({path for path, place in zip(found, real, strict=True) if real.count(place) > 1}):
        raise DataError(f"A job needs each input once, however: {', '.join(repeated)} twice. Name it once.")
    if odd := [path for path in found if any("\ud800" <= letter <= "\udfff" for letter in path)]:
        raise DataError(f"A file needs a name that is UTF-8, however: {odd[0]!a} is not. Rename it.")
    return found, len(found) > 1 or bool(patterns)


def open_source(path: str | os.PathLike[str], dialect: Dialect | None = None) -> Source:
    """Look at a file's header.

    Raises
    ------
    DataError
        When there is no such file, it is empty (`EmptyTableError`), it cannot be read, or two columns have one name.
    """
    path = os.fspath(path)
    if path != STDIN and (Path(path).is_fifo() or Path(path).is_char_device()):
        raise DataError(f"A table needs a file, however: {path} is a pipe. Give - and let standard input come from it.")
    if path != STDIN and not Path(path).exists():
        raise DataError(f"A table needs a file, however: there is no {path}. Check the path.")
    if path != STDIN and not Path(path).is_file():
        raise DataError(f"A table needs a file, however: {path} is a folder. Name a file in it.")
    if path != STDIN and Path(path).stat().st_size == 0:
        raise EmptyTableError(f"A table needs a header and rows, however: {path} is empty. Give a file with both.")
    with readable(path):
        suffix = Path(path).suffix.lower()
        if suffix in PARQUET + ARROW:
            source: Source = Columnar.open(path)
        else:
            source = Csv.open(path, dialect or Dialect())
    names = source.columns or source.nameless * 2
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"A table needs distinct column names, however: {path} repeats {repeated}. Rename them.")
    return source


def require(source: Source, names: Sequence[str], who: str) -> None:
    """Raise DataError where a column of `names` is missing."""
    if missing := [name for name in names if name not in source.columns]:
        raise DataError(
            f"{who} needs the columns {_quoted(names)}, however: {source.name} lacks "
            f"{_quoted(missing)}.{meant(missing, source.columns)} It has {_quoted(source.columns)}."
        )


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(repr(str(name)) for name in names[:8])
    return shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")


# --- CSV -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Csv:
    """A text table: pyarrow reads pieces of whole records; where one fails, its bad rows are found and set aside."""

    name: str
    fields: tuple[str, ...]  # what the header calls them
    dialect: Dialect
    begin: Position
    text: Text | None = field(default=None, compare=False)  # of standard input, which is opened once
    rest: bytes = field(default=b"", compare=False)
    as_written: bool = True  # whether its bytes are read as they are, so that their offsets mean something

    @classmethod
    def open(cls, path: str, dialect: Dialect) -> Csv:
        """Read the header."""
        text = Text(path, dialect.encoding)
        head = b""
        while len(head) <= LONGEST and (more := text.read(LONGEST + 1 - len(head))):
            head += more
        body = head[text.marked :].lstrip(b"\r\n")
        skipped = len(head) - len(body)
        if not body:
            raise EmptyTableError(f"A table needs a header and rows, however: {path} is empty. Give a file with both.")
        line = body.split(b"\n", 1)[0].decode("utf-8", "replace")
        if b"\n" not in body and b"\r" in body.rstrip(b"\r"):
            raise DataError(
                f"A table needs lines that end in newlines, however: {path} has carriage returns alone. Convert it."
            )
        if re.fullmatch(r"sep=.\s*", line, re.IGNORECASE):
            raise DataError(
                f"A table needs a header, however: {path} begins with {line.strip()!r}, a line for Excel alone. Remove "
                "it; which delimiter there is shows in the header."
            )
        dialect = dialect.of(line)
        match = well_formed(dialect.separator).match(body)
        if match is None or (match.end() == len(body) and len(head) > LONGEST):
            raise DataError(f"A table needs a header, however: the first line of {path} is none. Check the quotes.")
        try:
            names = dialect.names(match[0].decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"A table needs text in {dialect.encoding or 'UTF-8'}, however: {path}: {error}. Give its encoding."
            ) from error
        end = match.end()
        end += len(body[end : end + 2]) if body[end : end + 2] == b"\r\n" else len(body[end : end + 1])
        begin = Position(0, skipped + end, 1 + head.count(b"\n", 0, skipped + end))
        if path == STDIN:
            return cls(path, tuple(names), dialect, begin, text, head, text.as_written)
        text.close()
        return cls(path, tuple(names), dialect, begin, as_written=text.as_written)

    @cached_property
    def nameless(self) -> tuple[str, ...]:
        return ("",) if self.fields.count("") > 1 else ()

    @cached_property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name in self.fields if name not in self.nameless)

    def chunks(self, wanted: Wanted, start: Position | None = None) -> Iterator[tuple[Piece, Position]]:
        """Pieces of whole records; what cannot be sought is read from the beginning."""
        with readable(self.name), self.text or Text(self.name, self.dialect.encoding) as text:
            start = start if start and text.plain else self.begin
            if text.plain:
                text.seek(start.offset)
                stream: Any = text
            else:
                stream = _After(text, self.rest, start.offset)
            for piece in pieces(stream, self.dialect.separator, start.offset, start.line):
                yield piece, Position(start.rows, piece.offset, piece.line)

    def part(self, chunk: Piece, wanted: Wanted) -> Part:
        """The rows of a piece: all at once where all are good."""
        dialect = self.dialect
        types = {name: pa.string() for name in (*wanted.texts, *wanted.kept)}
        types |= {name: pa.float64() for name in wanted.numbers}

        def read(data: bytes, types: Mapping[str, pa.DataType]) -> pa.Table:
            whole = pyarrow.csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(self.fields))
            return pyarrow.csv.read_csv(
                pa.BufferReader(data), whole, dialect.parse(b'"' in data), dialect.convert(types)
            )

        sifted = sift(chunk, read, self.fields, types or {self.columns[0]: pa.string()}, dialect)
        judged, troubles = wanted.judge(sifted.table) if wanted.judge else (None, [])
        found = dict(sifted.bad)
        for row, column, reason in reversed(troubles):
            found[int(sifted.good[row])] = (column, reason)
        table, good = sifted.table, sifted.good
        if troubles:
            stays = np.ones(len(good), dtype=bool)
            stays[[trouble.row for trouble in troubles]] = False
            table, judged, good = table.filter(pa.array(stays)), _only(judged, stays), good[stays]
        return Part(sifted.rows, good, table, judged, self._rejects(chunk, found), chunk.share)

    def _rejects(self, piece: Piece, found: dict[int, tuple[str | None, str]]) -> list[Reject]:
        if not found:
            return []
        spans, newlines = spans_of(piece), np.flatnonzero(np.frombuffer(piece.data, np.uint8) == 10)
        rejects = []
        for row, (column, reason) in sorted(found.items()):
            start, end = spans[row].tolist()
            line = piece.line + int(np.searchsorted(newlines, start))
            offset = piece.offset + start if self.as_written else None
            raw = piece.data[start:end].decode("utf-8", "backslashreplace")
            rejects.append(Reject(self.name, row, line, offset, column, reason, raw))
        return rejects


class _After:
    """A text that cannot be sought: what was read of it, but for the first bytes, and the rest."""

    def __init__(self, text: Text, head: bytes, skip: int) -> None:
        while len(head) < skip and (more := text.read(skip - len(head))):
            head += more
        self._text, self._head = text, head[skip:]

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head or self._text.read(size)

    @property
    def share(self) -> float:
        return self._text.share


# --- Parquet and Arrow -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columnar:
    """A Parquet or Arrow IPC file."""

    name: str
    columns: tuple[str, ...]
    schema: pa.Schema
    rows: int | None  # of an Arrow stream nobody knows before its end
    nameless: tuple[str, ...] = ()

    @classmethod
    def open(cls, path: str) -> Columnar:
        """Read the schema."""
        if Path(path).suffix.lower() in PARQUET:
            with pyarrow.parquet.ParquetFile(path) as file:
                schema, rows = file.schema_arrow, file.metadata.num_rows
        else:
            with pa.OSFile(path) as stream, _arrow(stream) as reader:
                schema, rows = reader.schema, None
        names = tuple(name for name in schema.names if not re.fullmatch(r"__index_level_\d+__", name))  # of pandas
        return cls(path, names, schema, rows)

    def chunks(self, wanted: Wanted, start: Position | None = None) -> Iterator[tuple[Any, Position]]:
        """Record batches and how much of the file has then been read."""
        for name in wanted.columns:
            if pa.types.is_nested(self.schema.field(name).type):
                raise DataError(
                    f"A table needs plain values, however: {self.name}, column {name!r} is of type "
                    f"{self.schema.field(name).type}. Take it apart into columns, or leave it out."
                )
        start = start or Position()
        with readable(self.name):
            done = 0
            for batch, done in self._batches(wanted, start.rows):
                rows = done - batch.num_rows
                yield (batch, done / self.rows if self.rows else 0.0), Position(rows)

    def _batches(self, wanted: Wanted, skip: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        done, columns = 0, wanted.columns or list(self.columns[:1])
        size = at_once(len(columns))
        if Path(self.name).suffix.lower() in PARQUET:
            with pyarrow.parquet.ParquetFile(self.name) as file:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if done + rows <= skip:
                        done += rows
                        continue
                    # one by one: of all together pyarrow holds what it has read
                    for batch in file.iter_batches(size, row_groups=[group], columns=columns):
                        done += batch.num_rows
                        yield batch, done
            return
        with pa.OSFile(self.name) as stream, _arrow(stream) as reader:
            for batch in _all(reader):
                for begin in range(0, batch.num_rows, size):
                    some = batch.slice(begin, size).select(columns)
                    done += some.num_rows
                    yield some, done

    def part(self, chunk: Any, wanted: Wanted) -> Part:
        """The rows of a batch."""
        batch, share = chunk
        table = pa.Table.from_batches([batch])
        for name in wanted.kept:
            if name not in wanted.numbers and name not in wanted.texts:
                place = table.schema.get_field_index(name)
                table = table.set_column(place, name, pc.cast(table.column(name), pa.string()))
        judged, troubles = wanted.judge(table) if wanted.judge else (None, [])
        good, rejects = np.arange(table.num_rows), []
        if troubles:
            found = {row: (column, reason) for row, column, reason in reversed(troubles)}
            for row, (column, reason) in sorted(found.items()):
                raw = json.dumps(table.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)
                rejects.append(Reject(self.name, row, None, None, column, reason, raw))
            stays = np.ones(len(good), dtype=bool)
            stays[list(found)] = False
            table, judged, good = table.filter(pa.array(stays)), _only(judged, stays), good[stays]
        return Part(batch.num_rows, good, table, judged, rejects, share)


def _arrow(stream: Any) -> Any:
    head = stream.read(6)
    stream.seek(0)
    return pa.ipc.open_file(stream) if head == b"ARROW1" else pa.ipc.open_stream(stream)


def _all(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.ipc.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)


def _only(judged: Any, stays: NDArray[np.bool_]) -> Any:
    return None if judged is None else judged[stays]
