"""Windows over rows in order of time: where they are, how long they are, and which rows are of which kind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch

Array = NDArray[np.float64]
Places = NDArray[np.intp]
LONGEST = 256  # rows of an automatic window, at most
USUAL = (16, 128)  # rows of one where no longer period shows
SHORTEST_PERIOD = 4
ROUNDED = 1e-12  # of the largest number: a channel that differs by less is constant
PROMINENT = 0.3  # autocorrelation of a period


@dataclass(frozen=True)
class Windows:
    """Windows of `length` rows over cells `x` `(rows, channels)`; nothing is copied before it is looked at.

    `where` says at which row each begins, as a slice or numbers `(m,)`, or names all of its rows `(m, length)`.
    """

    x: Tensor
    mask: Tensor | None
    length: int
    where: slice | Places

    def __len__(self) -> int:
        return len(range(*self.where.indices(len(self.x)))) if isinstance(self.where, slice) else len(self.where)

    def __getitem__(self, some: slice) -> Windows:
        if not isinstance(self.where, slice):
            return Windows(self.x, self.mask, self.length, self.where[some])
        starts = range(*self.where.indices(len(self.x)))[some]
        return Windows(self.x, self.mask, self.length, slice(starts.start, starts.stop, starts.step))

    @property
    def of_each_row(self) -> bool:
        """Whether one begins at each row of a run."""
        return isinstance(self.where, slice) and self.where.step in (None, 1) and len(self) > 0

    def together(self) -> Windows:
        """The run of rows that windows of each row lie in, as one window."""
        first = range(*self.where.indices(len(self.x))).start  # type: ignore[union-attr]
        return Windows(self.x, self.mask, len(self) + self.length - 1, np.array([first]))

    def thinned(self, most: int) -> Windows:
        """At most so many of the windows, evenly."""
        if len(self) <= most or isinstance(self.where, slice):
            return self
        return Windows(
            self.x, self.mask, self.length, self.where[np.linspace(0, len(self) - 1, most).round().astype(int)]
        )

    def batch(self, device: torch.device, dtype: torch.dtype) -> Batch:
        """The windows as rows of a batch: `(m, channels, length)`."""
        mask = None if self.mask is None else self._cut(self.mask).to(device)
        return Batch(self._cut(self.x).to(device, dtype), None if mask is None or mask.all() else mask)

    def _cut(self, rows: Tensor) -> Tensor:
        if not isinstance(self.where, slice) and self.where.ndim == 2:
            return rows[torch.from_numpy(self.where)].transpose(1, 2)
        if len(rows) < self.length:
            return rows.new_empty(0, rows.shape[1], self.length)
        windows = rows.unfold(0, self.length, 1)
        return windows[self.where if isinstance(self.where, slice) else torch.from_numpy(self.where)]


def sliding_sums(values: Any, length: int) -> Any:
    """Sums of each `length` of values `(n, ...)` that follow each other, an array or a tensor: `(n - length + 1, ...)`.

    Sums of two, of four and so on are added up: nothing is taken away again, so nothing that is large is left behind.
    """
    rows = len(values) - length + 1
    total, done, reach = None, 0, 1  # `values` are sums of `reach`
    while True:
        if length & reach:
            part = values[done : done + rows]
            total = part if total is None else total + part
            done += reach
        if done == length:
            return total
        values, reach = values[:-reach] + values[reach:], 2 * reach


def over_rows(values: Array, first: Places, length: int, n: int) -> Array:
    """Values of windows that begin at rows `first`, averaged over the windows that hold each of `n` rows."""
    total, count = np.zeros((n, *values.shape[1:])), np.zeros(n)
    if len(first) == first[-1] - first[0] + 1:  # one at each row
        at, edge = slice(first[0], first[-1] + length), (length - 1, length - 1)
        total[at] = sliding_sums(np.pad(values, (edge, *[(0, 0)] * (values.ndim - 1))), length)
        count[at] = sliding_sums(np.pad(np.ones(len(first)), edge), length)
    else:
        for offset in range(length):
            total[first + offset] += values
            count[first + offset] += 1
    return total / np.maximum(count, 1).reshape(-1, *[1] * (values.ndim - 1))


def ending(before: int, rows: int, length: int) -> Places:
    """The rows of the windows that end at each of `rows` rows, of which `before` came earlier: `(rows, length)`.

    Where too few have been, the window goes on as the series' mirror image: x1 x0 | x0 x1 x2. So nothing jumps, noise
    stays noise, and no row is used before it was there.
    """
    last = before + np.arange(rows)[:, None]
    at = last - np.arange(length - 1, -1, -1)
    folded = at % (2 * (last + 1))
    return np.where(folded > last, 2 * (last + 1) - 1 - folded, folded).astype(np.intp)


class Kinds(NamedTuple):
    """Runs `(k, 2)`, first row and last row + 1, of rows to fit, to validate and to calibrate."""

    fit: Places
    validate: Places
    calibrate: Places

    def spaced(self, bounds: Places, length: int) -> Kinds:
        """Fit rows without a quarter of a window next to those of another kind, where two windows of a run are left.

        So what is held out is about as far from what is learned as new rows are. `bounds` are those of series.
        """
        gap, borders = length // 4, bounds.ravel()
        begins, ends = (
            np.setdiff1d(np.concatenate([self.validate, self.calibrate])[:, side], borders) for side in (0, 1)
        )
        inner = self.fit + gap * np.column_stack([np.isin(self.fit[:, 0], ends), -1 * np.isin(self.fit[:, 1], begins)])
        enough = inner[:, 1] - inner[:, 0] >= 2 * length
        return self._replace(fit=np.where(enough[:, None], inner, self.fit))


ONCE = "fvfcf"  # of blocks, so that each kind sees early and late rows
THIRDS = "ccfvff"  # where thirds take turns in being held out
TWICE_ABOVE = 2000  # rows; then the pattern is repeated


def once(rows: int) -> str:
    """Which blocks of so many rows fit, validate and calibrate, in order of time: 60 %, 20 % and 20 %."""
    return ONCE * (2 if rows > TWICE_ABOVE else 1)


def by_thirds(validate: bool) -> tuple[list[str], str]:
    """The same where thirds take turns in calibrating, and then at last, where all learn but what validates.

    Half is fitted on at each turn and a sixth validates, or fits as well where nothing needs to be validated.
    """
    pattern = THIRDS if validate else THIRDS.replace("v", "f")
    return [pattern[turn:] + pattern[:turn] for turn in (0, 2, 4)], pattern.replace("c", "f")


def kinds_in_time(bounds: Places, pattern: str) -> Kinds:
    """Divide runs of rows into blocks, contiguous in time, of the kinds that the letters of `pattern` begin with."""
    lengths = bounds[:, 1] - bounds[:, 0]
    total = int(lengths.sum())
    blocks = len(pattern)
    edges = np.round(np.linspace(0, total, blocks + 1)).astype(np.intp)
    begins = np.append(0, np.cumsum(lengths))[:-1]
    found: dict[str, list[tuple[int, int]]] = {kind: [] for kind in "fvc"}
    for first, length, begin in zip(bounds[:, 0], lengths, begins, strict=True):
        for block in range(blocks):
            low, high = max(edges[block], begin), min(edges[block + 1], begin + length)
            if low < high:
                runs = found[pattern[block]]
                piece = (int(first + low - begin), int(first + high - begin))
                if runs and runs[-1][1] == piece[0] and piece[0] != first:
                    piece = (runs.pop()[0], piece[1])
                runs.append(piece)
    return Kinds(*(np.array(found[kind], dtype=np.intp).reshape(-1, 2) for kind in "fvc"))


def starts(runs: Places, length: int, most: int | None = None) -> Places:
    """Where windows begin that lie within runs, evenly thinned to about `most`."""
    every = [np.arange(first, last - length + 1) for first, last in runs]
    found = np.concatenate([*every, np.empty(0, dtype=np.intp)]).astype(np.intp)
    if most is not None and len(found) > most:
        found = found[np.round(np.linspace(0, len(found) - 1, most)).astype(np.intp)]
    return found


def longest_window(rows: int) -> int:
    """The longest window that fits well into the blocks that so many rows are divided into."""
    return max(1, rows // (12 if rows > TWICE_ABOVE else 6))


def automatic(x: Array, runs: Places, rows: int) -> int:
    """Length of window: an eighth of the rows, at least 16 and at most 128; or, if longer, the dominant period.

    The period is the lag of the highest peak of the mean autocorrelation of channels `x` over runs of fit rows, if that
    is above 0.3. Never more than 256, or a sixth of the rows (a twelfth above 2000).
    """
    longest = min(LONGEST, longest_window(rows))
    usual = min(longest, max(USUAL[0], min(USUAL[1], rows // 8)))
    return max(usual, dominant_period(x, runs, longest) or 0)


def given(window: float | str, rows: int) -> int:
    """A length of window that was asked for; raises ConfigError where there are not so many rows."""
    if int(window) > rows:
        raise ConfigError(
            f"A window of {int(window)} rows needs as many rows to learn from, however: there are {rows}. Set a "
            "shorter one, or give more rows."
        )
    return int(window)


def dominant_period(x: Array, runs: Places, longest: int) -> int | None:
    """The lag in [4, `longest`] at which channels repeat themselves most, if they do."""
    total, weight = np.zeros(longest + 1), 0.0
    for first, last in runs:
        n = last - first
        if n < 2 * longest or longest <= SHORTEST_PERIOD:
            continue
        run = np.nan_to_num(x[first:last])
        off = run - run.mean(axis=0)
        size = np.abs(off).max(axis=0)
        live = size > ROUNDED * np.abs(run).max(axis=0)
        if live.any():
            spectrum = np.abs(np.fft.rfft(off[:, live] / size[live], 2 * n, axis=0)) ** 2
            lagged = np.fft.irfft(spectrum, axis=0)[: longest + 1]
            unbiased = n / (n - np.arange(longest + 1))[:, None]
            total += n * (lagged / lagged[0] * unbiased).mean(axis=1)
            weight += n
    if not weight:
        return None
    curve = total / weight
    peaks = [
        lag
        for lag in range(SHORTEST_PERIOD, longest)
        if curve[lag] >= PROMINENT and curve[lag - 1] < curve[lag] >= curve[lag + 1]
    ]
    return max(peaks, key=lambda lag: curve[lag]) if peaks else None
