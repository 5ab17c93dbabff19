"""What happens to columns before a net sees them: cells, which of them are present, and what no net can judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from anomaly_ae.data.cells import HUGE, MOMENTS, bent, cells_and_odd, moments_of
from anomaly_ae.data.contract import UNSEEN, Column
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.ranges import POSITIVE, check_flags, check_range, whole

__all__ = ["Preprocessing"]

Array = NDArray[np.float64]
Cell = NDArray[np.floating[Any]]
Type = type[np.floating[Any]]
Mask = NDArray[np.bool_]
KINDS = ("number", "boolean", "category", "date")
NUMBER, BOOLEAN, CATEGORY, DATE = range(4)
VALUE, LOG_FREQUENCY, DAY_COS, DAY_SIN, WEEK_COS, WEEK_SIN = range(6)  # what a numeric cell holds of its column
DAY = 86_400.0
PERIODS = {DAY_COS: DAY, DAY_SIN: DAY, WEEK_COS: 7 * DAY, WEEK_SIN: 7 * DAY}
EMPTY = np.inf  # stands for the constant of a column without a value
PRICED = 4.0  # bend of what lies beyond the range: as distances grow (`Neighbours`)
STEEP = 700.0  # the hyperbolic sine of more is no float
ROUNDED = 1e-6  # relative difference of numbers that are the same but for rounding
USUAL = 0.95  # share of fit rows whose gaps are charged nothing
CHANGED = 1e6  # nats: more than any net charges, so that a change in a constant column is an alarm
ESTABLISHED = 100  # fit rows that show a column to be constant


class Preprocessing(BaseEstimator):
    r"""Columns of any kind as cells for a net; learned from fit rows, stored with the model.

    .. math:: z = h \operatorname{arsinh} \frac{x - m}{b s}, \quad h \text{ such that the deviation of } z \text{ is 1}

    =====================  =============================================================================================
    numbers                one cell of mean about 0 and standard deviation 1, nearly linear up to :math:`b` standard
                           deviations, logarithmic beyond: what is far off counts, but does not drown the other
                           columns. Mean `m` and standard deviation `s` are those of the column, or of its inner 98 %
                           where a few values would more than triple the standard deviation.
    booleans               one cell, 0 or 1
    categories             one cell a level; with more than `max_levels`, one for each of the most frequent, one for
                           all others, and one for the logarithm of the level's frequency
    dates                  elapsed time, and where they vary sine and cosine of the time of day and of the week; of a
                           date that never falls from one fit row to the next, which says when rows were taken, the
                           latter alone: rows of later are later
    missing values         the cell is absent: it holds 0 and costs nothing in the loss; of columns that had gaps at fit
                           the net is told where the gaps are (as a condition, which it need not rebuild)
    =====================  =============================================================================================

    What no net can judge, because it never saw it, is charged in nats beside the net's score, to its column:

    - a number (or date) beyond the range of fit rows: half the square of how far it is from the nearer end, both taken
      as :math:`4 \operatorname{arsinh}(z / 4)`;
    - a level that no fit row had: :math:`\ln \frac{n + 1}{n_1 + 1}`, with :math:`n_1` levels seen once (Good-Turing);
      of a column without such levels, where none was to be expected, :math:`g + \sqrt{d g}`, :math:`g = \ln (n + 1)`:
      half a sum of `d` squares exceeds its mean by as much in less than one row of `n` (Laurent and Massart), so that
      many columns do not drown it;
    - a gap in a column without gaps: the same; in columns with :math:`n_j` gaps at fit
      :math:`\max(0, \sum_j g_j - t)`, :math:`g_j = \ln \frac{n + 1}{n_j + 1}`, `t` what 95 % of fit rows stay below;
    - another value in a constant column, any value in an empty one: a million, which is an alarm, where 100 fit rows or
      more show that it is constant; of fewer :math:`\ln (n + 1)`, for it may only be rare.

    Parameters
    ----------
    standardize : bool, default=True
        Standardise numbers; `False` leaves them as they are (they should then be of the order of 1).
    bend : float > 0 or None, default=16
        :math:`b`: from how many standard deviations on a cell lags behind. `None` is linear, :math:`z = (x - m) / s`,
        as far as :math:`10^{16}`; and so is a table that is not standardised.
    max_levels : int >= 2, default=20
        Levels of a category that get a cell of their own.
    missing : {"score", "ignore"}, default="score"
        Whether unexpected gaps cost anything by themselves. In either case the net has less to go by: in a column that
        had no gaps at fit, one looks to it like an ordinary value.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.
    DataError
        At `fit`, when squares of a column are not finite.

    References
    ----------
    Good (1953), The population frequencies of species, Biometrika 40; Laurent and Massart (2000), Adaptive estimation
    of a quadratic functional by model selection, Annals of Statistics 28.

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, Preprocessing
    >>> AutoencoderDetector(preprocessing=Preprocessing(max_levels=50)).preprocessing
    Preprocessing(max_levels=50)
    """

    def __init__(
        self, standardize: bool = True, bend: float | None = 16.0, max_levels: int = 20, missing: str = "score"
    ) -> None:
        self.standardize = standardize
        self.bend = bend
        self.max_levels = max_levels
        self.missing = missing

    def learn(self, columns: Sequence[Column], codes: Array) -> Encoding:
        """What fit rows `(n, d)`, as codes of the contract's `columns`, turn out to need."""
        check_flags(self)
        check_range(self, whole(2), "max_levels")
        check_range(self, POSITIVE, "bend", optional=True)
        if self.missing not in ("score", "ignore"):
            raise ConfigError(
                f'Preprocessing needs missing to be "score" or "ignore", however: {self.missing!r}. Choose one.'
            )
        kinds = np.array([KINDS.index(column.kind) for column in columns])
        present = ~np.isnan(codes)
        low = np.where(present, codes, np.inf).min(axis=0)
        high = np.where(present, codes, -np.inf).max(axis=0)
        fixed = np.where(low == high, low, np.where(low > high, EMPTY, np.nan))
        counts = [
            np.bincount(codes[present[:, j], j].astype(np.intp), minlength=len(column.levels))
            for j, column in enumerate(columns)
            if column.kind == "category"
        ]
        sources = [(j, part) for j in range(len(columns)) for part in _numeric_parts(codes[:, j], kinds[j], fixed[j])]
        sources += [(j, LOG_FREQUENCY) for j, n in zip(np.flatnonzero(kinds == CATEGORY).tolist(), counts, strict=True)
                    if (n > 0).sum() > self.max_levels]  # fmt: skip
        state = {
            "kinds": kinds,
            "fixed": fixed,
            "gaps": 1 - present.mean(axis=0),
            "sources": np.array(sorted(sources, key=lambda s: s[1] != VALUE), dtype=np.int64).reshape(-1, 2),
            "counts": np.concatenate([*counts, np.empty(0)]).astype(np.float64),
            "levels": np.array([len(n) for n in counts], dtype=np.int64),
            "rows": np.array([len(codes)], dtype=np.int64),
            **dict.fromkeys(MOMENTS, np.empty(0)),
            "gap_level": np.zeros(1),
            "rising": np.array([column.rising for column in columns]),
        }
        state["gap_level"][0] = np.quantile(Encoding(self, state).gap_nats(~present).sum(axis=1), USUAL)
        raw = Encoding(self, state).raw(codes)
        state |= (moments := moments_of(raw, self))
        finite = np.isfinite(list(moments.values())).all(axis=0)
        if not finite.all():
            j = state["sources"][np.argmin(finite), 0]
            raise DataError(
                f"Preprocessing needs columns whose squares are finite, however: column {columns[j].name!r} reaches "
                f"{np.nanmax(np.abs(codes[:, j])):.3g}. Rescale that column or leave it out."
            )
        return Encoding(self, state)

    def encoding(self, state: Mapping[str, NDArray[Any]]) -> Encoding:
        """What `learn` found out, from the arrays that it became."""
        return Encoding(self, state)

    @property
    def bends(self) -> float | None:
        """`bend` where numbers are standardised at all."""
        return self.bend if self.standardize else None


@dataclass(frozen=True)
class Cells:
    """Rows as a net sees them.

    `x` and, where some are absent, `mask` `(n, cells)`; `gaps` `(n, told)`, if there are any: 1 where a column that had
    gaps at fit has one, then the cells of columns that are given; `surprise` `(charged, d)` in nats, of the rows that
    are charged at all.
    """

    x: Cell
    mask: Mask | None
    gaps: Cell | None
    surprise: Cell
    charged: NDArray[np.intp]


class Encoding:
    """Columns as cells, learned: what `Preprocessing.learn` found out, as arrays that can be stored.

    Numeric cells come first (those of numbers and elapsed time before those derived from them), then booleans, then
    categories. `owner` says whose column a cell is, `gappy` which columns had some gaps, `context` which are given.
    """

    context: NDArray[np.intp] = np.empty(0, np.intp)
    usual: Mapping[int, tuple[float, float]] = {}  # of those what it was at fit: a code, give or take

    def __init__(self, rule: Preprocessing, state: Mapping[str, NDArray[Any]]) -> None:
        self.rule, self.state = rule, dict(state)
        kinds, fixed, gaps, sources = (self.state[name] for name in ("kinds", "fixed", "gaps", "sources"))
        varies = np.isnan(fixed)
        self.numeric = [tuple(source) for source in sources.tolist()]
        self.plain = sources[sources[:, 1] == VALUE, 0]
        self.booleans = np.flatnonzero((kinds == BOOLEAN) & varies)
        self.gappy = np.flatnonzero((gaps > 0) & (gaps < 1))
        self.told = len(self.gappy)
        ends = np.cumsum(self.state["levels"])
        counts = np.split(self.state["counts"], ends)[:-1]
        self.counts = dict(zip(np.flatnonzero(kinds == CATEGORY).tolist(), counts, strict=True))
        self.places = {j: self._places(n) for j, n in self.counts.items() if varies[j]}
        widths = {j: int(place.max()) + 1 for j, place in self.places.items()}
        self.groups: tuple[tuple[str, int], ...] = (
            *[("numeric", 1)] * len(self.numeric),
            *[("binary", 1)] * len(self.booleans),
            *[("category", width) for width in widths.values()],
        )
        self.owner = np.array(
            [j for j, _ in self.numeric] + [*self.booleans]
            + [j for j, width in widths.items() for _ in range(width)], dtype=np.intp
        )  # fmt: skip
        self.width = len(self.owner)
        self.columns = len(kinds)
        self.all_plain = self.numeric == [(j, VALUE) for j in range(self.columns)]
        self.moments = [self.state[name] for name in MOMENTS]
        rising = self.state.get("rising", np.zeros(self.columns, dtype=bool))  # models of before have none
        self.stamps = [place for place, (j, part) in enumerate(self.numeric) if part == VALUE and rising[j]]
        self.by_ranges = self.all_plain and varies.all() and not self.stamps  # these tell all, where there is no gap

    def _places(self, counts: Array) -> NDArray[np.intp]:
        """For each level of a category the cell that is its own or the pooled one; -1 without a row; so is the last."""
        frequent = np.argsort(-counts, kind="stable")[: self.rule.max_levels]
        own = np.sort(frequent[counts[frequent] > 0])
        places = np.where(counts > 0, len(own), -1)
        places[own] = np.arange(len(own))
        return np.append(places, -1)

    @cached_property
    def ends(self) -> Array:
        """Between what numeric cells lay at fit, `(2, m)`; what rises with time is never beyond."""
        ends = np.array(self.moments[3:])
        ends[:, self.stamps] = [[-np.inf], [np.inf]]
        return ends

    def raw(self, codes: Array) -> Array:
        """Numeric cells `(n, m)` in units of their columns."""
        if self.all_plain:
            return codes
        raw = np.empty((len(codes), len(self.numeric)))
        raw[:, : len(self.plain)] = codes[:, self.plain]
        for place, (j, part) in enumerate(self.numeric[len(self.plain) :], len(self.plain)):
            if part == LOG_FREQUENCY:
                frequency = np.log(np.append(self.counts[j], 0) + 0.5)
                raw[:, place] = np.where(np.isnan(codes[:, j]), np.nan, frequency[_levels(codes[:, j])])
            else:
                turns = codes[:, j] / PERIODS[part]
                raw[:, place] = (np.sin if part % 2 else np.cos)(2 * np.pi * turns)
        return raw

    def transform(self, codes: Array, dtype: Type = np.float64) -> Cells:
        """Codes `(n, d)` to cells and what no net can judge, of type `dtype`."""
        raw = self.raw(codes)
        moments = [*self.moments[:3], *self.ends]
        z, odd = cells_and_odd(raw, moments, bends=self.rule.bends is not None, dtype=dtype)
        if self.stamps:
            z[:, self.stamps] = 0.0
        beyond = self._beyond(z[odd])
        if self.by_ranges and not np.isnan(z[odd]).any():
            gaps = np.zeros((len(z), len(self.gappy)), dtype) if len(self.gappy) else None
            return Cells(z, None, gaps, beyond, odd)
        surprise = np.zeros(codes.shape, dtype)
        surprise[odd] = beyond
        absent = np.isnan(raw)
        gone = absent if self.all_plain else np.isnan(codes)
        fixed = self.state["fixed"]
        constant = ~np.isnan(fixed)
        if constant.any():
            rows = self.state["rows"][0]
            nats = CHANGED if rows >= ESTABLISHED else np.log(rows + 1)
            surprise[:, constant] = nats * (~gone & self._changed(codes))[:, constant]
            frozen = constant[[j for j, _ in self.numeric]]
            z[:, frozen] = 0.0
        if self.rule.missing == "score" and gone.any():
            nats = self.gap_nats(gone)
            usual = nats[:, self.gappy].sum(axis=1, keepdims=True)
            beyond = np.maximum(usual - self.state["gap_level"][0], 0)
            nats[:, self.gappy] *= np.divide(beyond, usual, out=np.zeros_like(usual), where=usual > 0)
            surprise += nats
        if absent.any():
            z[absent] = 0.0
        parts, there = [z], [~absent]
        if len(self.booleans):
            parts.append(np.nan_to_num(codes[:, self.booleans]).astype(dtype))
            there.append(~gone[:, self.booleans])
        for j, places in self.places.items():
            place = places[_levels(codes[:, j])]
            one_hot = (place[:, None] == np.arange(places.max() + 1)).astype(dtype)
            parts.append(one_hot)
            there.append(np.repeat(one_hot.any(axis=1)[:, None], one_hot.shape[1], axis=1))
            surprise[:, j] += self._unseen(j) * ((place < 0) & ~gone[:, j])
        mask = np.concatenate(there, axis=1) if len(there) > 1 else there[0]
        x = np.concatenate(parts, axis=1) if len(parts) > 1 else z
        gaps = gone[:, self.gappy].astype(dtype) if len(self.gappy) else None
        charged = np.flatnonzero(np.einsum("ij->i", surprise))  # quicker than any
        return Cells(x, None if mask.all() else mask, gaps, surprise[charged], charged)

    def _changed(self, codes: Array) -> Mask:
        """Where a constant column holds something else; numbers may come back from a file rounded to float32."""
        fixed = self.state["fixed"]
        numbers = (self.state["kinds"] == NUMBER) & np.isfinite(fixed)
        slack = np.where(numbers, ROUNDED * np.abs(np.where(numbers, fixed, 0.0)), 0.0)
        with np.errstate(over="ignore"):  # what is too far off to be told has changed as well
            return ~(np.abs(codes - np.where(np.isfinite(fixed), fixed, np.inf)) <= slack)

    def gap_nats(self, gone: Mask) -> Array:
        """How little a gap in each column was to be expected, where `gone` `(n, d)` has one."""
        gaps, rows = self.state["gaps"], self.state["rows"][0]
        each: Array = np.where(gaps > 0, np.log((rows + 1) / (gaps * rows + 1)), self._never())
        return gone * each

    def _beyond(self, z: Cell) -> Cell:
        """Half the squared distance to the range of fit rows; for plain cells only, the derived ones are bounded."""
        nats = np.zeros((len(z), self.columns), z.dtype)
        if len(z):
            m = len(self.plain)
            nearest = np.clip(z[:, :m], *(ends[:m].astype(z.dtype) for ends in self.ends))
            off = 0.5 * np.square(bent(z[:, :m], PRICED) - bent(nearest, PRICED))
            nats[:, self.plain] = np.nan_to_num(off, copy=False)
        return nats

    def _unseen(self, j: int) -> float:
        once = (self.counts[j] == 1).sum()
        return float(np.log((self.state["rows"][0] + 1) / (once + 1))) if once else self._never()

    def _never(self) -> float:
        """What it costs to be what no fit row was, nor let expect: as strange as all columns of one row of all."""
        nats = np.log(self.state["rows"][0] + 1)
        return float(nats + np.sqrt(self.columns * nats))

    def by_column(self, cells: Array) -> Array:
        """Cells `(n, cells)` added up to the columns that own them: `(n, d)`."""
        if self.width == self.columns and (self.owner == np.arange(self.columns)).all():
            return cells
        totals = np.zeros((len(cells), self.columns))
        np.add.at(totals.T, self.owner, cells.T)
        return totals

    def inverse_transform(self, x: Array) -> Array:
        """Cells, or what is expected of them, back to codes `(n, d)`; the most likely level of a category."""
        mean, scale, height = self.moments[:3]
        z = x[:, : len(self.numeric)]
        with np.errstate(over="ignore"):
            if self.rule.bends is not None:
                z = np.sinh(np.clip(z / height, -STEEP, STEEP))
            values = np.clip(z * scale + mean, -HUGE[np.float64], HUGE[np.float64])
        codes = np.full((len(x), self.columns), np.nan)
        codes[:, self.plain] = values[:, : len(self.plain)]
        codes[:, self.booleans] = x[:, len(self.numeric) : len(self.numeric) + len(self.booleans)] >= 0.5
        start = len(self.numeric) + len(self.booleans)
        for j, places in self.places.items():
            width = int(places.max()) + 1
            likeliest = x[:, start : start + width].argmax(axis=1)
            pooled = np.flatnonzero(places == places.max())
            level = np.array([np.flatnonzero(places == place)[0] for place in range(width)], dtype=np.float64)
            if len(pooled) > 1:
                level[-1] = UNSEEN
            codes[:, j] = level[likeliest]
            start += width
        constant = ~np.isnan(self.state["fixed"])
        codes[:, constant] = np.where(self.state["fixed"] == EMPTY, np.nan, self.state["fixed"])[constant]
        return codes


def _levels(codes: Array) -> NDArray[np.intp]:
    """Codes of a category as places in an array that has one more for what is missing or was never seen."""
    return np.where(np.isnan(codes) | (codes < 0), -1, np.nan_to_num(codes)).astype(np.intp)


def _numeric_parts(codes: Array, kind: int, fixed: float) -> list[int]:
    if not np.isnan(fixed) or kind == NUMBER:
        return [VALUE]
    if kind != DATE:
        return []
    codes = codes[~np.isnan(codes)]
    parts = [VALUE]
    for cosine, step in ((DAY_COS, DAY / 24), (WEEK_COS, DAY)):
        if np.ptp(codes % PERIODS[cosine] // step) > 0:
            parts += [cosine, cosine + 1]
    return parts
