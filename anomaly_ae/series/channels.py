"""Columns of a series as channels of windows: which of them are looked at, and what each row costs by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ae.data.cells import bent
from anomaly_ae.data.preprocessing import Encoding, Preprocessing
from anomaly_ae.errors import ConfigError
from anomaly_ae.series.windows import ending

Array = NDArray[np.float64]
OFTEN = 6  # stretches of rows, so that what is learned from and what is held out have some
LASTING = 3  # by how much more than what was never seen it costs to be gone for a window


class Standing(NamedTuple):
    """What each channel last held (NaN of a gap), for how many rows by now, and for how many it cost something.

    Each `(d,)`.
    """

    value: Array
    rows: Array
    costly: Array


@dataclass(frozen=True)
class Encoded:
    """Rows as cells `x` and, where some are absent, `mask`, `(T, channels)`; `surprise` `(T, d)` in nats."""

    x: Tensor
    mask: Tensor | None
    surprise: Array

    def begun(self, rows: int) -> Encoded:
        """So many rows earlier, which are the mirror image of those that come: x1 x0 | x0 x1 x2."""
        if not rows:
            return self
        n = len(self.x)
        at = torch.from_numpy(ending(n - 1, 1, n + rows)[0])
        return Encoded(self.x[at], None if self.mask is None else self.mask[at], self.surprise)


class Channels:
    """What a row's `Encoding` becomes for windows.

    Channels of 0 and 1 alone are flags (commands, states, one-hot levels), and so are booleans and categories; all
    others are measured. Most views look at measured channels alone, for flags would drown them, and at all where none
    is measured; `used` are the cells of both, of flags those that took either state in `OFTEN` stretches or more: of
    what came once, no row held out says what is usual. What a row costs by itself (another value in a constant column,
    a value beyond all seen, an unseen level, an unexpected gap) is charged to any column, at most as much as something
    that was never seen, :math:`\\ln (n r / L + 1)` for `n` fit rows, of which `L`, the rows of a window, are worth one,
    for they are alike, and `r` is 1, or of flags and gaps, of which no window tells how long they last, for how many
    rows they have cost something, at most `L`. A measured channel that stands still, and any that has a gap, for longer
    than it ever did at fit is charged for each row more, up to that; a gap that has lasted for `L` rows up to `LASTING`
    times that: to be lost is an event, while many a sensor stands still for a while.
    """

    length = 1  # rows of a window; the fold that looks through windows sets it

    def __init__(self, encoding: Encoding, state: Mapping[str, NDArray[Any]]) -> None:
        self.encoding, self.own = encoding, dict(state)
        self.used = self.own["used"]
        self.measured = np.arange(int(self.own["measured"][0]))  # of these, what most views look at
        self.columns = encoding.columns
        self.is_flag = np.isin(np.arange(self.columns), self.flags)
        numeric = np.arange(len(encoding.numeric), dtype=np.intp)
        self.fixed = numeric[np.isfinite(encoding.state["fixed"][encoding.owner[numeric]])]

    @classmethod
    def learn(cls, rule: Preprocessing, columns: Any, rows: Array, runs: NDArray[np.intp]) -> Channels:
        """What fit rows, those of `rows` `(T, d)` within `runs`, turn out to need."""
        fit = np.concatenate([rows[first:last] for first, last in runs])
        encoding = rule.learn(columns, fit)
        if len(encoding.context):
            raise ConfigError(
                f"SeriesDetector needs columns that are all judged, however: {rule!r}. Leave the condition out."
            )
        numeric = np.arange(encoding.width) < len(encoding.numeric)
        flag = (np.isin(fit, (0, 1)) | np.isnan(fit)).all(axis=0) & (fit == 0).any(axis=0)
        measured = np.flatnonzero(numeric & ~flag[encoding.owner])
        flags = np.setdiff1d(np.flatnonzero(~np.isfinite(encoding.state["fixed"])[encoding.owner]), measured)
        if len(flags):
            cells = encoding.transform(rows).x[:, flags]
            flags = flags[[stretches(up).min() >= OFTEN for up in (cells > cells.mean(axis=0)).T]]
        used = np.concatenate([measured, flags]) if len(measured) else np.arange(encoding.width)
        stood = np.concatenate([standing(rows[first:last], None) for first, last in runs])
        own = {"used": used, "measured": np.array([len(measured) or len(used)])}
        for kind, lasted in (("", np.where(np.isnan(fit), 0, stood)), ("gap_", np.where(np.isnan(fit), stood, 0))):
            own[f"{kind}longest"] = np.maximum(lasted.max(axis=0), 1)
            own[f"{kind}price"] = -np.log(((lasted > 1).sum(axis=0) + 1) / (len(fit) + 2))
        if len(measured):
            own["price"][np.setdiff1d(np.arange(encoding.columns), encoding.owner[measured])] = 0
        if rule.missing == "ignore":
            own["gap_price"][:] = 0
        own["margin"] = np.zeros(encoding.columns)
        return cls(encoding, own)

    def most(self, lasted: Array, beyond: NDArray[np.bool_]) -> Array:
        """What a row's column costs by itself, at most, where it has cost something for so many rows.

        `beyond` says where it has a gap for longer than it ever did.
        """
        share = np.minimum(lasted, self.length) / self.length
        return np.log(self.encoding.state["rows"][0] * share + 1) * np.where(beyond, 1 + (LASTING - 1) * share, 1)

    @property
    def flags(self) -> NDArray[np.intp]:
        """The columns that are flags beside measured ones."""
        return np.setdiff1d(np.arange(self.columns), self.encoding.owner[self.used[self.measured]])

    @property
    def margin(self) -> Array:
        """How far off what is expected of columns is in 95 of 100 rows that were not learned from, `(d,)`."""
        return self.own["margin"]

    @margin.setter
    def margin(self, margin: Array) -> None:
        self.own["margin"] = margin

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """Everything learned, as arrays."""
        return self.encoding.state | {f"channels.{name}": array for name, array in self.own.items()}

    @classmethod
    def from_state(cls, rule: Preprocessing, state: Mapping[str, NDArray[Any]]) -> Channels:
        """The channels that `state` was taken from."""
        own = {name.removeprefix("channels."): array for name, array in state.items() if name.startswith("channels.")}
        none = np.zeros_like(own["price"])  # as models did not know
        before = {"gap_longest": none, "gap_price": none, "margin": none, "measured": np.array([len(own["used"])])}
        return cls(Encoding(rule, state), before | own)

    def encode(self, rows: Array, before: Standing | None = None) -> tuple[Encoded, Standing]:
        """Rows `(T, d)` that follow each other, as cells; `before` is how the channels stood, if rows came before."""
        cells = self.encoding.transform(rows)
        before = before or Standing(np.full(self.columns, np.nan), *np.zeros((2, self.columns)))
        stood, gone = standing(rows, before), np.isnan(rows)
        beyond = self._beyond(stood, gone)
        asked = beyond.copy()
        asked[cells.charged] += cells.surprise
        costly = _unbroken(asked <= 0, before.costly)
        lasted = np.where(gone | self.is_flag, costly, 1)  # of others windows tell how long
        surprise = np.minimum(asked, self.most(lasted, gone & (beyond > 0)))
        held = cells.x
        if len(self.fixed):  # a net never saw them change, but windows tell by how much they do
            column = self.encoding.owner[self.fixed]
            off = np.nan_to_num(rows[:, column] - self.encoding.state["fixed"][column])
            held = held.copy()
            held[:, self.fixed] = bent(off, self.encoding.rule.bends)
        x = torch.from_numpy(np.ascontiguousarray(held[:, self.used]))
        mask = None if cells.mask is None else torch.from_numpy(np.ascontiguousarray(cells.mask[:, self.used]))
        return Encoded(x, mask, surprise), Standing(*(told[-1].copy() for told in (rows, stood, costly)))

    def seen(self, of: str) -> NDArray[np.intp]:
        """Which of the cells in use a view looks at, of "measured" channels or of "all"."""
        return self.measured if of == "measured" else np.arange(len(self.used))

    def groups(self, seen: NDArray[np.intp]) -> tuple[tuple[str, int], ...]:
        """Of which kind these cells are, as likelihoods ask for it."""
        kinds = [kind for kind, width in self.encoding.groups for _ in range(width)]
        whole = len(seen) == self.encoding.width
        return self.encoding.groups if whole else tuple((kinds[cell], 1) for cell in self.used[seen])

    def lasting(self, rows: Array) -> Array:
        """For how many rows channels have held what they hold, `(T, d)`, where that is for longer than ever; else 0."""
        return self.lasted(standing(rows, None), np.isnan(rows))

    def lasted(self, stood: Array, gone: NDArray[np.bool_]) -> Array:
        """How long channels have held a value, or been `gone`, where that is for longer than ever, `(T, d)`; else 0."""
        return np.where(self._beyond(stood, gone) > 0, stood, 0)

    def _beyond(self, stood: Array, gone: NDArray[np.bool_]) -> Array:
        """What it costs that channels have held a value, or been `gone`, for so long, `(T, d)`."""
        longest, price = (np.where(gone, self.own[f"gap_{name}"], self.own[name]) for name in ("longest", "price"))
        return np.maximum(stood - longest, 0) * price

    def by_column(self, cells: Array, seen: NDArray[np.intp]) -> Array:
        """Cells `(n, channels)` that were seen, added up to the columns that own them: `(n, d)`."""
        whole = np.zeros((len(cells), self.encoding.width))
        whole[:, self.used[seen]] = cells
        return self.encoding.by_column(whole)

    def inverse_transform(self, cells: Array, seen: NDArray[np.intp]) -> Array:
        """Cells `(n, channels)` that were seen back to codes `(n, d)`, NaN of flags beside measured channels."""
        whole = np.zeros((len(cells), self.encoding.width))
        whole[:, self.used[seen]] = cells
        codes = self.encoding.inverse_transform(whole)
        codes[:, self.flags] = np.nan
        return codes


def told_apart(numbers: NDArray[np.bool_], rows: Array) -> tuple[NDArray[np.bool_], int]:
    """Which columns are numbers of more than two values, `(d,)`, and how many cells views `of="all"` look at."""
    counts = [stretches(column) for column in rows.T]
    measured = numbers & np.array([len(count) > 2 for count in counts])
    often = [
        (len(count) == 2 and count.min() >= OFTEN) if number else (count >= OFTEN).sum()
        for number, count in zip(numbers, counts, strict=True)
    ]
    return measured, int(np.where(measured, 1, often).sum())


def stretches(column: NDArray[Any]) -> NDArray[np.intp]:
    """In how many stretches of rows each value comes that is no gap."""
    begins = np.append(True, column[1:] != column[:-1])
    return np.unique(column[begins & ~np.isnan(column)], return_counts=True)[1]


def standing(rows: Array, before: Standing | None) -> Array:
    """For how many rows each channel has held what it holds, a value or a gap, `(T, d)`."""
    value, held = (np.nan, 0.0) if before is None else before[:2]
    earlier = np.vstack([np.broadcast_to(value, rows[:1].shape), rows[:-1]])
    changed = (rows != earlier) & ~(np.isnan(rows) & np.isnan(earlier))
    return _unbroken(changed, held - 1) + 1


def _unbroken(broken: NDArray[np.bool_], before: Array | float) -> Array:
    """For how many rows nothing has been broken, `(T, d)`; it had been for so many `before`."""
    place = np.arange(len(broken))[:, None]
    last = np.maximum.accumulate(np.where(broken, place, -1), axis=0)
    return np.where(last < 0, before + place + 1, place - last).astype(np.float64)
