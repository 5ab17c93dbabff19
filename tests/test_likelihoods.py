"""Likelihoods of numbers, booleans, categories and shares, and what corruptions do to such rows, against oracles."""

import math
from typing import ClassVar

import numpy as np
import pytest
import scipy.integrate
import scipy.special
import scipy.stats
import torch
import torch.distributions as D
from sklearn.base import clone

from anomaly_ae import AutoencoderDetector, Dense, Gaussian, Preprocessing, ReconstructionError, VAEDetector
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Part, Pass, Sizes
from anomaly_ae.nn.corruptions import Chain, GaussianNoise, Masking, Swapping
from anomaly_ae.nn.densities import Likelihood
from anomaly_ae.nn.discrete import Bernoulli, Categorical, Mixed, Multinomial
from anomaly_ae.nn.divergences import KL
from anomaly_ae.nn.likelihoods import Huber, Laplace, LearnedNormal, Normal, StudentT
from anomaly_ae.nn.training import seeded

N = 32
# kinds interleaved, so that putting cells back in order is not a matter of luck
GROUPS = (("category", 3), ("numeric", 1), ("binary", 1), ("category", 2), ("numeric", 1), ("category", 4))
CELLS = {"numeric": [3, 7], "binary": [4], "category": [0, 1, 2, 5, 6, 8, 9, 10, 11]}
LEVELS = (("category", 3), ("category", 2), ("category", 4))
PLAIN = {"numeric": (), "binary": (("binary", 1),) * 5, "category": LEVELS, "share": (), "mixed": GROUPS}
WIDTH = {"numeric": 5, "binary": 5, "category": 9, "share": 5, "mixed": 12}

EVERY = [
    (Normal(0.5), "numeric"),
    (LearnedNormal(per="feature"), "numeric"),
    (LearnedNormal(per="cell"), "numeric"),
    (Laplace(0.7), "numeric"),
    (Huber(0.8, 0.6), "numeric"),
    (StudentT(3.0, 0.6), "numeric"),
    (Bernoulli(), "binary"),
    (Categorical(), "category"),
    (Multinomial(3.0), "share"),
    (Mixed(), "mixed"),
    (Mixed(numeric=LearnedNormal(per="cell"), category=Categorical()), "mixed"),
    (Mixed(numeric=LearnedNormal(per="feature"), binary=Normal()), "mixed"),
]
every = pytest.mark.parametrize(
    ("part", "kind"), EVERY, ids=lambda value: repr(value) if isinstance(value, Part) else ""
)


def built(part, kind="numeric", dtype=torch.float64):
    part = clone(part)
    part.build(Sizes((WIDTH[kind],), groups=PLAIN[kind]))
    return part.to(dtype)


def one_hot(rng, n, width):
    return np.eye(width)[rng.integers(width, size=n)]


def rows(kind, n=N, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "share":
        x = rng.dirichlet(np.ones(WIDTH[kind]), size=n)
    else:
        make = {
            "numeric": lambda _: rng.normal(size=(n, 1)),
            "binary": lambda _: rng.integers(2, size=(n, 1)).astype(float),
            "category": lambda width: one_hot(rng, n, width),
        }
        groups = PLAIN[kind] or (("numeric", 1),) * WIDTH[kind]
        x = np.hstack([make[name](width) for name, width in groups])
    return torch.tensor(x)


def parameters(part, kind, seed=1):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(N, part.n_params, WIDTH[kind])))


def softmax(logits, groups):
    """Level probabilities, a group at a time."""
    ends = np.cumsum([width for _, width in groups])
    return np.hstack([scipy.special.softmax(part, axis=1) for part in np.split(logits, ends[:-1], axis=1)])


def a_pass(part, x, params, mask=None):
    batch = Batch(x, mask=mask)
    return Pass(batch, batch, x, (), part(params), None)


# --- densities -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "oracle"),
    [
        (Laplace(), scipy.stats.laplace),
        (Laplace(0.3), scipy.stats.laplace(scale=0.3)),
        (StudentT(), scipy.stats.t(4)),
        (StudentT(2.5, scale=0.3), scipy.stats.t(2.5, scale=0.3)),
        (StudentT(1.0, scale=2.0), scipy.stats.cauchy(scale=2.0)),
    ],
    ids=lambda one: repr(one) if isinstance(one, Part) else type(one).__name__,
)
def test_density_is_scipys(part, oracle):
    part, x, params = built(part), rows("numeric"), torch.tensor(np.random.default_rng(1).normal(size=(N, 1, 5)))
    px = part(params)
    np.testing.assert_allclose(px.log_prob(x), oracle.logpdf(x - params[:, 0]), rtol=1e-12)
    assert torch.equal(px.mean, params[:, 0])
    assert torch.equal(px.mode, params[:, 0])
    if oracle.std() < math.inf:
        np.testing.assert_allclose(px.stddev, np.full((N, 5), oracle.std()), rtol=1e-12)


def test_hubers_loss_is_what_a_squared_error_leaves_once_what_is_sparse_is_taken_out():
    """The robust autoencoder's objective, min_s (r - s)^2 / 2 scale^2 + delta |s| / scale, up to a constant."""
    delta, scale = 0.8, 0.6
    off, sparse = torch.linspace(-3, 3, 41).double(), torch.linspace(-4, 4, 8001).double()
    least = (((off[:, None] - sparse) / scale).square() / 2 + delta * sparse.abs() / scale).min(1).values
    cost = -built(Huber(delta, scale))(torch.zeros(1, 1, 41).double()).log_prob(off[None])[0]
    torch.testing.assert_close(cost - cost.min(), least, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("delta", "scale"), [(0.2, 1.0), (1.345, 0.5), (4.0, 2.0)])
def test_huber_is_a_density_whose_loss_is_hubers(delta, scale):
    part = built(Huber(delta, scale))

    def log_p(x):
        return part(torch.full((1, 1, 1), 0.3).double()).log_prob(torch.tensor([[x]]).double()).item()

    points = [0.3 - delta * scale, 0.3 + delta * scale]
    for power, expected in [(0, 1.0), (2, part(torch.zeros(1, 1, 1).double()).variance.item())]:
        inside, tail = (
            scipy.integrate.quad(lambda x, power=power: (x - 0.3) ** power * math.exp(log_p(x)), *limits)[0]
            for limits in (points, (points[1], math.inf))
        )
        assert inside + 2 * tail == pytest.approx(expected, rel=1e-7)
    for x in (-5.0, 0.0, 0.4, 9.0):
        expected = scipy.special.huber(delta, (x - 0.3) / scale)
        assert log_p(0.3) - log_p(x) == pytest.approx(expected)


def test_bernoulli_is_scipys_and_takes_what_lies_between():
    part, x = built(Bernoulli(), "binary"), rows("binary")
    params = parameters(part, "binary")
    px, p = part(params), scipy.special.expit(params[:, 0].numpy())
    np.testing.assert_allclose(px.log_prob(x), scipy.stats.bernoulli(p).logpmf(x), rtol=1e-9)
    np.testing.assert_allclose(px.mean, p)
    half = torch.full_like(x, 0.25)
    np.testing.assert_allclose(px.log_prob(half), 0.25 * np.log(p) + 0.75 * np.log1p(-p))
    np.testing.assert_array_equal(px.mode, p >= 0.5)
    assert (part(torch.zeros(1, 1, 5)).mode == 1).all()


def test_categorical_is_a_softmax_in_each_group():
    part, x = built(Categorical(), "category"), rows("category")
    apart = torch.tensor([0.0] * 3 + [900.0] * 2 + [-900.0] * 4)  # no softmax over a whole row would survive it
    params = parameters(part, "category") + apart
    px, p = part(params), softmax(params[:, 0].numpy(), LEVELS)
    np.testing.assert_allclose(px.log_prob(x), x.numpy() * np.log(p), rtol=1e-9)
    np.testing.assert_allclose(px.mean, p, rtol=1e-9)
    np.testing.assert_allclose(px.variance, p * (1 - p), rtol=1e-6, atol=1e-12)
    for start, end in [(0, 3), (3, 5), (5, 9)]:
        assert torch.equal(px.mode[:, start:end].argmax(1), px.mean[:, start:end].argmax(1))
    assert (px.mode.sum(1) == 3).all()
    assert torch.equal(part(torch.zeros(1, 1, 9)).mode, torch.tensor([[1.0, 0, 0, 1, 0, 1, 0, 0, 0]]))


def test_a_row_without_groups_is_one_category():
    part = Categorical()
    part.build(Sizes((4,)))
    params = torch.randn(N, 1, 4)
    torch.testing.assert_close(part(params).mean, params[:, 0].softmax(1))


@pytest.mark.parametrize("total", [1.0, 50.0])
def test_multinomial_charges_the_kl_divergence(total):
    part, x = built(Multinomial(total), "share"), rows("share")
    params = parameters(part, "share")
    px, perfect = part(params), part(x.log()[:, None])
    p = scipy.special.softmax(params[:, 0].numpy(), axis=1)
    np.testing.assert_allclose(px.log_prob(x), total * x.numpy() * np.log(p), rtol=1e-9)
    charged = (perfect.log_prob(x) - px.log_prob(x)).sum(1)
    kl = scipy.stats.entropy(x.numpy(), p, axis=1)
    np.testing.assert_allclose(charged, total * kl, rtol=1e-9)
    np.testing.assert_allclose(part.error(px, x, 2.0).sum(1), 2 * total * kl, rtol=1e-9)
    error, lost = part.error(px, x, 2.0), part.lost(px, x)
    assert (error > -1e-12).all()
    torch.testing.assert_close(2 * lost, error)
    np.testing.assert_allclose(px.mode, p)
    counts = np.array([3, 0, 1, 4, 2])  # scipy's, up to the coefficient, which no parameter moves
    two = [scipy.stats.multinomial(10, q).logpmf(counts) for q in p[:2]]
    ours = built(Multinomial(10), "share")(params[:2]).log_prob(torch.tensor(counts / 10)).sum(1)
    assert float(ours[0] - ours[1]) == pytest.approx(two[0] - two[1])


# --- errors ----------------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_error_is_a_power_of_numbers_and_a_tail_of_the_rest(part, kind, power):
    part, x = built(part, kind), rows(kind)
    px = part(parameters(part, kind))
    ours = part.error(px, x, power)
    kinds = [name for name, width in PLAIN[kind] or ((kind, WIDTH[kind]),) for _ in range(width)]
    for j, name in enumerate(kinds):
        if name == "numeric" or (isinstance(part, Mixed) and isinstance(getattr(part, name), Normal)):
            expected = (x - px.mean)[:, j].abs() ** power
        elif name == "share":
            expected = 2 * 3 * torch.tensor(scipy.special.kl_div(x, px.mean))[:, j]
        else:
            expected = x[:, j] * 0
            for i in range(len(x)):
                levels = level_probabilities(px.mean[i], j, kinds, kind)
                own = levels[int(x[i, j].item()) if name == "binary" else 0]
                if name == "binary" or x[i, j] == 1:
                    expected[i] = -2 * math.log(sum(p for p in levels if p <= own + 1e-12))
        torch.testing.assert_close(ours[:, j], expected)


def level_probabilities(mean, j, kinds, kind):
    """Of the column that owns cell j: [P(0), P(1)], or P(the level of cell j) and then those of the other levels."""
    if kinds[j] == "binary":
        return [1 - mean[j].item(), mean[j].item()]
    start = 0
    for _, width in PLAIN[kind]:
        if start <= j < start + width:
            return [mean[j].item(), *(mean[k].item() for k in range(start, start + width) if k != j)]
        start += width
    raise AssertionError(j)


def test_deviances_are_none_where_nothing_is_missed():
    shares = rows("share")
    cases = [
        (Bernoulli(), "binary", rows("binary"), 80 * rows("binary") - 40),
        (Bernoulli(), "binary", rows("binary"), torch.zeros(N, 5).double()),  # all levels as likely
        (Categorical(), "category", rows("category"), torch.zeros(N, 9).double()),
        (Categorical(), "category", rows("category"), 80 * rows("category")),
        (Multinomial(7.0), "share", shares, shares.log()),
    ]
    for part, kind, x, logits in cases:
        part = built(part, kind)
        torch.testing.assert_close(part.error(part(logits[:, None]), x, 2.0), torch.zeros_like(x), atol=1e-9, rtol=0)


# --- kinds together --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        Mixed(),
        Mixed(numeric=StudentT(3.0), binary=Laplace(), category=Normal(2.0)),
        Mixed(numeric=LearnedNormal(per="cell")),
    ],
    ids=repr,
)
def test_mixed_is_its_parts_cell_by_cell(part):
    defaults = {"numeric": Normal(), "binary": Bernoulli(), "category": Categorical()}
    given = {kind: getattr(part, kind) for kind in CELLS}
    part, x = built(part, "mixed"), rows("mixed")
    assert {kind: getattr(part, kind) is None for kind in CELLS} == {kind: own is None for kind, own in given.items()}
    assert part.n_params == max((given[kind] or defaults[kind]).n_params for kind in CELLS)
    params = parameters(part, "mixed")
    px = part(params)
    for kind, at in CELLS.items():
        own = clone(given[kind] or defaults[kind])
        own.build(Sizes((len(at),), groups=tuple(group for group in GROUPS if group[0] == kind)))
        alone = own.double()(params[:, :, at])
        for name in ("mean", "mode", "variance"):
            torch.testing.assert_close(getattr(px, name)[:, at], getattr(alone, name))
        torch.testing.assert_close(px.log_prob(x)[:, at], alone.log_prob(x[:, at]))
        torch.testing.assert_close(part.error(px, x, 1.0)[:, at], own.error(alone, x[:, at], 1.0))


def test_mixed_without_kinds_is_its_numeric_part():
    part, alone, x = built(Mixed(numeric=Huber(0.5))), built(Huber(0.5)), rows("numeric")
    params = parameters(part, "numeric")
    assert torch.equal(part(params).log_prob(x), alone(params).log_prob(x))
    assert [type(piece) for piece in part.pieces()] == [Mixed, Huber]


def test_axes_after_the_columns_go_along():
    """Windows of (columns, time): every time is a row of its own."""
    part = Mixed(numeric=Laplace())
    part.build(Sizes((12, 3), groups=GROUPS))
    x, params = torch.stack([rows("mixed", seed=s) for s in range(3)], 2), torch.randn(N, 1, 12, 3).double()
    px, flat = part(params), built(Mixed(numeric=Laplace()), "mixed")
    for t in range(3):
        alone = flat(params[..., t])
        torch.testing.assert_close(px.log_prob(x)[..., t], alone.log_prob(x[..., t]))
        torch.testing.assert_close(px.mode[..., t], alone.mode)


# --- learned scales --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["all", "feature"])
def test_absent_cells_do_not_move_the_learned_scale(per):
    x, params = rows("numeric"), torch.zeros(N, 1, 5).double()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(0)) < 0.6
    mask[:, 2] = False
    changed = torch.where(mask, x, 1e6)
    part, other = built(LearnedNormal(per, momentum=0.0)), built(LearnedNormal(per, momentum=0.0))
    part.after_step(a_pass(part, x, params, mask))
    other.after_step(a_pass(other, changed, params, mask))
    assert torch.equal(part.variance, other.variance)
    squares = np.where(mask, x.square(), np.nan)
    if per == "feature":
        present = [0, 1, 3, 4]
        np.testing.assert_allclose(part.variance[present], np.nanmean(squares[:, present], axis=0))
        assert part.variance[2] == 1  # as it was: no row of the batch has this column
    else:
        np.testing.assert_allclose(part.variance, np.nanmean(squares))
    before = part.variance.clone()
    part.after_step(a_pass(part, x, params, torch.zeros_like(mask)))
    assert torch.equal(part.variance, before)


@pytest.mark.parametrize("masked", [False, True])
def test_mixed_learns_the_scale_of_its_numbers(masked):
    part, x = built(Mixed(numeric=LearnedNormal("feature", momentum=0.0)), "mixed"), rows("mixed")
    mask = torch.ones_like(x, dtype=torch.bool)
    mask[: N // 2, 3] = not masked
    part.after_step(a_pass(part, x, torch.zeros(N, 1, 12).double(), mask if masked else None))
    expected = torch.stack([x[mask[:, 3], 3].square().mean(), x[:, 7].square().mean()])
    torch.testing.assert_close(part.numeric.variance, expected)


# --- every likelihood ------------------------------------------------------------------------------------------------


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_reaches_every_parameter_in_any_precision(part, kind, dtype):
    part, x = built(part, kind, dtype), rows(kind).to(dtype)
    params = parameters(part, kind).to(dtype).requires_grad_()
    loss = -part(params).log_prob(x)
    assert (loss.dtype, loss.shape) == (dtype, x.shape)
    (gradient,) = torch.autograd.grad(loss.sum(), params)
    used = torch.ones_like(gradient, dtype=torch.bool)
    if part.n_params == 2 and kind == "mixed":
        used[:, 1] = False
        used[:, 1, CELLS["numeric"]] = True
    assert torch.equal(gradient != 0, used)
    assert gradient.isfinite().all()
    with torch.inference_mode():
        assert torch.equal(-part(params).log_prob(x), loss)


@every
def test_no_row_is_likelier_than_the_mode(part, kind):
    part, x = built(part, kind), rows(kind)
    px = part(parameters(part, kind))
    if kind != "share":  # whose mode is the expected shares
        assert (px.log_prob(px.mode).sum(1) >= px.log_prob(x).sum(1)).all()
    assert px.mode.dtype == torch.float64


@every
def test_state_and_copies_are_the_same_part(part, kind):
    first, x = built(part, kind), rows(kind)
    params = parameters(first, kind)
    first.after_step(a_pass(first, x, params))
    second = built(part, kind)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(params).log_prob(x), first(params).log_prob(x))
    storages = [tensor.data_ptr() for tensor in first.state_dict().values()]
    assert len(set(storages)) == len(storages)  # safetensors refuses tensors that share memory
    assert repr(clone(first)) == repr(part)
    assert not list(clone(first).buffers())


@pytest.mark.parametrize(
    ("part", "kind", "change"),
    [
        (Laplace(), "numeric", {"scale": 0.5}),
        (Huber(), "numeric", {"delta": 0.5}),
        (Huber(), "numeric", {"scale": 0.5}),
        (StudentT(), "numeric", {"df": 2.0}),
        (StudentT(), "numeric", {"scale": 0.5}),
        (Multinomial(), "share", {"total": 2.0}),
        (Mixed(), "mixed", {"numeric": Laplace()}),
        (Mixed(), "mixed", {"binary": Normal()}),
        (Mixed(), "mixed", {"category": Normal()}),
        (Mixed(numeric=Huber()), "mixed", {"numeric__delta": 0.5}),
    ],
    ids=lambda value: repr(value) if isinstance(value, Part | dict) else "",
)
def test_every_hyperparameter_moves_the_loss(part, kind, change):
    before, after = built(part, kind), built(clone(part).set_params(**change), kind)
    params, x = parameters(before, kind), rows(kind)
    assert not torch.equal(before(params).log_prob(x).sum(1), after(params).log_prob(x).sum(1))


@pytest.mark.parametrize(
    ("part", "kind"),
    [(Bernoulli(), "binary"), (Categorical(), "category"), (Mixed(), "mixed")],
    ids=lambda value: repr(value) if isinstance(value, Part) else "",
)
def test_samples_are_rows_of_the_expected_frequencies(part, kind):
    part = built(part, kind)
    px = part(parameters(part, kind)[:1].expand(20_000, -1, -1))
    with seeded(0):
        x = part.sample(px)
    with seeded(0):
        assert torch.equal(part.sample(px), x)
    assert torch.allclose(x.mean(0), px.mean[0], atol=5 * 0.5 / math.sqrt(len(x)))
    at = 0
    for name, width in PLAIN[kind]:
        cells = x[:, at : at + width]
        if name == "category":
            assert (cells.sum(1) == 1).all()
        if name != "numeric":
            assert ((cells == 0) | (cells == 1)).all()
        at += width


def test_a_set_scale_does_not_spread_samples_and_a_learned_one_does():
    part = built(Mixed(numeric=LearnedNormal()), "mixed")
    px = part(parameters(part, "mixed"))
    assert not torch.equal(part.sample(px)[:, CELLS["numeric"]], px.mean[:, CELLS["numeric"]])
    for plain in (Laplace(), Huber(), StudentT(), Multinomial()):
        own = built(plain)(parameters(built(plain), "numeric"))
        assert torch.equal(plain.sample(own), own.mean)


# --- corruptions -----------------------------------------------------------------------------------------------------

MANY = 20_000
STARTS = np.cumsum([0, *(width for _, width in GROUPS)])[:-1]


def corrupted(part, batch, groups=GROUPS, seed=0):
    """What the encoder sees of a batch; the batch itself must stay as it is."""
    part = clone(part)
    part.build(Sizes(tuple(batch.x.shape[1:]), groups=groups))
    x, mask = batch.x.clone(), None if batch.mask is None else batch.mask.clone()
    with seeded(seed):
        seen = part(batch)
    assert torch.equal(batch.x, x)
    assert (batch.mask is None) if mask is None else torch.equal(batch.mask, mask)
    return seen


def with_absent(x, share=0.3, seed=3):
    """A batch in which whole groups are absent."""
    rng = np.random.default_rng(seed)
    widths = [width for _, width in GROUPS]
    mask = torch.tensor(np.repeat(rng.random((len(x), len(GROUPS))) >= share, widths, axis=1))
    return Batch(torch.where(mask, x, 0.0), mask=mask)


def whole(cells):
    """Whether all cells of each group say the same: then, what each group says."""
    parts = torch.tensor_split(cells, torch.tensor(STARTS[1:]), dim=1)
    assert all((part == part[:, :1]).all() for part in parts)
    return torch.stack([part[:, 0] for part in parts], 1)


def test_noise_falls_on_present_numbers_only():
    batch = with_absent(rows("mixed", MANY))
    moved = corrupted(GaussianNoise(0.5, hide=0), batch).x != batch.x
    numeric = torch.zeros(12, dtype=torch.bool)
    numeric[CELLS["numeric"]] = True
    assert torch.equal(moved, batch.mask & numeric)
    assert (corrupted(GaussianNoise(0.5), Batch(batch.x)).x != batch.x)[:, numeric].all()
    assert not GaussianNoise(0.5).state_dict()


@pytest.mark.parametrize("per_row", [False, True])
def test_masking_hides_whole_groups_at_its_rate(per_row):
    batch = Batch(rows("mixed", MANY))
    seen = corrupted(Masking(0.4, per_row), batch)
    hidden = whole(~seen.mask)
    assert torch.equal(seen.x, torch.where(seen.mask, batch.x, 0.0))
    rate = 0.2 if per_row else 0.4
    spread = math.sqrt(rate * (1 - rate) / MANY) * 5
    np.testing.assert_allclose(hidden.double().mean(0), rate, atol=spread)
    # rows that share a rate hide the same number of columns up to chance; a rate of its own adds 6^2 * Var(rate)
    binomial = 6 * rate * (1 - rate)
    extra = 0.4**2 / 12 * (36 - 6) if per_row else 0.0
    assert float(hidden.sum(1).double().var()) == pytest.approx(binomial + extra, rel=0.04)
    absent = with_absent(batch.x)
    assert torch.equal(corrupted(Masking(0.4, per_row), absent).mask, seen.mask & absent.mask)


@pytest.mark.parametrize("kinds", [("binary", "category"), ("numeric",), ("category",)])
def test_swapping_moves_whole_groups_and_keeps_their_distribution(kinds):
    x = torch.arange(MANY).double()[:, None].expand(-1, 12) + 1  # each cell says whose it is
    donor = whole(corrupted(Swapping(0.3, kinds), Batch(x)).x)
    chosen = [kind in kinds for kind, _ in GROUPS]
    swapped = (donor != whole(x)).double().mean(0)
    np.testing.assert_allclose(swapped, np.where(chosen, 0.3, 0.0), atol=5 * 0.46 / math.sqrt(MANY))
    first, second = (np.flatnonzero(chosen)[[0, -1]]).tolist()
    if first != second:  # a row's columns come from different rows
        both = (donor != whole(x))[:, [first, second]].all(1)
        assert (donor[both][:, first] != donor[both][:, second]).double().mean() > 0.99
    batch = with_absent(rows("mixed", MANY))
    seen = corrupted(Swapping(0.9, kinds), batch)
    np.testing.assert_allclose(seen.x.mean(0), batch.x.mean(0), atol=0.05)
    np.testing.assert_allclose(seen.mask.double().mean(0), batch.mask.double().mean(0), atol=0.03)
    whole(seen.mask)
    assert (seen.x[~seen.mask] == 0).all()
    together = seen.x[:, :3].sum(1) == seen.mask[:, 0]  # still one level where present, none where not
    assert together.all()


def test_swapping_swaps_all_columns_that_are_not_told_apart_and_never_a_row_with_itself():
    x = torch.arange(50).double()[:, None].expand(-1, 4)
    assert (corrupted(Swapping(1.0), Batch(x), groups=()).x != x).all()
    alone = Batch(x[:1])
    assert torch.equal(corrupted(Swapping(1.0), alone, groups=()).x, alone.x)


def test_chain_does_one_after_the_other():
    batch, links = Batch(rows("mixed", 500)), [Masking(0.5), GaussianNoise(1.0)]
    one = corrupted(Chain(links), batch)
    assert (one.x[~one.mask] == 0).all()  # noise after masking spares what is hidden
    with seeded(0):
        step = batch
        for link in map(clone, links):
            link.build(Sizes((12,), groups=GROUPS))
            step = link(step)
    assert torch.equal(one.x, step.x)
    assert not torch.equal(corrupted(Chain(links[::-1]), batch).x, one.x)
    nested = Chain([Chain(links), Swapping()])
    assert [type(piece).__name__ for piece in nested.pieces()] == [
        "Chain",
        "Chain",
        "Masking",
        "GaussianNoise",
        "Swapping",
    ]
    assert repr(clone(nested)) == repr(nested)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (Masking(), {"rate": 0.6}),
        (Masking(), {"per_row": False}),
        (Swapping(), {"rate": 0.6}),
        (Swapping(), {"kinds": ["numeric"]}),
        (Chain([Masking()]), {"corruptions": [Swapping()]}),
    ],
    ids=repr,
)
def test_every_hyperparameter_moves_what_the_encoder_sees(part, change):
    batch = Batch(rows("mixed", 500))
    assert not torch.equal(corrupted(part, batch).x, corrupted(clone(part).set_params(**change), batch).x)


def shares(n=200, d=8):
    return np.random.default_rng(0).dirichlet(np.ones(d), n)


@pytest.mark.parametrize("likelihood", [Multinomial(), Mixed(numeric=Multinomial())], ids=repr)
@pytest.mark.parametrize("odd", [3 * shares(), np.vstack([shares(), shares()[:20] * 2]), shares() - 0.1])
def test_rows_that_are_no_shares_are_refused(likelihood, odd):
    plain = Preprocessing(standardize=False, bend=None)
    det = AutoencoderDetector(plain, likelihood=likelihood, calibration="split", max_epochs=2, random_state=0)
    with pytest.raises(ConfigError, match="needs rows of shares that add up to 1"):
        det.fit(np.repeat(odd, 3, axis=0))
    assert np.isfinite(det.fit(shares().round(3)).anomaly_score(shares())).all()


class Prices(Likelihood):
    """A user's own, of what is above 0."""

    def forward(self, params):
        return D.LogNormal(params[:, 0], 1.0)


class Spread(Gaussian):
    """A user's own latent, which says nothing of what it needs."""

    needs: ClassVar = {}


class OneScale(Likelihood):
    """A user's own, whose one scale is learned by steps."""

    def __init__(self):
        pass

    def build(self, sizes):
        self.log_scale = torch.nn.Parameter(torch.zeros(()))

    def forward(self, params):
        return D.Normal(params[:, 0], self.log_scale.exp(), validate_args=False)


def test_a_part_may_have_one_number_to_learn():
    det = AutoencoderDetector(likelihood=OneScale(), effort="fast", backbone=Dense(), random_state=0)
    assert det.fit(np.random.default_rng(0).normal(size=(60, 3))).folds_[0].net.likelihood.log_scale != 0


def test_parts_of_one_s_own_need_to_declare_nothing():
    X = np.random.default_rng(0).lognormal(size=(60, 3))
    plain = Preprocessing(standardize=False, bend=None)
    det = AutoencoderDetector(plain, likelihood=Prices(), scorer=ReconstructionError(), max_epochs=2, random_state=0)
    assert np.isfinite(det.fit(X).anomaly_score(X)).all()
    assert np.isfinite(VAEDetector(latent=Spread(), max_epochs=2, random_state=0).fit(X).anomaly_score(X)).all()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part",
    [
        Normal(math.inf),
        LearnedNormal(floor=math.inf),
        LearnedNormal(momentum=1),
        KL(beta=-1),
        KL(warmup=2),
        Laplace(0),
        Huber(delta=0),
        Huber(scale=-1),
        StudentT(df=0),
        StudentT(df=math.inf),
        StudentT(scale=math.nan),
        Multinomial(0),
        Categorical(),
        Masking(-0.1),
        Masking(1.1),
        Swapping(2),
        Swapping(kinds=()),
        Swapping(kinds="binary"),
        Swapping(kinds=["text"]),
        Chain(),
    ],
    ids=repr,
)
def test_values_out_of_range_are_refused_with_a_way_out(part):
    with pytest.raises(ConfigError, match=rf"{type(part).__name__} .*, however: .*\. \w"):
        part.build(Sizes((12,), groups=GROUPS))


@pytest.mark.parametrize(
    "part", [Mixed(numeric=Laplace(0)), Mixed(binary=Categorical()), Chain([Masking(2)])], ids=repr
)
def test_parts_of_parts_are_asked_as_well(part):
    with pytest.raises(ConfigError, match=r"^(Laplace|Categorical|Masking) needs"):
        part.build(Sizes((12,), groups=GROUPS))
