"""Scorers that are linear, against closed forms."""

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from anomaly_ae import Mahalanobis, PrincipalComponents, PrincipalNeighbours
from anomaly_ae.nn.core import Batch, Pass, Sizes
from anomaly_ae.series.tails import KNOTS, Tails


def rows(n, seed=0, d=6):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) @ np.random.default_rng(7).normal(size=(d, d)) + 3


def seen(X, shape=None):
    x = torch.from_numpy(X).reshape(-1, *(shape or X.shape[1:]))
    return Pass(Batch(x), Batch(x), x, (), None, None)


def learned(scorer, shape=(6,), n=1500):
    scorer.build(Sizes(shape))
    scorer.double()
    scorer.learn(seen(rows(n), shape), seen(rows(400, 1), shape))
    return scorer


def test_mahalanobis_is_the_negative_log_density_of_a_gaussian():
    scorer, X, new = learned(Mahalanobis(ridge=1e-6)), rows(1500), rows(50, 2)
    S = np.cov(X.T, bias=True)
    S = S + 1e-6 * np.trace(S) / 6 * np.eye(6)
    gaussian = multivariate_normal(X.mean(0), S)
    assert np.allclose(scorer(seen(new)), -gaussian.logpdf(new) + gaussian.logpdf(X.mean(0)))


def test_the_ridge_is_the_likeliest_of_held_out_rows():
    X, held_out = rows(9, d=6), rows(400, 1)
    scorer = Mahalanobis()
    scorer.build(Sizes((6,)))
    scorer.double().learn(seen(X), seen(held_out))

    def likelihood(ridge):
        S = np.cov(X.T, bias=True)
        return multivariate_normal(X.mean(0), S + ridge * np.trace(S) / 6 * np.eye(6)).logpdf(held_out).mean()

    best = max(np.logspace(-6, 0, 13), key=likelihood)
    fixed = Mahalanobis(ridge=float(best))
    fixed.build(Sizes((6,)))
    fixed.double().learn(seen(X), seen(held_out))
    assert np.allclose(scorer(seen(held_out)), fixed(seen(held_out)))


@pytest.mark.parametrize("n", [1500, 5], ids=["tall", "wide"])
def test_principal_components_are_probabilistic_pca(n):
    X, new = rows(n), rows(50, 2)
    scorer = PrincipalComponents(keep=0.9)
    scorer.build(Sizes((6,)))
    scorer.double().learn(seen(X), seen(new))
    k = len(scorer.weights)
    share = np.cumsum(PCA().fit(X).explained_variance_ratio_)
    assert share[k - 1] >= 0.9 > (share[k - 2] if k > 1 else 0)
    values, vectors = np.linalg.eigh(np.cov(X.T, bias=True))
    values, vectors = values[::-1], vectors[:, ::-1]
    noise = values[k:].mean()
    M = vectors[:, :k] / values[:k] @ vectors[:, :k].T + (np.eye(6) - vectors[:, :k] @ vectors[:, :k].T) / noise
    off = new - X.mean(0)
    assert np.allclose(scorer(seen(new)), 0.5 * np.einsum("ni,ij,nj->n", off, M, off))


def test_what_a_channel_contributes_is_what_the_score_falls_by_without_it():
    """By brute force: the channel's cells are moved to where the score is least."""
    scorer, shape = learned(Mahalanobis(), (2, 3)), (2, 3)
    new = rows(5, 3)
    p = seen(new, shape)
    blamed, whole = scorer.contributions(p).sum(2), scorer(p)
    expected = scorer.expected(p)
    for channel in range(2):
        x = p.batch.x.clone()
        x[:, channel] = expected[:, channel]
        least = scorer(Pass(Batch(x), Batch(x), x, (), None, None))
        assert np.allclose(whole - least, blamed[:, channel])
        x[:, channel] += 0.01 * torch.randn_like(x[:, channel])
        assert (scorer(Pass(Batch(x), Batch(x), x, (), None, None)) > least).all()


@pytest.mark.parametrize("scorer", [Mahalanobis(), PrincipalComponents(keep=0.8)])
def test_a_channel_that_alone_is_wrong_is_blamed_most(scorer):
    scorer = learned(scorer, (6, 1))
    for channel in range(6):
        new = rows(100, 4)
        new[:, channel] += 30
        assert (scorer.contributions(seen(new, (6, 1))).sum(2).argmax(1) == channel).float().mean() > 0.95


@pytest.mark.parametrize("make", [lambda: Mahalanobis(ridge=0.1), lambda: PrincipalComponents(0.8, inside=False)])
def test_what_is_loaded_counts_whatever_was_learned_before(make):
    known, other, new = learned(make()), make(), seen(rows(50, 2))
    other.build(Sizes((6,)))
    other.double().learn(seen(rows(1500, 5) * 2), seen(rows(400, 6)))
    before = other(new)
    other.load_state_dict(known.state_dict())
    assert not torch.allclose(before, known(new))
    assert torch.equal(other(new), known(new))


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("n", [1500, 5], ids=["tall", "wide"])
def test_components_blame_the_root_s_squares_and_these_add_up(inside, n):
    scorer, new = learned(PrincipalComponents(keep=0.9, inside=inside), n=n), rows(50, 2)
    V, w, a = (value.numpy() for value in (scorer.axes, scorer.weights, scorer.rest))
    w = w if inside else 0 * w
    M = V.T @ np.diag(w) @ V + a * (np.eye(6) - V.T @ V)
    values, vectors = np.linalg.eigh(M)
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    cells = scorer.contributions(seen(new))
    assert np.allclose(cells, 0.5 * ((new - scorer.mean.numpy()) @ root) ** 2)
    assert np.allclose(cells.sum(1), scorer(seen(new)), rtol=1e-9)


def test_what_components_hardly_leave_is_told_exactly():
    X = rows(400)
    X = np.column_stack([X, X @ np.ones((6, 2))]) + 1e-7 * np.random.default_rng(3).normal(size=(400, 8))
    scorer = PrincipalComponents(keep=1 - 1e-12, inside=False)
    scorer.build(Sizes((8,)))
    scorer.double().learn(seen(X[:300]), seen(X[300:]))
    score, cells = scorer.judged(seen(X[300:]))
    assert np.allclose(cells.sum(1), score, rtol=1e-9)
    assert np.allclose(scorer(seen(X[300:])), score, rtol=1e-9)
    assert np.allclose(torch.cat([scorer(seen(row[None])) for row in X[300:]]), score, rtol=1e-7)


def test_relations_of_collinear_columns_survive_float32():
    X = np.column_stack([rows(400), rows(400) @ np.ones((6, 2))]) + 1e-3 * np.random.default_rng(3).normal(
        size=(400, 8)
    )
    scorer = Mahalanobis(ridge=1e-6)
    scorer.build(Sizes((8,)))
    scorer.double().learn(seen(X[:300]), seen(X[300:]))
    exact, p = scorer(seen(X[300:])), seen(X[300:].astype(np.float32))
    assert np.allclose(scorer.float()(p), exact, rtol=0.01)


def test_components_of_many_columns_blame_the_one_that_left_the_plane():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(700, 4)) @ rng.normal(size=(4, 20)) + 0.1 * rng.normal(size=(700, 20))
    scorer = PrincipalComponents(keep=0.98, inside=False)
    scorer.build(Sizes((20,)))
    scorer.double().learn(seen(X[:600]), seen(X[:600]))
    for column in range(20):
        new = X[600:].copy()
        new[:, column] += 2
        assert (scorer.contributions(seen(new)).argmax(1) == column).float().mean() > 0.95


@pytest.mark.parametrize("components", [2, 6])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("epsilon", [1e-4, 0.1, 1e4])
def test_principal_neighbours_are_nearest_in_whitened_components_and_the_rest_counts_in_full(epsilon, k, components):
    X, new = rows(1500), rows(50, 2)
    scorer = learned(PrincipalNeighbours(k=k, epsilon=epsilon, components=components))
    mean, S = X.mean(0), np.cov(X.T, bias=True)
    values, vectors = np.linalg.eigh(S)
    values, vectors = values[::-1][:components], vectors[:, ::-1][:, :components]
    shrink = np.sqrt(epsilon * np.trace(S) / 6 / (values + epsilon * np.trace(S) / 6))
    far = ((((new - mean) @ vectors)[:, None] - ((X - mean) @ vectors)[None]) * shrink) ** 2
    left = (((new - mean) - (new - mean) @ vectors @ vectors.T) ** 2).sum(1)
    nearest = np.sqrt(np.sort(far.sum(2), axis=1)[:, :k] + left[:, None]).mean(1)
    assert np.allclose(scorer(seen(new)), nearest, rtol=1e-4, atol=1e-5)
    score, cells = scorer.judged(seen(new))
    assert np.allclose(cells.sum(1), score)
    assert (cells >= 0).all()


def test_principal_neighbours_blame_what_left_all_that_was_seen():
    scorer = learned(PrincipalNeighbours(components=4))
    for column in range(6):
        new = rows(100, 4)
        new[:, column] += 300
        assert (scorer.contributions(seen(new)).argmax(1) == column).float().mean() > 0.95


def test_principal_neighbours_keep_components_with_variance_and_as_many_rows_as_asked():
    X = rows(300) @ np.diag([1, 1, 1, 1, 1, 0])  # five directions and a constant
    scorer = PrincipalNeighbours(sample=50)
    scorer.build(Sizes((6,)))
    scorer.double().learn(seen(X), seen(X))
    assert scorer.memory.shape == (50, 5)
    every = np.linspace(0, 299, 50).round().astype(int)
    assert scorer(seen(X[every])).max() < 1e-5  # what is remembered is known


def test_absent_cells_are_what_principal_components_make_of_the_others():
    scorer = PrincipalNeighbours(components=2)
    factors = np.random.default_rng(0).normal(size=(500, 2))
    mix = np.random.default_rng(1).normal(size=(2, 6))
    X = factors @ mix + 0.05 * np.random.default_rng(2).normal(size=(500, 6))
    scorer.build(Sizes((6,)))
    scorer.double().learn(seen(X[:400]), seen(X[400:]))
    new, mask = seen(X[400:]), torch.ones(100, 6, dtype=torch.bool)
    mask[:, 2] = False
    gappy = Pass(Batch(new.batch.x, mask), new.batch, new.h, (), None, None)
    assert scorer(gappy).mean() < 1.1 * scorer(new).mean()
    assert (scorer.contributions(gappy)[:, 2] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scorer", [Mahalanobis(ridge=1e-3), PrincipalComponents(0.8), PrincipalComponents(0.8, False)])
def test_absent_cells_are_what_a_gaussian_lets_expect(scorer, dtype):
    """Of all of it: of the residual alone they would be what leaves none. What is not there is not to blame."""
    learned(scorer, (2, 3))
    X, mask = rows(60, 2).reshape(-1, 2, 3), torch.rand(60, 2, 3, generator=torch.Generator().manual_seed(0)) > 0.3
    mask[0], mask[1], mask[2, 1] = False, True, False
    eye = torch.eye(6, dtype=torch.float64)
    M = 0.5 * (scorer._pull(eye) + scorer._pull(eye).T)
    V = scorer.axes
    counted = M if scorer.inside else scorer.rest * (eye - V.T @ V)
    expected = []
    for row, known in zip(torch.from_numpy(X).flatten(1) - scorer.mean, mask.flatten(1), strict=True):
        lost, x = ~known, row.clone()
        x[lost] = -torch.linalg.pinv(M[lost][:, lost], rtol=1e-9, hermitian=True) @ (M[lost][:, known] @ row[known])
        expected.append(0.5 * x @ counted @ x / known.double().mean().clamp(min=1e-3))
    scorer.to(dtype)
    x = torch.where(mask, torch.from_numpy(X), 1e6 if dtype == torch.float64 else 0.0).to(dtype)
    p = Pass(Batch(x, mask), Batch(x, mask), x, (), None, None)
    near = {"rtol": 1e-6, "atol": 1e-8} if dtype == torch.float64 else {"rtol": 5e-3, "atol": 1e-3}
    torch.testing.assert_close(scorer(p).double(), torch.stack(expected), **near)
    score, blamed = scorer.judged(p)
    torch.testing.assert_close(score, scorer(p))
    assert (blamed[~mask] == 0).all()
    few = Pass(Batch(x[:7], mask[:7]), Batch(x[:7], mask[:7]), x[:7], (), None, None)
    torch.testing.assert_close(scorer(few), scorer(p)[:7], rtol=1e-9 if dtype == torch.float64 else 1e-3, atol=1e-9)


@pytest.mark.parametrize(
    "scorer", [Mahalanobis(ridge=1e-3), PrincipalComponents(0.9), PrincipalNeighbours(components=8)]
)
def test_many_absent_cells_of_many_columns_are_told_as_well(scorer):
    rng = np.random.default_rng(0)
    factors, mix = rng.normal(size=(1000, 8)), rng.normal(size=(8, 40))
    X = factors @ mix + 0.1 * rng.normal(size=(1000, 40))
    scorer.build(Sizes((40,)))
    scorer.double().learn(seen(X[:800]), seen(X[800:]))
    x, mask = torch.from_numpy(X[900:]), torch.from_numpy(rng.random((100, 40)) > 0.6)
    gappy = Pass(Batch(torch.where(mask, x, 0.0), mask), Batch(x), x, (), None, None)
    whole = scorer(seen(X[900:]))
    filled = scorer(gappy)
    assert 0.5 * whole.median() < filled.median() < 1.5 * whole.median()
    assert filled.max() < 3 * whole.max()


@pytest.mark.parametrize("scorer", [Mahalanobis(ridge=1e-9), PrincipalComponents(0.999999, inside=False)])
def test_gaps_are_filled_where_there_is_no_noise_and_axes_are_rounded(scorer):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3)) @ rng.normal(size=(3, 12))
    scorer.build(Sizes((12,)))
    scorer.double().learn(seen(X[:300]), seen(X[300:]))
    scorer.float().double()  # as it is stored
    x, mask = torch.from_numpy(X), torch.from_numpy(rng.random((400, 12)) > 0.4)
    mask[:, :3] = True  # so that the rest is told
    gappy = Pass(Batch(torch.where(mask, x, 0.0), mask), Batch(x), x, (), None, None)
    torch.testing.assert_close(scorer._centred(gappy) + scorer.mean, x, rtol=0, atol=1e-3)


def test_other_weights_are_other_memories():
    one, two = (learned(PrincipalNeighbours(), n=n) for n in (300, 400))
    new = seen(rows(50, 2))
    expected = two(new)
    one(new)
    one.load_state_dict(two.state_dict())
    assert torch.equal(one(new), expected)


def test_float32_keeps_its_digits_where_components_hold_nearly_all():
    scorer = learned(PrincipalNeighbours(components=5)).float()
    scorer.search = None
    X = (rows(50, 2) - 3) * 100
    double = learned(PrincipalNeighbours(components=5))(seen(X))
    single = scorer(Pass(Batch(torch.from_numpy(X).float()), None, None, (), None, None))
    assert np.allclose(single, double, rtol=1e-3)


def test_a_tail_is_a_rank_and_then_exponential_in_the_logarithm():
    rng = np.random.default_rng(0)
    scores = rng.pareto(2, size=(20_000, 1)) + 1  # P(S > s) = s^-2
    tails = Tails.learn(scores)
    at = np.array([[1.5], [3.0], [30.0], [300.0]])
    assert np.allclose(tails.nats(at)[:, 0], 2 * np.log(at[:, 0]), rtol=0.1)
    assert abs(np.log(tails.exceeded_by(1e-4)) - 0.5 * np.log(1e4)) < 0.3
    assert tails.knots.shape == (1, KNOTS)
    assert (np.diff(tails.nats(np.linspace(1, 99, 500)[:, None])[:, 0]) >= 0).all()
    assert tails.nats(np.full((3, 1), 0.5)).max() == 0
