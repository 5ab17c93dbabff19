"""Ensembles: members trained at once are as if trained alone, and what they disagree on is a score."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from anomaly_ae import (
    DIP,
    KL,
    MMD,
    Adversarial,
    AutoencoderDetector,
    BernoulliCode,
    CategoricalCode,
    Contractive,
    Dense,
    Disagreement,
    Flow,
    Fused,
    Gaussian,
    GaussianNoise,
    ImportanceWeighted,
    KLScore,
    L1Code,
    Ladder,
    LocalDenoiser,
    Memory,
    Mixture,
    NegativeELBO,
    OutlierExposure,
    ReconstructionError,
    ResidualMahalanobis,
    SlicedWasserstein,
    StandardizedError,
    TotalCorrelation,
    VAEDetector,
    Vamp,
    VectorQuantized,
    load,
)
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.stack import Stack
from anomaly_ae.nn.training import Recipe, train

DIM = 5
QUICK = {"max_epochs": 4, "random_state": 0, "calibration": "split"}
RECIPE = Recipe(6, 5, 64, 5e-3, 1e-5, 1.0, 2)


def rows(n, seed=0):
    mix = np.random.default_rng(9).normal(size=(DIM, DIM))
    return np.random.default_rng(seed).normal(size=(n, DIM)) @ mix


def nets(detector, n, **parts):
    made = []
    for seed in range(n):
        torch.manual_seed(seed)
        axes = detector(**parts).parts()
        made.append(Net(**{axis: axes[axis] for axis in Net.AXES}).build((DIM,)))
    return made


COMPOSITIONS = {
    "autoencoder": (AutoencoderDetector, {"corruption": GaussianNoise(0)}),
    "batch norm": (AutoencoderDetector, {"corruption": GaussianNoise(0), "backbone": Dense(batch_norm=True)}),
    "codebook": (AutoencoderDetector, {"corruption": GaussianNoise(0), "latent": VectorQuantized(8)}),
    "memory": (AutoencoderDetector, {"corruption": GaussianNoise(0), "latent": Memory(8)}),
    "sparse": (AutoencoderDetector, {"corruption": GaussianNoise(0), "penalty": L1Code(0.1)}),
    "trimmed": (AutoencoderDetector, {"corruption": GaussianNoise(0), "penalty": OutlierExposure()}),
    "normalised codes": (VAEDetector, {"latent": Gaussian(3, gamma=0.5)}),
    "VAE": (VAEDetector, {}),  # its learned scale is a buffer that each step moves
    "contractive": (AutoencoderDetector, {"penalty": Contractive()}),
    "mixture": (VAEDetector, {"prior": Mixture(3), "divergence": KL() + MMD() + SlicedWasserstein()}),
    "pseudo-inputs": (VAEDetector, {"prior": Vamp(3), "divergence": KL() + TotalCorrelation() + DIP()}),
    "flow": (VAEDetector, {"prior": Flow(2), "divergence": ImportanceWeighted(3)}),
    "switches": (VAEDetector, {"latent": BernoulliCode(8)}),
    "categories": (VAEDetector, {"latent": CategoricalCode(4, 3), "divergence": KL(free_bits=0.1)}),
    "hierarchy": (VAEDetector, {"latent": Ladder((3, 2)), "divergence": KL() + Adversarial(of="independence")}),
}


@pytest.mark.parametrize("case", ["autoencoder", "batch norm", "codebook", "memory", "sparse", "trimmed"])
def test_side_by_side_is_as_one_by_one(case):
    detector, parts = COMPOSITIONS[case]
    X = torch.from_numpy(rows(64)).float()  # one batch holds all rows: its order is no matter
    together, apart = nets(detector, 3, **parts), nets(detector, 3, **parts)
    history = train(Stack(together), Batch(X), Batch(X[:20]), RECIPE)
    alone = [train(Stack([net]), Batch(X), Batch(X[:20]), RECIPE) for net in apart]
    for name, value in history[0].items():
        if name not in ("seconds", "epoch"):
            assert value == pytest.approx(np.mean([one[0][name] for one in alone]), rel=1e-3), name
    for one, other in zip(together, apart, strict=True):
        p, q = one(Batch(X)), other(Batch(X))
        torch.testing.assert_close(p.px.mean, q.px.mean, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("case", COMPOSITIONS)
def test_members_learn_and_differ(case):
    detector, parts = COMPOSITIONS[case]
    det = detector(members=3, **parts, **QUICK).fit(rows(400))
    (fold,) = det.folds_
    assert len(fold.nets) == 3
    untrained = nets(detector, 1, **parts)[0]
    validate = Batch(torch.from_numpy(fold.encoding.transform(rows(200, 1)).x))
    with torch.no_grad():
        means = [net(validate).px.mean for net in fold.nets]
        assert all((one - other).abs().max() > 1e-3 for one, other in pairwise(means))
        untrained.double().eval()
        *losses, start = (net.terms(net(validate))["reconstruction"].mean() for net in (*fold.nets, untrained))
    assert max(losses) < start
    det.partial_fit(rows(1200, 2))
    assert np.isfinite(det.anomaly_score(rows(50, 1))).all()


SCORERS = {
    "error": (AutoencoderDetector, ReconstructionError()),
    "standardized": (AutoencoderDetector, StandardizedError()),
    "whitened": (AutoencoderDetector, ResidualMahalanobis()),
    "disagreement": (AutoencoderDetector, Disagreement()),
    "fused": (AutoencoderDetector, Fused([StandardizedError(), Disagreement(), LocalDenoiser()])),
    "kl": (VAEDetector, KLScore()),
    "elbo": (VAEDetector, NegativeELBO()),
}


@pytest.mark.parametrize("case", SCORERS)
def test_scores_of_members_are_kept_and_explained(case, tmp_path):
    detector, scorer = SCORERS[case]
    det = detector(members=3, scorer=scorer, **QUICK).fit(rows(300))
    new = rows(50, 1)
    again = load(det.save(tmp_path / "model"))
    assert np.array_equal(again.anomaly_score(new), det.anomaly_score(new))
    assert np.array_equal(again.explain(new), det.explain(new))
    if case not in ("kl", "elbo"):
        np.testing.assert_allclose(det.explain(new).sum(axis=1), det.anomaly_score(new))
    det.partial_fit(rows(200, 2))
    assert np.isfinite(det.anomaly_score(new)).all()


def test_a_score_is_the_mean_of_the_members():
    det = AutoencoderDetector(members=3, scorer=ReconstructionError(), **QUICK).fit(rows(300))
    (fold,) = det.folds_
    batch = fold._batch(fold.encoding.transform(rows(50, 1)))
    with torch.inference_mode():
        apart = [fold.scorer(net(batch)) for net in fold.nets]
        torch.testing.assert_close(fold.scorer(fold.passed(batch)), torch.stack(apart).mean(0))


def test_disagreement_is_the_variance_of_reconstructions():
    det = AutoencoderDetector(members=4, scorer=Disagreement(), **QUICK).fit(rows(300))
    (fold,) = det.folds_
    batch = fold._batch(fold.encoding.transform(rows(50, 1)))
    with torch.inference_mode():
        rebuilt = np.stack([net(batch).px.mean.numpy() for net in fold.nets])
        expected = rebuilt.var(axis=0, ddof=1).mean(axis=1)
        np.testing.assert_allclose(fold.scorer(fold.passed(batch)).numpy(), expected, rtol=1e-9)


def test_members_disagree_most_where_there_was_nothing_to_learn_from():
    det = AutoencoderDetector(members=4, scorer=Disagreement(), random_state=0).fit(rows(600))
    assert np.median(det.anomaly_score(4 * rows(200, 1))) > 3 * np.median(det.anomaly_score(rows(200, 2)))


def test_one_member_has_nobody_to_disagree_with():
    with pytest.raises(ConfigError, match="members"):
        AutoencoderDetector(scorer=Disagreement(), **QUICK).fit(rows(100))
