"""What the output tells of the code: a bound that a reader learns, and a help against codes that tell nothing."""

import math

import numpy as np
import pytest
import torch

from anomaly_ae import (
    KL,
    TCN,
    AutoencoderDetector,
    Dense,
    Gaussian,
    Ladder,
    MutualInformation,
    NegativeELBO,
    Normal,
    Point,
    StandardNormal,
    StudentT,
    VAEDetector,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

DIM, CODE = 5, 3


def variational(part, **parts):
    chosen = {"backbone": Dense(()), "latent": Gaussian(CODE), "prior": StandardNormal(), "likelihood": Normal()}
    return Net(**chosen | {"divergence": part} | parts)


def test_a_reader_learns_the_mutual_information_of_a_linear_decoder():
    r"""x = W z + sigma e: I(z; x) = ln det(I + W W^T / sigma^2) / 2, and no reader says more."""
    sigma, part = 0.5, MutualInformation(weight=2)
    with seeded(0):
        net = variational(part, likelihood=Normal(sigma)).build((DIM,))
        torch.nn.init.normal_(net.decoder.linear.weight)
        rows = Batch(torch.zeros(512, DIM))
        optimizer = torch.optim.Adam(part.parameters(), lr=0.01)
        told = []
        for step in range(700):
            if step == 500:
                optimizer.param_groups[0]["lr"] = 0.001
            loss = part(net(rows)).mean()
            optimizer.zero_grad()
            loss.backward(inputs=list(part.parameters()))
            optimizer.step()
            told.append(CODE / 2 * math.log(2 * math.pi * math.e) - loss.item() / 2)
    weight = net.decoder.linear.weight.detach().double()
    exact = 0.5 * torch.logdet(torch.eye(DIM) + weight @ weight.T / sigma**2).item()
    assert told[0] < 0
    assert 0.95 * exact < np.mean(told[-100:]) < exact


def test_the_decoder_learns_to_be_read():
    with seeded(0):
        net = variational(MutualInformation()).build((DIM,))
        net.divergence(net(Batch(torch.zeros(64, DIM)))).mean().backward()
    assert net.decoder.linear.weight.grad.abs().max() > 0
    assert net.encoder.features == DIM  # whose weights are no matter of codes that are drawn from the prior
    assert all(weight.grad is None for weight in net.latent.parameters())


def test_it_works_against_a_posterior_that_collapses():
    rng = np.random.default_rng(2)
    spread = np.array([2, 1.5, 1, 0.8, 0.6, 0.4])[:, None]
    X = rng.normal(size=(2000, 6)) @ (rng.normal(size=(6, 12)) * spread) + rng.normal(size=(2000, 12))
    plain = {"latent": Gaussian(8), "scorer": NegativeELBO(), "calibration": "split", "random_state": 0}
    without, beside = (VAEDetector(divergence=d, **plain).fit(X) for d in (KL(4), KL(4) + MutualInformation()))
    nats = [det.latents(X)["information"].sum() for det in (without, beside)]
    assert nats[0] < 0.1
    assert nats[1] > nats[0] + 0.3
    assert beside.score(X) > without.score(X) + 1


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ({"latent": Ladder((4, 2))}, (DIM,)),
        ({"latent": Point(2)}, (DIM,)),
        ({"likelihood": StudentT(df=1.0)}, (DIM,)),  # whose variance is infinite
        ({"backbone": TCN(channels=4)}, (3, 32)),
        ({"backbone": TCN(channels=4, codes="window", causal=False)}, (3, 32)),
    ],
    ids=repr,
)
def test_it_reads_codes_of_any_shape(parts, shape):
    with seeded(0):
        net = variational(MutualInformation(), **parts).build(shape)
        told = net.divergence(net(Batch(torch.zeros(7, *shape))))
    assert told.shape == (7,)
    assert torch.isfinite(told).all()


def test_what_it_cannot_be_is_refused():
    for part in (MutualInformation(-1), MutualInformation(hidden=0)):
        with pytest.raises(ConfigError, match=r"MutualInformation needs .*, however: .*\. \w"):
            VAEDetector(divergence=part).fit(np.eye(5))
    with pytest.raises(IncompatiblePartsError, match="MutualInformation needs a prior with a density"):
        AutoencoderDetector(divergence=MutualInformation()).fit(np.eye(5))
