"""Backbones over sensor windows: how far they see, that they see no future, and that every part works with them."""

import math

import numpy as np
import pytest
import torch
from sklearn.base import clone

from anomaly_ae import (
    DIP,
    KL,
    MMD,
    TCN,
    Adversarial,
    Bernoulli,
    BernoulliCode,
    Categorical,
    CategoricalCode,
    Chain,
    Contractive,
    ConvLSTM,
    Dense,
    Flow,
    Fused,
    Gaussian,
    GaussianNoise,
    GraphConv,
    Huber,
    ImportanceWeighted,
    KLScore,
    L1Code,
    Ladder,
    Laplace,
    LearnedNormal,
    LocalDenoiser,
    Masking,
    Memory,
    Mixed,
    Mixture,
    Multinomial,
    NegativeELBO,
    Neighbours,
    Normal,
    Point,
    RandomFeatures,
    ReconstructionError,
    ResidualMahalanobis,
    SlicedWasserstein,
    StandardizedError,
    StandardNormal,
    StudentT,
    Swapping,
    TotalCorrelation,
    Vamp,
    VectorQuantized,
)
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Clock, Sizes, kl, total_kl
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.stack import Stack
from anomaly_ae.nn.training import AdamW, Recipe, seeded, train
from anomaly_ae.storage import from_tree, to_tree, vocabulary

N, SENSORS, TIME = 24, 4, 24
RING = [[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]]

# one row a kind of backbone; smooth activations, so that an impulse is felt wherever it reaches
STEPWISE = [  # what gives each time step a code, and sees no future
    TCN(channels=6, activation="gelu"),
    TCN(channels=6, kernel=2, dilations=(1, 3), separable=True, activation="gelu"),
    TCN(channels=6, length=5, attention="large-kernel", batch_norm=True, activation="gelu"),
    GraphConv(channels=3, activation="gelu"),
    GraphConv(edges=RING, channels=3, kernel=4, activation="gelu"),
    ConvLSTM(channels=6, frame=4),
]
LOOKING_AHEAD = [clone(backbone).set_params(causal=False) for backbone in STEPWISE]
OTHERS = [
    Dense(hidden=(12,)),
    TCN(channels=6, codes="window"),
    TCN(channels=6, codes=4, causal=False),
    ConvLSTM(channels=6, frame=5, layers=2, codes="window"),
    GraphConv(channels=3, codes="window"),
]
BACKBONES = [*STEPWISE, LOOKING_AHEAD[0], *OTHERS]


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # nets as narrow as these gain nothing from more
    yield
    torch.set_num_threads(before)


def windows(n=N, time=TIME, seed=0):
    rng = np.random.default_rng(seed)
    phase, t = rng.uniform(0, 6, (n, 1, 1)), np.arange(time)
    x = np.sin(0.7 * t + phase + np.arange(SENSORS)[:, None]) + 0.1 * rng.normal(size=(n, SENSORS, time))
    return torch.tensor(x)


def net(backbone, variational=False, time=TIME, condition=0, **parts):
    chosen = {
        "backbone": clone(backbone),
        "latent": Gaussian() if variational else Point(),
        "prior": StandardNormal() if variational else None,
        "divergence": KL() if variational else None,
        "likelihood": Normal(),
        "corruption": None,
    } | parts
    with seeded(0):
        return Net(**chosen).build((SENSORS, time), condition).double().eval()


def felt(respond, time, at):
    """First and last step, relative to the impulse's, that feel an impulse."""
    quiet = windows(2, time)
    loud = quiet.clone()
    loud[..., at] += 1
    with torch.no_grad():
        steps = (respond(loud) - respond(quiet)).abs().sum((0, 1)).nonzero()
    return int(steps.min()) - at, int(steps.max()) - at


# --- how far, and whether ahead --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "stack"),
    [
        (TCN(dilations=(1, 2, 4)), 1 + 2 * 7),
        (TCN(kernel=4, dilations=(1, 5)), 1 + 3 * 6),
        (TCN(dilations=(1, 2), separable=True), 1 + 2 * 3),
        (TCN(dilations=(1, 2), attention="large-kernel"), 1 + 2 * 3 + 22),
        (TCN(dilations=()), 1),
        (TCN(length=20), 31),  # 1 + 2 (1 + 2 + 4 + 8), the first that is no less than 20
        (TCN(length=31), 31),
        (TCN(length=32), 63),
        (TCN(), 63),  # twice as much less one is within the window of 150; the next, 127, would not be
        (GraphConv(layers=3, kernel=4), 1 + 3 * 3),
    ],
    ids=repr,
)
def test_receptive_field_is_one_and_the_sum_of_taps_times_dilations(backbone, stack):
    backbone = clone(backbone).set_params(activation="gelu", channels=5)
    model = net(backbone, time=150)
    assert felt(model.encoder, 150, 5) == (0, stack - 1)
    assert felt(lambda x: model(Batch(x)).px.mean, 150, 5) == (0, 2 * stack - 2)
    assert model.backbone.receptive_field == 2 * stack - 1
    centred = net(backbone.set_params(causal=False), time=150)
    first, last = felt(centred.encoder, 150, 75)
    assert last - first == stack - 1
    assert abs(first + last) <= 3  # where a convolution cannot be centred it leans by a step


@pytest.mark.parametrize("every", [2, 3, 8])
def test_shared_codes_see_their_whole_stretch(every):
    model = net(TCN(channels=5, dilations=(1, 2), codes=every, causal=False, activation="gelu"), time=120)
    widest = max(
        last - first for first, last in (felt(lambda x: model(Batch(x)).px.mean, 120, 60 + i) for i in range(every))
    )
    assert widest < model.backbone.receptive_field <= widest + 1 + every


@pytest.mark.parametrize("backbone", STEPWISE, ids=repr)
@pytest.mark.parametrize("at", [0, 9, TIME - 2])
def test_a_causal_backbone_has_no_gradient_from_the_future(backbone, at):
    model = net(backbone, variational=True)
    x = windows().requires_grad_()
    seen = model(Batch(x))
    for output in (seen.h, seen.px.mean):
        (gradient,) = torch.autograd.grad(output[..., at].sum(), x, retain_graph=True)
        assert (gradient[..., at + 1 :] == 0).all()
        assert (gradient[..., at] != 0).any()


@pytest.mark.parametrize("backbone", LOOKING_AHEAD, ids=repr)
def test_a_centred_backbone_looks_ahead(backbone):
    x = windows().requires_grad_()
    (gradient,) = torch.autograd.grad(net(backbone)(Batch(x)).px.mean[..., 9].sum(), x)
    assert (gradient[..., 10] != 0).any()


WHOLE = [backbone for backbone in [*STEPWISE, *LOOKING_AHEAD] if not isinstance(backbone, ConvLSTM)]


@pytest.mark.parametrize("backbone", WHOLE, ids=repr)
def test_a_pass_over_the_series_is_what_windows_give_inside(backbone):
    """For every part that reads time steps as they come, and every step whose receptive field lies in the window."""
    time, window = 230, 160
    model = net(backbone, variational=True, time=window, likelihood=LearnedNormal(per="feature"))
    assert model.encoder.steps == (window,)
    scorers = [StandardizedError(shrinkage=0), ResidualMahalanobis(), NegativeELBO()]
    for scorer in scorers:
        scorer.build(Sizes((SENSORS, window)))
        scorer.double()
    series = windows(1, time)
    with torch.no_grad():
        parts = model(Batch(series.unfold(2, window, 1)[0].movedim(1, 0)))
        for scorer in scorers:
            scorer.learn(parts, parts)
        whole = model(Batch(series))
    reach = int(model.backbone.receptive_field) - 1
    before = reach if model.backbone.causal else reach // 2 + 4
    after = 0 if model.backbone.causal else before
    inside = slice(before, window - after)
    assert inside.stop - inside.start >= 2
    for start in (0, 51, time - window):
        rows = slice(start + inside.start, start + inside.stop)
        for read in (lambda p: p.px.mean, lambda p: kl(p.levels[0]), *(scorer.contributions for scorer in scorers)):
            torch.testing.assert_close(read(whole)[0, :, rows], read(parts)[start, :, inside])


# --- with every other part -------------------------------------------------------------------------------------------

LIKELIHOODS = [
    Normal(),
    LearnedNormal(),
    LearnedNormal(per="feature"),
    LearnedNormal(per="cell"),
    Laplace(),
    Huber(),
    StudentT(),
    Bernoulli(),
    Categorical(),
    Multinomial(),
    Mixed(),
]
SCORERS = [
    ReconstructionError(),
    StandardizedError(),
    StandardizedError(shrinkage=0),
    ResidualMahalanobis(),
    Neighbours(k=2),
    Neighbours(k=1, space="code"),
    Neighbours(k=1, p=1, space="residual"),
    Fused([StandardizedError(), Neighbours(k=1), LocalDenoiser(k=4)]),
]
OF_POSTERIORS = [KLScore(), NegativeELBO(), ReconstructionError() + 0.1 * KLScore()]
DIVERGENCES = [None, KL(beta=2, warmup=0.3), KL(capacity=3), KL(free_bits=0.1)]
RECIPE = Recipe(2, 3, 8, 1e-3, 1e-4, 1.0, None)


def suited(x, likelihood):
    """Windows of what the likelihood is about."""
    if isinstance(likelihood, Bernoulli):
        return (x > 0).to(x)
    if isinstance(likelihood, Categorical):
        return torch.nn.functional.one_hot(x.argmax(1), SENSORS).movedim(2, 1).to(x)
    return x.softmax(1) if isinstance(likelihood, Multinomial) else x


FAMILIES = [STEPWISE[0], STEPWISE[2], STEPWISE[3], STEPWISE[5], *OTHERS[:3]]


def check_together(backbone, divergence, likelihood, **given):
    """Train, judge by every scorer, sample."""
    x, variational = suited(windows(), likelihood), divergence is not None
    parts = {"divergence": clone(divergence) if variational else None, "likelihood": clone(likelihood)} | given
    if not variational:
        parts["corruption"] = Chain([GaussianNoise(), Masking(), Swapping()])
    model = net(backbone, variational, **parts).float()
    history = train(Stack([model]), Batch(x.float()), Batch(x[:6].float()), RECIPE)
    assert all(math.isfinite(record["validate_loss"]) for record in history)
    model.double().eval()
    with torch.no_grad():
        p, few, fit, validate = (model(Batch(some)) for some in (x, x[:3], x[:18], x[18:]))
        assert p.px.mean.shape == p.px.mode.shape == p.px.log_prob(x).shape == x.shape
        assert total_kl(p).shape == (N,)
        for scorer in map(clone, [*SCORERS, *OF_POSTERIORS] if variational else SCORERS):
            scorer.build(Sizes((SENSORS, TIME)))
            scorer.double()
            assert scorer.learn(fit, validate).shape == (6,)
            score, cells = scorer.judged(p)
            assert score.shape == (N,)
            assert cells.shape == x.shape
            assert score.isfinite().all()
            torch.testing.assert_close(scorer(few), score[:3])  # whatever rows come with it
        new = model.latent.sample(5, model.prior)
        assert model.likelihood.sample(model.decode(new)).shape == (5, SENSORS, TIME)


@pytest.mark.parametrize("j", range(len(LIKELIHOODS)), ids=lambda j: repr(LIKELIHOODS[j]))
@pytest.mark.parametrize("i", range(len(FAMILIES)), ids=lambda i: repr(FAMILIES[i]))
def test_every_backbone_works_with_every_part(i, j):
    check_together(FAMILIES[i], DIVERGENCES[(i + j) % len(DIVERGENCES)], LIKELIHOODS[j])


@pytest.mark.parametrize("likelihood", [Normal(), Mixed()], ids=repr)
def test_features_that_are_drawn_work_with_every_part(likelihood):
    check_together(RandomFeatures(features=32), None, likelihood)


@pytest.mark.parametrize(
    ("prior", "divergence"),
    [(Mixture(3), None), (Flow(2), None), (None, KL() + MMD()), (None, KL() + SlicedWasserstein() + Adversarial()),
     (Mixture(2), KL() + TotalCorrelation()), (Flow(2), KL() + DIP()), (Mixture(2), ImportanceWeighted(3))],
    ids=repr,
)  # fmt: skip
def test_codes_of_each_step_go_with_every_prior_and_divergence(prior, divergence):
    given = {"prior": prior and clone(prior)} if prior else {}
    check_together(FAMILIES[0], divergence or KL(), Normal(), **given)


@pytest.mark.parametrize(
    "latent", [VectorQuantized(8), VectorQuantized(8, dim=2), Memory(8), Memory(8, dim=2)], ids=repr
)
@pytest.mark.parametrize("backbone", [FAMILIES[0], Dense((16,))], ids=repr)
def test_codes_made_of_vectors_go_with_steps_and_windows(backbone, latent):
    check_together(backbone, None, Normal(), latent=clone(latent))


@pytest.mark.parametrize("backbone", FAMILIES, ids=repr)
def test_codes_of_every_backbone_can_pay(backbone):
    check_together(backbone, None, Normal(), penalty=L1Code() + Contractive())


@pytest.mark.parametrize("latent", [BernoulliCode(3), CategoricalCode(2, 3)], ids=repr)
@pytest.mark.parametrize("backbone", [FAMILIES[0], Dense((16,))], ids=repr)
def test_discrete_codes_go_with_steps_and_windows(backbone, latent):
    check_together(backbone, KL(), Normal(), latent=clone(latent), prior=None)


@pytest.mark.parametrize("backbone", [FAMILIES[0], Dense((16,))], ids=repr)
def test_a_hierarchy_of_codes_goes_with_steps_and_windows(backbone):
    check_together(backbone, KL(), Normal(), latent=Ladder((3, 2), hidden=8))


def test_pseudo_inputs_want_one_code_a_window():
    check_together(Dense((16,)), KL(), Normal(), prior=Vamp(4))
    with pytest.raises(ConfigError, match=f"Vamp needs one code a row, however: .* each of {TIME} steps"):
        net(FAMILIES[0], True, prior=Vamp(4))


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=repr)
@pytest.mark.parametrize("divergence", DIVERGENCES, ids=repr)
@pytest.mark.parametrize("backbone", BACKBONES, ids=repr)
def test_every_combination_works(backbone, divergence, likelihood):
    check_together(backbone, divergence, likelihood)


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("backbone", FAMILIES, ids=repr)
def test_members_train_side_by_side(backbone, variational):
    """Two nets at once compute what each does alone."""
    models = [net(backbone, variational).train() for _ in range(2)]
    with torch.no_grad():
        for weight in models[1].parameters():
            weight += 0.1
    batches = [Batch(windows()), Batch(windows(seed=1))]
    together = Stack(models)(batches, Clock())
    for i, (model, batch) in enumerate(zip(models, batches, strict=True)):
        if not variational:  # whose codes are drawn
            torch.testing.assert_close(
                together["reconstruction"][i], model.terms(model(batch))["reconstruction"].mean()
            )
    train(Stack([model.float() for model in models]), Batch(windows().float()), Batch(windows(6).float()), RECIPE)
    one, other = (model.double().eval()(Batch(windows())).px.mean for model in models)
    assert one.isfinite().all()
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES, ids=repr)
def test_gradients_reach_every_parameter(backbone, variational):
    model = net(backbone, variational, likelihood=LearnedNormal(per="cell"), condition=2).train()
    p = model(Batch(windows(), condition=windows(seed=1)[:, :2]))
    loss = sum(term.mean() for term in model.terms(p).values())
    for (name, _), gradient in zip(
        model.named_parameters(), torch.autograd.grad(loss, model.parameters()), strict=True
    ):
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize("backbone", BACKBONES, ids=repr)
def test_a_condition_reaches_encoder_and_decoder(backbone):
    model = net(backbone, condition=1)
    x, c = windows(), windows(seed=1)[:, :1]
    h, levels = model.encode(Batch(x, condition=c))
    assert not torch.equal(h, model.encode(Batch(x, condition=-c))[0])
    z = levels[0].z
    assert not torch.equal(model.decode(z, c).mean, model.decode(z, -c).mean)


@pytest.mark.parametrize("backbone", BACKBONES, ids=repr)
def test_cells_that_are_absent_cost_nothing_and_teach_nothing(backbone):
    model = net(backbone, likelihood=LearnedNormal(per="feature"))
    x, mask = windows(), torch.ones(N, SENSORS, TIME, dtype=torch.bool)
    mask[:, 0, 5:] = False
    p = model(Batch(x, mask))
    torch.testing.assert_close(model.terms(p)["reconstruction"], (-p.px.log_prob(x) * mask).flatten(1).sum(1))
    before = model.likelihood.variance.clone()
    model.likelihood.after_step(p)
    seen = ((x - p.px.mean) ** 2 * mask).sum((0, 2)) / mask.sum((0, 2))
    torch.testing.assert_close(model.likelihood.variance[:, 0], 0.9 * before[:, 0] + 0.1 * seen)
    for scorer in (StandardizedError(shrinkage=0), ReconstructionError()):
        scorer.build(Sizes((SENSORS, TIME)))
        scorer.double().learn(p, p)
        assert (scorer.contributions(p)[~mask] == 0).all()


def test_channels_may_be_of_different_kinds():
    groups = (("numeric", 1), ("binary", 1), ("category", 2))
    x = windows()
    x[:, 1] = (x[:, 1] > 0).to(x)
    x[:, 2:] = torch.nn.functional.one_hot((x[:, 2] > 0).long(), 2).movedim(2, 1).to(x)
    model = Net(
        backbone=TCN(channels=6),
        latent=Point(),
        prior=None,
        divergence=None,
        likelihood=Mixed(),
        corruption=GaussianNoise(),
    ).build((SENSORS, TIME), groups=groups)
    train(Stack([model]), Batch(x.float()), None, RECIPE)
    p = model.double().eval()(Batch(x))
    scorer = StandardizedError()
    scorer.build(Sizes((SENSORS, TIME), groups=groups))
    assert scorer.double().learn(p, p).isfinite().all()
    torch.testing.assert_close(p.px.mean[:, 2:].sum(1), torch.ones(N, TIME).double())  # a softmax at each step


# --- what the parts do to windows ------------------------------------------------------------------------------------


def test_whitened_residuals_of_known_moments_add_up_over_steps():
    model = net(TCN(channels=6))
    p = model(Batch(windows()))
    scorer = ResidualMahalanobis(shrinkage=1e-9)
    scorer.build(Sizes((SENSORS, TIME)))
    scorer.double().learn(p, p)
    r = (p.batch.x - p.px.mean).movedim(1, 2).flatten(0, 1).detach()
    inverse = torch.linalg.inv(r.T @ r / len(r))
    expected = 0.5 * torch.einsum("ti,ij,tj->t", r, inverse, r).unflatten(0, (N, TIME)).sum(1)
    torch.testing.assert_close(scorer(p).detach(), expected, rtol=1e-5, atol=1e-8)


def test_a_point_code_of_each_step_is_sampled_with_its_moments():
    model = net(TCN(channels=6), latent=Point(2))
    p = model(Batch(windows(200)))
    model.latent.solve(p)
    z = p.levels[0].z.detach().movedim(1, 2).flatten(0, 1)
    with seeded(0):
        new = model.latent.sample(2000, None).detach()
    assert new.shape == (2000, 2, TIME)
    new = new.movedim(1, 2).flatten(0, 1)
    torch.testing.assert_close(new.mean(0), z.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(new.T), torch.cov(z.T), atol=0.02, rtol=0.05)


@pytest.mark.parametrize(
    ("backbone", "dim"),
    [(TCN(channels=6), SENSORS), (TCN(channels=6, codes=4, causal=False), 4 * SENSORS), (TCN(codes="window"), 32)],
    ids=repr,
)
def test_a_gaussian_code_has_a_variable_for_each_cell_it_stands_for_at_most_32(backbone, dim):
    assert net(backbone, variational=True).latent.width == dim


def test_a_graph_is_permuted_with_its_sensors():
    order = torch.tensor([2, 0, 3, 1])
    edges = np.random.default_rng(0).random((SENSORS, SENSORS))
    one = net(GraphConv(edges=edges, channels=3)).encoder
    other = net(GraphConv(edges=edges[order][:, order], channels=3)).encoder
    other.reader.offset.data = one.reader.offset.data[order]
    expected = one(windows()).unflatten(1, (SENSORS, 3))[:, order].flatten(1, 2)
    torch.testing.assert_close(other(windows()[:, order]), expected)


def test_learned_edges_find_who_depends_on_whom():
    """Six sensors: three go their own way, and each of the others follows one of these; which is to be found out."""
    rng, leaders = np.random.default_rng(0), [2, 0, 1]
    walk = rng.normal(size=(64, 3, 30))
    follow = np.roll(walk[:, leaders], 1, axis=2) * np.array([1, -1, 0.5])[:, None] + 0.1 * rng.normal(size=walk.shape)
    x = torch.tensor(np.concatenate([walk, follow], axis=1)).float()
    part = GraphConv(channels=16, layers=1)
    sizes = Sizes((6, 30))
    with seeded(0):
        encoder = part.encoder(sizes)
        writer = part.writer(encoder.features, 1, sizes)
        weights = [*encoder.parameters(), *writer.parameters()]
        optimizer = AdamW(weights, 0.0)
        for _ in range(300):
            hidden = torch.rand(64, 6, 1) < 0.3  # a sensor that is hidden must be told from the others
            missed = torch.where(hidden, writer(encoder(torch.where(hidden, 0.0, x))) - x, 0.0)
            optimizer.step(torch.autograd.grad(missed.square().sum() / hidden.sum() / 30, weights), 0.02)
    found = encoder.blocks.graph().detach()[3:]
    assert found.argmax(1).tolist() == leaders
    assert (found.max(1).values > 0.6).all()


# --- hyperparameters -------------------------------------------------------------------------------------------------


def loss(backbone):
    model = net(backbone).train()
    with seeded(1):
        return float(model.terms(model(Batch(windows())))["reconstruction"].mean().detach())


@pytest.mark.parametrize(
    ("backbone", "name", "value"),
    [
        *[
            (TCN(), name, value)
            for name, value in {
                "channels": 8,
                "kernel": 4,
                "length": 20,
                "dilations": (1, 5),
                "causal": False,
                "separable": True,
                "attention": "large-kernel",
                "codes": "window",
                "activation": "tanh",
                "dropout": 0.5,
                "batch_norm": True,
            }.items()
        ],
        *[
            (ConvLSTM(), name, value)
            for name, value in {
                "channels": 8,
                "kernel": 5,
                "frame": 4,
                "layers": 2,
                "causal": False,
                "codes": "window",
                "activation": "relu",
                "dropout": 0.5,
            }.items()
        ],
        *[
            (GraphConv(), name, value)
            for name, value in {
                "edges": RING,
                "channels": 4,
                "kernel": 5,
                "layers": 3,
                "causal": False,
                "codes": "window",
                "activation": "tanh",
                "dropout": 0.5,
            }.items()
        ],
    ],
)
def test_every_hyperparameter_moves_the_loss(backbone, name, value):
    assert loss(backbone) == loss(backbone)
    assert loss(clone(backbone).set_params(**{name: value})) != loss(backbone)


def test_no_hyperparameter_is_left_out_above():
    (mark,) = (m for m in test_every_hyperparameter_moves_the_loss.pytestmark if m.name == "parametrize")
    moved = {(type(backbone), name) for backbone, name, _ in mark.args[1]}
    assert moved == {(part, name) for part in (TCN, ConvLSTM, GraphConv) for name in part().get_params()}


@pytest.mark.parametrize(
    "backbone",
    [
        TCN(channels=0),
        TCN(kernel=0),
        TCN(kernel=1),
        TCN(length=0),
        TCN(dilations=(1, 0)),
        TCN(dilations=(1,), length=4),
        TCN(attention="large"),
        TCN(codes="steps"),
        TCN(codes=0, causal=False),
        TCN(codes=7, causal=False),
        TCN(codes=4),
        TCN(codes=TIME),
        TCN(activation="relux"),
        TCN(dropout=1.0),
        ConvLSTM(frame=0),
        ConvLSTM(layers=0),
        ConvLSTM(kernel=0),
        GraphConv(layers=0),
        GraphConv(edges=[[0, 1], [1, 0]]),
        GraphConv(edges=-np.ones((SENSORS, SENSORS))),
    ],
    ids=repr,
)
def test_values_out_of_range_are_refused_with_a_way_out(backbone):
    with pytest.raises(ConfigError, match=rf"{type(backbone).__name__} .*, however: .*\. \w"):
        backbone.encoder(Sizes((SENSORS, TIME)))


@pytest.mark.parametrize("backbone", [TCN(), ConvLSTM(), GraphConv()], ids=repr)
def test_tables_are_refused(backbone):
    with pytest.raises(ConfigError, match=r"needs windows .*Use Dense for tables"):
        backbone.encoder(Sizes((SENSORS,)))


@pytest.mark.parametrize("backbone", [*BACKBONES, GraphConv(edges=np.array(RING))], ids=repr)
def test_a_backbone_is_stored_as_its_constructor_call(backbone):
    again = from_tree(to_tree(backbone), vocabulary())
    with seeded(0):
        one = net(backbone)
    other = net(again)
    other.load_state_dict(one.state_dict())
    torch.testing.assert_close(other(Batch(windows())).px.mean, one(Batch(windows())).px.mean)
