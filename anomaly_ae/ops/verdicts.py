"""Blocks of rows, by their numbers in a file, and what is said of them in a table of scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from anomaly_ae.data.rejects import Reject
from anomaly_ae.data.sources import Part, Position
from anomaly_ae.errors import ConfigError
from anomaly_ae.estimator import Detector
from anomaly_ae.explanation import Texts, Verdict
from anomaly_ae.monitoring.profile import Counts
from anomaly_ae.scoring.attribution import top

TOP_ROWS = 5  # of a summary
AGREEMENT = ("both", "champion_only", "challenger_only", "neither")  # say that a row is an anomaly

JUDGED = ("anomaly_score", "p_value", "is_anomaly")
CHALLENGED = ("challenger_score", "challenger_p_value", "challenger_is_anomaly")


@dataclass(frozen=True)
class Block:
    """Rows of a file that are judged together: those whose numbers lie in one multiple of a size.

    `rows` are the numbers (from 1) of the good ones, `codes` their codes, `table` their other columns; `done` is how
    many rows of the file have then been dealt with, and `position` from where to read on.
    """

    rows: NDArray[np.int64]
    codes: NDArray[np.float64]
    table: pa.Table
    rejects: list[Reject]
    done: int
    position: Position
    share: float


def blocks(parts: Iterable[tuple[Part, Position]], columns: Sequence[str], size: int, skip: int = 0) -> Iterator[Block]:
    """Parts of a file cut every `size` rows, without the first `skip` rows, whatever the parts' sizes."""
    row, done, held = -1, skip, _Held()
    for part, position in parts:
        row = position.rows if row < 0 else row
        position = position._replace(rows=row)
        rejects = [reject._replace(row=row + 1 + reject.row) for reject in part.rejects]
        held.add(row + 1 + part.good, part.judged, part.table.select(list(columns)), rejects)
        if row < skip:
            held.take(skip)
        row += part.rows
        while row >= done + size:
            done += size
            yield Block(*held.take(done), done, position, part.share)
    if row > done:
        yield Block(*held.take(row), row, position, 1.0)


class _Held:
    """Rows that wait for their block to be complete."""

    def __init__(self) -> None:
        self.pieces: list[tuple[NDArray[np.int64], NDArray[np.float64], pa.Table]] = []
        self.rejects: list[Reject] = []

    def add(self, rows: NDArray[np.int64], codes: Any, table: pa.Table, rejects: list[Reject]) -> None:
        self.pieces.append((rows, codes, table))
        self.rejects += rejects

    def take(self, last: int) -> tuple[NDArray[np.int64], NDArray[np.float64], pa.Table, list[Reject]]:
        """The rows up to this number, which then wait no longer."""
        taken, left = [], []
        for rows, codes, table in self.pieces:
            cut = int(np.searchsorted(rows, last, side="right"))
            taken.append((rows[:cut], codes[:cut], table.slice(0, cut)))
            if cut < len(rows):
                left.append((rows[cut:], codes[cut:], table.slice(cut)))
        rejects = [reject for reject in self.rejects if reject.row <= last]
        self.pieces, self.rejects = left, self.rejects[len(rejects) :]
        if len(taken) == 1:
            return *taken[0], rejects
        if not taken:
            return np.empty(0, np.int64), np.empty((0, 0)), pa.table({}), rejects
        numbers, values, tables = (list(parts) for parts in zip(*taken, strict=True))
        return np.concatenate(numbers), np.concatenate(values), pa.concat_tables(tables), rejects


class Told(NamedTuple):
    """What is said of a block: a row of output a row, the scores, and the strangest rows with what is in them.

    `counts` are what monitoring wants to know, where the model has a profile. Where two models speak, how often they
    agree (`AGREEMENT`), and the rows that they disagree on most, with how much.
    """

    table: pa.Table
    scores: NDArray[np.float64]
    alarms: int
    strangest: list[dict[str, Any]]
    counts: Counts | None = None
    agreement: Sequence[int] = (0, 0, 0, 0)
    disputed: Sequence[tuple[float, dict[str, Any]]] = ()


class Teller:
    """Says of codes of a detector's columns, called `names`, what a table of scores has to say."""

    def __init__(
        self,
        detector: Detector,
        names: Sequence[str],
        keep: Sequence[str],
        top_columns: int,
        strangest: int = TOP_ROWS,
    ) -> None:
        if not isinstance(top_columns, int | np.integer) or top_columns < 0:
            raise ConfigError(f"Blamed columns are named by number, however: top is {top_columns!r}. Try 3, or 0.")
        self.detector, self.names, self.keep, self.strangest = detector, list(names), list(keep), strangest
        self.top = min(top_columns, len(self.names))
        self.contract = detector.contract_.columns
        numbers = {name for name, column in zip(names, self.contract, strict=True) if column.kind == "number"}
        blamed = [(f"top_{k + 1}{end}", kind) for k in range(self.top)
                  for end, kind in (("", pa.string()), ("_share", pa.float64()))]  # fmt: skip
        self.schema = pa.schema(
            [
                ("row", pa.int64()),
                *((name, pa.float64() if name in numbers else pa.string()) for name in keep),
                ("anomaly_score", pa.float64()),
                ("p_value", pa.float64()),
                ("is_anomaly", pa.bool_()),
                *blamed,
                *([("reasons", pa.string())] if self.top else []),
            ]
        )
        self._labels = pa.array(self.names, pa.string())

    def __call__(self, rows: NDArray[np.int64], codes: NDArray[np.float64], table: pa.Table) -> Told:
        if not len(rows):
            return Told(self.schema.empty_table(), np.empty(0), 0, [])
        verdict = self.detector.assess_codes(codes)
        profile = self.detector.profile_
        counts = None if profile is None else profile.count(codes, verdict.contributions)
        columns, shares = top(verdict.contributions, self.top)
        strangest = _foremost(verdict.anomaly_score, self.strangest)
        reasons = self._reasons(codes, verdict, table, strangest)
        said: list[Any] = [rows]
        said += [pc.cast(table.column(name), self.schema.field(name).type, safe=False) for name in self.keep]
        said += [verdict.anomaly_score, verdict.p_value, verdict.is_anomaly]
        for k in range(self.top):
            said += [self._labels.take(pa.array(columns[:, k])), shares[:, k]]
        if self.top:
            alarms: list[str | None] = [None] * len(rows)
            for row, text in reasons.items():
                if verdict.is_anomaly[row]:
                    alarms[row] = text
            said.append(pa.array(alarms, pa.string()))
        out = pa.table(said, schema=self.schema)
        told = [
            self._strange(out.slice(i, 1).to_pylist()[0], i, codes[i], table, columns[i], shares[i], reasons.get(i, ""))
            for i in strangest.tolist()
        ]
        return Told(out, verdict.anomaly_score, int(verdict.is_anomaly.sum()), told, counts)

    def _reasons(
        self, codes: NDArray[np.float64], verdict: Verdict, table: pa.Table, strangest: NDArray[np.intp]
    ) -> dict[int, str]:
        """Of alarms and the strangest rows: what blamed columns hold, and what was expected."""
        if not self.top:
            return {}
        told = verdict.is_anomaly.copy()
        told[strangest] = True
        blamed = self.detector.blamed(codes, verdict, self.top, np.flatnonzero(told))
        texts = Texts.of(self.contract, codes, blamed, partial(self._raw, table))
        cells = zip(blamed.row.tolist(), blamed.column.tolist(), texts.reason, strict=True)
        return {
            row: "; ".join(f"{self.names[column]} {reason}" for _, column, reason in mine)
            for row, mine in groupby(cells, key=itemgetter(0))
        }

    def _raw(self, table: pa.Table, row: int, column: int) -> str:
        return str(table.column(self.names[column])[row].as_py())

    def _strange(
        self,
        out: dict[str, Any],
        row: int,
        codes: NDArray[np.float64],
        table: pa.Table,
        columns: NDArray[np.intp],
        shares: NDArray[np.float64],
        reasons: str,
    ) -> dict[str, Any]:
        """A row of a summary, from that of the output."""
        blamed = {}
        for column, share in zip(columns.tolist(), shares.tolist(), strict=True):
            kind, code = self.contract[column], float(codes[column])
            value = self._raw(table, row, column) if kind.is_unseen(code) else kind.value(code)
            plain = value if isinstance(value, bool | int | float | str | None) else str(value)
            blamed[self.names[column]] = {"share": share, "value": plain}
        plain_columns = ("row", *self.keep, "anomaly_score", "p_value", "is_anomaly")
        return {**{name: out[name] for name in plain_columns}, "blamed": blamed, "reasons": reasons}


def _foremost(values: NDArray[np.float64], most: int) -> NDArray[np.intp]:
    """Places of the largest values, the largest first, of equal ones the first."""
    if not 0 < most < len(values):
        return np.argsort(-values, kind="stable")[:most]
    places = np.flatnonzero(values >= np.partition(values, -most)[-most])
    return places[np.argsort(-values[places], kind="stable")[:most]]


def check_kept(schema: pa.Schema, keep: Sequence[str]) -> None:
    """Refuse columns to copy that an output would then have twice."""
    if clash := sorted({name for name in keep if schema.names.count(name) > 1}):
        raise ConfigError(f"--keep needs columns that the output has not yet, however: {clash}. Rename or leave out.")


class SideBySide:
    r"""Two tellers, a champion's and its challenger's, that judge the same rows; their codes lie beside each other.

    A row on which they disagree is one that only one of them takes for an anomaly, the more so the further their
    p-values are apart: by :math:`|\log p_1 - \log p_2|`.
    """

    def __init__(self, champion: Teller, challenger: Teller) -> None:
        self.champion, self.challenger = champion, challenger
        self.width = len(champion.names)
        beside = [challenger.schema.field(name) for name in JUDGED]
        self.schema = pa.schema([*champion.schema, *map(pa.Field.with_name, beside, CHALLENGED)])

    def __call__(self, rows: NDArray[np.int64], codes: NDArray[np.float64], table: pa.Table) -> Told:
        told = self.champion(rows, codes[:, : self.width], table)
        other = self.challenger(rows, codes[:, self.width :], table).table
        beside = [other.column(name) for name in JUDGED]
        out = pa.table([*told.table.columns, *beside], schema=self.schema)
        first, second = (out.column(name).to_numpy() for name in ("is_anomaly", "challenger_is_anomaly"))
        agreement = [int(both.sum()) for both in (first & second, first & ~second, ~first & second, ~first & ~second)]
        one, two = (out.column(name).to_numpy() for name in ("p_value", "challenger_p_value"))
        distance = np.where(first != second, np.abs(np.log(one) - np.log(two)), -1.0)
        most = _foremost(distance, self.champion.strangest)
        plain = ("row", *self.champion.keep, *JUDGED, *CHALLENGED)
        disputed = [
            (float(distance[i]), {name: out.column(name)[i].as_py() for name in plain})
            for i in most.tolist()
            if distance[i] >= 0
        ]
        return told._replace(table=out, agreement=agreement, disputed=disputed)
