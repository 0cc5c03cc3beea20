"""The exchange in shared memory, one property after the other on every rank: shared.py WHAT...

Rank 0 prints "ok" after each.
"""

import gc
import os
import signal
import sys
import time

import numpy as np
from alike import distributed, model_of, run, step, use_a_host_each
from forked import in_a_child
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._ffi import lib
from dist_dynet.parallel.exchange import engines, shared
from dist_dynet.parallel.processes import memory, session
from dist_dynet.parallel.processes.world import World

rank, size = parallel.rank(), parallel.world_size()


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
    m, (w,), _ = model_of((3, 4))
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
    m, (w,), _ = model_of(5)
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
    m, (a, b, c, d), _ = model_of(40, (20, 30), 7, 5)
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


def test_update_after_an_interrupted_one():
    m, (w,), _ = model_of(4)
    trainer = distributed(m, average="sum", timeout=0.5)
    for _ in range(2):
        step(w)
        trainer.update()
    step(w)
    if rank == 0:
        with raises(TimeoutError, match=r"waited 0\.5 s for"):
            trainer.update()
        with raises(
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
    m, (w,), _ = model_of(4)
    trainer = distributed(m, average="sum")
    step(w)
    trainer.update()
    many = [m.add_parameters(1, init=0) for _ in range(2000)]
    for _ in range(3):
        step(*many)
        trainer.update()
    assert all(p.as_array() == -3 * size for p in many)


def test_no_memory_for_rows():
    m, (w,), _ = model_of(3)
    table = m.add_lookup_parameters((100, 20000), init=0)
    trainer = distributed(m, average="sum")
    for k in range(3):
        dy.renew_cg()
        (dy.sum_elems(w) + dy.sum_elems(table[k + rank])).backward()
        trainer.update()
    assert (w.as_array() == 0.5 - 3 * size).all() and -table.as_array()[:, 0].sum() == 3 * size
    parallel.assert_in_sync(m)


def test_fork():
    m, (w,), _ = model_of((50, 50))
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
    m, (w,), _ = model_of((100, 30))
    trainer = distributed(m)
    for _ in range(3):
        step(w, by=rank)
        trainer.update()
    assert isinstance(trainer.sync.exchange, shared.SharedExchange)
    assert not any(is_shared(m))
    assert np.allclose(w.as_array(), 0.5 - 3 * (size - 1) / 2)


def test_no_memory_later():
    m, (w,), _ = model_of((100, 30))
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
    m, (w,), _ = model_of(3)
    trainer = distributed(m)
    step(w)
    trainer.update()
    dy.renew_cg()
    loss = dy.sum_elems(w)
    del m, w, trainer
    gc.collect()
    loss.backward()  # the graph keeps the root, nobody the mapping


def test_trainer_that_ends_inside_of_backward():
    m, (w,), _ = model_of(3)
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
    m, (w,), _ = model_of(3)
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
    assert made and sum(bool(comm) for comm in made) < 8  # one that was freed is false
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
    m, (w,), _ = model_of(3)
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


def test_several_hosts():
    m, _, _ = model_of(3)
    use_a_host_each()
    assert type(distributed(m).sync.exchange) is engines.HybridExchange
    session.world().tells_hosts_apart = False
    assert type(distributed(m).sync.exchange) is engines.MpiExchange


def test_file_in_dev_shm():
    if hasattr(os, "memfd_create"):
        del os.memfd_create
    m, (w,), _ = model_of((30, 40))
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
    m, (w,), _ = model_of((1000, 1000))
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


run(globals(), sys.argv[1:])
