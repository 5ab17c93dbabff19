"""PyOD both ways: its detectors used like ours, ours inside its ensembles. pyod is imported by `as_pyod` only.

PyOD says that higher is stranger, and labels 0 and 1; scikit-learn, and so this package, that lower is stranger, and
+1 and -1. Each adapter turns the sign in one line.
"""

from __future__ import annotations

import functools
from numbers import Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OutlierMixin, _fit_context, clone
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, get_tags
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_ae.defaults import DefaultsMixin
from anomaly_ae.errors import ConfigError, MissingExtraError
from anomaly_ae.scoring.calibration import p_values
from anomaly_ae.scoring.thresholds import Conformal

Array = NDArray[np.float64]


class PyODDetector(DefaultsMixin, OutlierMixin, BaseEstimator):
    r"""A detector of PyOD used and compared like ours: scikit-learn's signs, a calibrated threshold, p-values.

    .. math:: s(x) = \text{decision\_function}_{\text{PyOD}}(x), \qquad \text{alarm where } s(x) > t

    `fit` sets a share of the normal rows aside at random, fits a clone of the PyOD detector on the others, and
    calibrates the threshold `t` and the p-values on those set aside. PyOD's own `contamination` plays no part. Scores
    are PyOD's to the bit. Nothing is standardised here: give a pipeline where columns need it,
    `PyODDetector(make_pipeline(StandardScaler(), KNN()))`, so that calibrate rows stay out of the scaling too.

    The promise of `Conformal` needs scores that depend on their row alone. In PyOD 3.6 those of ECOD, COPOD and DIF
    change with the other rows of a call, and VAE draws noise at each.

    Parameters
    ----------
    detector : PyOD detector, or Pipeline that ends in one
        What to fit; stays as it is. Where its `random_state` is `None`, `fit` seeds the clone.
    threshold : threshold or None, default=None
        Where strange becomes alarm; `None` is `Conformal()`. `set_params(threshold__alpha=0.01)` reaches into it.
    calibration_share : float in (0, 1), default=0.2
        Share of rows that calibrate; at least one row does, and at least one does not.
    random_state : int, RandomState or None, default=None
        Seed of the division and of a PyOD detector without one of its own; an int makes `fit` repeat, save for PyOD
        detectors that take no seed.

    Attributes
    ----------
    detector_ : PyOD detector
        The fitted clone.
    threshold_ : threshold
        The fitted threshold; `threshold_.value_` is on PyOD's scale.
    calibration_scores_ : ndarray of shape (n_calibrate,)
        Scores of calibrate rows, ascending.

    Raises
    ------
    ConfigError
        At `fit`, when the detector is not PyOD's (its sign would be the wrong one), or its scores are not finite.

    References
    ----------
    Zhao, Nasrullah and Li (2019), PyOD: a Python toolbox for scalable outlier detection, arXiv:1901.01588;
    Bates et al. (2023), Testing for outliers with conformal p-values, arXiv:2104.08279.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import PyODDetector
    >>> from pyod.models.knn import KNN
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> det = PyODDetector(KNN(n_neighbors=10), random_state=0).fit(X)
    >>> det.predict([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]])
    array([ 1, -1])
    """

    detector_: Any
    threshold_: Any
    calibration_scores_: Array

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "detector": [HasMethods(["fit", "decision_function", "get_params", "set_params"])],
        "threshold": [BaseEstimator, None],
        "calibration_share": [Interval(Real, 0, 1, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        detector: Any,
        threshold: BaseEstimator | None = None,
        calibration_share: float = 0.2,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.detector = detector
        self.threshold = threshold
        self.calibration_share = calibration_share
        self.random_state = random_state

    def _default(self, name: str) -> BaseEstimator | None:
        return Conformal() if name == "threshold" else None

    @_fit_context(prefer_skip_nested_validation=False)
    def fit(self, X: ArrayLike, y: Any = None) -> Self:
        """Learn from normal rows `X` `(n, n_features)`, two or more; `y` is ignored."""
        finite = "allow-nan" if get_tags(self.detector).input_tags.allow_nan else True
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2, ensure_all_finite=finite)
        rng = check_random_state(self.random_state)
        order = rng.permutation(len(rows))
        calibrate = min(max(1, round(self.calibration_share * len(rows))), len(rows) - 1)
        detector = clone(self.detector)
        seeds = {
            name: rng.randint(2**31 - 1)
            for name, value in sorted(detector.get_params().items())
            if value is None and name.rpartition("__")[2] == "random_state"
        }
        self.detector_ = detector.set_params(**seeds).fit(rows[order[calibrate:]])
        last = self.detector_[-1] if isinstance(self.detector_, Pipeline) else self.detector_
        if not hasattr(last, "decision_scores_"):
            raise ConfigError(
                f"PyODDetector needs a detector of PyOD, however: {last!r} has no decision_scores_ after fit. Use "
                "detectors with scikit-learn's sign as they are."
            )
        self.calibration_scores_ = np.sort(self._scores(rows[order[:calibrate]]))
        if not np.isfinite(self.calibration_scores_).all():
            raise ConfigError(
                f"PyODDetector needs finite scores, however: those of calibrate rows by {last!r} are not. Remove "
                "duplicate rows, or take another detector."
            )
        self.threshold_ = clone(self.threshold or Conformal()).fit(self.calibration_scores_)
        return self

    def _scores(self, rows: Array) -> Array:
        return np.asarray(self.detector_.decision_function(rows), dtype=np.float64).reshape(len(rows))

    def anomaly_score(self, X: ArrayLike) -> Array:
        """How strange each row is, `(n,)`: PyOD's `decision_function`; larger is stranger."""
        check_is_fitted(self)
        finite = "allow-nan" if get_tags(self.detector).input_tags.allow_nan else True
        return self._scores(validate_data(self, X, dtype=np.float64, reset=False, ensure_all_finite=finite))

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
        """Conformal p-values, `(n,)`: the share of normal rows at least as strange, as of our own detectors."""
        return p_values(self.anomaly_score(X), self.calibration_scores_)

    @property
    def offset_(self) -> float:
        """`decision_function` is `score_samples - offset_`."""
        return -self.threshold_.value_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = get_tags(self.detector).input_tags.allow_nan
        return tags


def as_pyod(detector: Any, contamination: Any = 0.1) -> Any:
    r"""One of our detectors, unfitted, as a detector of PyOD: a `pyod.models.base.BaseDetector` for its ensembles.

    .. math:: \text{decision\_function}_{\text{PyOD}}(x) = -\text{score\_samples}(x)

    `fit` fits a clone, `detector_`, and sets `decision_scores_`, `threshold_` and `labels_` of the training rows as
    PyOD does; `predict` says 0 and 1, `predict_proba` and the rest are PyOD's own. The threshold is PyOD's quantile
    of training scores, not a promise: a row that the detector remembers is near itself, so that it comes out low. The
    calibrated one is that of `detector_`.

    Parameters
    ----------
    detector : detector with scikit-learn's sign, or Pipeline that ends in one
        Anything with `score_samples`. A fitted one stays fitted inside `sklearn.frozen.FrozenEstimator`.
    contamination : float in (0, 0.5] or PyThresh object, default=0.1
        Share of training rows that PyOD labels 1.

    Raises
    ------
    MissingExtraError
        When pyod is not installed.
    ConfigError
        When the detector has no `score_samples`.

    References
    ----------
    Zhao, Nasrullah and Li (2019), PyOD: a Python toolbox for scalable outlier detection, arXiv:1901.01588.

    Examples
    --------
    >>> import numpy as np
    >>> from anomaly_ae import AutoencoderDetector, as_pyod
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> clf = as_pyod(AutoencoderDetector(max_epochs=5, random_state=0)).fit(X)
    >>> clf.predict(np.array([[0.0, 0.0, 0.0], [9.0, 9.0, 9.0]]))
    array([0, 1])
    """
    return _for_pyod()(detector, contamination)


@functools.cache
def _for_pyod() -> type:
    """The class `ForPyOD`, made when first wanted since its base is pyod's."""
    try:
        from pyod.models.base import BaseDetector
    except ImportError as error:
        raise MissingExtraError(
            "as_pyod needs pyod, however: it is not installed. Run pip install 'anomaly-ae[pyod]'."
        ) from error

    class ForPyOD(BaseDetector):
        """What `as_pyod` returns."""

        def __init__(self, detector: Any, contamination: Any = 0.1) -> None:
            super().__init__(contamination=contamination)
            if not hasattr(detector, "score_samples"):
                raise ConfigError(
                    f"as_pyod needs a detector with score_samples, however: {detector!r}. Give PyOD its own as is."
                )
            self.detector = detector

        def fit(self, X: ArrayLike, y: Any = None) -> Self:
            self._set_n_classes(y)
            self.detector_ = clone(self.detector).fit(X, None)  # FrozenEstimator wants a y
            self.decision_scores_ = self.decision_function(X)
            self._process_decision_scores()
            return self

        def decision_function(self, X: ArrayLike) -> Array:
            check_is_fitted(self, "detector_")
            return -self.detector_.score_samples(X)

    ForPyOD.__qualname__ = "ForPyOD"  # pickle asks this module for it, and __getattr__ answers
    return ForPyOD


def __getattr__(name: str) -> Any:
    if name == "ForPyOD":
        return _for_pyod()
    raise AttributeError(f"module 'anomaly_ae.adapters' has no attribute {name!r}")
