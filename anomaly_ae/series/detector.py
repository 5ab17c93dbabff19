"""`SeriesDetector`: rows in order of time in, a score for each of them out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from anomaly_ae import storage
from anomaly_ae.columns import ColumnsMixin
from anomaly_ae.data.contract import Contract
from anomaly_ae.detectors import DETECTORS, AutoencoderDetector
from anomaly_ae.errors import ConfigError, DataError, ModelFolderError
from anomaly_ae.estimator import AXES, FOLDS, Detector
from anomaly_ae.explanation import Verdict, known
from anomaly_ae.scoring.calibration import p_values
from anomaly_ae.scoring.linear import Mahalanobis, PrincipalComponents
from anomaly_ae.scoring.neighbours import Neighbours
from anomaly_ae.scoring.scorers import StandardizedError
from anomaly_ae.scoring.thresholds import Conformal
from anomaly_ae.series.channels import Channels
from anomaly_ae.series.events import Events, is_place
from anomaly_ae.series.fold import Raw, Reading, SeriesFold, trailing_mean
from anomaly_ae.series.timeline import Timeline, moments, usual_step
from anomaly_ae.series.views import View
from anomaly_ae.series.windows import Kinds, apart, automatic, kinds_in_time, longest_window
from anomaly_ae.version import __version__

Array = NDArray[np.float64]
Places = NDArray[np.intp]
EPOCHS = ["net", "epoch"]  # what a history without a net has
USUAL = 0.99  # share of calibrate rows on which a channel contributes no more than usual


class Taken(NamedTuple):
    """What `X` holds: codes `(n, d)`, times `(n,)` and groups `(n,)` where there are any."""

    codes: Array
    times: Array | None
    groups: NDArray[Any] | None


class SeriesDetector(CallbackSupportMixin, ColumnsMixin, OutlierMixin, BaseEstimator):
    def __init__(
        self,
        detector: Detector | None = None,
        views: Sequence[View] | None = None,
        window: int | str = "auto",
        stride: int = 1,
        reduce: str = "mean",
        smoothing: int = 1,
        time: str | None = None,
        group: str | None = None,
        on_gap: str = "split",
        on_duplicate: str = "error",
        event_rule: Events | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.detector = detector
        self.views = views
        self.window = window
        self.stride = stride
        self.reduce = reduce
        self.smoothing = smoothing
        self.time = time
        self.group = group
        self.on_gap = on_gap
        self.on_duplicate = on_duplicate
        self.event_rule = event_rule
        self.random_state = random_state

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "detector": [Detector, None],
        "views": [list, tuple, None],
        "window": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "stride": [Interval(Integral, 1, None, closed="left")],
        "reduce": [StrOptions({"mean", "last"})],
        "smoothing": [Interval(Integral, 1, None, closed="left")],
        "time": [str, None],
        "group": [str, None],
        "on_gap": [StrOptions({"split", "fill", "error"})],
        "on_duplicate": [StrOptions({"error", "first", "last", "keep"})],
        "event_rule": [Events, None],
        "random_state": ["random_state"],
    }
    _defaults: ClassVar[dict[str, BaseEstimator]] = {
        "scorer": StandardizedError(shrinkage=0.5),
        "threshold": Conformal(alpha=0.01),
    }
    _seers: ClassVar[tuple[View, ...]] = (
        View(Mahalanobis(), window=16, channels=1),
        View(PrincipalComponents(keep=0.95, inside=False), window=128),
        View(Neighbours(k=1, exact=1, sample=2000), window=32),
    )

    # --- composition -------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        """What stands on each axis: the inner detector's parts; where it has none, the defaults for series."""
        inner = self._inner()
        given = {axis: getattr(inner, axis) for axis in AXES}
        chosen = {axis: given[axis] or self._defaults.get(axis) or inner._default(axis) for axis in AXES}
        return {axis: clone(part) if part is not None else None for axis, part in chosen.items()}

    def _views(self) -> list[View]:
        """The views given, or the default ones; beside these the net's own, where a detector is given."""
        views = [clone(view) for view in (self._seers if self.views is None else self.views)]
        if self.views is None and self.detector is not None:
            views.append(View(clone(self.parts_["scorer"])))
        if not views:
            raise ConfigError("SeriesDetector needs views, however: there is none. Give one, or None for the default.")
        for view in views:
            view.check()
        return views

    def _inner(self) -> Detector:
        return self.detector if self.detector is not None else AutoencoderDetector()

    # --- learning ----------------------------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn from rows `X` `(n, n_features)` of normal operation, in order of time; `y` is ignored."""
        taken = self._taken(X, reset=True)
        inner, self.parts_, self.views_ = self._inner(), self.parts(), self._views()
        self.n_rows_seen_ = len(taken.codes)
        self.step_ = usual_step(taken.times, taken.groups)
        line = self._timeline(taken, longest_fill=0)
        rows = line.rows(taken.codes)
        rng = check_random_state(self.random_state if self.random_state is not None else inner.random_state)
        needs_net = any(view.scorer.reads_net for view in self.views_)
        cross = inner.calibration == "cross" or (inner.calibration == "auto" and not needs_net)
        turns = range(FOLDS) if cross and len(rows) >= FOLDS else range(1)
        self.window_ = self._window(rows, kinds_in_time(line.bounds).fit)
        tasks = len(turns) + (len(turns) > 1)
        context = self._init_callback_context(max_subtasks=tasks)
        context.call_on_fit_task_begin(estimator=self, X=rows)
        records: list[dict[str, float]] = []

        def learned(kinds: Kinds) -> SeriesFold:
            task = context.subcontext(task_name=f"net {len(records) + 1} of {tasks}", max_subtasks=inner.max_epochs)
            task.call_on_fit_task_begin(estimator=self)

            def on_epoch(record: dict[str, float]) -> bool:
                epoch = task.subcontext(task_name="epoch").call_on_fit_task_begin(estimator=self)
                return epoch.call_on_fit_task_end(estimator=self, metadata=record)

            channels = Channels.learn(self.parts_["preprocessing"], self.contract_.columns, rows, kinds.fit)
            fold = self._new_fold(channels, rng.randint(2**31 - 1))
            records[:] = fold.learn(rows, kinds, inner._recipe(), rng.randint(2**31 - 1), on_epoch)
            task.call_on_fit_task_end(estimator=self)
            return fold

        divided = [kinds_in_time(line.bounds, turn) for turn in turns]
        folds = [learned(kinds) for kinds in divided]
        held_out = [
            raw
            for fold, kinds in zip(folds, divided, strict=True)
            for raw in self._raw(fold, rows, kinds.calibrate if len(kinds.calibrate) else kinds.fit)
        ]
        if len(turns) > 1:
            kinds = divided[0]
            self.fold_ = learned(Kinds(np.concatenate([kinds.fit, kinds.calibrate]), kinds.validate, kinds.validate))
            self.fold_.learn_tails(held_out)
        else:
            self.fold_, kinds = folds[0], divided[0]
            self.fold_.learn_tails(self._raw(self.fold_, rows, kinds.validate if len(kinds.validate) else kinds.fit))
        context.call_on_fit_task_end(estimator=self)
        self.history_ = pd.DataFrame([{"net": 1, **record} for record in records], columns=None if records else EPOCHS)
        told = [self._smoothed(self.fold_.fuse(raw, explained=True)) for raw in held_out]
        self.usual_ = np.quantile(
            np.concatenate([one.columns for one in told if one.columns is not None]), USUAL, axis=0
        )
        self._calibrate(np.concatenate([one.scores for one in told]))
        return self

    def _window(self, rows: Array, fit: Places) -> int:
        if self.window != "auto":
            return int(self.window)
        kinds = np.array([column.kind == "number" for column in self.contract_.columns])
        varied = np.array([len(np.unique(column[~np.isnan(column)])) > 2 for column in rows.T])
        channels = rows[:, kinds & varied]
        return automatic(channels, fit, len(rows))

    def _new_fold(self, channels: Channels, seed: int) -> SeriesFold:
        inner = self._inner()
        parts = {axis: clone(part) if part is not None else None for axis, part in self.parts_.items()}
        views = [clone(view) for view in self.views_]
        longest = longest_window(self.n_rows_seen_)
        return SeriesFold(parts, views, channels, self.window_, longest, inner._device(), seed, inner._dtype())

    def _raw(self, fold: SeriesFold, rows: Array, runs: Places) -> list[Raw]:
        """What a fold's views say of held-out runs; of the first rows only where windows have their whole past."""
        told = []
        for first, last in apart(runs, fold.length):
            raw = fold.raw(rows[first:last], self.reduce, self.stride, explained=True)
            cut = fold.length - 1 if last - first >= 2 * fold.length and self.reduce == "last" else 0
            views = [Reading(one.scores[cut:], None if one.columns is None else one.columns[cut:]) for one in raw.views]
            told.append(Raw(views, raw.surprise[cut:]))
        return told

    def _calibrate(self, scores: Array) -> None:
        self.calibration_scores_ = np.sort(scores)
        if not np.isfinite(self.calibration_scores_).all():
            raise ConfigError(
                f"{type(self).__name__} needs a training that stays finite, however: scores of calibrate rows are not. "
                f"Lower learning_rate (it is {self._inner().learning_rate:g})."
            )
        self.threshold_ = clone(self.parts_["threshold"]).fit(self.calibration_scores_)
        self.events_ = clone(self.event_rule or Events()).fit(self.calibration_scores_)

    # --- saying ------------------------------------------------------------------------------------------------------

    def assess(self, X: ArrayLike) -> Verdict:
        """Everything there is to say of rows, in one pass: score, p-value, alarm, contributions."""
        return self._assess(self._taken(X), True)

    def anomaly_score(self, X: ArrayLike) -> Array:
        """How strange each row is, `(n,)`; larger is stranger."""
        return self._assess(self._taken(X), False).anomaly_score

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
        return self._assess(self._taken(X), False).p_value

    def explain(self, X: ArrayLike) -> Array:
        """What each column contributes to its row's score, `(n, n_features)`, each 0 or more: more is more to blame."""
        return self.assess(X).contributions

    def events(self, X: ArrayLike) -> pd.DataFrame:
        """What happened in a series: one line an event, in order of its first row.

        `start` and `end` (first and last row, in the words of the time column; row numbers without one), `peak` where
        the score was highest, `rows`, `severity` (the peak's score over the level at which an event opens), and of the
        channels to blame, most first, `channel_1`, `channel_1_share` of the event's contributions and
        `channel_1_since`, from when on it deviated, and so on. `group` where there are groups.
        """
        return self._events(X, self.assess(X))[0]

    def _events(self, X: ArrayLike, verdict: Verdict) -> tuple[pd.DataFrame, list[Places]]:
        """The table of events, and the rows of each."""
        line = self._timeline(self._taken(X))
        given = line.given()
        found: list[tuple[dict[str, Any], Places]] = []
        for first, last in line.bounds:
            rows = given[first:last][given[first:last] >= 0]
            scores, cells = verdict.anomaly_score[rows], verdict.contributions[rows]
            for begin, end in self.events_.spans(scores):
                told = self.events_.told(scores, cells, self.usual_, self.contract_.names, begin, end)
                found.append(({k: rows[v] if is_place(k) else v for k, v in told.items()}, rows[begin:end]))
        found.sort(key=lambda event: int(event[0]["start"]))
        table = pd.DataFrame([event for event, _ in found], columns=self.events_.names(self.n_features_in_))
        words = self._words(X)
        if words is not None:
            places = [name for name in table if is_place(str(name))]
            table = table.assign(**{str(name): words[table[name].to_numpy(dtype=np.intp)] for name in places})
        if self.group is not None and isinstance(X, pd.DataFrame):
            firsts = np.array([rows[0] for _, rows in found], dtype=np.intp)
            table.insert(0, "group", X[self.group].to_numpy()[firsts])
        return table, [rows for _, rows in found]

    def _words(self, X: ArrayLike) -> Any:
        """The times of rows as they were given, if they have any."""
        if isinstance(X, pd.DataFrame) and self.time is not None:
            return X[self.time].to_numpy()
        return X.index if isinstance(X, pd.DataFrame) and isinstance(X.index, pd.DatetimeIndex) else None

    @property
    def offset_(self) -> float:
        """`decision_function` is `score_samples - offset_`."""
        return -self.threshold_.value_

    def _assess(self, taken: Taken, explained: bool) -> Verdict:
        line = self._timeline(taken)
        rows = line.rows(taken.codes)
        read = [
            self._smoothed(self.fold_.read(rows[first:last], self.reduce, self.stride, explained))
            for first, last in line.bounds
        ]
        score = known(np.concatenate([one.scores for one in read]))[line.place]
        contributions = np.empty((len(score), 0))
        if explained:
            contributions = np.concatenate([one.columns for one in read if one.columns is not None])[line.place]
        return Verdict(score, p_values(score, self.calibration_scores_), score > self.threshold_.value_, contributions)

    def _smoothed(self, told: Reading) -> Reading:
        """The mean with earlier rows."""
        columns = None if told.columns is None else trailing_mean(told.columns, self.smoothing)
        return Reading(trailing_mean(told.scores, self.smoothing), columns)

    # --- columns in --------------------------------------------------------------------------------------------------

    def _taken(self, X: ArrayLike, reset: bool = False) -> Taken:
        if not reset:
            check_is_fitted(self)
        times = groups = None
        named = [name for name in (self.time, self.group) if name is not None]
        if isinstance(X, pd.DataFrame):
            if missing := [name for name in named if name not in X.columns]:
                raise DataError(
                    f"{type(self).__name__} needs the columns {named} for time and group, however: {missing} is not "
                    "there. Give a table that has them."
                )
            if self.time is not None:
                times = moments(X[self.time], self.time)
            elif isinstance(X.index, pd.DatetimeIndex):
                times = moments(X.index, "the index")
            if self.group is not None:
                groups = X[self.group].to_numpy()
            X = X.drop(columns=named)
        elif named:
            raise DataError(
                f"{type(self).__name__} needs a DataFrame to find the columns {named}, however: {type(X).__name__}. "
                "Give one, or leave out time and group."
            )
        codes = self._learn_columns(X) if reset else self._checked(X)
        return Taken(codes, times, groups)

    def _timeline(self, taken: Taken, longest_fill: int | None = None) -> Timeline:
        fill = self.window_ if longest_fill is None else longest_fill
        return Timeline.lay(
            len(taken.codes), taken.times, taken.groups, self.step_, self.on_gap, self.on_duplicate, fill
        )

    # --- keeping -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write a model folder (without pickle) and return its path."""
        check_is_fitted(self)
        config = {
            "anomaly_ae": __version__,
            "detector": storage.to_tree(self),
            "parts": {axis: storage.to_tree(part) for axis, part in self.parts_.items()},
            "views": [storage.to_tree(view) for view in self.views_],
            "contract": self.contract_.to_json(),
            "fitted": {
                "n_features_in": self.n_features_in_,
                "feature_names_in": list(getattr(self, "feature_names_in_", [])) or None,
                "n_rows_seen": self.n_rows_seen_,
                "float32": self.fold_.dtype == torch.float32,
                "window": self.window_,
                "step": self.step_,
            },
        }
        arrays = self.fold_.arrays() | {"calibration_scores": self.calibration_scores_, "usual": self.usual_}
        weights = self.fold_.weights()
        return storage.save(path, storage.Stored(config, weights, arrays, self.history_), overwrite)


def restore(stored: storage.Stored, path: str | os.PathLike[str], names: Mapping[str, type]) -> SeriesDetector:
    """The detector that `SeriesDetector.save` wrote, from what its folder holds."""
    names = {**storage.vocabulary(), **DETECTORS, **SERIES_DETECTORS, **names}
    try:
        config, arrays = stored.config, stored.arrays
        detector: SeriesDetector = storage.from_tree(config["detector"], names, "the model folder")
        detector.parts_ = {axis: storage.from_tree(tree, names) for axis, tree in config["parts"].items()}
        detector.views_ = [storage.from_tree(tree, names) for tree in config["views"]]
        fitted = config["fitted"]
        detector.contract_ = Contract.from_json(config["contract"])
        detector.n_features_in_, detector.n_rows_seen_ = fitted["n_features_in"], fitted["n_rows_seen"]
        if fitted["feature_names_in"]:
            detector.feature_names_in_ = np.asarray(fitted["feature_names_in"], dtype=object)
        detector.window_, detector.step_, detector.history_ = fitted["window"], fitted["step"], stored.history
        detector.usual_ = arrays["usual"]
        channels = Channels.from_state(detector.parts_["preprocessing"], arrays)
        detector.fold_ = detector._new_fold(channels, 0).restore(stored.weights, arrays)
        detector._calibrate(arrays["calibration_scores"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ModelFolderError(
            f"A model folder must fit together, however: {path} does not ({error}). Fit the model again."
        ) from error
    return detector


SERIES_DETECTORS: dict[str, type] = {"SeriesDetector": SeriesDetector}
