"""What ranks that train by themselves must come to, computed in one process: each rank is a thread
with a model of its own, and what they do together is a few lines of NumPy. drawn.py runs programs
on them.

It shares no code with dist_dynet.parallel but shard()'s order and division of a step; what the
program has written is known as there, by the store's counts.
"""

import contextlib
import threading

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._ffi import ffi, lib
from dist_dynet.parallel.batches.division import divide
from dist_dynet.params.collection import handles_of, root_of

WAIT = 60
"""Seconds that a thread waits for the others."""


class OtherEndedError(Exception):
    """Another thread has ended where this one waits for it."""


class Ranks:
    """So many threads."""

    def __init__(self, size):
        self.size, self._barrier = size, threading.Barrier(size, timeout=WAIT)
        self._slots, self._own = [None] * size, threading.local()

    @property
    def rank(self):
        """Of this thread."""
        return self._own.rank

    def gather(self, x):
        """That of every rank."""
        self._slots[self.rank] = x
        try:
            self._barrier.wait()
            every = list(self._slots)
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise OtherEndedError from None
        return every

    def abort(self):
        """This thread has ended; the others wait no more."""
        self._barrier.abort()

    def run(self, program):
        """What program() gives on each rank."""
        results, errors = [None] * self.size, []

        def run(rank):
            self._own.rank = rank
            try:
                results[rank] = program()
            except BaseException as error:
                errors.append(error)
            if errors:
                self._barrier.abort()

        threads = [threading.Thread(target=run, args=[rank]) for rank in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results


class Parallel:
    """dist_dynet.parallel of a program; among threads what they need of it."""

    def __init__(self, ranks):
        self._ranks = ranks  # a function: those of this thread, or None

    def __getattr__(self, name):
        ranks = self._ranks()
        return getattr(parallel, name) if ranks is None else getattr(Among(ranks), name)


class Among:
    """The functions of dist_dynet.parallel among threads."""

    def __init__(self, ranks):
        self._ranks = ranks

    def rank(self):
        """Of this thread."""
        return self._ranks.rank

    def world_size(self):
        """How many there are."""
        return self._ranks.size

    def is_main(self):
        """Whether this is rank 0."""
        return self._ranks.rank == 0

    def gather(self, x):
        """That of every rank."""
        return self._ranks.gather(x)

    def barrier(self, timeout=0):
        """Waits for all."""
        self._ranks.gather(None)

    def all_reduce(self, x, op="sum"):
        """The sum, mean, max or min."""
        every = [np.asarray(one, float) for one in self._ranks.gather(x)]
        return getattr(np, op)(every, axis=0)

    def evaluate(self, fn, data, cost=None):
        """All by one of them, as its ranks have equal values."""
        return self._ranks.gather([fn(x) for x in data] if self.is_main() else None)[0]

    def assert_in_sync(self, m):
        """Of all values."""
        every = self._ranks.gather([p.as_array() for p in members(m)])
        for theirs in every:
            for a, b in zip(every[0], theirs, strict=True):
                np.testing.assert_array_equal(a, b)


class Part(list):
    """A rank's examples of a step."""

    def __init__(self, batch, examples, n):
        super().__init__(examples)
        self.n, self.total, self.epoch, self.step = n, batch.total, batch.epoch, batch.step


class Parts:
    """The batches of a shard() for one of the ranks."""

    def __init__(self, ranks, whole, present, cost=None, weight=None):
        self._rank, self._size = ranks.rank, ranks.size  # a thread of its own may read them
        self._whole, self._present = whole, present
        self._cost, self._weight = cost or (lambda x: 1), weight or (lambda x: 1)

    def __getattr__(self, name):
        return getattr(self._whole, name)

    def __len__(self):
        return len(self._whole)

    def __iter__(self):
        for batch in self._whole:
            examples = list(batch)
            mine = divide([self._cost(x) for x in examples], self._size)[self._rank]
            mine = [examples[i] for i in mine]
            part = Part(batch, mine, float(sum(map(self._weight, mine))))
            self._present(part)
            yield part
        self._present(None)


def members(m):
    """Dense parameters, then tables."""
    return [*m.parameters_list(), *m.lookup_parameters_list()]


def flat(p):
    """Values, one row of a table after the other."""
    rows = len(p) if isinstance(p, dy.LookupParameters) else 1
    return np.array(p.as_array(), float).reshape(rows, -1)


def write(p, values):
    """The inverse of flat()."""
    if isinstance(p, dy.LookupParameters):
        p.init_from_array(values.reshape(len(p), -1))
    else:
        p.set_value(values.reshape(p.shape()))


class Local:
    """LocalSGD, as its docstring says: with a, the values after the last average,

    g = sum n_r (a - w_r) / sum n_r,    v = momentum v - g,    a = a + v
    """

    def __init__(self, ranks, present, inner, every=8, momentum=0.0, moments="local", rows="all"):
        self._ranks, self._present, self.inner = ranks, present, inner
        self.every, self._momentum, self._moments, self._rows = every, momentum, moments, rows
        self.m, self.position, self._n, self._calls = inner.collection, 0, 0.0, 0
        self._a, self._v = {p: flat(p) for p in members(self.m)}, {}
        self._after, self._joins, self.followers = None, False, []

    @property
    def outer(self):
        """What a Checkpointer takes."""
        return self

    def update(self, weight=None):
        """This rank's update; the k-th averages."""
        n = weight if weight is not None else self._present()
        n = 1.0 if n is None else float(getattr(n, "n", n))
        self._look()
        before, failure = self.inner.updates, None
        try:
            if n > 0:
                self.inner.update()
            else:
                self.m.reset_gradients()
        except RuntimeError as error:
            failure = error
            self.m.reset_gradients()
        self._n += n if self.inner.updates > before else 0.0
        self.position += 1
        self._calls += 1
        self._after = {p: root_of(self.m).version() for p in members(self.m)}
        is_due = self.position >= self.every
        if is_due:
            self.average()
        if failure is not None:
            raise failure
        return is_due

    def _look(self):
        """Before the first update what there is was written by the program, alike on all ranks."""
        for p in members(self.m):
            if p not in self._a or (self.position == 0 and not self._joins):
                self._a[p] = flat(p)

    def average(self, has_ended=False):
        """Whether all ranks have ended."""
        self._look()
        every = members(self.m)
        now = [flat(p) for p in every]
        late = [self._rows_written_late(p, len(w)) for p, w in zip(every, now, strict=True)]
        told = self._ranks.gather((self._n, now, late, has_ended))
        self.position, self._n = 0, 0.0
        if all(ended for *_, ended in told):
            return True
        total = sum(n for n, *_ in told)
        if total and self._ranks.size > 1:
            for k, p in enumerate(every):
                theirs = [(n, w[k]) for n, w, *_ in told if n]
                rows = late[k]
                if all(
                    np.array_equal(their[k], rows)
                    and np.array_equal(w[k][rows], now[k][rows], equal_nan=True)
                    for _, w, their, _ in told
                ):  # written by all alike after the last update
                    self._a[p][rows] = now[k][rows]
                self._average(p, theirs, total)
                write(p, self._a[p])
            self._average_moments()
        self._after = None
        if total:
            for follower in self.followers:
                follower.update()
        return False

    def _rows_written_late(self, p, count):
        """Which rows the program has written after the last update, be it what they were."""
        rows = np.zeros(count, np.uint8)
        if not self._joins and p in (self._after or {}):
            out = ffi.from_buffer("uint8_t[]", rows)
            lib.dn_param_changed_since(*handles_of([p]), self._after[p], out)
        return rows != 0

    def _average(self, p, theirs, total):
        a, v = self._a[p], self._v.setdefault(p, np.zeros_like(self._a[p]))
        moved = np.array([(w != a).any(axis=1) for _, w in theirs])
        weights = np.full(len(a), total)
        if self._rows == "touched" and isinstance(p, dy.LookupParameters):
            weights = sum(n * rows for (n, _), rows in zip(theirs, moved, strict=True))
        chosen = moved.any(axis=0)
        if not isinstance(p, dy.LookupParameters) and p.is_updated():
            chosen[:] = True  # by momentum alone, as dense parameters without a gradient
        g = sum(n * (a - w) for n, w in theirs)[chosen] / weights[chosen, None]
        v[chosen] = self._momentum * v[chosen] - g
        self._a[p] = a.copy()
        self._a[p][chosen] += v[chosen]

    def _average_moments(self):
        if self._moments == "reset":
            self.inner.restart()
        elif self._moments == "average":
            state = self.inner.state()
            told = self._ranks.gather({name: np.array(x) for name, x in state.items()})
            for name in {name for theirs in told for name in theirs if ":/" in name}:
                some = next(theirs[name] for theirs in told if name in theirs)
                arrays = [theirs.get(name, np.zeros_like(some)) for theirs in told]
                state[name] = np.mean(arrays, axis=0)
            self.inner.load_state(state)

    @contextlib.contextmanager
    def join(self):
        """Ranks that have ended add what they have to the next average, and have the weight 0 in
        those after it."""
        self._look()
        calls, self._joins = self._calls, True
        yield
        if self.position:
            self.average()
        elif self._ranks.size > 1:  # what no example weighs
            for p, a in self._a.items():
                write(p, a)
        while not self.average(has_ended=True):
            pass
        self._joins = False
        told = self._ranks.gather((self._calls - calls, self.inner.learning_rate))
        most = max(told, key=lambda one: one[0])
        self.inner.learning_rate = most[1]

    def state(self):
        """Of the wrapped trainer."""
        return self.inner.state()

    def load_state(self, state):
        """Nothing: it is that of this trainer, of now."""

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __setattr__(self, name, value):
        own = name.startswith("_") or name in ("inner", "every", "m", "position", "followers")
        if own:
            super().__setattr__(name, value)
        else:
            setattr(self.inner, name, value)
