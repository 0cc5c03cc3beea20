"""Products of matrices rounded to bfloat16 (csrc/kernels/bf16.h), in each way that this processor
has: their values against double, their bits wherever a column stands and however many there are,
special numbers, places that must not be read or written, and no memory.

How long: ten seconds. The sources are compiled by themselves; without a compiler all is skipped.
"""

import ctypes
import mmap
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "csrc" / "kernels"
COMPILER = (os.environ.get("CC") or "cc").split()
WAYS = ["amx", "avx512", "plain"]
SIZES = [1, 2, 3, 15, 16, 17, 31, 32, 33, 50, 64, 100]
BIG = [(200, 300, 70), (33, 1100, 20), (20, 17, 1100), (300, 1, 20), (1, 40, 9), (700, 40, 3)]

pytestmark = [
    pytest.mark.float32,
    pytest.mark.skipif(not shutil.which(COMPILER[0]), reason="needs a C compiler"),
]

FAILING_MEMORY = """
#include <errno.h>
#include <stdlib.h>
static int refused(void **p, size_t a, size_t n) { (void)p, (void)a, (void)n; return ENOMEM; }
#define posix_memalign refused
#include "%s"
"""


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


class Kernels:
    """The functions of bf16.h on NumPy's matrices, column-major, in one of the ways."""

    def __init__(self, path, way):
        self.lib = ctypes.CDLL(str(path))
        self.lib.dn__bf16_isa.restype = ctypes.c_char_p
        self.lib.dn__bf16_packed.restype = ctypes.c_size_t
        if not self.lib.dn__bf16_choose(way.encode()):
            pytest.skip(f"this processor has no {way}")
        assert self.lib.dn__bf16_isa() == way.encode()

    def pack(self, w, transposed=False, into=None):
        m, k = w.shape
        packed = into
        if packed is None:
            size = self.lib.dn__bf16_packed(*((k, m) if transposed else (m, k)))
            packed = aligned(size, np.uint16)
        function = self.lib.dn__bf16_pack_transposed if transposed else self.lib.dn__bf16_pack
        function(m, k, pointer(w), leading(w), pointer(packed))
        return packed

    def mm(self, packed, x, y, beta=0):
        (m, n), k = y.shape, x.shape[0]
        self.lib.dn__bf16_mm(
            m,
            k,
            n,
            pointer(packed),
            pointer(x),
            leading(x),
            ctypes.c_float(beta),
            pointer(y),
            leading(y),
        )
        return y

    def mm_dw(self, dy, x, dw, beta=0):
        m, k = dw.shape
        self.lib.dn__bf16_mm_dw(
            m,
            k,
            x.shape[1],
            pointer(dy),
            leading(dy),
            pointer(x),
            leading(x),
            ctypes.c_float(beta),
            pointer(dw),
            leading(dw),
        )
        return dw

    def all(self, w, x, dy):
        """y, dx and dW."""
        (m, k), n = w.shape, x.shape[1]
        return (
            self.mm(self.pack(w), x, nans(m, n)),
            self.mm(self.pack(w, transposed=True), dy, nans(k, n)),
            self.mm_dw(dy, x, nans(m, k)),
        )


def compiled(folder, *sources):
    library = folder / "kernels.so"
    flags = ["-O2", "-std=gnu11", "-fopenmp-simd", "-shared", "-fPIC"]
    ways = sorted(KERNELS.glob("bf16_*.c"))
    rest = [*map(str, [*sources, *ways]), "-o", str(library), "-lpthread"]
    for clones in ("-DDN_TARGET_CLONES=2", "-DDN_TARGET_CLONES=1", "-UDN_TARGET_CLONES"):
        command = [*COMPILER, *flags, clones, *rest]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return library
    pytest.fail(result.stderr)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("bf16"), KERNELS / "bf16.c")


@pytest.fixture(scope="module")
def library_without_memory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bf16_without_memory")
    (folder / "failing.c").write_text(FAILING_MEMORY % (KERNELS / "bf16.c"))
    return compiled(folder, folder / "failing.c")


@pytest.fixture(params=WAYS)
def kernels(request, library):
    return Kernels(library, request.param)


def aligned(size, dtype):
    """`size` numbers from a multiple of 64 bytes on."""
    block = np.zeros(size * np.dtype(dtype).itemsize + 64, np.uint8)
    start = -block.ctypes.data % 64
    return block[start : start + size * np.dtype(dtype).itemsize].view(dtype)


def leading(a):
    return a.strides[1] // 4


def nans(rows, columns, more=0):
    """A matrix that is full of nan, with `more` rows of distance between its columns."""
    return np.full((rows + more, columns), np.nan, np.float32, order="F")[:rows]


def matrix(rng, rows, columns, more=0, powers=0):
    """Normal numbers times powers of two; what lies between the columns is nan."""
    a = nans(rows, columns, more)
    scales = 2.0 ** rng.integers(-powers, powers + 1, (rows, columns))
    a[:] = rng.normal(size=a.shape) * scales
    return a


def rounded(x):
    """x to bfloat16, ties to even, denormals to zero: by arithmetic in double."""
    x = np.asarray(x, np.float64)
    _, exponents = np.frexp(x)
    unit = 2.0 ** (exponents - 8)
    return np.where(np.abs(x) < 2.0**-126, 0, np.rint(x / unit) * unit)


def assert_close(got, a, b, old=0):
    """Each number of got = a b + old: at most an error of 2^-24 for each product and sum."""
    terms = a.shape[1] + 1
    bound = terms * 2.0**-24 * (np.abs(a) @ np.abs(b) + np.abs(old)) + 1e-37
    assert (np.abs(got - (a @ b + old)) <= bound).all()


def check(kernels, rng, m, k, n):
    w, x, dy = matrix(rng, m, k, 3), matrix(rng, k, n, 1, powers=20), matrix(rng, m, n, 2)
    rw, rx, rdy = rounded(w), rounded(x), rounded(dy)
    packed, transposed = kernels.pack(w), kernels.pack(w, transposed=True)
    for run, shape, a, b in (
        (lambda y, beta: kernels.mm(packed, x, y, beta), (m, n), rw, rx),
        (lambda y, beta: kernels.mm(transposed, dy, y, beta), (k, n), rw.T, rdy),
        (lambda y, beta: kernels.mm_dw(dy, x, y, beta), (m, k), rdy, rx.T),
    ):
        y = nans(*shape, more=5)
        assert_close(run(y, 0), a, b)
        assert np.isnan(y.base[shape[0] :]).all()
        old = matrix(rng, *shape)
        y[:] = old
        assert_close(run(y, 1), a, b, old)
        assert np.isnan(y.base[shape[0] :]).all()


@pytest.mark.parametrize("m", SIZES)
def test_products_of_small_matrices_agree_with_double(kernels, rng, m):
    for k in SIZES:
        for n in (1, 2, 5, 16, 17, 33):
            check(kernels, rng, m, k, n)


@pytest.mark.parametrize(("m", "k", "n"), BIG)
def test_products_of_larger_matrices_agree_with_double(kernels, rng, m, k, n):
    check(kernels, rng, m, k, n)


def test_products_of_nothing(kernels):
    w, none = nans(3, 0), nans(0, 2)
    assert (kernels.mm(kernels.pack(w), none, nans(3, 2)) == 0).all()
    assert (kernels.mm(kernels.pack(w), none, np.ones((3, 2), np.float32, order="F"), 1) == 1).all()
    assert (kernels.mm_dw(nans(3, 0), nans(4, 0), nans(3, 4)) == 0).all()
    kernels.mm(kernels.pack(nans(0, 3)), nans(3, 2), nans(0, 2))
    kernels.mm(kernels.pack(nans(2, 3)), nans(3, 0), nans(2, 0))
    kernels.mm_dw(nans(0, 2), nans(4, 2), nans(0, 4))


def same_bits(a, b):
    return a.shape == b.shape and a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("m", "k"), [(40, 33), (200, 300), (17, 1100), (5, 3)])
def test_a_column_depends_on_its_own_x_alone(kernels, rng, m, k):
    packed, x = kernels.pack(matrix(rng, m, k)), matrix(rng, k, 70)
    whole = kernels.mm(packed, x, nans(m, 70))
    for first, last in ((0, 1), (3, 4), (1, 17), (5, 38), (16, 32), (20, 70), (69, 70)):
        part = kernels.mm(packed, x[:, first:last], nans(m, last - first, 1))
        assert same_bits(part, whole[:, first:last])


def test_a_row_of_w_begins_at_multiples_of_the_unit(kernels, rng):
    """So the rows of one product can be computed apart from one another."""
    unit, m, k, n = 16, 90, 70, 20
    packed, x = kernels.pack(matrix(rng, m, k)), matrix(rng, k, n)
    whole, parts = kernels.mm(packed, x, nans(m, n)), nans(m, n)
    for first in range(0, m, 2 * unit):
        start = kernels.lib.dn__bf16_packed(first, k)
        kernels.mm(packed[start:], x, parts[first : first + 2 * unit])
    assert same_bits(parts, whole)


@pytest.mark.parametrize("n", [1, 5, 70, 1100])
def test_a_number_of_dw_depends_on_its_own_row_and_column_alone(kernels, rng, n):
    m, k = 70, 90
    dy, x = matrix(rng, m, n), matrix(rng, k, n)
    whole = kernels.mm_dw(dy, x, nans(m, k))
    for rows in (slice(0, 1), slice(3, 20), slice(32, 64), slice(5, 70)):
        for columns in (slice(7, 8), slice(0, 90), slice(16, 48), slice(1, 34)):
            shape = rows.stop - rows.start, columns.stop - columns.start
            part = kernels.mm_dw(dy[rows], x[columns], nans(*shape))
            assert same_bits(part, whole[rows, columns])


def guarded(rows, columns, dtype=np.float32):
    """A dense matrix of nan that ends where its process may not read; and one that begins there."""
    size = rows * columns * np.dtype(dtype).itemsize
    room = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    for start in (mmap.PAGESIZE + room - size, mmap.PAGESIZE):
        region = mmap.mmap(-1, room + 2 * mmap.PAGESIZE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(region))
        for page in (address, address + mmap.PAGESIZE + room):
            assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(page), mmap.PAGESIZE, 0) == 0
        a = np.frombuffer(region, dtype, rows * columns, start).reshape(columns, rows).T
        a[:] = np.nan if dtype == np.float32 else 0
        yield a


@pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect")
def test_nothing_beyond_the_matrices_is_touched(kernels, rng):
    for m, k, n in [(1, 1, 1), (17, 33, 3), (16, 32, 16), (50, 31, 37), (65, 2, 18), (3, 70, 1)]:
        w, x, dy = matrix(rng, m, k), matrix(rng, k, n), matrix(rng, m, n)
        expected = kernels.all(w, x, dy)
        packs = [
            guarded(kernels.lib.dn__bf16_packed(*size), 1, np.uint16) for size in ((m, k), (k, m))
        ]
        arrays = [guarded(*shape) for shape in ((m, k), (k, n), (m, n))]
        outputs = [guarded(*y.shape) for y in expected]
        for gw, gx, gdy, y, dx, dw, *packed in zip(*arrays, *outputs, *packs, strict=True):
            gw[:], gx[:], gdy[:] = w, x, dy
            straight, transposed = (p[:, 0] for p in packed)
            kernels.pack(gw, into=straight)
            kernels.pack(gw, transposed=True, into=transposed)
            for beta in (0, 1):
                kernels.mm(straight, gx, y, beta)
                kernels.mm(transposed, gdy, dx, beta)
                kernels.mm_dw(gdy, gx, dw, beta)
                if beta == 0:
                    got = [a.copy() for a in (y, dx, dw)]
            assert all(same_bits(a, b) for a, b in zip(expected, got, strict=True))


def patterns(rng, rows, columns):
    """Numbers of all kinds: any bits, with nan, infinities and denormals among them."""
    bits = rng.integers(0, 1 << 32, (columns, rows), np.uint64).astype(np.uint32)
    return bits.view(np.float32).T


@pytest.mark.parametrize("kind", ["normal", "tiny", "any"])
def test_plain_c_gives_the_bits_of_avx512(library, rng, kind):
    Kernels(library, "avx512")
    for m, k, n in [(1, 1, 1), (40, 33, 19), (100, 257, 5), (16, 64, 65), *BIG]:
        w, x, dy = (matrix(rng, *s, powers=10) for s in ((m, k), (k, n), (m, n)))
        if kind == "tiny":
            w *= np.float32(2.0**-60)
            x *= np.float32(2.0**-64)
            dy *= np.float32(2.0**-62)
        elif kind == "any":
            for a in (w, x, dy):
                a[:] = np.where(rng.random(a.shape) < 0.02, patterns(rng, *a.shape), a)
        both = []
        for way in ("avx512", "plain"):
            kernels = Kernels(library, way)
            packs = kernels.pack(w), kernels.pack(w, transposed=True)
            both.append((*packs, *kernels.all(w, x, dy)))
        for i, (a, b) in enumerate(zip(*both, strict=True)):
            if i < 2:
                assert (a == b).all()
            else:
                assert same_bits(np.where(np.isnan(a), 0, a), np.where(np.isnan(b), 0, b))
                assert (np.isnan(a) == np.isnan(b)).all()


def test_rounding(kernels):
    """To nearest, ties to even; nan and infinity stay; what is too large becomes infinite;
    denormals become zero."""
    one = 1 + 2.0**-7
    cases = {
        1.0: 1.0,
        1 + 2.0**-8: 1.0,
        one + 2.0**-8: 1 + 2.0**-6,
        1 + 2.0**-8 + 2.0**-20: one,
        -(1 + 2.0**-9): -1.0,
        3.4e38: np.inf,
        -3.4e38: -np.inf,
        np.inf: np.inf,
        2.0**-126: 2.0**-126,
        2.0**-127: 0.0,
        -1e-45: 0.0,
    }
    x = np.array([[*cases, np.nan]], np.float32, order="F")
    y = kernels.mm(kernels.pack(np.ones((1, 1), np.float32)), x, nans(1, x.size))
    assert (y[0, :-1] == np.array([*cases.values()], np.float32)).all() and np.isnan(y[0, -1])
    w = np.asfortranarray(x.T)
    y = kernels.mm(kernels.pack(w), np.ones((1, 1), np.float32), nans(x.size, 1))
    assert (y[:-1, 0] == np.array([*cases.values()], np.float32)).all() and np.isnan(y[-1, 0])


def test_products_make_no_denormals_and_others_still_do(kernels):
    last = 31  # of the terms: what comes after it would flush a sum as well
    w, x = (np.zeros(shape, np.float32, order="F") for shape in ((1, last), (last, 3)))
    w[:, -1], x[-1] = 2.0**-70, [2.0**-56, 2.0**-57, -(2.0**-79)]
    wanted = [[2.0**-126, 0, 0]]
    assert kernels.mm(kernels.pack(w), x, nans(1, 3)).tolist() == wanted
    assert kernels.mm_dw(w, np.asfortranarray(x.T), nans(1, 3)).tolist() == wanted
    assert (x[-1] * w[:, -1]).all(), "the processor's mode must be as it was"


def test_every_nan_stays_one(kernels):
    bits = np.concatenate([np.uint32(0x7F800000) + (np.uint32(1) << np.arange(23)), [0x7FFFFFFF]])
    x = np.concatenate([bits, bits | 0x80000000]).astype(np.uint32).view(np.float32)[None]
    one = np.ones((1, 1), np.float32)
    assert np.isnan(kernels.mm(kernels.pack(one), np.asfortranarray(x), nans(1, x.size))).all()


def test_infinities_stay_in_their_columns_and_rows(kernels, rng):
    w, x = matrix(rng, 20, 30), matrix(rng, 30, 40)
    x[4, 7], w[18, 29] = np.inf, np.nan
    y = kernels.mm(kernels.pack(w), x, nans(20, 40))
    odd = np.zeros(y.shape, bool)
    odd[:, 7] = odd[18] = True
    assert (np.isfinite(y) == ~odd).all()


@pytest.mark.parametrize("way", WAYS)
def test_without_memory_the_bits_are_the_same(library, library_without_memory, rng, way):
    for m, k, n in [(40, 33, 19), *BIG]:
        w, x, dy = matrix(rng, m, k), matrix(rng, k, n), matrix(rng, m, n)
        with_memory = Kernels(library, way).all(w, x, dy)
        for a, b in zip(
            with_memory, Kernels(library_without_memory, way).all(w, x, dy), strict=True
        ):
            assert same_bits(a, b)


def test_threads_have_working_memory_of_their_own(kernels, rng):
    w, x, dy = matrix(rng, 200, 300), matrix(rng, 300, 70), matrix(rng, 200, 70)
    alone = kernels.all(w, x, dy)
    results = []

    def work():
        results.append([kernels.all(w, x, dy) for _ in range(5)])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 4
    for result in (r for several in results for r in several):
        assert all(same_bits(a, b) for a, b in zip(alone, result, strict=True))
