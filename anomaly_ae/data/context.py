"""Columns that are given, not judged: rows are as they should be for their context."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anomaly_ae.data.contract import Column
from anomaly_ae.data.preprocessing import Array, Cells, Encoding, Preprocessing, Type
from anomaly_ae.errors import ConfigError

__all__ = ["Conditional"]


class Conditional(Preprocessing):
    r"""Preprocessing in which some columns are a condition: what a row should look like, given them.

    .. math:: p(x \,|\, c) \quad \text{in place of} \quad p(x, c)

    Encoder and decoder are told the columns `c` (an operating mode, a setpoint, the hour) and neither rebuild nor judge
    them. A value that is usual by itself is strange where its context lets expect another; a context that is rare is
    no anomaly, as far as it was there often enough for the net to learn what belongs to it. What no context was like at
    fit (a value out of range, an unseen level, a gap) is charged as in any column, and the net is told the nearest that
    there was. Scorers that compare rows without a net know nothing of contexts: `Fused` leaves them out.

    `reconstruct` leaves these columns as they are; `sample` asks for rows with contexts, `sample(n, condition=X)`.

    Parameters
    ----------
    condition : sequence of str or int, default=()
        Names of columns, or their places.
    standardize, bend, max_levels, missing
        As of `Preprocessing`.

    Raises
    ------
    ConfigError
        At `fit`, when a column is not there, none is given, or no varying column is left to judge.

    References
    ----------
    Sohn, Lee and Yan (2015), Learning structured output representation using deep conditional generative models,
    NeurIPS; Song et al. (2007), Conditional anomaly detection, IEEE TKDE 19.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import Conditional, VAEDetector
    >>> rng = np.random.default_rng(0)
    >>> mode, load = rng.integers(2, size=400), rng.normal(size=400)
    >>> X = np.column_stack([mode, 5 * mode + load, load + 0.1 * rng.normal(size=400)])  # two regimes
    >>> det = VAEDetector(preprocessing=Conditional(["x0"]), effort="fast", random_state=0).fit(X)
    >>> det.predict([[0, 0.0, 0.0], [1, 5.0, 0.0], [1, 0.0, 0.0]])
    array([ 1,  1, -1])
    """

    def __init__(
        self,
        condition: Sequence[str | int] = (),
        standardize: bool = True,
        bend: float | None = 16.0,
        max_levels: int = 20,
        missing: str = "score",
    ) -> None:
        super().__init__(standardize, bend, max_levels, missing)
        self.condition = condition

    def learn(self, columns: Sequence[Column], codes: Array) -> Encoding:
        given = self._given([column.name for column in columns])
        encoding = self.encoding(super().learn(columns, codes).state | {"context": given})
        if not encoding.width:
            raise ConfigError(
                f"Conditional needs a varying column that is not given, however: {list(self.condition)} leaves none. "
                "Give fewer."
            )
        return encoding

    def encoding(self, state: Mapping[str, NDArray[Any]]) -> Encoding:
        return Contextual(self, state)

    def _given(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Which columns are conditions, by name or place."""
        wanted = [self.condition] if isinstance(self.condition, str) else list(self.condition)
        if not wanted:
            raise ConfigError("Conditional needs columns, however: none are given. Name one, as ['mode'].")
        places = [names.index(one) if one in names else one for one in wanted]
        for one, place in zip(wanted, places, strict=True):
            if isinstance(place, bool) or not isinstance(place, Integral) or not 0 <= place < len(names):
                raise ConfigError(
                    f"Conditional needs columns of the table, however: {one!r} is none. Choose from {list(names)[:20]}."
                )
        return np.isin(np.arange(len(names)), places)


class Contextual(Encoding):
    """An encoding some of whose columns' cells are told to the net beside the gaps, in place of being rebuilt."""

    def __init__(self, rule: Preprocessing, state: Mapping[str, NDArray[Any]]) -> None:
        super().__init__(rule, state)
        self.context = np.flatnonzero(self.state["context"])
        given, first = self.state["context"][self.owner], 0
        kept = []
        for kind, width in self.groups:
            kept += [] if given[first] else [(kind, width)]
            first += width
        self._rebuilt, self._given, self._cells = np.flatnonzero(~given), np.flatnonzero(given), self.width
        self.groups, self.owner, self.width = tuple(kept), self.owner[self._rebuilt], len(self._rebuilt)
        self.told += len(self._given)
        self._ranges = np.full((2, self._cells), [[-np.inf], [np.inf]])
        self._ranges[:, : len(self.numeric)] = self.moments[3:]
        self.usual = self._usual()

    def transform(self, codes: Array, dtype: Type = np.float64) -> Cells:
        cells = super().transform(codes, dtype)
        mask = None if cells.mask is None else cells.mask[:, self._rebuilt]
        ranges = self._ranges[:, self._given].astype(dtype)
        context = np.clip(cells.x[:, self._given], *ranges)  # beyond what was there at fit a net says anything
        return Cells(
            cells.x[:, self._rebuilt],
            None if mask is None or mask.all() else mask,
            context if cells.gaps is None else np.concatenate([cells.gaps, context], axis=1),
            cells.surprise,
            cells.charged,
        )

    def _usual(self) -> dict[int, tuple[float, float]]:
        """The middle and half of the range that a given column had at fit; of a category the most frequent level."""
        ends = np.where(np.isfinite(self._ranges), self._ranges, [[0.0], [1.0]])
        low, high = super().inverse_transform(ends)
        levels = {place: float(np.argmax(counts)) for place, counts in self.counts.items()}
        return {
            place: (levels[place], 0.0) if place in levels
            else (float(low[place] + high[place]) / 2, float(high[place] - low[place]) / 2)
            for place in self.context.tolist()
        }  # fmt: skip

    def inverse_transform(self, x: Array) -> Array:
        cells = np.zeros((len(x), self._cells))
        cells[:, self._rebuilt] = x
        codes = super().inverse_transform(cells)
        codes[:, self.context] = np.nan
        return codes
