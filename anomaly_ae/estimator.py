"""The scikit-learn face: a composition of parts that fits, scores, calibrates, explains and represents."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import (
    BaseEstimator,
    OutlierMixin,
    _fit_context,
    clone,
)
from sklearn.callback import CallbackSupportMixin
from sklearn.utils import _safe_indexing, check_consistent_length, check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from anomaly_ae import storage
from anomaly_ae.columns import as_frame, warn_of_copies, warn_of_pooled
from anomaly_ae.data.preprocessing import Preprocessing
from anomaly_ae.defaults import DefaultsMixin
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.explanation import known
from anomaly_ae.folds import Fold, Told
from anomaly_ae.incremental import IncrementalMixin
from anomaly_ae.keeping import all_or_nothing, arrays_of, called, config_of
from anomaly_ae.monitoring.profile import References
from anomaly_ae.nn.core import Part, faces_prior, lacking, place_for
from anomaly_ae.nn.divergences import warn_of_collapse
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import Recipe
from anomaly_ae.representation import RepresentationMixin
from anomaly_ae.scoring.calibration import lower_median, p_values, splits
from anomaly_ae.truth import truth, warn_of_ignored

Array = NDArray[np.float64]
FOLDS = 5
ANY = 1000  # scores, with which any threshold can be tried
CROSS_BELOW = 1000  # rows; above it a fifth of them calibrates well enough
AXES = ("preprocessing", *Net.AXES, "scorer", "labels", "threshold")


class Detector(CallbackSupportMixin, DefaultsMixin, IncrementalMixin, RepresentationMixin, OutlierMixin, BaseEstimator):
    """Learns what normal rows look like, then says of new rows how strange they are and which column is to blame.

    A detector is a composition of parts; a part left at `None` is the class's documented default. `fit` divides the
    rows into three kinds: *fit* rows set the weights, *validate* rows stop training, *calibrate* rows set threshold
    and p-values. Below 1000 rows five nets rotate through the kinds (cross-fitting) and a row's score is the median
    of theirs; the false-alarm rate is then promised to be at most twice the threshold's `alpha`.

    `score_samples` and `decision_function` have scikit-learn's sign (larger is more normal); `anomaly_score` is the
    opposite. Scores depend neither on other rows nor on the size of batches.

    Parameters
    ----------
    preprocessing, backbone, latent, prior, divergence, likelihood, corruption, penalty, scorer, labels, threshold : \
            part or None, default=None
        What stands on each axis of the composition; `None` is the class's default. `set_params(divergence__beta=4)`
        reaches into a default as well, `set_params(scorer__scorers__2__k=3)` into the third of a list.
    effort : {"fast", "default", "best"}, default="default"
        Trades accuracy for speed by the choice of the default parts: "fast" asks the net alone, which is solved or
        trained for fewer epochs, and read in float32, whose scores depend on other rows in their seventh digit;
        "default" fuses it with neighbours and denoisers of neighbourhoods, in closed form; "best" with more of them.
    members : int >= 1, default=1
        Nets of an ensemble, trained at once, that differ by their first weights and the order of batches. A net's
        score is the mean of theirs; `Disagreement` asks where they differ.
    calibration : {"auto", "split", "cross"}, default="auto"
        Divide the rows once ("split"), or rotate through five folds ("cross"); "auto" rotates below 1000 rows.
    max_epochs : int >= 1 or None, default=None
        Upper bound on epochs; `None` is 40, of a `VAEDetector` 30, and with `effort="fast"` 16 and 10. A net in closed
        form (`RandomFeatures`) takes one.
    steps_per_epoch : int >= 1 or None, default=None
        Batches an epoch. `None` is three passes over the fit rows, at most 25 batches, so that training time does not
        grow with the number of rows; of a `VAEDetector` at least 10, with `effort="fast"` 25. An autoencoder that
        rebuilds few rows badly wants more.
    batch_size : int >= 1, default=256
        Rows a batch, at most.
    learning_rate : float > 0 or None, default=None
        Peak of AdamW's learning rate, which rises for 5 % of the steps and then falls along a cosine. `None` is 0.005,
        of a `VAEDetector` 0.015, or 0.02 with `effort="fast"`.
    weight_decay : float >= 0, default=1e-5
        AdamW's decoupled weight decay.
    clip_norm : float > 0 or None, default=1.0
        Largest norm of the gradient of the loss per column.
    patience : int >= 1 or None, default=10
        Epochs without a better validate loss before training stops; `None` never stops early.
    device : str, default="auto"
        Where to compute, as torch names it; "auto" is a CUDA device if there is one, else the CPU.
    warm_start : bool, default=False
        Whether `fit` goes on from the nets of the last `fit`, with their columns and scaling, and divides the rows
        anew. The threshold keeps its promise on rows that are new to the nets, and on the same rows with the same
        integer as `random_state`, which divides them as before.
    random_state : int, RandomState or None, default=None
        Seed of splits, weights, batches and noise; an int makes `fit` repeat.
    """

    folds_: list[Fold]
    calibration_scores_: Array
    threshold_: Any
    lineage_: list[dict[str, Any]]  # which models and data this one comes from
    files_: list[str]  # digests of those that it learned from

    _of_others = {"preprocessing__condition": "Conditional"}
    _defaults: ClassVar[Mapping[str, Any]] = {}  # what stands for `None`
    _by_effort: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # the same where it is a matter of effort
    least_steps: ClassVar[int] = 1  # an epoch, where `steps_per_epoch` is `None`

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{axis: [BaseEstimator, None] for axis in AXES},
        "preprocessing": [HasMethods("learn"), None],
        "labels": [HasMethods("beside"), None],
        "threshold": [HasMethods("fit"), None],
        "effort": [StrOptions({"fast", "default", "best"})],
        "members": [Interval(Integral, 1, None, closed="left")],
        "calibration": [StrOptions({"auto", "split", "cross"})],
        "max_epochs": [Interval(Integral, 1, None, closed="left"), None],
        "steps_per_epoch": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither"), None],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "patience": [Interval(Integral, 1, None, closed="left"), None],
        "device": [str],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        backbone: Part | None = None,
        latent: Part | None = None,
        prior: Part | None = None,
        divergence: Part | None = None,
        likelihood: Part | None = None,
        corruption: Part | None = None,
        penalty: Part | None = None,
        scorer: Part | None = None,
        labels: Part | None = None,
        threshold: BaseEstimator | None = None,
        effort: str = "default",
        members: int = 1,
        calibration: str = "auto",
        max_epochs: int | None = None,
        steps_per_epoch: int | None = None,
        batch_size: int = 256,
        learning_rate: float | None = None,
        weight_decay: float = 1e-5,
        clip_norm: float | None = 1.0,
        patience: int | None = 10,
        device: str = "auto",
        warm_start: bool = False,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.preprocessing = preprocessing
        self.backbone = backbone
        self.latent = latent
        self.prior = prior
        self.divergence = divergence
        self.likelihood = likelihood
        self.corruption = corruption
        self.penalty = penalty
        self.scorer = scorer
        self.labels = labels
        self.threshold = threshold
        self.effort = effort
        self.members = members
        self.calibration = calibration
        self.max_epochs = max_epochs
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.patience = patience
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state

    # --- composition -------------------------------------------------------------------------------------------------

    def parts(self) -> dict[str, Any]:
        """What stands on each axis: clones of the parts given, of the defaults where none is."""
        return self.composed({})

    def composed(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        """The parts, with other defaults on some axes."""
        given = {axis: getattr(self, axis) for axis in AXES}
        chosen = {
            axis: part if part is not None else defaults.get(axis, self._default(axis)) for axis, part in given.items()
        }
        axes = {axis: chosen[axis] for axis in Net.AXES}
        pieces = [piece for part in axes.values() if isinstance(part, Part) for piece in part.pieces()]
        wanting = lacking(axes["backbone"], axes) or any("backbone" in lacking(piece, axes) for piece in pieces)
        if self.backbone is None and wanting:
            chosen["backbone"] = self._defaults["backbone"]  # the effort's does not go with what was given
        if self.prior is None and not faces_prior(axes):
            chosen["prior"] = None  # codes have their own
        if (labels := chosen.pop("labels")) is not None:
            chosen["scorer"] = labels.beside(chosen["scorer"])
        return {axis: clone(part) if part is not None else None for axis, part in chosen.items()}

    def _default(self, name: str) -> Any:
        return self._by_effort[self.effort].get(name, self._defaults.get(name))

    def chosen(self, name: str) -> Any:
        """A parameter's value, or what stands for `None`."""
        given = getattr(self, name)
        return self._default(name) if given is None else given

    # --- learning ----------------------------------------------------------------------------------------------------

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn from normal rows `X` `(n, n_features)`; where no part asks for labels, `y` is ignored.

        An array holds numbers, NaN where one is missing. A DataFrame may hold numbers, booleans, text and dates. With
        `labels=KnownAnomalies()`, rows where `y` `(n,)` is -1 (or true) are known for anomalies: they train and
        calibrate nothing, and rows like them become strange. `PullPush` and `M2` have them train the net; nothing else
        does. All others are taken for normal; `M2` tells those where `y` is 1 (or false) from those where it is 0.

        Raises
        ------
        ValueError
            Fewer than 3 rows, infinite values, text in an array.
        DataError
            Nested values, integers beyond 2^53.
        """
        X, anomalies, sure = self._apart(X, y)
        kept = deepcopy(self.folds_) if self.warm_start and hasattr(self, "folds_") else []
        if kept:
            self._refuse_changes()
        self._begin()
        rows = self._checked(X) if kept else self._learn_columns(X)
        known_rows = None if anomalies is None else self._checked(anomalies)
        who, columns = type(self).__name__, self.contract_.columns
        warn_of_copies(rows, columns, who)
        warn_of_pooled(rows, columns, getattr(self.parts_["preprocessing"], "max_levels", len(rows)), who)
        rng = check_random_state(self.random_state)
        rotate = self.calibration == "cross" or (self.calibration == "auto" and len(rows) < CROSS_BELOW)
        divided = splits(len(rows), len(kept) or (FOLDS if rotate else 1), rng)
        context = self._init_callback_context(max_subtasks=len(divided))
        context.call_on_fit_task_begin(estimator=self, X=rows)
        self.folds_, self._reservoirs, self._learned, records = [], [], [], []
        self.lineage_, self.files_ = [], []
        references = References(rows, len(divided))
        for number, split in enumerate(divided):
            task = context.subcontext(task_name=f"net {number + 1} of {len(divided)}", max_subtasks=self.epochs)
            task.call_on_fit_task_begin(estimator=self)

            def on_epoch(record: dict[str, float], task: Any = task) -> bool:
                epoch = task.subcontext(task_name="epoch").call_on_fit_task_begin(estimator=self)
                return epoch.call_on_fit_task_end(estimator=self, metadata=record)

            fold = kept[number] if kept else self._new_fold(rows[split.fit], rng)
            seed = rng.randint(2**31 - 1)
            told = None if sure is None else Told(sure[split.fit], known_rows)
            history = fold.train(rows[split.fit], rows[split.validate], self._recipe(), seed, on_epoch, told=told)
            records += [{"net": number + 1, **record} for record in history]
            self._keep(fold, rows[split.calibrate], rows[split.fit], rng)
            references.add(*fold.assess(rows[references.choose(split.calibrate)]))
            task.call_on_fit_task_end(estimator=self)
        warn_of_collapse(records, who)
        self.history_ = pd.DataFrame(records)
        self.n_rows_seen_, self.profile_ = len(rows), references.profile(self.contract_.columns)
        self._calibrate([fold.remember(rows[s.calibrate]) for fold, s in zip(self.folds_, divided, strict=True)])
        context.call_on_fit_task_end(estimator=self)
        return self

    def asks_for_labels(self) -> bool:
        """Whether some part learns from rows that are known for anomalies."""
        parts = [part for part in self.parts().values() if isinstance(part, Part)]
        return any(piece.needs_labels for part in parts for piece in part.pieces())

    def _apart(self, X: Any, y: Any) -> tuple[Any, Any, NDArray[np.bool_] | None]:
        """Rows that are taken for normal, those that are known for anomalies, and which of the former it is known of.

        Where no part asks for labels there are none.
        """
        if y is None or not self.asks_for_labels():
            warn_of_ignored(y, type(self).__name__)
            return X, None, None
        anomalous, known = truth(y)
        X = as_frame(X)
        check_consistent_length(X, anomalous)
        if anomalous.all():
            raise DataError(
                f"{type(self).__name__} needs normal rows, however: all {len(anomalous):,} are labelled as anomalies. "
                "Give normal ones as well."
            )
        normal = _safe_indexing(X, ~anomalous)
        return normal, _safe_indexing(X, anomalous) if anomalous.any() else None, known[~anomalous]

    def _begin(self) -> None:
        """Take the parts and the call as they are now, and see that a threshold can be set by them."""
        self.parts_, self.call_ = self.parts(), called(self)
        with warnings.catch_warnings(action="ignore"):
            clone(self.parts_["threshold"]).fit(np.arange(ANY))

    def _refuse_changes(self) -> None:
        """Raise ConfigError where nets that are there could not have come from the parameters that are set."""
        others = [
            name for name in (*AXES, "effort", "members", "calibration")
            if name != "threshold" and _spelled(getattr(self, name)) != _spelled(getattr(self.call_, name))
        ]  # fmt: skip
        if others:
            raise ConfigError(
                f"{type(self).__name__} needs the parts of the last fit to start from, however: "
                f"{', '.join(others)} changed. Set warm_start=False, or what it was."
            )

    def _recipe(self, **changes: Any) -> Recipe:
        mine = {field.name: self.chosen(field.name) for field in fields(Recipe) if hasattr(self, field.name)}
        return Recipe(**(mine | changes))

    @property
    def epochs(self) -> int:
        """Upper bound on epochs: `max_epochs`, or what the effort makes of `None`."""
        return int(self.chosen("max_epochs"))

    def _new_fold(self, X: Array, rng: np.random.RandomState) -> Fold:
        parts = {axis: clone(part) if part is not None else None for axis, part in self.parts_.items()}
        encoding = parts["preprocessing"].learn(self.contract_.columns, X)  # type: ignore[union-attr]
        return Fold.build(parts, encoding, self._device(), rng.randint(2**31 - 1), self._dtype(), self.members)

    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.effort == "fast" else torch.float64

    def _device(self) -> str:
        return place_for(self.device)

    def _calibrate(self, scores: list[Array]) -> None:
        self.calibration_scores_ = np.sort(np.concatenate(scores))
        if not np.isfinite(self.calibration_scores_).all():
            raise ConfigError(
                f"{type(self).__name__} needs a training that stays finite, however: scores of calibrate rows are not. "
                f"Lower learning_rate (it is {self.chosen('learning_rate'):g}), or what else is out of proportion."
            )
        self.threshold_ = clone(self.parts_["threshold"]).fit(self.calibration_scores_)

    # --- saying ------------------------------------------------------------------------------------------------------

    def anomaly_score(self, X: ArrayLike) -> Array:
        """How strange each row is, `(n,)`; larger is stranger."""
        rows = self._checked(X)
        return known(lower_median(np.stack([fold.scores(rows) for fold in self.folds_]))[0])

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
        r"""Conformal p-values, `(n,)` in `[1/(m+1), 1]`: the share of `m` normal rows at least as strange.

        .. math:: p = \frac{1 + \#\{i : s_i \ge s(x)\}}{m + 1}
        """
        return p_values(self.anomaly_score(X), self.calibration_scores_)

    @property
    def offset_(self) -> float:
        """`decision_function` is `score_samples - offset_`."""
        return -self.threshold_.value_

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log-likelihood of rows, in nats; of a VAE that at the mean code, less the KL divergence; `y` is ignored.

        For choosing between settings of one composition. It rewards nets that copy their input, and does not compare
        across likelihoods: use labelled anomalies to choose between those.
        """
        rows = self._checked(X)
        return float(np.mean([fold.read(rows, fold.net.log_likelihood).mean() for fold in self.folds_]))

    # --- keeping -----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write a model folder (without pickle; `effort="fast"` also without training rows) and return its path.

        Raises
        ------
        OutputError
            When the folder exists and `overwrite` is not set, is no model folder, or cannot be written.
        """
        check_is_fitted(self)
        config = config_of(self, nets=len(self.folds_), float32=self.folds_[0].dtype == torch.float32)
        weights: dict[str, torch.Tensor] = {}
        arrays = {"calibration_scores": self.calibration_scores_, **arrays_of(self)}
        for number, fold in enumerate(self.folds_):
            weights |= {f"{number}/{name}": tensor for name, tensor in fold.weights().items()}
            arrays |= {
                f"{number}/{name}": array for name, array in (fold.encoding.state | {"margin": fold.margin}).items()
            }
        return storage.save(path, storage.Stored(config, weights, arrays, self.history_), overwrite)


def _spelled(value: Any) -> Any:
    """What tells a parameter's value from others: a repr leaves out the middle of what is long."""
    try:
        return storage.to_tree(value)
    except ConfigError:
        return repr(value)
