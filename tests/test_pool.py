"""Several threads at one computation: the same bits for every number of threads, whoever computes
what; no threads where none are asked for.

How long: fifteen seconds on one core.
"""

import os
import random
import threading
import time
from pathlib import Path

import fuzz
import fuzz_worker
import numpy as np
import pytest
from fuzz_programs import Deck, drawn
from fuzz_source import Mode, source
from processes import output_of, run_python
from test_threads import together

import dist_dynet as dy
from dist_dynet._ffi import lib

NUMBERS = (2, 3, 5)
ALL_SHARED = "from dist_dynet._ffi import lib; lib.dn_share_work(0, 0)\n"


@pytest.fixture(autouse=True)
def all_shared(usual_threads):
    """However small a computation is, it is cut into pieces, of several threads."""
    lib.dn_share_work(0, 0)
    dy.init(threads=1)


def with_threads(n, f):
    """What f() returns when so many threads compute."""
    dy.init(threads=n)
    return f()


def threads_of_the_pool():
    """Those that no signal is for."""
    masks = [
        line.split()[1]
        for task in Path("/proc/self/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("SigBlk:")
    ]
    return sum(int(mask, 16) & 0x7FFFFFFF == 0x7FFFFFFF & ~(1 << 8 | 1 << 18) for mask in masks)


@pytest.mark.parametrize("seed", range(24))
def test_drawn_programs_have_the_same_bits(seed):
    program = drawn(seed, Deck(random.Random(seed)))
    lines = source(program, Mode(autobatching=seed % 4))
    expected = with_threads(1, lambda: fuzz_worker.run(lines))
    for n in NUMBERS:
        got = with_threads(n, lambda: fuzz_worker.run(lines))
        assert not fuzz.difference(got, expected, True, 0, False), n


def bits_of_training(autobatching=0, steps=3):
    """Losses, gradients and parameters of a model with sequences, rows, large products, a traced
    function and a softmax of a large vocabulary."""
    rng = np.random.default_rng(1)
    dy.renew_cg()
    m = dy.ParameterCollection()

    table = m.lookup_parameters_from_numpy(rng.normal(size=(400, 40)))
    lstm = dy.VanillaLSTMBuilder(1, 40, 70, m)
    gru = dy.GRUBuilder(1, 70, 33, m)
    W, b, V = (m.add_parameters(shape) for shape in ((700, 70), 700, (33, 33)))
    for p in m.parameters_list():
        p.set_value(rng.normal(size=p.shape()) * 0.3)
    cell = dy.traced(lambda h: dy.tanh(V * h))
    trainer, bits = dy.AdamTrainer(m), []
    trainer.set_clip_threshold(1)
    for _ in range(steps):
        dy.renew_cg(autobatching=autobatching)
        sentences = [rng.integers(400, size=rng.integers(4, 12)).tolist() for _ in range(20)]
        words = [w for s in sentences for w in s]
        x = dy.lookup_batch(table, words)
        h, _ = lstm.initial_state().transduce_packed(x, [len(s) for s in sentences])
        scores = dy.affine_transform([b, W, h])
        loss = dy.sum_batches(dy.pickneglogsoftmax_batch(scores, words))
        loss += dy.sum_elems(dy.sum_batches(dy.sin(dy.softmax(scores) * 9000)))
        for s in sentences[:6]:
            hs = lstm.initial_state().transduce([table[w] for w in s])
            g = gru.initial_state().transduce(hs)[-1]
            loss += dy.sum_elems(cell(cell(g)))
            loss += dy.cross_entropy(dy.affine_transform([b, W, hs[-1]]), s[0])
        bits.append(np.array(loss.value()).tobytes())
        loss.backward()
        bits += [p.grad_as_array().tobytes() for p in m.parameters_list()]
        trainer.update()
    bits += [p.as_array().tobytes() for p in (*m.parameters_list(), table)]
    return bits


@pytest.mark.parametrize("autobatching", [0, 1, 3])
def test_training_has_the_same_bits(autobatching):
    expected = with_threads(1, lambda: bits_of_training(autobatching))
    for n in NUMBERS:
        assert with_threads(n, lambda: bits_of_training(autobatching)) == expected, n


def test_training_has_the_same_bits_at_the_usual_size_of_pieces():
    lib.dn_share_work(60000, 12000)
    expected = with_threads(1, bits_of_training)
    assert with_threads(2, bits_of_training) == expected


def test_threads_of_a_program_take_turns_at_the_pool():
    expected = with_threads(1, bits_of_training)
    dy.init(threads=3)
    assert together(*[bits_of_training] * 4) == [expected] * 4


PRODUCTS = """
import numpy as np
import dist_dynet as dy

numbers = np.random.default_rng(1).normal(size=4_000_000)

def product(m, k, n):
    a, b, c = np.split(numbers[: m * k + k * n + m * n], [m * k, m * k + k * n])
    dy.renew_cg()
    p = dy.ParameterCollection()
    w, x = p.parameters_from_numpy(a.reshape(m, k)), p.parameters_from_numpy(b.reshape(k, n))
    y = w * x
    loss = dy.sum_elems(dy.cmult(y, dy.inputTensor(c.reshape(m, n))))
    loss.backward()
    return [a.tobytes() for a in (y.npvalue(), w.grad_as_array(), x.grad_as_array())]

SHAPES = [
    (512, 300, 64), (517, 301, 65), (1029, 97, 400), (300, 300, 300), (97, 64, 3000),
    (50, 100, 2000), (17, 500, 900), (5, 2000, 700), (2003, 3, 700), (9001, 40, 1),
    (9001, 40, 2), (1, 3000, 900), (200, 2000, 16), (2000, 90, 129), (777, 333, 222),
    (128, 3000, 100), (33, 2500, 33), (2, 2, 2), (2000, 256, 256), (600, 145, 250),
]
drawn = np.random.default_rng(7)
SHAPES += [tuple(map(int, np.exp(drawn.uniform(0, np.log(700), 3)))) for _ in range(100)]
SHAPES += [tuple(map(int, drawn.uniform(50, 300, 3))) for _ in range(100)]
SHAPES += [(m, k, n) for m in (2, 5, 10, 20) for k in (73, 100, 600) for n in (70, 700)]
SHAPES += [(m, k, n) for k in (2, 5, 10, 20) for m in (40, 100, 600) for n in (70, 700)]
SHAPES += [(300, 64, n) for n in range(60, 160)]  # about as many columns as a piece has
dy.init(threads=1)
whole = [product(*s) for s in SHAPES]
for n in (2, 5):
    dy.init(threads=n)
    print([s for s, w in zip(SHAPES, whole, strict=True) if product(*s) != w])
"""


@pytest.mark.parametrize("blas", ["", "Haswell", "Nehalem", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_of_all_forms_have_the_same_bits(dtype, blas):
    chosen = {"DIST_DYNET_BLAS": "none"} if blas == "none" else {"OPENBLAS_CORETYPE": blas}
    shown = output_of(ALL_SHARED + PRODUCTS, DIST_DYNET_DTYPE=dtype, **chosen)
    assert shown == "[]\n[]\n"


# ---- life ------------------------------------------------------------------------------


def test_threads_are_made_when_they_are_needed_and_end_when_they_are_too_many():
    before = threads_of_the_pool()
    dy.init(threads=4)
    assert threads_of_the_pool() == before
    bits_of_training(steps=1)
    assert threads_of_the_pool() == before + 3
    dy.init(threads=2)
    bits_of_training(steps=1)
    assert threads_of_the_pool() == before + 1
    dy.init(threads=1)
    bits_of_training(steps=1)
    assert threads_of_the_pool() == before


def test_threads_that_watch_for_work_soon_sleep():
    dy.init(threads=3)
    bits_of_training(steps=1)
    assert threads_of_the_pool() == 2
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


def test_the_number_of_threads_changes_while_they_watch():
    lib.dn_share_work(60000, 12000)
    expected = with_threads(1, lambda: bits_of_training(steps=1))
    before = threads_of_the_pool()
    for n in (2, 4, 3, 1, 5, 2, 1):
        assert with_threads(n, lambda: bits_of_training(steps=1)) == expected
        assert threads_of_the_pool() == before + n - 1


def test_another_number_of_threads_forgets_that_one_had_lost_its_core():
    expected = with_threads(1, lambda: bits_of_training(steps=1))
    before = threads_of_the_pool()
    dy.init(threads=2)
    lib.dn_compute_alone(60e9)
    assert bits_of_training(steps=1) == expected and threads_of_the_pool() == before
    assert with_threads(4, lambda: bits_of_training(steps=1)) == expected
    assert threads_of_the_pool() == before + 3


@pytest.mark.parametrize("alone", [0, 60e9], ids=["", "whatever its parent's had lost"])
def test_child_has_threads_of_its_own(alone):
    expected = with_threads(1, bits_of_training)
    dy.init(threads=3)
    assert bits_of_training() == expected
    lib.dn_compute_alone(alone)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        same = bits_of_training() == expected
        os.write(write, f"{same} {threads_of_the_pool()}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 100) == b"True 2"
    os.close(read), os.close(write)
    assert bits_of_training() == expected


def test_child_of_a_busy_parent_computes():
    expected = with_threads(1, bits_of_training)
    dy.init(threads=3)
    stop = threading.Event()

    def keep_busy():
        while not stop.is_set():
            bits_of_training(steps=1)

    other = threading.Thread(target=keep_busy)
    other.start()
    try:
        for _ in range(5):
            child = os.fork()
            if not child:
                lib.dn_set_threads(2)
                os._exit(0 if lib.dn_threads() == 2 else 1)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        other.join()
    assert bits_of_training() == expected


def test_a_thread_that_cannot_be_made_is_done_without(shim):
    code = """
import memory_short, test_pool
import dist_dynet as dy
memory_short.watch_the_package()
expected = test_pool.bits_of_training(steps=1)
graph = dy.renew_cg()
y = dy.tanh(dy.inputTensor([0.5] * 100000))
y.value()
for left in (1, 2):
    dy.renew_cg()
    x = dy.inputTensor([0.5] * 100000)
    dy.init(threads=4)
    memory_short.fail_from(left, True)
    y = dy.tanh(x).npvalue()
    failures = memory_short.shim.shim_failures()
    memory_short.fail_from(0, False)
    print(failures > 0, test_pool.threads_of_the_pool(), set(y.tolist()) == {y[0]})
    print(test_pool.bits_of_training(steps=1) == expected, test_pool.threads_of_the_pool())
    dy.init(threads=1)
"""
    shown = output_of(ALL_SHARED + code, LD_PRELOAD=shim, DIST_DYNET_THREADS="1")
    assert shown == "True 0 True\nTrue 0\nTrue 1 True\nTrue 1\n"


def test_one_thread_makes_none():
    code = "import test_pool; test_pool.bits_of_training(); print(test_pool.threads_of_the_pool())"
    assert output_of(ALL_SHARED + code, DIST_DYNET_THREADS="1") == "0\n"
    assert output_of(ALL_SHARED + code, DIST_DYNET_THREADS="3") == "2\n"


def test_ctrl_c_ends_a_computation_of_several_threads():
    code = """
import signal, test_pool, dist_dynet as dy
dy.init(threads=3)
signal.setitimer(signal.ITIMER_REAL, 0.5, 5)  # again, if Python drops the first
signal.signal(signal.SIGALRM, signal.default_int_handler)
try:
    while True:
        test_pool.bits_of_training(steps=1)
except KeyboardInterrupt:
    signal.setitimer(signal.ITIMER_REAL, 0)
    print(len(test_pool.bits_of_training(steps=1)) > 0)
"""
    assert output_of(ALL_SHARED + code) == "True\n"


# ---- the setting -----------------------------------------------------------------------


def test_threads_are_set_by_init_and_by_the_environment():
    dy.init(threads=3)
    dy.init()
    assert lib.dn_threads() == 3
    show = "from dist_dynet._ffi import lib; print(lib.dn_threads())"
    assert output_of(show, DIST_DYNET_THREADS="") == "1\n"
    assert output_of(show, DIST_DYNET_THREADS="4") == "4\n"


@pytest.mark.parametrize("threads", [0, -1, 1.5, "many", 10**6])
def test_a_number_of_threads_that_makes_no_sense_changes_nothing(threads):
    dy.init(threads=2)
    with pytest.raises(ValueError, match=r"^set_threads: takes "):
        dy.init(threads=threads, random_seed=3)
    assert lib.dn_threads() == 2
    result = run_python("-c", "import dist_dynet", DIST_DYNET_THREADS=str(threads))
    assert "ImportError: DIST_DYNET_THREADS: takes " in result.stderr
