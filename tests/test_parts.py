"""Each part against its oracle: densities, divergences, scores, latents, the shapes of autoencoders."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as D

from anomaly_ae import (
    KL,
    AutoencoderDetector,
    Dense,
    Gaussian,
    GaussianNoise,
    KLScore,
    LearnedNormal,
    NegativeELBO,
    Normal,
    Point,
    ReconstructionError,
    StandardNormal,
    WeightedSum,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch, Clock, Level, Pass, Sizes, kl, total_kl
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

N, DIM = 64, 5


def net(latent=None, **parts):
    """A built net in float64, ready to be read."""
    variational = isinstance(latent, Gaussian)
    chosen = {
        "backbone": Dense(hidden=(16,)),
        "latent": latent or Point(3),
        "prior": StandardNormal() if variational else None,
        "divergence": KL() if variational else None,
        "likelihood": Normal(),
        "corruption": None,
    } | parts
    with seeded(0):
        return Net(**chosen).build((DIM,)).double().eval()


def built(part):
    part.build(Sizes((DIM,)))
    return part.double()


def rows(n=N, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, DIM)))


# --- likelihoods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_normal_density_is_scipys(scale):
    x, mean = rows(seed=1), rows(seed=2)
    ours = Normal(scale)(mean[:, None]).log_prob(x).numpy()
    np.testing.assert_allclose(ours, scipy.stats.norm(mean, scale).logpdf(x), rtol=1e-12)


@pytest.mark.parametrize("per", ["all", "feature", "cell"])
def test_learned_normal_density_is_scipys(per):
    part = LearnedNormal(per=per)
    part.build(Sizes((DIM,)))
    x, mean, log_scale = rows(seed=1), rows(seed=2), rows(seed=3)
    if per == "cell":
        params, scale = torch.stack([mean, log_scale], dim=1), log_scale.exp()
    else:
        part.variance = torch.rand_like(part.variance, dtype=torch.float64) + 0.5
        params, scale = mean[:, None], part.variance.sqrt()
    ours = part(params).log_prob(x).numpy()
    np.testing.assert_allclose(ours, scipy.stats.norm(mean, scale).logpdf(x), rtol=1e-12)


@pytest.mark.parametrize("per", ["all", "feature"])
def test_learned_scale_tends_to_the_one_of_greatest_likelihood(per):
    part = LearnedNormal(per=per, momentum=0.5)
    part.build(Sizes((DIM,)))
    part.double()
    x = rows() * torch.tensor([0.1, 0.5, 1.0, 2.0, 4.0])
    for _ in range(60):
        px = part(torch.zeros(N, 1, DIM, dtype=torch.float64))
        part.after_step(Pass(Batch(x), Batch(x), x, (), px, None))
    best = x.square().mean(0) if per == "feature" else x.square().mean()
    torch.testing.assert_close(part.variance, best)
    grid = [0.8, 0.9, 1.1, 1.2]
    at_best = D.Normal(0.0, best.sqrt()).log_prob(x).sum()
    assert all(D.Normal(0.0, (best * g).sqrt()).log_prob(x).sum() < at_best for g in grid)


# --- divergences and latents -----------------------------------------------------------------------------------------


def level(mu, sigma):
    return Level(D.Normal(mu, sigma), D.Normal(torch.zeros(()).double(), torch.ones(()).double()), mu)


def test_kl_has_its_closed_form_and_its_monte_carlo_value():
    mu, sigma = rows(seed=1), rows(seed=2).abs() + 0.1
    ours = kl(level(mu, sigma)).sum(1)
    torch.testing.assert_close(ours, 0.5 * (mu**2 + sigma**2 - 1 - 2 * sigma.log()).sum(1))
    with seeded(0):
        z = mu + sigma * torch.randn(100_000, *mu.shape, dtype=torch.float64)
    sampled = (D.Normal(mu, sigma).log_prob(z) - D.Normal(0.0, 1.0).log_prob(z)).sum(-1)
    error = sampled.std(0) / math.sqrt(len(z))
    assert ((sampled.mean(0) - ours).abs() < 5 * error).all()


def a_pass(p_mu, p_sigma, clock=None):
    return Pass(Batch(p_mu), Batch(p_mu), p_mu, (level(p_mu, p_sigma),), D.Normal(p_mu, 1.0), None, clock or Clock())


def test_kl_weights_schedules_and_protects():
    p = a_pass(rows(seed=1), rows(seed=2).abs() + 0.1)
    plain = total_kl(p)
    torch.testing.assert_close(KL(beta=4)(p), 4 * plain)
    torch.testing.assert_close(KL(beta=10, capacity=2)(p), 10 * (plain.mean() - 2).abs())
    per_latent = kl(p.levels[0]).mean(0)
    torch.testing.assert_close(KL(free_bits=0.5)(p), per_latent.clamp(min=0.5).sum())
    assert KL(free_bits=100.0)(p) == 100.0 * DIM
    half = a_pass(rows(seed=1), rows(seed=2).abs() + 0.1, Clock(step=25, steps=100))
    torch.testing.assert_close(KL(warmup=0.5)(half), 0.5 * plain)
    torch.testing.assert_close(KL(warmup=0.5, capacity=3)(half), (plain.mean() - 1.5).abs())


def test_free_bits_give_no_gradient_below_the_floor():
    mu = torch.full((N, 2), 0.01, dtype=torch.float64, requires_grad=True)
    KL(free_bits=1.0)(a_pass(mu, torch.ones_like(mu))).backward()
    assert (mu.grad == 0).all()


def test_reparameterized_gradient_is_the_score_function_estimate():
    """d/dmu E[f(z)] two ways, for f(z) = (z - 1)^2: through the sample, and by the log-derivative."""
    latent = Gaussian(1)
    latent.build(Sizes((DIM,), features=DIM))
    latent.double().train()
    h = rows(1, seed=5).expand(200_000, DIM)
    with seeded(0):
        (found,) = latent(h, StandardNormal(), Batch(h))
        (through,) = torch.autograd.grad((found.z - 1).square().mean(), latent.code.bias)
        through = through[:1]  # the rest is of sigma
    mu, sigma = found.q.mean[0].detach(), found.q.stddev[0].detach()
    z = found.z.detach()
    by_score = (z - 1).square() * (z - mu) / sigma**2
    assert abs(through - by_score.mean()) < 5 * by_score.std() / math.sqrt(len(z))
    torch.testing.assert_close(through, 2 * (mu - 1), rtol=0.02, atol=0.02)


def test_gaussian_code_is_its_mean_when_scoring_and_a_sample_when_training():
    latent = Gaussian(4)
    latent.build(Sizes((DIM,), features=DIM))
    latent.double()
    x = rows()
    (scoring,) = latent.eval()(x, StandardNormal(), Batch(x))
    assert torch.equal(scoring.z, scoring.q.mean)
    (training,) = latent.train()(x, StandardNormal(), Batch(x))
    standardised = (training.z - training.q.mean) / training.q.stddev
    assert scipy.stats.kstest(standardised.detach().numpy().ravel(), "norm").pvalue > 0.001


def test_point_samples_have_the_codes_moments():
    latent = Point(3)
    latent.build(Sizes((DIM,), features=DIM))
    latent.double()
    z = rows(2000)[:, :3] @ torch.tensor([[2.0, 1, 0], [0, 1, 1], [0, 0, 0.5]]).double() + 7
    latent.solve(Pass(Batch(z), Batch(z), z, (Level(None, None, z),), None, None))
    with seeded(0):
        sampled = latent.sample(200_000, None)
    torch.testing.assert_close(sampled.mean(0), z.mean(0), atol=0.03, rtol=0)
    torch.testing.assert_close(torch.cov(sampled.T), torch.cov(z.T), atol=0.06, rtol=0)


# --- corruptions -----------------------------------------------------------------------------------------------------


def test_noise_has_its_level_and_leaves_the_target_alone():
    x = torch.zeros(20_000, DIM)
    with seeded(0):
        fixed, mixed = (GaussianNoise(0.5, per_row=flag)(Batch(x)).x for flag in (False, True))
    assert abs(fixed.std() - 0.5) < 0.01
    assert abs(mixed.std() - 0.5 / math.sqrt(3)) < 0.01  # E[u^2] = 1/3 for u uniform
    assert scipy.stats.kurtosis(mixed.numpy().ravel()) > 0.5  # a mixture of levels, not one
    model = net(corruption=GaussianNoise(1.0)).train()
    p = model(Batch(rows()))
    assert torch.equal(p.batch.x, rows())
    assert not torch.equal(p.seen.x, rows())
    assert torch.equal(model.eval()(Batch(rows())).seen.x, rows())


# --- scorers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_reconstruction_error_is_the_mean_power_of_residuals(power):
    p = net()(Batch(rows()))
    expected = (p.batch.x - p.px.mean).abs().pow(power).mean(1)
    scorer = built(ReconstructionError(power))
    torch.testing.assert_close(scorer(p), expected)
    torch.testing.assert_close(scorer.contributions(p).sum(1), scorer(p))


def test_negative_elbo_is_its_two_terms():
    p = net(Gaussian(3), likelihood=Normal(0.5))(Batch(rows()))
    reconstruction = -torch.tensor(scipy.stats.norm(p.px.mean.detach(), 0.5).logpdf(p.batch.x).sum(1))
    torch.testing.assert_close(NegativeELBO()(p).detach(), (reconstruction + KLScore()(p)).detach())
    torch.testing.assert_close(KLScore()(p), total_kl(p))
    residuals = (p.batch.x - p.px.mean).square() / (2 * 0.5**2)
    torch.testing.assert_close(NegativeELBO().contributions(p), residuals)


def test_scores_add_and_scale():
    p = net(Gaussian(3))(Batch(rows()))
    total = built(ReconstructionError() + 0.5 * KLScore() + ReconstructionError(1))
    expected = built(ReconstructionError())(p) + 0.5 * KLScore()(p) + built(ReconstructionError(1))(p)
    torch.testing.assert_close(total(p), expected)
    assert isinstance(total, WeightedSum)
    assert len(total.scorers) == 3
    torch.testing.assert_close(WeightedSum([KLScore(), KLScore()])(p), 2 * KLScore()(p))
    weighed = built(WeightedSum([KLScore(), ReconstructionError()], np.array([2.0, 3.0])))
    torch.testing.assert_close(weighed(p), 2 * KLScore()(p) + 3 * built(ReconstructionError())(p))


# --- the model -------------------------------------------------------------------------------------------------------


def test_cells_that_are_not_present_cost_nothing():
    model, x = net(), rows()
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[:, 0] = False
    whole = model.terms(model(Batch(x)))["reconstruction"]
    p = model(Batch(x, mask=mask))
    first = -p.px.log_prob(x)[:, 0]
    torch.testing.assert_close(model.terms(p)["reconstruction"], whole - first)


def test_condition_reaches_encoder_and_decoder():
    backbone = Dense(hidden=(8,))
    sizes = Sizes((DIM,), condition=2)
    encoder, decoder = backbone.encoder(sizes).double(), backbone.decoder(3, 1, sizes).double()
    x, z, one, other = rows(), rows()[:, :3], torch.ones(N, 2).double(), torch.zeros(N, 2).double()
    assert not torch.equal(encoder(x, one), encoder(x, other))
    assert decoder(z, one).shape == (N, 1, DIM)
    assert not torch.equal(decoder(z, one), decoder(z, other))


@pytest.mark.parametrize(
    ("expansion", "cells", "units"), [(4, 3, 64), (4, 30, 120), (4, 500, 256), (2.67, 30, 80), (0.01, 3, 1)]
)
def test_a_hidden_layer_grows_with_the_columns_within_bounds(expansion, cells, units):
    assert Dense(expansion=expansion).encoder(Sizes((cells,))).features == units


@pytest.mark.parametrize(
    ("hidden", "dim"), [((), 2), ((), DIM), ((), 9), ((32,), 2), ((64, 32, 16), 3), ((16,), None), (None, None)]
)
def test_under_over_and_exactly_complete_nets_of_any_depth_reach_every_weight(hidden, dim):
    model = net(Point(dim), backbone=Dense(hidden)).train()
    assert model.latent.width == (dim or model.encoder.features)
    loss = model.terms(model(Batch(rows())))["reconstruction"].mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@pytest.mark.parametrize("shape", [{}, {"batch_size": 1}])
def test_a_batch_of_one_row_has_no_norm(shape):
    rows = np.random.default_rng(0).normal(size=(3 if not shape else 60, 4))
    with pytest.raises(ConfigError, match="batch_norm needs 2 rows or more a batch, however: 1"):
        AutoencoderDetector(backbone=Dense(batch_norm=True), **shape).fit(rows)


def test_dropout_and_batch_norm_are_off_when_scoring():
    model = net(backbone=Dense((16,), dropout=0.5, batch_norm=True))
    x = rows()
    assert torch.equal(model(Batch(x)).px.mean, model(Batch(x)).px.mean)
    alone = torch.cat([model(Batch(row[None])).px.mean for row in x])
    torch.testing.assert_close(alone, model(Batch(x)).px.mean)
    model.train()
    assert not torch.equal(model(Batch(x)).px.mean, model(Batch(x)).px.mean)


@pytest.mark.parametrize(
    ("parts", "names"),
    [
        ({"latent": Point(2), "divergence": KL()}, ("KL", "Point(dim=2)", "posterior")),
        ({"latent": Gaussian(2), "prior": None}, ("Gaussian", "there is none. Set prior=StandardNormal()", "density")),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(parts, names):
    with pytest.raises(IncompatiblePartsError) as refusal:
        net(**({"latent": Point(2)} | parts))
    assert all(name in str(refusal.value) for name in names)


@pytest.mark.parametrize(
    "part",
    [
        Dense(hidden=(0,)),
        Dense(activation="relux"),
        Dense(dropout=1.0),
        Dense(expansion=0),
        Point(0),
        Gaussian(0),
        Gaussian(gamma=0),
        Gaussian(most=0),
        KL(beta=-1),
        KL(warmup=2),
        KL(capacity=-1),
        KL(free_bits=-1),
        KL(capacity=1, free_bits=1),
        Normal(0),
        LearnedNormal(per="row"),
        LearnedNormal(floor=0),
        LearnedNormal(momentum=1),
        GaussianNoise(-1),
        ReconstructionError(0),
        WeightedSum(),
        WeightedSum([ReconstructionError()], [1.0, 2.0]),
    ],
    ids=repr,
)
def test_values_out_of_range_are_refused_with_a_way_out(part):
    sizes = Sizes((DIM,), features=4)
    with pytest.raises(ConfigError, match=rf"{type(part).__name__} .*, however: .*\. \w"):
        part.encoder(sizes) if isinstance(part, Dense) else part.build(sizes)
