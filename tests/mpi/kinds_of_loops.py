"""Each kind of loop over shard() by itself, with parts of unlike sizes: right, or refused at the
first update() on all ranks.

The right end is computed by NumPy: least squares by gradient descent on the whole batches.
"""

import contextlib
import copy
import itertools
import queue
import threading
import time
from functools import partial

import numpy as np
from drawn import ahead

import dist_dynet as dy
from dist_dynet import parallel

DATA = np.random.default_rng(3).normal(size=(13, 3))
SIZE, RATE = 5, 0.1


def descend(w, passes):
    """One update by the sum of the passes' gradients, each the mean over its batch."""
    gradient = sum((2 * x[:, 2:] * (x[:, 2:] * w - x[:, :2])).mean(axis=0) for x in passes)
    return w - RATE * gradient


def steps(seed=0, epoch=0):
    """The whole batches of an epoch."""
    order = np.random.default_rng((seed, epoch)).permutation(len(DATA))
    return [DATA[order[i : i + SIZE]] for i in range(0, len(DATA), SIZE)]


class Model:
    """One weight vector, its trainer and its shard."""

    def __init__(self, seed=0, **options):
        self.m = dy.ParameterCollection()
        self.w = self.m.add_parameters(2, init=0)
        self.trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(self.m, RATE), **options)
        self.trainer.set_clip_threshold(0)
        # the dearest example alone on its rank
        self.shard = parallel.shard(
            list(DATA), SIZE, seed=seed, cost=lambda x: 9 if x[0] > 0.5 else 1
        )

    def backward(self, batch):
        """The mean over the batch of |w x2 - (x0, x1)|^2."""
        dy.renew_cg()
        if batch:
            dy.average(
                [dy.squared_distance(self.w * float(x[2]), dy.inputTensor(x[:2])) for x in batch]
            ).backward()

    def step(self, batch, *named):
        """Backward and update."""
        self.backward(batch)
        self.trainer.update(*named)


def expect(model, *updates):
    """The model is where these updates lead."""
    w = np.zeros(2)
    for passes in updates:
        w = descend(w, passes)
    assert np.allclose(model.w.as_array(), w, rtol=1e-12, atol=1e-12), (model.w.as_array(), w)


def refused(words, function):
    """With several ranks the first update() says these words, and nothing was updated."""
    try:
        function()
    except RuntimeError as error:
        assert (
            parallel.world_size() > 1
            and words in str(error)
            and "trainer.update(batch)" in str(error)
        ), error
    else:
        raise AssertionError(f"not refused: {words}")


EPOCH = [[x] for x in steps()]


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


def test_gradients_of_two_batches():
    """Refused, with the name of one of them, too: unless this rank has the same share of both."""
    for named in False, True:
        a = Model()
        try:
            for number, batch in enumerate(a.shard):
                a.backward(batch)
                if number:
                    a.trainer.update(*[batch] * named)
        except RuntimeError as error:
            assert "several batches" in str(error) or "see the message there" in str(error), error
        expect(a)


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


def test_accumulation():
    for k in (2, 3):
        a = Model(accumulate=k)
        passes = []
        for epoch in range(k):
            for batch in a.shard:
                a.step(batch)
            passes += steps(epoch=epoch)
        w = np.zeros(2)
        for i in range(0, len(passes), k):
            gradient = w - descend(w, passes[i : i + k])
            w = w - gradient / k
        assert np.allclose(a.w.as_array(), w, rtol=1e-12, atol=1e-12)
    a = Model()
    for number, batch in enumerate(a.shard):
        if number < 2:
            with a.trainer.no_sync():
                a.step(batch)
        else:
            a.step(batch)
    expect(a, steps())


def test_gradients_that_wait_are_those_of_the_program():
    """What it does to gradients between passes is done to those of earlier passes, too."""
    first, second, third = steps()
    for act, factor in (
        (lambda a: a.w.scale_gradient(0.5), 0.5),
        (lambda a: a.w.clear_gradient(), 0),
        (lambda a: a.m.reset_gradients(), 0),
    ):
        a = Model(accumulate=3)
        for batch in a.shard:
            a.step(batch)
            if batch.step == 1:
                act(a)
        w = np.zeros(2)
        gradient = (
            factor * (2 * w - descend(w, [first]) - descend(w, [second])) + w - descend(w, [third])
        )
        assert np.allclose(a.w.as_array(), w - gradient / 3, rtol=1e-12, atol=1e-12), (
            a.w.as_array(),
            w - gradient / 3,
        )


def test_gradients_that_wait_are_changed_on_all_ranks_alike():
    """Where one rank alone does so, and others have some, the update is refused on all ranks, until
    they are forgotten."""
    acts = (
        lambda w, model: w.scale_gradient(0.5),
        lambda w, model: w.set_gradient(np.ones(w.dim()[0])),
        lambda w, model: w.clear_gradient(),
        lambda w, model: model.reset_gradients(),
    )
    silent = contextlib.nullcontext

    def step(m, t, used, act, is_subset, no_sync):
        """Two passes, in the second of which those do something that act says."""
        for number in range(2):
            dy.renew_cg()
            for p in used:
                (dy.sum_elems(p[0] if isinstance(p, dy.LookupParameters) else p) * 3).backward()
            if number:
                act()
            with t.no_sync() if no_sync and not number else silent():
                if is_subset and not number:
                    t.update_subset([1], [])
                else:
                    t.update()

    def outcome(t, *arguments):
        try:
            step(*arguments)
        except RuntimeError as error:
            assert "gradients of earlier passes of this accumulation of" in str(error), error
            return "refused"
        return "updated"

    rank, size = parallel.rank(), parallel.world_size()
    for act, average, way, kind in itertools.product(
        acts, ("mean", "sum"), ("accumulate", "no_sync", "subset"), range(2)
    ):
        if average == "sum" and way == "subset" and act is acts[1]:
            continue  # it replaces what was added in place
        m = dy.ParameterCollection()
        w, other, table = m.add_parameters(2), m.add_parameters(2), m.add_lookup_parameters((2, 1))
        p = table if kind and act is not acts[1] else w
        t = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1), average)
        if way == "accumulate":
            t.set_accumulation(2)
        more = way == "subset", way == "no_sync"
        alone = {r: partial(act, p, m) if rank == r else int for r in range(2)}
        before = p.as_array()
        # by all; by the one that has some; then by one of those that have some, and that has none
        assert outcome(t, m, t, (p, other), partial(act, p, m), *more) == "updated"
        assert size == 1 or not np.array_equal(p.as_array(), before) or act in acts[2:]
        mine = (p, other) if rank else (other,)
        if act is not acts[3]:
            assert outcome(t, m, t, mine, alone[1] if size == 2 else int, *more) == "updated"
        for used in ((p, other), mine):
            before = p.as_array()
            told = outcome(t, m, t, used, alone[0], *more)
            assert told == ("refused" if size > 1 else "updated"), (average, way)
            assert size == 1 or np.array_equal(p.as_array(), before)
            m.reset_gradients()  # on all ranks
            if size > 1:
                t.update()  # the pass that was refused
            assert outcome(t, m, t, (p, other), int, *more) == "updated"
            assert not np.array_equal(p.as_array(), before)
            parallel.assert_in_sync(m)


def test_tokens():
    """n as a number of the program's, on the batch before backward, or said by shard()."""
    for way in ("number", "batch", "shard"):
        a = Model(average="weighted")
        a.shard = parallel.shard(
            list(DATA),
            SIZE,
            cost=lambda x: 9 if x[0] > 0.5 else 1,
            weight=(lambda _: 1.0) if way == "shard" else None,
        )
        for batch in a.shard:
            if way == "batch":
                batch.n = len(batch)
            a.backward(batch)
            a.trainer.update(*([len(batch)] if way == "number" else []))
        expect(a, *EPOCH)


def test_n_of_batches_with_examples():
    """n is set where there are examples: a rank without any has nothing to add."""
    for accumulate, named in itertools.product((1, 2), (False, True)):
        a = Model(average="weighted", accumulate=accumulate)
        for batch in parallel.shard(list(DATA), 1, shuffle=False):
            if batch:
                batch.n = 7
            a.step(batch, *([batch] if named else []))
        w = np.zeros(2)
        for i in range(0, len(DATA) // accumulate * accumulate, accumulate):
            passes = [DATA[k : k + 1] for k in range(i, i + accumulate)]
            w = w - (w - descend(w, passes)) / accumulate
        assert np.allclose(a.w.as_array(), w, rtol=1e-12, atol=1e-12), (accumulate, named)


def test_n_that_one_rank_sets():
    """Of several passes a rank cannot know by itself that another one counts otherwise."""
    for way in ("set", "number"):
        a = Model(accumulate=2)
        for batch in a.shard:
            a.backward(batch)
            is_odd = parallel.rank() == 0 and batch.step == 0
            if is_odd and way == "set":
                batch.n = 9
            try:
                a.trainer.update(*([9] if is_odd and way == "number" else []))
            except RuntimeError as error:
                said = parallel.gather(str(error))
                assert any("count otherwise than shard() has said on rank 0" in x for x in said)
                assert parallel.world_size() > 1 and batch.step == 1
                break
        else:
            assert parallel.world_size() == 1
        if parallel.world_size() > 1:
            expect(a)


def test_ranks_at_unlike_steps_of_an_accumulation():
    """One leaves its epoch before the last batch, and the others use that."""
    a = Model(accumulate=2)
    said = ""
    try:
        for _ in range(2):
            for batch in a.shard:
                if parallel.rank() == 0 and batch.step == 2:
                    break
                a.step(batch)
    except RuntimeError as error:
        said = str(error)
    if parallel.world_size() > 1:
        assert any("batches are of unlike steps of shard()" in x for x in parallel.gather(said))
        assert np.allclose(a.w.as_array(), descend(np.zeros(2), steps()[:2]) / 2, rtol=1e-12)


def test_weighted_without_weights():
    """Batches that nobody has weighted are refused, as in one process; accumulated ones, too."""
    for accumulate in (1, 2):
        a = Model(average="weighted", accumulate=accumulate)
        kind = ValueError if parallel.world_size() == 1 else RuntimeError
        for batch in a.shard:
            a.backward(batch)
            try:
                a.trainer.update()
            except kind as error:
                assert 'average="weighted" needs a weight; got none' in str(error), error
                break
        else:
            raise AssertionError("not refused")
        assert a.w.as_array().tolist() == [0, 0]


for name, test in list(globals().items()):
    if name.startswith("test_"):
        test()
if parallel.is_main():
    print("ok")
