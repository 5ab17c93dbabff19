"""Layers over time against explicit loops: what they compute, how far they see, that they see no future."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv1d

from anomaly_ae.nn.convolutions import Conv, Depthwise, LargeKernelAttention, Separable, Strided, Transposed
from anomaly_ae.nn.graphs import Graph, GraphConvolution
from anomaly_ae.nn.layers import Pointwise
from anomaly_ae.nn.recurrent import ConvLSTMLayer
from anomaly_ae.nn.training import seeded

N, FEATURES, TIME = 3, 4, 60
GEOMETRIES = [(1, 1), (2, 3), (3, 1), (3, 8), (5, 2), (4, 1)]  # kernel, dilation


@pytest.fixture(autouse=True)
def _repeatable():
    with seeded(0):
        yield


def series(features=FEATURES, time=TIME, seed=0):
    return torch.tensor(np.random.default_rng(seed).normal(size=(N, features, time)))


def offsets_seen(layer, features=FEATURES, time=101, at=50):
    """From which step to which, relative to the impulse's, the output of a layer feels an impulse."""
    quiet = series(features, time)
    loud = quiet.clone()
    loud[..., at] += 1
    felt = (layer.double()(loud) - layer(quiet)).abs().sum((0, 1)).nonzero()
    return int(felt.min()) - at, int(felt.max()) - at


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kernel", "dilation"), GEOMETRIES)
def test_a_convolution_is_its_sum(kernel, dilation, causal):
    layer = Conv(FEATURES, 2, kernel, dilation, causal).double()
    x, shift = series(), 0 if causal else (kernel - 1) * dilation // 2
    expected = layer.bias[:, None].expand(N, 2, TIME).clone()
    for t in range(TIME):
        for j in range(kernel):  # the last tap stands on the present (or, centred, ahead)
            s = t + shift - j * dilation
            if 0 <= s < TIME:
                expected[:, :, t] += x[:, :, s] @ layer.weight[:, :, kernel - 1 - j].T
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kernel", "dilation"), GEOMETRIES)
def test_depthwise_is_torchs_grouped_convolution(kernel, dilation, causal):
    layer = Depthwise(FEATURES, kernel, dilation, causal).double()
    padded = torch.nn.functional.pad(series(), layer.zeros)
    expected = conv1d(padded, layer.weight, layer.bias, dilation=dilation, groups=FEATURES)
    torch.testing.assert_close(layer(series()), expected)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kernel", "dilation"), GEOMETRIES)
def test_separable_is_a_convolution_with_fewer_weights(kernel, dilation, causal):
    layer = Separable(FEATURES, 7, kernel, dilation, causal).double()
    depthwise, pointwise = layer
    assert depthwise.weight.numel() + pointwise.weight.numel() == FEATURES * kernel + FEATURES * 7  # Ck + CC'
    whole = Conv(FEATURES, 7, kernel, dilation, causal).double()
    whole.weight.data = pointwise.weight[:, :, None] * depthwise.weight[None, :, 0]
    whole.bias.data = pointwise.bias + pointwise.weight @ depthwise.bias
    torch.testing.assert_close(layer(series()), whole(series()))


@pytest.mark.parametrize("layer", [Conv, Separable])
@pytest.mark.parametrize(("kernel", "dilation"), GEOMETRIES)
def test_receptive_field_by_impulse(layer, kernel, dilation):
    span = (kernel - 1) * dilation
    assert offsets_seen(layer(FEATURES, 2, kernel, dilation)) == (0, span)
    ahead = span // 2
    assert offsets_seen(layer(FEATURES, 2, kernel, dilation, causal=False)) == (-ahead, span - ahead)


def test_large_kernel_attention_sees_23_steps_and_is_a_gate():
    assert offsets_seen(LargeKernelAttention(FEATURES)) == (0, 22)
    layer = LargeKernelAttention(FEATURES, causal=False).double()
    assert offsets_seen(layer) == (-11, 11)
    near, far, mix = layer.gate
    x = series()
    u = conv1d(x, near.weight, near.bias, padding=2, groups=FEATURES)
    u = conv1d(u, far.weight, far.bias, padding=9, dilation=3, groups=FEATURES)
    torch.testing.assert_close(layer(x), x * conv1d(u, mix.weight[:, :, None], mix.bias))


@pytest.mark.parametrize("stride", [1, 2, 5, TIME])
def test_transposed_takes_back_the_shape_and_is_the_adjoint(stride):
    down, up = Strided(FEATURES, 7, stride).double(), Transposed(7, FEATURES, stride).double()
    assert down(series()).shape == (N, 7, TIME // stride)
    assert up(down(series())).shape == series().shape
    up.weight.data, down.bias.data, up.bias.data = down.weight.data, 0 * down.bias.data, 0 * up.bias.data
    y = series(7, TIME // stride, seed=1)
    torch.testing.assert_close((down(series()) * y).sum(), (series() * up(y)).sum())


def test_pointwise_maps_rows_and_steps_alike():
    layer = Pointwise(FEATURES, 7).double()
    assert layer(series()[..., 0]).shape == (N, 7)
    steps = torch.stack([layer(series()[..., t]) for t in range(TIME)], dim=2)
    torch.testing.assert_close(layer(series()), steps)


@pytest.mark.parametrize("causal", [True, False])
def test_convlstm_is_its_loop(causal):
    frames, steps, width, kernel = 5, 6, 3, 3
    layer = ConvLSTMLayer(FEATURES, width, kernel, causal).double()
    x = series(FEATURES, frames * steps).unflatten(2, (frames, steps)).movedim(2, 1)
    W, U, b = (p.detach().numpy() for p in (layer.input.weight, layer.memory.weight, layer.input.bias))

    def sigmoid(a):
        return 1 / (1 + np.exp(-a))

    def tap(values, t, j):
        s = t + (0 if causal else kernel // 2) - j
        return values[:, s] if 0 <= s < steps else np.zeros(len(values))

    expected = np.zeros((N, frames, width, steps))
    for row in range(N):
        h = c = np.zeros((width, steps))
        for frame in range(frames):
            a = np.tile(b[:, None], (1, steps))
            for t in range(steps):
                for j in range(kernel):
                    a[:, t] += W[:, :, kernel - 1 - j] @ tap(x[row, frame].numpy(), t, j)
                    a[:, t] += U[:, :, kernel - 1 - j] @ tap(h, t, j)
            i, f, o, g = np.split(a, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
            expected[row, frame] = h
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-10)


def test_convlstm_remembers_at_first():
    layer = ConvLSTMLayer(FEATURES, 3, 3)
    assert (layer.input.bias[3:6] == 1).all()


def test_given_edges_are_normalised_by_row():
    graph = Graph(3, torch.tensor([[0.0, 2, 2], [1, 0, 0], [0, 0, 0]]))
    assert graph().tolist() == [[0, 0.5, 0.5], [1, 0, 0], [0, 0, 0]]
    assert not list(graph.parameters())


def test_graph_convolution_is_its_sum():
    layer, edges = GraphConvolution(FEATURES, 2).double(), torch.rand(5, 5).double()
    v = torch.randn(N, 5, FEATURES, TIME).double()
    own, others = layer.linear.weight.split(FEATURES, dim=1)
    expected = torch.stack(
        [
            own @ v[:, i] + others @ sum(edges[i, j] * v[:, j] for j in range(5)) + layer.linear.bias[:, None]
            for i in range(5)
        ],
        dim=1,
    )
    torch.testing.assert_close(layer(v, edges), expected)


def test_graph_convolution_is_permutation_equivariant():
    layer, edges = GraphConvolution(FEATURES, 2).double(), torch.rand(5, 5).double()
    v, order = torch.randn(N, 5, FEATURES, TIME).double(), torch.randperm(5)
    torch.testing.assert_close(layer(v[:, order], edges[order][:, order]), layer(v, edges)[:, order])


def test_learned_edges_leave_each_sensor_itself_out_and_add_up():
    graph = Graph(4)
    graph.logits.data = torch.randn(4, 4) * 10
    edges = graph()
    assert (edges.diagonal() == 0).all()
    torch.testing.assert_close(edges.sum(1), torch.ones(4))
    assert Graph(1)().tolist() == [[0.0]]  # one sensor depends on none
