"""Labels: in a column beside the rows, in a file of their own, or as ranges of time; and which mean an anomaly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from anomaly_ae.data.contract import listed
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.tables import Table
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.folds import BLOCK
from anomaly_ae.ops.arguments import Path_
from anomaly_ae.series.timeline import moments

ROW = "row"  # a column of a file of labels that says which row of the data each is of, from 1
RANGE = ["start", "end"]  # columns of a file of ranges
USUAL = {"0": 1, "false": 1, "1": -1, "true": -1}
DAY = 86_400 - 1e-3  # seconds, without the next one's beginning
FAULT, NORMAL = "anomaly", "normal"  # labels of rows within ranges that have none, and of rows in no range


class Known(NamedTuple):
    """What is known of rows `(n,)`: `y`, -1 of an anomaly, 1 of a normal row, 0 of neither; the label; the cause.

    `notes` say what of the labels is of no row.
    """

    y: NDArray[np.int64]
    label: NDArray[np.object_]
    cause: NDArray[np.object_]
    notes: tuple[str, ...] = ()


class Clock(NamedTuple):
    """When rows of a series are, `(n,)`, and of which machine, by the name of that column; None of one alone.

    `zoned` says whether times are written with an offset from UTC, where they are texts.
    """

    when: NDArray[np.float64]
    machine: NDArray[np.object_] | None = None
    name: str | None = None
    zoned: bool | None = None

    @classmethod
    def of(cls, times: pd.Series | None, machines: pd.Series | None, rows: int) -> Clock:
        """From columns of a table; without times rows are counted from 1."""
        machine = None if machines is None else machines.map(_written).to_numpy(dtype=object)
        name = None if machines is None else str(machines.name)
        if times is None:
            return cls(np.arange(1.0, rows + 1), machine, name)
        return cls(moments(times, str(times.name)), machine, name, next(iter(_zones(times[:1])), None))


@dataclass(frozen=True)
class Labels:
    """How labels are given: the column, the values that mean an anomaly or a normal row, and where it is.

    `file` is a table of its own, whose rows belong to those of the data by the column `key` of both, else by the
    column `row`, else by their order. Of a series it may be one of ranges, with columns `start` and `end`: rows from
    the one to the other are anomalies, labelled by `column` if it is given. An end that is a day alone is the end of
    that day, one that is missing has not come yet; a range that names no machine is of all. `cause` is a column with
    the name of the column at fault, or several, apart by `|` or `;`.
    """

    column: str | None = None
    anomaly: Sequence[str] = ()
    normal: Sequence[str] = ()
    file: Path_ | None = None
    key: str | None = None
    cause: str | None = None

    def __post_init__(self) -> None:
        if both := sorted({*self.anomaly} & {*self.normal}):
            raise ConfigError(f"A label needs to mean one thing, however: {both} are given as both. Leave one out.")
        if self.file is None and self.column is None:
            raise ConfigError("Labels need a column, however: none is named. Give --label, or a file with --labels.")
        if self.file is None and self.key is not None:
            raise ConfigError("--on needs a file of labels, however: there is none. Give --labels, or leave it out.")

    @property
    def beside(self) -> list[str]:
        """Columns of the data that are wanted for it."""
        named = [self.column, self.cause] if self.file is None else [self.key]
        return [name for name in dict.fromkeys(named) if name is not None]

    @property
    def _wanted(self) -> list[str]:
        return [name for name in dict.fromkeys((self.column, self.cause)) if name is not None]

    def of(
        self, rows: NDArray[np.int64], kept: pd.DataFrame, total: int, dialect: Dialect, clock: Clock | None
    ) -> Known:
        """What is known of `rows`, numbers from 1 out of `total`; `kept` are columns `beside` of theirs."""
        if self.file is None:
            return self._known(kept.reset_index(drop=True))
        table = Table.open(self.file, replace(dialect, delimiter=None))  # its own, as its header has it
        if {*RANGE} <= {*table.columns}:
            if clock is None:
                raise ConfigError(
                    f"Ranges need a model of series, however: {self.file} has {' and '.join(RANGE)}, and the model is "
                    "of rows. Give a label a row."
                )
            return self._of_ranges(table, clock)
        if self.column is None:
            raise ConfigError(f"Labels need a column, however: of {self.file} none is named. Name it with --label.")
        table.require([*self._wanted, *([self.key] if self.key else [])], "--labels")
        return self._known(*self._of_file(table, rows, kept, total))

    def _of_file(
        self, table: Table, rows: NDArray[np.int64], kept: pd.DataFrame, total: int
    ) -> tuple[pd.DataFrame, tuple[str, ...]]:
        """Labels and causes as they are written, and what is to be noted."""
        key = self.key or (ROW if ROW in table.columns else None)
        told = table.texts(list(dict.fromkeys([*self._wanted, *([key] if key else [])])), BLOCK)
        if key is None:
            if len(told) != total:
                raise DataError(
                    f"Labels by their order need a row each, however: {self.file} has {len(told):,} and the data have "
                    f"{total:,}. Give it a column {ROW!r} with their numbers from 1, or name a column of both (--on)."
                )
            return told.iloc[rows - 1].reset_index(drop=True), ()
        told[key] = told[key].map(_written)
        told = told.dropna(subset=[key])
        if self.key is None and (odd := [row for row in told[key] if not (row.isdecimal() and 1 <= int(row) <= total)]):
            raise DataError(
                f"Rows are numbered from 1, here to {total:,}, however: {self.file} has {listed(odd, 3)} in {ROW!r}. "
                "Repair it, or name a column of both (--on)."
            )
        if twice := told[key][told[key].duplicated()].unique().tolist():
            raise DataError(
                f"A row needs one label, however: {self.file} has {listed(twice, 3)} more than once. Repair it."
            )
        mine = kept[self.key].map(_written) if self.key is not None else pd.Series(rows).astype(str)
        if not mine.isin(told[key]).any():
            raise DataError(
                f"Labels need to be of rows of the data, however: no {key} of {self.file} is among them. Compare both."
            )
        absent = int((~told[key].isin(mine)).sum())
        notes = (f"{absent:,} of {len(told):,} labels are of no row that was scored",) if absent else ()
        return told.set_index(key).reindex(mine.to_numpy()).reset_index(drop=True), notes

    def _known(self, told: pd.DataFrame, notes: tuple[str, ...] = ()) -> Known:
        label = told[self.column].map(_written)
        cause = told[self.cause].map(_written) if self.cause is not None else pd.Series(None, told.index, dtype=object)
        y = label.map(self._meaning(label)).fillna(0).to_numpy(dtype=np.int64)
        return Known(np.asarray(y, dtype=np.int64), _texts(label), _texts(cause), notes)

    def _meaning(self, label: pd.Series) -> dict[str, int]:
        values = label.dropna().unique().tolist()
        if not values:
            raise DataError(f"Labels need to be known of some rows, however: {self.column} is empty. Fill it in.")
        if not self.anomaly and not self.normal:
            if odd := [value for value in values if value.lower() not in USUAL]:
                raise ConfigError(
                    f"Labels need to be 0 and 1, or false and true, however: {self.column} has {listed(odd, 5)}. Say "
                    "which mean an anomaly (--anomaly VALUE), or which mean a normal row (--normal VALUE)."
                )
            return {value: USUAL[value.lower()] for value in values}
        if absent := [value for value in (*self.anomaly, *self.normal) if value not in values]:
            raise ConfigError(
                f"--anomaly and --normal need values that {self.column} has, however: {listed(absent, 5)} are not "
                f"among {listed(values, 8)}. Choose from them."
            )
        others = 0 if self.anomaly and self.normal else 1 if self.anomaly else -1
        return dict.fromkeys(values, others) | dict.fromkeys(self.anomaly, -1) | dict.fromkeys(self.normal, 1)

    def _of_ranges(self, table: Table, clock: Clock) -> Known:
        if self.anomaly or self.normal or self.key:
            raise ConfigError(
                f"Every range is an anomaly, however: --anomaly, --normal or --on is given beside {self.file}. Leave "
                "it out."
            )
        several = [clock.name] if clock.name is not None and clock.name in table.columns else []
        table.require(self._wanted, "--labels")
        bounds, machine = table.read(RANGE, BLOCK), clock.machine
        _refuse_other_zones(bounds, clock, self.file)
        starts, ends = moments(bounds["start"], "start"), _ends(bounds["end"])
        told = table.texts([*self._wanted, *several], BLOCK) if self._wanted or several else bounds
        n, bare = len(clock.when), 0
        known = Known(np.ones(n, np.int64), np.full(n, NORMAL, dtype=object), np.full(n, None, dtype=object))
        for k, (start, end) in enumerate(zip(starts, ends, strict=True)):
            if end < start:
                raise DataError(
                    f"A range needs to end after it starts, however: row {k + 1} of {self.file} does not. Repair it."
                )
            within = (clock.when >= start) & (clock.when <= end)
            if several and machine is not None and (of := _written(told[clock.name].iloc[k])) is not None:
                within &= machine == of
            bare += not within.any()
            known.y[within] = -1
            known.label[within] = _written(told[self.column].iloc[k]) if self.column else FAULT
            known.cause[within] = _written(told[self.cause].iloc[k]) if self.cause else None
        if bare == len(starts):
            machines = "" if machine is None else f", and the machines: here {listed(sorted(set(machine)), 5)}"
            raise DataError(
                f"Ranges need to be where rows are, however: none of {self.file} has any. Compare the times{machines}."
            )
        return known._replace(notes=(f"{bare} of {len(starts)} ranges have no row",) if bare else ())


def _ends(values: pd.Series) -> NDArray[np.float64]:
    """When ranges end: a day alone is whole, and what is missing has not come yet."""
    ends = np.full(len(values), np.inf)
    there = values.notna().to_numpy()
    if there.any():
        ends[there] = moments(values[there], "end")
        ends[there] += DAY * values[there].map(lambda end: bool(re.fullmatch(r"\d{4}-\d\d-\d\d", str(end)))).to_numpy()
    return ends


def _refuse_other_zones(bounds: pd.DataFrame, clock: Clock, file: Any) -> None:
    """Refuse times of ranges with an offset from UTC beside rows without one, and the other way round."""
    if clock.zoned is not None and _zones(pd.concat([bounds[name] for name in RANGE])) - {clock.zoned}:
        raise DataError(
            f"Times need to be told alike, however: {file} has some {'without' if clock.zoned else 'with'} an offset "
            f"from UTC, and rows are {'with' if clock.zoned else 'without'} one. Write them as rows have them."
        )


def _zones(times: pd.Series) -> set[bool]:
    """Whether texts of times, longer than a day, are with an offset from UTC: what there is of both."""
    texts = [time for time in times if isinstance(time, str) and len(time) > len("2026-01-01")]
    return {bool(re.search(r"(Z|[+-]\d\d:?\d\d)$", text)) for text in texts}


def named(cause: Any) -> set[str]:
    """The columns at fault that a cause names."""
    return {name.strip() for name in str(cause).replace(";", "|").split("|")}


def _texts(values: pd.Series) -> NDArray[np.object_]:
    return np.array(values.astype(object).where(values.notna(), None), dtype=object)


def _written(cell: Any) -> Any:
    """A cell as text, a whole number without decimals (pandas writes 1.0 beside gaps); None where it is missing."""
    return None if pd.isna(cell) else re.sub(r"^(-?\d+)\.0+$", r"\1", str(cell).strip())
