"""Codes from a codebook and from a memory."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from anomaly_ae import AutoencoderDetector, Dense, GaussianNoise, Memory, Normal, VectorQuantized
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import LEFT_OUT, Batch, Pass, Sizes
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

N, DIM = 600, 3


def rows(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(4, DIM))[rng.integers(4, size=n)] * 3 + 0.5 * rng.normal(size=(n, DIM)))


def built(latent, features=DIM):
    with seeded(0):
        latent.build(Sizes((DIM,), features=features))
    return latent.double()


def seen(h, notes=None):
    return Pass(Batch(h), Batch(h), h, (), None, None, notes=notes or {})


def test_an_identity_encoder_makes_it_k_means():
    x, latent = rows(), built(VectorQuantized(6, decay=0.0))
    latent.start(seen(x))
    expected = KMeans(6, init=latent.book.numpy().copy(), n_init=1, max_iter=500, tol=0).fit(x.numpy())
    for _ in range(200):
        latent.after_step(seen(x))
    np.testing.assert_allclose(latent.book, expected.cluster_centers_, atol=1e-9)
    np.testing.assert_array_equal(latent.nearest(x), expected.labels_)
    (level,) = latent(x, None, Batch(x))
    assert level.cost.sum().item() == pytest.approx(0.25 * expected.inertia_)


def test_running_means_tend_to_the_same_by_batches():
    x, latent = rows(4000), built(VectorQuantized(4, decay=0.9))
    latent.start(seen(x))
    for step in range(400):
        latent.after_step(seen(x[(torch.arange(256) + 256 * step) % len(x)]))
    best = KMeans(4, n_init=10, random_state=0).fit(x.numpy())
    far = np.linalg.norm(latent.book.numpy()[:, None] - best.cluster_centers_, axis=2)
    assert far.min(0).max() < 0.2


def test_rows_that_are_left_out_teach_no_vector():
    latent = built(VectorQuantized(4))
    h = torch.cat([rows(), rows(20) + 50])
    left_out = torch.arange(len(h)) >= len(h) - 20
    latent.start(seen(h[:-20]))
    for _ in range(200):
        latent.after_step(seen(h, {LEFT_OUT: left_out}))
    assert latent.book.abs().max() < 10


def test_gradients_pass_as_if_nothing_lay_between_and_the_commitment_pulls():
    x, latent = rows(20).requires_grad_(), built(VectorQuantized(4, commitment=0.5))
    (level,) = latent(x, None, Batch(x))
    book = latent.book[latent.nearest(x)]
    torch.testing.assert_close(level.z, book)
    weight = rows(20, seed=1)
    (through,) = torch.autograd.grad((level.z * weight).sum(), x, retain_graph=True)
    torch.testing.assert_close(through, weight)
    (pull,) = torch.autograd.grad(level.cost.sum(), x)
    torch.testing.assert_close(pull, x - book)  # 2 * commitment


def test_a_vector_that_nobody_chooses_begins_anew_and_draws_are_as_often_as_use():
    x, latent = rows(), built(VectorQuantized(4, decay=0.5))
    latent.start(seen(x))
    latent.sums[0], latent.book[0] = 1e3, 1e3
    for _ in range(20):
        latent.after_step(seen(x))
    assert latent.book.abs().max() < 15
    latent.used.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    with seeded(0):
        drawn = latent.nearest(latent.sample(20_000, None))
    torch.testing.assert_close(drawn.bincount() / 20_000, torch.tensor([0.1, 0.2, 0.3, 0.4]), atol=0.02, rtol=0)


def test_learning_goes_on_with_the_codebook_that_is_there():
    x, latent = rows(), built(VectorQuantized(4))
    latent.start(seen(x))
    before = latent.book.clone()
    latent.start(seen(x + 1))
    assert torch.equal(latent.book, before)


@pytest.mark.parametrize("shrinkage", [0.0, 1.0, 1e6])
def test_addresses_are_shares_of_a_few_slots(shrinkage):
    h, latent = rows(), built(Memory(30, shrinkage=shrinkage))
    weights = latent.addresses(h)
    torch.testing.assert_close(weights.sum(1), torch.ones(N).double())
    assert (weights >= 0).all()
    cosine = torch.nn.functional.cosine_similarity(h[:, None], latent.memory, dim=2)
    even = cosine.softmax(1)
    kept = even * (even > shrinkage / 30)
    expected = kept / kept.sum(1, keepdim=True) if shrinkage < 1e6 else even
    torch.testing.assert_close(weights, expected)
    (level,) = latent(h, None, Batch(h))
    torch.testing.assert_close(level.z, weights @ latent.memory)
    torch.testing.assert_close(level.cost, 0.0002 * torch.special.entr(weights).sum(1))


def test_gradients_reach_memory_and_encoder():
    with seeded(0):
        net = Net(
            backbone=Dense((16,)), latent=Memory(8, dim=2), prior=None, divergence=None, likelihood=Normal(),
            corruption=None,
        ).build((DIM,))  # fmt: skip
    terms = net.terms(net(Batch(rows().float())))
    loss = terms["reconstruction"].mean() + terms["latent_cost"].mean()
    assert all(gradient.abs().sum() > 0 for gradient in torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("latent", [VectorQuantized(16), Memory(20, dim=2)], ids=repr)
def test_what_is_rebuilt_is_bounded_however_far_a_row_lies(latent):
    """Where a plain net follows a far row, these have normal pieces alone to rebuild from: scores grow on each ray."""
    X = rows().numpy()
    det = AutoencoderDetector(latent=latent, corruption=GaussianNoise(0), effort="fast", random_state=0).fit(X)
    rays = np.random.default_rng(0).normal(size=(200, DIM))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    near, far = (det.anomaly_score(radius * rays) for radius in (20, 40))
    assert (near > det.threshold_.value_).all()
    assert (far > near).all()
    assert np.abs(det.reconstruct(1e3 * rays)).max() < 20


@pytest.mark.parametrize(
    ("latent", "name"),
    [(VectorQuantized(0), "k"), (VectorQuantized(commitment=-1), "commitment"), (VectorQuantized(decay=1), "decay"),
     (VectorQuantized(dim=0), "dim"), (Memory(0), "slots"), (Memory(shrinkage=-1), "shrinkage"),
     (Memory(entropy=-1), "entropy"), (Memory(dim=0), "dim")],
)  # fmt: skip
def test_values_out_of_range_are_refused(latent, name):
    with pytest.raises(ConfigError, match=rf"{type(latent).__name__} needs {name} to be .*, however: .*\. (Try|Use)"):
        built(latent)
