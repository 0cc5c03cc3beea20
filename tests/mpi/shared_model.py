"""One copy of the model for the ranks of a host, one property after the other on every rank:
shared_model.py WHAT... or shared_model.py programs FIRST END, of these seeds.

Rank 0 prints "ok" in the end.
"""

import gc
import os
import pickle
import random
import signal
import sys
import threading
from pathlib import Path

import numpy as np
from forked import in_a_child
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._ffi import DTYPE, ffi, lib
from dist_dynet.parallel.exchange.shared import SharedExchange
from dist_dynet.parallel.processes import memory

sys.path.insert(0, str(Path(__file__).parents[1]))
import table_trainers

rank, size = parallel.rank(), parallel.world_size()


def model():
    """Large parameters and small ones, the same on all ranks."""
    dy.reset_random_seed(7)
    m = dy.ParameterCollection()
    parameters = [m.add_parameters(shape) for shape in ((150, 40), 150, (60, 150), 60, (200, 110))]
    return m, parameters, [m.add_lookup_parameters((600, 40)), m.add_lookup_parameters((5, 40))]


def loss_of(parameters, tables, rng):
    """A loss of this rank's own, of which some parameters have no gradient."""
    W, b, V, c = parameters[:4]
    dy.renew_cg()
    rows = rng.integers(0, 600, rng.choice([8, 8, 8, 40, 300]))
    x = dy.esum([tables[0][int(i)] for i in rows]) * (8 / len(rows)) + tables[1][rank % 5]
    h = dy.tanh(W * x + b)
    return dy.squared_norm(V * h + c if rng.random() < 0.7 else V * h) * 0.1


def step(trainer, parameters, tables, rng):
    """One update."""
    loss_of(parameters, tables, rng).backward()
    return trainer.update()


def held(m, trainer=None):
    """All values and moments of this rank, as they are stored."""
    members = [*m.parameters_list(), *m.lookup_parameters_list()]
    moments = trainer.state() if trainer is not None else {}
    return [int(lib.dn_param_checksum(p._c)) for p in members] + [
        moments[name].tobytes() for name in sorted(moments)
    ]


def is_shared(trainer):
    """Whether this rank's model is that of its host."""
    return trainer.sync.model is not None and trainer.sync.model.is_shared


# ---- drawn programs --------------------------------------------------------------------


def forked(m, parameters):
    """A child finds the values of this moment, whatever the others do, and writes its own."""
    before = held(m)

    def writes():
        parameters[0].scale(3)
        assert held(m)[1:] == before[1:] and held(m)[0] != before[0]

    in_a_child(writes)
    assert held(m) == before


def program(seed, shared):
    """What a drawn program holds after each of its steps."""
    draw, rng = random.Random(seed), np.random.default_rng([seed, rank])
    name = draw.choice(sorted(table_trainers.TRAINERS))
    make, _, distributions = table_trainers.TRAINERS[name]
    m, parameters, tables = model()
    if distributions:
        for p in parameters:
            p.set_value(np.full(p.shape(), 1 / np.prod(p.shape())))
        for table in tables:
            for row in range(len(table)):
                table.init_row(row, np.full(40, 1 / 40))
    if draw.random() < 0.4 and not distributions and name != "AdamWTrainer":
        m.set_weight_decay(draw.choice([1e-3, 0.3]))
    options = draw.choice(
        [{}, {}, {"exchange": "mpi"}, {"reproducible": True}, {"average": "weighted"}]
    )
    trainer = parallel.DistributedTrainer(make(m), shared_model=shared, **options)
    trainer.set_clip_threshold(draw.choice([0, 0.5, 5]))
    trainer.set_clip_value(draw.choice([0, 0, 0.1]))
    trainer.set_sparse_updates(draw.random() < 0.7)
    average = dy.MovingAverage(trainer, decay=0.5) if draw.random() < 0.3 else None
    reproducible = "reproducible" in options
    seen, shared_steps = [], 0

    def update():
        if reproducible:
            for batch in parallel.shard(list(range(4 * size)), 2 * size, micro_batches=size):
                if batch:
                    loss_of(parameters, tables, rng).backward()
                trainer.update()
            return
        loss_of(parameters, tables, rng).backward()
        trainer.update(*([1.0 + rank] if "average" in options else []))

    for _ in range(draw.randrange(10, 25)):
        event = draw.choice(EVENTS)
        p = draw.choice(parameters[1:4])
        if event == "write" and not distributions:
            p.set_value(np.full(p.shape(), 0.25))
        elif event == "write alone" and not distributions:
            if rank == draw.randrange(size):
                p.set_value(p.as_array())
        elif event == "fork alone":
            if rank == draw.randrange(size):
                forked(m, parameters)
        elif event == "scale" and not distributions:
            draw.choice([*parameters, *tables]).scale(0.5)
        elif event == "fork":
            forked(m, parameters)
        elif event == "add":
            n = draw.choice([3, 5000])
            parameters.append(m.add_parameters(n, init=1 / n))
        elif event == "freeze":
            p.set_updated(not p.is_updated())
        elif event == "subset" and not reproducible:
            loss_of(parameters, tables, rng).backward()
            weight = [1.0] if "average" in options else []
            trainer.update_subset([parameters[0], p], tables[:1], *weight)
            m.reset_gradients()
        elif event == "passes" and not reproducible:
            with trainer.no_sync():
                update()
        elif event == "restart":
            trainer.restart()
        elif event == "reload":
            trainer.load_state(trainer.state())
        elif event == "average" and average is not None and trainer.updates:
            with average.applied():
                seen.append(held(m))
        elif event == "copy":
            other = pickle.loads(pickle.dumps(m))
            assert held(other) == held(m) or m._weight_decay
        elif event == "rate":
            trainer.learning_rate *= 0.5
        elif event == "not finite" and not distributions and not reproducible:
            trainer.skip_nonfinite = draw.random() < 0.5
            (loss_of(parameters, tables, rng) * (float("inf") if rank == 0 else 1)).backward()
            weight = [1.0] if "average" in options else []
            if trainer.skip_nonfinite:
                trainer.update(*weight)
            elif trainer.get_clip_threshold():
                with raises(RuntimeError, match="bad"):
                    trainer.update(*weight)
                seen.append([x._flat_gradient().tobytes() for x in parameters])
                seen.append([x.touched_gradients().tobytes() for x in tables])
                seen.append([x.touched_rows().tolist() for x in tables])
            m.reset_gradients()
            trainer.skip_nonfinite = False
        update()
        shared_steps += is_shared(trainer)
        seen.append(held(m, trainer))
    parallel.assert_in_sync(m)
    return seen, shared_steps, f"{name} {options}"


EVENTS = [
    *["write", "scale", "fork", "add", "freeze", "subset", "passes", "restart", "reload"],
    *["average", "copy", "rate", "not finite", "write alone", "fork alone", *["nothing"] * 14],
]


def test_programs():
    seeds, shared_steps = range(int(sys.argv[2]), int(sys.argv[3])), 0
    for seed in seeds:
        own, none, words = program(seed, False)
        common, steps, _ = program(seed, True)
        shared_steps += steps
        assert none == 0 and len(own) == len(common)
        for k, (a, b) in enumerate(zip(own, common, strict=True)):
            assert a == b, (seed, words, k, [x == y for x, y in zip(a, b, strict=True)])
    # none where a host has one rank
    assert parallel.all_reduce(shared_steps, "max") > 2 * len(seeds)


# ---- one by one ------------------------------------------------------------------------


def trained(updates=4, **options):
    """A model that was trained, and its trainer."""
    m, parameters, tables = model()
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(m), **{"shared_model": True, **options})
    rng = np.random.default_rng(rank)
    for _ in range(updates):
        step(trainer, parameters, tables, rng)
    return m, parameters, tables, trainer, rng


def mapped():
    """Bytes of this process's memory that it shares with others, beside gradients."""
    return sum(
        int(fields[0].split("-")[1], 16) - int(fields[0].split("-")[0], 16)
        for line in Path("/proc/self/maps").read_text().splitlines()
        if (fields := line.split())[1].endswith("s") and "dist_dynet" in line
    )


def on_huge_pages():
    """Bytes of the memory that is shared with others which this process sees in huge pages."""
    total, counts = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        fields = line.split()
        if "-" in fields[0]:
            counts = "memfd:dist_dynet" in line
        elif counts and fields[0] == "ShmemPmdMapped:":
            total += 1024 * int(fields[1])
    return total


def has_huge_pages():
    """Whether the system gives shared memory any."""
    descriptor, room = memory._nameless_file(), 2 * memory._HUGE
    try:
        ((whole, (start,)),) = memory._map(memory.Lent.of(descriptor), [room], 1, [0])
    finally:
        os.close(descriptor)
    before = on_huge_pages()
    memory._use_huge_pages(whole, 0, 1)
    np.frombuffer(ffi.buffer(whole + start, room), np.int8)[:] = 1
    return on_huge_pages() > before


def test_values_and_moments_lie_on_huge_pages():
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((20_000, 64))  # 5 MB in float32
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(m), shared_model=True)
    for _ in range(3):
        dy.renew_cg()
        dy.squared_norm(table[rank]).backward()
        trainer.update()
    assert is_shared(trainer)
    table.as_array(), trainer.state()  # pages are mapped when they are read
    size = 20_000 * 64 * DTYPE.itemsize
    if all(parallel.gather(has_huge_pages())):  # it may lack some, but hardly all
        assert on_huge_pages() > 0.5 * 3 * size, on_huge_pages()


def test_memory_comes_home():
    before = mapped()
    m, parameters, tables, trainer, rng = trained()
    assert is_shared(trainer) and mapped() > before
    values, kept = held(m), np.asarray(parameters[0])
    copy = kept.copy()
    del trainer
    gc.collect()
    assert held(m) == values and not lib.dn_store_is_shared(m._root.c)
    parallel.barrier()
    parameters[0].scale(rank)
    parallel.barrier()
    assert (kept == copy * rank).all()
    plain = dy.AdamTrainer(m)
    loss_of(parameters, tables, rng).backward()
    plain.update()


def test_memory_of_a_model_that_goes_is_shared_no_more():
    gc.collect()
    before = mapped()
    kept = [trained(), trained()]
    assert all(is_shared(trainer) for *_, trainer, _ in kept) and mapped() > before
    kept.clear()
    gc.collect()
    parallel.barrier()
    assert mapped() == before, (mapped(), before)


def test_views_follow():
    _m, parameters, tables, trainer, rng = trained(0)
    view = np.asarray(parameters[0])
    for _ in range(4):
        step(trainer, parameters, tables, rng)
        assert (view == parameters[0].as_array()).all()
    assert is_shared(trainer)


def test_pieces_go_without_python():
    _, _, _, trainer, _ = trained(12)
    assert is_shared(trainer) and isinstance(trainer.sync.exchange, SharedExchange)
    assert trainer.sync.exchange.quick >= 6


def test_own_write_is_seen_by_nobody_else():
    m, parameters, _, trainer, _ = trained()
    values = held(m)
    parallel.barrier()
    if rank == 0:
        parameters[0].scale(2)
    parallel.barrier()
    assert (held(m) == values) == (rank != 0)
    with raises(RuntimeError, match=f'differ, first in "{parameters[0].name()}"'):
        trainer.update()


def test_unequal_values_stay_apart():
    """Where nobody has asked for it, and what a rank has written is not told, each goes on with its
    own values."""
    m, parameters, tables, trainer, rng = trained(shared_model=None)
    memory = parameters[0].storage()
    memory[:] *= 2 - rank
    del memory
    for _ in range(3):
        step(trainer, parameters, tables, rng)
    assert not is_shared(trainer)
    values = parallel.gather(held(m)[0])
    assert values[0] != values[1]


def test_own_write_is_refused_until_all_have_the_same():
    m, parameters, tables, trainer, rng = trained(shared_model=None)
    if rank == 0:
        parameters[0].scale(2)
    for _ in range(2):
        with raises(RuntimeError, match=f'differ, first in "{parameters[0].name()}"'):
            step(trainer, parameters, tables, rng)
    parallel.broadcast_parameters(m)
    for _ in range(3):
        step(trainer, parameters, tables, rng)
    parallel.assert_in_sync(m)


def test_written_by_the_program():
    """While it holds memory of values, each rank has its own."""
    _m, parameters, tables, trainer, rng = trained()
    memory = parameters[0].storage()
    assert not is_shared(trainer)
    step(trainer, parameters, tables, rng)
    assert not is_shared(trainer)
    parallel.barrier()
    memory[:] = rank
    parameters[0].changed()
    parallel.barrier()
    assert (parameters[0].as_array() == rank).all()
    memory[:] = 0.1
    parameters[0].changed()
    del memory
    for _ in range(3):
        step(trainer, parameters, tables, rng)
    assert is_shared(trainer)


def test_where_it_is_written_often_it_ends():
    _m, parameters, tables, trainer, rng = trained()
    shared = []
    for _ in range(40):
        parameters[1].scale(0.5)
        step(trainer, parameters, tables, rng)
        shared.append(is_shared(trainer))
    assert sum(shared) < 8
    for _ in range(40):
        step(trainer, parameters, tables, rng)
    assert is_shared(trainer)


def test_two_trainers_of_one_collection():
    results = []
    for shared in (False, True):
        m, parameters, tables = model()
        trainers = [
            parallel.DistributedTrainer(make(m), shared_model=shared)
            for make in (dy.AdamTrainer, dy.MomentumSGDTrainer)
        ]
        rng = np.random.default_rng(rank)
        for k in range(12):
            step(trainers[k % 3 % 2], parameters, tables, rng)
        results.append([held(m, trainer) for trainer in trainers])
        assert all(is_shared(trainer) == shared for trainer in trainers)
        del trainers[0]
        gc.collect()
        for _ in range(3):
            step(trainers[0], parameters, tables, rng)
        results[-1].append(held(m, trainers[0]))
        assert is_shared(trainers[0]) == shared
    assert results[0] == results[1]


def test_readers_in_threads():
    """Another thread reads whole models, and computes with them."""
    _m, parameters, _tables, trainer, _rng = trained()
    stop, failures = threading.Event(), []

    def read():
        while not stop.is_set():
            values = parameters[4].as_array()
            if len(np.unique(values)) != 1:
                failures.append(np.unique(values))

    parameters[4].set_value(np.ones((200, 110)))
    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(60):
        dy.renew_cg()
        dy.sum_elems(parameters[4]).backward()
        trainer.update()
    stop.set()
    reader.join()
    assert not failures and is_shared(trainer)


def test_refused_update_leaves_all_as_it_was():
    for shared in (True, False):
        m = dy.ParameterCollection()
        p = m.add_parameters((200, 200), init=-1)
        trainer = parallel.DistributedTrainer(dy.EGTrainer(m), shared_model=shared)
        for refused in (True, True, False):
            p.set_value(np.full((200, 200), -1 if refused else 1 / 40_000))
            m.reset_gradients()
            dy.renew_cg()
            (dy.squared_norm(p) * (1 + rank)).backward()
            before = [p._flat_gradient().tobytes(), *held(m)]
            if refused:
                with raises(ValueError, match="must be positive"):
                    trainer.update()
                assert before == [p._flat_gradient().tobytes(), *held(m)]
            else:
                assert trainer.update()
        parallel.assert_in_sync(m)


def test_hosts():
    """To be run by as_hosts.py: a copy for each host."""
    results = []
    for compression in (None, "bf16"):
        for shared in (False, True):
            m, _, _, trainer, _ = trained(8, shared_model=shared, compression=compression)
            results.append(held(m))
            alone = len(trainer.sync.hosts[0]) == size or not shared
            assert is_shared(trainer) == (shared and len(mine_of(trainer)) > 1) or alone
    assert results[0] == results[1] and results[2] == results[3]


def test_owners_between_hosts():
    """To be run by as_hosts.py: in the steady state a rank takes its own of the hosts' sums, and
    values, clipped and not, and gradients that are left by a norm that is not finite are those of
    ranks with a model of their own."""
    results, owned = [], []
    for shared in (False, True):
        dy.reset_random_seed(7)
        m = dy.ParameterCollection()
        W, b = m.add_parameters((150, 120)), m.add_parameters(150)
        often, now_and_then = (m.add_lookup_parameters((600, 120)) for _ in range(2))
        trainer = parallel.DistributedTrainer(dy.AdamTrainer(m), shared_model=shared)
        rng, seen = np.random.default_rng([3, rank]), []
        for turn in range(12):
            trainer.set_clip_threshold([0, 1e-3][turn % 2])
            dy.renew_cg()
            x = dy.esum([often[int(i)] for i in rng.integers(0, 600, 4)])
            if turn % 5 == 2 and rank == 1:  # of which other ranks own no row that is used
                x += now_and_then[7]
            dy.squared_norm(dy.tanh(W * x + b)).backward()
            trainer.update()
            seen.append(held(m))
        dy.renew_cg()
        far = dy.inputVector([np.inf if rank == 1 else 1] * 150)
        dy.dot_product(W * dy.esum([often[k] for k in range(8)]), far).backward()
        with raises(RuntimeError, match="not finite"):
            trainer.update()
        rows = np.argsort(often.touched_rows())
        seen += [p.grad_as_array().tobytes() for p in (W, b)]
        seen.append(
            (often.touched_rows()[rows].tolist(), often.touched_gradients()[rows].tobytes())
        )
        trainer.collection.reset_gradients()
        dy.renew_cg()
        dy.squared_norm(W * often[5] + b).backward()
        trainer.update()
        results.append([*seen, held(m, trainer)])
        owned.append(trainer.sync.wire.owned)
    assert results[0] == results[1]
    alone = len(mine_of(trainer)) == 1
    assert owned[0] == 0 and (owned[1] == 0 if alone else owned[1] > 6), owned


def mine_of(trainer):
    return next(host for host in trainer.sync.hosts if rank in host)


def test_no_memory():
    m, _parameters, _tables, trainer, _rng = trained()
    assert not is_shared(trainer)
    parallel.assert_in_sync(m)


def test_killed():
    _m, parameters, tables, trainer, rng = trained()
    assert is_shared(trainer)
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    for _ in range(3):
        step(trainer, parameters, tables, rng)


for what in sys.argv[1:2] if sys.argv[1] == "programs" else sys.argv[1:]:
    globals()[f"test_{what}"]()
if rank == 0:
    print("ok")
