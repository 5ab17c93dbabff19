"""The public contract of both detectors."""

import gc
import pickle
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.callback import ProgressBar
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from anomaly_ae import (
    KL,
    AutoencoderDetector,
    Bernoulli,
    Chain,
    Conformal,
    Dense,
    Fused,
    Gaussian,
    GaussianNoise,
    Huber,
    KLScore,
    LearnedNormal,
    Mahalanobis,
    Mixed,
    Multinomial,
    NegativeELBO,
    Neighbours,
    Normal,
    Point,
    Preprocessing,
    Quantile,
    RandomFeatures,
    ReconstructionError,
    ResidualMahalanobis,
    SeriesDetector,
    StandardizedError,
    StandardNormal,
    VAEDetector,
    View,
    WeightedSum,
    load,
)
from anomaly_ae.errors import AnomalyError, ConfigError, DataError, IncompatiblePartsError
from anomaly_ae.folds import BLOCK

BOTH = pytest.mark.parametrize("detector", [AutoencoderDetector, VAEDetector])


def normal_rows(n, seed=0, d=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.triu(np.ones((d, d))) + 5


@pytest.fixture(scope="module")
def fitted():
    """Each detector, split and cross-fitted, by (class, calibration)."""
    return {
        (detector, calibration): detector(calibration=calibration, random_state=0).fit(normal_rows(300))
        for detector in (AutoencoderDetector, VAEDetector)
        for calibration in ("split", "cross")
    }


ALL = pytest.mark.parametrize(
    "which", [(d, c) for d in (AutoencoderDetector, VAEDetector) for c in ("split", "cross")], ids=str
)


@parametrize_with_checks([AutoencoderDetector(max_epochs=4)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([VAEDetector(max_epochs=4)])
def test_scikit_learn_checks_of_the_other(estimator, check):
    check(estimator)


# --- scores ----------------------------------------------------------------------------------------------------------


@ALL
def test_signs_shapes_and_agreement(fitted, which):
    det, X = fitted[which], normal_rows(50, seed=1)
    X[:5] += 50
    score = det.anomaly_score(X)
    assert score.shape == (50,)
    assert score.dtype == np.float64
    np.testing.assert_array_equal(det.score_samples(X), -score)
    np.testing.assert_array_equal(det.decision_function(X), -score - det.offset_)
    np.testing.assert_array_equal(det.predict(X) == -1, score > det.threshold_.value_)
    np.testing.assert_array_equal(det.predict(X) == -1, det.p_values(X) <= 0.05)
    assert (det.predict(X[:5]) == -1).all()
    verdict = det.assess(X)
    np.testing.assert_array_equal(verdict.anomaly_score, score)
    np.testing.assert_array_equal(verdict.p_value, det.p_values(X))
    np.testing.assert_array_equal(verdict.is_anomaly, det.predict(X) == -1)
    assert verdict.contributions.shape == X.shape


@ALL
def test_scores_repeat_bit_for_bit_and_know_no_other_row(fitted, which):
    det = fitted[which]
    X = normal_rows(BLOCK + 700, seed=1)
    score = det.anomaly_score(X)
    np.testing.assert_array_equal(det.anomaly_score(X), score)
    aligned = np.concatenate([det.anomaly_score(X[:BLOCK]), det.anomaly_score(X[BLOCK:])])
    np.testing.assert_array_equal(aligned, score)  # the same blocks: the same bits
    others = X.copy()
    others[::2] *= 1e3
    np.testing.assert_allclose(det.anomaly_score(others)[1::2], score[1::2], rtol=1e-9)
    for size in (1, 7, 1000):
        chunked = np.concatenate([det.anomaly_score(X[i : i + size]) for i in range(0, min(150 * size, 1400), size)])
        np.testing.assert_allclose(chunked, score[: len(chunked)], rtol=1e-9)
    order = np.random.default_rng(0).permutation(len(X))
    np.testing.assert_allclose(det.anomaly_score(X[order]), score[order], rtol=1e-9)


@BOTH
def test_the_same_seed_gives_the_same_fit_and_another_does_not(detector):
    X = normal_rows(120)
    one, two, other = (detector(max_epochs=3, random_state=seed).fit(X).anomaly_score(X) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


@BOTH
def test_blocks_scored_on_several_threads_have_the_same_scores(detector):
    det = detector(max_epochs=2, random_state=0).fit(normal_rows(2000))
    X, before = normal_rows(20_000, seed=1), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = det.assess(X)
        torch.set_num_threads(2)
        shared = det.assess(X)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(alone.anomaly_score, shared.anomaly_score)
    np.testing.assert_array_equal(alone.contributions, shared.contributions)


@BOTH
@pytest.mark.parametrize("effort", ["fast", "default"])
def test_a_callers_autocast_is_for_the_callers_own_nets(detector, effort):
    X = normal_rows(20_000, seed=1)

    def judge():
        det = detector(effort=effort, max_epochs=2, random_state=0).fit(normal_rows(500))
        return det.anomaly_score(X), det.reconstruct(X[:50])

    alone = judge()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within = judge()
        assert torch.is_autocast_enabled("cpu")
    np.testing.assert_array_equal(within[0], alone[0])
    np.testing.assert_array_equal(within[1], alone[1])


def test_a_pickled_detector_looks_up_anew_where_its_nets_are(fitted):
    det, X = fitted[AutoencoderDetector, "split"], normal_rows(50)
    score = det.anomaly_score(X)
    state = det.folds_[0].__getstate__()
    assert "_device" in det.folds_[0].__dict__
    assert not {"_device", "rows"} & set(state)  # nets may have been put elsewhere
    again = pickle.loads(pickle.dumps(det))  # noqa: S301 (its own)
    np.testing.assert_array_equal(again.anomaly_score(X), score)


FORKED = """
import os, signal, sys
import numpy as np, torch
from anomaly_ae import AutoencoderDetector
torch.set_num_threads(2)
X = np.random.default_rng(0).normal(size=(20_000, 3))
det = AutoencoderDetector(effort="fast", max_epochs=1, random_state=0).fit(X)
scores = det.anomaly_score(X)
child = os.fork()
if not child:
    signal.alarm(60)  # threads of the parent's would be waited for without end
    os._exit(not np.array_equal(det.anomaly_score(X), scores))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_child_that_is_a_fork_scores_as_its_parent_did():
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n", done.stderr


@pytest.mark.parametrize(("detector", "steps"), [(AutoencoderDetector, 3), (VAEDetector, 10)])
def test_few_rows_are_passed_over_three_times_an_epoch_or_by_a_vae_in_ten_steps(detector, steps):
    X, how = normal_rows(80), {"max_epochs": 3, "calibration": "split", "random_state": 0}
    usual = detector(**how).fit(X).history_["loss"]
    for asked in (3, 10):
        told = detector(steps_per_epoch=asked, **how).fit(X).history_["loss"]
        assert usual.equals(told) == (asked == steps)


def test_less_effort_is_fewer_epochs_unless_they_are_given():
    X = normal_rows(1200)

    def epochs(detector, **how):
        return detector(patience=None, steps_per_epoch=1, random_state=0, **how).fit(X).history_["epoch"].max()

    of_the_vae = [epochs(VAEDetector, **how) for how in ({}, {"effort": "fast"}, {"effort": "fast", "max_epochs": 20})]
    assert of_the_vae == [30, 10, 20]
    assert epochs(AutoencoderDetector) == 40
    assert epochs(AutoencoderDetector, effort="fast", backbone=Dense()) == 16
    assert epochs(AutoencoderDetector, effort="fast") == 1  # in closed form


@ALL
def test_anomalies_of_several_kinds_score_high(fitted, which):
    det, X = fitted[which], normal_rows(400, seed=1)
    strange = normal_rows(60, seed=2)
    strange[:20, 2] += 25  # one column far away
    strange[20:40] = -strange[20:40]  # the wrong sign
    strange[40:] = np.random.default_rng(0).permuted(strange[40:], axis=0) * 1.5  # columns that do not go together
    score = det.anomaly_score(np.concatenate([X, strange]))
    assert roc_auc_score(np.r_[np.zeros(400), np.ones(60)], score) > 0.9


@ALL
def test_units_of_columns_do_not_matter(fitted, which):
    X, new = normal_rows(300), normal_rows(100, seed=1)
    unit, shift = np.array([1e-3, 1.0, 1e3, 7.0, 1e6, 0.1]), np.array([0.0, 5, 0, -3, 1e6, 2])
    rescaled = clone(fitted[which]).fit(X * unit + shift)
    np.testing.assert_allclose(rescaled.anomaly_score(new * unit + shift), fitted[which].anomaly_score(new), rtol=1e-2)


@BOTH
def test_far_away_rows_have_finite_scores_above_the_threshold(detector):
    det = detector(max_epochs=5, random_state=0).fit(normal_rows(200))
    X = np.full((3, 6), [[1e9], [1e150], [-1e300]])
    verdict = det.assess(X)
    assert np.isfinite(verdict.anomaly_score).all()
    assert np.isfinite(verdict.contributions).all()
    assert verdict.is_anomaly.all()


# --- explaining ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effort", ["fast", "default"])
@pytest.mark.parametrize("rule", [{}, {"bend": None}, {"standardize": False}], ids=str)
@BOTH
def test_a_cell_as_far_away_as_floats_reach_is_to_blame(detector, rule, effort):
    det = detector(effort=effort, preprocessing=Preprocessing(**rule), max_epochs=2, random_state=0)
    det.fit(normal_rows(200))
    X, far = normal_rows(6, seed=3), np.array([1e9, -1e19, 1e30, -1e155, 1e300, -1.7e308])
    X[np.arange(6), np.arange(6)] = far
    verdict = det.assess(X)
    assert np.isfinite(verdict.contributions).all()
    assert verdict.is_anomaly.all()
    assert (verdict.contributions.argmax(axis=1) == np.arange(6)).all()


@ALL
def test_the_column_that_was_moved_is_blamed(fitted, which):
    det = fitted[which]
    X = normal_rows(120, seed=3)
    moved = np.arange(120) % 6
    X[np.arange(120), moved] += 30
    assert np.mean(det.explain(X).argmax(1) == moved) > 0.75  # by chance 0.17; residuals smear into correlated columns


def test_contributions_of_the_reconstruction_error_add_up_to_the_score(fitted):
    for calibration in ("split", "cross"):
        det, X = fitted[AutoencoderDetector, calibration], normal_rows(80, seed=4)
        contributions = det.explain(X)
        assert (contributions >= 0).all()
        np.testing.assert_allclose(contributions.sum(1), det.anomaly_score(X), rtol=1e-12)


# --- representing ----------------------------------------------------------------------------------------------------


@ALL
def test_codes_and_reconstructions(fitted, which):
    det, X = fitted[which], normal_rows(80, seed=4)
    Z = det.transform(X)
    assert Z.shape == (80, len(det.get_feature_names_out()))
    np.testing.assert_allclose(det.inverse_transform(Z), det.reconstruct(X), rtol=1e-9)
    assert np.mean((det.reconstruct(X) - X) ** 2) < 0.2 * X.var()
    with pytest.raises(ValueError, match="needs codes of"):
        det.inverse_transform(Z[:, 1:])


@ALL
def test_samples_look_like_the_rows(fitted, which):
    det, X = fitted[which], normal_rows(300)
    new = det.sample(4000, random_state=0)
    np.testing.assert_array_equal(new, det.sample(4000, random_state=0))
    assert not np.array_equal(new, det.sample(4000, random_state=1))
    scale = X.std(0)
    assert (np.abs(new.mean(0) - X.mean(0)) < 0.35 * scale).all()
    assert np.abs(np.corrcoef(new.T) - np.corrcoef(X.T)).max() < 0.35
    assert det.sample(0).shape == (0, X.shape[1])
    for odd in (-1, 2.5):
        with pytest.raises(ValueError, match=f"whole number of rows.* {odd}"):
            det.sample(odd)


@pytest.mark.parametrize("per", ["all", "feature"])
def test_a_classifier_cannot_tell_samples_of_a_gaussian_from_rows(per):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(3000, 5))
    det = VAEDetector(likelihood=LearnedNormal(per=per), scorer=NegativeELBO(), random_state=0).fit(X[:2000])
    both = np.concatenate([X[2000:], det.sample(1000, random_state=0)])
    forest = RandomForestClassifier(100, min_samples_leaf=5, random_state=0)
    told = cross_val_score(forest, both, np.repeat([0, 1], 1000), scoring="roc_auc", cv=5)
    assert told.mean() < 0.6


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_scores_are_the_same_to_the_bit_however_rows_lie_in_memory(effort):
    X = np.random.default_rng(0).normal(size=(400, 12)) ** 3
    det = AutoencoderDetector(effort=effort, random_state=0).fit(X[:200])
    for other in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(det.anomaly_score(other), det.anomaly_score(X))
        np.testing.assert_array_equal(det.explain(other), det.explain(X))


def test_sparse_columns_are_read_like_others():
    X = pd.DataFrame(normal_rows(100)).add_prefix("x")
    sparse = X.astype(pd.SparseDtype(float, 0.0))
    dense, other = (AutoencoderDetector(effort="fast", random_state=0).fit(rows) for rows in (X, sparse))
    np.testing.assert_array_equal(dense.anomaly_score(X), other.anomaly_score(sparse))
    np.testing.assert_array_equal(dense.anomaly_score(sparse), other.anomaly_score(X))


def test_a_denoiser_takes_noise_away():
    rng = np.random.default_rng(0)
    clean = rng.normal(size=(3000, 2)) @ rng.normal(size=(2, 10))
    det = AutoencoderDetector(corruption=GaussianNoise(0.5, per_row=False), random_state=0).fit(clean)
    noisy = clean + 0.5 * clean.std(0) * rng.normal(size=clean.shape)
    assert np.mean((det.reconstruct(noisy) - clean) ** 2) < 0.5 * np.mean((noisy - clean) ** 2)


@BOTH
def test_score_is_a_mean_log_likelihood(detector, fitted):
    det, X = fitted[detector, "split"], normal_rows(100, seed=5)
    assert np.isfinite(det.score(X))
    assert det.score(X) > det.score(X + 10)
    halves = [det.score(X[:50]), det.score(X[50:])]
    assert det.score(X) == pytest.approx(np.mean(halves))


# --- composition -----------------------------------------------------------------------------------------------------


def test_set_params_reaches_into_defaults_and_no_two_detectors_share_a_part():
    one, two = VAEDetector(), VAEDetector()
    one.set_params(divergence__beta=4)
    assert one.divergence.beta == 4
    assert two.divergence is None
    assert two.parts()["divergence"].beta == 1.0
    assert VAEDetector().set_params(divergence__warmup=0.5).divergence is not one.divergence
    one.set_params(divergence=None)
    assert one.parts()["divergence"].beta == 1.0
    for axis, part in two.parts().items():
        assert part is None or part is not two.parts()[axis]


def test_params_of_parts_in_lists_go_by_their_number():
    det = AutoencoderDetector().set_params(scorer__scorers__2__k=4, scorer__guards__0__scorer__shrinkage=0.25)
    assert det.scorer.scorers[2] == det.get_params()["scorer__scorers__2"]
    assert (det.scorer.scorers[2].k, det.get_params()["scorer__scorers__2__k"]) == (4, 4)
    assert det.scorer.guards[0].scorer.shrinkage == 0.25
    assert AutoencoderDetector().parts()["scorer"].scorers[2].k == 1  # the default is nobody's
    again = clone(det)
    assert again.scorer.scorers[2].k == 4
    assert again.scorer.scorers[2] is not det.scorer.scorers[2]
    again.set_params(scorer__scorers__2=StandardizedError())
    assert [type(one).__name__ for one in again.scorer.scorers[2:]] == ["StandardizedError", "Neighbours"]
    assert det.scorer.scorers[2].k == 4
    views = SeriesDetector(views=[View(Mahalanobis(), window=8)]).set_params(views__0__scorer__ridge=0.5)
    assert views.views[0].scorer.ridge == 0.5
    for wrong in ("scorers__9__k", "weights__0__k"):
        with pytest.raises(ConfigError, match="needs a part with that number, however"):
            det.scorer.set_params(**{wrong: 1})
    with pytest.raises(ValueError, match="Invalid parameter"):
        det.set_params(scorer__scorers__2__nonsense=1)
    X = normal_rows(200)
    search = GridSearchCV(
        AutoencoderDetector(effort="fast", scorer=Fused([StandardizedError(), Neighbours()]), random_state=0),
        {"scorer__scorers__1__k": [1, 7]},
        scoring=lambda one, rows, y=None: one.scorer.scorers[1].k,
        cv=2,
    )
    assert search.fit(X).best_params_ == {"scorer__scorers__1__k": 7}


def test_a_part_given_to_two_detectors_is_fitted_by_neither():
    backbone = Dense(hidden=(8,))
    X = normal_rows(60)
    one = AutoencoderDetector(backbone=backbone, max_epochs=2, random_state=0).fit(X)
    before = one.anomaly_score(X)
    AutoencoderDetector(backbone=backbone, max_epochs=2, random_state=1).fit(X)
    np.testing.assert_array_equal(one.anomaly_score(X), before)
    assert not list(backbone.parameters())


def test_parts_that_are_missing_or_do_not_fit_are_named():
    with pytest.raises(ConfigError, match="needs a divergence before divergence__beta"):
        AutoencoderDetector().set_params(divergence__beta=2)
    with pytest.raises(IncompatiblePartsError, match=r"KLScore needs a latent with a posterior, however: Point\(\)"):
        AutoencoderDetector(scorer=ReconstructionError() + 0.1 * KLScore()).fit(normal_rows(50))
    with pytest.raises(IncompatiblePartsError, match=r"StandardNormal needs .* that faces it, however: Point\(\)"):
        AutoencoderDetector(prior=StandardNormal()).fit(normal_rows(50))
    with pytest.raises(IncompatiblePartsError, match=r"Gaussian needs a prior .*: there is none\. Set prior=StandardN"):
        AutoencoderDetector(latent=Gaussian()).fit(normal_rows(50))
    with pytest.raises(ValueError, match="'max_epochs' parameter"):
        AutoencoderDetector(max_epochs=0).fit(normal_rows(50))


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (VAEDetector(likelihood=Bernoulli()), "Bernoulli needs cells from 0 to 1, however: they are from -"),
        (VAEDetector(likelihood=Mixed(numeric=Bernoulli())), "Bernoulli needs cells from 0 to 1"),
        (AutoencoderDetector(backbone=Dense(batch_norm="no")), "Dense needs batch_norm to be true or false, however"),
        (AutoencoderDetector(preprocessing=Preprocessing(standardize="no")), "needs standardize to be true or false"),
        (AutoencoderDetector(scorer=StandardizedError(conditional=None)), "needs conditional to be true or false"),
        (AutoencoderDetector(scorer=Neighbours(k=None)), "Neighbours needs k to be"),
        (AutoencoderDetector(backbone=RandomFeatures(ridge=1e-12)), "needs a ridge that tells its features apart"),
        (AutoencoderDetector(likelihood=Huber(delta=1e-120)), "values of their own types and a device, however"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_that_cannot_work_are_refused_by_name(detector, words):
    X = normal_rows(60)
    with pytest.raises(ConfigError, match=words):
        detector.set_params(max_epochs=2).fit(np.hstack([X, X[:, :1]]))


def test_cells_of_0_and_1_may_be_bernoullis():
    X = (normal_rows(200) > 0).astype(float)
    plain = Preprocessing(standardize=np.bool_(False), bend=None)
    det = VAEDetector(likelihood=Bernoulli(), preprocessing=plain, effort="fast", random_state=0).fit(X)
    assert np.isfinite(det.anomaly_score(X)).all()


def test_a_detector_with_a_generator_of_its_own_is_saved(tmp_path):
    det = AutoencoderDetector(effort="fast", random_state=np.random.RandomState(0)).fit(normal_rows(100))
    again = load(det.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.anomaly_score(normal_rows(50)), det.anomaly_score(normal_rows(50)))


def test_an_alpha_of_nearly_1_lets_nearly_all_alarm():
    scores = np.arange(1.0, 100.0)
    assert Conformal(alpha=1 - 1e-12).fit(scores).value_ == 1.0


def test_set_params_reaches_into_the_defaults_of_defaults():
    det = AutoencoderDetector().set_params(likelihood__numeric__scale=0.5)
    assert repr(det.likelihood) == "Mixed(numeric=Normal(scale=0.5))"
    assert repr(clone(det)) == repr(det)
    floored = VAEDetector().set_params(likelihood__numeric__floor=0.5).likelihood
    assert repr(floored) == "Mixed(numeric=LearnedNormal(floor=0.5))"


def test_repr_and_html_name_what_was_changed():
    det = VAEDetector(latent=Gaussian(2), divergence=KL(beta=3))
    assert repr(det) == "VAEDetector(divergence=KL(beta=3), latent=Gaussian(dim=2))"
    assert "Gaussian" in det._repr_html_()


# --- scikit-learn ----------------------------------------------------------------------------------------------------


def test_pipeline_and_grid_search():
    X = normal_rows(150)
    pipeline = make_pipeline(MinMaxScaler(), VAEDetector(max_epochs=2, random_state=0))
    search = GridSearchCV(pipeline, {"vaedetector__divergence__beta": [0.5, 5], "vaedetector__latent": [Gaussian(2)]})
    search.fit(X)
    assert search.best_params_["vaedetector__divergence__beta"] in (0.5, 5)
    assert search.best_estimator_.predict(X).shape == (150,)
    codes = make_pipeline(StandardScaler(), AutoencoderDetector(latent=Point(2), max_epochs=2)).set_output(
        transform="pandas"
    )
    named = codes.fit_transform(pd.DataFrame(X))
    assert list(named.columns) == ["autoencoderdetector0", "autoencoderdetector1"]


def test_columns_must_be_those_of_fit():
    frame = pd.DataFrame(normal_rows(60), columns=list("abcdef"))
    det = AutoencoderDetector(max_epochs=1, random_state=0).fit(frame)
    assert list(det.feature_names_in_) == list("abcdef")
    for wrong in (frame[list("fedcba")], frame.rename(columns={"a": "z"}), frame.drop(columns="a")):
        with pytest.raises(ValueError, match="feature names"):
            det.predict(wrong)


def test_parallel_jobs_agree_and_pickles_score_alike(tmp_path):
    X = normal_rows(90)
    det = AutoencoderDetector(max_epochs=2, random_state=0)
    scores = [cross_val_score(det, X, cv=2, n_jobs=jobs) for jobs in (1, 2)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-9)
    det.fit(X)
    joblib.dump(det, tmp_path / "det.joblib")
    np.testing.assert_array_equal(joblib.load(tmp_path / "det.joblib").anomaly_score(X), det.anomaly_score(X))


def test_callbacks_are_told_of_every_epoch(capsys):
    class Counter:
        def __init__(self):
            self.epochs = 0

        def setup(self, estimator, context):
            pass

        teardown = on_fit_task_begin = setup

        def on_fit_task_end(self, estimator, context):
            self.epochs += context.task_name == "epoch"
            return self.epochs == 7

    X, counter = normal_rows(60), Counter()
    det = AutoencoderDetector(max_epochs=5, patience=None, random_state=0).set_callbacks(counter).fit(X)
    assert counter.epochs == len(det.history_) == 5 + 2 + 5 + 5 + 5  # it asked net 2 to stop after its second
    AutoencoderDetector(max_epochs=2, random_state=0).set_callbacks(ProgressBar()).fit(X)
    assert "AutoencoderDetector" in capsys.readouterr().out


def test_torchs_globals_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    det = VAEDetector(max_epochs=2, random_state=0).fit(normal_rows(60))
    det.predict(normal_rows(10)), det.sample(3), det.partial_fit(normal_rows(20))
    after = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


@pytest.mark.timed
def test_fits_in_threads_repeat_and_leave_random_numbers_alone():
    X = np.random.default_rng(0).normal(size=(300, 4))
    before, alone = torch.get_rng_state(), VAEDetector(effort="fast", random_state=0).fit(X).anomaly_score(X)
    with ThreadPoolExecutor(3) as threads:
        fits = threads.map(lambda _: VAEDetector(effort="fast", random_state=0).fit(X).anomaly_score(X), range(3))
        for scores in fits:
            np.testing.assert_array_equal(scores, alone)
    assert (torch.get_rng_state() == before).all()


def test_no_row_stays_in_memory_when_a_detector_is_gone():
    X = np.random.default_rng(0).normal(size=(40, 300))
    wide = AutoencoderDetector(scorer=Mahalanobis(), max_epochs=1, calibration="split", random_state=0).fit(X)
    width = wide.folds_[0].encoding.width
    del wide
    gc.collect()
    kept = [x for x in gc.get_objects() if isinstance(x, torch.Tensor) and x.dim() == 2 and x.shape[1] == width]
    assert not [x for x in kept if len(x) in (24, 32, 40)]


@pytest.mark.parametrize("labels", [np.repeat([1, -1], 30), np.repeat([1.0, -1.0], [57, 3])])
def test_labels_that_nobody_asks_for_are_warned_of_where_they_name_anomalies(labels):
    X, det = normal_rows(60), AutoencoderDetector(effort="fast", random_state=0)
    with pytest.warns(UserWarning, match="y names .* of 60 anomalies, and no part asks for labels"):
        det.fit(X, labels)
    with warnings.catch_warnings(record=True) as told:
        for others in (None, np.ones(60), np.arange(60) < 5, np.arange(60) % 2, np.repeat(["a", "b"], 30)):
            det.fit(X, others)
    assert not [one for one in told if "labels" in str(one.message)]


def test_a_device_that_is_not_there_is_named():
    for device in ("cuda:7", "nowhere"):
        with pytest.raises(ConfigError, match=rf"needs a device that torch has, however: '{device}' \(.*Set device="):
            AutoencoderDetector(device=device).fit(normal_rows(30))


def test_rows_that_come_twice_are_warned_of_unless_chance_explains_them():
    rng = np.random.default_rng(0)
    for X, copies in (
        (np.tile(rng.normal(size=(300, 3)), (2, 1)), 300),
        (rng.normal(size=(600, 3)), 0),
        (rng.integers(0, 3, (600, 3)).astype(float), 0),  # nearly all are copies, as new rows will be
        (np.where(rng.random((600, 3)) < 0.5, np.nan, 1.0), 0),
    ):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            AutoencoderDetector(effort="fast", random_state=0).fit(X)
        told = [str(one.message) for one in said if "copies of others" in str(one.message)]
        assert [f"however: {copies} of 600 are" in one for one in told] == [True] * bool(copies)


def test_rows_that_were_learned_from_are_judged_with_a_warning():
    X = normal_rows(300)
    det = AutoencoderDetector(effort="fast", random_state=0)
    with pytest.warns(UserWarning, match="use cross_val_predict"):
        verdicts = det.fit_predict(X)
    np.testing.assert_array_equal(verdicts, det.predict(X))


def test_names_that_are_no_text_are_to_be_in_order_too():
    X = pd.DataFrame(normal_rows(200, d=3), columns=[2020, 2021, 2022])
    det = AutoencoderDetector(effort="fast", random_state=0).fit(X)
    np.testing.assert_array_equal(det.anomaly_score(X), det.anomaly_score(X.to_numpy()))
    with pytest.raises(DataError, match="in the order of its fit, however: they are 2021, 2020, 2022"):
        det.predict(X[[2021, 2020, 2022]])


def test_a_default_fit_on_100_rows_takes_at_most_a_second():
    X, seconds = normal_rows(100), {}
    for detector in (AutoencoderDetector, VAEDetector):
        detector(max_epochs=1).fit(X)  # the first fit of a process also warms torch up
        seconds[detector] = min(detector(random_state=0).fit(X).history_["seconds"].sum() for _ in range(3))
    assert max(seconds.values()) <= 3.0  # one on a quiet machine; these are noisy


# --- few and many rows, and rows that come bit by bit ----------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("n", [3, 4, 5, 7])
def test_a_handful_of_rows_fits(detector, n):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        det = detector(max_epochs=2, random_state=0).fit(normal_rows(n))
    assert det.threshold_.resolution_ == 1 / (n + 1)
    assert np.isfinite(det.score_samples(normal_rows(9, seed=1))).all()


@pytest.mark.parametrize(
    ("X", "words"),
    [
        (np.ones((2, 3)), "minimum of 3"),
        (np.full((50, 2), np.nan), "every cell is missing"),
        (np.full((50, 2), np.inf), "infinity"),
        (np.array([["a", "b"]] * 50), "it holds the text 'a'. Give a DataFrame"),
        (np.array([[1.0, "(b)"]] * 50, dtype=object), "it holds the text '[(]b[)]'. Give a DataFrame"),
        (np.vstack([np.full((25, 2), -1e300), np.full((25, 2), 1e300)]), "column 'x0' reaches 1e[+]300"),
    ],
    ids=["two rows", "nothing but gaps", "infinite", "text", "objects", "squares overflow"],
)
def test_bad_rows_are_refused(X, words):
    with pytest.raises(ValueError, match=words):
        AutoencoderDetector().fit(X)


def test_constant_columns_are_kept_and_their_changes_seen():
    X = normal_rows(200)
    X[:, 3] = 7.0
    det = AutoencoderDetector(max_epochs=10, random_state=0).fit(X)
    changed = X[:50].copy()
    changed[:, 3] = 20.0
    assert (det.predict(changed) == -1).mean() == 1.0
    assert (det.explain(changed).argmax(1) == 3).mean() > 0.9


@BOTH
def test_auto_rotates_below_1000_rows(detector):
    settings = detector(max_epochs=1, steps_per_epoch=1, random_state=0)
    assert len(settings.fit(normal_rows(999)).folds_) == 5
    assert len(settings.fit(normal_rows(1000)).folds_) == 1
    assert len(settings.calibration_scores_) == 200


@BOTH
def test_partial_fit_learns_keeps_its_scaling_and_calibrates(detector):
    det = detector(random_state=0)
    history = []
    for seed in range(30):
        det.partial_fit(normal_rows(200, seed=seed))
        history.append(det.history_["reconstruction"].iloc[-1])
        if seed == 0:
            frozen = det.folds_[0].encoding.moments
    np.testing.assert_array_equal(det.folds_[0].encoding.moments, frozen)
    assert history[-1] < history[0]
    assert det.n_rows_seen_ == 6000
    assert len(det.calibration_scores_) == 1200
    assert det.history_["epoch"].tolist() == list(range(1, 31))
    fresh = normal_rows(4000, seed=99)
    assert np.mean(det.predict(fresh) == -1) == pytest.approx(0.05, abs=0.025)


@BOTH
def test_partial_fit_after_fit_goes_on(detector, tmp_path):
    det = detector(max_epochs=3, random_state=0).fit(normal_rows(1500))
    before = det.anomaly_score(normal_rows(50, seed=1))
    det.partial_fit(normal_rows(500, seed=2))
    assert not np.array_equal(det.anomaly_score(normal_rows(50, seed=1)), before)
    assert len(det.calibration_scores_) == 300 + 100
    from anomaly_ae import load

    loaded = load(det.save(tmp_path / "model"))
    loaded.partial_fit(normal_rows(50, seed=3))
    np.testing.assert_array_equal(loaded.calibration_scores_, det.calibration_scores_)  # 10 rows are too few yet
    loaded.partial_fit(normal_rows(1000, seed=4))
    assert len(loaded.calibration_scores_) == 210


def test_the_reservoir_is_bounded():
    det = AutoencoderDetector(random_state=0, steps_per_epoch=1)
    for seed in range(3):
        det.partial_fit(normal_rows(5000, seed=seed))
    assert len(det.calibration_scores_) == 2000


@pytest.mark.parametrize("threshold", [Conformal(0.1), Quantile(0.9)])
def test_thresholds_see_calibrate_rows_only(threshold):
    X = normal_rows(1000)
    det = AutoencoderDetector(threshold=threshold, max_epochs=2, random_state=0).fit(X)
    assert len(det.calibration_scores_) == 200
    assert det.threshold_.value_ == clone(threshold).fit(det.calibration_scores_).value_
    assert np.mean(det.anomaly_score(X) > det.threshold_.value_) < 0.2


def test_errors_are_value_errors():
    assert issubclass(AnomalyError, ValueError)
    with pytest.raises(AnomalyError):
        AutoencoderDetector(likelihood=Normal(-1)).fit(normal_rows(50))


def test_what_fails_leaves_a_detector_as_it_was():
    X = normal_rows(200)
    det = AutoencoderDetector(effort="fast", random_state=0).fit(X)
    before, folder_rows = det.anomaly_score(X), det.n_rows_seen_
    for method, rows in (("fit", 100 * X), ("recalibrate", X)):
        det.set_params(threshold=Conformal(5))
        with pytest.raises(ConfigError, match="alpha"):
            getattr(det, method)(rows)
        np.testing.assert_array_equal(det.anomaly_score(X), before)
        assert (det.parts_["threshold"].alpha, det.n_rows_seen_) == (0.05, folder_rows)
    new = AutoencoderDetector(latent=Point(0))
    for method in ("fit", "partial_fit"):
        with pytest.raises(ConfigError, match="dim"):
            getattr(new, method)(X)
        with pytest.raises(NotFittedError):
            new.predict(X)
    new.set_params(latent=Point(2)).partial_fit(X)


class Stop:
    """Stops a fit after an epoch, as a person would."""

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context, **more):
        if context.task_name == "epoch":
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("method", "error", "change"),
    [
        ("fit", ConfigError, {"learning_rate": 1e300}),
        ("partial_fit", ConfigError, {"learning_rate": 1e300}),
        ("fit", KeyboardInterrupt, {}),
    ],
)
def test_nets_that_go_on_and_fail_are_as_they_were(method, error, change):
    X = normal_rows(200)
    det = AutoencoderDetector(max_epochs=3, warm_start=True, random_state=0).fit(X)
    before, seen = det.anomaly_score(X), [reservoir.rows.copy() for reservoir in det._reservoirs]
    det.set_params(**change).set_callbacks(*([Stop()] if error is KeyboardInterrupt else []))
    with pytest.raises(error):
        getattr(det, method)(2 * X)
    np.testing.assert_array_equal(det.anomaly_score(X), before)
    np.testing.assert_equal([reservoir.rows for reservoir in det._reservoirs], seen)


@pytest.mark.parametrize(
    "change", [{"members": 2}, {"calibration": "split"}, {"latent": Point(2)}, {"effort": "fast"}], ids=str
)
def test_nets_are_not_gone_on_from_where_others_are_asked_for(change):
    det = AutoencoderDetector(max_epochs=1, random_state=0, warm_start=True).fit(normal_rows(60))
    with pytest.raises(ConfigError, match=f"{next(iter(change))} changed"):
        det.set_params(**change).fit(normal_rows(60))


def test_a_threshold_may_change_where_nets_go_on():
    det = AutoencoderDetector(max_epochs=1, random_state=0, warm_start=True).fit(normal_rows(60))
    assert det.set_params(threshold=Conformal(0.2)).fit(normal_rows(60)).threshold_.alpha == 0.2


MISPLACED = {
    "a scorer": ({"scorer": Point()}, r"needs a scorer, however: Point\(\)"),
    "a corruption": ({"corruption": Dense()}, r"needs a corruption, however: Dense\(\)"),
    "no list": ({"scorer": Fused(StandardizedError())}, "Fused needs a list of parts"),
    "a number in a list": ({"scorer": Fused([3])}, r"Fused needs a list of parts, however: \[3\]"),
    "a number for widths": ({"backbone": Dense(8)}, "Dense needs a list of hidden widths, however: 8"),
    "half a code": ({"latent": Point(1.5)}, "Point needs dim to be an int .*, however: 1.5. Use None"),
    "half a feature": (
        {"backbone": RandomFeatures(features=1.5)},
        "needs features to be an int .*, however: 1.5. Try 256",
    ),
    "no weight": ({"scorer": WeightedSum([StandardizedError()], [0])}, r"weights \[0\]"),
    "text for alpha": (
        {"threshold": Conformal("x")},
        r"alpha to be .* \(0.0, 1.0\), however: 'x'. Try 0.05",
    ),
    "endless noise": (
        {"corruption": GaussianNoise(float("inf"))},
        r"sigma to be .* \[0.0, inf\), however: inf",
    ),
    "noise that hides all": ({"corruption": GaussianNoise(hide=2)}, r"GaussianNoise needs hide to be .* \[0.0, 1.0\]"),
    "a threshold for a latent": ({"latent": Conformal()}, r"needs a latent, however: Conformal\(\)"),
    "a prior for a corruption": ({"corruption": StandardNormal()}, r"on their own axes.*corruption StandardNormal\(\)"),
    "a prior in a chain": ({"corruption": Chain([StandardNormal()])}, "on their own axes"),
    "a corruption for a divergence": ({"divergence": GaussianNoise()}, r"on their own axes.*GaussianNoise\(\)"),
    "an endless scale": ({"likelihood": Normal(float("inf"))}, "Normal needs scale .*, however: inf"),
    "an endless shrinkage": ({"scorer": ResidualMahalanobis(float("inf"))}, "needs shrinkage .*, however: inf"),
    "endless weights": ({"scorer": Fused([StandardizedError()], weights=[float("inf")])}, "a weight above 0"),
    "rows of no shares": ({"likelihood": Multinomial()}, "Multinomial needs rows of shares that add up to 1, .*Divide"),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_what_is_no_part_of_an_axis_is_named(case):
    parameters, said = MISPLACED[case]
    with pytest.raises(ConfigError, match=said):
        AutoencoderDetector(**parameters).fit(normal_rows(40))


@BOTH
def test_warm_start_goes_on_from_the_last_fit(detector):
    X = normal_rows(400)
    settings = {"max_epochs": 4, "patience": None, "random_state": 0}
    cold = detector(**settings).fit(X)
    again = detector(**settings).fit(X).fit(X)
    warm = detector(**settings, warm_start=True).fit(X)
    encoding, first = warm.folds_[0].encoding, warm.history_["validate_loss"].iloc[-1]
    warm.fit(X)
    assert np.array_equal(again.score_samples(X), cold.score_samples(X))
    assert warm.history_["validate_loss"].min() < first == cold.history_["validate_loss"].iloc[-1]
    np.testing.assert_equal(warm.folds_[0].encoding.state, encoding.state)
    assert len(warm.calibration_scores_) == len(X)
