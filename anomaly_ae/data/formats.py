"""Tables of scores as bytes that can be appended: CSV, JSON lines, and Arrow messages that become Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from anomaly_ae.data.drafts import written_to
from anomaly_ae.errors import OutputError

ENDINGS = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl"}
GROUP = 1 << 17  # rows of a group in a Parquet file


class Format(NamedTuple):
    """How tables become bytes: `head` of the schema comes first, then `body` of each table."""

    name: str
    head: Callable[[pa.Schema], bytes]
    body: Callable[[pa.Table], bytes | pa.Buffer]


def _csv(table: pa.Table, header: bool) -> bytes | pa.Buffer:
    if not (table.num_rows or header):
        return b""
    sink = pa.BufferOutputStream()
    # of a column with an empty chunk pyarrow 25 writes whatever was in memory
    pyarrow.csv.write_csv(table.combine_chunks(), sink, pyarrow.csv.WriteOptions(include_header=header))
    return sink.getvalue()


def _json_lines(table: pa.Table) -> bytes:
    lines = [json.dumps(row, ensure_ascii=False, default=_plain) + "\n" for row in table.to_pylist()]
    return "".join(lines).encode()


def _plain(value: Any) -> str:
    """A date as ISO 8601, anything else as it says of itself."""
    return str(value.isoformat() if hasattr(value, "isoformat") else value)


def _messages(table: pa.Table) -> bytes:
    return b"".join(batch.serialize().to_pybytes() for batch in table.combine_chunks().to_batches())


FORMATS = {
    "csv": Format("csv", lambda schema: bytes(_csv(schema.empty_table(), True)), lambda table: _csv(table, False)),
    "jsonl": Format("jsonl", lambda schema: b"", _json_lines),
    "parquet": Format("parquet", lambda schema: schema.serialize().to_pybytes(), _messages),
}


def format_of(path: str | Path, name: str | None = None) -> Format:
    """The format of a file by its ending, CSV where it has none, or by its name.

    Raises
    ------
    OutputError
        When the ending or name is that of no format.
    """
    found = name or (ENDINGS.get(Path(path).suffix.lower(), "") if Path(path).suffix else "csv")
    if found not in FORMATS:
        raise OutputError(f"An output ends in {', '.join(ENDINGS)}, however: {name or path}. Choose one of them.")
    return FORMATS[found]


class Groups:
    """A Parquet file that grows by Arrow messages; rows are gathered into groups, whatever pieces they come in."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        # numbers hardly repeat: dictionaries of them cost more than all the rest
        self._writer = pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=texts)
        self._pending: list[pa.RecordBatch] = []

    def add(self, messages: Any) -> None:
        """Append the rows of messages, of bytes or an open file."""
        for message in pa.ipc.MessageReader.open_stream(messages):
            if message.type == "record batch":
                self._pending.append(pa.ipc.read_record_batch(message, self.schema))
            if sum(map(len, self._pending)) >= GROUP:
                self._write()

    def _write(self) -> None:
        with written_to(self.path):
            self._writer.write_table(pa.Table.from_batches(self._pending, self.schema))
        self._pending = []

    def close(self) -> None:
        """Write what is left, and the end of the file."""
        if self._pending:
            self._write()
        with written_to(self.path):
            self._writer.close()
