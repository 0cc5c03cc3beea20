"""The exchange between hosts, one property after the other on every rank: as_hosts.py LAYOUT
hosts.py WHAT...

Rank 0 prints "ok" after each.
"""

import sys

import alike
import numpy as np
from alike import model_of, step
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._ffi import lib
from dist_dynet.parallel.exchange import buckets, engines, reference
from dist_dynet.parallel.exchange.compression import CODES
from dist_dynet.parallel.exchange.hosts import HybridExchange
from dist_dynet.parallel.processes import memory
from dist_dynet.parallel.processes.world import World

rank, size = parallel.rank(), parallel.world_size()


def distributed(m, average="mean", overlap=True, **options):
    """A trainer that exchanges gradients between hosts, during backward if they `overlap`."""
    trainer = alike.distributed(m, average, **options)
    assert isinstance(trainer.sync.exchange, HybridExchange)
    trainer.sync.exchange.overlap.is_possible = overlap
    return trainer


def everywhere(condition):
    """Whether it holds on all ranks."""
    return parallel.all_reduce(int(condition), "min") == 1


def random_step(rng, dense, tables):
    """A backward pass with random gradients, each matrix used several times."""
    dy.renew_cg()
    losses = []
    for p in dense:
        for _ in range(3):
            losses.append(
                dy.dot_product(
                    dy.reshape(p, (p.as_array().size,)),
                    dy.inputVector(rng.normal(size=p.as_array().size)),
                )
            )
    for table in tables:
        rows, width = table.shape()
        for row in rng.integers(0, rows, size=4).tolist():
            losses.append(dy.dot_product(table[row], dy.inputVector(rng.normal(size=width))))
    dy.esum(losses).backward()


SHAPES = ((300, 200), 7, (100, 90), 3, (500, 400), 1)  # more than a piece, less than a bucket, ...
TABLES = ((1000, 5), (6, 9))  # of the second, most rows are used by each rank


def values(m):
    return np.concatenate(
        [p.as_array().ravel() for p in [*m.parameters_list(), *m.lookup_parameters_list()]]
    )


def trained(updates=6, seed=0, **options):
    """All values after some updates with random gradients, and the exchange."""
    m, dense, tables = model_of(*SHAPES, tables=TABLES)
    trainer = distributed(m, **options)
    rng = np.random.default_rng([seed, rank])
    for _ in range(updates):
        random_step(rng, dense, tables)
        trainer.update()
    parallel.assert_in_sync(m)
    return values(m), trainer.sync.exchange


def test_sums_are_those_of_the_reference():
    m, dense, tables = model_of(*SHAPES, tables=TABLES)
    trainer = alike.distributed(m, engine="reference")
    alike.use_engine("auto")
    rng = np.random.default_rng([0, rank])
    for _ in range(6):
        random_step(rng, dense, tables)
        trainer.update()
    for overlap in (True, False):
        result, exchange = trained(overlap=overlap)
        assert (exchange.overlap.held, exchange.overlap.dropped) == (5 * overlap, 0)
        if size == 2:
            assert np.array_equal(values(m), result)
        assert np.abs(values(m) - result).max() <= 1e-6 * (1 + np.abs(result).max())


def test_overlap_changes_nothing():
    early, late, again = (trained(overlap=overlap)[0] for overlap in (True, False, True))
    assert np.array_equal(early, late) and np.array_equal(early, again)


def test_buckets_start_between_the_steps_of_backward():
    buckets._BUCKET = 90_000
    m, (a, b, c), _ = model_of((300, 300), (300, 300), (300, 300))
    trainer = distributed(m)
    for k in range(4):
        step(a, b, c)
        early = trainer.sync.exchange.overlap.round
        if k:
            assert early.weight == 1.0 and len(early._waiting) < 3
        trainer.update()
    assert np.allclose(values(m), 0.5 - 4)
    root = m._root
    del trainer, early
    assert lib.dn_store_await(root.c, 0.0) == lib.DN_HOOK_OFF


def test_ranks_that_disagree_keep_their_gradients():
    m, (w,), (table,) = model_of((70, 80), tables=((50, 3),))
    trainer, expected = distributed(m), np.array([0.5, 0.5])
    for k in range(4):
        dy.renew_cg()
        (dy.sum_elems(w) * (rank + 1) + dy.sum_elems(table[k]) * size).backward()
        if k % 2:
            trainer.learning_rate = 1.0 + (rank == size - 1)
            for _ in range(2):
                with raises(RuntimeError, match="all ranks must agree; learning rate"):
                    trainer.update()
            trainer.learning_rate = 1.0
        trainer.update()
        expected -= [(size + 1) / 2, 0]
        assert np.allclose(w.as_array(), expected[0])
        assert np.allclose(table.as_array()[: k + 1], 0.5 - size) and np.allclose(
            table.as_array()[k + 1 :], 0.5
        )
    parallel.assert_in_sync(m)


def test_second_backward_before_the_update():
    m, (a, b), _ = model_of((50, 40), 5)
    trainer = distributed(m)
    expected = 0.5
    for k in range(12):
        step(a, b, by=rank + 1)
        if k in (2, 3) and rank == 0:
            step(a, b, by=rank + 1)
        trainer.update()
        expected -= (sum(range(1, size + 1)) + (1 if k in (2, 3) else 0)) / size
        assert np.allclose(a.as_array(), expected) and np.allclose(b.as_array(), expected)
    exchange = trainer.sync.exchange
    # after the first, two updates go without
    assert (exchange.overlap.held, exchange.overlap.dropped) == (8, 1)
    parallel.assert_in_sync(m)


def test_gradients_changed_after_backward():
    m, (a, b), _ = model_of((50, 40), 5)
    trainer = distributed(m)
    expected = [0.5, 0.5]
    changes = [
        lambda: a.scale_gradient(2),
        lambda: a.clear_gradient(),
        lambda: m.reset_gradients(),
        lambda: b.set_updated(False),
        lambda: None,
    ]
    effects = [(2, 1), (0, 1), (0, 0), (1, 0), (1, 0)]
    for change, (of_a, of_b) in zip(changes, effects, strict=True):
        trainer.sync.exchange.overlap._skip = 0  # none is to be left out
        trainer._set_overlap()
        step(a, b)
        change()
        trainer.update()
        expected = [expected[0] - of_a, expected[1] - of_b]
        assert np.allclose(a.as_array(), expected[0]) and np.allclose(b.as_array(), expected[1]), (
            expected,
            a.as_array(),
            b.as_array(),
        )
    b.set_updated(True)
    step(b)
    trainer.update()
    assert np.allclose(b.as_array(), expected[1] - 1)


def test_ranks_use_different_parameters():
    m, dense, (table, _) = model_of((40, 30), 9, (300, 300), 5, 5, tables=((50, 3), (4, 2)))
    trainer = distributed(m, average="sum")
    expected = {p: 0.5 for p in dense}
    rng = np.random.default_rng(1)  # the same choices everywhere
    for k in range(8):
        chosen = rng.random((size, len(dense))) < 0.4
        rows = rng.integers(0, 50, size)
        dy.renew_cg()
        losses = [
            dy.sum_elems(p) * (r + 1)
            for r in range(size)
            if r == rank
            for p, use in zip(dense, chosen[r], strict=True)
            if use
        ]
        if rank != k % size:
            losses.append(dy.sum_elems(table[int(rows[rank])]))
        if losses:
            dy.esum(losses).backward()
        trainer.update()
        for i, p in enumerate(dense):
            expected[p] -= sum(r + 1 for r in range(size) if chosen[r, i])
            assert np.all(p.as_array() == expected[p]), (k, i)
    assert trainer.sync.exchange.overlap.dropped == 0
    parallel.assert_in_sync(m)


def test_empty_batches_and_weights():
    m, (w,), _ = model_of((70, 80))
    trainer = distributed(m)
    expected = 0.5
    for batch in parallel.shard(list(range(3 * size + 1)), batch_size=size, shuffle=False):
        counts = parallel.gather(len(batch))
        if batch:
            step(w, by=rank + 1)
        trainer.update()
        expected -= sum(n * (r + 1) for r, n in enumerate(counts)) / sum(counts)
        assert np.allclose(w.as_array(), expected)
    assert trainer.sync.exchange.overlap.held > 0 and trainer.sync.exchange.overlap.dropped == 0
    m, (w,), _ = model_of(3)
    trainer = distributed(m)
    for _ in range(3):
        step(w, by=rank)
        trainer.update(float(rank + 1))
    assert np.allclose(
        w.as_array(), 0.5 - 3 * sum(r * (r + 1) for r in range(size)) / sum(range(1, size + 1))
    )


def test_accumulation_and_no_sync():
    m, (w,), _ = model_of((70, 80))
    trainer = distributed(m, accumulate=2)
    for k in range(6):
        step(w, by=rank + k)
        assert trainer.update() == bool(k % 2)
    expected = 0.5 - sum(np.mean([r + k for r in range(size)]) for k in range(6)) / 2
    assert np.allclose(w.as_array(), expected)
    assert (trainer.sync.exchange.overlap.held, trainer.sync.exchange.overlap.dropped) == (2, 0)
    trainer.set_accumulation(1)
    for _ in range(3):
        with trainer.no_sync():
            step(w)
            trainer.update()
        step(w)
        trainer.update()
        expected -= 2
        assert np.allclose(w.as_array(), expected)
    assert (trainer.sync.exchange.overlap.held, trainer.sync.exchange.overlap.dropped) == (5, 0)


def test_join():
    m, (w,), _ = model_of((70, 80))
    trainer = distributed(m)
    with parallel.Join(trainer):
        for _ in range(2 + rank):
            step(w)
            trainer.update()
    assert np.allclose(w.as_array(), 0.5 - (1 + size))
    parallel.assert_in_sync(m)


def test_nan_on_one_rank():
    for options in ({}, *({"compression": code} for code in CODES)):
        m, (w, v), (table,) = model_of((70, 80), 3, tables=((10, 2),))
        trainer = distributed(m, **options)
        trainer.set_clip_threshold(5)
        trainer.skip_nonfinite = True
        for k in range(4):
            bad = float("nan") if k == 2 and rank == size - 1 else 0.0
            dy.renew_cg()
            (dy.sum_elems(w) * bad + dy.sum_elems(v) + dy.sum_elems(table[3])).backward()
            assert trainer.update() == (k != 2)
        assert (
            trainer.skipped == 1
            and np.isfinite(w.as_array()).all()
            and np.isfinite(table.as_array()).all()
        )
        parallel.assert_in_sync(m)


def test_parameters_added_later():
    m, (w,), _ = model_of((70, 80))
    trainer = distributed(m)
    for k in range(3):
        step(w)
        late = m.add_parameters((k + 1, 400), init=1.0 if rank == 0 else 5.0)
        trainer.update()
        step(w, late)
        trainer.update()
        assert np.allclose(late.as_array(), 0) and np.allclose(w.as_array(), 0.5 - 2 * (k + 1))
    parallel.assert_in_sync(m)


def test_parameters_without_numbers():
    for compression in (None, *CODES):
        m, dense, tables = model_of((0,), 2, (3, 0), tables=((4, 0), (4, 2)))
        trainer = distributed(m, compression=compression)
        for _ in range(4):
            dy.renew_cg()
            dy.esum(
                [dy.sum_elems(x) for x in (*dense, *(table[rank] for table in tables))]
            ).backward()
            trainer.update()
        parallel.assert_in_sync(m)
        assert dense[1].as_array().tolist() == [0.5 - 4] * 2 and tables[0].as_array().shape == (
            4,
            0,
        )
        np.testing.assert_allclose(tables[1].as_array()[:size], 0.5 - 4 / size, rtol=0.01)


def test_compression_is_bounded_and_loses_nothing():
    exact, _ = trained(updates=1)
    for code in CODES:
        rounded, _ = trained(updates=1, compression=code)
        error = np.abs(exact - rounded).max() / np.abs(exact - 0.5).max()
        assert 0 < error < 3 * 2.0**-8, (code, error)
        feedback_loses_nothing(code)


def feedback_loses_nothing(code):
    m, (w,), (table,) = model_of((60, 70), tables=((5, 3),))
    trainer = distributed(m, compression=code)
    rng, total, total_rows = np.random.default_rng(3), 0.0, 0.0  # the same everywhere
    for _ in range(60):
        gradients = rng.normal(size=(size, 4200)).astype(np.float32) * 1e-3 + 0.3
        rows = rng.normal(size=(size, 3)) * 1e-3 + 0.3
        dy.renew_cg()
        loss = dy.dot_product(dy.reshape(w, (4200,)), dy.inputVector(gradients[rank]))
        (loss + dy.dot_product(table[2], dy.inputVector(rows[rank]))).backward()
        trainer.update()
        total, total_rows = total + gradients.mean(axis=0), total_rows + rows.mean(axis=0)
    lack = np.abs(0.5 - total - w.as_array().ravel(order="F")).max()
    lack_rows = np.abs(0.5 - total_rows - table.as_array()[2]).max()
    # of one step; without feedback 60 times as much
    assert lack < 3 * 2.0**-9 and lack_rows < 3 * 2.0**-9, (lack, lack_rows)
    parallel.assert_in_sync(m)


def test_compressed_runs_continue_from_their_state():
    for code in CODES:
        run_continues_from_its_state(code)


def run_continues_from_its_state(code):
    def run(updates, m, dense, tables, trainer, rng):
        for _ in range(updates):
            random_step(rng, dense, tables)
            trainer.update()

    m, dense, tables = model_of(*SHAPES, tables=TABLES)
    trainer, rng = distributed(m, compression=code), np.random.default_rng(rank)
    run(3, m, dense, tables, trainer, rng)
    state, kept = trainer.state(), [p.as_array() for p in [*dense, *tables]]
    assert int(state["rest_rank"]) == rank
    assert not everywhere(
        not any(rest.any() for name, rest in state.items() if name.startswith("rest:"))
    )
    run(3, m, dense, tables, trainer, rng)
    m2, dense2, tables2 = model_of(*SHAPES, tables=TABLES)
    for p, old in zip([*dense2, *tables2], kept, strict=True):
        p.init_from_array(old) if p in tables2 else p.set_value(old)
    trainer2, rng2 = distributed(m2, compression=code), np.random.default_rng(rank)
    _, dense3, tables3 = model_of(*SHAPES, tables=TABLES)
    for _ in range(3):  # the generator comes to where it was
        random_step(rng2, dense3, tables3)
    trainer2.load_state(state)
    run(3, m2, dense2, tables2, trainer2, rng2)
    assert everywhere(np.array_equal(values(m), values(m2)))
    trainer2.load_state({**state, "rest_rank": np.array(rank + 1)})
    assert not any(rest.any() for rest in trainer2.sync.exchange.residuals().values())


def test_backward_without_an_update_at_the_end():
    m, (w,), _ = model_of((500, 800))
    trainer = distributed(m)
    for _ in range(3):
        step(w)
        trainer.update()
    if rank == 0 or what.endswith("everywhere"):
        step(w)


test_backward_without_an_update_everywhere = test_backward_without_an_update_at_the_end


def test_trainer_that_goes():
    m, (w,), _ = model_of((70, 80))
    for _ in range(3):
        trainer = distributed(m)
        for _ in range(2):
            step(w)
            trainer.update()
        del trainer
    assert np.allclose(w.as_array(), 0.5 - 6)
    step(w)
    assert lib.dn_store_await(m._root.c, 0.0) == lib.DN_HOOK_OFF


def test_trainers_that_end_give_back_what_they_had():
    made, lend = [], World.lend
    World.lend = lambda *args: made.append(lend(*args)) or made[-1]
    m, (w,), _ = model_of((70, 80))
    for _ in range(10):
        trainer = distributed(m)
        step(w)
        trainer.update()
    World.lend = lend
    # those of two trainers; one that was freed is false
    assert sum(bool(comm) for comm in made) <= 8
    assert np.allclose(w.as_array(), 0.5 - 10)


def test_interrupted_backward():
    m, (w, v), _ = model_of((70, 80), 80)
    trainer = distributed(m)
    for _ in range(2):
        step(w, v)
        trainer.update()

    def fail(inputs, y, dy_):
        raise ArithmeticError("stop")

    dy.renew_cg()
    h = dy.function(lambda x: x.copy(), fail, 80)(v)
    loss = dy.sum_elems(w * h)
    if rank == 0:
        with raises(ArithmeticError):
            loss.backward()
    m.reset_gradients()
    step(w, v)
    trainer.update()
    assert np.allclose(w.as_array(), 0.5 - 3) and np.allclose(v.as_array(), 0.5 - 3)


def test_no_memory():
    memory.LIMIT = 1000
    m, (w,), _ = model_of((100, 30))
    trainer = distributed(m)
    for _ in range(3):
        step(w, by=rank)
        trainer.update()
    assert np.allclose(w.as_array(), 0.5 - 3 * (size - 1) / 2)


def test_choice():
    m, _, _ = model_of(3)
    for engine, kind in (
        ("mpi", engines.MpiExchange),
        ("reference", reference.ReferenceExchange),
        ("auto", HybridExchange),
    ):
        assert type(alike.distributed(m, engine=engine).sync.exchange) is kind
    with raises(
        RuntimeError,
        match=r"all ranks must agree; .* exchange='auto', compression=(None|'bf16')",
    ):
        parallel.DistributedTrainer(dy.SimpleSGDTrainer(m), compression="bf16" if rank else None)


for what in sys.argv[1:]:
    globals()[f"test_{what}"]()
    if what != sys.argv[-1]:
        parallel.barrier()
    if rank == 0:
        print("ok", flush=True)
