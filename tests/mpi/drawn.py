"""What the programs of fuzz_ranks.py are made of: `from drawn import *` is their first line.

Everything here is what a user would write. `plain` makes of a program one of one process without
parallel's trainers: what all else is compared with. note() keeps what ranks and one process must
agree on.
"""

import contextlib
import itertools
import os
import queue
import random
import tempfile
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import simulated
from drawn_model import Stored, TrainedModel, cost, costs, few, tokens

import dist_dynet as dy
from dist_dynet import parallel as package
from dist_dynet.parallel.batches import batches

__all__ = [
    "State",
    "Stored",
    "Task",
    "Join",
    "ahead",
    "applied",
    "assert_in_sync",
    "average",
    "bar",
    "begin",
    "blend",
    "broadcast_parameters",
    "checkpoints",
    "contextlib",
    "copied",
    "cost",
    "costs",
    "dist",
    "dy",
    "end_of_body",
    "few",
    "file",
    "follow",
    "forever",
    "hard",
    "in_pool",
    "in_thread",
    "itertools",
    "join",
    "labelled",
    "local",
    "moved",
    "moving_average",
    "np",
    "note",
    "parallel",
    "put",
    "raised",
    "random",
    "rank",
    "renewed",
    "scores",
    "shard",
    "tokens",
    "uneven",
    "update",
    "values",
    "warnings",
]


WITHIN_STEPS = "update: with reproducible=True (the|set_|skip_|what|values|another)"
"""How warnings begin of what is done for each micro-batch."""


class RefusedError(Exception):
    """An update was refused, and has left everything as it was."""


class KilledError(Exception):
    """The program ends here, to be resumed."""


class _State(threading.local):
    """Of the program that runs, in this thread."""

    plain = False
    ranks = 1  # how many a Join is among, in one process
    kill = 0  # after so many bodies of loops; 0: never
    bodies = 0
    folder = ""
    notes: list = []  # noqa: RUF012
    tasks: list = []  # noqa: RUF012
    checkpointer = None
    local: list = []  # noqa: RUF012
    threads = None  # this is one of them: simulated.Ranks
    batch = None  # that this one of them has been given


State = _State()
parallel = simulated.Parallel(lambda: State.threads)


def rank():
    """Of this process, or thread."""
    return parallel.rank()


def begin(seed):
    """A new program."""
    dy.reset_random_seed(seed + 1)
    State.notes, State.tasks, State.bodies = [], [], 0
    State.checkpointer, State.local, State.batch = None, [], None


def values():
    """All parameters of all tasks."""
    every = [
        p.as_array().ravel()
        for task in State.tasks
        for p in (*task.m.parameters_list(), *task.m.lookup_parameters_list())
    ]
    return np.concatenate(every) if every else np.zeros(0)


def note(x=None, what="value"):
    """A result that must be the same on all ranks, and as in one process."""
    State.notes.append((what, values() if x is None else np.asarray(x, float).ravel()))


def file(name):
    """A name in the program's own folder."""
    if not State.folder:
        State.folder = parallel.gather(tempfile.mkdtemp())[0]
    folder = Path(State.folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


class Task(TrainedModel):
    """One of the program's tasks."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        State.tasks.append(self)


# ---- trainers --------------------------------------------------------------------------


class Plain:
    """A trainer of one process, called as a DistributedTrainer is."""

    def __init__(self, inner):
        self.inner, self.silent = inner, False

    def update(self, weight=None):
        """As the wrapped trainer."""
        if self.silent:
            return False
        before = self.inner.updates
        self.inner.update()
        return self.inner.updates > before

    def update_subset(self, dense, tables, weight=None):
        """As the wrapped trainer."""
        self.inner.update_subset(dense, tables)

    @contextlib.contextmanager
    def no_sync(self):
        """Gradients add up."""
        self.silent = True
        yield
        self.silent = False

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __setattr__(self, name, value):
        if name in ("inner", "silent"):
            super().__setattr__(name, value)
        else:
            setattr(self.inner, name, value)


class NoCheckpoints:
    """In one process without trainers of several."""

    def resume(self):
        """There is none."""

    save = resume

    def add(self, name, of, per_rank=False):
        """Nothing is saved."""


def checkpoints(*arguments, **options):
    """A Checkpointer."""
    return NoCheckpoints() if State.plain else package.Checkpointer(*arguments, **options)


def dist(inner, average="mean", accumulate=1, **options):
    """A DistributedTrainer."""
    if not State.plain:
        return package.DistributedTrainer(inner, average, accumulate=accumulate, **options)
    options.pop("compression", None)
    inner.set_accumulation(accumulate)
    return Plain(inner)


def local(inner, **options):
    """A LocalSGD."""
    if State.threads is not None:
        trainer = simulated.Local(State.threads, lambda: State.batch, inner, **options)
    else:
        trainer = Plain(inner) if State.plain else package.LocalSGD(inner, **options)
    State.local.append(trainer)
    return trainer


def update(trainer, *named, of=(), noted=True, **keywords):
    """trainer.update(), or update_subset() of these, which is refused as a whole or done."""
    before = None if State.local else values()
    try:
        if of:
            trainer.update_subset(*of, *named, **keywords)
        is_done = bool(of) or trainer.update(*named, **keywords)
    except (RuntimeError, ValueError) as error:
        if before is not None and not np.array_equal(before, values(), equal_nan=True):
            raise AssertionError(f"refused, but changed: {error}") from error
        raise RefusedError(str(error)) from error
    if noted and (is_done or (State.plain and State.local and State.threads is None)):
        note(what="update")
    return is_done


def average(trainer):
    """trainer.average(), which is refused as a whole or done."""
    before = values()
    try:
        trainer.average()
    except RuntimeError as error:
        if not np.array_equal(before, values(), equal_nan=True):
            raise AssertionError(f"refused, but changed: {error}") from error
        raise RefusedError(str(error)) from error
    note(what="average")


def of_all(act, m):
    """assert_in_sync() or broadcast_parameters(); where ranks have other values or parameters, that
    is named."""
    try:
        getattr(parallel, act)(m)
    except RuntimeError as error:
        raise RefusedError(str(error)) from error


assert_in_sync = partial(of_all, "assert_in_sync")
broadcast_parameters = partial(of_all, "broadcast_parameters")


def raised(error):
    """That gradients were not finite, which a program may catch."""
    if "not finite" not in str(error):
        raise RefusedError(str(error)) from error


def moving_average(trainer, *arguments, **options):
    """A MovingAverage of this trainer."""
    if not isinstance(trainer, simulated.Local):
        return dy.MovingAverage(trainer, *arguments, **options)
    follower = dy.MovingAverage(trainer.m, *arguments, **options)
    trainer.followers.append(follower)
    return follower


def applied(average):
    """Swapped in for a with block, where there is something to swap in."""
    some = int(average.state()["averaged"])
    return average.applied() if some else contextlib.nullcontext()


def uneven(task, seed):
    """Batches of this rank, of which each has another number."""
    rng = random.Random(f"{seed} {rank()}")
    for _ in range(rng.randint(0, 5)):
        yield [rng.choice(task.data) for _ in range(rng.randint(1, 3))]


def Join(trainer):  # noqa: N802
    """parallel's, where there is one."""
    if isinstance(trainer, Plain):
        return contextlib.nullcontext()
    return _refusing(trainer.join() if hasattr(trainer, "join") else package.Join(trainer))


@contextlib.contextmanager
def _refusing(joined):
    """What is refused where ranks wait for others."""
    try:
        with joined:
            yield
    except RuntimeError as error:
        raise RefusedError(str(error)) from error


def join(task, trainer, seed, weighted, how, act=None):
    """Each rank has batches of its own, of which there are unlike many. `act` is done by all before
    the second."""
    rng = random.Random(seed)
    counts = [rng.randint(0, 4) for _ in range(8)][: State.ranks]
    batches = [
        [[rng.choice(task.data) for _ in range(rng.randint(1, 3))] for _ in range(8)]
        for _ in range(8)
    ]
    number = tokens if how == "tokens" else len
    if not isinstance(trainer, Plain):
        try:
            with Join(trainer):
                for batch in batches[rank()][: counts[rank()]]:
                    task.backward(batch, how)
                    trainer.update(*([number(batch)] if weighted else []))
        except RuntimeError as error:
            raise RefusedError(str(error)) from error
        note(what="join")
        return
    k, passes = trainer.inner.accumulation, max(counts)
    for step in range(passes):
        there = [batches[r][step] for r in range(State.ranks) if step < counts[r]]
        left = passes - step // k * k
        if step % k == 0 and left < k and how != "sum":
            trainer.set_accumulation(left)  # what the end cuts short
        weights = [number(batch) if weighted else 1 for batch in there]
        for batch, weight in zip(there, weights, strict=True):
            share = 1.0 if how == "sum" else weight / sum(weights)
            task.backward(batch, how, share)
        trainer.update()
    trainer.set_accumulation(k)
    note(what="join")


def scores(task):
    """Losses of some examples, each computed by one of the ranks."""
    return parallel.evaluate(lambda x: task.score([x]), task.data[:5], cost)


def hard(task):
    """Examples with large losses."""
    losses = np.round(scores(task), 6)
    return [task.data[k] for k in np.argsort(-losses, kind="stable")[:3]]


def shard(*data, micro_batches=None, **options):
    """parallel's; in one process without trainers that know of micro-batches there are none."""
    micro_batches = None if State.plain else micro_batches
    whole = package.shard(*data, micro_batches=micro_batches, **options)
    if State.threads is None:
        return whole
    divided = {name: cost if options.get(name) else None for name in ("cost", "weight")}
    return simulated.Parts(State.threads, whole, partial(setattr, State, "batch"), **divided)


# ---- what programs do with values ------------------------------------------------------


def labelled(task, batch):
    """The batch with what this task says of its examples."""
    dy.renew_cg()
    return [(x, rows, task.output(x, rows[0]).npvalue()) for x, rows, _ in batch]


def copied(task):
    """Its values."""
    return [p.as_array().copy() for p in (task.W, task.b, task.E)]


def put(task, values):
    """Such a copy in place of its values."""
    task.W.set_value(values[0])
    task.b.set_value(values[1])
    task.E.init_from_array(values[2])


def blend(task, other, share):
    """Values of a target network: so much nearer to those of another one."""
    both = zip(copied(task), copied(other), strict=True)
    put(task, [(1 - share) * mine + share * theirs for mine, theirs in both])


def moved(task, before, ways, share):
    """By how much values have gone, added to ways."""
    way = [share * (old - new) for old, new in zip(before[:2], copied(task)[:2], strict=True)]
    return way if ways is None else [a + b for a, b in zip(ways, way, strict=True)]


def follow(task, ways):
    """Such ways as gradients."""
    task.W.set_gradient(ways[0])
    task.b.set_gradient(ways[1])


def renewed(task):
    """A new table in place of the old one, with its rows, as when a vocabulary grows."""
    old = task.E.as_array()
    task.E = task.m.add_lookup_parameters(old.shape)
    task.E.init_from_array(old)


# ---- loops -----------------------------------------------------------------------------


def forever(batches):
    """One epoch after the other."""
    while len(batches):
        yield from batches


def ahead(batches, count=1):
    """So many batches ahead of whoever asks."""
    waiting = []
    for batch in batches:
        waiting.append(batch)
        if len(waiting) > count:
            yield waiting.pop(0)
    yield from waiting


def in_thread(batches):
    """A thread reads ahead."""
    waiting = queue.Queue(1)

    def read():
        for batch in batches:
            waiting.put(batch)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    yield from iter(waiting.get, None)


def in_pool(train, batches):
    """Each in a thread of a pool of one, which is given all of them at once."""
    with ThreadPoolExecutor(1) as pool:
        return [*pool.map(train, batches)]


def bar(trainer, batches):
    """With a progress bar, which nobody sees."""
    inner = (
        trainer.inner
        if isinstance(trainer, (Plain, package.LocalSGD, simulated.Local))
        else trainer
    )
    return dy.training.Run(inner, bar=False).epoch(batches)


def end_of_body():
    """A body of a loop has ended; the program may be killed here."""
    State.bodies += 1
    if State.bodies == State.kill:
        raise KilledError


# ---- running ---------------------------------------------------------------------------


def clean():
    """Forgets the program."""
    State.tasks, State.notes, State.checkpointer = [], [], None
    dy.renew_cg()


def forget_loops():
    """Batches that programs before it have kept or looked into, and loops of threads that wait for
    ever: as in a process of its own, no update can be of these."""
    seen = batches.process
    for kept in (seen.loops, seen.asking, seen.new, seen.idle, seen.readers):
        kept.clear()
    seen.unclaimed = False


def run(source, plain=False, ranks=0, threads=0, kill=0, folder=""):
    """Runs a program: what it has noted, the words of a refusal, and another error; "every": the
    same of each of so many threads."""
    forget_loops()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", WITHIN_STEPS)  # these programs are right
        if not threads:
            return _run(source, None, plain, ranks, kill, folder)
        among = simulated.Ranks(threads)
        every = among.run(lambda: _run(source, among, plain, threads, 0, f"{folder}/{among.rank}"))
        return {**every[0], "every": every}


def _run(source, threads, plain, ranks, kill, folder):
    State.plain, State.ranks = plain, ranks or package.world_size()
    State.kill, State.folder, State.threads = kill, folder, threads
    State.notes, State.tasks = [], []
    refused = error = ""
    try:
        exec(compile(source, "<drawn>", "exec"), {"__name__": "drawn program"})
    except RefusedError as words:
        refused = str(words)
    except KilledError:
        pass
    except Exception as found:
        import traceback

        error = f"{type(found).__name__}: {found}\n{traceback.format_exc()}"
    if not error:  # between two averages each rank has values of its own
        is_own = any(trainer.position for trainer in State.local if hasattr(trainer, "position"))
        note(what="own" if is_own else "end")
    notes = State.notes
    clean()
    if threads is not None and (refused or error):
        threads.abort()
    return {"notes": notes, "refused": refused, "error": error}


if os.environ.get("DRAWN") == "plain":
    State.plain = True
