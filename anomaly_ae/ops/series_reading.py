"""Rows of a series from a file: the columns that a model takes, and which rows cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api.types import is_numeric_dtype

from anomaly_ae.data.coding import coded, plain
from anomaly_ae.data.contract import EXACT, Column
from anomaly_ae.data.rejects import NO_TIME, Reject
from anomaly_ae.data.sources import Trouble
from anomaly_ae.data.tables import Table
from anomaly_ae.folds import BLOCK
from anomaly_ae.ops.arguments import Progress, tell
from anomaly_ae.ops.series_table import named
from anomaly_ae.ops.series_times import check_groups
from anomaly_ae.series.detector import SeriesDetector
from anomaly_ae.series.timeline import readable_moments


def read(
    detector: SeriesDetector,
    table: Table,
    keep: Sequence[str] = (),
    progress: Progress | None = None,
    aside: Callable[[Reject], None] | None = None,
) -> tuple[pd.DataFrame, dict[str, pd.Series]]:
    """The columns of a table that a model takes, indexed by row numbers (from 1), and those to keep.

    `progress` is told of the first half of a job. Rows that cannot be read, or have no time or group where there are to
    be, go to `aside`; what comes after one follows what was before it.

    Raises
    ------
    DataError
        At the first such row where there is no `aside`.
    """
    channels = detector.contract_.columns
    names = list(getattr(detector, "feature_names_in_", [])) or [column.name for column in channels]
    table.require([*named(detector), *names], "The model")
    table.require(keep, "--keep")
    kinds = {name: column for name, column in zip(names, channels, strict=True) if column.kind == "number"}
    numbers = list(kinds)
    texts = [name for name in names if name not in set(numbers)]
    wanted = [name for name in keep if name not in named(detector)]
    beside = [name for name in dict.fromkeys([*named(detector), *wanted]) if name not in names]

    def placeless(rows: pa.Table) -> list[Trouble]:
        if aside is None:  # whoever reads the columns refuses them
            return []
        return [*_untimely(detector, table, rows), *_nameless(detector, table, rows), *_wordy(kinds, table, rows)]

    blocks = [pd.DataFrame(columns=[*numbers, *texts, *beside])]
    for block in table.blocks(numbers, [*texts, *beside], BLOCK, aside, placeless):
        blocks.append(block.X)
        tell(progress, 0.5 * block.share_read, "reading")
    rows = pd.concat(blocks[1:] or blocks)
    tell(progress, 0.5, "scoring")
    X = rows[[*named(detector), *names]]
    if aside is not None:  # else the contract refuses words
        X = X.assign(**{name: pd.to_numeric(X[name]) for name in numbers if not is_numeric_dtype(X[name])})
    if detector.time is not None:
        X = X.assign(**{detector.time: table.typed(rows[detector.time])})
    check_groups(detector, X, table.source.name)
    return X, {name: rows[name] for name in wanted}


def _untimely(detector: SeriesDetector, table: Table, rows: pa.Table) -> list[Trouble]:
    """Rows whose time cannot be read."""
    if detector.time is None:
        return []
    values = pd.Series(plain(rows.column(detector.time), table.dialect.nulls))
    times = readable_moments(values)
    if table.is_text:  # counts, perhaps
        counts = pd.to_numeric(table.pointed(values), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        counts = np.where(np.abs(counts) <= EXACT, counts, np.nan)
        times = counts if np.isfinite(counts).sum() > np.isfinite(times).sum() else times
    missing = values.isna()
    return [
        Trouble(row, detector.time, "is missing" if missing[row] else f"{str(values[row])!r:.60}{NO_TIME}")
        for row in np.flatnonzero(~np.isfinite(times)).tolist()
    ]


def _nameless(detector: SeriesDetector, table: Table, rows: pa.Table) -> list[Trouble]:
    """Rows that name no group."""
    if detector.group is None:
        return []
    missing = pd.isna(pd.Series(plain(rows.column(detector.group), table.dialect.nulls), dtype=object))
    return [Trouble(row, str(detector.group), "names no group") for row in np.flatnonzero(missing).tolist()]


def _wordy(numbers: Mapping[str, Column], table: Table, rows: pa.Table) -> list[Trouble]:
    """Cells that are no number in columns of numbers that a Parquet file has as text."""
    found: list[Trouble] = []
    for name, column in numbers.items():
        values = rows.column(name)
        if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
            cells = pd.Series(plain(values, table.dialect.nulls))
            wrong = np.flatnonzero(coded(column, cells)[1]).tolist()
            found += [Trouble(row, name, f"{cells[row]!r:.60} is no number") for row in wrong]
    return found
