"""LocalSGD on several ranks: as_hosts.py LAYOUT local_sgd.py FOLDER [nan]. Rank 0 prints "ok" in
the end; with "nan" rank 1 fails."""

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel import LocalSGD

rank, size = parallel.rank(), parallel.world_size()
NAMES = ("W", "b", "E", "frozen")


def model():
    """Values are rank 0's."""
    m = dy.ParameterCollection()
    shapes = ((30, 20), 20, (40, 6), 3)
    rng = np.random.default_rng(rank)
    for name, shape in zip(NAMES, shapes, strict=True):
        add = m.add_lookup_parameters if name == "E" else m.add_parameters
        add(shape, name=name, init=rng.normal(size=shape))
    parameters(m)["frozen"].set_updated(False)
    return m


def parameters(m):
    every = [*m.parameters_list(), *m.lookup_parameters_list()]
    return {p.name().strip("/"): p for p in every}


def values(m):
    return {name: p.as_array() for name, p in parameters(m).items()}


def backward(m, rng, rows=3):
    """The mean over some examples of a loss that uses a few rows of the table."""
    dy.renew_cg()
    p = parameters(m)
    losses = []
    for _ in range(rows):
        word = p["E"][int(rng.integers(0, 10))]
        hidden = dy.concatenate([word, dy.inputVector(rng.normal(size=14))])
        losses.append(dy.squared_norm(p["W"] * hidden * 0.1) + dy.squared_norm(p["b"] - hidden))
    dy.average(losses).backward()


def close(a, b, tolerance=2e-6):
    return all(np.abs(a[name] - b[name]).max() <= tolerance for name in NAMES)


def equal(a, b):
    return all(np.array_equal(a[name], b[name]) for name in NAMES)


def everywhere(truth):
    return all(parallel.gather(bool(truth)))


def test_every_update_is_distributed_sgd():
    """With weights that differ, one of them 0."""
    results = []
    for wrap in (
        lambda t: parallel.DistributedTrainer(t, "weighted"),
        lambda t: LocalSGD(t, every=1),
    ):
        m, rng = model(), np.random.default_rng([rank, 1])
        trainer = wrap(dy.SimpleSGDTrainer(m, 0.02))
        trainer.set_clip_threshold(0)
        for step in range(6):
            n = float((rank + step) % 3)
            if n:
                backward(m, rng)
            trainer.update(n)
        parallel.assert_in_sync(m)
        results.append(values(m))
    assert everywhere(close(*results))


def test_averages_are_those_of_numpy():
    m, momentum = model(), 0.5
    trainer = LocalSGD(dy.AdamTrainer(m, 0.01), every=3, momentum=momentum, check=True)
    m.set_weight_decay(1e-3)
    rng, then, v = np.random.default_rng([rank, 2]), values(m), dict.fromkeys(NAMES, 0.0)
    total = sum(range(1, size + 1))
    for step in range(9):
        backward(m, rng)
        inner = trainer.inner
        if step % 3 < 2:
            assert not trainer.update(rank + 1)
            continue
        inner.update()  # by hand, to see what is averaged
        now = parallel.gather(values(m))
        for name in NAMES:
            g = sum((r + 1) * (then[name] - w[name]) for r, w in enumerate(now)) / total
            v[name] = momentum * v[name] - g
            if name == "E":  # rows that nobody has changed rest
                moved = np.any([w[name] != then[name] for w in now], axis=(0, 2))[:, None]
                v[name] = np.where(moved, v[name], 0)
            then[name] = then[name] + v[name]
        trainer._n += rank + 1
        trainer.average()
        assert everywhere(close(values(m), then)), step
        parallel.assert_in_sync(m)
        then = values(m)


def test_rows_are_the_mean_of_those_that_have_changed_them():
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((size + 2, 2), init=0)
    table.init_from_array(np.zeros((size + 2, 2)))
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=1, rows="touched")
    dy.renew_cg()
    (dy.sum_elems(table[rank]) + dy.sum_elems(table[size]) * (rank + 1)).backward()
    trainer.update(rank + 1)
    weights = np.arange(1, size + 1)
    shared = (weights**2).sum() / weights.sum()
    assert np.allclose(table.as_array()[:, 0], [*[-1] * size, -shared, 0], atol=1e-5)
    parallel.assert_in_sync(m)


def test_ranks_that_end_early():
    m = dy.ParameterCollection()
    w, late = m.add_parameters(4, init=0), None
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=2)
    with trainer.join():
        for _ in range(2 + 3 * rank):
            dy.renew_cg()
            dy.sum_elems(w).backward()
            trainer.update()
    parallel.assert_in_sync(m)
    assert trainer.position == 0 and -(2 + 3 * size) < w.as_array()[0] <= -2
    late = m.add_parameters(2, init=1)  # goes on in step, with one more
    dy.renew_cg()
    (dy.sum_elems(w) + dy.sum_elems(late)).backward()
    before = w.as_array()
    trainer.update()
    trainer.average()
    assert np.allclose(w.as_array(), before - 1) and np.allclose(late.as_array(), 0)
    parallel.assert_in_sync(m)


def test_who_writes_a_parameter_or_row_leaves_the_others_their_momentum():
    """Also where all ranks have come equally far: they have the same examples here."""
    m = dy.ParameterCollection()
    w, b = m.add_parameters(1, init=0), m.add_parameters(1, init=0)
    E = m.add_lookup_parameters((3, 1), init=0)
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, learning_rate=1), every=9, momentum=0.5)

    def use_an_example():
        dy.renew_cg()
        (dy.sum_elems(w) + dy.sum_elems(E[0])).backward()
        trainer.update(1)

    use_an_example()
    b.set_value([3])
    E.init_row(1, [4])
    trainer.average()
    assert w.as_array()[0] == -1 and b.as_array()[0] == 3
    assert E.as_array().ravel().tolist() == [-1, 4, 0]
    use_an_example()
    trainer.average()
    assert w.as_array()[0] == -2.5 and b.as_array()[0] == 3
    assert E.as_array().ravel().tolist() == [-2.5, 4, 0]
    E.scale(2)  # before the first update, and beside what is written after the last
    use_an_example()
    E.init_row(2, [7])
    trainer.average()
    assert E.as_array().ravel().tolist() == [-5 - 1.75, 8, 7]


def test_what_is_written_before_a_join_is_where_all_begin():
    """Rank 0 has no batches."""
    for writes_within in (False, True):
        m = dy.ParameterCollection()
        w = m.add_parameters(2, init=0)
        trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=2, momentum=0.5)
        w.set_value([3, 3])
        calls = [min(r, 2) for r in range(size)]
        with trainer.join():
            if rank == 0 and writes_within:
                w.set_value([9, 9])  # what no example weighs counts for nothing
            for _ in range(calls[rank]):
                dy.renew_cg()
                dy.sum_elems(w).backward()
                trainer.update()
        mean = sum(n * (3 - n) for n in calls) / sum(calls)
        assert np.allclose(w.as_array(), mean)
        parallel.assert_in_sync(m)
        trainer.average()
    w.set_value([rank, 0])
    with raises(RuntimeError, match=r'"/_0" .* but not alike'), trainer.join():
        trainer.update()
    assert w.as_array().tolist() == [rank, 0]


def test_what_is_frozen_between_averages():
    """After some ranks have moved it; rank 0 has no examples. What nobody has moved stays."""
    for momentum in (0, 0.5):
        m = dy.ParameterCollection()
        w, b = m.add_parameters(2, init=0), m.add_parameters(1, init=0)
        trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=2, momentum=momentum)
        for _ in range(4):
            if rank:
                dy.renew_cg()
                (dy.sum_elems(w) + b).backward()
            trainer.update(float(rank > 0))
            b.set_updated(False)
        assert w.as_array().tolist() == [-4 - 2 * momentum] * 2
        assert b.as_array().tolist() == [-1] and not b.is_updated()
        parallel.assert_in_sync(m)


def test_what_is_frozen_and_written_inside_of_a_join_is_refused():
    """Ranks that have ended have it frozen. Rank 0 has no batches."""
    m = dy.ParameterCollection()
    w, b = m.add_parameters(1, init=0), m.add_parameters(1, name="b", init=0)
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=1)
    b.set_updated(False)
    words = "is frozen, and was written inside of join" if rank else "see the message there"
    with raises(RuntimeError, match=words), trainer.join():
        for _ in range(rank > 0):
            dy.renew_cg()
            dy.sum_elems(w).backward()
            b.set_value([1])
            trainer.update()
    assert not b.is_updated() and b.as_array()[0] == (rank > 0)


def test_moments():
    for moments in ("local", "average", "reset"):
        m, rng = model(), np.random.default_rng([rank, 4])
        trainer = LocalSGD(dy.MomentumSGDTrainer(m, 0.01), every=2, moments=moments)
        for _ in range(4):
            backward(m, rng)
            trainer.update()
        after = parallel.gather(trainer.inner.state().get("v:/W", np.zeros(1)))
        alike = all(np.array_equal(after[0], v) for v in after)
        assert alike == (moments != "local") and bool(after[0].any()) == (moments != "reset")


def test_resumes_to_the_same_bits():
    """In the middle between two averages."""

    def start():
        m = model()
        trainer = LocalSGD(dy.AdamTrainer(m, 0.01), every=3, momentum=0.7, compression="bf16")
        checkpointer = parallel.Checkpointer(sys.argv[1], m, trainer.outer)
        checkpointer.add("local", trainer, per_rank=True)
        checkpointer.add("rng", rng := np.random.default_rng([rank, 5]), per_rank=True)
        return m, trainer, checkpointer, rng

    def run(steps, m, trainer, rng):
        for _ in range(steps):
            backward(m, rng)
            trainer.update()

    m, trainer, checkpointer, rng = start()
    with raises(TypeError, match=r'trainer\.outer, and add\("local", trainer, per_rank='):
        parallel.Checkpointer(sys.argv[1], m, trainer)
    run(4, m, trainer, rng)
    assert checkpointer.save() and trainer.position == 1
    run(6, m, trainer, rng)
    m2, trainer2, checkpointer2, rng2 = start()
    assert checkpointer2.resume() and trainer2.position == 1
    run(6, m2, trainer2, rng2)
    assert everywhere(equal(values(m), values(m2)))
    trainer2.average()
    parallel.assert_in_sync(m2)


def test_resumes_on_another_number_of_ranks():
    """With moments, learning rate and schedule of the wrapped trainer; on a rank that was not there
    with rank 0's. The means of an epoch go on as well."""

    def start(comm):
        trainer = LocalSGD(dy.AdamTrainer(model(), 0.01), every=2, momentum=0.7, comm=comm)
        schedule = dy.schedules.Linear(trainer, steps=40, warmup=3)
        checkpointer = parallel.Checkpointer(folder, trainer.collection, trainer.outer)
        checkpointer.add("local", trainer, per_rank=True)
        checkpointer.add("rng", rng := np.random.default_rng(5), per_rank=True)
        checkpointer.add("run", run := dy.training.Run(trainer), per_rank=True)
        return trainer, schedule, checkpointer, rng, run

    def work(steps, trainer, schedule, _, rng, run):
        for _ in range(steps):
            backward(trainer.collection, rng)
            trainer.update()
            schedule.step()
            run.log(1 + rank, loss=rank)

    for saves, resumes in ((None, MPI.COMM_SELF), (MPI.COMM_SELF, None)):
        folder = parallel.gather(tempfile.mkdtemp() if rank == 0 else "")[0]
        mine = {}
        if saves is None or rank == 0:
            one = start(saves)
        for steps in (4, 1):  # to an average, and to the middle between two
            if saves is None or rank == 0:
                work(steps, *one)
                assert one[2].save()
                mine = {**one[0].inner.state(), **values(one[0].collection)}
            every = parallel.gather((mine, one[4].state()["sums"] if mine else {}))
            expected = every[0][0]
            if resumes is None or rank == 0:
                other = start(resumes)
                assert other[2].resume() and other[0].position == steps % 2
                found = {**other[0].inner.state(), **values(other[0].collection)}
                assert all(np.array_equal(found[name], a) for name, a in expected.items())
                sums = [of["loss"] for _, of in every if of]
                there = other[4].state()["sums"].get("loss")
                assert there == ([sum(of) for of in zip(*sums, strict=True)] if rank == 0 else None)
                assert other[3].random() == np.random.default_rng(5).random()  # as it was
                work(3, *other)
                parallel.assert_in_sync(other[0].collection, comm=resumes)


def test_nan_that_all_ranks_have_is_no_change():
    m = dy.ParameterCollection()
    w = m.add_parameters(2, init=0)
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=1)
    trainer.set_clip_threshold(0)  # nothing looks for NaN
    dy.renew_cg()
    (dy.sum_elems(w) * (float("nan") if rank == size - 1 else 1.0)).backward()
    trainer.update()
    assert np.isnan(w.as_array()).all()
    trainer.average()
    w.set_value(values := [1.0, float("nan")])  # alike on all
    trainer.update()
    trainer.average()
    assert np.array_equal(w.as_array(), values, equal_nan=True)


def test_lines_of_metrics_are_those_of_the_wrapped_trainer():
    m = model()
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 0.25), every=2)
    run = dy.training.Run(trainer, metrics := f"{sys.argv[1]}/metrics.jsonl", every=1)
    for step in run.epoch(range(4)):
        dy.renew_cg()
        dy.sum_elems(parameters(m)["b"]).backward()
        run.log(loss=step)
        trainer.update()
    run.write(score=5)
    if rank == 0:
        lines = [json.loads(line) for line in Path(metrics).read_text().splitlines()]
        assert [line["update"] for line in lines] == [4, 4] and lines[1]["score"] == 5
        assert lines[0]["learning_rate"] == 0.25 and lines[0]["loss"] == 1.5


if "nan" in sys.argv:
    m = model()
    trainer = LocalSGD(dy.SimpleSGDTrainer(m), every=2)
    for _ in range(2):
        dy.renew_cg()
        bad = dy.sum_elems(parameters(m)["b"]) * (float("nan") if rank == 1 else 1.0)
        bad.backward()
        trainer.update()
else:
    for test in [it for name, it in globals().items() if name.startswith("test_")]:
        test()
    parallel.barrier()
    if rank == 0:
        print("ok")
