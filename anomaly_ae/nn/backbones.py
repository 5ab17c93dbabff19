"""Backbones: how a row becomes features, and how a code becomes the parameters of a likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from anomaly_ae.errors import ConfigError
from anomaly_ae.nn.core import Part, Sizes
from anomaly_ae.nn.layers import Perceptron, check_hidden

__all__ = ["Dense"]


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
        `min(256, max(64, 4 d))`.
    activation : {"elu", "gelu", "leaky_relu", "relu", "selu", "sigmoid", "silu", "tanh"}, default="relu"
        Nonlinearity after each hidden layer.
    dropout : float in [0, 1), default=0
        Share of hidden units silenced in training; off when scoring.
    batch_norm : bool, default=False
        Normalise each hidden layer by its batch in training, by running statistics when scoring.

    Raises
    ------
    ConfigError
        At `fit`, when a width, the activation or the dropout rate is out of range.

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
    ) -> None:
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.batch_norm = batch_norm

    causal = False
    receptive_field: float

    def _widths(self, sizes: Sizes) -> list[int]:
        check_hidden(self)
        hidden = [min(256, max(64, 4 * prod(sizes.shape)))] if self.hidden is None else list(self.hidden)
        if any(not isinstance(width, int) or width < 1 for width in hidden):
            raise ConfigError(f"Dense needs hidden widths of 1 or more, however: {self.hidden!r}. Use () for none.")
        return hidden

    def encoder(self, sizes: Sizes) -> Perceptron:
        """Module that takes `(x, condition)` to features `(n, features)`."""
        self.receptive_field = prod(sizes.shape[1:])
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
        self.linear = nn.Linear(body.features, n_params * prod(shape))
        self.shape = (n_params, *shape)

    def forward(self, z: Tensor, condition: Tensor | None = None) -> Tensor:
        return self.linear(self.body(z, condition)).unflatten(1, self.shape)
