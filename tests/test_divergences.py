"""What pulls codes to the prior, and what priors there are: each against its closed form."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
import torch.distributions as D

from anomaly_ae import (
    DIP,
    KL,
    MMD,
    Adversarial,
    AutoencoderDetector,
    Dense,
    Flow,
    Gaussian,
    GaussianNoise,
    ImportanceWeighted,
    KLScore,
    Mixture,
    Normal,
    Point,
    SlicedWasserstein,
    StandardizedError,
    StandardNormal,
    Sum,
    TotalCorrelation,
    VAEDetector,
    Vamp,
    config,
)
from anomaly_ae.errors import ConfigError, IncompatiblePartsError
from anomaly_ae.nn.core import Batch, Level, Pass, Sizes, kl, total_kl
from anomaly_ae.nn.model import Net
from anomaly_ae.nn.training import seeded

N, DIM = 400, 3


class Drawn(torch.nn.Module):
    """A net of which only the prior is asked."""

    def __init__(self, prior):
        super().__init__()
        self.prior = prior

    def prior_given(self, condition):
        return self.prior


def normal(*shape, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=shape))


def a_pass(mu, sigma=None, z=None):
    """Codes of rows, which are points where no `sigma` is told."""
    q = None if sigma is None else D.Normal(mu, sigma)
    level = Level(q, None if q is None else D.Normal(0.0, 1.0), mu if z is None else z)
    return Pass(Batch(mu), Batch(mu), mu, (level,), D.Normal(mu, 1.0), Drawn(StandardNormal()))


def mean_of(part, passes):
    """The mean of what a part says of passes, and its standard error."""
    with seeded(0):
        told = torch.stack([part(p) for p in passes])
    return told.mean().item(), (told.std() / math.sqrt(len(told))).item()


# --- all codes together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_mmd_of_normal_codes_has_its_closed_form(shift):
    """N(m, I) against N(0, I), k = exp(-r^2 / c), u = c / (c + 4): 2 u^{d/2} (1 - exp(-|m|^2 / (c + 4)))."""
    widths = 2 * DIM * np.array([0.1, 0.2, 0.5, 1, 2, 5, 10])
    far = DIM * shift**2
    expected = (2 * (widths / (widths + 4)) ** (DIM / 2) * (1 - np.exp(-far / (widths + 4)))).sum()
    mean, error = mean_of(MMD(weight=3, kernel="rbf"), [a_pass(shift + normal(128, DIM, seed=s)) for s in range(200)])
    assert abs(mean - 3 * expected) < 4 * error
    assert error < 0.05


def test_mmd_is_the_mean_over_pairs():
    z = normal(12, DIM, seed=1)
    with seeded(0):
        y = torch.randn_like(z)
    with seeded(0):
        ours = MMD(weight=1)(a_pass(z)).item()

    def pairs(a, b, alike):
        k = [[sum(2 * DIM * s / (2 * DIM * s + ((one - other) ** 2).sum()) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10))
              for j, other in enumerate(b) if not (alike and i == j)] for i, one in enumerate(a)]  # fmt: skip
        return np.mean(k)

    a, b = z.numpy(), y.numpy()
    assert ours == pytest.approx(pairs(a, a, True) + pairs(b, b, True) - 2 * pairs(a, b, False), abs=1e-9)


def test_sliced_wasserstein_is_that_of_sorted_numbers_and_of_shifted_normals():
    z = normal(50, 1, seed=1)
    with seeded(0):
        y = torch.randn_like(z)
    with seeded(0):
        ours = SlicedWasserstein(weight=1)(a_pass(z)).item()
    assert ours == pytest.approx(np.mean((np.sort(z.numpy()[:, 0]) - np.sort(y.numpy()[:, 0])) ** 2))
    shift, rows = torch.tensor([3.0, 0.0, 4.0]), [normal(512, DIM, seed=s) for s in range(40)]
    near, _ = mean_of(SlicedWasserstein(2, 200), [a_pass(some) for some in rows])
    far, error = mean_of(SlicedWasserstein(2, 200), [a_pass(some + shift) for some in rows])
    assert abs(far - near - 2 * 25 / DIM) < 5 * error + 0.05  # the mean of (theta^T m)^2 is |m|^2 / d


def critic_of(part, dim=DIM, steps=0, codes=None):
    """A part whose critic has been trained, on codes that `codes(step)` gives."""
    with seeded(0):
        part.build(Sizes((DIM,), code=dim))
        optimizer = torch.optim.Adam(part.parameters(), lr=0.003)
        for step in range(steps):
            optimizer.zero_grad()
            part(a_pass(codes(step))).backward()
            optimizer.step()
    return part


def test_codes_pay_what_the_critic_sees_and_the_critic_learns_its_own_loss():
    part, z = critic_of(Adversarial(weight=3)).double(), normal(200, DIM, seed=1).requires_grad_()
    with seeded(0):
        y = torch.randn_like(z)
    lost = -(D.Bernoulli(logits=part.critic(y)).log_prob(torch.ones(200, 1).double()).mean()
             + D.Bernoulli(logits=part.critic(z)).log_prob(torch.zeros(200, 1).double()).mean())  # fmt: skip
    paid = -3 * part.critic(z).mean()
    with seeded(0):
        told = part(a_pass(z))
    torch.testing.assert_close(told, paid)
    away, *down = torch.autograd.grad(told, [z, *part.parameters()], retain_graph=True)
    torch.testing.assert_close(away, torch.autograd.grad(paid, z, retain_graph=True)[0])
    torch.testing.assert_close(down, list(torch.autograd.grad(lost, list(part.parameters()))))


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_a_trained_critic_tells_the_divergence_of_all_codes(shift):
    """KL(N(m, 1) || N(0, 1)) = m^2 / 2."""
    part = critic_of(Adversarial(1), 1, 600, lambda step: shift + normal(512, 1, seed=step).float())
    mean, error = mean_of(part, [a_pass(shift + normal(512, 1, seed=10_000 + s).float()) for s in range(100)])
    assert abs(mean - shift**2 / 2) < 0.05 + 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.9])
def test_a_trained_critic_of_independence_tells_the_total_correlation(rho):
    root = torch.tensor(np.linalg.cholesky([[1, rho], [rho, 1]]).T, dtype=torch.float32)
    part = critic_of(Adversarial(1, "independence"), 2, 800, lambda step: normal(512, 2, seed=step).float() @ root)
    mean, error = mean_of(part, [a_pass(normal(512, 2, seed=10_000 + s).float() @ root) for s in range(100)])
    assert mean == pytest.approx(-0.5 * math.log(1 - rho**2), abs=0.08 + 4 * error)


def test_epochs_are_compared_without_the_critic():
    part, z = critic_of(Adversarial(2)).double().eval(), normal(200, DIM, seed=1)
    told = []
    for p in (a_pass(z), a_pass(z + 1)):
        with seeded(0):
            told.append(part(p).item())
    for weight in part.parameters():
        weight.data += 1
    with seeded(0):
        assert part(a_pass(z)).item() == told[0]
    assert 0 <= told[0] < told[1]


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_total_correlation_of_a_correlated_gaussian(rho):
    """TC = -1/2 ln det R, of codes that are drawn from narrow posteriors whose means are correlated."""
    sigma, root = 0.3, np.linalg.cholesky([[1, rho], [rho, 1]] - 0.09 * np.eye(2))
    passes = []
    for seed in range(60):
        mu = normal(512, 2, seed=seed) @ torch.tensor(root.T)
        passes.append(a_pass(mu, torch.full_like(mu, sigma), mu + sigma * normal(512, 2, seed=1000 + seed)))
    mean, error = mean_of(TotalCorrelation(weight=1), passes)
    assert abs(mean + 0.5 * math.log(1 - rho**2)) < 0.03 + 4 * error


def test_dip_is_about_covariances():
    mu, sigma = normal(N, DIM) @ normal(DIM, DIM, seed=1), normal(N, DIM, seed=2).abs()
    means = np.cov(mu.numpy().T, bias=True)
    off = means[~np.eye(DIM, dtype=bool)]
    ours = DIP(weight=2, diagonal=3)(a_pass(mu, sigma)).item()
    assert ours == pytest.approx(2 * (off**2).sum() + 3 * ((np.diag(means) - 1) ** 2).sum())
    own = np.diag(means) + (sigma.numpy() ** 2).mean(0)
    ours = DIP(weight=2, diagonal=3, of="codes")(a_pass(mu, sigma)).item()
    assert ours == pytest.approx(2 * (off**2).sum() + 3 * ((own - 1) ** 2).sum())


def test_of_many_codes_some_are_compared_and_steps_count_as_rows():
    z = normal(2000, DIM)
    windows = z[:500].view(100, 5, DIM).movedim(2, 1)
    for part in (MMD(), SlicedWasserstein()):
        with seeded(0):
            many = part(a_pass(z))
        assert many.isfinite()
        assert part(a_pass(windows)).isfinite()
    sigma = torch.ones_like(z)
    torch.testing.assert_close(DIP()(a_pass(windows, torch.ones_like(windows))), DIP()(a_pass(z[:500], sigma[:500])))


def test_divergences_add_up():
    together = KL(beta=2) + TotalCorrelation() + DIP()
    assert repr(together) == "Sum(terms=[KL(beta=2), TotalCorrelation(), DIP()])"
    p = a_pass(normal(N, DIM), normal(N, DIM, seed=1).abs() + 0.1)
    together.build(Sizes((DIM,)))
    expected = sum(part(p).mean() for part in (KL(beta=2), TotalCorrelation(), DIP()))
    torch.testing.assert_close(together(p), expected)
    detector = VAEDetector(divergence=together)
    assert repr(config.loads(config.dumps(detector))) == repr(detector)


def test_the_importance_weighted_bound_rises_to_the_evidence():
    """Of a linear decoder x = A z + a the evidence is in closed form: N(a, A A^T + I)."""
    net, x = variational(StandardNormal(), backbone=Dense(()), likelihood=Normal(1.0)), normal(60, DIM)
    net.latent.training = True
    weight, bias = (tensor.detach() for tensor in (net.decoder.linear.weight, net.decoder.linear.bias))
    covariance = (torch.eye(2) + weight.T @ weight).inverse()  # of the true posterior
    with torch.no_grad():  # the net's has the right means, and is too wide
        net.latent.code.weight[:2], net.latent.code.weight[2:] = covariance @ weight.T, 0.0
        net.latent.code.bias[:2] = -covariance @ weight.T @ bias
        net.latent.code.bias[2:] = (1.5 * covariance.diagonal().sqrt()).expm1().log()  # softplus, the other way

    def bound(divergence, draws):
        with seeded(0), torch.no_grad():
            p = net(Batch(x.repeat(draws, 1)))  # each row is drawn anew
            return -(net.reconstruction(p) + divergence(p)).mean().item()

    evidence = D.MultivariateNormal(bias, torch.eye(DIM) + weight @ weight.T).log_prob(x).mean().item()
    plain = bound(KL(), 2000)
    bounds = [bound(ImportanceWeighted(k), 4000 // k) for k in (1, 4, 20, 500)]
    assert bounds[0] == pytest.approx(plain, abs=0.03)
    assert plain < bounds[1] < bounds[2] < bounds[3] < evidence + 0.01
    assert bounds[3] == pytest.approx(evidence, abs=0.01)
    assert plain < evidence - 0.3  # there is something to gain


@pytest.mark.parametrize("prior", [StandardNormal(), Mixture(3), Flow(2)], ids=repr)
def test_what_codes_cost_is_the_divergence_on_average(prior):
    net, x = variational(prior), normal(20, DIM)
    net.latent.training = True
    net.prior.train()
    with seeded(0), torch.no_grad():
        p = net(Batch(x.repeat(3000, 1)))  # each row is drawn anew
        each = ImportanceWeighted(1)(p).view(3000, len(x))
        told = KL()(p).view(3000, len(x)).mean(0)
    error = 5 * each.std(0) / math.sqrt(3000) + 0.02
    assert (each.mean(0) < told + error).all()  # of a mixture what is told is a bound
    if not isinstance(prior, Mixture):
        assert ((each.mean(0) - told).abs() < error).all()


@pytest.mark.parametrize("of_points", [True, False])
@pytest.mark.parametrize(
    "part", [MMD(), SlicedWasserstein(), Adversarial(), KL() + MMD(), TotalCorrelation(), DIP()], ids=repr
)
def test_what_a_divergence_needs_is_asked_for(part, of_points):
    parts = {"backbone": Dense(()), "likelihood": Normal(), "corruption": None, "divergence": part}
    parts |= {"latent": Point(2) if of_points else Gaussian(2), "prior": StandardNormal()}
    if of_points and not isinstance(part, MMD | SlicedWasserstein | Adversarial):
        with pytest.raises(IncompatiblePartsError, match=r"needs a latent with a (normal )?posterior"):
            Net(**parts)
    else:
        Net(**parts).build((DIM,)).rehearse()
    if of_points and isinstance(part, MMD | SlicedWasserstein | Adversarial):
        with pytest.raises(IncompatiblePartsError, match="needs a prior with a density"):
            Net(**parts | {"prior": None})


@pytest.mark.parametrize(
    ("latent", "prior", "divergence"),
    [
        (Point(2), Mixture(3), MMD()),
        (Point(2), Vamp(3), None),
        (Gaussian(2), Mixture(3), TotalCorrelation()),
        (Gaussian(2), Flow(2), DIP()),
    ],
    ids=repr,
)
def test_a_prior_that_no_term_asks_for_all_it_has_does_no_harm(latent, prior, divergence):
    X = np.random.default_rng(0).normal(size=(200, DIM))
    if isinstance(prior, Vamp):
        with pytest.raises(IncompatiblePartsError):
            AutoencoderDetector(latent=latent, prior=prior, max_epochs=2).fit(X)
        return
    detector = AutoencoderDetector if isinstance(latent, Point) else VAEDetector
    det = detector(latent=latent, prior=prior, divergence=divergence, max_epochs=2, random_state=0).fit(X)
    assert np.isfinite(det.anomaly_score(X)).all()


# --- priors ----------------------------------------------------------------------------------------------------------


def built(prior, dim=DIM, by=0.5):
    with seeded(0):
        prior.build(Sizes((DIM,), code=dim))
        for weight in prior.parameters():
            weight.data += by * torch.randn_like(weight)
    return prior.double().eval()


def posterior(n=N, dim=DIM):
    return D.Normal(normal(n, dim, seed=1), normal(n, dim, seed=2).abs() + 0.1)


def monte_carlo(q, p, draws=4000):
    with seeded(0):
        z = q.sample((draws,))
        likely = torch.stack([p.log_prob(some) for some in z])
    each = q.log_prob(z).sum(-1) - likely
    return each.mean(0), each.std(0) / math.sqrt(draws)


def test_a_mixture_is_torchs():
    prior, z = built(Mixture(4)), normal(N, DIM)
    p, parts = prior(Batch(z)), D.Independent(D.Normal(prior.mean, prior.log_scale.exp()), 1)
    expected = D.MixtureSameFamily(D.Categorical(logits=prior.logits), parts)
    torch.testing.assert_close(p.log_prob(z), expected.log_prob(z))
    with seeded(0):
        drawn = prior.sample(z.new_empty(100_000, DIM)).detach()
    torch.testing.assert_close(drawn.mean(0), expected.mean.detach(), atol=0.05, rtol=0)
    torch.testing.assert_close(drawn.var(0), expected.variance.detach(), atol=0.15, rtol=0.03)
    windows = z[:396].view(99, 4, DIM).movedim(2, 1)
    torch.testing.assert_close(p.log_prob(windows).flatten(), p.log_prob(z[:396]))


def test_the_divergence_from_a_mixture_is_a_bound_that_one_component_and_distant_ones_meet():
    q, prior = posterior(20), built(Mixture(4))
    bound = kl(Level(q, prior(Batch(q.mean)), q.mean))
    assert bound.shape == (20, 1)
    sampled, error = monte_carlo(q, prior(Batch(q.mean)))
    assert (bound[:, 0] > sampled - 4 * error).all()
    prior.mean.data *= 100  # far apart
    bound = kl(Level(q, prior(Batch(q.mean)), q.mean))[:, 0]
    sampled, error = monte_carlo(q, prior(Batch(q.mean)))
    assert ((bound - sampled).abs() < 5 * error).all()
    one = built(Mixture(1))
    exact = D.kl_divergence(q, D.Normal(one.mean, one.log_scale.exp())).sum(1)
    torch.testing.assert_close(kl(Level(q, one(Batch(q.mean)), q.mean))[:, 0], exact)


def variational(prior, dim=2, **parts):
    chosen = {"backbone": Dense((16,)), "latent": Gaussian(dim), "divergence": KL(), "likelihood": Normal()} | parts
    with seeded(0):
        return Net(prior=prior, corruption=None, **chosen).build((DIM,)).double().eval()


def test_one_pseudo_input_has_its_closed_form():
    net = variational(Vamp(1))
    net.prior.rows.data += normal(1, DIM, seed=3)
    p = net(Batch(normal(N, DIM)))
    (level,) = net.encode(Batch(net.prior.rows))[1]
    torch.testing.assert_close(total_kl(p), D.kl_divergence(p.levels[0].q, level.q).sum(1))


def test_pseudo_inputs_begin_as_rows_once_and_move():
    X = np.random.default_rng(0).normal(size=(300, DIM))
    det = VAEDetector(prior=Vamp(20), max_epochs=3, calibration="split", random_state=0).fit(X)
    prior = det.folds_[0].net.prior
    assert prior.begun
    assert 0.2 < prior.rows.std() < 2
    before = prior.rows.clone()
    prior.start(a_pass(normal(N, DIM)))
    assert torch.equal(prior.rows, before)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_flow_is_a_change_of_variables(dim):
    prior, z = built(Flow(3, hidden=8), dim), normal(20, dim)
    u, log_det = prior.normalized(z)
    torch.testing.assert_close(prior.inverse(u), z)
    jacobians = torch.func.vmap(torch.func.jacrev(lambda row: prior.normalized(row)[0]))(z)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobians).logabsdet)
    assert log_det.std() > 0.1


def test_a_flow_is_a_density_and_draws_from_it():
    prior, axis = built(Flow(3, hidden=8), 2, by=0.3), torch.linspace(-40, 40, 1601, dtype=torch.float64)
    with torch.no_grad():
        total = prior(None).log_prob(torch.cartesian_prod(axis, axis)).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1, abs=0.01)
    with seeded(0):
        drawn = prior.sample(torch.empty(5000, 2, dtype=torch.float64)).detach()
    back = prior.normalized(drawn)[0].detach().numpy()
    assert scipy.stats.kstest(back.ravel(), "norm").pvalue > 0.001


def test_the_divergence_from_a_flow_is_estimated_without_bias_and_told_exactly_where_it_begins():
    q, prior = posterior(10), Flow(3)
    prior.build(Sizes((DIM,), code=DIM))
    prior.double().eval()
    level = Level(q, prior(None), q.mean)
    torch.testing.assert_close(kl(level)[:, 0], D.kl_divergence(q, D.Normal(0.0, 1.0)).sum(1))
    prior = built(Flow(3), DIM)
    sampled, error = monte_carlo(q, prior(None))
    prior.train()
    with seeded(1), torch.no_grad():
        each = torch.stack([kl(Level(q, prior(None), q.mean))[:, 0] for _ in range(4000)])
    assert ((each.mean(0) - sampled).abs() < 5 * torch.hypot(error, each.std(0) / math.sqrt(4000))).all()


@pytest.mark.parametrize(
    ("prior", "dim", "says"),
    [
        (Flow(), 1, "codes of 2"),
        (Mixture(0), 2, "components"),
        (Vamp(0), 2, "pseudo_inputs"),
        (Flow(0), 2, "couplings"),
    ],
)
def test_priors_refuse_what_they_cannot(prior, dim, says):
    with pytest.raises(ConfigError, match=rf"{type(prior).__name__} needs .*{says}.*, however: .*\. \w"):
        variational(prior, dim)


# --- what they are good for ------------------------------------------------------------------------------------------


def clusters(n, seed):
    rng = np.random.default_rng(seed)
    return np.array([[4, 4], [-4, 4], [0, -4]])[rng.integers(3, size=n)] + 0.3 * rng.normal(size=(n, 2))


@pytest.mark.slow
@pytest.mark.parametrize("prior", [Mixture(6), Vamp(12), Flow(6)], ids=repr)
def test_a_richer_prior_knows_clusters_and_draws_new_rows_from_them(prior):
    """More of the rows that a standard normal decodes to lie between the clusters."""
    X, centres = clusters(1500, 0), np.array([[4, 4], [-4, 4], [0, -4]])

    def astray(chosen):
        det = VAEDetector(prior=chosen, latent=Gaussian(2), likelihood=Normal(0.1), max_epochs=60, patience=None)
        drawn = det.set_params(scorer__weights=None, random_state=0).fit(X).sample(1000, random_state=0)
        return np.mean(np.linalg.norm(drawn[:, None] - centres, axis=2).min(1) > 1.5), det

    plain, _ = astray(StandardNormal())
    mine, det = astray(prior)
    assert mine < 0.6 * plain
    between = det.anomaly_score([[0.0, 1.5]])
    assert between > np.quantile(det.anomaly_score(clusters(500, 1)), 0.95)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "divergence", [MMD(), SlicedWasserstein(), pytest.param(Adversarial(), marks=pytest.mark.slow)], ids=repr
)
def test_points_look_like_draws_from_the_prior(divergence, seed):
    rng = np.random.default_rng(0)
    X = np.tanh(rng.normal(size=(2000, 6)) @ rng.normal(size=(6, 20))) + 0.1 * rng.normal(size=(2000, 20))
    plain = {"latent": Point(6), "scorer": StandardizedError(), "random_state": seed, "corruption": GaussianNoise(0)}

    def off(**parts):
        det = AutoencoderDetector(**plain, **parts).fit(X)
        z = det.transform(X)
        return np.mean([scipy.stats.kstest(z[:, j], "norm").statistic for j in range(6)]), det

    (far, _), (near, det) = off(), off(prior=StandardNormal(), divergence=divergence)
    assert near < 0.12
    assert near < 0.5 * far
    codes = det.transform(det.sample(2000, random_state=0))
    assert np.abs(codes.std(axis=0) - 1).max() < 0.35  # new rows are made from draws of the prior


@pytest.mark.parametrize(
    "term",
    [
        pytest.param(TotalCorrelation(20), marks=pytest.mark.slow),
        DIP(),
        DIP(20, 20, "codes"),
        pytest.param(Adversarial(1, "independence"), marks=pytest.mark.slow),
    ],
    ids=repr,
)
def test_latents_are_kept_apart(term):
    """Where the prior hardly pulls, codes of what depends on each other depend on each other."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1500, 2)) @ [[1, 0.9], [0, 0.4]] @ rng.normal(size=(2, 6)) + 0.05 * rng.normal(size=(1500, 6))

    def left(divergence):
        det = VAEDetector(divergence=divergence, latent=Gaussian(2), max_epochs=30, random_state=0).fit(X)
        return abs(np.corrcoef(det.transform(X).T)[0, 1])

    weak = KL(beta=0.01)
    assert left(weak + term) < 0.1 < 0.3 < left(weak)


def test_sums_of_nothing_or_of_the_same_twice_are_refused():
    for terms in ([], [KL(), KLScore()]):
        with pytest.raises(ConfigError, match="Sum needs divergences or penalties, however"):
            Sum(terms).build(Sizes((DIM,)))
    for twice in (KL() + ImportanceWeighted(), ImportanceWeighted() + DIP() + KL(2), Sum([Sum([KL()]), KL()])):
        with pytest.raises(ConfigError, match=r"Sum counts the KL divergence from the prior once, however: .*KL\("):
            VAEDetector(divergence=twice).fit(np.eye(5))
    for other in (3, KLScore()):
        with pytest.raises(TypeError, match="unsupported operand"):
            KL() + other
    for part in (
        MMD(-1),
        MMD(1, "x"),
        SlicedWasserstein(projections=0),
        ImportanceWeighted(0),
        TotalCorrelation(-1),
        DIP(-1),
        DIP(of="x"),
    ):
        with pytest.raises(ConfigError, match=rf"{type(part).__name__} needs .*, however: .*\. \w"):
            part.build(Sizes((DIM,)))
