"""Heads: a net that learns by the labels of rows, as the training loop sees it."""

from __future__ import annotations

from torch import Tensor, nn

from anomaly_ae.nn.core import Batch, Clock, Pass, codes
from anomaly_ae.nn.model import Net


class Headed(nn.Module):
    r"""A net whose codes a linear head reads: what is paid is what labels cost, and nothing for reconstructions.

    .. math:: \frac1n \sum_i \ell(W z(x_i) + b, y_i) + \frac{1}{2n} \lVert W \rVert^2

    with the cross-entropy of classes, or half the squared error of numbers, as :math:`\ell`: what scikit-learn's
    `LogisticRegression` and `Ridge` minimise, so that a head of theirs is where training starts.

    Rows are corrupted and codes drawn as in the training before: where labels are few, noise keeps them from being
    learned by heart.
    """

    def __init__(self, net: Net, weight: Tensor, bias: Tensor, rows: int) -> None:
        super().__init__()
        self.seen, self.read = net.seen, net.encode
        self.learning = nn.ModuleList(  # the decoder is asked for nothing
            part for part in (net.encoder, net.latent, net.corruption) if part is not None
        )
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.rows = rows
        self.eval()  # until the loop has it train

    def parts(self) -> list[nn.Module]:
        """No part of the net learns from labels by itself."""
        return []

    def forward(self, batch: Batch, clock: Clock) -> Pass:
        seen = self.seen(batch)
        return Pass(batch, seen, *self.read(seen), None, self, clock)  # type: ignore[arg-type]

    def terms(self, p: Pass) -> dict[str, Tensor]:
        """What labels cost, and what the head's weights do."""
        said, label = nn.functional.linear(codes(p.levels), self.weight, self.bias), p.batch.label
        assert label is not None
        if label.is_floating_point():
            cost = (said[:, 0] - label).square().mean() / 2
        else:  # one output is that of the second of two classes, against nothing for the first
            cost = nn.functional.cross_entropy(nn.functional.pad(said, (1, 0)) if len(self.bias) == 1 else said, label)
        return {"labels": cost, "head": self.weight.square().sum() / (2 * self.rows)}
