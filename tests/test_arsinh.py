"""Inverse hyperbolic sines of many numbers: as near as a logarithm is, the same in any company, odd, rising."""

import numpy as np
import pytest

from anomaly_ae.arsinh import FAR, arsinh
from anomaly_ae.compiled import MANY, pays

TYPES = pytest.mark.parametrize("kind", [np.float32, np.float64])


def numbers(kind, n=2 * MANY):
    rng = np.random.default_rng(0)
    most = 30 if kind is np.float32 else 300
    spread = 10.0 ** rng.uniform(-most, most, n // 2)
    near = float(FAR) * (1 + 1e-6 * rng.normal(size=n // 4))
    return (rng.choice([-1, 1], n) * np.concatenate([spread, near, rng.normal(size=n - n // 2 - n // 4)])).astype(kind)


@TYPES
def test_it_is_off_by_no_more_than_two_roundings(kind):
    z = numbers(kind)
    exact = np.arcsinh(z.astype(np.longdouble))
    assert (np.abs(arsinh(z.copy()) - exact) <= 2 * np.finfo(kind).eps * np.maximum(1, np.abs(exact))).all()


@TYPES
def test_a_number_has_the_same_alone_as_among_many(kind):
    z = numbers(kind)
    z[::1000] = np.nan
    many = arsinh(z.copy())
    assert pays(z.size)
    np.testing.assert_array_equal(np.concatenate([arsinh(some) for some in np.array_split(z.copy(), 1000)]), many)
    np.testing.assert_array_equal(np.isnan(many), np.isnan(z))


@TYPES
def test_it_is_odd_and_never_falls(kind):
    z = np.sort(numbers(kind))
    of = arsinh(z.copy())
    np.testing.assert_allclose(arsinh(-z), -of, atol=np.finfo(kind).eps, rtol=np.finfo(kind).eps)
    assert (np.diff(of) >= -np.finfo(kind).eps * np.maximum(1, np.abs(of[1:]))).all()
    assert arsinh(np.zeros(3, kind)).tolist() == [0, 0, 0]
