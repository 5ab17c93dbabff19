"""Backbones: how a row becomes features, and how a code becomes the parameters of a likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from math import pi, prod

import torch
from torch import Tensor, nn

from anomaly_ae.compiled import pays
from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Batch, Part, Pass, Sizes, codes
from anomaly_ae.nn.layers import Linear, Perceptron, check_hidden, flat
from anomaly_ae.ranges import COUNT, POSITIVE, check_range, is_within

__all__ = ["Dense", "RandomFeatures"]

COPIES, NOISY = 4, 8192  # noisy copies of each row to solve for, and rows in all
ROUNDS = 5  # in which absent cells are filled with what is expected there
TINY = 1e-12
LANES = 8  # products of matrices are quicker where there are multiples of so many rows


class Dense(Part):
    r"""Fully connected encoder and, mirrored, decoder.

    .. math:: h = f_L(\dots f_1(x)), \quad f_l(u) = \mathrm{dropout}(a(\mathrm{bn}(W_l u + b_l)))

    The code's size against `d` makes the autoencoder undercomplete, overcomplete or exactly complete. With
    `hidden=()` there is no layer here, only the latent's own linear map: a linear autoencoder.

    A window is read as one long row, and has one code.

    **Shape**: `(n, d)` to `(n, hidden[-1])`; back, `(n, code)` to `(n, n_params, d)`. With windows,
    `(n, channels, time)` to `(n, hidden[-1])`, and back to `(n, n_params, channels, time)`.

    Parameters
    ----------
    hidden : sequence of int >= 1 or None, default=None
        Width of each hidden layer of the encoder; the decoder has them in reverse. `None` is one layer of
        `expansion` times `min(64, max(16, d))`.
    activation : {"elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "tanh"}, default="relu"
        Nonlinearity after each hidden layer.
    dropout : float in [0, 1), default=0
        Share of hidden units silenced in training; off when scoring.
    batch_norm : bool, default=False
        Normalise each hidden layer by its batch in training, by running statistics when scoring.
    expansion : float > 0, default=4
        Hidden units a column, where `hidden` is `None`.

    Raises
    ------
    ConfigError
        At `fit`, when a width, the activation, the dropout rate or the expansion is out of range.

    References
    ----------
    Hinton and Salakhutdinov (2006), Reducing the dimensionality of data with neural networks, Science 313.

    Examples
    --------
    >>> from anomaly_ae import Dense
    >>> Dense(hidden=(64, 32), activation="silu")
    Dense(activation='silu', hidden=(64, 32))
    """

    def __init__(
        self,
        hidden: Sequence[int] | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        expansion: float = 4,
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.batch_norm = batch_norm
        self.expansion = expansion

    @property
    def offers(self) -> frozenset[str]:  # type: ignore[override]
        squashed = self.activation == "sigmoid" and (self.hidden is None or len(self.hidden) > 0)
        return frozenset({"trained encoder", *(["sigmoid activation"] if squashed else [])})

    def _widths(self, sizes: Sizes) -> list[int]:
        check_hidden(self)
        check_range(self, POSITIVE, "expansion")
        if not isinstance(self.hidden, Sequence | None):
            raise ConfigError(f"Dense needs a list of hidden widths, however: {self.hidden!r}. Give (64,) for one.")
        usual = max(1, round(self.expansion * min(64, max(16, prod(sizes.shape)))))
        hidden = [usual] if self.hidden is None else list(self.hidden)
        if not all(is_within(width, COUNT) for width in hidden):
            raise ConfigError(f"Dense needs hidden widths of 1 or more, however: {self.hidden!r}. Use () for none.")
        return hidden

    def encoder(self, sizes: Sizes) -> Perceptron:
        """Module that takes `(x, condition)` to features `(n, features)`."""
        widths = [prod(sizes.shape) + _condition(sizes), *self._widths(sizes)]
        return Perceptron(widths, self.activation, self.dropout, self.batch_norm)

    def decoder(self, dim: int, n_params: int, sizes: Sizes) -> nn.Module:
        """Module that takes `(z, condition)` to `n_params` parameters a feature: `(n, n_params, *shape)`."""
        widths = [dim + _condition(sizes), *reversed(self._widths(sizes))]
        body = Perceptron(widths, self.activation, self.dropout, self.batch_norm)
        return _Output(body, n_params, sizes.shape)


def _condition(sizes: Sizes) -> int:
    return sizes.condition * prod(sizes.shape[1:])


class _Output(nn.Module):
    def __init__(self, body: Perceptron, n_params: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.body = body
        self.linear = Linear(body.features, n_params * prod(shape))
        self.shape = (n_params, *shape)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.linear(self.body(z, condition)).unflatten(1, self.shape)


class RandomFeatures(Part):
    r"""Features that are drawn, not trained, and a decoder in closed form: an autoencoder without a training loop.

    .. math:: h_i = |u_i - \lfloor u_i \rfloor - \tfrac12|, \quad u_i = w_i^T x + b_i, \quad \hat x = A h + a, \quad
        A, a = \arg\min E \lVert A h(\tilde x) + a - x \rVert^2 + \lambda \lVert A \rVert^2

    with :math:`w_i` normal, :math:`b_i` uniform and :math:`\tilde x` the row as the corruption leaves it: how far the
    fraction of a projection is from a half, a triangle wave, which stands for a cosine at a fifth of its time.
    Features are bounded, so that a row far away is never rebuilt.

    Where some columns are booleans or categories, whose combinations no projection at random sees, `Dense()`, trained
    by steps, stands in its place. A latent with weights of its own is trained by steps between the two. A window is
    read as one long row, and has one code.

    **Shape**: `(n, d)` to `(n, features)`; back, `(n, code)` to `(n, 1, d)`. With windows, `(n, channels, time)` to
    `(n, features)`, and back to `(n, 1, channels, time)`.

    Parameters
    ----------
    features : int >= 1, default=256
        How many.
    length : float > 0, default=2
        Length scale in units of the square root of the number of cells: the larger, the smoother what is learned.
    ridge : float > 0, default=0.01
        :math:`\lambda`, in units of the features' mean square.

    Raises
    ------
    ConfigError
        At `fit`, when a value is out of range.
    IncompatiblePartsError
        At `fit`, when the likelihood of numbers is no squared error of a known scale, or codes are drawn: a decoder
        solved for codes full of noise learns to ignore them.

    References
    ----------
    Rahimi and Recht (2007), Random features for large-scale kernel machines, NeurIPS;
    Alain and Bengio (2014), arXiv:1211.4246 (what a denoiser's residual says).

    Examples
    --------
    >>> from anomaly_ae import AutoencoderDetector, RandomFeatures
    >>> AutoencoderDetector(backbone=RandomFeatures(features=512)).backbone
    RandomFeatures(features=512)
    """

    needs = {"latent": "code without noise", "likelihood": "squared error of a known scale"}

    def __init__(self, features: int = 256, length: float = 2.0, ridge: float = 1e-2) -> None:
        self.features = features
        self.length = length
        self.ridge = ridge

    def encoder(self, sizes: Sizes) -> nn.Module:
        """Module that takes `(x, condition)` to features `(n, features)`."""
        check_range(self, COUNT, "features")
        check_range(self, POSITIVE, "length", "ridge")
        self.solves = all(kind == "numeric" for kind in sizes.kinds)
        if not self.solves:
            return Dense().encoder(sizes)
        return _Waves(prod(sizes.shape) + _condition(sizes), self.features, self.length)

    def decoder(self, dim: int, n_params: int, sizes: Sizes) -> nn.Module:
        """Module that takes `(z, condition)` to a parameter a feature: `(n, 1, *shape)`."""
        if not self.solves:
            return Dense().decoder(dim, n_params, sizes)
        return _Readout(dim + _condition(sizes), sizes.shape)

    def start(self, p: Pass) -> None:
        self.solve(p)

    def solve(self, p: Pass) -> None:
        if self.solves:
            n = len(p.batch)
            rows = p.batch.take(torch.arange(n * COPIES, device=p.batch.x.device)[:NOISY] % n)
            seen = rows if p.net.corruption is None else p.net.corruption(rows)
            p.net.decoder.solve(codes(p.net.encode(seen)[1]), rows, self.ridge)


class _Waves(nn.Module):
    """Triangle waves of drawn projections: `(n, cells)` to `(n, features)`, each in [0, 1/2]."""

    steps: tuple[int, ...] = ()

    def __init__(self, cells: int, features: int, length: float) -> None:
        super().__init__()
        self.features = features
        self.weight = nn.Parameter(torch.randn(features, cells) / (2 * pi * length * cells**0.5), requires_grad=False)
        self.phase = nn.Parameter(torch.rand(features), requires_grad=False)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        turns = flat(x, condition) @ self.weight.T
        if turns.is_inference() and turns.device.type == "cpu" and pays(turns.numel()):
            from anomaly_ae import loops

            loops.triangles(turns.numpy(), self.phase.numpy())  # in one pass, for memory is what threads wait for
            return turns
        return turns.add_(self.phase).frac_().abs_().sub_(0.5).abs_()


class _Readout(nn.Module):
    """A linear map of codes to cells, in closed form: `(n, width)` to `(n, 1, *shape)`."""

    def __init__(self, width: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        rows = -(-prod(shape) // LANES) * LANES
        self.weight = nn.Parameter(torch.zeros(rows, width), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(rows), requires_grad=False)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        cells = nn.functional.linear(flat(z, condition), self.weight, self.bias)
        return cells[:, : prod(self.shape)].unflatten(1, (1, *self.shape))

    def solve(self, z: Tensor, rows: Batch, ridge: float) -> None:
        """Ridge regression of clean rows on their codes; of absent cells in turns with what is expected there."""
        code, x = flat(z, rows.condition), rows.x.flatten(1)
        mean = code.mean(0)
        off = code - mean
        gram = (off.T @ off).double()  # sums in float32, which is twice as quick, suffice
        gram.diagonal().add_(ridge * gram.diagonal().mean() + TINY)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if failed:
            raise ConfigError(
                f"RandomFeatures needs a ridge that tells its features apart, however: {ridge:g} does not. Try 0.01."
            )
        for _ in range(1 if rows.mask is None else ROUNDS):
            centre = x.mean(0)
            solution = torch.cholesky_solve((off.T @ (x - centre)).double(), factor).to(x.dtype)
            if rows.mask is not None:
                x = torch.where(rows.mask.flatten(1), x, off @ solution + centre)
        cells = len(centre)
        self.weight[:cells], self.bias[:cells] = solution.T, centre - mean @ solution
