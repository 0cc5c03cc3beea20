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
import warnings
from functools import partial
from pathlib import Path

from alike import use_a_host_each
from forked import in_a_child
from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.trainers.hooks import Hooks

engine, *whats = sys.argv[1:]
rank, size = parallel.rank(), parallel.world_size()
if engine == "hosts":
    use_a_host_each()
engine = "mpi" if engine == "mpi" else "auto"


def set_up():
    """A new model and a trainer that subtracts the sum of the gradients."""
    m = dy.ParameterCollection()
    a, b = m.add_parameters(4, init=0, name="a"), m.add_parameters(5, init=0, name="b")
    table = m.add_lookup_parameters((6, 3), init=0, name="table")
    trainer = parallel.DistributedTrainer(
        dy.SimpleSGDTrainer(m, 1.0), average="sum", exchange=engine
    )
    trainer.set_clip_threshold(0)
    return m, a, b, table, trainer


def step(*parameters, rows=(), by=None):
    """A backward pass and an update, by 1 where something is used; True."""
    m.reset_gradients()
    dy.renew_cg()
    dy.esum(
        [dy.sum_elems(p) for p in parameters] + [dy.sum_elems(table[row]) for row in rows]
    ).backward()
    return (by or trainer).update()


def refused(words, *parameters, **rows):
    """As step(), when the update is refused on all ranks with these words and leaves everything as
    it was."""
    before = [p.as_array() for p in m.parameters_list()], trainer.updates
    with raises(RuntimeError, match=words):
        step(*parameters, **rows)
    assert all(
        (p.as_array() == values).all()
        for p, values in zip(m.parameters_list(), before[0], strict=True)
    )
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


def test_frozen():
    for _ in range(3):
        step(a, b) if rank else step(a)
    b.set_updated(rank > 0)
    for _ in range(3):
        refused(
            r'"/b" is frozen on rank 0, but not on all\. Call set_updated\(\) on all ranks alike',
            *([a, b] if rank else [a]),
        )
    b.set_updated(False)
    for _ in range(3):
        step(a, b)
    b.set_updated(True)
    for _ in range(3):
        step(a, b)
    check(a, -9 * size)
    check(b, -3 * (size - 1) - 3 * size)


def test_frozen_without_gradient():
    momentum = parallel.DistributedTrainer(dy.MomentumSGDTrainer(m, 1.0), exchange=engine)
    step(a)
    dy.renew_cg()
    (dy.sum_elems(a) + dy.sum_elems(b)).backward()
    momentum.update()
    b.set_updated(rank != 1)  # nobody uses it now, but momentum moves it
    dy.renew_cg()
    dy.sum_elems(a).backward()
    with raises(RuntimeError, match='"/b" is frozen on rank 1, but not on all'):
        momentum.update()


def test_frozen_table():
    for _ in range(3):
        step(a, rows=[rank])
    table.set_updated(rank == 0)
    refused(
        f'"/table" is frozen on {"rank 1" if size == 2 else "ranks 1 and 2"}, but not on all',
        a,
        rows=[rank],
    )
    table.set_updated(True)
    step(a, rows=[rank])
    check(table, [[-4.0 * (row < size)] * 3 for row in range(6)])


def test_settings():
    for _ in range(3):
        step(a, rows=[rank])
    trainer.learning_rate = 0.5 if rank == 1 else 1.0
    mend = r".*\d\. Make it the same on all ranks\."
    refused(f"all ranks must agree; learning rate{mend}", a, rows=[rank])
    trainer.learning_rate = 1.0
    m.set_weight_decay(0.5 if rank == 0 else 0.0)
    refused(f"all ranks must agree; weight decay{mend}", a)
    m.set_weight_decay(0.0)
    trainer.inner.skip_nonfinite = rank == 0
    refused("all ranks must agree; skip nonfinite", a)
    trainer.inner.skip_nonfinite = False
    step(a)
    check(a, -4 * size)


def test_values():
    """What one rank writes is refused, whether ranks share memory or not; what all write alike, or
    what is the same after it, is not."""
    for _ in range(3):
        step(a, rows=[rank])
    plain = dy.SimpleSGDTrainer(m, 0.5)  # another trainer, which knows nothing of ranks

    def train_alone():
        dy.renew_cg()
        (dy.sum_elems(a) * float(rank)).backward()
        plain.update()

    for write in (
        lambda: a.set_value(a.as_array() + rank),
        lambda: table.init_row(5, [rank] * 3),
        lambda: table.scale(1 + rank),
        train_alone,
        trainer.inner.update if rank == 1 else m.reset_gradients,
    ):
        m.reset_gradients()
        dy.renew_cg()
        dy.sum_elems(b).backward()
        state = trainer.state()
        write()
        for _ in range(2):
            refused("differ, first in .*Change parameters alike on all ranks", a)
        parallel.broadcast_parameters(m)
        trainer.load_state(state)
        step(a)
        parallel.assert_in_sync(m)
    for write in (lambda: a.set_value([1, 2, 3, 4]), lambda: rank or a.set_value(a.as_array())):
        write()
        step(a)
        parallel.assert_in_sync(m)


def test_decay():
    together = parallel.DistributedTrainer(dy.AdamWTrainer(m, 0.1), exchange=engine)
    for _ in range(3):
        step(a, by=together)
    if rank == 1:
        together.inner.exclude_from_decay([b])
    refused('"/b" is excluded from decay on rank 1, but not on all. Call exclude', a, by=together)
    together.inner.exclude_from_decay([b])
    step(a, by=together)
    parallel.assert_in_sync(m)


def test_precision():
    for _ in range(3):
        step(a)
    a.set_precision("float32" if rank == 0 else None)
    refused('"/a" is of another precision on rank.* but not on all. Call set_precision', a)
    a.set_precision(None)
    step(a)
    parallel.assert_in_sync(m)


def test_moments():
    """An update of zero gradients leaves values as they are, but not moments and counts."""
    for rule, change in (
        (dy.MomentumSGDTrainer, "restart"),
        (dy.RMSPropTrainer, "update"),
        (dy.SimpleSGDTrainer, "update"),
    ):
        together = parallel.DistributedTrainer(rule(m, 0.1), exchange=engine)
        for _ in range(3):
            step(a, by=together)
        state = together.state()
        if rank == 1:
            getattr(together.inner, change)()
        refused("the trainer's state differs on rank 1", a, by=together)
        together.load_state(state)
        step(a, by=together)
        together.restart()
        step(a, by=together)
        parallel.assert_in_sync(m)


def test_parameters():
    for _ in range(2):
        step(a, rows=[rank])
    added = m.add_parameters(3, init=7, name="added") if rank == 1 else None
    for _ in range(2):
        refused(r"rank 0 has 3; first that rank 0 lacks \"/added\"", a)
    added = added or m.add_parameters(3, init=8, name="added")
    for _ in range(3):
        step(a, added, rows=[rank])
    check(a, -5 * size)
    check(added, 8 - 3 * size)


def test_interrupted():
    """One rank leaves a wait by Ctrl-C. Others would take what it sends next for what they wait
    for."""
    step(a)
    if rank:
        come_later()
    else:
        with interrupted():
            step(a)
        for _ in range(3):
            with raises(
                RuntimeError,
                match="was interrupted, so that this rank is out of step with the others",
            ):
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
        collectives_made = (
            lambda: parallel.gather("two"),
            lambda: parallel.all_reduce(2),
            lambda: parallel.barrier(timeout=5),
            lambda: parallel.broadcast_parameters(m),
            set_up,
        )
        for meet in collectives_made:
            with raises(
                RuntimeError,
                match=(
                    r"gather \(collective \d+\) was interrupted, so that this rank is out of step"
                    r" with the others"
                ),
            ):
                meet()
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
            for meet in (checkpointer.save, checkpointer.resume, lambda: parallel.gather("two")):
                with raises(
                    RuntimeError,
                    match=(
                        r"checkpoint \(collective \d+\) was interrupted, so that this rank is out"
                        r" of step"
                    ),
                ):
                    meet()
            print("ok", flush=True)
        checkpointer.save()  # nobody can: the job ends


def test_checkpoint_that_cannot_be_written():
    """Rank 0 alone writes; all may go on."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "file").touch()
        checkpointer = parallel.Checkpointer(
            Path(folder, "file", "run") if rank == 0 else "elsewhere", m, trainer
        )
        for _ in range(2):
            for meet in (checkpointer.save, checkpointer.resume):
                with raises(NotADirectoryError):
                    meet()
            assert parallel.all_reduce(1) == size


def test_interrupted_after_the_exchange():
    step(a)
    if rank == 0:

        def interrupt():
            raise KeyboardInterrupt

        Hooks(trainer.inner).before(interrupt)
        with raises(KeyboardInterrupt):
            step(a, b)
        with raises(
            RuntimeError, match="was interrupted, so that this rank is out of step with the others"
        ):
            step(a, b)
    else:
        step(a, b)
    assert trainer.updates == (2 if rank else 1)


def test_gradients_that_are_not_finite():
    for _ in range(2):
        step(a)
        for skips in (False, True):
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
    assert trainer.skipped == 2


def test_gradients_that_are_not_finite_of_a_batch():
    """The loop goes on, and says nothing of a trainer of one process."""
    batches = parallel.shard(range(4 * size), batch_size=size, cost=None)
    trainer.set_clip_threshold(5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for batch in batches:
            try:
                dy.renew_cg()
                (dy.sum_elems(a) * (float("nan") if batch.step == 1 else 1.0)).backward()
                trainer.update()
            except RuntimeError:
                m.reset_gradients()
    assert (batches.epoch, trainer.updates) == (1, 3)


def test_gradients_that_are_not_finite_of_an_accumulation():
    """It has ended, as in one process: the next update comes k passes later."""
    for average in ("sum", "mean"):
        other = parallel.DistributedTrainer(
            dy.SimpleSGDTrainer(m, 1.0), average, accumulate=2, exchange=engine
        )
        before = a.as_array()
        for factor in (1.0, float("nan"), 1.0, 1.0, 1.0):
            dy.renew_cg()
            (dy.sum_elems(a) * factor / (size if average == "sum" else 1)).backward()
            try:
                other.update()
            except RuntimeError:
                m.reset_gradients()
        assert other.updates == 1
        check(a, before - 1)
        m.reset_gradients()


def test_gradients_that_are_not_finite_inside_of_join():
    """Ranks that have ended make no more of it than those that catch the error."""
    for average in ("sum", "mean"):
        other = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1.0), average, exchange=engine)
        other.set_clip_threshold(100)
        caught, before = 0, a.as_array()
        with parallel.Join(other):
            for number in range(4 if rank else 1):
                dy.renew_cg()
                (dy.sum_elems(a) * (float("nan") if number == 2 else 1.0)).backward()
                try:
                    other.update()
                except RuntimeError:
                    caught += 1
                    m.reset_gradients()
        assert (caught, other.updates) == (bool(rank), 3)
        check(a, before - (3 if average == "mean" else size + 2 * (size - 1)))


def test_gradients_that_are_not_finite_and_stay():
    """What the program keeps of them counts once in its next update, as in one process."""

    def backward(of_b):
        dy.renew_cg()
        (dy.sum_elems(a) + dy.sum_elems(table[1]) + dy.sum_elems(b) * of_b).backward()

    for average, k, subset, joins in itertools.product(
        ("sum", "mean"), (1, 2), (False, True), (False, True)
    ):
        if subset and (joins or k > 1):
            continue
        other = parallel.DistributedTrainer(
            dy.SimpleSGDTrainer(m, 1.0), average, accumulate=k, exchange=engine
        )
        other.set_clip_threshold(1000)
        update = partial(other.update_subset, [a, b], [table]) if subset else other.update
        before, row = a.as_array(), table.row_as_array(1)
        with parallel.Join(other) if joins else contextlib.nullcontext():
            for number in range(k):
                backward(float("nan") if number == k - 1 else 0.0)
                if number < k - 1:
                    assert not update()
            with raises(RuntimeError, match="Magnitude of gradient is bad: nan"):
                update()
            b.clear_gradient()
            for _ in range(k):
                backward(0.0)
                update()
        by = (1 if joins else 2) * (size if average == "sum" else 1)  # a Join keeps none
        check(a, before - by)
        assert (table.row_as_array(1) == row - by).all()
        assert other.updates == 1


def test_gradients_of_earlier_steps_that_one_rank_scales():
    """Each rank holds their sums: ranks would go different ways."""
    other = parallel.DistributedTrainer(
        dy.SimpleSGDTrainer(m, 1.0), "sum", accumulate=2, reproducible=True, exchange=engine
    )

    def one_step(scaled):
        for batch in parallel.shard(range(size), batch_size=size, micro_batches=size, cost=None):
            dy.renew_cg()
            dy.sum_elems(a).backward()
            if scaled:
                a.scale_gradient(0.5)
            other.update(batch)

    one_step(False)
    with raises(RuntimeError, match="gradients of earlier steps of this accumulation in"):
        one_step(rank == 0)
    m.reset_gradients()
    one_step(False)  # its second: the first has been thrown away
    check(a, -size / 2)
    one_step(True)
    one_step(True)
    check(a, -size / 2 - size * (0.25 + 0.5) / 2)


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
        for meet in (lambda: step(a, b), parallel.barrier, lambda: parallel.gather(1)):
            with raises(RuntimeError, match="which this rank has forked, takes no part in the job"):
                meet()

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
