"""Rows to learn from of which some are anomalies: what the worst of a batch pay, and how little they then cost."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from anomaly_ae import (
    AutoencoderDetector,
    Dense,
    ImportanceWeighted,
    L1Code,
    Normal,
    OutlierExposure,
    Point,
    RandomFeatures,
    StudentT,
    Trimmed,
    VAEDetector,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch, Sizes
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

N, DIM = 40, 5
SAMPLES = Path(__file__).parent.parent / "sample_data"


def rows(n=N, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, DIM)))


def passed(penalty, mask=None, **parts):
    with seeded(0):
        chosen = {"backbone": Dense((8,)), "latent": Point(), "likelihood": Normal()} | parts
        net = Net(**chosen, penalty=penalty).build((DIM,)).double().eval()
    return net, net(Batch(rows(), mask))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.5])
@pytest.mark.parametrize("likelihood", [Normal(0.5), StudentT()], ids=repr)
def test_rows_that_cost_most_are_free_of_it_and_no_other_is(share, likelihood):
    net, p = passed(Trimmed(share), likelihood=likelihood)
    cost = net.reconstruction(p)
    worst = cost.argsort(descending=True)[: round(share * N)]
    paid = cost + net.terms(p)["penalty"]
    expected = cost.clone()
    expected[worst] = 0
    torch.testing.assert_close(paid, expected)


@pytest.mark.parametrize("certainty", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("gaps", [False, True])
def test_rows_taken_for_anomalies_pay_for_a_good_reconstruction(certainty, gaps):
    mask = torch.rand(N, DIM, generator=torch.Generator().manual_seed(0)) < 0.7 if gaps else torch.ones(N, DIM) > 0
    net, p = passed(OutlierExposure(0.25, certainty), mask)
    cost = net.reconstruction(p)
    squares = (p.batch.x - p.px.mean).square().where(mask, 0).sum(1) / mask.sum(1)
    each = cost / mask.sum(1)
    paid = torch.where(each > each.kthvalue(30)[0], (1 - certainty) * cost + certainty / squares, cost)
    torch.testing.assert_close(cost + net.terms(p)["penalty"], paid)
    moved = torch.autograd.grad((cost + net.terms(p)["penalty"])[each.argmax()], net.decoder.linear.bias)[0]
    plain = torch.autograd.grad(net.reconstruction(net(p.batch))[each.argmax()], net.decoder.linear.bias)[0]
    assert (moved @ plain > 0) == (certainty < 1)  # a step makes it worse where it is certain


def test_copies_are_told_from_each_other_and_some_row_always_trains():
    net, _ = passed(Trimmed(0.9))
    for n, most in [(10, 9), (2, 1), (1, 0)]:
        p = net(Batch(torch.ones(n, DIM).double()))
        assert (net.terms(p)["penalty"] < 0).sum() == most


def test_a_scale_that_is_learned_does_not_learn_from_rows_that_are_left_out():
    normal, among, *_ = contaminated("two faults", 0)
    asked = {"effort": "fast", "random_state": 0}

    def variance(rows, **parts):
        det = VAEDetector(**asked, **parts).fit(rows)
        return det.folds_[0].net.likelihood.numeric.variance.item()

    clean = variance(normal)
    assert variance(among, penalty=Trimmed(0.15)) < 2 * clean
    assert variance(among, penalty=OutlierExposure(0.15)) < 2 * clean


def test_two_that_deal_with_the_same_rows_are_refused():
    X = rows(200).numpy()
    with pytest.raises(
        ConfigError, match=r"^Sum counts what rows pay in place of their reconstruction once, however: Trimmed\(\) and"
    ):
        AutoencoderDetector(effort="fast", penalty=Trimmed() + OutlierExposure()).fit(X)
    for penalty in (Trimmed(), L1Code() + Trimmed()):
        with pytest.raises(IncompatiblePartsError, match=r"^Trimmed needs a reconstruction that is paid for once, how"):
            VAEDetector(effort="fast", divergence=ImportanceWeighted(), penalty=penalty).fit(X)


def contaminated(kind, seed):
    """Clean rows to learn from, the same with a tenth of anomalies among them, others to judge, and their truth."""
    rng = np.random.default_rng(seed)
    if kind == "malignant":
        normal = pd.read_csv(SAMPLES / "breast_cancer_benign.csv")
        mixed = pd.read_csv(SAMPLES / "breast_cancer_mixed.csv").drop(columns="patient")
        bad = pd.read_csv(SAMPLES / "breast_cancer_labels.csv")["malignant"].to_numpy() == 1
        strange, mixed = mixed[bad].sample(frac=1, random_state=seed), mixed[~bad]
    else:
        mix, faults = rng.normal(size=(3, 10)), 2 * rng.normal(size=(2, 10))
        made = [rng.normal(size=(n, 3)) @ mix + 0.3 * rng.normal(size=(n, 10)) for n in (900, 500, 300)]
        if kind == "swapped":
            made[2] = rng.permuted(made[2], axis=0)
        else:
            made[2] += faults[rng.integers(0, 1 if kind == "a fault" else 2, 300)]
        normal, mixed, strange = (pd.DataFrame(one).add_prefix("sensor_") for one in made)
    few = len(normal) // 9
    among = pd.concat([normal, strange[:few]]).sample(frac=1, random_state=seed)
    judged = pd.concat([mixed, strange[few:]])
    return normal, among, judged, np.arange(len(judged)) >= len(mixed)


@pytest.mark.parametrize(
    ("penalty", "kind"),
    [
        (Trimmed(), "swapped"),
        (Trimmed(), "two faults"),
        (OutlierExposure(), "two faults"),
        (OutlierExposure(), "a fault"),
        (OutlierExposure(), "malignant"),
    ],
    ids=str,
)
def test_half_of_what_anomalies_among_the_rows_cost_is_won_back(penalty, kind):
    found, false = [], []
    for seed in range(3):
        normal, among, judged, truth = contaminated(kind, seed)
        asked = {"effort": "fast", "backbone": Dense(), "random_state": seed}
        ideal, naive = (AutoencoderDetector(**asked).fit(one) for one in (normal, among))
        det = AutoencoderDetector(**asked, penalty=penalty).fit(among)
        found.append([roc_auc_score(truth, one.anomaly_score(judged)) for one in (ideal, naive, det)])
        false.append((det.predict(judged[~truth]) == -1).mean())
    ideal, naive, won = np.mean(found, axis=0)
    assert won > naive + 0.002
    assert ideal - won < (ideal - naive) / 2
    assert np.mean(false) < 0.05  # calibrate rows have anomalies as well: fewer are alarms than promised


def test_codes_that_are_drawn_can_be_trimmed_and_a_drawn_encoder_cannot():
    X = contaminated("a fault", 0)[1]
    det = VAEDetector(effort="fast", penalty=Trimmed(0.2), random_state=0).fit(X)
    assert not np.allclose(det.anomaly_score(X), VAEDetector(effort="fast", random_state=0).fit(X).anomaly_score(X))
    with pytest.raises(IncompatiblePartsError, match=r"^Trimmed needs a backbone with a trained encoder"):
        AutoencoderDetector(penalty=Trimmed(), backbone=RandomFeatures()).fit(X)


@pytest.mark.parametrize("part", [Trimmed(1), Trimmed(-0.1), OutlierExposure(2), OutlierExposure(certainty=1.5)])
def test_values_out_of_range_are_refused(part):
    with pytest.raises(ConfigError, match=rf"{type(part).__name__} needs \w+ to be .*, however: .*\. Try"):
        part.build(Sizes((DIM,)))
