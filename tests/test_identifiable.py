"""A prior of contexts: what a context does to a row it does by the code, and sources are found."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from anomaly_ae import (
    KL,
    MMD,
    Conditional,
    ConditionalPrior,
    Dense,
    Gaussian,
    ImportanceWeighted,
    Ladder,
    NegativeELBO,
    Point,
    SeriesDetector,
    StandardizedError,
    VAEDetector,
    config,
    load,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.evaluation import mcc
from anomaly_ae.nn.core import Batch


def plant(n, seed):
    """A load, seen by two sensors, whose level and spread are a matter of the mode."""
    rng = np.random.default_rng(seed)
    mode = rng.choice(["idle", "run"], size=n)
    load = np.where(mode == "idle", -2 + 0.3 * rng.normal(size=n), 2 + rng.normal(size=n))
    seen = {"flow": load + 0.2 * rng.normal(size=n), "heat": 2 * load + 0.2 * rng.normal(size=n)}
    return pd.DataFrame({"mode": mode, **seen})


def identifiable(**parts):
    usual = {"preprocessing": Conditional(["mode"]), "prior": ConditionalPrior(), "random_state": 0}
    return VAEDetector(**usual | {"scorer": NegativeELBO(), "calibration": "split"} | parts)


@pytest.fixture(scope="module")
def fitted():
    return identifiable().fit(plant(2000, 0))


def test_it_begins_as_the_standard_normal_and_learns_what_contexts_are_like(fitted):
    prior = identifiable(max_epochs=1, learning_rate=1e-9).fit(plant(200, 0)).folds_[0].net.prior
    told = torch.eye(2, dtype=torch.float64)
    p = prior(Batch(told, condition=told))
    torch.testing.assert_close(p.mean, torch.zeros(2, 2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(p.stddev, torch.ones(2, 2).double(), atol=1e-5, rtol=0)
    p = fitted.folds_[0].net.prior(Batch(told, condition=told))
    idle, run = p.stddev.detach()
    assert (run / idle).max() > 2  # a spread of 1 in place of 0.3
    assert (p.mean[0] - p.mean[1]).abs().max() > 0.5


def test_the_encoder_is_told_the_context_and_the_decoder_is_not(fitted):
    net = fitted.folds_[0].net
    x, z = torch.zeros(1, 2).double(), torch.ones(1, 2).double()
    contexts = torch.eye(2).double()[:, None]
    one, two = (net.encode(Batch(x, condition=told))[1][0].q.mean for told in contexts)
    assert (one - two).abs().max() > 1e-3
    one, two = (net.decode(z, told).mean for told in contexts)
    torch.testing.assert_close(one, two, rtol=0, atol=0)


def test_what_does_not_belong_to_a_context_is_strange_in_it():
    X, usual = plant(3000, 0), plant(1000, 1)
    other = usual.assign(mode=np.where(usual["mode"] == "idle", "run", "idle"))  # rows that are usual by themselves
    labels, both = [0] * 1000 + [1] * 1000, pd.concat([usual, other])
    assert roc_auc_score(labels, identifiable().fit(X).anomaly_score(both)) > 0.95
    plain = identifiable(prior=None, preprocessing=None).fit(X.drop(columns="mode"))
    assert abs(roc_auc_score(labels, plain.anomaly_score(both.drop(columns="mode"))) - 0.5) < 0.05


def test_rows_are_drawn_as_their_context_lets_expect(fitted, tmp_path):
    contexts = plant(2, 0).assign(mode=["idle", "run"])
    drawn = fitted.sample(4000, random_state=0, condition=contexts).groupby("mode")["heat"]
    assert drawn.mean()["idle"] == pytest.approx(-4, abs=0.3)
    assert drawn.mean()["run"] == pytest.approx(4, abs=0.3)
    assert drawn.std()["idle"] == pytest.approx(np.hypot(0.6, 0.2), abs=0.3)
    assert drawn.std()["run"] == pytest.approx(np.hypot(2, 0.2), abs=0.4)
    for refused in (lambda: fitted.sample(3), lambda: fitted.sample(3, condition=contexts[["heat"]])):
        with pytest.raises(ConfigError):
            refused()
    fitted.save(tmp_path / "model")
    again, X = load(tmp_path / "model"), plant(50, 3)
    np.testing.assert_array_equal(again.anomaly_score(X), fitted.anomaly_score(X))
    assert config.dumps(config.loads(config.dumps(fitted))) == config.dumps(fitted)


@pytest.mark.parametrize(
    "parts",
    [
        {"latent": Ladder((4, 2))},
        {"divergence": ImportanceWeighted(3)},
        {"divergence": KL() + MMD()},
        {"members": 2},
        {"prior": ConditionalPrior(hidden=8)},
    ],
    ids=repr,
)
def test_it_goes_with_other_parts_and_its_width_moves_the_score(parts):
    X = plant(300, 0)
    plain, mine = (identifiable(max_epochs=2, **some).fit(X).anomaly_score(X) for some in ({}, parts))
    assert np.isfinite(mine).all()
    assert np.abs(mine / plain - 1).max() > 1e-6


def test_gaps_are_told_as_well_and_points_are_refused():
    X = plant(300, 0)
    X.loc[::7, "flow"] = np.nan
    assert np.isfinite(identifiable(max_epochs=2).fit(X).anomaly_score(X)).all()
    points = {"latent": Point(2), "divergence": MMD(), "scorer": StandardizedError()}
    with pytest.raises(IncompatiblePartsError, match="ConditionalPrior needs a latent with a posterior"):
        identifiable(**points).fit(X)


def test_without_contexts_it_is_refused():
    for X in (plant(50, 0)[["flow", "heat"]], plant(50, 0)[["flow", "heat"]].mask(np.eye(50, 2) > 0)):
        with pytest.raises(
            ConfigError, match="ConditionalPrior needs columns that are a condition, however: there are"
        ):
            VAEDetector(prior=ConditionalPrior()).fit(X)
    with pytest.raises(ConfigError, match="ConditionalPrior needs hidden"):
        identifiable(prior=ConditionalPrior(hidden=0)).fit(plant(50, 0))
    with pytest.raises(ConfigError, match="ConditionalPrior needs columns that are a condition"):
        SeriesDetector(VAEDetector(prior=ConditionalPrior())).fit(np.random.default_rng(0).normal(size=(400, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 2, 3])
def test_sources_are_found_where_a_plain_vae_mixes_them(seed):
    """Three sources, whose means and spreads change between 40 segments, through a bent map to six columns."""
    rng = np.random.default_rng(seed)
    segment = np.repeat(np.arange(40), 100)
    mean, spread = rng.uniform(-2, 2, (40, 3)), rng.uniform(0.3, 1.5, (40, 3))
    sources = mean[segment] + spread[segment] * rng.normal(size=(4000, 3))
    turn, out = np.linalg.qr(rng.normal(size=(3, 3)))[0], np.linalg.qr(rng.normal(size=(6, 6)))[0][:3]
    bent = sources / sources.std(0) @ turn
    X = np.where(bent > 0, bent, 0.3 * bent) @ out + 0.05 * rng.normal(size=(4000, 6))
    X = pd.DataFrame(X).add_prefix("x")
    usual = {"latent": Gaussian(3), "backbone": Dense(), "max_epochs": 100, "patience": None}
    given = Conditional(["segment"], max_levels=64, bend=None)
    told = X.assign(segment=segment.astype(str))
    found = mcc(identifiable(preprocessing=given, **usual).fit(told).transform(told), sources)
    plain = identifiable(preprocessing=None, prior=None, divergence=KL(), **usual).fit(X)
    assert found > 0.9
    assert found > mcc(plain.transform(X), sources) + 0.03
