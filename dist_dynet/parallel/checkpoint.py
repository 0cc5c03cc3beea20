"""Checkpointer: saves everything that a run depends on, and resumes it bit for bit.

It decides when to save, makes sure that all ranks save at the same step, and collects the states of
model, trainer, shard(), generators and added objects. Their owners make and restore these states.
"""

from __future__ import annotations

import atexit
import hashlib
import math
import random
import re
import signal
import threading
import time
from collections.abc import Mapping
from types import FrameType
from typing import Any

import numpy as np

from .._ffi import lib
from .._file_names import FileName
from .._integers import integer
from .._manner import no_collection, warn
from .._random_state import random_state, set_random_state
from .._weak import WeakSet
from ..io.checksummed import add_checksum, tree_of
from ..meter import during
from ..params.collection import ParameterCollection, members_of
from ..params.stored import check_stored, load_stored, stored
from ..trainers import Trainer
from ..trainers.following import followers_of
from ..trainers.hooks import Hooks
from ..trainers.state import set_settings, settings_of
from .agreement.message import Flag
from .checkpoint_files import (
    Bytes,
    CheckpointFiles,
    broadcast_bytes,
    gather_bytes,
    on_rank_0,
    report_progress,
)
from .processes import trial
from .processes.session import world
from .shard import Shard
from .trainer import DistributedTrainer

_UNITS = {"s": 1, "min": 60, "h": 3600}


class Checkpointer:
    """Saves a run into a directory, and lets a run that was stopped at any moment resume as if it
    had not been.

    A checkpoint holds the parameters, frozen or not; the trainer's moments, counts, learning rate,
    schedule and settings; the moving averages that follow it; the random states (ours, Python's
    `random`, NumPy's global one) of every rank; epoch and position of `sampler`; `extra`; and what
    add() was given. Saving changes nothing in the run. A file is whole or absent.

    Make model, trainer, schedule and sampler as at the first start, then call resume(). With
    `every`, saves are automatic: when the loop over the sampler asks for its next batch, and at its
    end, or, without a sampler, at the end of update(). After SIGUSR1 to any rank, all ranks save at
    their next step. If an automatic save cannot be written, for example on a full disk, the run
    warns, and tries again at the next period.

    Give each run a directory of its own.

    Args:
        directory: where the files are; created if necessary. Only rank 0 uses it.
        model: all parameters.
        trainer: with several ranks a DistributedTrainer or a LocalSGD.
        sampler: what shard() returned.
        keep: number of checkpoints to keep.
        every: a number of updates (500), a time ("10min"; units s, min, h) or "epoch". None: only
            save() and SIGUSR1.

    Raises:
        ValueError: a setting makes no sense.
        TypeError: one of the objects is of another kind.

    >>> import tempfile
    >>> import dist_dynet as dy
    >>> folder = tempfile.TemporaryDirectory()
    >>> def run(epochs):
    ...     w = (m := dy.ParameterCollection()).add_parameters(2, init=0)
    ...     trainer = dy.AdamTrainer(m)
    ...     batches = dy.parallel.shard(range(6), batch_size=2)
    ...     checkpointer = dy.parallel.Checkpointer(folder.name, m, trainer, batches, every=2)
    ...     resumed = checkpointer.resume()
    ...     while batches.epoch < epochs:
    ...         for batch in batches:
    ...             _ = dy.renew_cg()
    ...             dy.squared_distance(w, dy.inputVector(batch)).backward()
    ...             trainer.update()
    ...     return resumed, trainer.updates, checkpointer.step
    >>> run(epochs=3), run(epochs=4)
    ((False, 9, 8), (True, 12, 12))
    >>> folder.cleanup()
    """

    def __init__(
        self,
        directory: FileName,
        model: ParameterCollection,
        trainer: Trainer | DistributedTrainer,
        sampler: Shard[Any] | None = None,
        keep: int = 3,
        every: int | str | None = None,
    ) -> None:
        self._inner = _checked(model, trainer, sampler)
        self._updates, self._seconds, self._epochs = _period(every)
        self._sync = trainer.sync if isinstance(trainer, DistributedTrainer) else None
        # a LocalSGD, whose state differs from rank to rank
        self._is_local = self._sync is None and trainer is not self._inner
        if sampler is None and (self._epochs or (self._is_local and every is not None)):
            raise ValueError(
                f"Checkpointer: every={every!r} needs a sampler with this trainer; got none. Call"
                " save() instead, or use shard()."
            )
        self._files, self.directory = CheckpointFiles(directory, keep), str(directory)
        self._model, self._trainer, self._sampler = model, trainer, sampler
        self._every = every
        self.extra: dict[str, Any] = {}
        """What else the program wants to keep, such as the best score so far: a dict of strings to
        arrays, numbers, strings, dicts and lists of them. Rank 0's is saved; resume() gives it to
        all ranks."""
        self._objects: dict[str, tuple[Any, bool]] = {}
        self._step, self._since = self._inner.updates, time.monotonic()
        # updates and epoch at the last save, whether it was written or not
        self._last_try, self._epoch = self._step, self._next_epoch()
        self._marked = self._pending = False  # SIGUSR1 came; all ranks know that a save is due
        self._is_first_step = False  # after which the checkpoint of step 0 counts as progress
        self._world = here = self._sync.here if self._sync else world()
        if here.size > 1 and self._sync is None and not self._is_local:
            raise TypeError(
                f"Checkpointer: with {here.size} ranks trainer must be a DistributedTrainer;"
                f" got {type(trainer).__name__}. Wrap it: DistributedTrainer(trainer)."
            )
        self._comm: Any = here.lend(self) if here.size > 1 else None
        if self._sync is not None and self._sync.negotiation is not None:
            self._sync.negotiation.asks.append(self._save_flag)
            self._sync.negotiation.on_flags.append(self._on_flags)
        if sampler is not None:
            sampler.listen(self)
        elif not self._is_local:
            Hooks(self._inner).after(self.step_ends)
        _mark_on_usr1(self)

    @property
    def step(self) -> int:
        """Number of updates in the last checkpoint that was written or resumed."""
        return self._step

    def add(self, name: str, obj: Any, per_rank: bool = False) -> None:
        """Makes an object part of the checkpoints: one with state() and load_state(), a collection,
        or a numpy.random.Generator. Call it before resume().

        Args:
            name: a unique name.
            obj: the object.
            per_rank: each rank's own state is saved; otherwise rank 0's is saved and given to all.
                A checkpoint of another number of ranks leaves such objects unchanged, unless they
                have load_states(states, rank), which receives the states of all ranks.

        Raises:
            ValueError: the name is taken.
            TypeError: the object is none of these, or the name is no string.

        >>> import tempfile
        >>> import numpy as np
        >>> import dist_dynet as dy
        >>> noise = np.random.default_rng(1)
        >>> trainer = dy.SimpleSGDTrainer(m := dy.ParameterCollection())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, trainer)
        ...     checkpointer.add("noise", noise)
        ...     checkpointer.save(), noise.random() == (checkpointer.resume() and noise.random())
        (True, True)
        """
        if not isinstance(name, str):
            raise TypeError(f"Checkpointer.add: name must be a string; got {name!r:.60}.")
        if name in self._objects:
            raise ValueError(f"Checkpointer.add: names must differ; got {name!r} twice.")
        stateful = all(callable(getattr(obj, method, None)) for method in ("state", "load_state"))
        known = isinstance(obj, np.random.Generator | ParameterCollection)
        if isinstance(obj, type) or not (stateful or known):
            raise TypeError(
                "Checkpointer.add: takes objects with state() and load_state(), collections and"
                f" NumPy's generators; got {getattr(obj, '__name__', type(obj).__name__)}."
            )
        self._objects[name] = obj, per_rank

    def _trainers(self) -> list[Any]:
        """The trainer, and the added ones."""
        members = (self._trainer, *(obj for obj, _ in self._objects.values()))
        return [obj for obj in members if isinstance(getattr(obj, "inner", obj), Trainer)]

    # ---- when to save ------------------------------------------------------------------

    def mark(self) -> None:
        """Asks for a save at the next step, on all ranks, as SIGUSR1 does.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> trainer = dy.SimpleSGDTrainer(m)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, trainer)
        ...     checkpointer.mark()
        ...     trainer.update()
        >>> checkpointer.step
        1
        """
        self._marked = True

    def step_ends(self) -> None:
        """Saves if it is time. The sampler calls it when a step is completely done; without a
        sampler, it ends each update.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> trainer = dy.SimpleSGDTrainer(m)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, trainer, every=2)
        ...     for _ in range(3):
        ...         trainer.update()  # calls step_ends()
        >>> checkpointer.step
        2
        """
        if self._is_first_step:
            self._is_first_step = False
            report_progress("0")
        if self._is_due():
            self._save(automatic=True)

    def _is_due(self) -> bool:
        """Whether a save is due, alike on all ranks."""
        here, sampler = self._world, self._sampler
        if here.size == 1:
            self._pending |= self._wants_save()
        elif self._is_local and not _waits(self._trainer):  # a LocalSGD exchanges no flags
            what = here.collective("time to save")
            self._pending |= any(here.gather(self._comm, self._wants_save(), what))
        ended = self._epochs and sampler is not None and self._next_epoch() > self._epoch
        since = self._inner.updates - self._last_try
        return self._pending or ended or 0 < self._updates <= since

    def _wants_save(self) -> bool:
        """Whether this rank wants a save: it was asked for one, or rank 0's clock says so."""
        over = 0 < self._seconds < time.monotonic() - self._since
        return self._marked or (over and self._world.rank == 0)

    def _save_flag(self) -> int:
        return Flag.SAVE if self._wants_save() else 0

    def _on_flags(self, flags: int) -> None:
        self._pending |= bool(flags & Flag.SAVE)

    def _next_epoch(self) -> int:
        """The epoch of the next step."""
        sampler = self._sampler
        return 0 if sampler is None else sampler.epoch + (0 < len(sampler) == sampler.position)

    # ---- saving ------------------------------------------------------------------------

    def save(self) -> bool:
        """Saves now. Call it on all ranks, at the end of a loop's body: what the body does after it
        is not repeated after resume().

        Returns:
            False: gradients wait to be applied (set_accumulation), or a LocalSGD has not averaged.
                The save is then made at the end of the first step where nothing waits.

        Raises:
            OSError: the file cannot be written, on all ranks; the earlier checkpoints are whole.
            RuntimeError: the ranks are at different steps; moving averages are swapped in.
            TypeError: something in `extra` or in the state of an object cannot be saved.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> trainer = dy.SimpleSGDTrainer(m := dy.ParameterCollection())
        >>> trainer.update()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, trainer)
        ...     checkpointer.save(), checkpointer.step
        (True, 1)
        """
        return self._save(automatic=False)

    @trial.leaves_out
    @during(lib.DN_SAVE)
    def _save(self, automatic: bool) -> bool:
        """As save(). An automatic save that cannot be written is a warning."""
        here, comm, updates = self._world, self._comm, self._inner.updates
        self._marked, self._since = False, time.monotonic()
        sampler = self._sampler.state() if self._sampler is not None else None
        place = [updates, *(sampler[name] for name in ("epoch", "position") if sampler)]
        what = here.collective("checkpoint")
        with here.uninterrupted(what):
            every = here.gather(comm, (place, any(map(_waits, self._trainers()))), what)
            if any(other != every[0][0] for other, _ in every):
                raise RuntimeError(
                    f"{here.name} {what}: all ranks must be at one place; got update, epoch,"
                    f" position {[other for other, _ in every]} by rank. Call save() on all alike."
                )
            self._pending = any(waits for _, waits in every)
            if self._pending:
                return False
            parts = gather_bytes(here, comm, add_checksum(self._own_part()), what)
            write = lambda: self._files.write(self._content(parts, sampler), updates)  # noqa: E731
            failure = on_rank_0(here, comm, write, what)[1]
        self._last_try, self._epoch = updates, self._next_epoch()
        if failure is None:
            self._step = updates
            if here.rank == 0 and updates:
                report_progress(f"{updates}")
        elif not (automatic and isinstance(failure, OSError)):
            raise failure
        elif here.rank == 0:
            warn(
                f"checkpoint: a save has failed ({failure}). The run goes on, and tries again at"
                " the next period."
            )
        return failure is None

    def _own_part(self) -> dict[str, Any]:
        """What differs from rank to rank."""
        residuals = self._sync.residuals() if self._sync is not None else {}
        return {
            "random": random_states(),
            "residuals": {name: x for name, x in residuals.items() if x.any()},
            "trainer": self._trainer.state() if self._is_local else None,
            "objects": {k: _state_of(o) for k, (o, per_rank) in self._objects.items() if per_rank},
        }

    def _content(self, parts: list[Bytes], sampler: Mapping[str, Any] | None) -> dict[str, Any]:
        common = {k: _state_of(o) for k, (o, per_rank) in self._objects.items() if not per_rank}
        return {
            "step": self._inner.updates,
            **stored(self._model),
            "trainer": self._inner.state(),
            "settings": settings_of(self._inner),
            "averages": [follower.state() for follower in followers_of(self._inner)],
            "sampler": sampler,
            "program": self._program(),
            "objects": common,
            "extra": self.extra,
            "hosts": self._sync.hosts if self._sync is not None else [],
            "ranks": parts,
        }

    def _program(self) -> dict[str, Any]:
        """What a program that resumes must have in common with this one."""
        each, made = self._objects.items(), (getattr(t, "inner", t) for t in self._trainers())
        return {
            "whether there is a sampler": self._sampler is not None,
            "the number of moving averages and the like": len(followers_of(self._inner)),
            "added objects": sorted(f"{k} per rank" if own else k for k, (_, own) in each),
            "trainers, their constants and schedules": [Hooks(trainer).made for trainer in made],
        }

    # ---- resuming ----------------------------------------------------------------------

    @trial.leaves_out
    def resume(self) -> bool:
        """Resumes from the newest good checkpoint, if there is one. Call it on all ranks, before
        the loop.

        A damaged checkpoint is skipped, with a line on stderr. If there is none and `every` was
        given, the initial state is saved. The number of ranks may change: ranks that existed
        continue their random draws, and additional ones get different draws.

        Returns:
            Whether there was one.

        Raises:
            ValueError: it is of another model, trainer, schedule or sampler; the difference is
                named. Make everything anew then: some states may have been restored.
            RuntimeError: there are checkpoints, and all are damaged.
            OSError: the directory cannot be read.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> w = (m := dy.ParameterCollection()).add_parameters(1, init=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, dy.SimpleSGDTrainer(m))
        ...     saved = checkpointer.save()
        ...     w.set_value([5])
        ...     checkpointer.resume(), w.as_array().tolist()
        (True, [1.0])
        """
        here, comm, content = self._world, self._comm, None
        what = here.collective("resume")

        def look() -> tuple[str, int] | None:
            nonlocal content
            name, content = self._files.newest() or ("", None)
            return None if content is None else (name, len(content))

        with here.uninterrupted(what):
            found, failure = on_rank_0(here, comm, look, what)
            if found:
                content = broadcast_bytes(here, comm, content, found[1], what)
        if failure is not None:
            raise failure
        if content is None or not found:
            if self._every is not None:
                self.save()
        else:
            self._load(tree_of(content.data), f"checkpoint {found[0]}")
            if here.rank == 0 and self._step:
                report_progress(f"resumed {self._step}")
        self._is_first_step = here.rank == 0 and self._step == 0 and self._every is not None
        return found is not None

    def _load(self, tree: dict[str, Any], what: str) -> None:
        here, followers = self._world, followers_of(self._inner)
        others = len(tree["ranks"]) != here.size
        is_new = here.rank >= len(tree["ranks"])
        mine = tree_of(tree["ranks"][0 if is_new else here.rank].data)
        for part, expected in self._program().items():
            if (got := tree["program"][part]) != expected:
                raise ValueError(
                    f"{what}: {part} must be as in this program, {expected}; got {got}. Make"
                    " everything as at the first start."
                )
        check_stored(self._model, tree, what)
        try:
            if self._sampler is not None:
                self._sampler.load_state(tree["sampler"])
            load_stored(self._model, tree)  # of which a LocalSGD takes the values
            self._trainer.load_state(mine["trainer"] if self._is_local else tree["trainer"])
            for follower, state in zip(followers, tree["averages"], strict=True):
                follower.load_state(state)
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
        set_settings(self._inner, tree["settings"])
        if not self._is_local:
            self._trainer.set_accumulation(self._inner.accumulation)  # of a DistributedTrainer
        if self._sync is not None:  # a rank goes on with what it has sent if it still sends that
            same = not others and tree["hosts"] == self._sync.hosts
            self._sync.load_residuals(_copied(mine["residuals"]) if same else {}, shared=False)
        for name, (obj, per_rank) in self._objects.items():
            if not per_rank:
                _load_state_of(obj, _copied(tree["objects"][name]), f"{what}, {name}")
            elif not others:
                _load_state_of(obj, _copied(mine["objects"][name]), f"{what}, {name}")
            elif hasattr(obj, "load_states"):
                every = [tree_of(part.data)["objects"][name] for part in tree["ranks"]]
                obj.load_states(_copied(every), here.rank)
        set_random_states(mine["random"])  # after the objects, which may have drawn
        if is_new:
            derive_random_states(mine["random"], here.rank)
        self.extra = _copied(tree["extra"])
        self._step = self._last_try = tree["step"]
        self._since, self._epoch, self._pending = time.monotonic(), self._next_epoch(), False


def _checked(model: Any, trainer: Any, sampler: Any) -> Trainer:
    """The inner trainer. Refuses wrong arguments of Checkpointer."""
    inner = getattr(trainer, "inner", trainer)
    got = ""
    if not isinstance(model, ParameterCollection):
        got = f"model must be a ParameterCollection; {no_collection(model)}"
    elif not isinstance(inner, Trainer):
        got = f"trainer must be one such as AdamTrainer(m); got {type(trainer).__name__}."
    elif sampler is not None and not isinstance(sampler, Shard):
        got = f"sampler must be what parallel.shard() returned; got {type(sampler).__name__}."
    if got:
        raise TypeError(f"Checkpointer: {got}")
    members = set(members_of(model))
    if left := [p for p in Hooks(inner).members() if p not in members]:
        raise ValueError(
            "Checkpointer: model must have all parameters that are trained; got one without"
            f" {left[0].readable_name()}."
        )
    found: Trainer = inner
    return found


def _period(every: int | str | None) -> tuple[int, float, bool]:
    """(updates, seconds, whether at the end of each epoch); 0: not so."""
    if every is None or (isinstance(every, str) and every == "epoch"):
        return 0, 0.0, every is not None
    updates, seconds, more = 0, 0.0, ""
    kind: type[Exception] = ValueError
    if isinstance(every, str):
        match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*(s|min|h)", every)
        seconds = float(match[1]) * _UNITS[match[2]] if match else 0.0
    elif isinstance(every, bool):
        kind, more = TypeError, " For each update: every=1."
    else:
        try:
            updates = integer(every)
        except TypeError:
            kind = TypeError
    if updates > 0 or 0 < seconds < math.inf:
        return updates, seconds, False
    raise kind(
        'Checkpointer: every must be a number of updates, a time such as "30s", "10min", "2h", or'
        f' "epoch"; got {every!r:.60}.{more}'
    )


def _waits(trainer: Any) -> bool:
    """Whether gradients wait to be applied, or a LocalSGD has yet to average."""
    if isinstance(trainer, DistributedTrainer):
        return trainer.sync.waits()
    if isinstance(trainer, Trainer):
        return Hooks(trainer).waits()
    return bool(getattr(trainer, "position", 0))


def _state_of(obj: Any) -> Any:
    """The state of an added object, as it is saved."""
    if isinstance(obj, ParameterCollection):
        return stored(obj)
    return obj.bit_generator.state if isinstance(obj, np.random.Generator) else obj.state()


def _load_state_of(obj: Any, state: Any, what: str) -> None:
    """Restores what _state_of() returned."""
    if isinstance(obj, ParameterCollection):
        check_stored(obj, state, what)
        load_stored(obj, state)
    elif isinstance(obj, np.random.Generator):
        obj.bit_generator.state = state
    else:
        obj.load_state(state)


def _copied(tree: Any) -> Any:
    """The tree with copies of its arrays, which are read-only views of the file."""
    if isinstance(tree, dict):
        return {key: _copied(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_copied(value) for value in tree]
    return tree.copy() if isinstance(tree, np.ndarray) else tree


def random_states() -> dict[str, Any]:
    """The states of this process's generators: ours, Python's `random`, NumPy's global one."""
    version, words, gauss = random.getstate()
    return {
        "dist_dynet": random_state(),
        "python": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        "numpy": np.random.get_state(legacy=False),
    }


def set_random_states(state: Mapping[str, Any]) -> None:
    """Restores states that random_states() returned."""
    set_random_state(state["dist_dynet"])
    python = state["python"]
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(state["numpy"])


def derive_random_states(state: Mapping[str, Any], rank: int) -> None:
    """Seeds the generators of Python and NumPy of an additional rank from rank 0's states,
    differently for each rank. Samples in graphs depend on the rank anyway."""
    words = state["python"]["words"].tobytes() + rank.to_bytes(8, "little")
    seed = hashlib.blake2b(words, digest_size=16).digest()
    random.seed(seed)
    np.random.seed(np.frombuffer(seed, np.uint32))


_marked: WeakSet[Checkpointer] = WeakSet()
_previous: Any = None


def _mark_on_usr1(checkpointer: Checkpointer) -> None:
    """Marks the Checkpointer whenever SIGUSR1 arrives, by which a batch system announces that time
    is nearly up. Does nothing outside the main thread, where Python allows no handlers. MPI, which
    may install a handler of its own, has started before."""
    global _previous
    _marked.add(checkpointer)
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGUSR1) is not _on_usr1
    ):
        _previous = signal.signal(signal.SIGUSR1, _on_usr1)
        # Python would restore the default handler, which kills a process that is done, at its end
        atexit.register(signal.signal, signal.SIGUSR1, signal.SIG_IGN)


def _on_usr1(number: int, frame: FrameType | None) -> None:
    for checkpointer in list(_marked):
        checkpointer.mark()
    if callable(_previous):  # neither the default handler nor one installed by C code
        _previous(number, frame)
