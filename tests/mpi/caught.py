"""Errors and interruptions that a program catches, to go on: caught.py ENGINE WHAT..., each rank a
host of its own for the engine "hosts".

Rank 0 prints "ok" in the end.
"""

import contextlib
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from alike import use_engine
from forked import in_a_child
from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.trainers.hooks import Hooks

engine, *whats = sys.argv[1:]
use_engine(engine)
rank, size = parallel.rank(), parallel.world_size()


def set_up():
    """A new model and a trainer that subtracts the sum of the gradients."""
    m = dy.ParameterCollection()
    a, b = m.add_parameters(4, init=0, name="a"), m.add_parameters(5, init=0, name="b")
    table = m.add_lookup_parameters((6, 3), init=0, name="table")
    return m, a, b, table, distributed(m, "sum")


def distributed(m, average, rule=dy.SimpleSGDTrainer, clip=0, **options):
    """A trainer with the rate 1."""
    trainer = parallel.DistributedTrainer(rule(m, 1.0), average, **options)
    trainer.set_clip_threshold(clip)
    return trainer


def step(*parameters, rows=(), by=None):
    """A backward pass and an update, by 1 where something is used; True."""
    m.reset_gradients()
    dy.renew_cg()
    dy.esum(
        [dy.sum_elems(p) for p in parameters] + [dy.sum_elems(table[row]) for row in rows]
    ).backward()
    return (by or trainer).update()


def refused(words, *parameters, **options):
    """As step(), when the update is refused on all ranks with these words and leaves everything as
    it was."""
    before = [p.as_array() for p in m.parameters_list()], trainer.updates
    with raises(RuntimeError, match=words):
        step(*parameters, **options)
    pairs = zip(m.parameters_list(), before[0], strict=True)
    assert all((p.as_array() == values).all() for p, values in pairs)
    assert trainer.updates == before[1]


def check(p, value):
    """Rank by rank the same values."""
    assert (p.as_array() == value).all(), p.as_array()
    parallel.assert_in_sync(m)


@contextlib.contextmanager
def interrupted():
    """Ctrl-C comes when this rank, 0, waits for the others, which come_later()."""

    def interrupt():
        while parallel.data.collectives.world().place is None:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with raises(KeyboardInterrupt):
        yield
    for other in range(1, size):
        MPI.COMM_WORLD.send("has left", other)


def come_later():
    """Returns when rank 0 was interrupted."""
    while not MPI.COMM_WORLD.iprobe(source=0):
        time.sleep(0.01)
    MPI.COMM_WORLD.recv(source=0)


# ---- what one rank has set -------------------------------------------------------------


def test_frozen():
    for p, uses in ((b, {"rows": []}), (table, {"rows": [rank]})):
        step(a, b, **uses)
        p.set_updated(rank > 0)
        for _ in range(2):
            refused(f'"{p.name()}" is frozen on', a, **uses)
        p.set_updated(True)
        step(a, **uses)
    check(a, -4 * size)
    check(b, -2 * size)


def test_settings():
    def rate(value):
        trainer.learning_rate = value

    def skip(value):
        trainer.inner.skip_nonfinite = bool(value)

    for _ in range(3):
        step(a, rows=[rank])
    for change, usual, words in (
        (rate, 1.0, "learning rate"),
        (m.set_weight_decay, 0.0, "weight decay"),
        (skip, 0, "skip nonfinite"),
    ):
        change(0.5 if rank == 1 else usual)
        refused(f"all ranks must agree; {words}.*Make it the same on all ranks", a, rows=[rank])
        change(usual)
        step(a)
    check(a, -6 * size)


def test_states():
    together = distributed(m, "sum", dy.AdamWTrainer)
    step(a, by=together)
    if rank == 1:
        together.inner.exclude_from_decay([b])
    refused('"/b" is excluded from decay on .*Call exclude', a, by=together)
    together.inner.exclude_from_decay([b])
    step(a, by=together)
    a.set_precision("float32" if rank == 0 else None)
    refused('"/a" is of another precision on .*Call set_precision', a, by=together)
    a.set_precision(None)
    step(a, by=together)
    parallel.assert_in_sync(m)


def test_parameters():
    step(a, rows=[rank])
    added = m.add_parameters(3, init=7, name="added") if rank == 1 else None
    for _ in range(2):
        refused(r"rank 0 has 3; first that rank 0 lacks \"/added\"", a)
    added = added or m.add_parameters(3, init=8, name="added")
    for _ in range(3):
        step(a, added, rows=[rank])
    check(a, -4 * size)
    check(added, 8 - 3 * size)


# ---- gradients that are not finite -----------------------------------------------------


def test_not_finite():
    for skips in (False, True):
        step(a)
        trainer.set_clip_threshold(5)
        trainer.skip_nonfinite = skips
        dy.renew_cg()
        (dy.sum_elems(a) * (float("nan") if rank else 1)).backward()
        if skips:
            assert not trainer.update()
        else:
            with raises(RuntimeError, match="Magnitude of gradient is bad: nan"):
                trainer.update()
        m.reset_gradients()
        trainer.set_clip_threshold(0)
    check(a, -2 * size)
    assert trainer.skipped == 1


def test_not_finite_in_loops():
    """The next update has its own batch, and what ranks have kept counts once, as in one
    process."""
    for average, k, keeps in itertools.product(("sum", "mean"), (1, 2), (False, True)):
        other, before = distributed(m, average, clip=1000, accumulate=k), a.as_array()
        batches = parallel.shard(range(6 * size), batch_size=size, cost=None)
        for batch in batches:
            dy.renew_cg()
            factor = float("nan") if batch.step == k else 0.0
            share = 1 / size if average == "sum" else 1
            ((dy.sum_elems(a) + dy.sum_elems(b) * factor) * share).backward()
            try:
                other.update()
            except RuntimeError:
                b.clear_gradient() if keeps else m.reset_gradients()
        assert (batches.epoch, other.updates) == (1, 6 // k - 1)
        lost = 0 if keeps else 1
        assert abs(a.as_array() - (before - (6 // k - lost))).max() < 1e-5, (average, k, keeps)
        parallel.assert_in_sync(m)


def test_not_finite_inside_of_join():
    """Ranks that have ended make no more of it than those that catch the error."""
    for average in ("sum", "mean"):
        other, caught, before = distributed(m, average, clip=100), 0, a.as_array()
        with parallel.Join(other):
            for number in range(4 if rank else 1):
                dy.renew_cg()
                (dy.sum_elems(a) * (float("nan") if number == 2 else 1.0)).backward()
                try:
                    other.update(1)
                except RuntimeError:
                    caught += 1
                    m.reset_gradients()
        assert (caught, other.updates) == (bool(rank), 3)
        check(a, before - (3 if average == "mean" else size + 2 * (size - 1)))


# ---- exceptions of one rank ------------------------------------------------------------


def test_interrupted():
    """One rank leaves a wait by Ctrl-C. Others would take what it sends next for what they wait
    for."""
    step(a)
    if rank:
        come_later()
    else:
        with interrupted():
            step(a)
        for _ in range(2):
            with raises(RuntimeError, match="interrupted, so that this rank is out of step with"):
                step(a)
        assert trainer.updates == 1
        print("ok", flush=True)
    step(a)  # nobody can: the job ends


def test_interrupted_gather():
    """What this rank sends next would be taken for its part of the collective operation that it has
    left."""
    if rank:
        come_later()
    else:
        with interrupted():
            parallel.gather("one")
        for collective in (lambda: parallel.gather("two"), parallel.barrier, set_up):
            with raises(RuntimeError, match=r"gather \(collective \d+\) was interrupted, so that"):
                collective()
        print("ok", flush=True)
    parallel.gather("two")  # nobody can: the job ends


def test_interrupted_checkpoint():
    """The others get an answer neither to what they have sent nor to what they send next."""
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = parallel.Checkpointer(folder, m, trainer)
        assert checkpointer.save()
        if rank:
            come_later()
        else:
            with interrupted():
                checkpointer.save()
            for collective in (checkpointer.save, lambda: parallel.gather("two")):
                with raises(RuntimeError, match=r"checkpoint \(collective \d+\) was interrupted"):
                    collective()
            print("ok", flush=True)
        checkpointer.save()  # nobody can: the job ends


def test_checkpoint_that_cannot_be_written():
    """Rank 0 alone writes; all may go on."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "file").touch()
        where = Path(folder, "file", "run") if rank == 0 else "elsewhere"
        checkpointer = parallel.Checkpointer(where, m, trainer)
        for collective in (checkpointer.save, checkpointer.resume):
            with raises(NotADirectoryError):
                collective()
        assert parallel.all_reduce(1) == size


def test_interrupted_after_the_exchange():
    step(a)
    if rank == 0:

        def interrupt():
            raise KeyboardInterrupt

        Hooks(trainer.inner).before(interrupt)
        with raises(KeyboardInterrupt):
            step(a, b)
        with raises(RuntimeError, match="interrupted, so that this rank is out of step with"):
            step(a, b)
    else:
        step(a, b)
    assert trainer.updates == (2 if rank else 1)


def test_error_after_the_update():
    """Whatever comes when parameters have been changed does no harm, such as a full disk of a
    checkpoint."""
    errors = [OSError("no room today")] * 2

    def last():
        if errors:
            raise errors.pop()

    Hooks(trainer.inner).after(last)
    for _ in range(2):
        with raises(OSError, match="no room today"):
            step(a)
    step(a)
    check(a, -3 * size)


def test_forked():
    def takes_no_part():
        for collective in (lambda: step(a, b), parallel.barrier):
            with raises(RuntimeError, match="which this rank has forked, takes no part in the job"):
                collective()

    step(a)
    if rank == 0:
        in_a_child(takes_no_part)
    step(a)
    check(a, -2 * size)


for what in whats:
    m, a, b, table, trainer = set_up()
    globals()[f"test_{what}"]()
if rank == 0:
    print("ok")
