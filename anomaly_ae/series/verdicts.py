"""Verdicts on series: scores, alarms, blame, what was expected, events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import check_is_fitted

from anomaly_ae.columns import as_frame
from anomaly_ae.errors import ConfigError
from anomaly_ae.explanation import Blamed, Texts, Verdict
from anomaly_ae.monitoring.profile import Profile
from anomaly_ae.series.calibrated import Calibrated
from anomaly_ae.series.edges import Look
from anomaly_ae.series.events import Events, is_place
from anomaly_ae.series.fold import SeriesFold
from anomaly_ae.series.rows import SeriesRowsMixin, Taken
from anomaly_ae.series.stream import Stream
from anomaly_ae.series.timeline import Timeline

Array = NDArray[np.float64]
Places = NDArray[np.intp]


class Usual(NamedTuple):
    """At the peak of an event what is expected of channels, and how long each goes on with what it holds, `(d,)`."""

    expected: Array
    lasting: Array


class SeriesVerdictsMixin(SeriesRowsMixin):
    """What is said of rows of a series, by the fold and the calibration of how windows become rows."""

    fold_: SeriesFold
    calibrated_: dict[str, Calibrated]
    profile_: Profile | None
    lineage_: list[dict[str, Any]]
    files_: list[str]
    groups_: list[str] | None
    call_: Any  # the detector as it was when it was fitted, whatever has been set since
    reduce: str
    stride: int | str

    @property
    def _mine(self) -> Calibrated:
        check_is_fitted(self)
        return self._calibrated(self.reduce)

    def _calibrated(self, reduce: str) -> Calibrated:
        self._validate_params()  # type: ignore[attr-defined]  # some may have been set since
        if reduce not in self.calibrated_:
            raise ConfigError(
                f"{type(self).__name__} needs the way from windows to rows that it was fitted with, however: reduce is "
                f'"{reduce}" now. Set it back, or fit again.'
            )
        return self.calibrated_[reduce]

    @property
    def calibration_scores_(self) -> Array:
        """Scores of held-out rows `(m,)`, sorted."""
        return self._mine.scores

    @property
    def threshold_(self) -> Any:
        """The fitted threshold."""
        return self._mine.threshold

    @property
    def events_(self) -> Events:
        """The fitted event rule."""
        return self._mine.events

    @property
    def offset_(self) -> float:
        """`decision_function` is `score_samples - offset_`."""
        return -self.threshold_.value_

    def assess(self, X: ArrayLike) -> Verdict:
        """Everything there is to say of rows, in one pass: score, p-value, alarm, contributions."""
        taken = self._taken(X)
        return self._assess(taken, self._timeline(taken), True)

    def anomaly_score(self, X: ArrayLike) -> Array:
        """How strange each row is, `(n,)`; larger is stranger."""
        taken = self._taken(X)
        return self._assess(taken, self._timeline(taken), False).anomaly_score

    def score_samples(self, X: ArrayLike) -> Array:
        """How normal each row is, `(n,)`: `-anomaly_score(X)`."""
        return -self.anomaly_score(X)

    def decision_function(self, X: ArrayLike) -> Array:
        """`score_samples(X) - offset_`, `(n,)`; negative is an anomaly."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: ArrayLike) -> NDArray[np.intp]:
        """+1 for normal rows, -1 for anomalies, `(n,)`."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def p_values(self, X: ArrayLike) -> Array:
        """Conformal p-values, `(n,)`: the share of calibrate rows at least as strange."""
        taken = self._taken(X)
        return self._assess(taken, self._timeline(taken), False).p_value

    def explain(self, X: ArrayLike) -> Array:
        """What each column contributes to its row's score, `(n, n_features)`, each 0 or more: more is more to blame.

        They add up to the row's `anomaly_score`.
        """
        return self.assess(X).contributions

    def expected(self, X: ArrayLike) -> Array:
        """What each column would be if it did what all others let expect, `(n, n_features)`, in the column's units.

        NaN of flags and categories. Windows lie side by side, and of each channel its whole window is left out.
        """
        taken = self._taken(X)
        line = self._timeline(taken)
        rows = line.rows(taken.codes)
        return np.concatenate([self.fold_.expected(rows[first:last]) for first, last in line.bounds])[line.place]

    def events(self, X: ArrayLike) -> pd.DataFrame:
        """What happened in a series: one line an event, in order of its first row.

        `start` and `end` (first and last row, in the words of the time column; row numbers from 0 without one), `peak`
        where the score was highest, `rows`, `severity` (the peak's score over the level at which an event opens), and
        of the channels to blame, most first, `channel_1`, `channel_1_share` of the event's contributions and
        `channel_1_since`, from when on it deviated, and so on; `reason` is what the first of them held where the score
        was highest, and, of measured channels, what the others let expect there, an interval that held 95 % of held-out
        rows ("flow 3.1, expected 11.8 to 12.9"), or for how long it has stood still or been missing, if that is longer
        than ever. `group` where there are groups.
        """
        return self.assess_events(X)[1]

    def assess_events(self, X: ArrayLike) -> tuple[Verdict, pd.DataFrame, list[Places]]:
        """The verdict on rows, the table of events, and the rows of each event."""
        taken = self._taken(X)
        line, mine = self._timeline(taken), self._mine
        verdict, given, every = self._assess(taken, line, True), line.given(), line.rows(taken.codes)
        found: list[tuple[dict[str, Any], Places, Usual]] = []
        for first, last in line.bounds:
            place = np.flatnonzero(given[first:last] >= 0)  # of rows that were given, among those that were filled in
            rows = given[first:last][place]
            scores, cells = verdict.anomaly_score[rows], verdict.contributions[rows]
            spans = mine.events.spans(scores)
            if not len(spans):
                continue
            run = every[first:last]
            look, lasting = self._look(run, line.source[first:last] < 0), self.fold_.channels.lasting(run)
            for begin, end in spans:
                began = None
                if look is not None:
                    edges = look.edges(int(place[begin]), int(place[end - 1]) + 1)
                    opened, past, since = (np.searchsorted(place, edge) for edge in edges)
                    if opened < past:  # else all of it was filled in
                        begin, end, began = opened, past, since
                told = mine.events.told(scores, cells, mine.usual, self.contract_.names, begin, end, began)
                peak = int(place[told["peak"]])
                usual = Usual(self._expected(run, peak), goes_on(lasting[peak : place[end - 1] + 1]))
                found.append(({k: rows[v] if is_place(k) else v for k, v in told.items()}, rows[begin:end], usual))
        found.sort(key=lambda event: int(event[0]["start"]))
        names = mine.events.names(self.n_features_in_)
        numbers = {name: np.float64 for name in names if name == "severity" or name.endswith("_share")}
        table = pd.DataFrame([event for event, _, _ in found], columns=names).astype({"rows": np.int64, **numbers})
        table["reason"] = self._reasons(X, taken.codes, table, [usual for _, _, usual in found])
        if taken.said is not None:
            places = [str(name) for name in table if is_place(str(name))]
            table = table.assign(**{name: taken.said[table[name].to_numpy(dtype=np.intp)] for name in places})
        if taken.groups is not None:
            table.insert(0, "group", taken.groups[np.array([rows[0] for _, rows, _ in found], dtype=np.intp)])
        return verdict, table, [rows for _, rows, _ in found]

    def stream(self) -> Stream:
        """Rows as they come, scored one by one as `reduce="last"` scores them together: see `Stream`."""
        check_is_fitted(self)
        return Stream(self)

    def _expected(self, run: Array, row: int) -> Array:
        """What is expected of a row of a run, `(d,)`, by the windows about it."""
        first = max(0, min(row - self.fold_.length // 2, len(run) - self.fold_.length))
        return self.fold_.expected(run[first : first + self.fold_.length])[row - first]

    def _reasons(self, X: ArrayLike, codes: Array, events: pd.DataFrame, usual: Sequence[Usual]) -> list[str]:
        """What the channel most to blame for each event held at its peak, and what was expected, or for how long."""
        frame, columns, rows = as_frame(X), self.contract_.columns, events["peak"].to_numpy(dtype=np.intp)
        which = np.array([self.contract_.names.index(name) for name in events["channel_1"]], dtype=np.intp)
        expected = np.array([told.expected[j] for told, j in zip(usual, which, strict=True)])
        blamed = Blamed(rows, which, np.ones(len(rows)), expected, self.fold_.channels.margin[which])
        texts = Texts.of(columns, codes, blamed, lambda row, j: frame[columns[j].name].iloc[row])
        lasted = np.array([told.lasting[j] for told, j in zip(usual, which, strict=True)])
        return [f"{columns[j].name} {said}" for j, said in zip(which, texts.lasting(blamed, lasted), strict=True)]

    def _look(self, run: Array, is_filled: NDArray[np.bool_]) -> Look | None:
        """What tells the edges of events in a run of rows; None where scores do, or nothing can."""
        if self.reduce == "last" or len(run) < self.fold_.length:
            return None
        encoded = self.fold_.channels.encode(run)[0]
        encoded.surprise[is_filled] = 0  # what was filled in is no news
        return Look(self.fold_, self._calibrated("last"), encoded)

    def _assess(self, taken: Taken, line: Timeline, explained: bool) -> Verdict:
        mine, rows = self._mine, line.rows(taken.codes)
        read = []
        for first, last in line.bounds:
            raw = self.fold_.raw(rows[first:last], self.reduce, self.stride, explained)
            read.append(mine.reading(self.fold_, raw))
        whole = read[0].each(lambda *parts: np.concatenate(parts), *read[1:])
        return mine.verdict(whole.at(line.place))


def goes_on(lasting: Array) -> Array:
    """For how many rows channels go on with what they hold in the first of these rows, `(d,)`, if that lasts, else 0.

    `lasting` `(T, d)` is for how many rows they have held it, where that is for longer than ever; else 0.
    """
    unbroken = np.cumprod(np.diff(lasting, axis=0) == 1, axis=0).sum(axis=0)
    return np.where(lasting[0] > 0, lasting[0] + unbroken, 0)
