"""PyOD both ways: scores to the bit, signs, labels, thresholds, ensembles."""

import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from pyod.models.base import BaseDetector
from pyod.models.iforest import IForest
from pyod.models.knn import KNN
from pyod.models.lscp import LSCP
from pyod.utils.utility import precision_n_scores, score_to_label
from sklearn.base import clone
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomaly_ae import AutoencoderDetector, Conformal, PyODDetector, Quantile, VAEDetector, adapters, as_pyod, save
from anomaly_ae.errors import ConfigError
from anomaly_ae.scoring.calibration import false_alarm_band


def normal_rows(n, seed=0, d=4):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.triu(np.ones((d, d))) + 5


def ours(detector=AutoencoderDetector):
    return detector(calibration="split", max_epochs=5, random_state=0)


@pytest.fixture(scope="module")
def wrapped():
    return as_pyod(ours(), contamination=0.05).fit(normal_rows(300))


# --- PyOD's like ours ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Conformal")  # some checks fit on a few rows
@parametrize_with_checks([PyODDetector(KNN(n_neighbors=3))])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def test_scores_are_pyods_to_the_bit_and_signs_are_ours():
    X, new = normal_rows(300), normal_rows(80, seed=1)
    new[:5] += 50
    det = PyODDetector(KNN(), random_state=0).fit(X)
    order = np.random.RandomState(0).permutation(300)
    theirs = KNN().fit(X[order[60:]])
    score = theirs.decision_function(new)
    np.testing.assert_array_equal(det.anomaly_score(new), score)
    np.testing.assert_array_equal(det.score_samples(new), -score)
    np.testing.assert_array_equal(det.decision_function(new), -score - det.offset_)
    np.testing.assert_array_equal(det.calibration_scores_, np.sort(theirs.decision_function(X[order[:60]])))
    np.testing.assert_array_equal(det.predict(new) == -1, score > det.threshold_.value_)
    np.testing.assert_array_equal(det.predict(new) == -1, det.p_values(new) <= 0.05)
    assert set(det.predict(new)) == {-1, 1}
    assert (det.predict(new[:5]) == -1).all()
    np.testing.assert_array_equal(det.predict(new), PyODDetector(KNN(), random_state=0).fit(X).predict(new))
    np.testing.assert_array_equal(clone(det).fit_predict(X), det.predict(X))


def test_the_rate_of_false_alarms_is_the_one_promised():
    fresh = normal_rows(20_000, seed=1)
    for seed in range(3):
        det = PyODDetector(KNN(), random_state=seed).fit(normal_rows(2000, seed=10 + seed))
        low, high = false_alarm_band(0.05, 400, coverage=0.999)
        assert len(det.calibration_scores_) == 400
        assert low < np.mean(det.predict(fresh) == -1) < high
        assert np.mean(det.p_values(fresh) <= 0.5) == pytest.approx(0.5, abs=0.09)


def test_parameters_reach_into_detector_and_threshold_and_clones_share_nothing():
    knn = KNN()
    det = PyODDetector(knn).set_params(detector__n_neighbors=3, threshold__alpha=0.1, calibration_share=0.5)
    assert det.get_params()["detector__n_neighbors"] == knn.n_neighbors == 3
    other = clone(det)
    assert other.detector is not knn
    assert (other.detector.n_neighbors, other.threshold.alpha, other.calibration_share) == (3, 0.1, 0.5)
    other.fit(normal_rows(100))
    assert other.detector_.n_neighbors == 3
    assert other.threshold_.alpha == 0.1
    assert len(other.calibration_scores_) == 50
    assert not hasattr(other.detector, "decision_scores_")
    assert PyODDetector(knn, Quantile(0.9)).set_params(threshold__level=0.5).threshold.level == 0.5
    assert PyODDetector(knn, Quantile(0.9)).set_params(threshold=None, threshold__alpha=0.2).threshold.alpha == 0.2
    assert "KNN" in repr(det)
    assert "KNN" in det._repr_html_()
    for wrong in ({"calibration_share": 1.0}, {"detector": "KNN"}, {"threshold": 0.5}):
        with pytest.raises(ValueError, match=f"'{next(iter(wrong))}' parameter"):
            PyODDetector(KNN()).set_params(**wrong).fit(normal_rows(50))


def test_a_seed_reaches_a_pyod_detector_without_one_only():
    X = normal_rows(100)
    one, two, other = (PyODDetector(IForest(n_estimators=5), random_state=s).fit(X) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.anomaly_score(X), two.anomaly_score(X))
    assert one.detector_.random_state != other.detector_.random_state
    assert PyODDetector(IForest(n_estimators=5, random_state=7), random_state=0).fit(X).detector_.random_state == 7
    nested = PyODDetector(make_pipeline(StandardScaler(), IForest(n_estimators=5)), random_state=0).fit(X)
    assert isinstance(nested.detector_[-1].random_state, int)


def test_pipelines_outside_and_inside_and_grid_search():
    X = pd.DataFrame(normal_rows(200), columns=list("abcd"))
    inside = PyODDetector(make_pipeline(StandardScaler(), KNN()), random_state=0).fit(X)
    assert list(inside.feature_names_in_) == list("abcd")
    shifted = PyODDetector(make_pipeline(StandardScaler(), KNN()), random_state=0).fit(X * [1, 1e3, 1e-3, 1])
    np.testing.assert_allclose(shifted.anomaly_score(X * [1, 1e3, 1e-3, 1]), inside.anomaly_score(X), rtol=1e-9)
    with pytest.raises(ValueError, match="feature names"):
        inside.predict(X[list("dcba")])
    strange = X.sample(frac=1, random_state=0).to_numpy()[:40] * [1, -1, 1, -1]
    both, y = np.r_[X.to_numpy(), strange], np.r_[np.ones(200), -np.ones(40)]
    search = GridSearchCV(
        make_pipeline(StandardScaler(), PyODDetector(KNN(), random_state=0)),
        {"pyoddetector__detector__n_neighbors": [2, 20], "pyoddetector__threshold": [None, Conformal(0.1)]},
        scoring="roc_auc",
        cv=StratifiedKFold(3, shuffle=True, random_state=0),
    ).fit(both, y)
    assert search.best_score_ > 0.5  # the wrong sign would be below
    assert search.best_estimator_.predict(both).shape == (240,)


def test_detectors_of_the_wrong_sign_and_scores_that_are_not_finite_are_refused():
    for wrong in (IsolationForest(n_estimators=5), make_pipeline(StandardScaler(), IsolationForest(n_estimators=5))):
        with pytest.raises(ConfigError, match="needs a detector of PyOD, however: IsolationForest"):
            PyODDetector(wrong).fit(normal_rows(50))

    class Infinite(KNN):
        def decision_function(self, X):
            return np.full(len(X), np.inf)

    with pytest.raises(ConfigError, match="needs finite scores"):
        PyODDetector(Infinite()).fit(normal_rows(50))


def test_it_is_kept_by_joblib_as_save_says(tmp_path):
    with pytest.raises(ConfigError, match="PyODDetector"):
        save(PyODDetector(KNN(), random_state=0).fit(normal_rows(50)), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


# --- ours inside PyOD ------------------------------------------------------------------------------------------------


def test_ours_are_detectors_of_pyod_with_the_same_scores_to_the_bit(wrapped):
    X, new = normal_rows(300), normal_rows(80, seed=1)
    new[:5] += 50
    det = ours().fit(X)
    assert isinstance(wrapped, BaseDetector)
    np.testing.assert_array_equal(wrapped.decision_function(new), det.anomaly_score(new))
    np.testing.assert_array_equal(wrapped.decision_scores_, det.anomaly_score(X))
    assert wrapped.threshold_ == np.percentile(wrapped.decision_scores_, 95)
    np.testing.assert_array_equal(wrapped.labels_, wrapped.decision_scores_ > wrapped.threshold_)
    assert wrapped.labels_.sum() == 15
    np.testing.assert_array_equal(wrapped.predict(new), wrapped.decision_function(new) > wrapped.threshold_)
    assert set(wrapped.predict(new)) == {0, 1}
    assert (wrapped.predict(new[:5]) == 1).all()
    for method in ("linear", "unify"):
        proba = wrapped.predict_proba(new, method=method)
        assert proba.shape == (80, 2)
        np.testing.assert_allclose(proba.sum(1), 1)
        assert (proba[:5, 1] > 0.99).all()
    assert ((wrapped.predict_confidence(new) >= 0) & (wrapped.predict_confidence(new) <= 1)).all()


def test_there_and_back_again(wrapped):
    X = normal_rows(300)
    back = PyODDetector(as_pyod(ours()), random_state=0).fit(X)
    fit_rows = X[np.random.RandomState(0).permutation(300)[60:]]
    np.testing.assert_array_equal(back.score_samples(X), ours().fit(fit_rows).score_samples(X))
    there = as_pyod(PyODDetector(KNN(), random_state=0)).fit(X)
    np.testing.assert_array_equal(there.decision_scores_, there.detector_.detector_.decision_function(X))


def test_clone_set_params_and_pickle(wrapped, tmp_path):
    other = clone(wrapped)
    assert type(other) is type(wrapped) is adapters.ForPyOD
    assert other.detector is not wrapped.detector
    assert not hasattr(other, "detector_")
    other.set_params(detector__max_epochs=2, detector__backbone__hidden=(8,), contamination=0.2).fit(normal_rows(100))
    assert (other.detector_.max_epochs, other.detector_.backbone.hidden, other.labels_.sum()) == (2, (8,), 20)
    assert wrapped.get_params()["detector__max_epochs"] == 5
    assert repr(other).startswith("ForPyOD(")
    joblib.dump(wrapped, tmp_path / "clf.joblib")
    X = normal_rows(50, seed=1)
    np.save(tmp_path / "X.npy", X)
    code = "import joblib, numpy as np; np.save('s.npy', joblib.load('clf.joblib').decision_function(np.load('X.npy')))"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)  # a process that has made no ForPyOD yet
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), wrapped.decision_function(X), rtol=1e-9)


def test_contamination_may_be_a_threshold_object_and_pyods_tools_take_the_scores(wrapped):
    class Half:  # the interface of pythresh
        def fit(self, scores):
            self.thresh_ = np.median(scores)
            self.labels_ = self.predict(scores)

        def predict(self, scores):
            return (scores > self.thresh_).astype(int)

    X = normal_rows(100)
    clf = as_pyod(ours(), contamination=Half()).fit(X)
    assert clf.labels_.sum() == clf.predict(X).sum() == 50
    assert score_to_label(wrapped.decision_scores_, 0.05).sum() == 15
    y = np.r_[np.zeros(100), np.ones(10)]
    assert precision_n_scores(y, wrapped.decision_function(np.r_[normal_rows(100, seed=1), X[:10] + 30])) == 1
    with pytest.raises(ValueError, match="contamination must be in"):
        as_pyod(ours(), contamination=0.7)


def test_pipelines_and_fitted_detectors_of_ours():
    X = normal_rows(100)
    pipeline = make_pipeline(StandardScaler(), ours())
    np.testing.assert_array_equal(as_pyod(pipeline).fit(X).decision_scores_, -clone(pipeline).fit(X).score_samples(X))
    det = ours().fit(X)
    frozen = as_pyod(FrozenEstimator(det)).fit(X[:20])
    np.testing.assert_array_equal(frozen.decision_function(X), det.anomaly_score(X))
    with pytest.raises(ConfigError, match="needs a detector with score_samples"):
        as_pyod(KNN())


@pytest.mark.filterwarnings("ignore:The number of histogram bins")
def test_ours_in_an_ensemble_of_pyods():
    X, new = normal_rows(200), normal_rows(60, seed=1)
    new[:10] = new[:10] * [1, -1, 1, -1]
    members = [as_pyod(ours()), as_pyod(ours(VAEDetector)), KNN()]
    ensemble = LSCP(members, local_region_size=30, random_state=0).fit(X)
    assert np.isfinite(ensemble.decision_scores_).all()
    assert roc_auc_score(np.arange(60) < 10, ensemble.decision_function(new)) > 0.9
    assert set(ensemble.predict(new)) == {0, 1}


def test_ours_combined_with_pyods():
    pytest.importorskip("combo", reason="pyod.models.combination imports combo, pip install 'pyod[combo]'")
    from pyod.models.combination import average, maximization
    from pyod.models.feature_bagging import FeatureBagging
    from pyod.utils.utility import standardizer

    X, new = normal_rows(200), normal_rows(60, seed=1)
    new[:10] = new[:10] * [1, -1, 1, -1]
    members = [clf.fit(X) for clf in (as_pyod(ours()), as_pyod(ours(VAEDetector)), KNN())]
    train, test = (
        np.column_stack(s) for s in ([c.decision_scores_ for c in members], [c.decision_function(new) for c in members])
    )
    _, scores = standardizer(train, test)
    np.testing.assert_allclose(average(scores), scores.mean(1))
    for combine in (average, maximization):
        assert roc_auc_score(np.arange(60) < 10, combine(scores)) > 0.9
    bag = FeatureBagging(as_pyod(ours()), n_estimators=3, check_detector=False, random_state=0).fit(X)
    assert len({clf.detector.random_state for clf in bag.estimators_}) == 3  # PyOD's seeds reach ours
    assert roc_auc_score(np.arange(60) < 10, bag.decision_function(new)) > 0.7


def test_without_pyod_the_way_to_it_is_told():
    code = """
import sys
sys.modules["pyod"] = None
from anomaly_ae import AutoencoderDetector, PyODDetector, as_pyod
from anomaly_ae.errors import MissingExtraError
try:
    as_pyod(AutoencoderDetector())
except MissingExtraError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "pip install 'anomaly-ae[pyod]'" in said


def test_importing_the_adapters_imports_no_pyod():
    code = "import sys; from anomaly_ae import PyODDetector, as_pyod; assert 'pyod' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
