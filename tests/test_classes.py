"""A code with a class that a few labels name: its bound is the exact marginal, and each label makes it better."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from anomaly_ae import (
    M2,
    AutoencoderDetector,
    ClassGaussian,
    ClassScore,
    Dense,
    Gaussian,
    Mixture,
    NegativeELBO,
    Normal,
    PullPush,
    StandardNormal,
    VAEDetector,
    load,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import LEFT_OUT, Batch
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

N, DIM = 30, 5
SAMPLES = Path(__file__).parent.parent / "sample_data"


def net_of(**m2):
    with seeded(0):
        parts = {"backbone": Dense((8,)), "latent": ClassGaussian(2), "prior": StandardNormal(), "likelihood": Normal()}
        net = Net(**parts, divergence=M2(**m2)).build((DIM,)).double().eval()
        torch.nn.init.normal_(net.latent.odds.weight)
    return net


def rows():
    return torch.tensor(np.random.default_rng(0).normal(size=(N, DIM)))


def bounds(net, x, share):
    """-log p(x, y) of both classes by the bound at the code's mean: two of `(n,)`."""
    h, told = net.encoder(x, None), []
    for y, p in ((0.0, 1 - share), (1.0, share)):
        level = net.latent.of_class(torch.full((len(x),), y), h, net.prior, Batch(x))[1]
        px = net.decode(torch.cat([torch.full((len(x), 1), y).to(x), level.z], dim=1))
        kl = torch.distributions.kl_divergence(level.q, level.p).sum(1)
        told.append(-px.log_prob(x).sum(1) + kl - np.log(p))
    return told


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_rows_of_which_nobody_knows_pay_the_exact_marginal_where_the_class_is_known_as_well_as_can_be(share):
    net, x = net_of(share=share), rows()
    normal, anomalous = bounds(net, x, share)
    marginal = -torch.logaddexp(-normal, -anomalous)
    p = net(Batch(x))
    paid = net.reconstruction(p) + net.divergence(p)
    assert (paid >= marginal).all()
    q = torch.sigmoid(net.latent.log_odds(p.h))
    entropy = -(torch.xlogy(q, q) + torch.xlogy(1 - q, 1 - q))
    torch.testing.assert_close(paid, q * anomalous + (1 - q) * normal - entropy)
    net.latent.log_odds = lambda h: normal - anomalous  # Bayes' rule
    torch.testing.assert_close(net.reconstruction(p) + net.divergence(p), marginal)


def test_a_label_takes_the_sum_away_and_asks_the_classifier():
    net, x = net_of(weight=3.0, share=0.2), rows()
    net.latent.training = True
    label = torch.tensor([0.0] * 10 + [1.0] * 5 + [np.nan] * 15)
    with seeded(1):
        p = net(Batch(x, label=label))
        paid = net.reconstruction(p) + net.divergence(p)
    assert (p.levels[0].z[:, 0] == label.nan_to_num(0)).all()
    known = -net.log_likelihood(p) - torch.where(label == 1, 0.2, 0.8).log()
    odds = net.latent.log_odds(p.h)
    asked = torch.nn.functional.softplus(torch.where(label == 1, -odds, odds))
    each = torch.where(label == 1, N / 5, N / 10)
    torch.testing.assert_close(paid[:15], (known + 3 * each * asked)[:15])
    torch.testing.assert_close(p.notes[LEFT_OUT], label == 1)


def typical(seed, n=900):
    """Rows to learn from, a call for known anomalies, and rows to judge with their truth: no row is far from others."""
    rng, mix = np.random.default_rng(seed), np.random.default_rng(5).normal(size=(3, 10))

    def normal(n):
        return rng.normal(size=(n, 3)) @ mix + 0.3 * rng.normal(size=(n, 10))

    def fault(n):
        return 0.4 * normal(n) + [1.2, -1.2, 1.2] @ mix

    return normal(n), fault, np.concatenate([normal(500), fault(200)]), np.repeat([False, True], [500, 200])


SEMI_SUPERVISED = {
    "M2": VAEDetector(
        effort="fast",
        latent=ClassGaussian(),
        divergence=M2(),
        scorer=NegativeELBO() + 10 * ClassScore(),
        random_state=0,
    ),
    "pull and push": AutoencoderDetector(effort="fast", penalty=PullPush(), random_state=0),
}


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_more_is_found_with_each_label(name):
    found = []
    for share in (0, 0.01, 0.05):
        each = []
        for seed in range(3):
            X, fault, new, truth = typical(seed)
            k = round(share * len(X))
            rows, y = np.concatenate([X, fault(k)]), np.repeat([0, -1], [len(X), k])
            det = SEMI_SUPERVISED[name].set_params(random_state=seed)
            if not k and name != "M2":
                det = AutoencoderDetector(effort="fast", backbone=Dense(), random_state=seed)
            each.append(roc_auc_score(truth, det.fit(rows, y).anomaly_score(new)))
        found.append(np.mean(each))
    assert found[0] < 0.5  # at the place of normal rows
    assert found[1] > 0.85
    assert found[2] > found[1] - 0.002
    assert found[2] > 0.9


def test_rows_known_for_normal_count_as_well():
    X, fault, new, truth = typical(0)
    rows = np.concatenate([X, fault(9)])
    y = np.repeat([1, -1], [len(X), 9])
    some = np.where(np.arange(len(y)) < 800, 0, y)
    det = SEMI_SUPERVISED["M2"].set_params(random_state=0)
    of_many = clone(det).set_params(divergence__share=0.3)
    assert np.abs(of_many.fit(rows, some).anomaly_score(new) - det.fit(rows, some).anomaly_score(new)).max() > 0.1
    scores = [det.fit(rows, each).anomaly_score(new) for each in (y, some, y == -1)]
    assert np.abs(scores[0] - scores[1]).max() > 0.1
    np.testing.assert_array_equal(scores[0], scores[2])  # booleans know of all
    assert min(roc_auc_score(truth, score) for score in scores) > 0.8


@pytest.mark.parametrize("name", SEMI_SUPERVISED)
def test_real_rows_and_a_model_s_folder(name, tmp_path):
    normal = pd.read_csv(SAMPLES / "breast_cancer_benign.csv")
    new = pd.read_csv(SAMPLES / "breast_cancer_mixed.csv").drop(columns="patient")
    bad = pd.read_csv(SAMPLES / "breast_cancer_labels.csv")["malignant"] == 1
    rows = pd.concat([normal, new[bad].head(5)])
    y = np.repeat([0, -1], [len(normal), 5])
    det = SEMI_SUPERVISED[name].set_params(random_state=0).fit(rows, y)
    score = det.anomaly_score(new)
    assert roc_auc_score(bad[5:], score[5:]) > 0.94
    assert (det.predict(new[~bad]) == -1).mean() < 0.1
    det.save(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").anomaly_score(new), score)
    assert np.isfinite(det.sample(5)).all(axis=None)
    assert (det.explain(new.head(3)) >= 0).all()


def test_known_anomalies_are_to_be_rebuilt_badly():
    X, fault, new, truth = typical(0)
    rows, y = np.concatenate([X, fault(20)]), np.repeat([1, -1], [len(X), 20])
    plain = AutoencoderDetector(effort="fast", backbone=Dense(), random_state=0).fit(X)
    errors = {}
    for margin in (0.5, 2.0):
        det = AutoencoderDetector(effort="fast", penalty=PullPush(margin), random_state=0).fit(rows, y)
        off = (det.reconstruct(new) - new) / X.std(axis=0)
        errors[margin] = np.square(off).mean(axis=1)
    before = np.square((plain.reconstruct(new) - new) / X.std(axis=0)).mean(axis=1)
    assert np.median(errors[2.0][truth]) > np.median(errors[0.5][truth]) > 3 * np.median(before[truth])
    assert np.median(errors[0.5][~truth]) < 3 * np.median(before[~truth])


def test_codes_of_classes_face_any_prior_that_normal_codes_do():
    X, fault, new, truth = typical(0)
    rows, y = np.concatenate([X, fault(20)]), np.repeat([0, -1], [len(X), 20])
    det = VAEDetector(
        effort="fast", latent=ClassGaussian(4, gamma=0.7), prior=Mixture(3), divergence=M2(), scorer=ClassScore()
    )
    det.set_params(random_state=0).fit(rows, y)
    assert roc_auc_score(truth, det.anomaly_score(new)) > 0.9
    assert det.transform(new).shape == (len(new), 5)
    assert (det.transform(new)[:, 0] == 0).all()


def test_what_does_not_go_together_is_refused():
    X = rows().numpy()
    with pytest.raises(ConfigError, match="PullPush needs rows that are known for anomalies, however: fit was"):
        AutoencoderDetector(effort="fast", penalty=PullPush()).fit(X)
    with pytest.raises(IncompatiblePartsError, match="M2 needs a latent with a class, however: Gaussian"):
        VAEDetector(latent=Gaussian(), divergence=M2()).fit(X)
    with pytest.raises(IncompatiblePartsError, match="ClassScore needs a latent with a class"):
        VAEDetector(scorer=ClassScore()).fit(X)
    with pytest.raises(IncompatiblePartsError, match="PullPush needs a reconstruction that is paid for once, how"):
        VAEDetector(effort="fast", latent=ClassGaussian(), divergence=M2(), penalty=PullPush()).fit(X, np.ones(N))


@pytest.mark.parametrize("part", [M2(0), M2(share=0), M2(share=1), PullPush(0), PullPush(weight=-1), ClassGaussian(0)])
def test_values_out_of_range_are_refused(part):
    axis = {"M2": "divergence", "PullPush": "penalty", "ClassGaussian": "latent"}[type(part).__name__]
    parts = {"latent": ClassGaussian(), axis: part}
    with pytest.raises(ConfigError, match=rf"{type(part).__name__} needs \w+ to be .*, however: .*\. (Try|Use None)"):
        VAEDetector(effort="fast", **parts).fit(rows().numpy(), np.repeat([1, -1], [N - 2, 2]))
