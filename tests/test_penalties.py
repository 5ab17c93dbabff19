"""What codes and encoders pay: each penalty against its formula, and what it does to a net."""

from itertools import combinations

import numpy as np
import pytest
import torch
from scipy.special import rel_entr

from anomaly_ae import (
    AutoencoderDetector,
    Contractive,
    Dense,
    Gaussian,
    GaussianNoise,
    KLSparsity,
    L1Code,
    Normal,
    Point,
    RandomFeatures,
    StandardizedError,
    VAEDetector,
    config,
    detectors,
    storage,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch, Level, Pass, Sizes
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

N, DIM = 200, 4


def rows(n=N, d=DIM, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(n, d)))


def net(**parts):
    chosen = {"backbone": Dense((6,), activation="sigmoid"), "latent": Point(), "likelihood": Normal()} | parts
    with seeded(0):
        return Net(**chosen).build((DIM,)).double()


def test_l1_and_sparsity_have_their_formulas():
    z, h = rows(), torch.rand(N, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    p = Pass(Batch(z), Batch(z), h, (Level(None, None, z),), None, None)
    torch.testing.assert_close(L1Code(0.3)(p), 0.3 * z.abs().sum(1))
    mean = h.mean(0).numpy()
    expected = 2 * (rel_entr(0.1, mean) + rel_entr(0.9, 1 - mean)).sum()
    assert KLSparsity(0.1, 2)(p).item() == pytest.approx(expected)
    p = Pass(Batch(z), Batch(z), torch.full_like(h, 0.1), (), None, None)
    assert KLSparsity(0.1)(p).item() == pytest.approx(0, abs=1e-12)
    for silent in (0.0, 1.0):
        assert KLSparsity(0.1)(Pass(Batch(z), Batch(z), torch.full_like(h, silent), (), None, None)).isfinite()


@pytest.mark.slow
def test_contraction_is_the_norm_of_the_jacobian():
    """Of one sigmoid layer, sum_j (h_j (1 - h_j))^2 |W_j|^2; of a code beyond it, autograd's."""
    x, draws = rows(5), 4000
    for latent in (Point(), Point(3)):
        model = net(latent=latent, penalty=Contractive(2))
        with seeded(0), torch.no_grad():
            each = torch.stack([model.penalty(model(Batch(x))) for _ in range(draws)])

        def code(row, model=model):
            return model.encode(Batch(row[None]))[1][0].z[0]

        exact = torch.func.vmap(torch.func.jacrev(code))(x).square().sum((1, 2))
        if latent.dim is None:
            weight, h = model.encoder.layers[0].weight, model.encode(Batch(x))[0]
            torch.testing.assert_close(exact, ((h * (1 - h)).square() * weight.square().sum(1)).sum(1))
        assert ((each.mean(0) - 2 * exact).abs() < 5 * each.std(0) / draws**0.5).all()


def fitted(**parts):
    X = np.tanh(np.random.default_rng(0).normal(size=(1000, 3)) @ rows(3, 8, seed=1).numpy())
    plain = {"corruption": GaussianNoise(0), "scorer": StandardizedError(), "random_state": 0, "max_epochs": 30}
    det = AutoencoderDetector(**plain | parts).fit(X)
    return det, det.folds_[0], X


def test_mean_activations_reach_rho():
    backbone = Dense((32,), activation="sigmoid")
    more = {"backbone": backbone, "max_epochs": 100, "patience": None, "learning_rate": 0.02}
    _, fold, X = fitted(penalty=KLSparsity(0.1, weight=30), **more)
    active = fold.read(X, lambda p: p.h).mean(0)
    np.testing.assert_allclose(active, 0.1, atol=0.02)
    _, fold, X = fitted(**more)
    assert fold.read(X, lambda p: p.h).mean() > 0.3


def test_rho_and_weight_of_sparsity_move_the_score():
    plain = {"backbone": Dense(activation="sigmoid"), "max_epochs": 3}
    scores = []
    for penalty in (None, KLSparsity(), KLSparsity(rho=0.2), KLSparsity(weight=9)):
        det, _, X = fitted(penalty=penalty, **plain)
        scores.append(det.anomaly_score(X[:20]))
    assert all(np.abs(one / other - 1).max() > 1e-6 for one, other in combinations(scores, 2))


def test_contraction_is_that_of_the_encoder_as_in_scoring():
    model = net(backbone=Dense((16,), dropout=0.5, batch_norm=True), penalty=Contractive())
    told = []
    for training in (True, False):
        p = model.train(training)(Batch(rows()))
        with seeded(0):
            told.append(model.penalty(p))
        assert model.encoder.training == training
    torch.testing.assert_close(*told)


def test_l1_empties_codes_and_contraction_holds_them_still():
    nudge = 0.01 * rows(1000, 8, seed=2).numpy()

    def told(penalty):
        det, _, X = fitted(latent=Point(12), penalty=penalty)
        z = det.transform(X)
        return np.mean(np.abs(z) < 0.05), np.linalg.norm(det.transform(X + nudge) - z)

    empty, moved = told(None)
    assert told(L1Code(0.1))[0] > 1.5 * empty
    assert told(Contractive(0.1))[1] < 0.5 * moved


def test_penalties_add_up_are_written_down_and_are_in_the_history():
    together = L1Code(0.01) + Contractive()
    det, _, _ = fitted(penalty=together)
    assert repr(config.loads(config.dumps(det))) == repr(det)
    assert (det.history_["penalty"] > 0).all()
    assert "penalty" not in fitted()[0].history_


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"penalty": KLSparsity(), "backbone": Dense()}, "a backbone with a sigmoid activation"),
        (
            {"penalty": KLSparsity(), "backbone": Dense((), activation="sigmoid")},
            "a backbone with a sigmoid activation",
        ),
        ({"penalty": L1Code(), "backbone": RandomFeatures()}, "a backbone with a trained encoder"),
        (
            {"penalty": L1Code() + Contractive(), "latent": Gaussian(), "prior": "default"},
            "a latent with a code without",
        ),
    ],
)
def test_what_a_penalty_needs_is_asked_for(parts, says):
    detector = VAEDetector if parts.pop("prior", None) else AutoencoderDetector
    with pytest.raises(IncompatiblePartsError, match=f"^(KLSparsity|L1Code|Contractive) needs {says}"):
        detector(**parts).fit(rows().numpy())


def test_fast_takes_a_net_that_is_trained_where_a_penalty_wants_one():
    det = AutoencoderDetector(effort="fast", penalty=L1Code(), max_epochs=2).fit(rows().numpy())
    assert isinstance(det.parts_["backbone"], Dense)
    assert isinstance(AutoencoderDetector(effort="fast").parts()["backbone"], RandomFeatures)


@pytest.mark.parametrize("part", [L1Code(-1), KLSparsity(0), KLSparsity(1), KLSparsity(weight=-1), Contractive(-1)])
def test_values_out_of_range_are_refused(part):
    with pytest.raises(ConfigError, match=rf"{type(part).__name__} needs \w+ to be .*, however: .*\. Try"):
        part.build(Sizes((DIM,)))


def test_a_model_that_was_saved_before_there_were_penalties_loads(tmp_path):
    det, _, X = fitted()
    det.save(tmp_path / "model")
    stored = storage.load(tmp_path / "model")
    del stored.config["parts"]["penalty"], stored.config["detector"]["AutoencoderDetector"]["penalty"]
    np.testing.assert_array_equal(detectors.restore(stored, "model", {}).anomaly_score(X), det.anomaly_score(X))
