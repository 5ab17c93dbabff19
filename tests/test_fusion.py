"""Scorers beside the net, and their fusion: oracles, what they promise far away, and that they are kept."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import average_precision_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from anomaly_ae import (
    AutoencoderDetector,
    Dense,
    Fused,
    KLScore,
    Largest,
    LocalDenoiser,
    Mahalanobis,
    Neighbours,
    Normal,
    Point,
    Preprocessing,
    ReconstructionError,
    StandardizedError,
    VAEDetector,
    load,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch, Sizes
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded
from anomaly_ae.scoring.search import Search

DIM = 4


def rows(n, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, DIM)) @ np.random.default_rng(9).normal(size=(DIM, DIM))
    return X.astype(np.float32).astype(np.float64)  # as a memory keeps them


@pytest.fixture(scope="module")
def net():
    with seeded(0):
        parts = {"backbone": Dense((8,)), "latent": Point(2), "likelihood": Normal()}
        return Net(**parts, prior=None, divergence=None, corruption=None).build((DIM,)).double().eval()


def passed(net, X):
    with torch.inference_mode():
        return net(Batch(torch.from_numpy(X)))


def learned(part, net, n_fit=150, n_validate=50):
    """The part, and what it says of validate rows as if they were new."""
    with seeded(0), torch.inference_mode():
        part.build(Sizes((DIM,)))
        part.double()
        return part, part.learn(passed(net, rows(n_fit)), passed(net, rows(n_validate, 1))).numpy()


# --- neighbours ------------------------------------------------------------------------------------------------------


def bent(rows, fit, bend=4.0):
    if bend is None:
        return rows
    fit = fit.clip(-10, 10)
    return np.arcsinh(rows / bend) * fit.std(0) / np.arcsinh(fit / bend).std(0)


def brute(known, k, p=2.0):
    return NearestNeighbors(n_neighbors=k, p=p, algorithm="brute").fit(known)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("k", [1, 5])
def test_neighbours_are_scikit_learns(net, k, p):
    part, held_out = learned(Neighbours(k, p, bend=None), net)
    known, new = np.concatenate([rows(150), rows(50, 1)]), rows(3000, 2)
    oracle = brute(known, k, p)
    np.testing.assert_allclose(part(passed(net, new)).numpy(), oracle.kneighbors(new)[0].mean(1), rtol=1e-12)
    others = oracle.kneighbors()[0].mean(1)  # without the row itself
    np.testing.assert_allclose(held_out, others[150:], rtol=1e-12)


def test_the_correction_divides_by_how_far_apart_the_neighbours_lie(net):
    known, new = np.concatenate([rows(150), rows(50, 1)]), rows(300, 2)
    oracle = brute(known, 10)
    spacing, (distance, which) = oracle.kneighbors()[0].mean(1), oracle.kneighbors(new)
    for gamma in (0.0, 0.5, 1.0):
        part, _ = learned(Neighbours(10, correction=gamma, bend=None), net)
        expected = distance.mean(1) / spacing[which].mean(1) ** gamma
        np.testing.assert_allclose(part(passed(net, new)).numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("part", [Neighbours(1), Neighbours(10, correction=0.5), LocalDenoiser(20)], ids=repr)
def test_calibrate_rows_are_judged_by_all_others(net, part):
    part, _ = learned(part, net)
    calibrate = rows(60, 3)
    with torch.inference_mode():
        as_new = part.remember(passed(net, calibrate)).numpy()
    known = np.concatenate([rows(150), rows(50, 1), calibrate])
    np.testing.assert_allclose(part.memory.numpy(), bent(known, rows(150)), rtol=1e-6)
    i = 17  # leave it out by hand: one that only knows the others
    others, _ = learned(type(part)(**part.get_params()), net)
    with torch.inference_mode():
        others.remember(passed(net, np.delete(calibrate, i, axis=0)))
    slack = 1e-9 if not getattr(part, "correction", 0) else 0.1  # how far apart others lie is told with the row there
    assert others(passed(net, calibrate[[i]])).item() == pytest.approx(as_new[i], rel=slack)


def test_one_search_serves_all_that_remember_the_same(net):
    part, _ = learned(Fused([LocalDenoiser(20), Neighbours(1), Neighbours(10, correction=0.5)]), net)
    p = passed(net, rows(30, 2))
    part(p)
    assert len(p.notes) == 2  # and where the rows stand
    apart = sum(part._nats(i, scorer(passed(net, rows(30, 2))).log()) for i, scorer in enumerate(part.scorers))
    torch.testing.assert_close(part(p), apart)


# --- denoisers of neighbourhoods -------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 3, 4, 20])  # fewer, as many and more than columns
def test_the_local_residual_is_a_ridge_regression_on_the_neighbours(net, k):
    part, _ = learned(LocalDenoiser(k, ridge=0.5, bend=None), net)
    known, new = np.concatenate([rows(150), rows(50, 1)]), rows(40, 2)
    for x, which, score in zip(new, brute(known, k).kneighbors(new)[1], part(passed(net, new)).numpy(), strict=True):
        centre = known[which].mean(0)
        near = known[which] - centre
        level = 0.5 * (near**2).sum() / k
        # least squares for the weights of the neighbours, with level |w|^2 to pay
        w = np.linalg.lstsq(np.vstack([near.T, np.sqrt(level) * np.eye(k)]), np.append(x - centre, np.zeros(k)))[0]
        assert score == pytest.approx(np.linalg.norm(x - centre - near.T @ w), rel=1e-9)


def test_the_local_residual_is_that_of_the_best_linear_denoiser(net):
    part, _ = learned(LocalDenoiser(20, ridge=0.3, bend=None), net)
    known, x = np.concatenate([rows(150), rows(50, 1)]), rows(1, 2)
    near = known[brute(known, 20).kneighbors(x)[1][0]]
    centre = near.mean(0)
    sigma = np.sqrt(0.3 * ((near - centre) ** 2).sum() / 20 / 20)  # of the noise that the neighbours are given
    noise = np.random.default_rng(0).normal(size=(4000, 20, DIM)) * sigma
    clean = np.broadcast_to(near - centre, noise.shape).reshape(-1, DIM)
    denoiser = np.linalg.lstsq(clean + noise.reshape(-1, DIM), clean)[0]
    left = (x - centre) - (x - centre) @ denoiser
    assert part(passed(net, x)).item() == pytest.approx(np.linalg.norm(left), rel=0.02)


def test_a_curved_surface_is_known_by_its_tangents(net):
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, 400)
    circle = np.column_stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle]).astype(np.float32).astype(float)
    part = LocalDenoiser(10)
    with seeded(0), torch.inference_mode():
        part.build(Sizes((DIM,)))
        part.double().learn(passed(net, circle[:300]), passed(net, circle[300:]))
    step = 0.05 * np.column_stack([np.cos(angle), np.sin(angle), 0 * angle, 0 * angle])[:100]
    aside = step[:, [1, 0, 2, 3]] * [-1, 1, 1, 1]
    outward, along = (part(passed(net, circle[:100] + way)).numpy() for way in (step, aside))
    assert np.median(outward) > 5 * np.median(along)


@pytest.mark.parametrize("place", [0, 1e4])  # float32 has no digits left for distances, unless from near by
@pytest.mark.parametrize(("p", "k"), [(2.0, 10), (2.0, 1), (1.0, 10)])
def test_among_many_rows_nearly_the_nearest_are_found(p, k, place):
    memory, new = place + torch.from_numpy(rows(6000)), place + torch.from_numpy(rows(500, 1))
    search = Search(memory, p, k)
    distance, which = search(new, k)
    distance = distance.numpy()
    oracle = np.linalg.norm(new[:, None] - memory[None], ord=p, axis=2)
    np.testing.assert_allclose(distance, np.take_along_axis(oracle, which.numpy(), 1), rtol=1e-12)
    best = np.sort(oracle)[:, :k]
    assert (np.abs(distance - best) < 1e-12).mean() > 0.95
    assert (distance.mean() / best.mean()) < 1.01


@pytest.mark.parametrize("known", [7, 300, 1999, 2000, 2048])
@pytest.mark.parametrize(("p", "k"), [(2.0, 1), (2.0, 5), (2.0, 40), (1.0, 5)])
def test_among_few_rows_the_nearest_are_found_exactly(p, k, known):
    memory, new = torch.from_numpy(rows(known)), torch.from_numpy(rows(300, 1))
    distance, which = Search(memory, p, k)(new, k)
    oracle = np.linalg.norm(new[:, None] - memory[None], ord=p, axis=2)
    np.testing.assert_array_equal(which.numpy(), np.argsort(oracle, axis=1)[:, :k])
    np.testing.assert_allclose(distance, np.sort(oracle)[:, :k], rtol=1e-12)


def test_what_a_search_finds_depends_on_no_other_row():
    memory, new = torch.from_numpy(rows(6000)), torch.from_numpy(rows(100, 1))
    search = Search(memory, most=5)
    distance, which = search(new, 5)
    for i in (0, 50, 99):
        one = search(new[i : i + 1], 5)
        assert torch.equal(one[1][0], which[i])
        torch.testing.assert_close(one[0][0], distance[i], rtol=1e-12, atol=0)
    assert torch.equal(search(new.flip(0), 5)[1].flip(0), which)


def test_a_known_row_is_found_however_far_away_it_lies():
    memory = torch.from_numpy(rows(6000))
    memory[17] = 1e4
    search = Search(memory)
    assert search(memory, 1)[0].abs().max() < 1e-12
    assert (search(memory, 1, search.everyone)[0] > 1e-6).all()  # and not by itself


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_a_row_that_is_known_many_times_has_its_copies_for_neighbours(p):
    memory = torch.from_numpy(rows(100)).repeat(30, 1)
    search = Search(memory, p, 5)
    distance, which = search(memory, 5, search.everyone)
    assert (distance == 0).all()
    assert (which != search.everyone[:, None]).all()
    assert (which % 100 == search.everyone[:, None] % 100).all()


def test_a_search_is_in_no_copy_and_not_in_another_memory(net):
    one, other = (learned(Neighbours(1), net, n, 200 - n)[0] for n in (150, 100))
    p = passed(net, rows(40, 2))
    before, expected = one(p), other(passed(net, rows(40, 2)))
    copied = copy.deepcopy(one)
    assert one.search is not None
    assert copied.search is None
    assert torch.equal(copied(passed(net, rows(40, 2))), before)
    with torch.inference_mode():
        one.load_state_dict(other.state_dict())
    assert torch.equal(one(passed(net, rows(40, 2))), expected)
    assert not torch.equal(before, expected)


def test_where_many_rows_are_known_few_neighbours_say_how_they_lie(net):
    part = LocalDenoiser()
    assert [part._count(n) for n in (100, 5000, 5001)] == [40, 40, 10]
    assert LocalDenoiser(k=7)._count(9000) == 7


# --- what is remembered ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", ["input", "code", "residual"])
@pytest.mark.parametrize("bend", [None, 0.3, 4.0])
def test_neighbours_in_other_spaces(net, space, bend):
    part, _ = learned(Neighbours(2, space=space, bend=bend), net)
    p = passed(net, rows(40, 2))

    def places(p):
        x, z = p.batch.x.numpy(), p.levels[0].z.numpy()
        return {"input": x, "code": z, "residual": np.hstack([x, x - p.px.mean.numpy()])}[space]

    fit = places(passed(net, rows(150)))
    known, new = (bent(some, fit, bend) for some in (np.vstack([fit, places(passed(net, rows(50, 1)))]), places(p)))
    oracle = brute(known, 2).kneighbors(new)[0].mean(1)
    np.testing.assert_allclose(part(p).numpy(), oracle, rtol=1e-12 if space == "input" and bend is None else 1e-5)


@pytest.mark.parametrize("far", [100, 1e6])
def test_a_few_far_rows_do_not_stretch_their_column(net, far):
    fit = rows(150)
    fit[:2, 0] = far
    part = Neighbours(1)
    with seeded(0), torch.inference_mode():
        part.build(Sizes((DIM,)))
        part.double().learn(passed(net, fit), passed(net, rows(50, 1)))
    apart = part._places(passed(net, rows(150)))[2:].std(0).numpy() / rows(150)[2:].std(0)
    assert (np.abs(apart - 1) < 0.3).all()


def test_a_cell_far_off_does_not_drown_the_others(net):
    far = rows(1, 2) + np.array([1e4, 0, 0, 0])
    odd = far + np.array([0, 0, 0, 30])
    ratios = []
    for bend in (None, 4.0):
        part, _ = learned(Neighbours(1, bend=bend), net)
        ratios.append(part(passed(net, odd)).item() / part(passed(net, far)).item())
    assert ratios[0] < 1.0001
    assert ratios[1] > 1.02


def test_a_known_row_is_at_home_and_copies_of_it_too(net):
    part, _ = learned(Neighbours(1), net)
    assert part(passed(net, rows(150))).abs().max() < 1e-12


def test_above_the_limit_a_sample_is_remembered(net):
    part, held_out = learned(Neighbours(1, exact=199, sample=30), net)
    assert part.memory.shape == (30, DIM)
    off = np.abs(part.memory.numpy()[:, None] - bent(rows(150), rows(150))).max(2).min(1)
    assert (off < 1e-6).all()  # validate rows are new to it
    assert np.array_equal(held_out, part(passed(net, rows(50, 1))).numpy())


# --- fusion ----------------------------------------------------------------------------------------------------------


def test_one_scorer_s_nats_are_those_of_its_rank(net):
    part, _ = learned(Fused([ReconstructionError(), ReconstructionError()]), net, n_validate=4000)
    new = passed(net, rows(4000, 5))
    single = part.scorers[0](new).numpy()
    rank = single.argsort().argsort() / len(single)
    nats = part(new).numpy() / 2
    below = rank < 0.88
    np.testing.assert_allclose(nats[below], -np.log1p(-rank[below]), atol=0.12)
    assert (np.diff(nats[single.argsort()]) >= 0).all()
    beyond = nats[rank > 0.9] + np.log(0.1)
    assert beyond.mean() == pytest.approx(1, rel=0.2)  # an exponential's


def test_a_scorer_alone_speaks_for_itself(net):
    part, held_out = learned(Fused([Neighbours(2)]), net)
    alone, as_new = learned(Neighbours(2), net)
    p = passed(net, rows(30, 2))
    assert torch.equal(part(p), alone(p))
    assert np.array_equal(held_out, as_new)
    assert part.unit == alone.unit


def test_fused_nats_add_up(net):
    members = [ReconstructionError(), Neighbours(3), LocalDenoiser(10), LocalDenoiser(20)]
    part, held_out = learned(Fused(members), net)
    p = passed(net, rows(30, 2))
    alone = sum(part._nats(i, scorer(p).log()) for i, scorer in enumerate(members))
    torch.testing.assert_close(part(p), alone)
    torch.testing.assert_close(part.contributions(p).sum(1), part(p))
    assert (part.contributions(p) >= 0).all()
    assert held_out.mean() == pytest.approx(4, rel=0.3)  # a nat a member, on average


def test_guards_are_heard_beyond_what_one_row_in_a_hundred_scores_and_not_before(net):
    new = rows(2000, 2)
    new[:200] *= np.linspace(1, 8, 200)[:, None]
    p = passed(net, new)
    bare, _ = learned(Fused([ReconstructionError(), Neighbours(3)]), net, n_validate=2000)
    part, held_out = learned(
        Fused([ReconstructionError(), Neighbours(3)], guards=[Mahalanobis()]), net, n_validate=2000
    )
    more, guard = part(p) - bare(p), part.judges[2](p)
    level = np.quantile(part.judges[2](passed(net, rows(2000, 1))), 0.99)
    assert (more[guard < 0.9 * level] == 0).all()
    assert (more[guard > 1.1 * level] > 0).all()
    assert (np.diff(more[guard.argsort()]) >= -1e-9).all()
    torch.testing.assert_close(part.contributions(p).sum(1), part(p))
    assert (torch.as_tensor(held_out) < np.log(100) * 2).double().mean() > 0.9
    assert part.unit == bare.unit == 2


def test_the_largest_contribution_is_one_column_s(net):
    part, as_new = learned(Largest(Mahalanobis()), net)
    of_all, _ = learned(Mahalanobis(), net)
    p = passed(net, rows(40, 2))
    cells = of_all.contributions(p)
    assert torch.equal(part(p), cells.amax(1))
    assert torch.equal(part.contributions(p), torch.where(cells == cells.amax(1, keepdim=True), cells, 0.0))
    np.testing.assert_allclose(as_new, part(passed(net, rows(50, 1))))
    for wrong in (None, Neighbours(), Fused([Mahalanobis()])):
        with pytest.raises(ConfigError, match="judged by themselves, however"):
            learned(Largest(wrong), net)


@pytest.mark.parametrize("detector", [AutoencoderDetector, pytest.param(VAEDetector, marks=pytest.mark.slow)])
def test_one_wrong_sensor_among_many_is_heard_and_named(detector):
    rng = np.random.default_rng(0)
    loadings = rng.normal(size=(5, 60))

    def plant(n):
        return rng.normal(size=(n, 5)) @ loadings + 0.5 * rng.normal(size=(n, 60))

    X, new, wrong = plant(2000), plant(1000), plant(200)
    wrong[:, 3] += 3.5 * rng.choice([-1, 1], 200)  # seven times its own noise, little beside how far it swings
    det = detector(random_state=0).fit(X)
    unguarded = clone(det).set_params(scorer__guards=()).fit(X)
    heard, drowned = ((one.predict(wrong) == -1).mean() for one in (det, unguarded))
    assert heard > max(0.7, drowned + 0.1)
    assert (det.explain(wrong).argmax(1) == 3).mean() > 0.9
    assert (det.predict(new) == -1).mean() < 0.1


def modes(rng, n):
    """A mode that hardly varies, and one that varies much."""
    still = rng.random(n) < 0.5
    return np.where(still[:, None], 0.1 * rng.normal(size=(n, 4)), 8 + 3 * rng.normal(size=(n, 4)))


def off_the_still_mode(rng, n):
    off = 0.1 * rng.normal(size=(n, 4))
    off[:, 0] += 1.5 * rng.choice([-1, 1], n)
    return off


def factors(rng, n, noise=0.3):
    return rng.normal(size=(n, 3)) @ np.random.default_rng(9).normal(size=(3, 60)) + noise * rng.normal(size=(n, 60))


@pytest.mark.parametrize(
    ("usual", "strange", "guard"),
    [(modes, off_the_still_mode, Neighbours), (factors, lambda rng, n: factors(rng, n, 0.4), Mahalanobis)],
    ids=["beside a dense crowd", "a little off in all columns"],
)
def test_each_guard_hears_what_the_others_do_not(usual, strange, guard):
    rng = np.random.default_rng(0)
    X, rows = usual(rng, 2000), np.concatenate([usual(rng, 1000), strange(rng, 100)])
    det = AutoencoderDetector(random_state=0).fit(X)
    guards = [one for one in det.parts()["scorer"].guards if not isinstance(one, guard)]
    without = clone(det).set_params(scorer__guards=guards).fit(X)
    heard, drowned = (average_precision_score([0] * 1000 + [1] * 100, d.anomaly_score(rows)) for d in (det, without))
    assert heard > drowned + (0.1 if guard is Neighbours else 0.02)
    assert (det.predict(rows[:1000]) == -1).mean() < 0.08


def test_weights_say_how_much_each_counts(net):
    members = [ReconstructionError(), Neighbours(3)]
    p, weights = passed(net, rows(30, 2)), (0.5, 2.0)
    part, _ = learned(Fused(members, weights), net)
    even, _ = learned(Fused([ReconstructionError(), Neighbours(3)]), net)
    alone = [even._nats(i, scorer(p).log()) for i, scorer in enumerate(even.scorers)]
    torch.testing.assert_close(part(p), 0.5 * alone[0] + 2 * alone[1])
    torch.testing.assert_close(part.contributions(p).sum(1), part(p))
    assert part.unit == 2.5


@pytest.mark.parametrize("kind", [("numeric", 1), ("category", DIM)])
def test_what_knows_numbers_only_stays_out_where_there_are_others_also_inside_of_a_sum(kind):
    alone = ReconstructionError()
    part = Fused([alone, Neighbours(3), Neighbours(1) + LocalDenoiser(9), alone + Neighbours(2)])
    part.build(Sizes((DIM,), groups=(kind,) * (DIM // kind[1])))
    assert list(part.judges) == (part.scorers if kind[0] == "numeric" else [part.scorers[0], part.scorers[3]])


def test_of_a_table_with_categories_neighbours_guard_the_numbers():
    rng = np.random.default_rng(0)

    def table(n, kind):
        factors = rng.normal(size=(n, 2)) @ np.random.default_rng(1).normal(size=(2, 6))
        X, dice = pd.DataFrame(factors + 0.1 * rng.normal(size=(n, 6)), columns=list("abcdef")), rng.random(n)
        return X.assign(k=dice < 0.3 if kind == "flag" else np.where(dice < 0.3, "x", np.where(dice < 0.6, "y", "z")))

    for kind in ("flag", "category"):
        det = VAEDetector(random_state=0).fit(table(400, kind))
        wrong, column = table(300, kind), rng.integers(0, 6, 300)
        for row, place in enumerate(column):
            wrong.iloc[row, place] += 2 * rng.choice([-1, 1])
        assert (det.predict(wrong) < 0).mean() > 0.97  # of the net alone .92
        cells = det.explain(wrong)
        np.testing.assert_allclose(cells.sum(1), det.anomaly_score(wrong))
        assert (cells.argmax(1) == column).mean() > 0.8
        assert (det.predict(table(500, kind)) < 0).mean() < 0.1


ADDITIVE = [
    Neighbours(),
    Neighbours(1, 1.0),
    Neighbours(10, correction=0.5),
    LocalDenoiser(),
    Fused([Neighbours(2)]),
]


@pytest.mark.parametrize("part", ADDITIVE, ids=repr)
def test_contributions_add_up_to_the_score(net, part):
    part, _ = learned(part, net)
    p = passed(net, rows(30, 2))
    torch.testing.assert_close(part.contributions(p).sum(1), part(p))


BAD = [
    Neighbours(k=0),
    Neighbours(p=0.5),
    Neighbours(bend=0),
    Neighbours(space="outer"),
    Neighbours(exact=0),
    Neighbours(sample=0),
    Neighbours(correction=-1),
    LocalDenoiser(k=0),
    LocalDenoiser(ridge=0),
    LocalDenoiser(space="outer"),
    Fused(),
    Fused([Neighbours()], weights=[1, 1]),
    Fused([Neighbours()], weights=[0]),
]


@pytest.mark.parametrize("part", BAD, ids=repr)
def test_values_out_of_range_are_refused(part):
    with pytest.raises(ConfigError):
        part.build(Sizes((DIM,)))


@pytest.mark.parametrize(
    "inner", [None, Neighbours(), 2 * Neighbours(), StandardizedError() + LocalDenoiser(), Fused()]
)
def test_the_largest_of_what_is_no_verdict_on_a_column_is_refused(inner):
    with pytest.raises(ConfigError, match="Largest needs a scorer whose columns are judged by themselves, however"):
        AutoencoderDetector(scorer=Largest(inner)).fit(rows(50))


def test_an_absent_cell_is_not_to_blame():
    X = rows(700)
    X[np.random.default_rng(1).random(X.shape) < 0.2] = np.nan
    det = AutoencoderDetector(Preprocessing(missing="ignore"), random_state=0).fit(X[:600])
    new = X[600:][~np.isnan(X[600:]).all(axis=1)]
    shares = det.explain(new)
    assert (shares[np.isnan(new)] == 0).all()
    np.testing.assert_allclose(shares.sum(axis=1), det.anomaly_score(new), rtol=1e-9)


def test_a_member_that_cannot_work_is_refused_by_name():
    with pytest.raises(IncompatiblePartsError, match="KLScore"):
        AutoencoderDetector(scorer=Fused([KLScore(), Neighbours()])).fit(rows(50))


# --- in a detector ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "detector",
    [AutoencoderDetector(max_epochs=10), VAEDetector(max_epochs=10), AutoencoderDetector(effort="fast")],
    ids=["autoencoder", "vae", "fast"],
)
def test_along_rays_the_score_ends_above_the_threshold_and_keeps_growing(detector):
    det = clone(detector).set_params(random_state=0).fit(rows(500))
    rays = np.random.default_rng(1).normal(size=(1000, DIM))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    scores = np.array([det.anomaly_score(rays * step) for step in (1e2, 1e3, 1e4, 1e5)])
    assert (scores[0] > det.threshold_.value_).all()
    assert (np.diff(scores, axis=0) > 0).all()


def test_what_was_learned_is_kept_to_the_bit(tmp_path):
    members = [StandardizedError(), Neighbours(2), Neighbours(1, 1.0, 0.5, "residual")]
    members += [LocalDenoiser(10), LocalDenoiser(20)]
    for n, calibration in ((300, "split"), (60, "cross")):
        det = AutoencoderDetector(scorer=Fused(members), calibration=calibration, max_epochs=3, random_state=0)
        det.fit(rows(n))
        det.save(tmp_path / "model", overwrite=True)
        again, new = load(tmp_path / "model"), rows(100, 4)
        assert np.array_equal(again.anomaly_score(new), det.anomaly_score(new))
        assert np.array_equal(again.explain(new), det.explain(new))


def test_it_learns_of_gaps():
    X = rows(400)
    X[np.random.default_rng(0).random(X.shape) < 0.2] = np.nan
    det = AutoencoderDetector(scorer=Fused([Neighbours(), LocalDenoiser()]), max_epochs=3, random_state=0).fit(X)
    assert np.isfinite(det.anomaly_score(X)).all()
    assert det.anomaly_score(X[:50] + 30).mean() > 3 * det.anomaly_score(X[:50]).mean()


@pytest.mark.parametrize("effort", ["fast", "default"])
def test_a_few_rows_more_do_not_make_it_forget(effort):
    X, new = rows(1500), rows(500, 1)
    odd = new + 3 * np.linalg.svd(X)[2][-1]

    def right(det):
        return (det.anomaly_score(odd) > np.median(det.anomaly_score(new))).mean()

    det = AutoencoderDetector(effort=effort, random_state=0).fit(X)
    before = right(det)
    for n in (1, 2, 20, 200):
        det.partial_fit(rows(n, 2 + n))
    assert right(det) > before - 0.1
    assert (det.predict(new) == -1).mean() < 0.15


def test_what_is_saved_is_what_was_fitted(tmp_path):
    det = AutoencoderDetector(max_epochs=2, random_state=0).fit(rows(200))
    verdicts = det.assess(rows(50, 1))
    det.set_params(effort="fast", threshold__alpha=0.5)
    again = load(det.save(tmp_path / "model")).assess(rows(50, 1))
    assert np.array_equal(again.anomaly_score, verdicts.anomaly_score)
    assert np.array_equal(again.is_anomaly, verdicts.is_anomaly)
    with pytest.raises(ConfigError, match="parts of the last fit"):
        det.set_params(warm_start=True).fit(rows(200))


def test_scores_that_overflow_are_the_strangest():
    from anomaly_ae import Preprocessing

    det = AutoencoderDetector(preprocessing=Preprocessing(standardize=False), effort="fast", max_epochs=2)
    det.fit(rows(100))
    assert det.predict([[1e40, 0, 0, 0]]) == [-1]


def test_judges_that_look_at_one_pass_say_what_each_says_alone():
    """They leave each other what they have in common, and nothing else."""
    X = pd.DataFrame(rows(300)).add_prefix("x").assign(kind=np.resize(["a", "b", "b"], 300))
    det = AutoencoderDetector(scorer=ReconstructionError(), max_epochs=1, calibration="split", random_state=0).fit(X)
    fold = det.folds_[0]
    codes = det.contract_.codes(X)
    parts = [StandardizedError(), StandardizedError(shrinkage=0.5), StandardizedError(conditional=False)]
    parts += [Mahalanobis(), Mahalanobis(ridge=0.5), Largest(Mahalanobis()), Neighbours(k=1), Neighbours(correction=1)]

    def seen():
        with torch.inference_mode():
            return fold.passed(fold._batch(fold._cells(codes)))

    for part in parts:
        part.build(fold.net.sizes)
        part.double()
        part.learn(seen(), seen())
    p = seen()
    together = [part(p) for part in parts]
    assert all(torch.equal(told, part(seen())) for told, part in zip(together, parts, strict=True))
    assert len({float(told.sum()) for told in together}) == len(parts)


def test_where_rows_are_fewer_than_columns_guards_are_heard_of_all_rows(tmp_path):
    """Distances between rows say little there; relations among columns do."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(5, 200))

    def few_factors(n, noise=1.0):
        return rng.normal(size=(n, 5)) @ mix + noise * rng.normal(size=(n, 200))

    X, new, odd = few_factors(150), few_factors(200), few_factors(100, noise=1.25)
    aurocs, fused = [], Fused([Neighbours(k=1)], guards=[Mahalanobis()])
    for scorer in (fused, Fused([Neighbours(k=1)])):
        det = AutoencoderDetector(scorer=scorer, max_epochs=1, calibration="split", random_state=0).fit(X)
        aurocs.append(roc_auc_score(np.repeat([0, 1], [200, 100]), det.anomaly_score(np.vstack([new, odd]))))
        det.save(tmp_path / "model", overwrite=True)
        assert (load(tmp_path / "model").anomaly_score(odd) == det.anomaly_score(odd)).all()
    assert aurocs[0] > 0.9 > aurocs[1] + 0.1
    det = AutoencoderDetector(scorer=fused, max_epochs=1, calibration="split", random_state=0).fit(X)
    scorer = det.folds_[0].scorer
    heard, state = scorer.heard.tolist(), scorer.state_dict()
    del state["heard"]
    scorer.load_state_dict(state | {"wide": torch.tensor(True)})  # as models said it before
    assert scorer.heard.tolist() == heard
    scorer.load_state_dict(state)  # and those before them
    assert not scorer.heard.any()
    det = AutoencoderDetector(scorer=fused, max_epochs=1, calibration="split", random_state=0).fit(few_factors(2000))
    assert not det.folds_[0].scorer.heard.any()


@pytest.mark.parametrize(("idles", "insists"), [(0.05, True), (0.5, False)])
def test_where_a_machine_idles_little_is_strange(tmp_path, idles, insists):
    """Some rows lie much closer together than others: distances are then seen beside how dense it is there."""
    rng = np.random.default_rng(0)

    def machine(n, off=0.0):
        noise, runs = rng.normal(size=(n, 8)), rng.random(n) < (0.0 if off else 0.5)
        noise[np.arange(n), rng.integers(8, size=n)] += off * rng.choice([-1, 1], n)
        return np.where(runs[:, None], 5 + noise, idles * noise)

    X, new, odd = machine(2000), machine(500), machine(100, off=7)
    det = AutoencoderDetector(max_epochs=5, random_state=0).fit(X)
    scorer = det.folds_[0].scorer
    assert scorer.heard.tolist() == [0] * (len(scorer.judges) - 1) + [4 * insists]
    det.save(tmp_path / "model")
    assert (load(tmp_path / "model").anomaly_score(odd) == det.anomaly_score(odd)).all()
    if insists:
        y = np.repeat([0, 1], [500, 100])
        auroc = roc_auc_score(y, det.anomaly_score(np.vstack([new, odd])))
        scorer.heard.zero_()
        assert auroc > 0.98 > roc_auc_score(y, det.anomaly_score(np.vstack([new, odd]))) + 0.1


def test_copies_of_rows_are_no_dense_place():
    rng = np.random.default_rng(0)
    X = np.vstack([np.repeat(rng.normal(size=(20, 8)), 50, axis=0), 5 + rng.normal(size=(1000, 8))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of copies
        det = AutoencoderDetector(max_epochs=1, random_state=0).fit(X)
    assert not det.folds_[0].scorer.heard.any()
