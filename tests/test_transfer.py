"""Encoders that need no labels under heads that need few: oracles, gains, what is left alone, the contract."""

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomaly_ae import (
    AutoencoderDetector,
    Conditional,
    Dense,
    Gaussian,
    NegativeELBO,
    Point,
    PretrainedClassifier,
    PretrainedRegressor,
    SeriesDetector,
    StandardizedError,
    VAEDetector,
    save,
)
from anomaly_ae.errors import ConfigError, DataError

BOTH = pytest.mark.parametrize("estimator", [PretrainedClassifier, PretrainedRegressor])
NAN = np.nan


def vae(**params):
    return VAEDetector(**{"scorer": NegativeELBO(), "calibration": "split", "random_state": 0} | params)


def groups(seed, n):
    """Ten groups of rows in forty columns, hidden by noise in each, and which one each row is of."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 10, n)
    return 0.6 * rng.normal(size=(10, 40))[y] + rng.normal(size=(n, 40)), y


def factors(seed, n):
    """Forty columns of three factors, hidden by noise in each, and a number that is a matter of the factors."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, 3))
    y = np.sin(2 * z[:, 0]) + z[:, 1] + z[:, 2]
    return np.tanh(z @ rng.normal(size=(3, 40))) + 0.6 * rng.normal(size=(n, 40)), y


def two_sides(n=120, labels=30, seed=0):
    rng = np.random.default_rng(seed)
    side = np.arange(n) % 2
    X = side[:, None] + 0.5 * rng.normal(size=(n, 4))
    return X, np.where(np.arange(n) < labels, side, NAN)


@pytest.fixture(scope="module")
def pretrained():
    return vae(max_epochs=5).fit(two_sides(300, seed=1)[0])


@parametrize_with_checks([each(vae(max_epochs=10), epochs=40) for each in (PretrainedClassifier, PretrainedRegressor)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([PretrainedClassifier(), PretrainedRegressor()])
def test_scikit_learn_checks_by_default(estimator, check):
    check(estimator)


# --- what it is ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
def test_without_fine_tuning_it_is_logistic_regression_on_the_codes(pretrained, classes):
    X, y = two_sides()
    y = np.where(np.arange(len(X)) % classes == 2, 2, y)
    clf = PretrainedClassifier(pretrained, fine_tune=False).fit(X, y)
    there, Z = ~np.isnan(y), pretrained.transform(X)
    theirs = LogisticRegression(max_iter=1000).fit(Z[there], y[there])
    np.testing.assert_array_equal(clf.classes_, theirs.classes_)
    np.testing.assert_array_equal(clf.predict_proba(X), theirs.predict_proba(Z))
    np.testing.assert_array_equal(clf.predict(X), theirs.predict(Z))


def test_without_fine_tuning_it_is_ridge_regression_on_the_codes(pretrained):
    X, y = two_sides()
    reg = PretrainedRegressor(pretrained, fine_tune=False).fit(X, y)
    Z = pretrained.transform(X)
    np.testing.assert_array_equal(reg.predict(X), Ridge().fit(Z[:30], y[:30]).predict(Z))


@BOTH
def test_tuning_starts_from_the_head_that_the_codes_alone_want(estimator, pretrained):
    """Where the gradient of the head is nothing: its loss is what scikit-learn minimises."""
    from anomaly_ae.folds import _float
    from anomaly_ae.nn.core import Clock
    from anomaly_ae.nn.heads import Headed

    X, y = two_sides(labels=120)
    for labels in (y, np.arange(120) % 3) if estimator is PretrainedClassifier else (X[:, 0],):
        one = estimator(pretrained, fine_tune=False).fit(X, labels)
        label, *start = one._start(labels)
        fold = one.encoder_.folds_[0]
        fold.nets.float()
        head = Headed(fold.net, *(torch.tensor(values).float() for values in start), rows=120)
        batch = _float(fold._batch(fold._cells(X)))
        p = head(type(batch)(batch.x, batch.mask, batch.condition, torch.from_numpy(label)), Clock())
        gradients = torch.autograd.grad(sum(head.terms(p).values()), [head.weight, head.bias])
        assert max(float(gradient.abs().max()) for gradient in gradients) < 3e-4
        assert float(start[0].max()) > 0.1


@BOTH
def test_the_given_detector_is_untouched_to_the_bit(estimator, pretrained):
    X, y = two_sides()
    before = pretrained.anomaly_score(X), pretrained.transform(X), pretrained.reconstruct(X)
    weights = {name: tensor.clone() for name, tensor in pretrained.folds_[0].weights().items()}
    one = estimator(pretrained, learning_rate=0.05, random_state=0).fit(X, y)
    assert np.abs(one.encoder_.transform(X) - before[1]).max() > 0.1
    for was, now in zip(
        before, (f(X) for f in (pretrained.anomaly_score, pretrained.transform, pretrained.reconstruct)), strict=True
    ):
        np.testing.assert_array_equal(was, now)
    assert all(torch.equal(weights[name], tensor) for name, tensor in pretrained.folds_[0].weights().items())
    assert all(parameter.requires_grad for parameter in pretrained.folds_[0].net.parameters())


def test_a_fitted_detector_is_taken_as_it_is_and_others_learn_from_all_rows(pretrained):
    X, y = two_sides()
    frozen = PretrainedClassifier(pretrained, fine_tune=False).fit(X, y)
    np.testing.assert_array_equal(frozen.encoder_.transform(X), pretrained.transform(X))
    fresh = vae(max_epochs=3)
    one = PretrainedClassifier(fresh, fine_tune=False).fit(X, y)
    np.testing.assert_array_equal(one.encoder_.transform(X), clone(fresh).fit(X).transform(X))
    assert not hasattr(fresh, "folds_")
    again = clone(PretrainedClassifier(FrozenEstimator(pretrained), fine_tune=False)).fit(X, y)
    np.testing.assert_array_equal(again.predict_proba(X), frozen.predict_proba(X))
    assert not hasattr(clone(frozen).detector, "folds_")


# --- what it gains ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "rows", "plain"),
    [(PretrainedClassifier, groups, LogisticRegression()), (PretrainedRegressor, factors, Ridge())],
)
@pytest.mark.slow
def test_at_5_percent_labels_it_beats_the_same_net_from_scratch(estimator, rows, plain):
    gained = []
    for seed in range(5):
        X, y = rows(seed, 900)
        X, new, y, truth = X[:600], X[600:], y[:600].astype(float), y[600:]
        few = np.where(np.arange(600) < 30, y, NAN)
        untrained = vae(max_epochs=1, learning_rate=1e-12, random_state=seed).fit(X)  # the net as it was drawn
        scores = [
            estimator(vae(random_state=seed), random_state=0).fit(X, few).score(new, truth),
            *(estimator(untrained, epochs=n, random_state=0).fit(X, few).score(new, truth) for n in (100, 400)),
            make_pipeline(StandardScaler(), clone(plain)).fit(X[:30], y[:30]).score(new, truth),
        ]
        gained.append(scores[0] - np.array(scores[1:]))
    assert (np.mean(gained, axis=0) > 0.03).all()


@pytest.mark.parametrize(("estimator", "rows"), [(PretrainedClassifier, groups), (PretrainedRegressor, factors)])
def test_rows_without_labels_teach_and_more_labels_do_not_hurt(estimator, rows):
    scores = []
    for seed in range(5):
        X, y = rows(seed, 700)
        X, new, y, truth = X[:400], X[400:], y[:400].astype(float), y[400:]
        det = vae().fit(X)
        labelled = [np.where(np.arange(400) < n, y, NAN) for n in (30, 120, 400)]
        few, more, most = (estimator(det, random_state=0).fit(X, some).score(new, truth) for some in labelled)
        head = estimator(det, fine_tune=False).fit(X, labelled[0]).score(new, truth)
        alone = estimator(vae(), fine_tune=False).fit(X[:30], y[:30]).score(new, truth)
        scores.append([head - alone, more - few, most - more])
    assert (np.mean(scores, axis=0) > [0.03, 0, 0]).all()


def test_fine_tuning_gains_where_labels_bend_across_the_codes():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 8)) + 0.1 * rng.normal(size=(500, 8))
    truth = (X[:, 0] ** 2 > np.median(X[:, 0] ** 2)).astype(float)
    y = np.where(np.arange(500) < 200, truth, NAN)
    det = vae().fit(X)
    accuracy = [
        PretrainedClassifier(det, fine_tune=tune, epochs=300, random_state=0).fit(X, y).score(X[200:], truth[200:])
        for tune in (False, True)
    ]
    assert accuracy[1] > accuracy[0] + 0.1


# --- how it is used --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{"epochs": 7}, {"learning_rate": 0.01}, {"weight_decay": 3.0}, {"fine_tune": False}, {"detector__latent__dim": 2}],
    ids=str,
)
@BOTH
def test_every_hyperparameter_moves_what_is_said(estimator, change):
    X, y = two_sides()
    y = y if estimator is PretrainedClassifier else np.where(np.isnan(y), NAN, X[:, 0])
    usual = estimator(vae(max_epochs=2), random_state=0)
    said = [
        one.fit(X, y).predict_proba(X) if hasattr(one, "predict_proba") else one.fit(X, y).predict(X)
        for one in (usual, clone(usual).set_params(**change))
    ]
    assert np.abs(said[0] - said[1]).max() > 1e-5


@BOTH
def test_the_same_seed_gives_the_same_fit_and_another_does_not(estimator):
    X, y = two_sides()
    det = vae(max_epochs=2, random_state=None)
    one, two, other = (estimator(det, epochs=5, random_state=s).fit(X, y) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.encoder_.transform(X), two.encoder_.transform(X))
    np.testing.assert_array_equal(one.predict(X), two.predict(X))
    assert (one.encoder_.transform(X) != other.encoder_.transform(X)).any()
    assert det.random_state is None


@pytest.mark.parametrize("missing", [None, NAN, pd.NA], ids=str)
def test_labels_may_be_words_whole_numbers_or_flags_and_lack_in_any_way(missing, pretrained):
    X, y = two_sides()
    usual = PretrainedClassifier(pretrained, fine_tune=False).fit(X, y).predict(X)
    for first, second in (("no", "yes"), (-1, 1), (False, True)):
        labels = [missing if np.isnan(label) else (first, second)[int(label)] for label in y]
        for given in (labels, np.array(labels, dtype=object), pd.Series(labels, dtype=object)):
            clf = PretrainedClassifier(pretrained, fine_tune=False).fit(X, given)
            np.testing.assert_array_equal(clf.classes_, [first, second])
            np.testing.assert_array_equal(clf.predict(X), np.array([first, second])[usual.astype(int)])
            assert clf.score(X, given) == np.mean(clf.predict(X)[:30] == np.array(labels[:30]))
    whole = pd.array([None if np.isnan(label) else int(label) for label in y], dtype="Int64")
    np.testing.assert_array_equal(PretrainedClassifier(pretrained, fine_tune=False).fit(X, whole).predict(X), usual)


def test_units_of_the_number_do_not_matter(pretrained):
    X, _ = two_sides()
    y = np.where(np.arange(120) < 40, X[:, 0] + X[:, 1] ** 2, NAN)
    one, other = (PretrainedRegressor(pretrained, random_state=0).fit(X, each) for each in (y, 1e6 * y - 5e6))
    np.testing.assert_allclose(1e6 * one.predict(X) - 5e6, other.predict(X), rtol=1e-3, atol=1e3)


@pytest.mark.parametrize(
    "detector",
    [
        VAEDetector(max_epochs=2, calibration="split", effort="fast"),
        AutoencoderDetector(max_epochs=2, calibration="split", scorer=StandardizedError()),
        AutoencoderDetector(max_epochs=2, effort="fast", latent=Point(3)),
        AutoencoderDetector(max_epochs=2, effort="fast"),
        VAEDetector(max_epochs=2, calibration="split", backbone=Dense(batch_norm=True, dropout=0.1), members=2),
        VAEDetector(max_epochs=2, calibration="split", latent=Gaussian(2), preprocessing=Conditional(["site"])),
    ],
    ids=str,
)
@BOTH
def test_mixed_tables_with_gaps_and_any_composition(estimator, detector):
    X, y = two_sides(200, 40)
    table = pd.DataFrame(X, columns=list("abcd")).assign(site=np.where(np.arange(200) % 3, "north", "south"))
    table.iloc[::7, 0] = NAN
    one = estimator(detector, epochs=5, random_state=0).fit(table, y)
    assert list(one.feature_names_in_) == [*"abcd", "site"]
    assert one.predict(table).shape == (200,)
    assert np.isfinite(one.predict(table)).all()
    np.testing.assert_allclose(one.predict(table.iloc[:20]), one.predict(table)[:20], rtol=1e-4)
    with pytest.raises(ValueError, match="feature names"):
        one.predict(table[["b", "a", "c", "d", "site"]])
    one.encoder_.set_output(transform="pandas")
    assert one.predict(table).shape == (200,)


def test_pipeline_grid_search_and_scores_of_rows_with_labels(tmp_path):
    X, y = two_sides(120, 60)
    grid = {"pretrainedclassifier__detector__latent__dim": [1, 3], "pretrainedclassifier__fine_tune": [False, True]}
    pipe = make_pipeline(StandardScaler(), PretrainedClassifier(vae(max_epochs=2), epochs=3, random_state=0))
    search = GridSearchCV(pipe, grid, cv=KFold(2, shuffle=True, random_state=0), error_score="raise").fit(X, y)
    assert search.best_score_ > 0.5
    joblib.dump(search, tmp_path / "kept")
    np.testing.assert_array_equal(joblib.load(tmp_path / "kept").predict_proba(X), search.predict_proba(X))
    reg = PretrainedRegressor(vae(max_epochs=2), epochs=3, random_state=0)
    assert len(cross_val_score(reg, X, X[:, 0], cv=3)) == 3
    reg.set_params(detector=None, detector__max_epochs=1).fit(X, X[:, 0])
    assert len(reg.encoder_.folds_) == len(reg.encoder_.history_) == 1
    with pytest.raises(ConfigError, match="PretrainedRegressor"):
        save(reg, tmp_path / "model")


def test_a_weight_of_a_row_counts_in_its_score(pretrained):
    X, y = two_sides()
    clf = PretrainedClassifier(pretrained, fine_tune=False).fit(X, y)
    right = clf.predict(X) == y
    y[:30] = np.where(np.arange(30) < 10, 1 - clf.predict(X)[:30], clf.predict(X)[:30])
    assert right.any()
    assert clf.score(X, y) == pytest.approx(2 / 3)
    assert clf.score(X, y, np.where(np.arange(120) < 10, 2.0, 1.0)) == pytest.approx(20 / 40)


@pytest.mark.parametrize(
    ("estimator", "y", "error", "words"),
    [
        (PretrainedClassifier, np.full(120, NAN), DataError, "needs rows with a label, however: all 120"),
        (PretrainedRegressor, [None] * 120, DataError, "needs rows with a label"),
        (PretrainedClassifier, np.ones(120), DataError, "two classes or more, however: all are of one class, np.float"),
        (PretrainedClassifier, np.linspace(0, 1, 120), ValueError, "Unknown label type"),
        (PretrainedRegressor, np.r_[np.inf, np.zeros(119)], DataError, "labels that are finite numbers"),
        (PretrainedRegressor, ["a"] * 120, DataError, "labels that are finite numbers"),
        (PretrainedRegressor, np.r_[1.0, np.full(119, NAN)], DataError, "needs two labels or more"),
        (PretrainedRegressor, np.zeros(119), ValueError, "inconsistent numbers of samples"),
    ],
)
def test_labels_that_cannot_teach_are_refused(estimator, y, error, words, pretrained):
    with pytest.raises(error, match=words):
        estimator(pretrained).fit(two_sides()[0], y)


def test_what_is_no_detector_of_rows_is_refused():
    X, y = two_sides()
    for wrong, words in ((SeriesDetector(), "'detector' parameter"), (FrozenEstimator(Ridge()), "detector of rows")):
        with pytest.raises(ValueError, match=words):
            PretrainedClassifier(wrong).fit(X, y)


@BOTH
def test_a_fit_that_fails_leaves_it_as_it_was_and_torchs_globals_too(estimator, pretrained):
    X, y = two_sides()
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    one = estimator(pretrained, epochs=2, random_state=0).fit(X, y)
    said = one.predict(X)
    with pytest.raises(ValueError, match="features"):
        one.fit(X[:, :3], y)
    np.testing.assert_array_equal(one.predict(X), said)
    after = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
