"""Kernels through operations: accuracy of vector functions in units of the last place, matrix
products of all sizes with and without BLAS.

How long: about fifteen seconds.
"""

import numpy as np
import pytest
from processes import output_of

import dist_dynet as dy
from dist_dynet._ffi import BLAS, DTYPE

# ---- exp, log, tanh, logistic ----------------------------------------------------------

TINY = float(np.finfo(np.float32).tiny)
FUNCTIONS = {
    "exp": (dy.exp, np.exp),
    "log": (dy.log, np.log),
    "tanh": (dy.tanh, np.tanh),
    "logistic": (
        dy.logistic,
        lambda x: np.where(x < 0, np.exp(-np.abs(x)), 1) / (1 + np.exp(-np.abs(x))),
    ),
}


def float_patterns(rng, n):
    """Floats of all sizes: random bit patterns, evenly spread numbers, neighbours of powers of two
    and of where functions change."""
    bits = rng.integers(0, 1 << 32, size=n, dtype=np.uint64).astype(np.uint32).view(np.float32)
    even = rng.uniform(-100, 100, n).astype(np.float32)
    small = rng.uniform(-1.5, 1.5, n).astype(np.float32)
    others = [
        0.625,
        9.01,
        88.3762626647949,
        88.72283905206835,
        87.33654475055310,
        103.9720770839918,
    ]
    edges = np.concatenate([2.0 ** np.arange(-126, 128), others])
    edges = edges.astype(np.float32)
    edges = np.concatenate(
        [edges, np.nextafter(edges, np.float32(0)), np.nextafter(edges, np.float32(np.inf))]
    )
    x = np.concatenate([bits, even, small, edges, -edges])
    return x[np.isfinite(x)]


def ulps(y, exact):
    """|y - exact| in units of the last place of float32; below the least normal number its unit
    counts."""
    unit = np.spacing(np.maximum(np.abs(exact), TINY).astype(np.float32)).astype(np.float64)
    return np.abs(y - exact) / unit


@pytest.mark.float32
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vector_function_is_accurate_to_3_ulp(name, rng):
    f, exact_f = FUNCTIONS[name]
    x = float_patterns(rng, 300_000)
    if name == "log":
        x = np.abs(x)
        x = x[x >= TINY]
    with np.errstate(over="ignore", under="ignore"):
        exact = exact_f(x.astype(np.float64))
        rounded = exact.astype(np.float32)
    y = f(dy.inputTensor(x)).npvalue()
    normal = np.isfinite(rounded) & (np.abs(exact) >= TINY)
    worst = ulps(y[normal], exact[normal])
    assert worst.max() <= 3, f"{name}({x[normal][worst.argmax()]!r}): {worst.max():.2f} ulp"
    # where the result is too small for a normal number it is that small; where it is too large,
    # infinite
    under = np.abs(exact) < TINY
    assert (np.abs(y[under]) <= TINY * 1.001).all()
    near_overflow = np.isinf(rounded) & (exact < float(np.finfo(np.float32).max) * 1.001)
    assert np.isinf(y[np.isinf(rounded) & ~near_overflow]).all()


@pytest.mark.parametrize("size", [1, 7, 16, 33])
def test_vector_functions_at_special_values(size):
    def at(f, x):
        y = np.array(f(dy.inputTensor(np.full(size, x))).npvalue())
        assert len(np.unique(y)) == 1 or np.isnan(y).all()
        return y[0]

    inf, nan = np.inf, np.nan
    assert (
        at(dy.exp, -inf),
        at(dy.exp, 0),
        at(dy.exp, inf),
        at(dy.exp, 1e4),
        at(dy.exp, -1e4),
    ) == (0, 1, inf, inf, 0)
    assert (at(dy.log, 0), at(dy.log, 1), at(dy.log, inf)) == (-inf, 0, inf)
    assert np.isnan(at(dy.log, -1)) and np.isnan(at(dy.log, -inf))
    assert (at(dy.tanh, -inf), at(dy.tanh, 0), at(dy.tanh, inf), at(dy.tanh, 1e4)) == (-1, 0, 1, 1)
    assert (at(dy.logistic, -inf), at(dy.logistic, 0), at(dy.logistic, inf)) == (0, 0.5, 1)
    assert (at(dy.rectify, -inf), at(dy.rectify, inf)) == (0, inf)
    for f in (dy.exp, dy.log, dy.tanh, dy.logistic, dy.rectify, dy.square, dy.abs):
        assert np.isnan(at(f, nan))


@pytest.mark.float32
@pytest.mark.parametrize("name", FUNCTIONS)
def test_vector_function_does_not_depend_on_the_place_in_the_array(name, rng):
    f, _ = FUNCTIONS[name]
    x = np.abs(rng.normal(size=257)).astype(np.float32)
    whole = f(dy.inputTensor(x)).npvalue()
    for start, end in ((0, 1), (3, 12), (16, 33), (100, 257), (256, 257)):
        part = f(dy.inputTensor(x[start:end])).npvalue()
        assert np.abs(part - whole[start:end]).max() <= 1e-7 * np.abs(whole[start:end]).max()


@pytest.mark.float32
@pytest.mark.parametrize("exponent", [2, 3, -1, 7, 0.5, -2.5, 1e-3, 100.25, 1e7, np.inf, np.nan])
def test_pow_is_accurate_to_1_ulp(exponent, rng):
    """Also of blocks with zeros, denormals, infinities and nan, and of bases below 0."""
    e = np.float32(exponent)
    x = float_patterns(rng, 20_000)
    x = np.concatenate([x, np.exp(0.01 * rng.normal(size=20_000)).astype(np.float32), x])
    x[-1000:] = rng.choice(np.float32([0, -0.0, 1e-42, -1e-42, np.inf, -np.inf, np.nan]), 1000)
    with np.errstate(all="ignore"):
        # the derivative's power is rounded before the power is taken
        powers = [
            np.power(x.astype(float), np.full(len(x), p, float)) for p in (e, e - np.float32(1))
        ]
        rounded = [power.astype(np.float32) for power in powers]
        slope = np.float32(e) * rounded[1]
    X = dy.inputTensor(x)
    y = dy.pow(X, dy.inputTensor([e]))
    dy.sum_elems(y).backward(full=True)
    normal = np.isfinite(rounded[0]) & (np.abs(powers[0]) >= TINY)
    assert (ulps(y.npvalue()[normal], powers[0][normal]) <= 1).all()
    np.testing.assert_allclose(y.npvalue()[~normal], rounded[0][~normal], rtol=0, atol=2e-45)
    normal = np.isfinite(slope) & (np.abs(rounded[1]) >= TINY) & (np.abs(slope) >= TINY)
    np.testing.assert_allclose(X.gradient()[normal], slope[normal], rtol=4e-7)


# ---- matrix products -------------------------------------------------------------------


def check_product(rng, m, k, n):
    """y = W x, dx = W' dy, dW = dy x' against double; twice over, so that the second adds to the
    first. The errors' text, or None."""
    w, x, dy_ = rng.normal(size=(m, k)), rng.normal(size=(k, n)), rng.normal(size=(m, n))
    w, x, dy_ = (a.astype(DTYPE).astype(float) for a in (w, x, dy_))
    dy.renew_cg()
    W, X = dy.inputTensor(w), dy.inputTensor(x)
    y, again = W * X, W * X
    loss = dy.dot_product(y, dy.inputTensor(dy_)) + dy.dot_product(again, dy.inputTensor(dy_))
    loss.backward(full=True)
    eps = np.finfo(DTYPE).eps * 4
    for name, got, exact, size in (
        ("y", y.npvalue(), w @ x, np.abs(w) @ np.abs(x)),
        ("dx", X.gradient(), 2 * w.T @ dy_, 2 * np.abs(w.T) @ np.abs(dy_)),
        ("dW", W.gradient(), 2 * dy_ @ x.T, 2 * np.abs(dy_) @ np.abs(x.T)),
    ):
        error = np.abs(got.reshape(exact.shape) - exact) / (size * eps + 1e-300)
        if not error.max() <= np.sqrt(m + k + n) + 4:
            place = np.unravel_index(error.argmax(), error.shape)
            return (
                f"{name} of m = {m}, k = {k}, n = {n}: error of {error.max():.1f} roundings at"
                f" {place}"
            )
    return None


ROWS = [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 65, 97]
INNER = [1, 2, 3, 5, 8, 13, 33]


def check_infinities(rng, m, k, n):
    """Each number of a product whose factors are positive is infinite where one of its own is."""
    w, x, dy_ = (rng.uniform(1, 2, size) for size in ((m, k), (k, n), (m, n)))
    for a in (w, x, dy_):
        a.flat[rng.integers(a.size)] = np.inf
    dy.renew_cg()
    W, X = dy.inputTensor(w), dy.inputTensor(x)
    y = W * X
    dy.dot_product(y, dy.inputTensor(dy_)).backward(full=True)
    pairs = (y.npvalue(), w, x), (X.gradient(), w.T, dy_), (W.gradient(), dy_, x.T)
    for got, a, b in pairs:
        exact = np.einsum("ij,jk->ik", a, b)
        got = got.reshape(exact.shape)
        assert not np.isnan(got).any()
        assert np.array_equal(np.isinf(got), np.isinf(exact))


LARGE = [(256, 128, n) for n in (1, 2, 3, 16, 17, 64, 65, 128, 129)] + [
    (515, 300, n) for n in (1, 4, 33)
]
LARGE += [(2, 1027, 5), (5, 530, 70), (9, 400, 16), (12, 1040, 64), (17, 521, 64), (20, 128, 100)]
LARGE += [(64, 10, 200), (530, 17, 150), (40, 5, 300), (1100, 3, 140)]
LARGE += [(97, 1025, 3), (1030, 33, 40), (129, 700, 20), (1041, 520, 25), (2100, 260, 9)]


def check_products(columns):
    """The first failure over the grid of sizes, or None."""
    rng = np.random.default_rng(17)
    sizes = [(m, k, n) for m in ROWS for k in INNER for n in columns]
    return next((text for size in (*sizes, *LARGE) if (text := check_product(rng, *size))), None)


@pytest.mark.parametrize("n", [1, 2, 3, 8, 17, 65])
def test_infinities_stay_where_they_are(n, rng):
    for m in ROWS:
        for k in INNER:
            check_infinities(rng, m, k, n)


def test_matrix_products_of_all_sizes():
    assert check_products(range(1, 131)) is None


@pytest.mark.parametrize("m", [1, 2, 5, 8, 12, 20, 40])
@pytest.mark.parametrize("n", [1, 3, 16, 70])
def test_gradients_of_matrices_add_up(m, n, rng):
    dy.renew_cg()
    W = dy.inputTensor(rng.normal(size=(m, 100)))
    xs, c = rng.normal(size=(3, 100, n)), rng.normal(size=(m, n))
    x1, x2, x3 = map(dy.inputTensor, xs)
    y = dy.affine_transform([dy.zeros(m), W, x1, W, x2, W, x3])  # one product after the other
    dy.dot_product(y, dy.inputTensor(c)).backward(full=True)
    expected = c @ xs.sum(axis=0).T
    np.testing.assert_allclose(W.gradient().reshape(m, 100), expected, rtol=0, atol=1e-4)


@pytest.mark.skipif(
    BLAS.startswith("none"), reason="this run has no BLAS: the test above was this one"
)
def test_matrix_products_without_blas():
    sizes = [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 33, 63, 65, 128, 130]
    code = (
        "import test_kernels, dist_dynet._ffi as f; print(f.BLAS,"
        f" test_kernels.check_products({sizes}))"
    )
    assert output_of(code, DIST_DYNET_BLAS="none") == "none (plain C) None\n"


def check_inverses():
    """Inverses and log determinants on both sides of the size from which LAPACK factorizes."""
    rng = np.random.default_rng(5)
    for n in (1, 33, 127, 128, 129, 200):
        x = rng.normal(size=(n, n)) + np.sqrt(n) * np.eye(n)[rng.permutation(n)]
        x[0] *= np.linalg.slogdet(x)[0]
        at = dy.inputTensor(x)
        product = dy.inverse(at).npvalue().reshape(n, n) @ x
        np.testing.assert_allclose(product, np.eye(n), rtol=0, atol=2e-4)
        np.testing.assert_allclose(dy.logdet(at).value(), np.linalg.slogdet(x)[1], rtol=1e-5)
        wrong = x.copy()
        wrong[:, n // 2] = 0
        at = dy.inputTensor(wrong)
        assert np.isnan(dy.inverse(at).npvalue()).all() and dy.logdet(at).value() == -np.inf
        wrong[-1, n // 2] = np.nan
        assert np.isnan(dy.logdet(dy.inputTensor(wrong)).value())


def test_inverses_of_all_sizes():
    check_inverses()


def test_inverses_without_blas():
    code = "import test_kernels; test_kernels.check_inverses(); print('done')"
    assert output_of(code, DIST_DYNET_BLAS="none") == "done\n"


def test_blas_that_is_none_is_refused():
    code = "try: import dist_dynet\nexcept ImportError as e: print(e)"
    out = output_of(code, DIST_DYNET_BLAS="/nowhere/lib.so")
    assert out.startswith("DIST_DYNET_BLAS=/nowhere/lib.so: not a BLAS library")


@pytest.mark.parametrize(
    "zero", [(0, 3, 2), (3, 0, 2), (3, 2, 0), (0, 0, 0), (1, 0, 1), (20, 0, 20)]
)
def test_matrix_products_with_a_size_of_zero(zero):
    m, k, n = zero
    W, x = dy.zeros((m, k)), dy.zeros((k, n))
    y = W * x
    assert y.npvalue().shape == (m, n) and np.abs(y.npvalue()).sum() == 0
    dy.sum_elems(y).backward(full=True)
    assert np.abs(W.gradient()).sum() == np.abs(x.gradient()).sum() == 0


def tree_sum(terms):
    """In 32 partial sums, then as a tree: csrc/kernels/math.h, DN_SUM."""
    lanes = np.zeros(32, terms.dtype)
    for i, term in enumerate(terms):
        lanes[i % 32] += term
    while len(lanes) > 1:
        lanes = lanes[: len(lanes) // 2] + lanes[len(lanes) // 2 :]
    return lanes[0]


@pytest.mark.parametrize("from_", [0, 1, 3])
def test_the_order_of_sums_depends_on_their_number_alone(from_, rng):
    for n in [*range(1, 100), 255, 256, 1000]:
        x = rng.standard_normal(from_ + n).astype(DTYPE)
        x[from_::5] = 0
        part = dy.inputTensor(x)[from_:]
        assert dy.sum_elems(part).value() == tree_sum(x[from_:])
        assert dy.l1_distance(part, dy.zeros(n)).value() == tree_sum(np.abs(x[from_:]))


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 31, 63, 100, 1000, 4097])
def test_sums_keep_their_digits(n, rng):
    x = rng.normal(size=n).astype(DTYPE) + 1
    exact = x.astype(float).sum()
    eps = np.finfo(DTYPE).eps
    assert abs(dy.sum_elems(dy.inputTensor(x)).value() - exact) <= 4 * eps * np.abs(x).sum()
    assert (
        abs(dy.mean_elems(dy.inputTensor(x)).value() - exact / n) <= 4 * eps * np.abs(x).sum() / n
    )
    y = rng.normal(size=n).astype(DTYPE)
    assert abs(
        dy.dot_product(dy.inputTensor(x), dy.inputTensor(y)).value() - x.astype(float) @ y
    ) <= 4 * eps * (np.abs(x) @ np.abs(y))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 63, 64, 65, 300])
def test_sums_over_rows_of_any_number(rows, rng):
    """Forward and backward, of a dim and of folded rows; a column's sum has the same bits whatever
    stands beside it."""
    for cols in (1, 2, 15, 16, 17, 50):
        x = rng.normal(size=(rows, cols)).astype(DTYPE)
        dy.renew_cg()
        X = dy.inputTensor(x)
        y, folded = dy.sum_dim(X, [0]), dy.fold_rows(X, rows)
        weights = rng.normal(size=cols).astype(DTYPE)
        loss = dy.dot_product(y, dy.inputTensor(weights))
        (loss + dy.dot_product(dy.transpose(folded), dy.inputTensor(weights))).backward(full=True)
        exact, size = x.astype(float).sum(0), np.abs(x).sum(0)
        assert (np.abs(y.npvalue() - exact) <= size * np.finfo(DTYPE).eps * 8).all(), cols
        np.testing.assert_array_equal(folded.npvalue().ravel(), y.npvalue())
        np.testing.assert_array_equal(
            X.gradient(), np.tile(2 * weights, (rows, 1)).reshape(x.shape)
        )
        for c in (0, cols - 1):
            alone = dy.sum_dim(dy.inputTensor(x[:, c : c + 1]), [0])
            assert alone.value() == y.npvalue().ravel()[c], (rows, cols, c)


def windows_of(x, ksize, stride, is_valid):
    """(output, the places of its window in x, in the order of memory) of each output, columns
    first."""
    sizes, before = [], []
    for size, k, step in zip(x.shape, ksize, stride, strict=True):
        out = -(-(size - k + 1) // step) if is_valid else -(-size // step)
        sizes.append(out)
        before.append(0 if is_valid else max((out - 1) * step + k - size, 0) // 2)
    for column in range(sizes[1]):
        for row in range(sizes[0]):
            spans = [
                range(max(o * step - b, 0), min(o * step - b + k, size))
                for o, step, b, k, size in zip(
                    (row, column), stride, before, ksize, x.shape, strict=True
                )
            ]
            yield (row, column), [(r, c) for c in spans[1] for r in spans[0]]


@pytest.mark.parametrize("is_valid", [True, False])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 1), (1, 4)])
@pytest.mark.parametrize("shape", [(1, 9), (7, 5), (24, 3), (75, 4), (140, 2)])
def test_greatest_numbers_of_many_windows(shape, stride, is_valid, rng):
    """Of equal ones the first in memory, of several NaN too."""
    for ksize in {(1, 1), (min(2, shape[0]), 2), (min(3, shape[0]), 1), shape}:
        x = rng.integers(0, 4, shape).astype(DTYPE)
        x[rng.random(shape) < 0.05] = np.nan
        dy.renew_cg()
        X = dy.inputTensor(x.reshape(*shape, 1))
        y = dy.maxpooling2d(X, ksize, stride, is_valid)
        found, want = y.npvalue().reshape(y.dim()[0][:2]), np.zeros(shape)
        for place, window in windows_of(x, ksize, stride, is_valid):
            numbers = [x[at] for at in window]
            assert found[place] == max(numbers) or np.isnan(found[place])
            assert np.isnan(found[place]) == np.isnan(numbers).any()
            want[window[int(np.argmax(numbers))]] += 1
        dy.sum_elems(y).backward(full=True)
        np.testing.assert_array_equal(X.gradient().reshape(shape), want)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (16, 16), (17, 33), (40, 7), (3, 100)])
def test_transpose_of_many_shapes(shape, rng):
    x = rng.normal(size=(*shape, 3)).astype(DTYPE)
    e = dy.inputTensor(x, batched=True)
    t = dy.transpose(e)
    assert np.array_equal(t.npvalue(), x.transpose(1, 0, 2))
    g = rng.normal(size=(shape[1], shape[0], 3)).astype(DTYPE)
    dy.sum_batches(dy.dot_product(t, dy.inputTensor(g, batched=True))).backward(full=True)
    assert np.array_equal(e.gradient(), g.transpose(1, 0, 2))
    both = dy.dot_product(dy.transpose(e) + dy.transpose(e) * 2, dy.inputTensor(g, batched=True))
    dy.sum_batches(both).backward(full=True)  # the second is added to the first
    np.testing.assert_allclose(e.gradient(), 3 * g.transpose(1, 0, 2), rtol=1e-5)


@pytest.mark.parametrize("run", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17])
@pytest.mark.parametrize("count", [1, 2, 41, 70])
def test_blocks_of_many_sizes(run, count, rng):
    """Pieces of columns, taken out and put together; the second gradient is added to the first."""
    x = rng.normal(size=(run + 3, count)).astype(DTYPE)
    e = dy.inputTensor(x, batched=True)
    piece = dy.pick_range(e, 2, run + 2)
    y = dy.concatenate([piece, e, piece])
    of_piece = x[2 : run + 2]
    want = np.concatenate([of_piece, x, of_piece])
    assert np.array_equal(y.npvalue().reshape(want.shape), want)
    g = rng.normal(size=want.shape).astype(DTYPE)
    dy.sum_batches(dy.dot_product(y, dy.inputTensor(g, batched=True))).backward(full=True)
    want = g[run : 2 * run + 3].copy()
    want[2 : run + 2] += g[:run] + g[2 * run + 3 :]
    np.testing.assert_allclose(e.gradient().reshape(want.shape), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("n", [255, 256, 512, 767, 768, 1000, 2048])
def test_circular_sums_of_many_numbers(n, batch, rng):
    """The longer ones by Fourier transforms: values and gradients, of batches, added up where a
    vector is both inputs."""
    u, v, g = rng.normal(size=(n, 2)), rng.normal(size=(n, batch)), rng.normal(size=(n, 2))
    U, V, G, ones = (np.fft.fft(x, axis=0) for x in (u, v, g, np.ones((n, 2))))
    wanted = {
        dy.circ_conv: (U * V, V.conj() * G + 2 * U.conj() * ones, U.conj() * G),
        dy.circ_corr: (U.conj() * V, G.conj() * V + ones.conj() * U + U * ones, U * G),
    }
    for operation, spectra in wanted.items():
        dy.renew_cg()
        a, b, c = (dy.inputTensor(x, batched=True) for x in (u, v, g))
        y = operation(a, b)
        loss = dy.dot_product(y, c) + dy.sum_elems(operation(a, a))
        dy.sum_batches(loss).backward(full=True)
        for got, spectrum in zip((y.npvalue(), a.gradient(), b.gradient()), spectra, strict=True):
            expected = np.fft.ifft(spectrum, axis=0).real
            if got.shape != expected.shape:
                expected = expected.sum(axis=1)
            error = np.abs(got - expected).max() / np.abs(expected).max()
            assert error < 32 * np.finfo(DTYPE).eps, operation
