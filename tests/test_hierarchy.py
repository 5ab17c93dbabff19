"""Codes of several levels."""

from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch

from anomaly_ae import (
    DIP,
    KL,
    MMD,
    Adversarial,
    Dense,
    Flow,
    Gaussian,
    ImportanceWeighted,
    Ladder,
    LikelihoodRatio,
    Mixture,
    NegativeELBO,
    Normal,
    SeriesDetector,
    SlicedWasserstein,
    StandardNormal,
    TotalCorrelation,
    VAEDetector,
    Vamp,
    View,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch, kl, total_kl
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

N, DIM, DIMS = 200, 6, (4, 3, 2)


def rows(n=N, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, DIM)))


def net(latent, prior=None):
    parts = {"backbone": Dense((16,)), "divergence": KL(), "likelihood": Normal(0.3)}
    with seeded(0):
        return Net(latent=latent, prior=prior or StandardNormal(), **parts).build((DIM,)).double().eval()


def test_levels_are_finest_first_and_a_posterior_is_told_relative_to_its_prior():
    model, x = net(Ladder(DIMS)), rows()
    h, levels = model.encode(Batch(x))
    assert [level.z.shape[1] for level in levels] == list(DIMS)
    assert model.latent.width == sum(DIMS)
    for level in levels[:-1]:
        off, stretch = (level.q.mean - level.p.mean) / level.p.stddev, level.q.stddev / level.p.stddev
        torch.testing.assert_close(kl(level), 0.5 * (off**2 + stretch**2 - 1 - 2 * stretch.log()))
        assert level.p.mean.std(0).min() > 0  # another for each row
    torch.testing.assert_close(levels[-1].q.mean, model.latent.posterior(h).mean)
    torch.testing.assert_close(total_kl(model(Batch(x))), sum(kl(level).sum(1) for level in levels))


def test_what_coarser_codes_let_expect_costs_nothing():
    model, x = net(Ladder(DIMS)), rows()
    h, whole = model.encode(Batch(x))
    levels = model.latent.levels(h, model.prior, Batch(x), expected=2)
    for level in levels[:2]:
        assert (kl(level) == 0).all()
        torch.testing.assert_close(level.z, level.p.mean)
    torch.testing.assert_close(levels[2].z, whole[2].z)


def test_draws_descend_from_coarse_to_fine():
    latent = net(Ladder((2, 1))).latent
    with seeded(0):
        z = latent.sample(20_000, StandardNormal()).detach()
    fine, coarse = z[:, :2], z[:, 2:]
    assert scipy.stats.kstest(coarse.numpy().ravel(), "norm").pvalue > 0.001
    mu, raw = latent.expectation[0](coarse).detach().chunk(2, dim=1)
    assert mu.std(0).min() > 0.01
    off = (fine - mu) / torch.nn.functional.softplus(raw)
    assert scipy.stats.kstest(off.numpy().ravel(), "norm").pvalue > 0.001


def test_the_ratio_is_nothing_where_no_level_is_taken_away_and_what_the_others_lack_else():
    model, x = net(Ladder(DIMS)), rows()
    p = model(Batch(x))
    assert (LikelihoodRatio(0)(p) == 0).all()
    levels = model.latent.levels(p.h, model.prior, p.batch, 1)
    px = model.decode(torch.cat([level.z for level in levels], dim=1))
    less = px.log_prob(x).sum(1) - sum(kl(level).sum(1) for level in levels[1:])
    torch.testing.assert_close(LikelihoodRatio(1)(p), model.log_likelihood(p) - less)
    with pytest.raises(ConfigError, match="A ladder needs a level that the row decides, however: of 3 levels 3"):
        LikelihoodRatio(3)(p)


def test_gradients_reach_every_weight():
    model = net(Ladder(DIMS)).train()
    terms = model.terms(model(Batch(rows())))
    loss = terms["reconstruction"].mean() + terms["divergence"].mean()
    for (name, _), gradient in zip(
        model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
    ):
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("prior", [Mixture(3), Flow(2), Vamp(4)], ids=repr)
def test_the_prior_is_that_of_the_coarsest(prior):
    model = net(Ladder(DIMS), prior)
    assert kl(model(Batch(rows())).levels[-1]).shape == (N, 1)
    with seeded(0):
        assert model.latent.sample(7, prior).shape == (7, sum(DIMS))


@pytest.mark.slow
def test_the_importance_weighted_bound_of_a_hierarchy_stays_below_the_evidence():
    with seeded(0):
        model = Net(
            backbone=Dense((16,)), latent=Ladder((2, 1)), prior=StandardNormal(), divergence=ImportanceWeighted(),
            likelihood=Normal(2.0),
        ).build((DIM,)).double().eval()  # fmt: skip
    x = rows(40)
    with seeded(0), torch.no_grad():
        z = model.latent.sample(50_000, model.prior)
        px = model.decode(z)
        evidence = torch.stack([px.log_prob(row).sum(1).logsumexp(0) for row in x]).mean() - np.log(len(z))
        model.latent.training = True
        bounds = []
        for k, draws in ((1, 1000), (10, 200), (200, 20)):
            told = [(model(Batch(x)), ImportanceWeighted(k)) for _ in range(draws)]
            bounds.append(-torch.stack([(model.reconstruction(p) + term(p)).mean() for p, term in told]).mean())
    assert bounds[0] < bounds[1] < bounds[2] < evidence + 0.01
    assert abs(bounds[2] - evidence) < 0.05


def test_kl_of_finer_levels_is_told_where_the_prior_takes_the_coarsest_as_a_whole():
    X = rows().numpy()
    latents = VAEDetector(latent=Ladder((2, 2)), prior=Mixture(2), max_epochs=1, random_state=0).fit(X).latents(X)
    assert latents["kl"].isna().tolist() == [False, False, True, True]


@pytest.mark.parametrize("part", [MMD(), SlicedWasserstein(), Adversarial(), TotalCorrelation(), DIP()], ids=repr)
def test_terms_of_all_codes_are_about_the_coarsest(part):
    with seeded(0):
        model = Net(
            backbone=Dense((16,)), latent=Ladder(DIMS), prior=Mixture(3), divergence=KL() + part, likelihood=Normal(),
        ).build((DIM,)).double()  # fmt: skip
    p = model.eval()(Batch(rows()))
    moved = replace(p, levels=(p.levels[0]._replace(z=p.levels[0].z + 1), *p.levels[1:]))
    lifted = replace(p, levels=(*p.levels[:-1], p.levels[-1]._replace(q=shifted(p.levels[-1].q), z=p.levels[-1].z + 1)))
    told = []
    for one in (p, moved, lifted):
        with seeded(0):
            told.append(part(one))
    assert told[0] == told[1]
    if not isinstance(part, TotalCorrelation | DIP):  # which do not ask where codes lie
        assert told[0] != told[2]


def shifted(q):
    return torch.distributions.Normal(q.mean + 1, q.stddev)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_coarse_levels_stay_in_use(seed):
    """Three factors, five latents: the coarse two do not leave them to the fine ones, nor pay twice for any."""
    rng = np.random.default_rng(seed)
    X = np.tanh(rng.normal(size=(1500, 3)) @ rng.normal(size=(3, 8))) + 0.1 * rng.normal(size=(1500, 8))
    plain = {"scorer": NegativeELBO(), "random_state": seed}
    latents = VAEDetector(latent=Ladder((3, 2)), divergence=KL(warmup=0.5), **plain).fit(X).latents(X)
    assert latents["level"].tolist() == [1, 1, 1, 2, 2]
    paid = latents["kl"]
    assert paid[3:].sum() > 1
    assert paid.sum() == pytest.approx(VAEDetector(latent=Gaussian(5), **plain).fit(X).latents(X)["kl"].sum(), rel=0.2)


def test_a_hierarchy_is_asked_for_and_values_are_checked():
    with pytest.raises(IncompatiblePartsError, match="LikelihoodRatio needs a latent with a hierarchy of codes"):
        VAEDetector(scorer=LikelihoodRatio()).fit(rows().numpy())
    for latent in (Ladder(()), Ladder((0,)), Ladder(3), Ladder(hidden=0)):
        with pytest.raises(ConfigError, match=r"Ladder needs .*, however: .*\. \w"):
            net(latent)
    with pytest.raises(ConfigError, match=r"LikelihoodRatio needs k to be .*, however: -1\. Try 1"):
        VAEDetector(latent=Ladder(), scorer=LikelihoodRatio(-1)).fit(rows().numpy())


class Untrained(Ladder):
    """Fails where training begins."""

    def start(self, p):
        raise AssertionError("a step was taken")


@pytest.mark.parametrize("scorer", [LikelihoodRatio(2), NegativeELBO() + LikelihoodRatio(2)])
def test_too_many_levels_are_refused_before_anything_is_learned(scorer):
    det = VAEDetector(latent=Untrained(), scorer=scorer, random_state=0)
    for detector in (det, SeriesDetector(det, views=[View(scorer)], window=8)):
        with pytest.raises(ConfigError, match="A ladder needs a level that the row decides, however: of 2 levels 2"):
            detector.fit(rows().numpy())
    with pytest.raises(AssertionError, match="a step was taken"):
        det.set_params(scorer=LikelihoodRatio(1)).fit(rows().numpy())
