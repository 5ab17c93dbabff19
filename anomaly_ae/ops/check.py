"""The job of `anomaly-ae check`: compare a file with the contract of columns that a model keeps, without scoring it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from anomaly_ae.data.coding import WANTED, coded
from anomaly_ae.data.contract import UNSEEN, Column, listed
from anomaly_ae.data.dialect import Dialect
from anomaly_ae.data.rejects import Reject, remedy
from anomaly_ae.data.tables import Table
from anomaly_ae.data.written import meant
from anomaly_ae.estimator import Detector
from anomaly_ae.folds import BLOCK
from anomaly_ae.loading import load
from anomaly_ae.mlflow.registry import resolve
from anomaly_ae.ops.arguments import Path_, Progress, tell
from anomaly_ae.ops.series_check import KindInTime, odd_in_time
from anomaly_ae.ops.series_table import named
from anomaly_ae.series.detector import SeriesDetector

Kind = Literal["missing column", "extra column", "unreadable row", "type", "missing values", "range", "unseen category"]
KINDS = (*get_args(Kind), *get_args(KindInTime))
SIGNIFICANT = 1e-3  # of the test whether gaps are more frequent than at fit
NEIGHBOUR = 1e-12  # relative; readers of text differ in a float's last digits


@dataclass(frozen=True)
class Finding:
    """One way in which one column is not as it was at fit: in how many rows, their share, and the first (from 1)."""

    kind: Kind | KindInTime
    column: str
    rows: int
    share: float
    first_row: int
    sentence: str


@dataclass(frozen=True)
class CheckSummary:
    """What a check found: for people, and for `--json`."""

    model: str
    input: str
    rows: int
    columns: int
    findings: list[Finding]


def check(model: Path_, input: Path_, progress: Progress | None = None, dialect: Dialect | None = None) -> CheckSummary:
    r"""Compare the columns of a table with those that a model was fitted on; writes nothing.

    Memory does not grow with the table's length, but for times and groups of a series, which are looked at as scoring
    does: what it would refuse is a finding, and where it would begin anew. Cells of another type are counted and are
    neither gaps nor out of range. Gaps in a column are a finding where `k` or more of them in `n` rows would be a
    surprise at the rate of the fit:

    .. math:: P(K \ge k) < 10^{-3}, \quad K \sim \mathrm{Binomial}(n, \max(s, 1 / m))

    with :math:`s` their share among the :math:`m` rows of the fit.

    Raises
    ------
    AnomalyError
        When the model is damaged, or the table cannot be read or has no rows.
    """
    detector = load(resolve(model))
    table = Table.open(input, dialect)
    known = detector.contract_.columns
    # a model without names takes columns by their place
    beside = named(detector) if isinstance(detector, SeriesDetector) else []  # which say when and where rows belong
    others = [name for name in table.columns if name not in beside]
    names = [column.name for column in known] if hasattr(detector, "feature_names_in_") else others
    tallies = [_Tally(column, name) for column, name in zip(known, names, strict=False) if name in table.columns]
    lacking = [column.name for column in known[len(names) :]]
    lacking += [name for name in [*beside, *names] if name not in table.columns]
    extra = [*(name for name in others if name not in names[: len(known)]), *table.nameless]
    placed = [name for name in beside if name in table.columns]
    read = [tally.name for tally in tallies]
    read += [name for name in placed if name not in read]
    read = read or list(table.columns[:1])  # some column tells how many rows there are
    rows, places, bad = 0, [], _Bad()
    for block in table.blocks([], read, BLOCK, bad):
        for tally in tallies:
            values = block.X[tally.name]
            tally.add(values, table.pointed(values) if tally.column.kind == "number" else values)
        rows += len(block.X)
        places += [block.X[placed]] if placed else []
        tell(progress, block.share_read, "checking")
    findings = [Finding("missing column", name, rows, 1.0, 1, _lacking(name, extra)) for name in lacking]
    findings += [
        Finding("extra column", name, rows, 1.0, 1, f"{listed([name])}: a column that the model does not know")
        for name in extra
    ]
    findings += bad.findings(rows)
    for tally in tallies if rows else []:
        findings += tally.findings(rows, detector, table.is_text)
    if isinstance(detector, SeriesDetector) and places:
        X = pd.concat(places)
        times = table.as_numbers(X[detector.time]) if detector.time in placed else None
        findings += [
            Finding(odd.kind, odd.column, odd.rows, odd.rows / rows, odd.first_row, odd.sentence)
            for odd in odd_in_time(detector, X, times)
        ]
    return CheckSummary(str(model), str(input), rows + bad.count, len(table.columns), findings)


def _lacking(name: str, extra: Sequence[str]) -> str:
    """That a column lacks, and by which other name it may be there."""
    question = meant([name], extra).strip()
    return f"{name}: a column of the model that is not in the file" + (question and f". {question}")


def told(summary: CheckSummary) -> str:
    """The findings, a line each; or that there are none."""
    if not summary.findings:
        return f"as at fit: {summary.rows:,} rows, {summary.columns} columns"
    return "\n".join(finding.sentence for finding in summary.findings)


@dataclass
class _Bad:
    """Rows that cannot be read: how many, and the first."""

    count: int = 0
    first: Reject | None = None

    def __call__(self, reject: Reject) -> None:
        self.count, self.first = self.count + 1, self.first or reject

    def findings(self, good: int) -> list[Finding]:
        """What there is to say of them beside so many others."""
        if self.first is None:
            return []
        rows = good + self.count
        way = self.first.remedy and f"; {self.first.remedy}"
        place = f"{self.first.place}: {self.first.reason}{way}"
        sentence = f"{self.count:,} of {rows:,} rows cannot be read, the first: {place}"
        return [Finding("unreadable row", "", self.count, self.count / rows, self.first.row, sentence)]


class _Seen:
    """How many cells were of some sort, and the first of them."""

    def __init__(self) -> None:
        self.rows = 0
        self.first_row = 0
        self.value: Any = None

    def add(self, values: pd.Series, which: NDArray[np.bool_], shown: NDArray[Any]) -> None:
        """Count the cells `which` of a column indexed by row numbers; `shown` is what to keep of the first."""
        count = int(which.sum())
        if count and not self.rows:
            place = int(np.argmax(which))
            self.first_row, self.value = int(values.index[place]), shown[place]
        self.rows += count


class _Tally:
    """What one column of a file holds, against what it held at fit."""

    def __init__(self, column: Column, name: str) -> None:
        self.column = column
        self.name = name
        self.misread, self.gaps, self.outside, self.unseen = _Seen(), _Seen(), _Seen(), _Seen()

    def add(self, values: pd.Series, read: pd.Series) -> None:
        """Count a block of the column, indexed by row numbers: as it is written, and as it is to be read."""
        missing = values.isna().to_numpy()
        codes, wrong = coded(self.column, read)
        self.misread.add(values, wrong, values.to_numpy())
        self.gaps.add(values, missing, codes)
        if self.column.kind == "category":
            self.unseen.add(values, codes == UNSEEN, values.to_numpy())
        else:
            self.outside.add(values, self._beyond(codes) & ~wrong & ~missing, codes)

    def _beyond(self, codes: NDArray[np.float64]) -> NDArray[np.bool_]:
        low, high = self.column.low, self.column.high
        if low is None or high is None:  # empty at fit: any value is news
            return ~np.isnan(codes)
        slack = NEIGHBOUR * max(abs(low), abs(high)) if self.column.kind == "number" else 0.0
        later = codes > high + slack
        return (codes < low - slack) | (later & (not self.column.rising))

    def findings(self, rows: int, detector: Detector, is_text: bool) -> list[Finding]:
        """All there is to say of the column, which may be of a file that `is_text`."""
        wanted, first = WANTED.get(self.column.kind), self.misread.value
        way = remedy(first, is_text) if self.column.kind == "number" and isinstance(first, str) else ""
        said: list[tuple[Kind, _Seen, str, str]] = [
            ("type", self.misread, f"not {wanted}", f": {str(first)!r:.60}"),
            ("range", self.outside, *self._range()),
            ("unseen category", self.unseen, "of a category unseen at fit", f": {str(self.unseen.value)!r:.60}"),
        ]
        usual = max(self.column.missing, 1 / detector.n_rows_seen_)
        if stats.binom.sf(self.gaps.rows - 1, rows, usual) < SIGNIFICANT:
            said.insert(1, ("missing values", self.gaps, f"missing, {self.column.missing:.2%} at fit", ""))
        return [
            Finding(
                kind,
                self.name,
                seen.rows,
                seen.rows / rows,
                seen.first_row,
                f"{self.name}: {seen.rows:,} of {rows:,} rows {what} (first in row {seen.first_row}{value})"
                + (way and f"; {way}" if kind == "type" else ""),
            )
            for kind, seen, what, value in said
            if seen.rows
        ]

    def _range(self) -> tuple[str, str]:
        """The range at fit, and the first value outside it, in as many digits as tell them apart."""
        low, high, value = self.column.low, self.column.high, self.outside.value
        if value is None:
            return "", ""
        if low is None or high is None:
            return "with a value, none had one at fit", f": {self._shown(value, True)}"
        plain = [self._shown(code, True) for code in (low, high, value)]
        least, most, first = plain if plain[2] not in plain[:2] else [self._shown(c, False) for c in (low, high, value)]
        return f"other than {least}" if low == high else f"beyond {least} to {most}", f": {first}"

    def _shown(self, code: float, short: bool) -> str:
        if self.column.kind != "number":
            return self.column.shown(code)
        return f"{code:.6g}" if short else repr(float(code))
