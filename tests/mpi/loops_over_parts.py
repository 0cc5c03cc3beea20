"""Batches of shard() that a program changes, or takes apart for several passes or updates."""

import contextlib
import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from least_squares import DATA, EPOCH, SIZE, Model, expect, steps

import dist_dynet as dy
from dist_dynet import parallel


def keeps_one(b):
    """Removes all but one."""
    b[:] = b[:1]


CHANGES = {
    "slice": keeps_one,
    "del": lambda b: b.__delitem__(slice(0, 1)),
    "+=": lambda b: b.__iadd__(list(b)[:1]),
    "*=": lambda b: b.__imul__(3 if len(b) != 2 else 2),
    "append": lambda b: b.append(DATA[0]),
    "extend": lambda b: b.extend([DATA[0]]),
    "insert": lambda b: b.insert(0, DATA[0]),
    "pop": lambda b: b.pop() if len(b) else None,
    "clear": lambda b: b.clear(),
}


def test_changed_in_place():
    """The number of examples is another one then: nothing is averaged with the old one."""
    for what, change in CHANGES.items():
        for named, options in itertools.product((False, True), ({}, {"accumulate": 2})):
            a = Model(**options)
            several = parallel.world_size() > 1
            for batch in a.shard:
                a.backward(batch)
                change(batch)
                try:
                    a.trainer.update(*([batch] if named else []))
                    updated = not options or batch.step == 1
                except RuntimeError as error:
                    words = ("another number of examples", "it is not known which batch")
                    assert several and any(w in str(error) for w in words), (what, error)
                    break
                if updated:
                    assert not several, what
                    break
            if several:
                expect(a)
    for change in (  # of the same length, or told
        lambda b: b.sort(key=lambda x: x[0]),
        lambda b: b.reverse(),
        lambda b: b.__setitem__(slice(None), list(b)),
        lambda b: (b.append(DATA[0]), b.pop()),
    ):
        a = Model()
        for batch in a.shard:
            change(batch)
            a.step(batch)
        expect(a, *EPOCH)
    a = Model()
    for batch in a.shard:
        batch[:] = [x for x in batch if x[0] > 0]
        batch.n = len(batch)
        a.step(batch)
    b = Model()
    for batch in b.shard:
        batch[:] = [x for x in batch if x[0] > 0]
        b.step(batch, len(batch))
    positive = [[x[x[:, 0] > 0]] for x in steps()]
    expect(a, *positive)
    expect(b, *positive)


def test_updates_for_single_examples():
    """Within a loop over a batch: refused, also with names. A loop that has ended, or was left,
    does no harm, nor do copies."""

    def inside(a, batch, number):
        for x in batch:
            a.backward([x])
            a.trainer.update(*[(), (batch,), (1,)][number])

    for number in range(3):
        a = Model()
        try:
            for batch in a.shard:
                inside(a, batch, number)
                if not batch:
                    break  # other ranks have refused
        except RuntimeError as error:
            assert "loop over the examples of a batch" in str(error) or (
                "see the message there" in str(error) or "must agree" in str(error)
            ), error
        assert parallel.world_size() == 1 or not a.w.as_array().any()
    a = Model()
    for batch in a.shard:
        kept = iter(batch)
        total = sum(1 for _ in kept) + sum(1 for _ in zip(batch, batch, strict=True))
        assert total == 2 * len(batch) and kept is not None
        for _ in batch:
            break
        pairs = zip(range(len(batch)), batch, strict=False)
        assert len(batch) < 2 or sum(1 for _ in pairs) == len(batch)  # it has not ended
        a.step(batch)
    expect(a, *EPOCH)
    a = Model()
    for batch in a.shard:
        a.backward(batch)
        for x in [*batch][:1]:
            assert x is not None
        a.trainer.update()
    expect(a, *EPOCH)


def test_examples_that_another_thread_goes_through():
    """That of multiprocessing.Pool.map(), say, which has not asked yet whether there are more."""
    a = Model()
    for size in (1, SIZE):
        for batch in parallel.shard(list(DATA), size):
            waiting = iter(batch)
            with ThreadPoolExecutor(1) as pool:
                examples = [pool.submit(next, waiting).result() for _ in range(len(batch))]
                a.step(examples)
    one = [[DATA[k : k + 1]] for k in np.random.default_rng((0, 0)).permutation(len(DATA))]
    expect(a, *one, *EPOCH)


def test_updates_for_parts_of_a_batch():
    """By slices or numbers: refused, also with names. Parts that are all of it are right, and so
    is a look at one example."""

    def parts(a, batch, number):
        for i in range(len(batch)):
            part = batch[i : i + 1] if number < 4 else [batch[i]]
            a.backward(part)
            a.trainer.update(*[(), (batch,), (len(part),), (), ()][number])

    for number in range(5):
        a = Model()
        try:
            for batch in list(a.shard) if number == 1 else a.shard:
                if number == 3:
                    batch.n = sum(1 for _ in batch)
                parts(a, batch, number)
                if len(batch) < 2:  # others have refused
                    a.trainer.update(*[(), (batch,), (0,), (), ()][number])
        except RuntimeError as error:
            words = "a part of the batch", "see the message there", "must agree"
            assert any(word in str(error) for word in words), (number, error)
            assert parallel.world_size() > 1
        else:
            assert parallel.world_size() == 1
    a = Model()
    for batch in a.shard:
        for i in range(0, len(batch), 2):
            a.backward(batch[i : i + 2])
        a.m.reset_gradients()
        a.backward([batch[i] for i in range(len(batch))])
        a.trainer.update()
    for batch in a.shard:
        examples = list(batch)
        assert not batch or batch[0] is examples[0]
        a.backward(examples)
        a.trainer.update()
        a.backward(examples)
        assert not batch or batch[-1] is examples[-1]
        a.trainer.update()
    expect(a, *EPOCH, *[[x] for x in steps(epoch=1) for _ in range(2)])


def test_passes_for_parts_of_a_batch():
    """Of an accumulation: right where they make up the batch, else refused."""
    for way, cut in itertools.product(("accumulate", "no_sync"), (True, False)):
        k = 2 if way == "accumulate" else 1
        a = Model(accumulate=k)
        try:
            for batch in a.shard:
                half = (len(batch) + 1) // 2
                for number, part in enumerate((slice(half), slice(half * cut, None if cut else 1))):
                    examples, w = batch[part], a.w
                    dy.renew_cg()
                    far = [
                        dy.squared_distance(w * float(x[2]), dy.inputTensor(x[:2]))
                        for x in examples
                    ]
                    if far:
                        (dy.esum(far) * (k / len(batch))).backward()
                    silent = way == "no_sync" and number == 0
                    with a.trainer.no_sync() if silent else contextlib.nullcontext():
                        a.trainer.update()
        except RuntimeError as error:
            words = "a part of the batch", "see the message there"
            assert any(word in str(error) for word in words) and not cut, error
        else:
            assert cut or parallel.world_size() == 1
        if cut:
            expect(a, *EPOCH)
