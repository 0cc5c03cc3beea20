"""Each kind of loop over shard() by itself, with parts of unlike sizes: right, or refused at the
first update() on all ranks. Rank 0 prints "ok" in the end.
"""

import copy
import itertools
import queue
import threading
import warnings

import numpy as np
from least_squares import DATA, EPOCH, SIZE, Model, descend, expect, refused, steps
from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()


def ahead(batches):
    """One batch ahead of whoever asks."""
    before = None
    for batch in batches:
        if before is not None:
            yield before
        before = batch
    yield before


def in_thread(batches):
    """A thread reads ahead."""
    waiting = queue.Queue(1)

    def read():
        for batch in batches:
            waiting.put(batch)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    yield from iter(waiting.get, None)


def epoch_of(a, batches, is_named):
    """Trains on these."""
    for batch in batches:
        a.step(batch, *[batch] * is_named)


# ---- loops in which the batch is known -------------------------------------------------


def test_plain():
    for size_of_step in (1, 2, SIZE, 12):
        a = Model(size=size_of_step)
        for batch in a.shard:
            a.step(batch)
        for _, batch in enumerate(a.shard):
            a.step(batch)
        orders = [np.random.default_rng((0, epoch)).permutation(len(DATA)) for epoch in range(2)]
        starts = range(0, len(DATA), size_of_step)
        expect(a, *[[DATA[order[i : i + size_of_step]]] for order in orders for i in starts])


def test_wrapped():
    for wrap in (
        lambda s: itertools.islice(s, 99),
        lambda s: map(lambda b: b, s),
        lambda s: (b for b in s),
        itertools.chain,
        lambda s: iter(iter(s).__next__, None),
    ):
        a = Model()
        epoch_of(a, wrap(a.shard), False)
        expect(a, *EPOCH)


def test_left():
    """By break, by an exception, and at its end."""
    a = Model()
    for batch in a.shard:
        a.step(batch)
        break
    with raises(KeyError):
        for batch in a.shard:
            a.backward(batch)
            raise KeyError
    a.m.reset_gradients()
    epoch_of(a, a.shard, False)
    expect(a, EPOCH[0], *EPOCH)


def test_an_evaluation_inside():
    a = Model()
    for batch in a.shard:
        a.backward(batch)
        for others in parallel.shard(list(DATA), 2):
            [dy.squared_norm(a.w * float(x[0])).value() for x in others]
        parallel.evaluate(lambda x: float(x[0]), list(DATA))
        a.trainer.update()
    expect(a, *EPOCH)


def test_two_trainers_of_one_loop():
    """A batch serves one update of each."""
    a, b = Model(), Model()
    for batch in a.shard:
        dy.renew_cg()
        if batch:
            (a.loss(batch) + b.loss(batch)).backward()
        a.trainer.update()
        b.trainer.update()
    expect(a, *EPOCH)
    expect(b, *EPOCH)


def test_several_losses_of_one_batch():
    a = Model()
    for batch in a.shard:
        a.backward(batch)
        a.step(batch)
    expect(a, *[[x, x] for x in steps()])


def test_a_trainer_that_is_made_inside():
    a = Model()
    for batch in a.shard:
        if batch.step == 1:
            a.trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(a.m, 0.1))
            a.trainer.set_clip_threshold(0)
        a.step(batch)
    expect(a, *EPOCH)


# ---- loops in which update() needs its name --------------------------------------------


def test_batches_that_are_kept_or_read_ahead():
    for wrap, words in (
        (list, "no loop over shard() is running in this thread"),
        (lambda s: sorted(s, key=lambda b: b.step), "no loop over shard() is running"),
        (lambda s: zip(*[iter(list(s))], strict=True), "no loop over shard() is running"),
        (ahead, "has yielded 2 batches since the last update"),
        (in_thread, "no loop over shard() is running in this thread"),
    ):
        for is_named in (False, True):

            def batches(a, wrap=wrap):
                for item in wrap(a.shard):
                    yield item[0] if isinstance(item, tuple) else item

            a = Model()
            if is_named:
                epoch_of(a, batches(a), True)
                expect(a, *EPOCH)
            else:
                refused(words, lambda a=a, batches=batches: epoch_of(a, batches(a), False))
                expect(a, *EPOCH * (size == 1))
    a = Model()
    for batch in list(a.shard):
        a.step(batch, len(batch))
    expect(a, *EPOCH)


def test_two_loops_at_once():
    a, b = Model(), Model(seed=1)

    def train(is_named=False):
        for one, other in zip(a.shard, b.shard, strict=True):
            a.backward(one)
            b.backward(other)
            a.trainer.update(*[one] * is_named)
            b.trainer.update(*[other] * is_named)

    refused("2 loops over shard() are running in this thread", train)
    a, b = Model(), Model(seed=1)
    train(is_named=True)
    expect(a, *EPOCH)
    expect(b, *[[x] for x in steps(seed=1)])


def test_a_loop_inside_another():
    a, b = Model(), Model(seed=1)

    def train():
        for batch in a.shard:
            a.step(batch, batch)
            epoch_of(b, b.shard, False)

    refused("2 loops over shard() are running in this thread", train)


def test_a_batch_that_is_skipped():
    def train(is_named):
        for batch in a.shard:
            if batch.step == 1:
                continue
            a.step(batch, *[batch] * is_named)

    a = Model()
    refused("has yielded 2 batches since the last update", lambda: train(False))
    a = Model()
    train(True)
    expect(a, EPOCH[0], EPOCH[2])


def test_a_second_update_of_a_batch():
    def train(is_named):
        for batch in a.shard:
            a.step(batch)
            a.step(batch, *[batch] * is_named)

    a = Model()
    refused("was used already", lambda: train(False))
    a = Model()
    train(True)
    expect(a, *[passes for passes in EPOCH for _ in range(2)])


def test_an_update_behind_the_loop():
    def train(*named):
        for batch in a.shard:
            a.backward(batch)
            if batch.step < 2:
                a.trainer.update()
        a.trainer.update(*[batch for _ in named])

    a = Model()
    refused("no loop over shard() is running in this thread", train)
    a = Model()
    train("named")
    expect(a, *EPOCH)


def test_gradients_of_two_batches():
    def train():
        for batch in a.shard:
            a.backward(batch)
            if batch.step == 1:
                a.trainer.update()

    a = Model()
    refused("has yielded 2 batches since the last update", train)


def test_batches_of_an_earlier_loop():
    a = Model()
    kept = []
    for batch in a.shard:
        a.step(batch)
        kept.append(batch)
    epoch_of(a, kept, True)
    expect(a, *EPOCH, *EPOCH)
    for read in (copy.copy, copy.deepcopy, list, lambda b: b[:], lambda b: b + b[:0]):
        assert type(read(kept[0])) is list
    for wrong in (-1, float("nan"), "x"):  # no number of examples
        with raises(RuntimeError if size > 1 else (ValueError, TypeError), "must be a number"):
            a.trainer.update(wrong)


def test_sums_need_no_names():
    for wrap in (lambda s: s, list, ahead):
        a = Model(average="sum")
        epoch_of(a, wrap(a.shard), False)
        expect(a, *EPOCH)


def test_one_rank_that_leaves_its_loop():
    """Its next update is of another step than those of the others."""
    if size == 1:
        return
    a = Model()
    with raises(RuntimeError, "all ranks must agree; step"):
        for _ in range(2):
            for batch in a.shard:
                a.step(batch)
                if rank == 0 and batch.step == 1:
                    break


# ---- several passes --------------------------------------------------------------------


def test_accumulation():
    for average, k, is_named in itertools.product(("mean", "sum"), (2, 3), (False, True)):
        a = Model(average=average, accumulate=k)
        for _ in range(k):
            epoch_of(a, list(a.shard) if is_named else a.shard, is_named)
        passes, w = [x for epoch in range(k) for x in steps(epoch=epoch)], np.zeros(2)
        for i in range(0, len(passes), k):
            w = w + (descend(w, passes[i : i + k]) - w) / k
        assert np.allclose(a.w.as_array(), w, rtol=1e-12, atol=1e-12)


def test_no_sync():
    for average in ("mean", "sum"):
        a = Model(average=average)
        for batch in a.shard:
            if batch.step < 2:
                with a.trainer.no_sync():
                    assert not a.step(batch)
                    assert size == 1 or not a.w.has_gradient()
            else:
                assert a.step(batch)
        expect(a, steps())


def test_passes_whose_weights_only_one_rank_knows():
    """On that rank a number, or a batch whose n it has set; then all ranks do so."""
    for act, all_ranks, way in itertools.product(
        ("n", "number", "list"), (False, True), ("accumulate", "no_sync", "subset")
    ):
        a = Model(accumulate=2 if way == "accumulate" else 1)
        said = ""
        try:
            for batch in list(a.shard) if act == "list" else a.shard:
                a.backward(batch)
                given = [batch] if act == "list" else []
                if rank == 0 or all_ranks:
                    given = [batch] if act == "n" else [3] if act == "number" else []
                    if act == "n":
                        batch.n = 3
                if way == "subset":
                    a.trainer.update_subset([0], [], *given)
                elif way == "no_sync" and batch.step == 0:
                    with a.trainer.no_sync():
                        a.trainer.update(*given)
                else:
                    a.trainer.update(*given)
        except RuntimeError as error:
            said = str(error)
            expect(a)
        every = parallel.gather(said)
        assert all(every) == any(every) == (size > 1), (act, way, every)


def test_subsets():
    """In two parts; what is not updated waits."""
    m = dy.ParameterCollection()
    w, v = m.add_parameters(2, init=0), m.add_parameters(2, init=0)
    table = m.add_lookup_parameters((13, 2), init=0)
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1))
    trainer.set_clip_threshold(0)
    for batch in parallel.shard(range(13), SIZE):
        dy.renew_cg()
        if batch:
            losses = [dy.sum_elems(w * float(x)) + dy.sum_elems(v + table[x]) for x in batch]
            dy.average(losses).backward()
        trainer.update_subset([w], [])
        assert size == 1 or not (v.has_gradient() or table.has_gradient())
        trainer.update_subset([v], [table], batch)
    every = [np.random.default_rng((0, 0)).permutation(13)[i : i + SIZE] for i in (0, 5, 10)]
    assert np.allclose(w.as_array(), -sum(part.mean() for part in every), rtol=1e-12)
    assert np.allclose(v.as_array(), -3)
    for part in every:
        assert np.allclose(table.as_array()[part], -1 / len(part), rtol=1e-12)
    parallel.assert_in_sync(m)


def test_join():
    """Each rank has batches of its own; one that has ended adds nothing."""
    for given in ((), (2,)):
        a = Model()
        with parallel.Join(a.trainer):
            for _ in range(1 + rank):
                a.step(list(DATA), *(given or (1,)))
        expect(a, *[[DATA]] * size)
    a = Model(accumulate=2)
    with raises(ValueError, "Join: with reproducible=True or accumulation"):
        parallel.Join(a.trainer)


# ---- weights ---------------------------------------------------------------------------


def test_tokens():
    """n as a number of the program's, on the batch before update(), or said by shard()."""
    tokens = [1 + i % 4 for i in range(len(DATA))]
    for way, k in (("number", 1), ("batch", 1), ("shard", 1), ("shard", 2)):
        a = Model(accumulate=k)
        weight = tokens if way == "shard" else None
        for batch in parallel.shard(range(len(DATA)), SIZE, weight=weight):
            dy.renew_cg()
            n = sum(tokens[i] for i in batch)
            if batch:
                (dy.esum([dy.sum_elems(a.w) * float(tokens[i] * i) for i in batch]) / n).backward()
            if way == "batch":
                batch.n = n
            a.trainer.update(*[n] * (way == "number"))
        order, w = np.random.default_rng((0, 0)).permutation(len(DATA)), 0
        for i in range(0, len(DATA) if k == 1 else 10, SIZE):
            part = order[i : i + SIZE]
            w -= 0.1 / k * np.average(part, weights=np.take(tokens, part))
        assert np.allclose(a.w.as_array(), w, rtol=1e-12), (way, a.w.as_array(), w)


def test_weights_that_change_in_place():
    """Arrays and lists count as they are in each step."""

    def trained(make, comm):
        m, weights = dy.ParameterCollection(), make(1.0 + np.arange(len(DATA)) % 3)
        w = m.add_parameters(2, init=0)
        trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 0.1), comm=comm)
        shard = parallel.shard(range(len(DATA)), SIZE, weight=weights, comm=comm)
        for batch in itertools.chain(shard, shard):
            dy.renew_cg()
            if batch:
                losses = [dy.squared_norm(w - float(i)) * float(weights[i]) for i in batch]
                (dy.esum(losses) / batch.n).backward()
            trainer.update()
            weights[batch.step] += 2
        return w.as_array()

    for make in np.array, list:
        alone, divided = (trained(make, comm) for comm in (MPI.COMM_SELF, None))
        assert np.allclose(divided, alone, rtol=1e-12, atol=1e-12), (make, divided - alone)


def test_examples_of_weight_zero():
    """Their rows are used, though a rank may have no other examples: Adam moves them on."""

    def trained(comm, **options):
        m = dy.ParameterCollection()
        table = m.add_lookup_parameters((len(DATA), 2), init=0.5)
        trainer = parallel.DistributedTrainer(dy.AdamTrainer(m, 0.1), comm=comm, **options)
        for epoch in range(3):
            weights = (np.arange(len(DATA)) + epoch) % 3 > 0
            for batch in parallel.shard(
                range(len(DATA)), SIZE, epoch=epoch, comm=comm, weight=weights
            ):
                dy.renew_cg()
                if batch:
                    losses = [dy.squared_norm(table[i]) * float(weights[i]) for i in batch]
                    (dy.esum(losses) / (batch.n or 1)).backward()
                trainer.update()
        return table.as_array()

    for options in {}, {"accumulate": 2}:
        whole, divided = (trained(comm, **options) for comm in (MPI.COMM_SELF, None))
        assert np.allclose(divided, whole, rtol=1e-9, atol=1e-9), (options, divided - whole)


def test_a_loss_that_is_a_sum():
    """Under "mean" rank 0 warns of it once, where it has several examples."""
    said = []
    for average in ("sum", "mean"):
        m = dy.ParameterCollection()
        w = m.add_parameters(1, init=0)
        trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m), average)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for batch in parallel.shard(range(4 * size), 2 * size):
                dy.renew_cg()
                dy.esum([w * float(x) for x in batch]).backward()
                trainer.update()
        said.append([str(warning.message) for warning in caught])
    assert said[0] == [] and len(said[1]) == (rank == 0 and size > 1), said
    assert all("the loss is a sum" in text for text in said[1])


for name, test in [*globals().items()]:
    if name.startswith("test_"):
        test()
parallel.barrier()
if rank == 0:
    print("ok")
