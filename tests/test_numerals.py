"""Numbers in DyNet's text format are those of C's "%+.8e", whichever way they are spelt."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dist_dynet.io._numerals import spelt

MANY = 500  # few are spelt one by one anyway


def each(numbers):
    return b"".join(b"%+.8e " % float(x) for x in numbers)


def around(numbers):
    """These, and those next to them."""
    return np.concatenate([np.nextafter(numbers, -np.inf), numbers, np.nextafter(numbers, np.inf)])


def drawn(dtype, kind):
    rng = np.random.default_rng(5)
    if kind == "bits":
        integers = {2: np.uint16, 4: np.uint32, 8: np.uint64}[np.dtype(dtype).itemsize]
        return np.frombuffer(rng.bytes(200_000), integers).view(dtype)
    if kind == "weights":
        return rng.normal(0, 0.1, 50_000).astype(dtype)
    if kind == "ties":  # ten digits at least, of which the last is a five
        return (rng.integers(1, 1 << 20, 50_000) / 2.0 ** rng.integers(0, 30, 50_000)).astype(dtype)
    if kind == "powers of ten":
        return around(np.array([10.0**k for k in range(-37, 38)] * 3, dtype))
    assert kind == "nearly ten"  # where nine digits are rounded up to the next power
    return around(
        (10.0 ** rng.integers(-20, 20, 500) * (1 - 10.0 ** rng.uniform(-12, -6, 500))).astype(dtype)
    )


@pytest.mark.parametrize("kind", ["bits", "weights", "ties", "powers of ten", "nearly ten"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drawn_numbers(dtype, kind):
    numbers = drawn(dtype, kind)
    finite = numbers[np.isfinite(numbers)]
    assert finite.size > 600
    for x in (finite, -finite):
        assert spelt(x) == each(x)
    size = np.abs(finite.astype(np.float64))
    short = finite[(size < 1e99) & ((size > 1e-99) | (size == 0))]
    assert len(spelt(short)) == 16 * short.size


@given(arrays.arrays(np.float32, MANY, elements=st.floats(width=32)))
def test_any_numbers(numbers):
    assert spelt(numbers) == each(numbers)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e-310, 1e300, 0.0, -0.0, 5e-324])
def test_one_among_many(odd):
    numbers = np.linspace(-1, 1, MANY)
    numbers[MANY // 2] = odd
    assert spelt(numbers) == each(numbers)
