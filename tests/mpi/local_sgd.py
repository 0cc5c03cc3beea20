"""LocalSGD on several ranks: local_sgd.py FOLDER. Rank 0 prints "ok" in the end."""

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


def model(seed=None):
    """Values are rank 0's."""
    m = dy.ParameterCollection()
    shapes = ((30, 20), 20, (40, 6), 3)
    rng = np.random.default_rng(rank if seed is None else seed)
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
    for wrap in (parallel.DistributedTrainer, lambda t: LocalSGD(t, every=1)):
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
    """Each rank is followed by a plain trainer, whose values NumPy averages."""
    m, followed = model(), model(seed=0)
    trainer = LocalSGD(dy.AdamTrainer(m, 0.01), every=4)
    plain = dy.AdamTrainer(followed, 0.01)
    for each in m, followed:
        each.set_weight_decay(1e-3)
    rngs = [np.random.default_rng([rank, 2]) for _ in range(2)]
    weights = np.arange(1, size + 1) / sum(range(1, size + 1))
    for step in range(12):
        backward(m, rngs[0])
        averaged = trainer.update(rank + 1)
        backward(followed, rngs[1])
        plain.update()
        assert averaged == (step % 4 == 3) and trainer.position == (step + 1) % 4
        if averaged:
            parallel.assert_in_sync(m)
            every = parallel.gather(values(followed))
            for name, p in parameters(followed).items():
                mean = sum(w * theirs[name] for w, theirs in zip(weights, every, strict=True))
                p.init_from_array(mean) if name == "E" else p.set_value(mean)
        assert everywhere(close(values(m), values(followed), 2e-5)), step


def test_what_nobody_has_changed_keeps_its_bits():
    m = model()
    before, rng = values(m), np.random.default_rng([rank, 3])
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 0.01), every=1)
    before = parallel.gather(before)[0]
    for _ in range(9):
        backward(m, rng)
        trainer.update()
    after = values(m)
    assert np.array_equal(before["frozen"], after["frozen"])
    assert np.array_equal(before["E"][10:], after["E"][10:])
    assert not np.array_equal(before["W"], after["W"])


def test_without_examples_nothing_changes():
    m = model()
    trainer, before = LocalSGD(dy.SimpleSGDTrainer(m)), values(m)
    trainer.update(0)
    trainer.average()
    assert equal(before, values(m)) and trainer.position == 0 and trainer.updates == 1


def test_parameters_that_are_added_later():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=1)
    late = m.add_parameters(1, init=rank + 5)
    for expected in 5, 4:
        dy.renew_cg()
        (w if expected == 5 else late).backward()
        trainer.update()
        assert late.as_array()[0] == expected
    parallel.assert_in_sync(m)


def test_loops_over_shard():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=2)
    for batch in parallel.shard(range(2 * size + 1), batch_size=size, shuffle=False):
        dy.renew_cg()
        if batch:
            dy.average([dy.scalarInput(x + 1) * w for x in batch]).backward()
        trainer.update()
    assert trainer.position == 1
    trainer.average()
    parallel.assert_in_sync(m)
    assert w.as_array()[0] < -1


def test_differences_are_refused():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=1)
    with raises(RuntimeError, match="every="):
        LocalSGD(dy.SimpleSGDTrainer(m), every=2 + rank)
    for change, words in (
        (lambda t: t.set_learning_rate(0.1 + rank), "learning rate"),
        (lambda t: t.set_clip_threshold(1 + rank), "clip threshold"),
        (lambda t: [t.update(1) for _ in range(rank)], "updates since the last average"),
        (lambda t: m.add_parameters(1, name=f"of{rank}"), "of0"),
    ):
        trainer = LocalSGD(dy.SimpleSGDTrainer(m), every=9)
        dy.renew_cg()
        w.backward()
        trainer.update(1)
        before = w.as_array()[0]
        change(trainer)
        with raises(RuntimeError, match=words):
            trainer.average()
        assert w.as_array()[0] == before
    other = dy.ParameterCollection()
    v = other.add_parameters(1)
    local, average = LocalSGD(dy.SimpleSGDTrainer(other)), None
    average = dy.MovingAverage(local)
    v.set_gradient([1])
    with raises(RuntimeError, match=r"MovingAverage\(m\)"):
        local.update(1)
    assert average is not None


def trained(folder, stop, every=3):
    """A run with checkpoints after some steps; the values at its end."""
    m, data = model(), list(range(40 * size))
    trainer = LocalSGD(dy.AdamTrainer(m, 0.01), every=every)
    batches = parallel.shard(data, batch_size=4 * size)
    checkpointer = parallel.Checkpointer(folder, m, trainer, batches, every=2)
    resumed = checkpointer.resume()
    for batch in batches:
        backward(m, np.random.default_rng(batch[0]))
        trainer.update()
        if trainer.updates == stop:
            return checkpointer.step
    trainer.average()
    return resumed, values(m)


def test_a_run_resumes_to_the_same_bits(folder):
    whole = trained(str(folder / "whole"), 0)[1]
    assert trained(str(folder / "stopped"), 8) == 6  # saved after an average
    resumed, end = trained(str(folder / "stopped"), 0)
    assert resumed and everywhere(equal(whole, end))


def test_groups_of_ranks():
    comm = MPI.COMM_WORLD.Split(rank % 2)
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=rank)
    trainer = LocalSGD(dy.SimpleSGDTrainer(m, 1.0), every=1, comm=comm)
    assert w.as_array()[0] == rank % 2
    w.set_gradient([1])
    trainer.update(1)
    assert w.as_array()[0] == rank % 2 - 1


with tempfile.TemporaryDirectory() as folder:
    place = Path(parallel.gather(sys.argv[1] if len(sys.argv) > 1 else folder)[0])
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test(*([place] if test.__code__.co_argcount else []))
    parallel.barrier()
if rank == 0:
    print("ok")
