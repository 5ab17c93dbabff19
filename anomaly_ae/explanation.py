"""Verdicts with their reasons: which column is to blame, what it holds, and what the others let expect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from anomaly_ae.columns import ColumnsMixin, as_frame
from anomaly_ae.data.contract import Column
from anomaly_ae.errors import ConfigError
from anomaly_ae.folds import Fold
from anomaly_ae.scoring import attribution
from anomaly_ae.scoring.calibration import lower_median, p_values

Array = NDArray[np.float64]
LARGEST = float(np.finfo(np.float64).max)


class Verdict(NamedTuple):
    """What is said of `n` rows: scores, p-values, alarms `(n,)`, contributions `(n, n_features)`, and by which fold."""

    anomaly_score: Array
    p_value: Array
    is_anomaly: NDArray[np.bool_]
    contributions: Array
    fold: NDArray[np.intp]


class Blamed(NamedTuple):
    """Columns to blame for rows' scores, one each, as arrays `(m,)`: what is expected there, give or take a margin."""

    row: NDArray[np.intp]
    column: NDArray[np.intp]
    share: Array
    expected: Array
    margin: Array


class Texts(NamedTuple):
    """What cells that are to blame hold, what was expected, and both as a reason: texts `(m,)`."""

    held: NDArray[np.object_]
    expected: NDArray[np.object_]
    reason: NDArray[np.object_]

    @classmethod
    def of(cls, columns: Sequence[Column], codes: Array, blamed: Blamed, raw: Callable[[int, int], Any]) -> Texts:
        """Of blamed cells of rows that are codes; `raw` says what is in a row's column where no fit row had it."""
        texts = cls(*(np.empty(len(blamed.row), dtype=object) for _ in cls._fields))
        for j in np.unique(blamed.column).tolist():
            mine, column = np.flatnonzero(blamed.column == j), columns[j]
            cells, expected, margins = codes[blamed.row[mine], j], blamed.expected[mine], blamed.margin[mine]
            held = [
                str(raw(row, j)) if column.is_unseen(code) else column.shown(code, margin)
                for row, code, margin in zip(blamed.row[mine].tolist(), cells.tolist(), margins.tolist(), strict=True)
            ]
            usual = column.intervals(expected, margins)
            texts.held[mine], texts.expected[mine] = held, usual
            texts.reason[mine] = column.reasons(held, usual, cells, expected, margins)
        return texts

    def lasting(self, blamed: Blamed, rows: Array) -> list[str]:
        """As a series says it: what is held for so many `rows` `(m,)`, if any; else the reason, if one is known."""
        plain = np.where(np.isnan(blamed.expected), self.held, self.reason)
        told = zip(self.held, plain, rows, strict=True)
        return [f"{held} for {lasted:,.0f} rows" if lasted else said for held, said, lasted in told]


def known(scores: Array) -> Array:
    """Scores, the largest number there is where a row is so far away that its own overflowed."""
    return np.nan_to_num(scores, nan=LARGEST, posinf=LARGEST)


class ExplanationMixin(ColumnsMixin):
    """`assess`, `explain` and `reasons`."""

    folds_: list[Fold]
    calibration_scores_: Array
    threshold_: Any

    def assess(self, X: ArrayLike) -> Verdict:
        """Everything there is to say of rows, in one pass: score, p-value, alarm, contributions."""
        return self.assess_codes(self._checked(X))

    def assess_codes(self, codes: Array) -> Verdict:
        """`assess` of rows that are codes of the contract already, `(n, n_features)`."""
        readings = [fold.assess(codes) for fold in self.folds_]
        if len(readings) == 1:
            (score, contributions), which = readings[0], np.zeros(len(codes), dtype=np.intp)
        else:
            score, which = lower_median(np.stack([scores for scores, _ in readings]))
            contributions = np.choose(which[:, None], [cells for _, cells in readings])
        score = known(score)
        p_value, alarm = p_values(score, self.calibration_scores_), score > self.threshold_.value_
        return Verdict(score, p_value, alarm, contributions, which)

    def blamed(self, codes: Array, verdict: Verdict, top: int, rows: NDArray[np.intp] | None = None) -> Blamed:
        """The columns most to blame for the scores of these rows (all, if none are named), at most `top` a row.

        After the first, columns with a share below a tenth are left out.
        """
        rows = np.arange(len(codes)) if rows is None else rows
        columns, share = attribution.top(verdict.contributions[rows], top)
        row, rank = np.nonzero((share >= 0.1) | (np.arange(columns.shape[1]) == 0))
        column, expected, margin = columns[row, rank], np.empty(len(row)), np.empty(len(row))
        share, row = share[row, rank], rows[row]
        for number, fold in enumerate(self.folds_):
            mine = verdict.fold[row] == number
            if mine.any():
                expected[mine], margin[mine] = fold.expected(codes[row[mine]], column[mine])
        return Blamed(row, column, share, expected, margin)

    def explain(self, X: ArrayLike) -> Array:
        """What each column contributes to its row's score, `(n, n_features)`, each 0 or more; larger is more to blame.

        With scorers whose docstring says so, the default among them, they add up to the row's `anomaly_score`.
        """
        return self.assess(X).contributions

    def reasons(self, X: ArrayLike, top: int = 3) -> pd.DataFrame:
        """The columns most to blame for each row's score, with what they hold and what the others let expect.

        One line a blamed column, at most `top` a row: `row` (its place in `X`), `column`, `share` of the row's
        contributions, `value`, `expected`, and all of it as `reason` ("temperature 93.1, expected 61 to 67"; where the
        value is one of those by itself, "odd beside the others"). After the first, columns with a share below a tenth
        are left out. What is expected of a number is an interval that held 95 % of validate rows.
        """
        if not isinstance(top, Integral) or top < 1:
            raise ConfigError(f"reasons needs top of 1 or more, however: {top!r}. Ask for one column at least.")
        X = as_frame(X)
        codes = self._checked(X)
        blamed = self.blamed(codes, self.assess_codes(codes), top)
        texts = Texts.of(self.contract_.columns, codes, blamed, lambda row, column: X.iloc[row, column])
        names = [self.contract_.columns[j].name for j in blamed.column]
        told = pd.DataFrame({"row": blamed.row, "column": names, "share": blamed.share})
        told["value"], told["expected"] = texts.held, texts.expected
        told["reason"] = told["column"] + " " + pd.Series(texts.reason, dtype=object)
        return told
