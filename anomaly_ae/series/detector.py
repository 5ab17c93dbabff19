"""`SeriesDetector`: rows in order of time in, a score for each of them out."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from anomaly_ae import storage
from anomaly_ae.defaults import DefaultsMixin
from anomaly_ae.detectors import DETECTORS, AutoencoderDetector
from anomaly_ae.errors import ConfigError, ModelFolderError
from anomaly_ae.estimator import Detector
from anomaly_ae.keeping import all_or_nothing, arrays_of, called, config_of, recall
from anomaly_ae.monitoring.dependence import correlation_time
from anomaly_ae.monitoring.profile import MOST, Profile
from anomaly_ae.nn.divergences import warn_of_collapse
from anomaly_ae.promise import warn_of_calibrating, warn_of_few
from anomaly_ae.scoring.scorers import StandardizedError
from anomaly_ae.series.calibrated import Calibrated
from anomaly_ae.series.channels import Channels, told_apart
from anomaly_ae.series.events import Events
from anomaly_ae.series.fold import Rarity, Raw, SeriesFold
from anomaly_ae.series.learning import Learning, check_inner
from anomaly_ae.series.timeline import Timeline, named_groups
from anomaly_ae.series.verdicts import SeriesVerdictsMixin
from anomaly_ae.series.views import View, usual_views
from anomaly_ae.series.windows import automatic, by_thirds, given, kinds_in_time, longest_window, once
from anomaly_ae.storage import below

Array = NDArray[np.float64]
Places = NDArray[np.intp]
FEWEST_ROWS = 6  # for thirds to take turns
ENOUGH_ROWS = 2000  # to calibrate what is causal, where each row takes a window of its own
LONGEST_RECORD = 1_000_000  # cells to tell correlation times from


class SeriesDetector(CallbackSupportMixin, DefaultsMixin, SeriesVerdictsMixin, OutlierMixin, BaseEstimator):
    r"""Learns what a plant does in normal operation, then says of each later row how strange it is, and which sensor.

    .. math:: s_t = \Bigl(\sum_v \log^2 \hat P\bigl(S_v \ge s_{v, t}\bigr)\Bigr)^{1/2}, \quad
        s_{v, t} = \operatorname{mean}_{w \ni t} s_v(x_w) \text{ or } s_v(x_{t-L+1}, \dots, x_t)

    Each view `v` scores windows of its own length; windows become rows, by their mean over the windows that hold a row,
    or by the one that ends there; rows of held-out blocks say how rare that is. Without a `detector` no net is trained:
    the default views are shapes in time (`PrincipalComponents`), of all channels and of few, windows that were seen
    (`PrincipalNeighbours`), and relations of each channel with all others at all lags (`Mahalanobis`). With one, its
    net sees windows as well.

    Rows come in order of time, an array or a DataFrame, and each gets one score. Channels of 0 and 1 alone (so also one
    that was always 0), booleans and text are flags: where others are measured, only views `of="all"` look at those that
    change often. What a flag never held costs by itself, as does a measured channel beyond all that was seen, or one
    that stands still for longer than it ever did. No window reaches over a gap in time or from one group into another.
    Where a series begins, or is shorter than a window, windows are filled up with its mirror image, and what they say
    counts for as many rows as they have, or less: held-out rows tell what mirror images add.

    Without a net, three blocks of rows take turns in being held out, and the views then learn from all rows, or from
    five sixths where one of them needs rows to validate with. With a net, blocks of 60 % train, 20 % validate and 20 %
    calibrate. A quarter of the longest window lies between rows that are learned from and others, unless these are few.
    Of long series, some windows are learned from, as densely at each turn as at last. Rows that
    follow each other are alike: the rate of false alarms of a conformal threshold is then right on average over many
    stretches of normal operation, but alarms come in clusters, and one calibration of `m` rows is worth that of fewer.

    Parameters
    ----------
    detector : AutoencoderDetector, VAEDetector or None, default=None
        Its parts, how to train, device and effort, for windows `(channels, window)`; its scorer (by default
        `StandardizedError(shrinkage=0.5)`) becomes a further view. A causal net with a code a step (`TCN`, `GraphConv`)
        reads a series in one pass; of a window, those steps count that see their whole receptive field in it. Batches
        of windows with a code a step have at most 4,096 rows.
    views : sequence of View or None, default=None
        What looks at windows. `None` is `PrincipalComponents(inside=False)` at 0.99 of the variance, and at 0.9 and
        `window=24`, the five strangest channels; `PrincipalNeighbours()`; where several channels are measured,
        `Mahalanobis(ridge=1e-3)` at `window=32`, the strangest one; where one is, `PrincipalNeighbours()` at
        `window=0.5` and components at 0.95 and `window=0.25`; where there are ten rows for each cell of its windows,
        `Mahalanobis(ridge=1e-3)` at `window=8` of all channels, the strangest one, and if flags are among them
        `PrincipalNeighbours()` at `window=1`; and, with a detector, its own scorer.
    window : int >= 1 (rows) or "auto", default="auto"
        Window of the net and of views without one of their own. "auto" is an eighth of the rows, at least 16 and at
        most 128; or, if longer, the dominant period of fit rows by their autocorrelation, at most 256.
    stride : int >= 1 (rows) or "auto", default="auto"
        Rows from window to window, where windows are averaged; larger ones are faster and coarser. "auto" is a
        sixteenth of each view's window, 1 in one pass; no more than rows that count. By "last" each row has its own.
    reduce : {"mean", "last"}, default="mean"
        From windows to rows: the mean over all windows that hold the row, which knows what comes after (a window later
        it is final), or the window that ends with it, which is causal. `stream` is always causal.
    smoothing : int >= 1 (rows), default=1
        The mean of a row's score with those before it, so many in all.
    time, group : str or None, default=None
        Columns of times (numbers, dates, ISO 8601) and of the series that a row is of. A table with an index of dates
        needs no `time`. Times without an offset are taken as UTC.
    on_gap : {"split", "fill", "error"}, default="split"
        Where more than 3.5 usual steps pass between two rows: begin anew; fill up to a window of rows with missing
        values, which costs little, and begin anew after longer ones; or refuse.
    on_duplicate : {"error", "first", "last", "keep"}, default="error"
        What to do with rows at the time of the one before: refuse, keep one of them (all get its score), or keep all.
    event_rule : Events or None, default=None
        When strange rows make an event; `None` is `Events()`.
    threshold : part or None, default=None
        When a row is an alarm; `None` is the detector's, by default `Conformal()`. `set_params(threshold__alpha=0.01)`
        reaches into a default as well, as into that of `event_rule`.
    random_state : int, RandomState or None, default=None
        Seed; `None` is the detector's.

    Attributes
    ----------
    window_ : int
        Rows of a window of the net.
    step_, groups_
        The usual step from row to row, in seconds or in units of the time column; the names of groups, if any.
    calibration_scores_, threshold_, events_
        Scores of held-out rows, sorted; the fitted threshold and event rule.

    References
    ----------
    Schmidl, Wenig and Papenbrock (2022), Anomaly detection in time series: a comprehensive evaluation, PVLDB 15;
    Liu and Paparrizos (2024), The elephant in the room: towards a reliable time-series anomaly detection benchmark,
    NeurIPS; Alcala and Qin (2009), Reconstruction-based contribution for process monitoring, Automatica 45.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import SeriesDetector
    >>> t, noise = np.arange(1000), np.random.default_rng(0).normal(0, 0.05, (1000, 2))
    >>> X = np.column_stack([np.sin(t / 8), np.cos(t / 8)]) + noise
    >>> det = SeriesDetector(random_state=0).fit(X[:800])
    >>> new = X[800:].copy()
    >>> new[100:120, 1] += 0.6
    >>> det.events(new)["channel_1"].tolist()
    ['x1']
    """

    fold_: SeriesFold
    history_: pd.DataFrame
    parts_: dict[str, Any]
    views_: list[View]
    n_rows_seen_: int

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "detector": [Detector, None],
        "views": [list, tuple, None],
        "window": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "stride": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "reduce": [StrOptions({"mean", "last"})],
        "smoothing": [Interval(Integral, 1, None, closed="left")],
        "time": [str, None],
        "group": [str, None],
        "on_gap": [StrOptions({"split", "fill", "error"})],
        "on_duplicate": [StrOptions({"error", "first", "last", "keep"})],
        "event_rule": [Events, None],
        "threshold": [HasMethods("fit"), None],
        "random_state": ["random_state"],
    }
    _defaults: ClassVar[dict[str, BaseEstimator]] = {"scorer": StandardizedError(shrinkage=0.5)}
    _fewest = 4  # rows: a block of each kind

    def __init__(
        self,
        detector: Detector | None = None,
        views: Sequence[View] | None = None,
        window: int | str = "auto",
        stride: int | str = "auto",
        reduce: str = "mean",
        smoothing: int = 1,
        time: str | None = None,
        group: str | None = None,
        on_gap: str = "split",
        on_duplicate: str = "error",
        event_rule: Events | None = None,
        threshold: BaseEstimator | None = None,
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
        self.threshold = threshold
        self.random_state = random_state

    # --- composition -------------------------------------------------------------------------------------------------

    def _default(self, name: str) -> BaseEstimator | None:
        return self._events_rule if name == "event_rule" else self.parts().get(name)

    def parts(self) -> dict[str, Any]:
        """What stands on each axis: the detector's parts, its defaults for series where it has none."""
        own = {} if self.threshold is None else {"threshold": clone(self.threshold)}
        return self._inner().composed(self._defaults) | own

    def _views(self, measured: int, cells: int, rows: int) -> list[View]:
        given = self.views
        views = usual_views(measured, cells, rows) if given is None else [clone(view) for view in given]
        if self.views is None and self.detector is not None:
            views.append(View(clone(self.parts_["scorer"])))
        if not views or not all(isinstance(view, View) for view in views):
            raise ConfigError(
                f"SeriesDetector needs views, however: {self.views!r}. Give a list of View(scorer), or None."
            )
        for view in views:
            view.check()
        return views

    def _inner(self) -> Detector:
        return self.detector if self.detector is not None else AutoencoderDetector()

    # --- learning ----------------------------------------------------------------------------------------------------

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn from rows `X` `(n, n_features)` of normal operation, in order of time; `y` is ignored.

        Raises
        ------
        ValueError
            Fewer than 4 rows, infinite values, text in an array.
        DataError
            Times that cannot be read or go back; duplicates or gaps where these are to be errors.
        """
        check_inner(self._inner())
        taken = self._taken(X, reset=True)
        inner, self.parts_, self.call_ = self._inner(), self.parts(), called(self)
        self.n_rows_seen_, self.lineage_, self.files_ = len(taken.codes), [], []
        self.groups_ = named_groups(taken.groups)
        line = self._timeline(taken, longest_fill=0)
        rows = line.rows(taken.codes)
        numbers = np.array([column.kind == "number" for column in self.contract_.columns])
        measured, cells = told_apart(numbers, rows)
        self.views_ = self._views(int(measured.sum()), cells, len(rows))
        rng = check_random_state(self.random_state if self.random_state is not None else inner.random_state)
        needs_net = any(view.scorer.reads_net for view in self.views_)
        by_turns = inner.calibration == "cross" or (inner.calibration == "auto" and not needs_net)
        patterns, last = [once(len(rows))], ""
        if by_turns and len(rows) >= FEWEST_ROWS:
            patterns, last = by_thirds(any(view.scorer.needs_validate for view in self.views_))
        divided = [kinds_in_time(line.bounds, pattern) for pattern in patterns]
        self.window_ = self._window(rows[:, measured], divided[0].fit)
        divided = [kinds.spaced(line.bounds, self._longest) for kinds in divided]
        learning = Learning(self, rows, rng, len(divided) + (len(divided) > 1))
        folds = [learning.fold(kinds) for kinds in divided]
        self.fold_ = folds[0]
        if last:
            self.fold_ = learning.fold(kinds_in_time(line.bounds, last).spaced(line.bounds, self._longest))
        learning.check_up(folds[0], divided[0].calibrate)
        for fold in (*folds[1:], self.fold_):
            fold.begin_as(folds[0])
        warn_of_collapse(learning.records, type(self).__name__)
        self.history_ = learning.history()
        self.calibrated_, line = {}, self._timeline(taken)  # held-out rows are read as new ones will be
        rows = line.rows(taken.codes)
        for reduce in self._ways:
            told = [
                raw
                for fold, kinds in zip(folds, divided, strict=True)
                for raw in self._raw(fold, line, rows, line.over(kinds.calibrate), reduce)
            ]
            seen = told
            if len(folds) == 1 and len(divided[0].validate):  # with a single division none is held out for two ends
                seen = self._raw(self.fold_, line, rows, line.over(divided[0].validate), reduce)
            step = self._step(reduce, len(rows))
            self._calibrate(reduce, self.fold_.rarities(seen, step), told, step)
        held_out = sum(int((kinds.calibrate[:, 1] - kinds.calibrate[:, 0]).sum()) for kinds in divided)
        self._learn_profile(taken.codes[line.order], held_out, len(divided) > 1)
        learning.end()
        return self

    @all_or_nothing
    def recalibrate(self, X: ArrayLike) -> Self:
        """Set threshold, p-values and events anew by rows of normal operation that no fit has seen; the views stay.

        Raises
        ------
        ValueError
            Infinite values, other columns than at fit.
        DataError
            Times that cannot be read or go back; duplicates or gaps where these are to be errors.
        """
        taken = self._taken(X)
        line = self._timeline(taken)
        rows = line.rows(taken.codes)
        self.parts_ = self.parts_ | {"threshold": self.parts()["threshold"]}  # it may have been set since
        self.call_ = clone(self.call_).set_params(threshold=self.threshold, event_rule=self.event_rule)
        before = self.calibration_scores_, self.threshold_.value_
        for reduce in self._ways:
            told = self._raw(self.fold_, line, rows, line.bounds, reduce)
            self._calibrate(reduce, self._calibrated(reduce).rarities, told, self._step(reduce, len(rows)))
        warn_of_calibrating(self, self.calibration_scores_, *before)
        self._learn_profile(taken.codes[line.order], len(taken.codes), False)
        return self

    @property
    def _ways(self) -> list[str]:
        """From windows to rows: as asked for, and as a stream does it."""
        return list(dict.fromkeys([self.reduce, "last"]))

    def _calibrate(self, reduce: str, rarities: list[Rarity], told: list[Raw], step: int) -> None:
        rules = self.parts_["threshold"], self._events_rule
        mine = Calibrated.learn(self.fold_, rarities, told, step, *rules, self.smoothing)
        self.calibrated_ = self.calibrated_ | {reduce: mine}

    def _learn_profile(self, codes: Array, held_out: int, by_turns: bool) -> None:
        """What rows look like, and what was said of those held out, which are so many."""
        readings, self._mine.held_out = self._mine.held_out, []
        told = np.concatenate(
            [np.column_stack([one.columns, one.scores]) for one in readings if one.columns is not None]
        )
        told_time = correlation_time(told, held_out / len(told), [len(one.scores) for one in readings])
        most = max(MOST, LONGEST_RECORD // codes.shape[1])
        first = max(0, (len(codes) - most) // 2)
        self.profile_ = Profile.learn(
            self.contract_.columns,
            codes[:: math.ceil(len(codes) / MOST)],
            told[:, :-1],
            (len(codes), held_out),
            by_turns,
            correlation_time(codes[first : first + most]),
            told_time,
        )
        warn_of_few(self)

    @property
    def _events_rule(self) -> Events:
        return self.event_rule if self.event_rule is not None else Events()

    def _window(self, measured: Array, fit: Places) -> int:
        return automatic(measured, fit, len(measured)) if self.window == "auto" else given(self.window, len(measured))

    @property
    def _longest(self) -> int:
        """Rows of the longest view's windows."""
        longest = longest_window(self.n_rows_seen_)
        return max(view.length(self.window_, longest) for view in self.views_)

    def _new_fold(self, channels: Channels, seed: int) -> SeriesFold:
        inner = self._inner()
        parts = {axis: clone(part) if part is not None else None for axis, part in self.parts_.items()}
        views = [clone(view) for view in self.views_]
        longest = longest_window(self.n_rows_seen_)
        return SeriesFold(parts, views, channels, self.window_, longest, inner._device(), seed, inner._dtype())

    def _step(self, reduce: str, rows: int) -> int:
        """Of so many rows, each of so many is enough to calibrate by "last"."""
        return max(1, rows // ENOUGH_ROWS) if reduce == "last" and self.smoothing == 1 else 1

    def _raw(self, fold: SeriesFold, line: Timeline, rows: Array, runs: Places, reduce: str) -> list[Raw]:
        """What views say of held-out runs of a timeline: of all given rows, by "last" of every `_step`-th."""
        told, step = [], self._step(reduce, len(rows))
        for first, last in runs:
            run, given = rows[first:last], np.flatnonzero(line.source[first:last] >= 0)
            if reduce == "mean" or len(run) < 2 * fold.length:
                told.append(fold.raw(run, reduce, self.stride).at(given[::step]))
            else:
                ends = given[given >= fold.length - 1][::step]
                told.append(fold.raw_at(fold.channels.encode(run)[0], ends))
        return told

    # --- keeping -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write a model folder, without pickle, and return its path; neighbours store windows of fit rows in it.

        Raises
        ------
        OutputError
            When the folder exists and `overwrite` is not set, is no model folder, or cannot be written.
        """
        check_is_fitted(self)
        float32 = self.fold_.dtype == torch.float32
        config = config_of(self, float32=float32, window=self.window_, step=self.step_, groups=self.groups_)
        config["views"] = [storage.to_tree(view) for view in self.views_]
        arrays = {**self.fold_.channels.state, **arrays_of(self)}
        for reduce, calibrated in self.calibrated_.items():
            arrays |= {f"{reduce}/{name}": array for name, array in calibrated.state.items()}
        return storage.save(path, storage.Stored(config, self.fold_.weights(), arrays, self.history_), overwrite)


def restore(stored: storage.Stored, path: str | os.PathLike[str], parts: Mapping[str, type]) -> SeriesDetector:
    """The detector that `SeriesDetector.save` wrote, from what its folder holds."""
    names = {**storage.vocabulary(), **DETECTORS, **SERIES_DETECTORS, **parts}
    try:
        config, arrays = stored.config, stored.arrays
        detector: SeriesDetector = storage.from_tree(config["detector"], names, "the model folder")
        fitted = recall(detector, stored)
        detector.parts_ = {axis: storage.from_tree(tree, names) for axis, tree in config["parts"].items()}
        detector.views_ = [storage.from_tree(tree, names) for tree in config["views"]]
        detector.window_, detector.step_, detector.groups_ = fitted["window"], fitted["step"], fitted.get("groups")
        channels = Channels.from_state(detector.parts_["preprocessing"], arrays)
        detector.fold_ = detector._new_fold(channels, 0).restore(stored.weights)
        rest = len(detector.views_), detector.parts_["threshold"], detector._events_rule, detector.smoothing
        detector.calibrated_ = {
            reduce: Calibrated.from_state(below(f"{reduce}/", arrays), *rest) for reduce in detector._ways
        }
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        raise ModelFolderError(
            f"A model folder must fit together, however: {path} does not ({error}). Fit the model again."
        ) from error
    return detector


SERIES_DETECTORS: dict[str, type[SeriesDetector]] = {"SeriesDetector": SeriesDetector}
