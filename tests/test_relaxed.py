"""Codes that are discrete, relaxed in training."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from anomaly_ae import (
    DIP,
    KL,
    MMD,
    Adversarial,
    AutoencoderDetector,
    BernoulliCode,
    CategoricalCode,
    Dense,
    Flow,
    ImportanceWeighted,
    KLScore,
    Mixture,
    NegativeELBO,
    Normal,
    StandardNormal,
    TotalCorrelation,
    VAEDetector,
    Vamp,
)
from anomaly_ae.config import dumps, loads
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch, Sizes, kl, total_kl
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

N, DIM, DRAWS = 40, 6, 20_000
LATENTS = [BernoulliCode(5), CategoricalCode(3, 4)]
TEMPERATURES = [0.1, 0.5, 2.0]


def rows(n=N, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, DIM)))


def built(latent, steps=()):
    with seeded(0):
        latent.build(Sizes((DIM,), features=DIM, steps=steps))
        latent.code.weight.data *= 3  # odds that are uneven
    return latent.double().eval()


def level(latent, h):
    (found,) = latent(h, None, Batch(h))
    return found


def chances(latent, h):
    """Of each value of each variable of codes: (n, variables, values)."""
    mean = level(latent.eval(), h).q.mean
    if isinstance(latent, BernoulliCode):
        return torch.stack([1 - mean, mean], dim=2)
    return mean.unflatten(1, (latent.variables, latent.levels))


def many(latent, seed=0):
    """Relaxed draws for one row, and its chances."""
    h = rows(1, seed)
    with seeded(0), torch.no_grad():
        z = level(latent.train(), h.expand(DRAWS, -1)).z
    return z, chances(latent, h)[0].detach()


def values(latent, z):
    """The value that is largest, of each variable."""
    return (z > 0.5).long() if isinstance(latent, BernoulliCode) else z.unflatten(1, (-1, latent.levels)).argmax(2)


def alike(counts, chance):
    """Whether so many of `DRAWS` fit a chance."""
    return abs(counts - DRAWS * chance) < 5 * math.sqrt(DRAWS * chance * (1 - chance)) + 1


# --- the divergence --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
def test_kl_has_its_closed_form_and_its_monte_carlo_value(latent):
    latent, h = built(latent), rows()
    found, chance = level(latent, h), chances(latent, h).detach()
    told, even = kl(found), 1 / chance.shape[2]
    torch.testing.assert_close(told, (chance * (chance / even).log()).sum(2))
    assert told.max() <= math.log(chance.shape[2])
    assert told.std() > 0.1
    with seeded(0):
        which = torch.multinomial(chance.flatten(0, 1), 20_000, replacement=True)
    sampled = (chance.flatten(0, 1).gather(1, which) / even).log()
    assert ((sampled.mean(1) - told.flatten()).abs() < 5 * sampled.std(1) / math.sqrt(20_000) + 1e-6).all()


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
def test_even_odds_cost_nothing_and_certain_ones_stay_finite(latent):
    latent = built(latent)
    latent.code.weight.data.zero_()
    latent.code.bias.data.zero_()
    assert kl(level(latent, rows())).abs().max() < 1e-12
    latent.code.bias.data[0] = 1e4
    found = level(latent, rows())
    assert kl(found)[:, 0].tolist() == pytest.approx([math.log(found.q.levels)] * N)
    told = torch.autograd.grad(kl(found).sum(), latent.code.bias)[0]
    assert torch.isfinite(told).all()


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
def test_each_time_step_has_a_code(latent):
    latent = built(latent, steps=(7,))
    h = torch.stack([rows(seed=step) for step in range(7)], dim=2)
    found = level(latent, h)
    for step in range(7):
        alone = level(latent, h[:, :, step])
        torch.testing.assert_close(found.z[:, :, step], alone.z)
        torch.testing.assert_close(found.q.stddev[:, :, step], alone.q.stddev)
        torch.testing.assert_close(kl(found)[:, :, step], kl(alone))
    assert level(latent.train(), h).z.shape == (N, latent.width, 7)
    assert latent.sample(3, None).shape == (3, latent.width, 7)


# --- draws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("latent", LATENTS, ids=repr)
def test_relaxed_draws_are_largest_where_discrete_ones_would_be(latent, temperature):
    latent = built(type(latent)(**latent.get_params() | {"temperature": temperature}))
    z, chance = many(latent)
    for own, expected in zip(values(latent, z).T, chance, strict=True):
        assert all(
            alike(int(count), p) for count, p in zip(own.bincount(minlength=len(expected)), expected, strict=True)
        )


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_relaxed_draws_follow_the_concrete_distribution(temperature):
    """Logarithms of ratios of cells are logistic around those of the chances, with the temperature as their scale."""
    z, chance = many(built(BernoulliCode(5, temperature)))
    off = [temperature * z.logit() - chance.log().diff(dim=1)[:, 0]]
    z, chance = many(built(CategoricalCode(3, 4, temperature)))
    z = z.unflatten(1, (3, 4))
    torch.testing.assert_close(z.sum(2), torch.ones(DRAWS, 3).double())
    off += [temperature * (z[..., a].log() - z[..., b].log()) - (chance[:, a] / chance[:, b]).log()
            for a in range(4) for b in range(a)]  # fmt: skip
    for own in torch.cat(off, dim=1).T:
        assert scipy.stats.kstest(own.numpy(), "logistic").pvalue > 1e-4


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
def test_as_the_temperature_falls_draws_become_discrete(latent):
    off = []
    for temperature in (1.0, 0.1, 1e-4):
        z, _ = many(built(type(latent)(**latent.get_params() | {"temperature": temperature})))
        off.append(float((z - z.round()).abs().mean()))
        assert ((z >= 0) & (z <= 1)).all()
    assert off[0] > off[1] > off[2]
    assert off[2] < 1e-4


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
def test_codes_of_new_rows_are_discrete_and_all_as_likely(latent):
    latent = built(latent)
    with seeded(0):
        z = latent.sample(DRAWS, None)
    assert ((z == 0) | (z == 1)).all()
    if isinstance(latent, CategoricalCode):
        assert (z.unflatten(1, (3, 4)).sum(2) == 1).all()
    count = 4 if isinstance(latent, CategoricalCode) else 2
    for own in values(latent, z).T:
        assert all(alike(int(some), 1 / count) for some in own.bincount(minlength=count))


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
def test_codes_are_probabilities_when_scoring_and_draws_when_training(latent):
    latent, h = built(latent), rows()
    scoring = level(latent, h)
    assert torch.equal(scoring.z, scoring.q.mean)
    torch.testing.assert_close(scoring.q.stddev, (scoring.z * (1 - scoring.z)).sqrt())
    one, two = level(latent.train(), h).z, level(latent, h).z
    assert (one != two).all()


@pytest.mark.parametrize("latent", [BernoulliCode(1, 0.05), CategoricalCode(1, 3, 0.05)], ids=repr)
def test_gradients_tend_to_those_of_discrete_codes(latent):
    """d/dh E[f(z)], which is known of codes that are discrete, for f(z) = |z - c|^2."""
    latent = built(latent)
    centre = torch.tensor([0.2, 1.5, -0.7]).double()[: latent.width]
    h = rows(1).requires_grad_()
    support = torch.eye(3).double() if latent.width == 3 else torch.tensor([[0.0], [1.0]]).double()
    exact = (chances(latent, h)[0, 0] * (support - centre).square().sum(1)).sum()
    (exact,) = torch.autograd.grad(exact, h)
    many_h = h.detach().expand(200_000, -1).clone().requires_grad_()
    with seeded(0):
        loss = (level(latent.train(), many_h).z - centre).square().sum()
    (each,) = torch.autograd.grad(loss, many_h)
    assert ((each.mean(0) - exact).abs() < 5 * each.std(0) / math.sqrt(len(each)) + 0.01 * exact.abs().max()).all()
    assert exact.abs().max() > 0.1


# --- in a detector ---------------------------------------------------------------------------------------------------


def clusters(n=600, seed=0):
    """Rows of two pairs of clusters, and whose row each is: (n, 2)."""
    rng = np.random.default_rng(seed)
    member = rng.integers(2, size=(n, 2))
    centres = np.array([[3.0, 3, 0, 0], [0, 0, 3, 3]])
    return (2 * member - 1) @ centres + 0.5 * rng.normal(size=(n, 4)), member


@pytest.mark.parametrize(("latent", "nats"), [(BernoulliCode(2), math.log(2)), (CategoricalCode(1, 4), None)], ids=repr)
def test_clusters_are_found_and_what_codes_know_is_which(latent, nats):
    X, member = clusters()
    det = VAEDetector(latent=latent, scorer=NegativeELBO(), calibration="split", random_state=0).fit(X)
    Z = det.transform(X)
    which = Z.round() @ 2 ** np.arange(Z.shape[1])
    truth = member @ [1, 2]
    assert len({*zip(which, truth, strict=True)}) == 4  # one code a cluster
    assert det.folds_[0].read(det._checked(X), total_kl) == pytest.approx(math.log(4), abs=0.05)
    assert (det.anomaly_score([[0.0, 0, 0, 0], [9, 9, 0, 0]]) > det.threshold_.value_).all()
    latents = det.latents(X)
    assert latents["active"].all()
    share = [0.25, 0.75] if nats is None else [0.5, 0.5]
    np.testing.assert_allclose(latents["information"], scipy.stats.entropy(share), atol=0.05)
    assert latents["noise"].max() < 0.2
    if nats is None:
        assert latents["kl"].isna().all()  # four cells have one together
    else:
        np.testing.assert_allclose(latents["kl"], nats, atol=0.05)
    far = np.abs(det.sample(200, random_state=0)[:, None] - [[3, 3, 3, 3], [3, 3, -3, -3], [-3, -3, 3, 3], [-3] * 4])
    assert (far.max(2).min(1) < 2.5).all()  # new rows are of the clusters
    assert far.max(2).argmin(1).max() == 3


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
def test_scores_repeat_and_have_their_formula(latent):
    X = clusters(200)[0]
    quick = {"latent": latent, "max_epochs": 3, "calibration": "split", "random_state": 0}
    kl_alone, bound = (VAEDetector(scorer=part, **quick).fit(X) for part in (KLScore(), NegativeELBO()))
    assert np.array_equal(bound.anomaly_score(X), bound.anomaly_score(X))
    np.testing.assert_allclose(bound.anomaly_score(X[:9]), bound.anomaly_score(X)[:9], rtol=1e-9)
    fold = bound.folds_[0]
    told = -fold.read(X, lambda p: p.px.log_prob(p.batch.x).sum(1)) + kl_alone.anomaly_score(X)
    np.testing.assert_allclose(bound.anomaly_score(X), told)
    assert (kl_alone.anomaly_score(X) >= 0).all()
    Z = bound.transform(X)
    np.testing.assert_allclose(bound.inverse_transform(Z), bound.reconstruct(X))
    assert bound.sample(7, random_state=0).shape == (7, 4)
    written = dumps(bound)
    assert dumps(loads(written)) == written


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
@pytest.mark.parametrize("prior", [StandardNormal(), Mixture(2), Flow(2), Vamp(3)], ids=repr)
def test_a_prior_of_normals_is_refused(latent, prior):
    who = type(prior).__name__
    with pytest.raises(IncompatiblePartsError, match=f"{who} needs a latent .*, however: {type(latent).__name__}"):
        VAEDetector(latent=latent, prior=prior).fit(clusters(50)[0])


@pytest.mark.parametrize("latent", LATENTS, ids=repr)
@pytest.mark.parametrize(
    ("part", "lacks"),
    [(KL() + TotalCorrelation(), "normal posterior"), (KL() + DIP(), "normal posterior"),
     (ImportanceWeighted(), "normal posterior"), (KL() + MMD(), "density"), (Adversarial(), "density")],
    ids=repr,
)  # fmt: skip
def test_terms_that_take_codes_for_normal_are_refused(latent, part, lacks):
    with pytest.raises(IncompatiblePartsError, match=rf"needs a (latent|prior) with a {lacks}, however"):
        VAEDetector(latent=latent, divergence=part).fit(clusters(50)[0])
    if lacks == "density":
        with pytest.raises(IncompatiblePartsError, match=r"StandardNormal needs a latent .* that faces it, however"):
            VAEDetector(latent=latent, divergence=part, prior=StandardNormal()).fit(clusters(50)[0])


def test_codes_may_be_noisy_without_a_divergence():
    X = clusters(200)[0]
    det = AutoencoderDetector(latent=BernoulliCode(4), max_epochs=3, random_state=0).fit(X)
    assert np.isfinite(det.anomaly_score(X)).all()


def test_free_bits_are_of_variables():
    with seeded(0):
        net = Net(
            backbone=Dense((16,)), latent=CategoricalCode(3, 4), prior=None, divergence=None, likelihood=Normal()
        ).build((DIM,)).double().eval()  # fmt: skip
    p = net(Batch(rows()))
    assert KL(free_bits=2.0)(p).item() == pytest.approx(6.0)
    torch.testing.assert_close(KL(free_bits=1e-9)(p), total_kl(p).mean())


@pytest.mark.parametrize(
    ("latent", "name"),
    [(BernoulliCode(0), "dim"), (BernoulliCode(temperature=0), "temperature"), (CategoricalCode(0), "variables"),
     (CategoricalCode(levels=1), "levels"), (CategoricalCode(temperature=-1), "temperature")],
)  # fmt: skip
def test_values_out_of_range_are_refused(latent, name):
    with pytest.raises(ConfigError, match=rf"{type(latent).__name__} needs {name} to be .*, however: .*\. Try"):
        built(latent)
