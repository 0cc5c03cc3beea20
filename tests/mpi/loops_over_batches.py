"""Loops over shard(): lists, threads, several at once, and batches that are used again."""

import copy
import itertools
import multiprocessing
import queue
import threading
import time
import warnings
from functools import partial

import numpy as np
from drawn import ahead
from least_squares import DATA, EPOCH, SIZE, Model, descend, expect, refused, steps

import dist_dynet as dy
from dist_dynet import parallel


def test_plain():
    a = Model()
    for batch in a.shard:
        a.step(batch)
    for _, batch in enumerate(a.shard):
        a.step(batch)
    expect(a, *EPOCH, *[[x] for x in steps(epoch=1)])


def test_wrapped():
    for wrap in (
        itertools.islice,
        lambda s, _: map(lambda b: b, s),
        lambda s, _: (b for b in s),
        lambda s, _: itertools.chain(s),
    ):
        a = Model()
        for batch in wrap(a.shard, 99):
            a.step(batch)
        expect(a, *EPOCH)


def test_lists():
    a = Model()

    def train():
        for batch in list(a.shard):
            a.step(batch)

    refused("shard() has gone past batches", train)
    expect(a)
    a = Model()
    for batch in list(a.shard):
        a.step(batch, batch)
    expect(a, *EPOCH)
    a = Model()
    for batch in list(a.shard):
        a.step(batch, len(batch))
    expect(a, *EPOCH)


def test_a_list_beside_a_loop():
    a, other = Model(), Model(seed=1)

    def train():
        kept = [(batch, [*batch]) for batch in a.shard]
        for _, (_, examples) in zip(other.shard, kept, strict=False):
            a.step(examples)

    refused("there are batches of shard() that nothing was done with yet", train)
    expect(a)


def test_ahead():
    a = Model()

    def train():
        for batch in ahead(a.shard):
            a.step(batch)

    refused("has gone past a batch without a backward pass", train)
    expect(a)
    a = Model()
    for batch in ahead(a.shard):
        a.step(batch, batch)
    expect(a, *EPOCH)


def test_threads():
    """A thread that reads ahead."""

    def batches(a):
        waiting = queue.Queue(1)

        def read():
            for batch in a.shard:
                waiting.put(batch)
            waiting.put(None)

        threading.Thread(target=read, daemon=True).start()
        yield from iter(waiting.get, None)

    a = Model()
    for batch in batches(a):
        a.step(batch, batch)
    expect(a, *EPOCH)
    b = Model()

    def train():
        for batch in batches(b):
            b.step(batch)

    refused("batch", train)
    expect(b)


def test_forked_processes():
    """That read ahead: what comes from there are plain lists."""

    def batches(a, how):
        context = multiprocessing.get_context("fork")
        waiting = context.Queue()

        def read():
            for batch in a.shard:
                waiting.put(how(batch))
            waiting.put(None)

        with warnings.catch_warnings():  # Python 3.12 and later: of threads
            warnings.simplefilter("ignore", DeprecationWarning)
            process = context.Process(target=read, daemon=True)
            process.start()
        yield from iter(waiting.get, None)
        process.join()

    def train(how, *named, **options):
        a = Model(**options)
        for batch in batches(a, how):
            a.step(batch, *[name(batch) for name in named])
        return a

    for how in (lambda batch: batch, list):
        refused("list(shard(...)) and forked processes do", lambda how=how: train(how))
        expect(train(how, len), *EPOCH)
    a = Model()  # a later one has nothing to do with these
    a.backward(list(DATA))
    a.trainer.update()
    expect(a, [DATA])
    for batch in a.shard:  # nor has a loop beside them
        for _ in itertools.islice(batches(a, list), 1):
            a.step(batch)
    expect(a, [DATA], *EPOCH)


class Slow(list):
    """Examples that take their time."""

    def __getitem__(self, i):
        time.sleep(0.05)
        return super().__getitem__(i)


def test_thread_that_waits_for_data():
    """The first batch was read while it was the present one; when its gradients are computed, the
    thread has asked for the next and not got it yet."""
    a, waiting, is_read = Model(), queue.Queue(), threading.Event()
    shard = parallel.shard(Slow(DATA), SIZE)

    def read():
        for batch in shard:
            waiting.put(batch)
            is_read.wait()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    examples = list(waiting.get())
    is_read.set()
    time.sleep(0.02)
    refused("another thread", lambda: a.step(examples))
    expect(a)
    thread.join()  # its loop is none of the next test's


def test_zip():
    a, b = Model(), Model(seed=1)

    def train():
        for one, other in zip(a.shard, b.shard, strict=True):
            a.step(one)
            b.step(other)

    refused("several loops", train)
    expect(a)
    a, b = Model(), Model(seed=1)
    for one, other in zip(a.shard, b.shard, strict=True):
        a.backward(one)
        b.backward(other)
        a.trainer.update(one)
        b.trainer.update(other)
    expect(a, *EPOCH)
    expect(b, *[[x] for x in steps(seed=1)])


def test_one_loss_of_two_batches():
    """Which update() is given one of, or a number; two losses in one graph are right."""

    def losses(a, *batches):
        dy.renew_cg()
        for batch in batches:
            far = [dy.squared_distance(a.w * float(x[2]), dy.inputTensor(x[:2])) for x in batch]
            yield dy.average(far) if far else dy.scalarInput(0)

    for pairs in (zip, lambda *shards: list(zip(*map(list, shards), strict=True))):
        a, b, done = Model(), Model(seed=1), []
        try:
            for one, other in pairs(a.shard, b.shard):
                (next(found := losses(a, one, other)) + next(found)).backward()
                a.trainer.update(one)
                done.append([steps()[one.step], steps(seed=1)[one.step]])
        except RuntimeError as error:
            assert "another batch of shard()" in str(error) or "message there" in str(error), error
        else:
            assert parallel.world_size() == 1
        expect(a, *done)  # where ranks have equal shares of both
    a, b = Model(), Model(seed=1)
    for one, other in zip(a.shard, b.shard, strict=True):
        for batch, loss in zip((one, other), losses(a, one, other), strict=True):
            loss.backward()
            a.trainer.update(batch)
            dy.renew_cg()
            break
        next(losses(a, other)).backward()
        a.trainer.update(other)
    pairs = zip(EPOCH, [[x] for x in steps(seed=1)], strict=True)
    expect(a, *[passes for pair in pairs for passes in pair])


def test_inner():
    a = Model()
    for batch in a.shard:
        a.backward(batch)
        for others in parallel.shard(list(DATA), 2):
            [dy.squared_norm(a.w * float(x[0])).value() for x in others]
        a.trainer.update()
    expect(a, *EPOCH)


def test_left():
    a = Model()
    for batch in a.shard:
        a.step(batch)
        break
    try:
        for batch in a.shard:
            a.backward(batch)
            raise KeyError
    except KeyError:
        a.m.reset_gradients()
    for batch in a.shard:
        a.step(batch)
    expect(a, EPOCH[0], *EPOCH)


def test_again():
    """Batches that were kept are trained on once more, in the loop and after it."""
    a, kept = Model(), []

    def train():
        for batch in a.shard:
            a.step(batch)
            kept.append(batch)
            a.step(kept[0])
            a.step(kept[len(kept) // 2])

    if parallel.world_size() > 1:
        refused("looked into a batch", train)
        kept.clear()
    a = Model()
    for batch in a.shard:
        a.step(batch)
        kept.append(batch)
    for batch in kept:
        a.step(batch, batch)
    expect(a, *EPOCH, *EPOCH)
    refused("looked into a batch", lambda: [a.step(batch) for batch in kept])


READS = {  # every way to the examples of a batch, or to another list of them
    "copy()": lambda b: b.copy(),
    "copy.copy": copy.copy,
    "slice": lambda b: b[:],
    "index": lambda b: [b[i] for i in range(len(b))],
    "list": list,
    "+": lambda b: b + [],  # noqa: RUF005
    "r+": lambda b: [] + b,  # noqa: RUF005
    "*": lambda b: b * 1,
    "r*": lambda b: 1 * b,
    "pop": lambda b: [b.pop() for _ in range(len(b))],
    "reversed": lambda b: [*reversed(b)],
    "array": lambda b: np.array(b) if len(b) else [],
}


def test_again_by_every_method():
    """A kept batch is trained on again, however it is read."""
    for what, read in READS.items():
        a, kept = Model(), []
        for batch in a.shard:
            a.step(batch)
            kept.append(batch)
        examples = list(read(kept[0]))
        assert parallel.gather(len(examples)) == parallel.gather(int(kept[0].n)), what
        if parallel.world_size() > 1:
            refused("looked into a batch", lambda a=a, examples=examples: a.step(examples))
        expect(a, *EPOCH)


def test_gradients_of_two_batches():
    """Refused, with the name or the number of one of them, too: unless this rank has the same share
    of both."""
    for named in "", "batch", "number":
        for size, seed in itertools.product((2, 3, SIZE), range(3)):
            a = Model()
            a.shard = parallel.shard(list(DATA), size, seed=seed, cost=lambda x: 9 * (x[0] > 0.5))
            try:
                for number, batch in enumerate(a.shard):
                    a.backward(batch)
                    if number:
                        given = {"": (), "batch": (batch,), "number": (len(batch),)}
                        a.trainer.update(*given[named])
                        break
            except RuntimeError as error:
                words = "several batches", "another batch", "unlike steps", "see the message there"
                assert any(text in str(error) for text in words), error
                expect(a)
            else:  # if shares are equal by chance
                order = np.random.default_rng((seed, 0)).permutation(len(DATA))
                expect(a, [DATA[order[:size]], DATA[order[size : 2 * size]]])


def test_a_number_of_tokens_of_one_of_two_batches():
    """Of which each rank has the same share of examples, and another one of tokens."""
    lengths = [1, 9, 7, 5]
    a = Model(average="weighted")
    try:
        for batch in parallel.shard(range(4), 2, shuffle=False, cost=None):
            dy.renew_cg()
            tokens = sum(lengths[k] for k in batch)
            if batch:
                losses = [dy.sum_elems(a.w) * float((k + 1) * lengths[k]) for k in batch]
                (dy.esum(losses) / tokens).backward()
            if batch.step:
                a.trainer.update(tokens)
    except RuntimeError as error:
        assert "batch.n = words" in str(error) or "see the message there" in str(error), error
        expect(a)
    else:
        assert parallel.world_size() == 1


def test_the_number_of_examples_of_two_batches():
    """That of the mean over both; and of a batch that is behind the present one."""
    a, n = Model(), 0
    for batch in a.shard:
        for example in batch:
            a.backward([example])
        n += len(batch)
        if batch.step:
            a.w.scale_gradient(1 / max(n, 1))
            a.trainer.update(n)
            break
    expect(a, [np.concatenate(steps()[:2])])
    b, before = Model(), 0
    for batch in b.shard:
        if batch.step:
            b.trainer.update(before)
        b.backward(batch)
        before = len(batch)
    b.trainer.update(before)
    expect(b, *EPOCH)


def test_what_a_loop_leaves_to_an_update_behind_it():
    """On ranks without examples, too; a loop beside it does no harm."""
    for average in ("mean", "sum"):
        for size in (2, SIZE, 12):
            for leave, inner in itertools.product((False, True), repeat=2):
                a, b = Model(average=average), Model(average=average)
                a.shard = parallel.shard(list(DATA), size)
                for batch in a.shard:
                    a.backward(batch)
                    if average == "sum" and batch:
                        a.w.scale_gradient(len(batch) / batch.total)
                    if batch.step == len(a.shard) - 1:
                        if leave:
                            break
                    else:
                        a.trainer.update()
                for others in parallel.shard(list(DATA), 2) if inner else ():
                    [dy.squared_norm(a.w * float(x[0])).value() for x in others]
                a.trainer.update()
                order = np.random.default_rng((0, 0)).permutation(len(DATA))
                expect(a, *[[DATA[order[i : i + size]]] for i in range(0, len(DATA), size)])
                if inner:
                    continue
                if parallel.rank() == 0:  # of no loop
                    b.backward([DATA[0]])
                b.trainer.update()
                share = 1 if average == "sum" else parallel.world_size()
                assert np.allclose(b.w.as_array() * share, descend(np.zeros(2), [DATA[:1]]))


def test_name_of_an_earlier_batch():
    """The gradients cannot come from it."""
    a, earlier = Model(), None
    try:
        for batch in a.shard:
            a.backward(batch)
            a.trainer.update(earlier if earlier is not None else batch)
            earlier = batch
    except RuntimeError as error:
        assert parallel.world_size() > 1
        assert "another batch" in str(error) or "see the message there" in str(error), error
    else:  # all ranks have the same shares of all batches
        expect(a, *EPOCH)


def test_gradients_of_an_evaluation():
    """evaluate() gives each rank a part of the data: right for sums, else refused, with the name of
    a batch, too; gradients that are dropped are no part of it."""

    def passes(a, drop=False):
        def one(x):
            if drop:
                a.m.reset_gradients()
            dy.renew_cg()
            error = dy.squared_distance(a.w * float(x[2]), dy.inputTensor(x[:2]))
            (error / len(DATA)).backward()
            return error.value()

        return parallel.evaluate(one, list(DATA))

    a = Model(average="sum")
    passes(a)
    a.trainer.update()
    expect(a, [DATA])

    def alone(a):
        passes(a)
        a.trainer.update()

    def beside(a, named=False):
        batch = next(iter(a.shard))
        a.backward(batch)
        passes(a)
        a.trainer.update(*[batch] * named)

    for wrong in alone, beside, partial(beside, named=True):
        b = Model()
        try:
            wrong(b)
        except RuntimeError as error:
            assert parallel.world_size() > 1
            assert "evaluate()" in str(error) or "see the message there" in str(error), error
            expect(b)
        else:
            assert parallel.world_size() == 1

    c = Model()
    for batch in c.shard:
        passes(c, drop=True)
        c.m.reset_gradients()
        c.step(batch)
    expect(c, *EPOCH)
