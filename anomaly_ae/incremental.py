"""Learning that goes on: more rows for nets that are there, or a threshold by rows that these have not seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import _fit_context, clone
from sklearn.utils import check_random_state

from anomaly_ae.errors import warn
from anomaly_ae.explanation import ExplanationMixin
from anomaly_ae.folds import Fold, Told
from anomaly_ae.keeping import all_or_nothing
from anomaly_ae.monitoring.profile import Profile, References
from anomaly_ae.promise import warn_of_calibrating
from anomaly_ae.scoring.calibration import Reservoir

Array = NDArray[np.float64]
HELD_OUT_EVERY = 5  # partial_fit sets every fifth row aside to calibrate
ENOUGH = 200  # rows set aside, at most, to calibrate by
RESERVOIR = 2000  # rows kept for recalibration by partial_fit


class IncrementalMixin(ExplanationMixin):
    """`partial_fit` and `recalibrate` of a detector, whose other methods are named here."""

    random_state: Any
    threshold: Any
    batch_size: int
    steps_per_epoch: int | None
    parts: Callable[[], dict[str, Any]]
    anomaly_score: Callable[[ArrayLike], Array]
    _apart: Callable[[Any, Any], tuple[Any, Any, Any]]
    _begin: Callable[[], None]
    _new_fold: Callable[[Array, np.random.RandomState], Fold]
    _recipe: Callable[..., Any]
    _calibrate: Callable[[list[Array]], None]

    n_rows_seen_: int
    history_: pd.DataFrame
    profile_: Profile | None  # what normal rows look like, for `monitoring`
    parts_: dict[str, Any]  # the composition that was fitted
    call_: Any  # the detector as it was when it was fitted, whatever has been set since
    _reservoirs: list[Reservoir]  # of calibrate rows
    _learned: list[Reservoir]  # of fit rows, for scorers to learn from when more arrive

    @all_or_nothing
    def recalibrate(self, X: ArrayLike) -> Self:
        """Set threshold and p-values anew by normal rows `X` `(n, n_features)` that no fit has seen; the nets stay.

        The promise is then the threshold's `alpha`, for all nets are new to these rows.

        Warns
        -----
        UserWarning
            Where the rows look as if they had been learned from, or far more of them are alarms than were promised.
        """
        rows = self._checked(X)
        self.parts_ = self.parts_ | {"threshold": self.parts()["threshold"]}  # it may have been set since
        self.call_ = clone(self.call_).set_params(threshold=self.threshold)
        before, scores = (self.calibration_scores_, self.threshold_.value_), self.anomaly_score(X)
        self._calibrate([scores])
        warn_of_calibrating(self, scores, *before)
        rng = check_random_state(self.random_state)
        self._reservoirs = [Reservoir(RESERVOIR, self.n_features_in_) for _ in self.folds_]
        for number, reservoir in enumerate(self._reservoirs):  # what `partial_fit` goes on from
            reservoir.add(rows[number :: len(self.folds_)], rng)
        references = References(rows, 1)
        some = self.assess_codes(rows[references.choose(np.arange(len(rows)))])
        references.add(some.anomaly_score, some.contributions)
        self.profile_ = references.profile(self.contract_.columns)
        return self

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Go on learning from more normal rows; where a part asks for labels, those where `y` is -1 are anomalies.

        The first call, unless `fit` came before, freezes the columns' scaling and needs 3 rows. Every fifth row is
        set aside to calibrate (a uniform sample of at most 2000 is kept, in memory only); the others train for
        `steps_per_epoch` batches or one pass, whichever is more. A model from `load` stays as it is until 200 rows
        have been set aside (or as many as calibrated it), and then learns from all that came.

        Warns
        -----
        UserWarning
            While a model from `load` waits for more rows.
        """
        first = not hasattr(self, "folds_")
        X, anomalies, _ = self._apart(X, y)
        rows = self._learn_columns(X) if first else self._checked(X)
        rng = check_random_state(self.random_state)
        if first:
            self._begin()
            self.n_rows_seen_, self.history_, self.profile_ = 0, pd.DataFrame(), None
            self.folds_, self._reservoirs, self._learned = [], [], []
        else:  # what changes is a copy, so that a call that fails changes nothing
            mine = self.folds_, self._reservoirs, self._learned
            self.folds_, self._reservoirs, self._learned = deepcopy(mine)
        numbers = self.n_rows_seen_ + np.arange(len(rows))
        held_out, learned = rows[numbers % HELD_OUT_EVERY == 0], rows[numbers % HELD_OUT_EVERY != 0]
        if first:
            self._keep(self._new_fold(learned, rng), rows[:0], rows[:0], rng)
        waited = not self.rows_lacking
        for number, (reservoir, known) in enumerate(zip(self._reservoirs, self._learned, strict=True)):
            reservoir.add(held_out[number :: len(self.folds_)], rng)
            known.add(learned, rng)
        if self.rows_lacking:
            warn(
                f"{type(self).__name__} goes on learning as soon as it can calibrate by what is new, however: so far "
                f"fewer than {HELD_OUT_EVERY * self._wanted} rows came since load. Until then it is as it was."
            )
            self.n_rows_seen_ += len(rows)
            return self
        known_rows = None if anomalies is None else self._checked(anomalies)
        self._go_on([learned if waited else known.rows for known in self._learned], rng, known_rows)
        self.n_rows_seen_ += len(rows)
        self._calibrate_anew()
        return self

    @property
    def _wanted(self) -> int:
        """Rows set aside that are enough to calibrate by."""
        return min(ENOUGH, len(getattr(self, "calibration_scores_", ())))

    @property
    def rows_lacking(self) -> int:
        """How many more rows `partial_fit` waits for before a model from `load` goes on learning."""
        there = sum(len(reservoir.rows) for reservoir in self._reservoirs)
        return HELD_OUT_EVERY * max(0, self._wanted - there)

    def _go_on(self, learned: list[Array], rng: np.random.RandomState, anomalies: Array | None = None) -> None:
        """Have each net train on rows of its own."""
        records = []
        for number, (fold, rows, known) in enumerate(zip(self.folds_, learned, self._learned, strict=True)):
            if len(rows):
                steps = max(self.steps_per_epoch or 1, math.ceil(len(rows) / self.batch_size))
                recipe = self._recipe(max_epochs=1, steps_per_epoch=steps, schedule=False)
                seed = (rng.randint(2**31 - 1) + self.n_rows_seen_) % 2**31
                told = None if anomalies is None else Told(np.zeros(len(rows), dtype=bool), anomalies)
                history = fold.train(rows, rows[:0], recipe, seed, remember=known.rows, told=told)
                records += [{"net": number + 1, **record} for record in history]
        self.history_ = pd.concat([self.history_, pd.DataFrame(records)], ignore_index=True)
        self.history_["epoch"] = self.history_.groupby("net").cumcount() + 1

    def _calibrate_anew(self) -> None:
        """Threshold, p-values and profile by the rows that were set aside."""
        kept = [reservoir.rows for reservoir in self._reservoirs]
        told = [fold.assess(X) for fold, X in zip(self.folds_, kept, strict=True) if len(X)]
        self._calibrate([scores for scores, _ in told])
        codes, shares = np.concatenate(kept), np.concatenate([shares for _, shares in told])
        once = np.ones(self.n_features_in_ + 1)  # rows of a sample are no neighbours
        rows, cross = (self.n_rows_seen_, self.n_rows_seen_), len(kept) > 1
        self.profile_ = Profile.learn(self.contract_.columns, codes, shares, rows, cross, once[1:], once)

    def _keep(self, fold: Fold, calibrate: Array, fit: Array, rng: np.random.RandomState) -> None:
        self.folds_.append(fold)
        for place, rows in ((self._reservoirs, calibrate), (self._learned, fit)):
            place.append(Reservoir(RESERVOIR, self.n_features_in_))
            place[-1].add(rows, rng)
