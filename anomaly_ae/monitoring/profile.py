"""The reference profile: how each column of normal rows was spread, and how much each contributed to their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.compiled import pays
from anomaly_ae.data.contract import UNSEEN, Column
from anomaly_ae.monitoring.dependence import correlation_time

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
BINS = 20
MOST = 4096  # reference rows
COUNTED = ("missing", "beyond", "cells", "residuals", "totals")
LOOKED, EACH = 1024, 8  # rows of a block whose cells are sorted into bins: so many, or one in so many, if that is more


@dataclass(frozen=True)
class Counts:
    """What was seen of some rows; counts of several blocks add.

    All `rows` are asked for `missing` cells and those `beyond` the range or categories of the fit, `(d,)`; the cells
    of `looked` rows among them are sorted into bins, `cells` `(d, BINS)`, and so are their contributions to the score,
    `residuals` `(d, BINS)`, whose sums are `totals` `(d,)`.
    """

    rows: int
    looked: int
    missing: Numbers
    beyond: Numbers
    cells: Numbers
    residuals: Numbers
    totals: Array

    @classmethod
    def none(cls, d: int) -> Counts:
        """Of no rows of `d` columns."""
        cells, bins = np.zeros(d, np.int64), np.zeros((d, BINS), np.int64)
        return cls(0, 0, cells, cells, bins, bins, np.zeros(d))

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def to_json(self) -> dict[str, Any]:
        """The counts as plain data."""
        return {name: np.asarray(getattr(self, name)).tolist() for name in self.__dataclass_fields__}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Counts:
        """The counts that `to_json` gave."""
        numbers = {name: np.asarray(data[name], np.int64) for name in ("missing", "beyond", "cells", "residuals")}
        return cls(rows=data["rows"], looked=data["looked"], totals=np.asarray(data["totals"], np.float64), **numbers)


@dataclass(frozen=True)
class Profile:
    """Bins of columns and of their contributions, the reference rows' counts in them, and how long they remember.

    `edges` and `residual_edges` `(d, BINS - 1)` are quantiles of the reference rows, or lie between values where there
    are few; a category's bins are levels not seen at fit, the first ones of the alphabet, and the rest. `time` and
    `residual_time` `(d,)` are correlation times in rows, `score_time` that of scores: 1 where neighbours in the file
    say nothing of each other. `reference.beyond` counts reference rows of a category that no other has: so often a new
    row has one that was never seen (Good and Turing). `fit_rows` were learned from; contributions are of rows spread
    over `told_rows` of them. `factor` is by how much more often normal rows may be beyond a value than reference rows
    are: 2 where these were cross-fitted, each by a net of its own, for that is what cross-fitting promises.
    """

    columns: tuple[Column, ...]
    fit_rows: int
    told_rows: int
    factor: int
    edges: Array
    residual_edges: Array
    reference: Counts
    time: Array
    residual_time: Array
    score_time: float

    @classmethod
    def learn(
        cls,
        columns: Sequence[Column],
        codes: Array,
        contributions: Array,
        rows: tuple[int, int],
        cross_fitted: bool,
        time: Array,
        told_time: Array,
    ) -> Profile:
        """Of reference rows: codes `(n, d)`, and contributions `(m, d)`, of the same rows or others.

        `rows` says how many rows of the file the columns' ranges are of, and over how many these contributions are
        spread; `time` `(d,)` are the correlation times of codes, `told_time` `(d + 1,)` of contributions and the score.
        """
        draft = cls(
            tuple(columns), *rows, 1 + cross_fitted, _edges(codes, columns), _edges(contributions),
            Counts.none(len(columns)), time, told_time[:-1], float(told_time[-1]),
        )  # fmt: skip
        values = draft.count(codes, contributions[:0], len(codes))
        shares = draft.count(codes[:0], contributions, len(contributions))
        alone = np.array([_alone(codes[:, j]) if one.kind == "category" else 0 for j, one in enumerate(columns)])
        return replace(draft, reference=replace(values, residuals=shares.residuals, totals=shares.totals, beyond=alone))

    def count(self, codes: Array, contributions: Array, looked: int | None = None) -> Counts:
        """What there is to see of rows `(n, d)`: cells of `looked` rows, evenly spread, are sorted into bins."""
        looked = max(LOOKED, len(codes) // EACH) if looked is None else looked
        low, high = self._ends()
        some, shares = _some(codes, looked), _some(contributions, looked)
        if pays(codes.size):
            from anomaly_ae import loops

            missing, beyond = np.zeros((2, len(low)), np.int64)
            cells, residuals = np.zeros((2, len(low), BINS), np.int64)
            loops.seen(codes, low, high, missing, beyond)
            loops.binned(some, self.edges, cells)
            loops.binned(shares, self.residual_edges, residuals)
        else:
            missing, beyond = _by_column(np.isnan(codes)), _by_column((codes < low) | (codes > high))
            cells, residuals = _binned(some, self.edges), _binned(shares, self.residual_edges)
        return Counts(len(codes), len(some), missing, beyond, cells, residuals, shares.sum(axis=0))

    def _ends(self) -> tuple[Array, Array]:
        """What lies within the fit rows, by column: nothing where they had no value, all levels that they had."""
        ends = [
            (UNSEEN + 0.5, np.inf) if column.kind == "category"
            else (np.inf, -np.inf) if column.low is None or column.high is None
            else (column.low, column.high)
            for column in self.columns
        ]  # fmt: skip
        low, high = np.array(ends).T
        return low, high

    def labels(self, place: int) -> list[str]:
        """What the bins of a column stand for."""
        column, edges = self.columns[place], self.edges[place]
        if column.kind == "category":
            kept = column.levels[: BINS - 1 if len(column.levels) < BINS else BINS - 2]
            return ["(unseen)", *kept, *(["(others)"] if len(column.levels) > len(kept) else [])]
        known = edges[np.isfinite(edges)]
        if column.kind == "boolean":
            return ["False", "True"]
        if not len(known):
            return ["all"]
        shown = [column.shown(edge) for edge in known]
        return [
            f"up to {shown[0]}",
            *(f"{a} to {b}" for a, b in pairwise(shown)),
            f"over {shown[-1]}",
        ]

    @property
    def state(self) -> dict[str, Array | Numbers]:
        """The profile as arrays."""
        return {
            "edges": self.edges, "residual_edges": self.residual_edges, "time": self.time,
            "residual_time": self.residual_time, "score_time": np.array([self.score_time]),
            "rows": np.array([self.fit_rows, self.told_rows, self.factor, self.reference.rows]),
            **{name: getattr(self.reference, name) for name in COUNTED},
        }  # fmt: skip

    @classmethod
    def from_state(cls, columns: Sequence[Column], state: Mapping[str, Any]) -> Profile:
        """The profile that `state` gave; raises KeyError where something lacks."""
        fit_rows, told_rows, factor, rows = state["rows"].tolist()
        reference = Counts(rows, rows, *(state[name] for name in COUNTED))
        return cls(
            tuple(columns), fit_rows, told_rows, factor, state["edges"], state["residual_edges"], reference,
            state["time"], state["residual_time"], float(state["score_time"][0]),
        )  # fmt: skip


class References:
    """Gathers what folds say of some of their calibrate rows, which they have not learned from, for a profile.

    `rows` `(n, d)` are the codes of all rows in the order of their file; of each fold's calibrate rows so many are
    asked for that all folds together have `MOST`.
    """

    def __init__(self, rows: Array, folds: int) -> None:
        self.rows, self.most = rows, MOST // folds
        self._places: list[NDArray[np.intp]] = []
        self._told: list[Array] = []  # contributions, and the score in the last column
        self._close: list[NDArray[np.intp]] = []

    def choose(self, calibrate: NDArray[np.intp]) -> NDArray[np.intp]:
        """Places of the rows to ask a fold about: half follow each other closely, half are spread over the file."""
        places = np.sort(calibrate)
        if len(places) > self.most:
            half, first = self.most // 2, (len(places) - self.most // 2) // 2
            close, others = places[first : first + half], np.delete(places, np.s_[first : first + half])
            spread = others[np.linspace(0, len(others) - 1, self.most - half).astype(np.intp)]
            self._close.append(close)
            places = np.concatenate([close, spread])
        else:
            self._close.append(places)
        self._places.append(places)
        return places

    def add(self, scores: Array, contributions: Array) -> None:
        """What a fold says of the rows that were chosen last."""
        self._told.append(np.column_stack([contributions, scores]))

    def profile(self, columns: Sequence[Column]) -> Profile:
        """The profile of what was gathered."""
        places, told = np.concatenate(self._places), np.concatenate(self._told)
        close = np.sort(np.concatenate(self._close))
        where = np.argsort(places, kind="stable")
        neighbours = told[where[np.searchsorted(places[where], close)]]
        apart = (close[-1] - close[0] + 1) / len(close)
        first = max(0, (len(self.rows) - MOST) // 2)
        return Profile.learn(
            columns,
            self.rows[places],
            told[:, :-1],
            (len(self.rows), len(self.rows)),
            len(self._places) > 1,
            correlation_time(self.rows[first : first + MOST]),
            correlation_time(neighbours, apart),
        )


def _alone(codes: Array) -> int:
    """How many rows have a level that no other has."""
    _, counts = np.unique(codes[~np.isnan(codes)], return_counts=True)
    return int((counts == 1).sum())


def _some(rows: Array, most: int) -> Array:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.intp)]


def _edges(values: Array, columns: Sequence[Column] | None = None) -> Array:
    """Edges of bins `(d, BINS - 1)`, infinite where fewer will do: between values if they are few, else quantiles."""
    edges = np.full((values.shape[1], BINS - 1), np.inf)
    for j, column in enumerate(values.T):
        ordered = np.sort(column[~np.isnan(column)])
        new = np.append(True, np.diff(ordered) > 0)[: len(ordered)]
        if columns is not None and columns[j].kind == "category":
            inner = np.arange(min(BINS - 1, len(columns[j].levels))) - 0.5
        elif columns is not None and columns[j].kind == "boolean":
            inner = np.array([0.5])
        elif new.sum() > BINS:
            places = np.arange(1, BINS) * len(ordered) // BINS
            inner = np.unique((ordered[places - 1] + ordered[places]) / 2)  # between rows: no row is in a folder
        else:
            present = ordered[new]
            inner = (present[1:] + present[:-1]) / 2
        edges[j, : len(inner)] = inner
    return edges


def _by_column(where: NDArray[np.bool_]) -> Numbers:
    """In how many rows each column of `(n, d)` is true."""
    return np.bincount(np.flatnonzero(where) % where.shape[1], minlength=where.shape[1])  # quicker than a sum of rows


def _binned(values: Array, edges: Array) -> Numbers:
    """How many of `(n, d)` lie in each bin between a column's edges, `(d, BINS)`; nothing that is missing does."""
    upto = [
        np.searchsorted(column, (*ends, np.inf), side="right")
        for column, ends in zip(np.sort(values.T, axis=1), edges, strict=True)
    ]
    return np.diff(upto, axis=1, prepend=0)
