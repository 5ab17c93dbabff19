"""The autoencoder in closed form: its oracle, what noise, gaps and far places do, and who stands in its place."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import Ridge

from anomaly_ae import (
    AutoencoderDetector,
    Dense,
    GaussianNoise,
    Laplace,
    LearnedNormal,
    Mixed,
    Normal,
    Point,
    Preprocessing,
    RandomFeatures,
    SeriesDetector,
    VAEDetector,
    load,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

DIM = 5


def rows(n, seed=0):
    """A curved surface of two dimensions in five."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-1.5, 1.5, (2, n))
    X = np.stack([a, b, np.sin(2 * a), a * b, np.cos(b)], axis=1)
    return (X - X.mean(0)) / X.std(0) + 0.05 * rng.normal(size=X.shape)


def solved(X, mask=None, **parts):
    """A net in closed form, solved for rows."""
    chosen = {"backbone": RandomFeatures(features=60), "latent": Point(), "likelihood": Normal(), "corruption": None}
    with seeded(0), torch.no_grad():
        net = Net(**{**dict.fromkeys(("prior", "divergence")), **chosen, **parts}).build(X.shape[1:]).double().eval()
        p = net(Batch(torch.from_numpy(X), mask))
        for part in net.parts():
            part.solve(p)
    return net


def rebuilt(net, X):
    with torch.no_grad():
        return net(Batch(torch.from_numpy(X))).px.mean.numpy()


def test_it_is_the_ridge_regression_of_rows_on_their_features():
    X, ridge = rows(300), 1e-2
    net = solved(X, backbone=RandomFeatures(features=60, ridge=ridge))
    with torch.no_grad():
        turns = torch.from_numpy(X) @ net.encoder.weight.T + net.encoder.phase
        h = (turns - turns.floor() - 0.5).abs().numpy()
        np.testing.assert_allclose(net.encode(Batch(torch.from_numpy(X)))[0].numpy(), h)
    copies = 4  # of each row
    alpha = ridge * copies * len(X) * h.var(0).mean()
    oracle = Ridge(alpha=alpha).fit(np.tile(h, (copies, 1)), np.tile(X, (copies, 1)))
    np.testing.assert_allclose(rebuilt(net, X), oracle.predict(h), atol=1e-6)


def test_features_are_bounded_and_rows_far_away_are_never_rebuilt():
    net = solved(rows(500))
    far = np.random.default_rng(1).normal(size=(200, DIM)) * np.logspace(1, 6, 200)[:, None]
    h = net.encode(Batch(torch.from_numpy(far)))[0]
    assert h.min() >= 0
    assert h.max() <= 0.5
    largest = np.abs(net.decoder.weight.numpy()).sum(1).max() * 0.5 + np.abs(net.decoder.bias.numpy()).max()
    assert np.abs(rebuilt(net, far)).max() <= largest


def test_a_bent_surface_is_learned_and_noise_is_taken_away():
    X, new = rows(3000), rows(500, 1)
    net = solved(X, backbone=RandomFeatures(), corruption=GaussianNoise(0.5))
    off = np.random.default_rng(2).normal(size=new.shape)
    lost = [((rebuilt(net, x) - x) ** 2).mean() for x in (new, new + 0.5 * off)]
    assert lost[0] < 0.1  # of a variance of 1
    assert lost[1] > 2 * lost[0]
    cleaned = ((rebuilt(net, new + 0.5 * off) - new) ** 2).mean()
    assert cleaned < 0.8 * 0.25  # the noise's own


def test_absent_cells_cost_nothing():
    X, ridge = rows(1000), 1e-2
    there = np.random.default_rng(3).random(X.shape) > [0.4, 0, 0, 0, 0]  # nearly half of the first column is gone
    readout = solved(X).decoder
    z = torch.from_numpy(np.random.default_rng(4).normal(size=(1000, 60)) + X[:, :1])  # codes that tell of it
    told = {}
    for name, mask in (("spared", torch.from_numpy(there)), ("zeros", None)):
        readout.solve(z, Batch(torch.from_numpy(np.where(there, X, 0.0)), mask), ridge)
        told[name] = readout(z)[:, 0, 0].numpy()
    seen = there[:, 0]
    alpha = ridge * float((z - z.mean(0)).square().sum(0).mean())
    oracle = Ridge(alpha=alpha).fit(z[seen], X[seen, 0]).predict(z)
    assert np.abs(told["spared"] - oracle).mean() < 0.05
    assert np.abs(told["zeros"] - oracle).mean() > 0.2


@pytest.mark.parametrize("members", [1, 2])
def test_there_is_one_epoch_which_says_what_is_lost(members):
    det = AutoencoderDetector(effort="fast", members=members, calibration="split", random_state=0).fit(rows(500))
    (epoch,) = det.history_.to_dict("records")
    assert epoch["epoch"] == 1
    assert 0 < epoch["loss"] < epoch["validate_loss"] * 1.5
    nets = det.folds_[0].nets
    assert all(not weight.requires_grad for net in nets for weight in net.parameters())
    assert (members == 1) or not torch.equal(nets[0].encoder.weight, nets[1].encoder.weight)


def test_it_goes_on_from_what_it_knows():
    X = rows(2000)
    det = AutoencoderDetector(effort="fast", random_state=0)
    for some in np.split(X, 4):
        det.partial_fit(some)
    at_once = AutoencoderDetector(effort="fast", random_state=0).fit(X)
    new = rows(500, 5)
    assert np.median(det.anomaly_score(new)) < 2 * np.median(at_once.anomaly_score(new))
    assert (det.predict(new + np.array([0, 0, 3, 0, 0])) == -1).mean() > 0.8


def test_a_latent_with_weights_is_trained_between_the_two():
    X, new, lost = rows(1500), rows(300, 6), {}
    for rate in (1e-9, 5e-3):
        backbone = RandomFeatures(length=1)
        det = AutoencoderDetector(backbone=backbone, latent=Point(3), learning_rate=rate, random_state=0).fit(X)
        assert det.transform(new).shape == (300, 3)
        lost[rate] = ((det.reconstruct(new) - new) ** 2).mean()
    assert lost[5e-3] < 0.8 * lost[1e-9]


def test_codes_that_are_drawn_are_refused_by_name():
    with pytest.raises(IncompatiblePartsError, match=r"RandomFeatures needs a latent with .* without noise.*Gaussian"):
        VAEDetector(backbone=RandomFeatures()).fit(rows(50))


def test_where_columns_are_of_all_kinds_a_net_that_is_trained_stands_in_its_place(tmp_path):
    rng = np.random.default_rng(8)
    site = rng.choice(["north", "south"], 400)
    X = pd.DataFrame({"site": site, "load": np.where(site == "north", 0.0, 5.0) + rng.normal(size=400)})
    det = AutoencoderDetector(backbone=RandomFeatures(), max_epochs=5, random_state=0).fit(X)
    dense = AutoencoderDetector(backbone=Dense(), max_epochs=5, random_state=0).fit(X)
    np.testing.assert_array_equal(det.anomaly_score(X), dense.anomaly_score(X))
    again = load(det.save(tmp_path / "model"))
    np.testing.assert_array_equal(det.anomaly_score(X), again.anomaly_score(X))


@pytest.mark.parametrize("likelihood", [Laplace(), Mixed(numeric=Laplace()), LearnedNormal()], ids=repr)
def test_what_is_no_squared_error_is_refused_by_name(likelihood):
    with pytest.raises(IncompatiblePartsError, match="RandomFeatures needs a likelihood with a squared error"):
        AutoencoderDetector(backbone=RandomFeatures(), likelihood=likelihood).fit(rows(50))


def test_less_effort_takes_what_goes_with_the_likelihood():
    robust = AutoencoderDetector(effort="fast", likelihood=Laplace())
    assert isinstance(robust.parts()["backbone"], Dense)
    assert isinstance(SeriesDetector(robust).parts()["backbone"], Dense)
    assert isinstance(robust.set_params(likelihood=Normal()).parts()["backbone"], RandomFeatures)
    assert isinstance(AutoencoderDetector(effort="fast").parts()["backbone"], RandomFeatures)


@pytest.mark.parametrize("name", ["features", "length", "ridge"])
@pytest.mark.parametrize("value", [0, -1, np.inf])
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        AutoencoderDetector(backbone=RandomFeatures(**{name: value})).fit(rows(50))


def test_columns_without_scale_are_solved_as_they_are():
    X = rows(500) * [1, 1, 1, 1, 0]  # a constant column
    det = AutoencoderDetector(
        preprocessing=Preprocessing(standardize=False), effort="fast", calibration="split", random_state=0
    ).fit(X)
    assert np.isfinite(det.anomaly_score(X)).all()
    assert np.abs(det.reconstruct(X)[:, 4]).max() < 1e-6
