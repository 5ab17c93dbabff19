"""Trained nets against what theory says they must find, and every hyperparameter against the score it must move."""

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.linalg import subspace_angles
from torch.distributions.kl import _dispatch_kl

from anomaly_ae import (
    DIP,
    KL,
    M2,
    MAD,
    MMD,
    Adversarial,
    AutoencoderDetector,
    BernoulliCode,
    CategoricalCode,
    Chain,
    ClassGaussian,
    ClassScore,
    Conformal,
    Contractive,
    Dense,
    Flow,
    Fused,
    Gaussian,
    GaussianNoise,
    Huber,
    ImportanceWeighted,
    KLScore,
    KnownAnomalies,
    L1Code,
    Ladder,
    Laplace,
    LatentMahalanobis,
    LearnedNormal,
    LikelihoodRatio,
    LocalDenoiser,
    Masking,
    Memory,
    Mixed,
    Mixture,
    MutualInformation,
    NegativeELBO,
    Neighbours,
    Normal,
    OutlierExposure,
    PeaksOverThreshold,
    Point,
    Preprocessing,
    PullPush,
    Quantile,
    RandomFeatures,
    ReconstructionError,
    ReconstructionProbability,
    ResidualMahalanobis,
    SlicedWasserstein,
    StandardizedError,
    StandardNormal,
    StudentT,
    Sum,
    Swapping,
    TotalCorrelation,
    Trimmed,
    VAEDetector,
    Vamp,
    VectorQuantized,
    WeightedSum,
)
from anomaly_ae.nn.core import Batch, Clock, Part, total_kl
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.stack import Stack
from anomaly_ae.nn.training import Recipe, seeded, threads, train
from anomaly_ae.scoring.calibration import splits

VARIANCES = np.array([4.0, 2.0, 1.0, 0.3, 0.1, 0.05])
D = len(VARIANCES)


def gaussian_rows(n=4000, seed=0):
    """Rows whose sample covariance has exactly the eigenvalues `VARIANCES`; also its eigenvectors."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(n, D))
    white -= white.mean(0)
    white = white @ np.linalg.inv(np.linalg.cholesky(white.T @ white / n)).T
    axes = np.linalg.qr(rng.normal(size=(D, D)))[0]
    return (white * np.sqrt(VARIANCES)) @ axes.T, axes


def linear(latent, corruption=None, likelihood=None, steps=3000):
    """A linear net trained to its optimum on `gaussian_rows`."""
    variational = isinstance(latent, Gaussian)
    X = torch.tensor(gaussian_rows()[0], dtype=torch.float32)
    recipe = Recipe(20, steps // 20, 512, 0.01, 0.0, None, None)
    with seeded(0):
        net = Net(
            backbone=Dense(hidden=()),
            latent=latent,
            prior=StandardNormal() if variational else None,
            divergence=KL() if variational else None,
            likelihood=likelihood or Normal(),
            corruption=corruption,
        ).build((D,))
        with threads(net):
            train(Stack([net]), Batch(X), None, recipe)
    return net, X


@pytest.mark.parametrize("k", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_linear_autoencoder_spans_the_pca_subspace_and_loses_the_other_eigenvalues(k):
    net, X = linear(Point(k))
    with torch.no_grad():
        residual = (X - net(Batch(X)).px.mean).square().sum(1).mean()
    axes = gaussian_rows()[1][:, :k]
    assert np.rad2deg(subspace_angles(net.decoder.linear.weight.detach().numpy(), axes)).max() < 2
    assert np.rad2deg(subspace_angles(net.latent.code.weight.detach().numpy().T, axes)).max() < 2
    assert residual.item() == pytest.approx(VARIANCES[k:].sum(), rel=0.01)


def test_linear_denoiser_leaves_the_closed_form_residual():
    sigma = 0.7
    net, X = linear(Point(D), GaussianNoise(sigma, per_row=False), steps=6000)
    with torch.no_grad():
        residual = (X - net(Batch(X)).px.mean).numpy()
    covariance = X.numpy().T @ X.numpy() / len(X)
    expected = X.numpy() @ (sigma**2 * np.linalg.inv(covariance + sigma**2 * np.eye(D)))
    assert np.abs(residual - expected).mean() < 0.05 * np.abs(expected).mean()


@pytest.mark.slow
@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.2])
def test_linear_vae_pays_the_kl_that_the_law_says(sigma):
    """Total KL = 1/2 sum ln(lambda_k / sigma^2) over the latents with lambda_k > sigma^2 (Lucas et al. 2019)."""
    net, X = linear(Gaussian(D), likelihood=Normal(sigma), steps=6000)
    with torch.no_grad():
        paid = total_kl(net(Batch(X))).mean().item()
    alive = VARIANCES[sigma**2 < VARIANCES]
    assert paid == pytest.approx(0.5 * np.log(alive / sigma**2).sum(), rel=0.05)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_divergence_from_standard_normal_codes_is_that_of_two_normals(kind):
    rng = torch.Generator().manual_seed(0)
    mu = torch.randn(50, 3, generator=rng, dtype=kind).requires_grad_()
    sigma = torch.rand(50, 3, generator=rng, dtype=kind).add(0.01).requires_grad_()
    q, told = torch.distributions.Normal(mu, sigma), []
    unit = StandardNormal()(Batch(mu))
    assert _dispatch_kl(type(q), type(unit)) is not _dispatch_kl(type(q), type(q))
    for p in (unit, torch.distributions.Normal(torch.zeros_like(mu), torch.ones_like(mu))):
        kl = torch.distributions.kl_divergence(q, p)
        told.append([kl, *torch.autograd.grad(kl.sum(), (mu, sigma))])
    for mine, expected in zip(*told, strict=True):
        torch.testing.assert_close(mine, expected)


@pytest.mark.slow
def test_linear_vae_learns_the_scale_of_probabilistic_pca():
    """sigma^2 = mean of the discarded eigenvalues (Tipping and Bishop 1999), and the KL that goes with it."""
    net, X = linear(Gaussian(3), likelihood=LearnedNormal(momentum=0.98), steps=6000)
    sigma2 = VARIANCES[3:].mean()
    assert net.likelihood.variance.item() == pytest.approx(sigma2, rel=0.05)
    with torch.no_grad():
        paid = total_kl(net(Batch(X))).mean().item()
    assert paid == pytest.approx(0.5 * np.log(VARIANCES[:3] / sigma2).sum(), rel=0.05)


def test_latents_in_use_are_those_of_probabilistic_pca():
    """As many as there are eigenvalues above sigma^2, each knowing 1/2 ln(lambda / sigma^2) of its row."""
    X, sigma = gaussian_rows(2000)[0], 0.5
    values = np.linalg.eigvalsh(np.corrcoef(X.T))[::-1]
    kept = values[values > sigma**2]
    assert 2 <= len(kept) < D
    parts = {"preprocessing": Preprocessing(bend=None), "backbone": Dense(()), "likelihood": Normal(sigma)}
    more = {"max_epochs": 150, "patience": None, "learning_rate": 0.02, "scorer": NegativeELBO(), "random_state": 0}
    latents = VAEDetector(latent=Gaussian(D), calibration="split", **parts, **more).fit(X).latents(X)
    assert latents["active"].sum() == len(kept)
    expected = 0.5 * np.log(kept / sigma**2).sum()
    assert latents["kl"].sum() == pytest.approx(expected, rel=0.05)
    np.testing.assert_allclose(latents["information"], latents["kl"], atol=0.06)  # codes of all rows are as the prior
    np.testing.assert_allclose(latents["information"], -np.log(latents["noise"]), atol=0.06)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_normalised_means_keep_every_latent_off_the_prior(gamma):
    """Means of standard deviation gamma are gamma^2 / 2 nats from a standard normal, whatever else the code says."""
    X = gaussian_rows(2000)[0]
    parts = {"likelihood": Normal(10), "divergence": KL(beta=4), "scorer": NegativeELBO(), "random_state": 0}
    latents = VAEDetector(latent=Gaussian(3, gamma=gamma), calibration="split", **parts).fit(X).latents(X)
    np.testing.assert_allclose(latents["spread"], gamma**2, rtol=0.1)
    assert (latents["kl"] > 0.9 * gamma**2 / 2).all()
    assert latents["kl"].sum() == pytest.approx(3 * gamma**2 / 2, rel=0.3)  # no more than it must at such a price


def test_a_row_alone_is_normalised_by_those_before():
    X = gaussian_rows(300)[0]
    det = VAEDetector(latent=Gaussian(2, gamma=0.5), effort="fast", calibration="split", random_state=0).fit(X)
    before = det.latents(X)["spread"].to_numpy()
    det.partial_fit(X[:1])
    np.testing.assert_allclose(det.latents(X)["spread"], before, rtol=0.3)
    few = VAEDetector(latent=Gaussian(2, gamma=0.5), effort="fast", random_state=0).fit(X[:3])  # one teaches each net
    assert np.isfinite(few.anomaly_score(X)).all()
    for prior in (Vamp(1), Vamp(5)):  # its pseudo-inputs are normalised as rows are
        det = VAEDetector(latent=Gaussian(2, gamma=0.5), prior=prior, effort="fast", random_state=0).fit(X)
        assert np.isfinite(det.anomaly_score(X)).all()
        np.testing.assert_allclose(det.latents(X)["spread"], 0.25, rtol=0.3)


def test_of_points_there_is_the_spread_alone_and_of_mixtures_no_single_divergence():
    X = gaussian_rows(400)[0]
    points = AutoencoderDetector(latent=Point(2), max_epochs=2, random_state=0).fit(X)
    latents = points.latents(X)
    assert list(latents) == ["mean", "spread", "active"]
    np.testing.assert_allclose(latents["spread"], points.transform(X).var(axis=0))
    latents = VAEDetector(latent=Gaussian(2), prior=Mixture(2), max_epochs=2, random_state=0).fit(X).latents(X)
    assert latents["kl"].isna().all()
    assert (latents["information"] >= 0).all()


def test_kl_is_alive_and_falls_as_beta_rises_and_capacity_holds_it():
    X = gaussian_rows(1500)[0]

    def kl_of(divergence):
        det = VAEDetector(divergence=divergence, max_epochs=60, likelihood=Normal(0.3), random_state=0).fit(X)
        return det.history_["validate_kl"].iloc[-1], det.anomaly_score(X), det.history_["divergence"].iloc[-1]

    paid = [kl_of(KL(beta=beta)) for beta in (0.25, 1, 4, 16)]
    kls = [kl for kl, _, _ in paid]
    assert all(before > 1.2 * after for before, after in pairwise(kls))
    assert not any(np.allclose(a[1], b[1]) for a, b in pairwise(paid))
    assert kls[1] > 1


@pytest.mark.parametrize(
    ("scale", "divergence", "collapses"), [(0.3, KL(), False), (10, KL(), True), (10, KL(free_bits=0.1), False)]
)
def test_a_posterior_that_collapses_is_told(scale, divergence, collapses, recwarn):
    """No latent pays for itself where the errors' variance is above every eigenvalue; free bits pay for it."""
    det = VAEDetector(effort="fast", likelihood=Normal(scale), divergence=divergence, random_state=0)
    det.fit(gaussian_rows(1500)[0])
    assert any("collapsed" in str(warning.message) for warning in recwarn) == collapses


@pytest.mark.parametrize("capacity", [2.0, pytest.param(5.0, marks=pytest.mark.slow)])
def test_capacity_holds_the_kl(capacity):
    X = gaussian_rows(6000)[0]
    held = []
    for seed in range(3):  # on batches, and kept from the epoch that validate rows like best: each a few per cent off
        det = VAEDetector(
            divergence=KL(beta=20, capacity=capacity), max_epochs=80, likelihood=Normal(0.3), random_state=seed
        )
        held.append(det.fit(X).folds_[0].read(X, total_kl).mean())
    assert np.mean(held) == pytest.approx(capacity, rel=0.05)


def test_clock_of_scoring_stands_at_the_end():
    assert Clock().progress == 1.0
    assert Clock(step=3, steps=12).progress == 0.25


# Every hyperparameter of every part and of the detector moves the score of a fixed row.
MOVES = [
    (AutoencoderDetector, {"backbone": Dense(hidden=(8,))}),
    (AutoencoderDetector, {"backbone": Dense(activation="tanh")}),
    (AutoencoderDetector, {"backbone": Dense(dropout=0.3)}),
    (AutoencoderDetector, {"backbone": Dense(batch_norm=True)}),
    (AutoencoderDetector, {"backbone": Dense(expansion=2)}),
    (AutoencoderDetector, {"latent": Point(2)}),
    (AutoencoderDetector, {"likelihood": LearnedNormal()}),
    (AutoencoderDetector, {"likelihood": LearnedNormal(per="feature")}),
    (AutoencoderDetector, {"likelihood": LearnedNormal(per="cell")}),
    (AutoencoderDetector, {"corruption": GaussianNoise(0.6)}),
    (AutoencoderDetector, {"corruption": GaussianNoise(per_row=False)}),
    (AutoencoderDetector, {"likelihood": Laplace()}),
    (AutoencoderDetector, {"likelihood": Laplace(2.0)}),
    (AutoencoderDetector, {"likelihood": Huber()}),
    (AutoencoderDetector, {"likelihood": Huber(delta=0.2)}),
    (AutoencoderDetector, {"likelihood": Huber(scale=0.2)}),
    (AutoencoderDetector, {"likelihood": StudentT()}),
    (AutoencoderDetector, {"likelihood": StudentT(df=1.0)}),
    (AutoencoderDetector, {"likelihood": StudentT(scale=0.2)}),
    (AutoencoderDetector, {"likelihood": Mixed(numeric=Laplace(0.5))}),
    (AutoencoderDetector, {"corruption": Masking()}),
    (AutoencoderDetector, {"corruption": Masking(rate=0.6)}),
    (AutoencoderDetector, {"corruption": Masking(per_row=False)}),
    (AutoencoderDetector, {"corruption": Swapping()}),
    (AutoencoderDetector, {"corruption": Swapping(rate=0.5)}),
    (AutoencoderDetector, {"corruption": Chain([GaussianNoise(), Masking()])}),
    (AutoencoderDetector, {"preprocessing": Preprocessing(standardize=False)}),
    (AutoencoderDetector, {"preprocessing": Preprocessing(bend=4)}),
    (AutoencoderDetector, {"scorer": ReconstructionError(1)}),
    (AutoencoderDetector, {"scorer": StandardizedError(shrinkage=0)}),
    (AutoencoderDetector, {"scorer": ResidualMahalanobis()}),
    (AutoencoderDetector, {"scorer": ResidualMahalanobis(shrinkage=1.0)}),
    (AutoencoderDetector, {"scorer": Neighbours()}),
    (AutoencoderDetector, {"scorer": Neighbours(k=1)}),
    (AutoencoderDetector, {"scorer": Neighbours(p=1)}),
    (AutoencoderDetector, {"scorer": Neighbours(correction=0.5)}),
    (AutoencoderDetector, {"scorer": Neighbours(bend=2)}),
    (AutoencoderDetector, {"scorer": LocalDenoiser()}),
    (AutoencoderDetector, {"scorer": LocalDenoiser(k=20)}),
    (AutoencoderDetector, {"scorer": LocalDenoiser(ridge=0.1)}),
    (AutoencoderDetector, {"scorer": LocalDenoiser(bend=2)}),
    (AutoencoderDetector, {"scorer": LocalDenoiser(space="code")}),
    (AutoencoderDetector, {"scorer": LocalDenoiser(exact=100)}),
    (AutoencoderDetector, {"scorer": LocalDenoiser(exact=100, sample=60)}),
    (AutoencoderDetector, {"scorer": Neighbours(space="code")}),
    (AutoencoderDetector, {"scorer": Neighbours(space="residual")}),
    (AutoencoderDetector, {"scorer": Neighbours(exact=100)}),
    (AutoencoderDetector, {"scorer": Neighbours(exact=100, sample=20)}),
    (AutoencoderDetector, {"labels": KnownAnomalies()}),
    (AutoencoderDetector, {"labels": KnownAnomalies(weight=2)}),
    (AutoencoderDetector, {"labels": KnownAnomalies(k=1)}),
    (AutoencoderDetector, {"labels": KnownAnomalies(softness=0.1)}),
    (AutoencoderDetector, {"labels": KnownAnomalies(space="code")}),
    (AutoencoderDetector, {"labels": KnownAnomalies(bend=2)}),
    (AutoencoderDetector, {"labels": KnownAnomalies(exact=100)}),
    (AutoencoderDetector, {"labels": KnownAnomalies(exact=100, sample=20)}),
    (AutoencoderDetector, {"backbone": RandomFeatures()}),
    (AutoencoderDetector, {"backbone": RandomFeatures(features=64)}),
    (AutoencoderDetector, {"backbone": RandomFeatures(length=3)}),
    (AutoencoderDetector, {"backbone": RandomFeatures(ridge=0.1)}),
    (AutoencoderDetector, {"scorer": Fused([StandardizedError(), Neighbours()])}),
    (AutoencoderDetector, {"effort": "fast"}),
    (AutoencoderDetector, {"effort": "best"}),
    (VAEDetector, {"effort": "fast"}),
    (AutoencoderDetector, {"calibration": "cross"}),
    (AutoencoderDetector, {"max_epochs": 2}),
    (AutoencoderDetector, {"steps_per_epoch": 9}),
    (AutoencoderDetector, {"batch_size": 64}),
    (AutoencoderDetector, {"learning_rate": 0.001}),
    (AutoencoderDetector, {"weight_decay": 0.5}),
    (AutoencoderDetector, {"clip_norm": 0.001}),
    (AutoencoderDetector, {"random_state": 1}),
    (AutoencoderDetector, {"penalty": L1Code()}),
    (AutoencoderDetector, {"penalty": L1Code(weight=0.1)}),
    (AutoencoderDetector, {"penalty": Contractive()}),
    (AutoencoderDetector, {"penalty": Contractive(weight=1)}),
    (AutoencoderDetector, {"penalty": L1Code() + Contractive()}),
    (AutoencoderDetector, {"penalty": Trimmed()}),
    (AutoencoderDetector, {"penalty": Trimmed(share=0.3)}),
    (AutoencoderDetector, {"penalty": OutlierExposure()}),
    (AutoencoderDetector, {"penalty": OutlierExposure(share=0.3)}),
    (AutoencoderDetector, {"penalty": OutlierExposure(certainty=0.5)}),
    (AutoencoderDetector, {"penalty": PullPush()}),
    (AutoencoderDetector, {"penalty": PullPush(margin=0.5)}),
    (AutoencoderDetector, {"penalty": PullPush(weight=0.1)}),
    (VAEDetector, {"latent": ClassGaussian(), "divergence": M2()}),
    (VAEDetector, {"latent": ClassGaussian(dim=2), "divergence": M2()}),
    (VAEDetector, {"latent": ClassGaussian(gamma=0.5), "divergence": M2()}),
    (VAEDetector, {"latent": ClassGaussian(), "divergence": M2(weight=1)}),
    (VAEDetector, {"latent": ClassGaussian(), "divergence": M2(), "scorer": ClassScore()}),
    (AutoencoderDetector, {"latent": VectorQuantized()}),
    (AutoencoderDetector, {"latent": VectorQuantized(k=16)}),
    (AutoencoderDetector, {"latent": VectorQuantized(dim=2)}),
    (AutoencoderDetector, {"latent": VectorQuantized(commitment=2)}),
    (AutoencoderDetector, {"latent": VectorQuantized(decay=0.5)}),
    (AutoencoderDetector, {"latent": Memory()}),
    (AutoencoderDetector, {"latent": Memory(slots=20)}),
    (AutoencoderDetector, {"latent": Memory(dim=2)}),
    (AutoencoderDetector, {"latent": Memory(shrinkage=0)}),
    (AutoencoderDetector, {"latent": Memory(entropy=0.1)}),
    (VAEDetector, {"latent": Gaussian(2)}),
    (VAEDetector, {"latent": Gaussian(most=3)}),
    (VAEDetector, {"latent": Gaussian(gamma=0.5)}),
    (VAEDetector, {"latent": Gaussian(gamma=1.0)}),
    (VAEDetector, {"latent": BernoulliCode()}),
    (VAEDetector, {"latent": BernoulliCode(dim=4)}),
    (VAEDetector, {"latent": BernoulliCode(temperature=1)}),
    (VAEDetector, {"latent": CategoricalCode()}),
    (VAEDetector, {"latent": CategoricalCode(variables=2)}),
    (VAEDetector, {"latent": CategoricalCode(levels=6)}),
    (VAEDetector, {"latent": CategoricalCode(temperature=1)}),
    (VAEDetector, {"latent": Ladder()}),
    (VAEDetector, {"latent": Ladder(dims=(4, 2))}),
    (VAEDetector, {"latent": Ladder(hidden=16)}),
    (VAEDetector, {"latent": Ladder(), "scorer": LikelihoodRatio()}),
    (VAEDetector, {"latent": Ladder((4, 3, 2)), "scorer": LikelihoodRatio(k=2)}),
    (VAEDetector, {"divergence": KL(beta=3)}),
    (VAEDetector, {"divergence": KL(beta=5, capacity=1)}),
    (VAEDetector, {"divergence": KL(warmup=0.9)}),
    (VAEDetector, {"divergence": KL(free_bits=0.5)}),
    (VAEDetector, {"divergence": ImportanceWeighted()}),
    (VAEDetector, {"divergence": ImportanceWeighted(k=2)}),
    (VAEDetector, {"divergence": MMD(weight=20)}),
    (VAEDetector, {"divergence": MMD(kernel="rbf")}),
    (VAEDetector, {"divergence": SlicedWasserstein(weight=20)}),
    (VAEDetector, {"divergence": SlicedWasserstein(projections=5)}),
    (VAEDetector, {"divergence": TotalCorrelation(weight=2)}),
    (VAEDetector, {"divergence": DIP(weight=1)}),
    (VAEDetector, {"divergence": DIP(diagonal=1)}),
    (VAEDetector, {"divergence": DIP(of="codes")}),
    (VAEDetector, {"divergence": Adversarial()}),
    (VAEDetector, {"divergence": Adversarial(weight=0.1)}),
    (VAEDetector, {"divergence": Adversarial(of="independence")}),
    (VAEDetector, {"divergence": Adversarial(hidden=8)}),
    (VAEDetector, {"divergence": KL() + MMD()}),
    (VAEDetector, {"divergence": MutualInformation()}),
    (VAEDetector, {"divergence": MutualInformation(weight=0.1)}),
    (VAEDetector, {"divergence": MutualInformation(hidden=8)}),
    (VAEDetector, {"prior": Mixture()}),
    (VAEDetector, {"prior": Mixture(components=3)}),
    (VAEDetector, {"prior": Vamp()}),
    (VAEDetector, {"prior": Vamp(pseudo_inputs=3)}),
    (VAEDetector, {"prior": Flow()}),
    (VAEDetector, {"prior": Flow(couplings=2)}),
    (VAEDetector, {"prior": Flow(hidden=8)}),
    (VAEDetector, {"likelihood": Normal(0.4)}),
    (VAEDetector, {"likelihood": LearnedNormal(floor=2.0)}),
    (VAEDetector, {"likelihood": LearnedNormal(momentum=0.2)}),
    (VAEDetector, {"corruption": GaussianNoise()}),
    (VAEDetector, {"scorer": KLScore()}),
    (VAEDetector, {"scorer": ReconstructionProbability()}),
    (VAEDetector, {"scorer": ReconstructionProbability(draws=3)}),
    (VAEDetector, {"scorer": LatentMahalanobis()}),
    (VAEDetector, {"scorer": LatentMahalanobis(shrinkage=1.0)}),
    (VAEDetector, {"scorer": NegativeELBO() + KLScore()}),
    (VAEDetector, {"scorer": WeightedSum([NegativeELBO(), KLScore()], [1, 3])}),
]


@pytest.fixture(scope="module")
def scored():
    X, y = gaussian_rows(400)[0], np.repeat([1, -1], [390, 10])  # labels count where they are asked for
    settings = {"max_epochs": 4, "calibration": "split", "random_state": 0}
    cache = {}

    def score(detector, **changes):
        key = detector, repr(sorted(changes.items()))
        if key not in cache:
            cache[key] = detector(**(settings | changes)).fit(X, y).anomaly_score(X[:20])
        return cache[key]

    return score


@pytest.mark.parametrize(("detector", "change"), MOVES, ids=lambda value: str(value)[:60])
def test_every_hyperparameter_moves_the_score(scored, detector, change):
    # against the same part with its defaults, or where it has them already, against the detector's
    plain = {
        axis: type(part)()
        for axis, part in change.items()
        if isinstance(part, Part) and not isinstance(part, Chain | Sum)
    }
    plain = {} if repr(plain) == repr(change) or isinstance(change.get("scorer"), Fused | WeightedSum) else plain
    assert np.abs(scored(detector, **change) / scored(detector, **plain) - 1).max() > 1e-6


def test_patience_stops_training_early():
    X = gaussian_rows(400)[0]

    def epochs(patience):
        det = VAEDetector(patience=patience, learning_rate=0.2, calibration="split", random_state=0)
        return len(det.fit(X).history_)

    assert epochs(1) < epochs(None) == 30


def test_the_kept_weights_are_those_of_the_best_epoch():
    X = np.random.default_rng(0).normal(size=(100, 20))  # nothing to learn but the rows themselves
    det = AutoencoderDetector(latent=Point(8), corruption=GaussianNoise(0), calibration="split", patience=None)
    history = det.set_params(random_state=0).fit(X).history_
    assert history["validate_loss"].idxmin() < len(history) - 1
    validate = X[splits(len(X), 1, np.random.RandomState(0))[0].validate]
    kept = det.folds_[0].read(validate, det.folds_[0].net.log_likelihood)
    assert -kept.mean() == pytest.approx(history["validate_loss"].min(), rel=1e-5)


@pytest.mark.parametrize(
    ("threshold", "other"),
    [
        (Conformal(0.05), Conformal(0.2)),
        (Quantile(0.9), Quantile(0.99)),
        (MAD(1), MAD(3)),
        (PeaksOverThreshold(0.01), PeaksOverThreshold(0.05)),
    ],
)
def test_threshold_moves_alarms_and_not_scores(threshold, other):
    X = gaussian_rows(800)[0]
    one, two = (AutoencoderDetector(threshold=t, max_epochs=3, random_state=0).fit(X[:400]) for t in (threshold, other))
    np.testing.assert_array_equal(one.anomaly_score(X), two.anomaly_score(X))
    assert (one.predict(X) != two.predict(X)).any()


def test_reconstruction_probability_is_the_mean_over_codes_that_a_row_may_have():
    X = gaussian_rows(400)[0]
    det = VAEDetector(effort="fast", scorer=ReconstructionProbability(2000), calibration="split", random_state=0).fit(X)
    fold = det.folds_[0]
    p = fold.passed(fold._batch(fold._cells(X[:20])))
    assert fold.scorer.noise.sum().abs() < 1e-3  # each with its opposite
    with seeded(1):
        z = p.levels[0].q.sample((4000,))
    lost = torch.stack([fold.net.reconstruction(replace(p, px=fold.net.decode(each))) for each in z])
    ours = torch.tensor(det.anomaly_score(X[:20]))
    torch.testing.assert_close(ours, lost.mean(0).double(), rtol=0.05, atol=0.1)
    more = ours - fold.net.reconstruction(p).double()
    assert (more > 0).all()
    np.testing.assert_array_equal(det.anomaly_score(X[:20]), det.anomaly_score(X[:20]))


@pytest.mark.parametrize("detector", [VAEDetector, AutoencoderDetector])
def test_codes_are_judged_by_their_covariance(detector):
    X, parts = gaussian_rows(400)[0], {"effort": "fast", "calibration": "split", "random_state": 0}
    if detector is AutoencoderDetector:
        parts |= {"latent": Point(2), "backbone": Dense()}
    det = detector(scorer=LatentMahalanobis(shrinkage=1e-6), **parts).fit(X)
    own = det.folds_[0].scorer
    z = det.transform(X[:50])
    covariance = np.linalg.inv(own.whiten.double().numpy() @ own.whiten.double().numpy())
    expected = [0.5 * (row - own.mean.numpy()) @ np.linalg.solve(covariance, row - own.mean.numpy()) for row in z]
    np.testing.assert_allclose(det.folds_[0].read(X[:50], own), expected, rtol=1e-3)
    split = splits(len(X), 1, np.random.RandomState(0))[0]
    np.testing.assert_allclose(np.cov(det.transform(X[split.fit]).T, bias=True), covariance, rtol=1e-2, atol=1e-4)
    assert det.anomaly_score(100 * X[:5]).min() > det.anomaly_score(X).max()


def test_an_autoencoder_that_nothing_keeps_from_copying_is_warned_of():
    X = gaussian_rows(200)[0]
    d = X.shape[1]
    free = {"backbone": Dense(()), "latent": Point(d), "corruption": GaussianNoise(0), "effort": "fast"}
    with pytest.warns(UserWarning, match=f"its code of {d} is as wide as a row of {d} cells, and there is no noise"):
        AutoencoderDetector(**free).fit(X)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for change in (
            {"latent": Point(d - 1)}, {"corruption": None}, {"penalty": L1Code()}, {"backbone": Dense((d - 1,))},
            {"backbone": Dense((8,), dropout=0.1)}, {"latent": VectorQuantized()}, {"corruption": Masking(0.1)},
        ):  # fmt: skip
            AutoencoderDetector(**(free | change)).fit(X)
    assert not [one for one in told if "copying" in str(one.message)]
