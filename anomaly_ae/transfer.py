"""What a detector has learned from rows without labels, taken on by a classifier or a regressor."""

from __future__ import annotations

import warnings
from copy import deepcopy
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, _fit_context, clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils import _safe_indexing, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils._param_validation import Interval
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from anomaly_ae.defaults import DefaultsMixin
from anomaly_ae.detectors import VAEDetector
from anomaly_ae.errors import ConfigError, DataError
from anomaly_ae.estimator import Detector
from anomaly_ae.keeping import all_or_nothing
from anomaly_ae.nn.training import Recipe
from anomaly_ae.scoring.variational import NegativeELBO

Array = NDArray[np.float64]
BATCH = 256  # labelled rows a step, at most
PARAMETERS = """detector : AutoencoderDetector, VAEDetector or None, default=None
        Whose codes are read, those of `transform`: of its first net. One that is not fitted is cloned, and learns from
        all rows of `fit`, with labels and without; a detector that cross-fits trains five nets for that, so set
        `calibration="split"`. `None` is `VAEDetector(scorer=NegativeELBO(), calibration="split")`;
        `set_params(detector__latent__dim=8)` reaches into it. One that is fitted, on another table of the same
        columns, is taken as it is: rows without a label then teach nothing. It is copied and stays as it was to the
        bit. `clone`, and so every grid, takes its fit away: there give it as `sklearn.frozen.FrozenEstimator(det)`.
    fine_tune : bool, default=True
        Whether the encoder learns from labelled rows as well. Without, the head alone does: the safer choice where
        labels are very few.
    epochs : int >= 1, default=100
        Passes over the labelled rows that the encoder takes, 256 rows a step.
    learning_rate : float > 0, default=0.001
        Peak of AdamW's learning rate, which rises for 5 % of the steps and then falls along a cosine.
    weight_decay : float >= 0, default=0
        AdamW's decoupled weight decay of the encoder.
    random_state : int, RandomState or None, default=None
        Seed of a detector without one of its own, and of batches; an int makes `fit` repeat.

    Attributes
    ----------
    encoder_ : detector
        A copy, by whose `transform` rows are read. It is a detector no more where its encoder was tuned: decoder and
        scorer have not followed."""


class PretrainedMixin(DefaultsMixin):
    """An encoder that needs no labels, and a linear head on its codes: what classifier and regressor share."""

    detector: Any
    fine_tune: bool
    epochs: int
    learning_rate: float
    weight_decay: float
    random_state: Any

    encoder_: Detector
    head_: Any
    n_features_in_: int

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "detector": [Detector, FrozenEstimator, None],
        "fine_tune": ["boolean"],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        detector: Detector | None = None,
        *,
        fine_tune: bool = True,
        epochs: int = 100,
        learning_rate: float = 0.001,
        weight_decay: float = 0.0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.detector = detector
        self.fine_tune = fine_tune
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    def _default(self, name: str) -> BaseEstimator | None:
        return VAEDetector(scorer=NegativeELBO(), calibration="split") if name == "detector" else None

    @all_or_nothing
    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from rows `X` `(n, n_features)` and their labels `y` `(n,)`, NaN, None or NA where there is none.

        Raises
        ------
        DataError
            Where no row has a label, or labels are of one class only.
        """
        if y is None:
            raise DataError(
                f"{type(self).__name__} requires y to be passed, but the target y is None, however: only X is there. "
                "Give labels, NaN where there are none."
            )
        rng = check_random_state(self.random_state)
        there, labels = self._known(X, y)
        self._check_labels(labels)
        self.encoder_ = self._encoder(X, rng)
        self.n_features_in_ = self.encoder_.n_features_in_
        if hasattr(self.encoder_, "feature_names_in_"):
            self.feature_names_in_ = self.encoder_.feature_names_in_
        self.head_ = self._head().fit(self._codes(X)[there], labels)
        if self.fine_tune:
            recipe = Recipe(
                max_epochs=self.epochs,
                steps_per_epoch=-(-len(labels) // BATCH),
                batch_size=BATCH,
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                clip_norm=1.0,
                patience=None,
            )
            rows, start = self.encoder_._checked(X)[there], self._start(labels)
            self.encoder_.folds_[0].tune(rows, *start, recipe, rng.randint(2**31 - 1))
            self.head_ = self._head().fit(self._codes(X)[there], labels)
        return self

    def _known(self, X: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.intp], NDArray[Any]]:
        """The numbers of rows that have a label, and these labels."""
        listed = isinstance(y, list | tuple)  # NumPy would spell a gap among words out
        labels = column_or_1d(np.array(y, dtype=object) if listed else y, warn=True)
        check_consistent_length(X, labels)
        there = np.flatnonzero(~pd.isna(labels))
        if not len(there):
            raise DataError(
                f"{type(self).__name__} needs rows with a label, however: all {len(labels)} are missing. Give some."
            )
        return there, pd.Series(labels[there]).infer_objects().to_numpy()  # numbers among None are numbers

    def _encoder(self, X: ArrayLike, rng: np.random.RandomState) -> Detector:
        """The detector whose codes are read, which is nobody else's."""
        given = self.detector.estimator if isinstance(self.detector, FrozenEstimator) else self.detector
        given = self._default("detector") if given is None else given
        if not isinstance(given, Detector):
            raise ConfigError(
                f"{type(self).__name__} needs a detector of rows, however: {given!r}. Give an AutoencoderDetector or a "
                "VAEDetector."
            )
        try:
            check_is_fitted(given)
        except NotFittedError:
            fresh = clone(given)
            if fresh.random_state is None:
                fresh.set_params(random_state=rng.randint(2**31 - 1))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".* calibrate rows")  # no threshold is asked for
                return fresh.fit(X)
        return deepcopy(given)

    def _check_labels(self, labels: NDArray[Any]) -> None:
        raise NotImplementedError

    def _head(self) -> Any:
        raise NotImplementedError

    def _start(self, labels: NDArray[Any]) -> tuple[NDArray[Any], Array, Array]:
        """Labels as the loss takes them, weight and bias of the head that tuning starts from."""
        raise NotImplementedError

    def _codes(self, X: ArrayLike) -> Array:
        check_is_fitted(self)
        return np.asarray(self.encoder_.transform(X))  # whatever output is set

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The label of each row, `(n,)`."""
        codes = self._codes(X)
        predicted: NDArray[Any] = self.head_.predict(codes)
        return predicted

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy of a classifier, R^2 of a regressor; rows without a label do not count."""
        there, labels = self._known(X, y)
        weight = None if sample_weight is None else _safe_indexing(sample_weight, there)
        return float(super().score(_safe_indexing(X, there), labels, weight))  # type: ignore[misc]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.allow_nan = True
        tags.target_tags.required = True
        return tags


class PretrainedClassifier(PretrainedMixin, ClassifierMixin, BaseEstimator):
    __doc__ = f"""Tells classes apart by the codes of a detector, which has learned from rows without a label as well.

    .. math:: p(y|x) = \\mathrm{{softmax}}(W z(x) + b)

    The head is scikit-learn's `LogisticRegression` on the codes :math:`z(x)`. With `fine_tune` the encoder goes on
    learning together with it, by the labelled rows and the same loss, and the head is then fitted anew. Columns are
    those that detectors take: tables of mixed types, with gaps.

    A row without a label has NaN, None or NA in `y`. scikit-learn's -1 is a label like others, for here it means an
    anomaly: `np.where(y == -1, np.nan, y)` turns it.

    It pays where labels are few, other rows many, and classes a matter of what many columns have in common; else a
    linear model or trees on the columns do as well. A model folder does not hold it: keep it by
    joblib or skops, as scikit-learn's own.

    Parameters
    ----------
    {PARAMETERS}
    head_ : LogisticRegression
        The head.
    classes_ : ndarray of shape (n_classes,)
        The classes, in the order of `predict_proba`.

    References
    ----------
    Kingma et al. (2014), Semi-supervised learning with deep generative models, arXiv:1406.5298 (M1: a head on codes);
    Kumar et al. (2022), Fine-tuning can distort pretrained features, arXiv:2202.10054 (the head first, then both).

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import PretrainedClassifier
    >>> rng = np.random.default_rng(0)
    >>> side = rng.integers(2, size=200)
    >>> X = side[:, None] + 0.3 * rng.normal(size=(200, 4))
    >>> y = np.where(np.arange(200) < 10, side, np.nan)  # ten labels
    >>> clf = PretrainedClassifier(random_state=0).fit(X, y)
    >>> clf.predict([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    array([0., 1.])
    """

    @property
    def classes_(self) -> NDArray[Any]:
        """The classes, in the order of `predict_proba`."""
        classes: NDArray[Any] = self.head_.classes_
        return classes

    def _check_labels(self, labels: NDArray[Any]) -> None:
        check_classification_targets(labels)
        if len(np.unique(labels)) < 2:
            raise DataError(
                f"{type(self).__name__} needs labels of two classes or more, however: all are of one class, "
                f"{labels[0]!r}. Give labels of others, or use a detector."
            )

    def _head(self) -> LogisticRegression:
        return LogisticRegression(max_iter=1000)

    def _start(self, labels: NDArray[Any]) -> tuple[NDArray[Any], Array, Array]:
        return np.searchsorted(self.classes_, labels), self.head_.coef_, self.head_.intercept_

    def predict_proba(self, X: ArrayLike) -> Array:
        """The probability of each class, `(n, n_classes)`."""
        codes = self._codes(X)
        probabilities: Array = self.head_.predict_proba(codes)
        return probabilities


class PretrainedRegressor(PretrainedMixin, RegressorMixin, BaseEstimator):
    __doc__ = f"""Predicts a number by the codes of a detector, which has learned from rows without a label as well.

    .. math:: \\hat y(x) = w^T z(x) + b

    The head is scikit-learn's `Ridge` on the codes :math:`z(x)`. With `fine_tune` the encoder goes on learning together
    with it, by the labelled rows and the squared error, and the head is then fitted anew. Columns are those that
    detectors take: tables of mixed types, with gaps. A row without a label has NaN in `y`.

    It pays where labels are few, other rows many, and the number is a matter of what columns have in common; else a
    linear model or trees on the columns do as well. A model folder does not hold it: keep it by joblib or skops, as
    scikit-learn's own.

    Parameters
    ----------
    {PARAMETERS}
    head_ : Ridge
        The head.

    References
    ----------
    Kumar et al. (2022), Fine-tuning can distort pretrained features, arXiv:2202.10054 (the head first, then both).

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import PretrainedRegressor
    >>> rng = np.random.default_rng(0)
    >>> load = rng.uniform(size=300)
    >>> X = load[:, None] + 0.1 * rng.normal(size=(300, 4))
    >>> y = np.where(np.arange(300) < 15, 10 * load, np.nan)  # fifteen labels
    >>> reg = PretrainedRegressor(random_state=0).fit(X, y)
    >>> reg.predict([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.8, 0.8]]).round()
    array([2., 8.])
    """

    def _check_labels(self, labels: NDArray[Any]) -> None:
        if labels.dtype.kind not in "biuf" or not np.isfinite(labels).all():
            raise DataError(
                f"{type(self).__name__} needs labels that are finite numbers, however: {labels!r}. Give NaN where "
                "there is none."
            )
        if len(labels) < 2:
            raise DataError(f"{type(self).__name__} needs two labels or more, however: n_samples = 1. Give it more.")

    def _head(self) -> Ridge:
        return Ridge()

    def _start(self, labels: NDArray[Any]) -> tuple[NDArray[Any], Array, Array]:
        spread = labels.std() or 1.0  # a loss in nobody's units
        weight, bias = self.head_.coef_[None] / spread, np.array([(self.head_.intercept_ - labels.mean()) / spread])
        return ((labels - labels.mean()) / spread).astype(np.float32), weight, bias
