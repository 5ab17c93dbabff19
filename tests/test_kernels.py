"""Compiled loops: what they find and leave is what torch finds and leaves, and a row's is its own."""

import inspect
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from anomaly_ae import AutoencoderDetector
from anomaly_ae.compiled import pays
from anomaly_ae.data.cells import cells_and_odd, cells_of
from anomaly_ae.nn.backbones import RandomFeatures
from anomaly_ae.nn.core import Sizes
from anomaly_ae.nn.layers import Linear
from anomaly_ae.scoring import kernels
from anomaly_ae.scoring.neighbours import LocalDenoiser
from anomaly_ae.scoring.search import Search

N = 3000


def table(n: int, width: int, seed: int = 0) -> torch.Tensor:
    """Rows as a memory holds them: to be stored as float32."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, width))).float().double()


def left(memory, which, places, ridge=1.0):
    off = np.empty(places.shape)
    kernels.residuals(kernels.packed(memory.numpy()), which, places.numpy(), ridge, off)
    return off


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize(("width", "k"), [(1, 3), (7, 10), (16, 1), (30, 40)])
@pytest.mark.parametrize("itself", [False, True])
def test_a_search_by_kernels_finds_what_torch_finds(p, width, k, itself):
    memory = table(N, width)
    search = Search(memory, p, k)
    places, own = (memory[:300], search.everyone[:300]) if itself else (table(200, width, 1), None)
    distance, which = search(places, k, own)
    assert search.packed is not None
    search.packed = None
    expected, known = search(places, k, own)
    torch.testing.assert_close(distance, expected, rtol=1e-12, atol=1e-12)
    assert (which == known).float().mean() > 0.999  # copies, in float32, may change places


@pytest.mark.parametrize("far", [1e16, 1e30, 1e200])  # cells reach the first; float32 has no squares of the others
def test_rows_far_beyond_all_have_neighbours_and_their_distances(far):
    memory = table(N, 4)
    memory[::500] *= far
    search = Search(memory, most=3)
    places = torch.cat([far * table(5, 4, 1), memory[:1000:500]])
    distance, which = search(places, 3)
    measured = (memory[which] - places[:, None]).norm(dim=2)
    torch.testing.assert_close(distance, measured, rtol=1e-12, atol=0)
    assert all(len(set(row)) == 3 for row in which.tolist())
    assert (distance.diff(dim=1).nan_to_num() >= 0).all()
    if far == 1e16:
        assert (distance[-2:, 0] == 0).all()


@pytest.mark.parametrize("width", [1, 5, 10, 16, 40])
@pytest.mark.parametrize("k", [1, 10, 40])
@pytest.mark.parametrize("ridge", [1.0, 1e-3])
def test_residuals_are_what_the_closed_form_leaves(width, k, ridge):
    memory, places = table(200, width), table(11, width, 1)
    which = np.random.default_rng(2).integers(0, 200, (11, k))
    off = left(memory, which, places, ridge)
    for row, mine, neighbours in zip(places.numpy(), off, memory.numpy()[which], strict=True):
        centre = neighbours.mean(0)
        scatter = (neighbours - centre).T @ (neighbours - centre)
        damp = ridge * np.trace(scatter) / k + 1e-12
        expected = damp * np.linalg.solve(scatter + damp * np.eye(width), row - centre)
        np.testing.assert_allclose(mine, expected, rtol=1e-6, atol=1e-9)
    torch_left = LocalDenoiser(k, ridge)._residual(memory[torch.from_numpy(which)], places)
    np.testing.assert_allclose(off, torch_left, rtol=1e-6, atol=1e-9)


def test_a_row_is_read_alike_to_the_bit_beside_any_others():
    memory, places = table(200, 30), table(21, 30, 1)
    which = np.random.default_rng(2).integers(0, 200, (21, 10))
    together = left(memory, which, places)
    for i in range(21):
        np.testing.assert_array_equal(left(memory, which[i : i + 1], places[i : i + 1])[0], together[i])
    backwards = left(memory, which[::-1].copy(), places.flip(0).contiguous())
    np.testing.assert_array_equal(backwards[::-1], together)


def test_neighbours_are_the_same_to_the_bit_beside_any_others():
    memory, places = table(N, 7), table(40, 7, 1)
    search = Search(memory, most=5)
    distance, which = search(places, 5)
    for order in (torch.arange(39, -1, -1), torch.tensor([3])):
        again = search(places[order], 5)
        assert torch.equal(again[0], distance[order])
        assert torch.equal(again[1], which[order])


def test_no_more_neighbours_are_found_than_a_centre_knows():
    distance, which = Search(table(N, 2))(table(4, 2, 1), 2000)
    assert distance.shape == which.shape == (4, 1024)
    assert (distance.diff(dim=1) >= 0).all()


@pytest.mark.parametrize("effort", ["fast", "default"])
@pytest.mark.parametrize("k", [10, 80])  # the matrices of 80 neighbours of 70 columns are LAPACK's
def test_a_detector_denoises_by_kernels_as_by_torch(effort, k):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(4000, 5)) @ rng.normal(size=(5, 70)) + 0.1 * rng.normal(size=(4000, 70))
    det = AutoencoderDetector(scorer=LocalDenoiser(k), effort=effort, max_epochs=1, random_state=0).fit(X)
    scorer, scores = det.folds_[0].scorer, det.anomaly_score(X[:300])
    assert scorer.search.packed is not None
    scorer.search.packed = None
    np.testing.assert_allclose(det.anomaly_score(X[:300]), scores, rtol=1e-9 if effort == "default" else 1e-4)


def test_packing_loses_nothing():
    exact, more = table(20, 5).numpy(), np.random.default_rng(0).normal(size=(20, 5))
    for rows, kind in ((exact, np.float32), (more, np.float64), (1e300 * exact, np.float64)):
        kept = kernels.packed(rows)
        assert kept.dtype == kind
        assert kept.shape == (20, kernels.STRIDE)
        np.testing.assert_array_equal(kept[:, :5], rows)
        assert not kept[:, 5:].any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bends", [True, False])
@pytest.mark.parametrize("order", ["C", "F"])
def test_cells_of_many_rows_are_those_of_few_to_the_bit(dtype, bends, order):
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(9000, 7)) * 10.0 ** rng.integers(-3, 4, size=7)
    raw[rng.random(raw.shape) < 0.01] = np.nan
    raw[:5, 0] = [1e308, -1e308, 1e17, np.inf, -np.inf]
    raw = np.array(raw, order=order)
    moments = np.nanmean(raw[5:], axis=0), np.nanstd(raw[5:], axis=0), rng.random(7) + 0.5
    many = cells_of(raw, *moments, bends=bends, dtype=dtype)
    assert pays(raw.size)
    assert not pays(raw[:500].size)
    few = [cells_of(raw[i : i + 500], *moments, bends=bends, dtype=dtype) for i in range(0, len(raw), 500)]
    np.testing.assert_array_equal(many, np.concatenate(few))
    assert many.dtype == dtype
    assert np.isfinite(many[~np.isnan(raw)]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bends", [True, False])
def test_odd_rows_are_found_among_many_as_among_few(dtype, bends):
    rng = np.random.default_rng(0)
    raw = rng.normal(size=(9000, 7))
    raw[rng.random(raw.shape) < 0.002] = np.nan
    mean, scale, height = np.zeros(7), np.ones(7), rng.random(7) + 0.5
    shape = {"bends": bends, "dtype": dtype}
    ends = cells_of(np.array([[-3.0] * 7, [3.0] * 7]), mean, scale, height, **shape)
    raw[0], raw[1], raw[2] = -3, 3, np.nan  # the ends belong to the range, and what is absent does not
    moments = [mean, scale, height, *ends.astype(np.float64)]
    cells, odd = cells_and_odd(raw, moments, **shape)
    assert pays(raw.size)
    np.testing.assert_array_equal(cells, cells_of(raw, mean, scale, height, **shape))
    few = [cells_and_odd(raw[i : i + 500], moments, **shape) for i in range(0, len(raw), 500)]
    np.testing.assert_array_equal(cells, np.concatenate([some for some, _ in few]))
    np.testing.assert_array_equal(odd, np.concatenate([500 * i + rows for i, (_, rows) in enumerate(few)]))
    np.testing.assert_array_equal(odd, np.flatnonzero(~(np.abs(raw) <= 3).all(axis=1)))
    assert 200 < len(odd) < 600
    assert odd[0] == 2


@pytest.mark.parametrize("after", [3, 8, 9, 15, 16, 30, 75])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_map_of_many_rows_read_in_float32_is_the_one_that_trains(after, bias):
    layer = Linear(30, after, bias=bias)
    x = torch.randn(2000, 30)
    trained = layer(x)
    with torch.inference_mode():
        read = layer(x.clone())
        few = layer(x[:5].clone())
    assert pays(x.numel())
    assert trained.requires_grad
    assert read.shape == trained.shape
    torch.testing.assert_close(read, trained.detach())
    torch.testing.assert_close(few, trained[:5].detach())


def test_waves_of_many_rows_are_those_of_few_to_the_bit():
    waves = RandomFeatures(features=64).encoder(Sizes((7,)))
    x = 100 * torch.randn(2000, 7)
    plain = waves(x)
    with torch.inference_mode():
        quick = waves(x)
    assert pays(plain.numel())
    assert torch.equal(plain, quick)
    turns = x.double() @ waves.weight.T.double() + waves.phase
    torch.testing.assert_close(plain, 0.5 - ((turns + 0.5) % 1 - 0.5).abs().float(), rtol=0, atol=2e-5)


FEW = """
import sys, numpy as np
from anomaly_ae import AutoencoderDetector
from anomaly_ae.compiled import pays
from anomaly_ae.data.cells import cells_of
from anomaly_ae.nn.backbones import RandomFeatures
from anomaly_ae.nn.core import Sizes
for n in (500, 4000):
    X = np.random.default_rng(0).normal(size=(n, 3))
    AutoencoderDetector(max_epochs=1, random_state=0).fit(X).predict(X[:10])
    print("numba" in sys.modules)
"""


def test_a_small_table_does_not_wait_for_a_compiler():
    done = subprocess.run([sys.executable, "-c", FEW], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_full_disk_stops_no_kernel(tmp_path):
    done = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"needs to mount a small disk: {done.stderr.decode().strip()}")
    try:
        script = """
import numpy as np
from anomaly_ae.scoring import kernels
off = np.empty((1, 2))
kernels.residuals(kernels.packed(np.eye(2)), np.zeros((1, 2), int), np.ones((1, 2)), 1.0, off)
print(off.tolist())
"""
        env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
        assert (done.stdout, done.returncode) == ("[[0.0, 1.0]]\n", 0), done.stderr
    finally:
        subprocess.run(["/bin/umount", tmp_path], check=True)


def test_where_compiled_code_can_be_kept_nowhere_it_is_compiled_all_the_same():
    """As from a folder that cannot be written to, or out of an archive."""
    source = inspect.getsource(kernels)
    there: dict = {"__name__": "elsewhere"}
    exec(compile(source, "<no file>", "exec"), there)  # noqa: S102
    memory, places = table(20, 3), table(2, 3, 1)
    which, off = np.arange(8).reshape(2, 4), np.empty((2, 3))
    there["residuals"](there["packed"](memory.numpy()), which, places.numpy(), 1.0, off)
    np.testing.assert_allclose(off, left(memory, which, places), rtol=1e-12)
