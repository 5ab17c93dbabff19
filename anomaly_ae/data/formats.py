"""Tables of scores as bytes that can be appended: CSV, JSON lines, and Arrow messages that become Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

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
    return "".join([json.dumps(row, ensure_ascii=False) + "\n" for row in table.to_pylist()]).encode()


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


def to_parquet(messages: Path, path: Path) -> None:
    """Arrow messages as the Parquet file that they stand for."""
    with (
        pa.OSFile(str(messages)) as source,
        pa.ipc.open_stream(source) as reader,
        # numbers hardly repeat: dictionaries of them cost more than all the rest
        pyarrow.parquet.ParquetWriter(path, reader.schema, use_dictionary=_texts(reader.schema)) as writer,
    ):
        pending: list[pa.RecordBatch] = []
        for batch in reader:
            pending.append(batch)
            if sum(len(one) for one in pending) >= GROUP:
                writer.write_table(pa.Table.from_batches(pending))
                pending = []
        if pending:
            writer.write_table(pa.Table.from_batches(pending))


def _texts(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_string(field.type)]
