"""The exchange in shared memory, one property after the other on every rank: shared.py WHAT...

Rank 0 prints "ok" after each.
"""

import gc
import os
import signal
import sys
import time

import numpy as np
import pytest
from forked import in_a_child

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._ffi import lib
from dist_dynet.parallel import engines, memory, shared
from dist_dynet.parallel._world import World
from dist_dynet.parallel.negotiation import AsPlanned, Step
from dist_dynet.trainers.state import Settings

rank, size = parallel.rank(), parallel.world_size()


def model_of(*shapes):
    """A collection with these parameters, the same on all ranks."""
    m = dy.ParameterCollection()
    return m, [m.add_parameters(shape, init=0.5) for shape in shapes]


def step(*parameters, by=1.0):
    """A backward pass whose gradient of each of the parameters is `by` everywhere."""
    dy.renew_cg()
    dy.esum([dy.sum_elems(p) * by for p in parameters]).backward()


def distributed(m, **options):
    """A trainer that subtracts the averaged gradient."""
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1.0), **options)
    trainer.set_clip_threshold(0)
    return trainer


def places(m):
    """Where the chunks' gradients are."""
    return [lib.dn_chunk_gradients(m._root.c, chunk) for chunk in range(m._root.chunks())]


def is_shared(m):
    """For each chunk, whether its gradients are in memory that the ranks share."""
    memory = shared._memories.get(m._root.c)
    return [
        memory is not None and chunk in memory.chunks and memory.chunks[chunk].mine == at
        for chunk, at in enumerate(places(m))
    ]


def test_chunks_move_and_return():
    m, (w,) = model_of((3, 4))
    trainer = distributed(m)
    assert is_shared(m) == [False]
    step(w, by=rank)
    trainer.update()
    assert is_shared(m) == [True]
    assert np.allclose(w.as_array(), 0.5 - (size - 1) / 2)
    second = distributed(m)  # two trainers, one memory
    step(w)
    second.update()
    at = places(m)
    del trainer
    gc.collect()
    step(w)
    assert is_shared(m) == [True] and places(m) == at
    del second
    gc.collect()
    assert is_shared(m) == [False] and places(m) != at
    assert w.grad_as_array().tolist() == np.ones((3, 4)).tolist()


def test_late_parameters_and_chunks():
    m, (w,) = model_of(5)
    trainer = distributed(m)
    for k in range(4):
        step(w, by=rank)
        trainer.update()
        w = m.add_parameters((300, 100 + k), init=0.25 if rank == 0 else 9.0)
        trainer.update()
        step(w, by=rank + 1)
        trainer.update()
        assert np.allclose(w.as_array(), 0.25 - (size + 1) / 2)
        w = m.add_parameters(2, init=1)
        trainer.update()
    assert len(is_shared(m)) > 1 and all(is_shared(m))
    parallel.assert_in_sync(m)


def test_used_on_one_rank_and_frozen():
    m, (a, b, c, d) = model_of(40, (20, 30), 7, 5)
    trainer = distributed(m, average="sum")
    c.set_updated(False)
    step(a, b, c, d)
    trainer.update()  # all: so that old numbers lie in every gradient
    expected = {p: 0.5 - size for p in (a, b, d)} | {c: 0.5}
    for one in range(size):
        step(*([a, b] if rank == one else [a]), by=one + 1)
        trainer.update()
        expected[a] -= size * (one + 1)
        expected[b] -= one + 1
        assert all((p.as_array() == expected[p]).all() for p in expected)
        if rank == one:
            assert not b.has_gradient()
    trainer.update()  # nobody has used anything
    assert all((p.as_array() == expected[p]).all() for p in expected)
    c.set_updated(True)
    step(c)
    trainer.update()
    assert (c.as_array() == 0.5 - size).all()
    parallel.assert_in_sync(m)


def rows_step(table, *rows, by=1.0):
    """A backward pass whose gradient is `by` in these rows."""
    dy.renew_cg()
    dy.esum([dy.sum_elems(table[row]) * by for row in rows]).backward()


def test_rows_of_buffers_that_grow():
    m = dy.ParameterCollection()
    first, second = (m.add_lookup_parameters((40, width), init=0) for width in (3, 5))
    trainer = distributed(m, average="sum")
    expected = np.zeros(40)
    for used in (1, 2, 9, 40, 3):
        rows = [(rank + k) % 40 for k in range(used + rank % 2)]
        rows_step(first, *rows, by=rank + 1)
        if rank == 1 and used == 9:
            dy.sum_elems(second[7]).backward()  # a table that one rank has used
        trainer.update()
        for r in range(size):
            for k in range(used + r % 2):
                expected[(r + k) % 40] -= r + 1
        assert (first.as_array() == expected[:, None]).all(), used
    assert (second.as_array() == [[-1.0 * (row == 7)] * 5 for row in range(40)]).all()
    assert {window.capacity for window in trainer.sync.exchange._buffers.values()} == {40, 2}
    parallel.assert_in_sync(m)


PATTERNS = [[True, True, True], [True, False, True], [False, True, False], [False, False, False]]


def random_updates(seed, count):
    """For each update: of each rank the dense parameters it uses, its rows with their gradients,
    and its weight. The same on all ranks."""
    rng = np.random.default_rng(seed)
    used, most = [PATTERNS[0]] * size, 4
    for k in range(count):
        if rng.random() < 0.3:
            used = [PATTERNS[rng.integers(len(PATTERNS))] for _ in range(size)]
        most = 25 if k > count / 2 else most
        weights = rng.choice(4, size, p=[0.04, 0.32, 0.32, 0.32]).tolist()
        yield [
            (used[r], rng.integers(0, 30, rng.integers(0, most)), weights[r]) for r in range(size)
        ]


def steady_updates(average):
    """Updates of changing parameters, against sums in NumPy; returns how many of them went without
    Python."""
    m, parameters = model_of(40, (20, 30), 7)
    table = m.add_lookup_parameters((30, 5), init=0)
    trainer = distributed(m, average=average)
    expected, of_rows = [0.5] * 3, np.zeros(30)
    for update in random_updates(7, 60):
        total = sum(weight for _, _, weight in update) if average == "weighted" else 1
        for r, (used, rows, weight) in enumerate(update):
            factor = (r + 1) * (
                weight / total if total and average == "weighted" else average == "sum"
            )
            expected = [
                value - factor * is_used for value, is_used in zip(expected, used, strict=True)
            ]
            np.subtract.at(of_rows, rows, factor)
        used, rows, weight = update[rank]
        dy.renew_cg()
        terms = [dy.sum_elems(p) for p, is_used in zip(parameters, used, strict=True) if is_used]
        terms += [dy.sum_elems(table[int(row)]) for row in rows]
        if terms:
            (dy.esum(terms) * (rank + 1)).backward()
        trainer.update(*([weight] if average == "weighted" else []))
        for p, value in zip(parameters, expected, strict=True):
            assert np.allclose(p.as_array(), value, atol=1e-4)
        assert np.allclose(table.as_array(), of_rows[:, None], atol=1e-4)
        assert not any(p.has_gradient() for p in [*parameters, table])
    parallel.assert_in_sync(m)
    return trainer.sync.exchange.quick


def test_negotiation_adds_up_nothing():
    """In the first update, and in the steady state; the sum does."""
    m, (w,) = model_of((3, 4))
    table = m.add_lookup_parameters((5, 2), init=0.5)
    trainer = distributed(m, average="sum")
    planned = []
    for _ in range(4):
        dy.renew_cg()
        ((dy.sum_elems(w) + dy.sum_elems(table[rank])) * (rank + 1)).backward()
        mine = [np.asarray(p.grad_as_array()) for p in (w, table)]
        agreed = trainer.sync.negotiation.reach(1.0, Settings.of(trainer.inner), Step())
        assert all(
            np.array_equal(p.grad_as_array(), g) for p, g in zip((w, table), mine, strict=True)
        )
        parallel.barrier()  # others may add up in this rank's memory, too
        trainer.sync.exchange.sum(agreed)
        assert (w.grad_as_array() == size * (size + 1) / 2).all()
        assert (table.grad_as_array()[:size, 0] == np.arange(1, size + 1)).all()
        m.reset_gradients()
        planned.append(isinstance(agreed, AsPlanned))
    assert planned == [False, True, True, True]


def test_updates_go_without_python():
    for average in ("sum", "weighted"):
        # all 60 but the first, and those in which the table's window grows
        assert steady_updates(average) >= 55


def test_other_parameters_in_each_update_go_without_python():
    """Sets that come in turn, other ones on each rank, random ones; parameters that come later, and
    frozen ones."""
    m = dy.ParameterCollection()
    parameters = [m.add_parameters((1 + 7 * k, 3), init=0) for k in range(12)]
    table, used_later = (m.add_lookup_parameters((500, 4), init=0) for _ in range(2))
    trainer = distributed(m, average="sum")
    expected, of_table, updates, rng = [0.0] * 12, np.zeros(500), 0, np.random.default_rng(5)
    sets = [[k for k in range(12) if (k + 1) * (s + 3) % 5 < 3] for s in range(8)]
    frozen = set()

    def update(of_ranks, rows):
        """One update in which each rank uses these parameters, and rows of the table."""
        for r, used in enumerate(of_ranks):
            for k in set(used) - frozen:
                expected[k] -= r + 1
            of_table[rows[r]] -= r + 1
        dy.renew_cg()
        terms = [dy.sum_elems(parameters[k]) for k in of_ranks[rank]] + [
            dy.sum_elems(table[row]) for row in rows[rank]
        ]
        if terms:
            (dy.esum(terms) * (rank + 1)).backward()
        trainer.update()

    def check(started, before, wanted):
        """The values, and how many of the updates since then went without Python."""
        assert all(
            (p.as_array() == value).all() for p, value in zip(parameters, expected, strict=True)
        )
        assert (table.as_array() == of_table[:, None]).all()
        assert trainer.sync.exchange.quick - before >= wanted * (updates - started), (
            trainer.sync.exchange.quick - before,
            updates - started,
        )

    def some_rows(most):
        return [
            rng.choice(500, int(rng.integers(0, most)), replace=False).tolist() for _ in range(size)
        ]

    for n_sets, same in ((2, True), (8, True), (8, False)):
        started, before = updates, trainer.sync.exchange.quick
        for k in range(100):
            update(
                [sets[(k if same else k * (r + 1) + r) % n_sets] for r in range(size)], some_rows(4)
            )
            updates += 1
        check(started, before, 0.95)
    started, before = updates, trainer.sync.exchange.quick
    for k in range(200):  # any sets, and windows that grow
        update(
            [np.flatnonzero(rng.random(12) < 0.5).tolist() for _ in range(size)], some_rows(2 + k)
        )
        updates += 1
    check(started, before, 0.95)
    started, before = updates, trainer.sync.exchange.quick
    for k in range(150):
        if k % 50 == 10:  # in the middle, also of tables; each takes an update or two in Python
            parameters.append(m.add_parameters(40, init=0))
            expected.append(0.0)
        if k % 50 == 30:
            parameters[k // 50].set_updated(False)
            frozen.add(k // 50)
        if k == 140:
            parameters[0].set_updated(True)
            frozen.remove(0)
        update(
            [np.flatnonzero(rng.random(len(parameters)) < 0.5).tolist() for _ in range(size)],
            some_rows(9),
        )
        updates += 1
    check(started, before, 0.95)
    assert not used_later.has_gradient()
    parallel.assert_in_sync(m)


def test_stack_parser_goes_without_python():
    """Each sentence composes or does not, so that the ranks use other parameters."""
    m = dy.ParameterCollection()
    stack, buffer = (dy.VanillaLSTMBuilder(1, 4, 5, m) for _ in range(2))
    words, root = m.add_lookup_parameters((50, 4)), m.add_parameters(4)
    compositions = [m.add_parameters((4, 8)) for _ in range(20)]  # one for each label
    W = m.add_parameters((2, 10))
    trainer, rng = parallel.DistributedTrainer(dy.AdamTrainer(m)), np.random.default_rng(rank)
    for _ in range(100):
        dy.renew_cg()
        tops, losses = [(stack.initial_state().add_input(root), root)], []
        state = buffer.initial_state()
        for word in rng.integers(0, 50, rng.integers(1, 6)).tolist():
            state = state.add_input(words[word])
            tops.append((tops[-1][0].add_input(words[word]), words[word]))
            if len(tops) > 2 and rng.random() < 0.5:
                x = dy.tanh(
                    compositions[rng.integers(20)] * dy.concatenate([tops.pop()[1], tops.pop()[1]])
                )
                tops.append((tops[-1][0].add_input(x), x))
            losses.append(
                dy.pickneglogsoftmax(
                    W * dy.concatenate([tops[-1][0].output(), state.output()]), int(rng.integers(2))
                )
            )
        dy.average(losses).backward()
        trainer.update()
    assert trainer.sync.exchange.quick >= 95
    parallel.assert_in_sync(m)


def test_steady_updates_of_a_parameter_that_was_frozen():
    m, (a, b) = model_of(4, 5)
    trainer = distributed(m, average="sum")
    for _ in range(3):
        step(*([a, b] if rank else [a]))
        trainer.update()
    b.set_updated(rank > 0)
    step(*([a, b] if rank else [a]))
    trainer.update()


def test_steady_updates_with_settings_that_change():
    m, (w,) = model_of(4)
    trainer = distributed(m, average="sum")
    for k in range(4):
        step(w)
        if k == 3 and rank == 1:
            trainer.learning_rate = 0.5
        trainer.update()


def test_steady_updates_between_other_meetings():
    m, (w,) = model_of(4)
    trainer, second = distributed(m, average="sum"), distributed(m, average="mean")
    for k in range(6):
        step(w)
        (trainer, second)[k % 2].update()
        assert parallel.all_reduce(k, "sum") == k * size
        if k == 3:
            parallel.barrier()
    assert np.allclose(w.as_array(), 0.5 - 3 * size - 3)
    extra = m.add_parameters(9, init=0)
    for _ in range(3):
        step(w, extra)
        trainer.update()
    assert np.allclose(extra.as_array(), -3 * size)


def test_update_after_an_interrupted_one():
    m, (w,) = model_of(4)
    trainer = distributed(m, average="sum", timeout=0.5)
    for _ in range(2):
        step(w)
        trainer.update()
    step(w)
    if rank == 0:
        with pytest.raises(TimeoutError, match=r"waited 0\.5 s for"):
            trainer.update()
        with pytest.raises(
            RuntimeError, match="was interrupted, so that this rank is out of step with the others"
        ):
            trainer.update()
        print("ok", flush=True)
        parallel.barrier()
    else:
        time.sleep(1.5)
        parallel.barrier()
    sys.exit(0)


def test_report_that_outgrows_the_buffers():
    m, (w,) = model_of(4)
    trainer = distributed(m, average="sum")
    step(w)
    trainer.update()
    many = [m.add_parameters(1, init=0) for _ in range(2000)]
    for _ in range(3):
        step(*many)
        trainer.update()
    assert all(p.as_array() == -3 * size for p in many)


def test_no_memory_for_rows():
    m, (w,) = model_of(3)
    table = m.add_lookup_parameters((100, 20000), init=0)
    trainer = distributed(m, average="sum")
    for k in range(3):
        dy.renew_cg()
        (dy.sum_elems(w) + dy.sum_elems(table[k + rank])).backward()
        trainer.update()
    assert (w.as_array() == 0.5 - 3 * size).all() and -table.as_array()[:, 0].sum() == 3 * size
    parallel.assert_in_sync(m)


def test_fork():
    m, (w,) = model_of((50, 50))
    trainer = distributed(m)
    step(w)
    trainer.update()
    step(w, by=rank + 1)

    def updates_by_itself():
        assert not any(is_shared(m))
        assert (w.grad_as_array() == rank + 1).all()
        step(w, by=100)
        trainer.inner.update()
        assert (w.as_array() == -0.5 - (rank + 101)).all()

    in_a_child(updates_by_itself)
    assert all(is_shared(m)) and (w.grad_as_array() == rank + 1).all()
    trainer.update()
    assert (w.as_array() == -0.5 - (size + 1) / 2).all()


def test_no_memory():
    m, (w,) = model_of((100, 30))
    trainer = distributed(m)
    for _ in range(3):
        step(w, by=rank)
        trainer.update()
    assert isinstance(trainer.sync.exchange, shared.SharedExchange)
    assert not any(is_shared(m))
    assert np.allclose(w.as_array(), 0.5 - 3 * (size - 1) / 2)


def test_no_memory_later():
    m, (w,) = model_of((100, 30))
    trainer = distributed(m)
    step(w)
    trainer.update()
    assert is_shared(m) == [True]
    v = m.add_parameters((1000, 400), init=0)
    step(w, v)
    trainer.update()
    assert is_shared(m) == [False, False]
    parallel.assert_in_sync(m)


def test_memory_outlives_the_trainer_of_a_graph():
    m, (w,) = model_of(3)
    trainer = distributed(m)
    step(w)
    trainer.update()
    dy.renew_cg()
    loss = dy.sum_elems(w)
    del m, w, trainer
    gc.collect()
    loss.backward()  # the graph keeps the root, nobody the mapping


def test_trainer_that_ends_inside_of_backward():
    m, (w,) = model_of(3)
    trainer = distributed(m)
    step(w)
    trainer.update()
    trainers = [trainer]
    del trainer

    def backward(inputs, y, dy):
        trainers.clear()
        gc.collect()
        return [dy]

    dy.renew_cg()
    loss = dy.sum_elems(dy.function(lambda x: x, backward, 3)(w))
    loss.backward()
    assert w.grad_as_array().tolist() == [1] * 3 and is_shared(m) == [False]


def test_trainers_that_end_give_back_what_they_had():
    made, duplicate = [], World.duplicate
    World.duplicate = lambda *args, **named: made.append(duplicate(*args, **named)) or made[-1]
    m, (w,) = model_of(3)
    kept = distributed(m, average="sum")
    for _ in range(20):
        trainer = distributed(m, average="sum")
        parallel.Checkpointer("never written", m, trainer)
        step(w)
        trainer.update()
        step(w)
        kept.update()
        del trainer
        gc.collect()  # a Checkpointer and its trainer know one another
    World.duplicate = duplicate
    assert len(made) == 62 and sum(bool(comm) for comm in made) < 8  # one that was freed is false
    assert (w.as_array() == 0.5 - 40 * size).all()


class BusyLibrary:
    """C's functions, where another thread always uses the root."""

    def __getattr__(self, name):
        return (
            (lambda *_: lib.DN_ERROR_BUSY)
            if name == "dn_chunk_move_gradients"
            else getattr(lib, name)
        )


def test_trainer_that_ends_while_the_root_is_in_use():
    m, (w,) = model_of(3)
    trainer = distributed(m)
    step(w)
    trainer.update()
    at = places(m)
    shared.lib = BusyLibrary()
    del trainer
    gc.collect()
    shared.lib = lib
    step(w)
    assert places(m) == at and len(shared._stuck) == 1
    trainer = distributed(m)
    trainer.update()
    assert is_shared(m) == [True] and not shared._stuck
    assert (w.as_array() == 0.5 - 1 - 1).all()


def test_other_layout_falls_back():
    m = dy.ParameterCollection()
    if rank == 1:  # a tree's other collections take room in the chunks, too
        m.add_subcollection("other").add_parameters(100)
    inner = m.add_subcollection("sub")
    w = inner.add_parameters(3, init=0.5)
    trainer = distributed(inner)
    step(w)
    trainer.update()
    assert not any(is_shared(m)) and (w.as_array() != 0.5).all()


def test_choice():
    m, _ = model_of(3)
    for engine, kind in (
        ("mpi", engines.MpiExchange),
        ("shared", shared.SharedExchange),
        (None, shared.SharedExchange),
    ):
        assert (
            type(parallel.DistributedTrainer(dy.SimpleSGDTrainer(m), exchange=engine).sync.exchange)
            is kind
        )
    with pytest.raises(
        RuntimeError,
        match=(
            "must be the same on all ranks; got rank 0: mpi, True, None; rank 1: shared, True, None"
        ),
    ):
        parallel.DistributedTrainer(dy.SimpleSGDTrainer(m), exchange="shared" if rank else "mpi")


def test_several_hosts():
    m, _ = model_of(3)
    engines._host = lambda: (str(rank),)
    assert type(distributed(m).sync.exchange) is engines.HybridExchange
    with pytest.raises(RuntimeError, match="needs all ranks on one Linux host"):
        distributed(m, exchange="shared")
    engines._host = lambda: None
    assert type(distributed(m).sync.exchange) is engines.MpiExchange


def test_file_in_dev_shm():
    if hasattr(os, "memfd_create"):
        del os.memfd_create
    m, (w,) = model_of((30, 40))
    trainer = distributed(m)
    step(w, by=rank)
    trainer.update()
    assert is_shared(m) == [True] and np.allclose(w.as_array(), 0.5 - (size - 1) / 2)


def test_no_file():
    def refuse():
        raise PermissionError("no files today")

    memory._nameless_file = refuse
    test_no_memory()


def test_no_memory_on_one_rank():
    if rank == 1:
        memory.LIMIT = 1000
    test_no_memory()


def test_killed():
    m, (w,) = model_of((1000, 1000))
    trainer = distributed(m)
    for _ in range(3):
        step(w)
        trainer.update()
    assert all(is_shared(m))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    step(w)
    trainer.update()
    trainer.update()


for what in sys.argv[1:]:
    globals()[f"test_{what}"]()
    if what != sys.argv[-1]:
        parallel.barrier()
    if rank == 0:
        print("ok", flush=True)
