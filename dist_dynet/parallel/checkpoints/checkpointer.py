"""Checkpointer: saves everything that a run depends on, and resumes it bit for bit.

It makes sure that all ranks save at the same step, and picks the newest good file. The states
themselves are made by their owners: parameters, trainer, shard(), generators. Only rank 0 touches
the directory; it sends the others what it reads.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..._ffi import lib
from ..._file_names import FileName
from ..._manner import warn
from ...io.checksummed import Copied, add_checksum, tree_of
from ...meter import during
from ...params.collection import ParameterCollection, root_of
from ...params.root import unchanged
from ...params.stored import check_stored, load_stored, stored
from ...trainers import Trainer
from ...trainers.following import followers_of
from ...trainers.hooks import Hooks
from ...trainers.state import set_settings, settings_of
from ..data.sampling import Shard
from ..exchange.compression import added_up, packed, unpacked
from ..processes import trial
from ..processes.environment import hash_indicator
from ..processes.failures import report
from ..processes.rng_streams import resume_rng_streams, rng_states, set_rng_streams
from ..processes.session import world
from ..processes.signals import mark_on_usr1
from ..local_sgd import LocalSGD
from ..trainer import DistributedTrainer
from .autosave import AutoSave
from .files import CheckpointFiles, report_progress
from .parts import (
    check_made,
    checked,
    copied,
    load_state_of,
    made,
    objects_of,
    period,
    state_of,
    take,
    waits,
    warn_of_hashes,
)
from .ranks import HostBuffer, collect, distribute, from_main

_FORMAT = 2
_BACKGROUND_BYTES = 1 << 24
"""Files of at least so many bytes are written in a thread; smaller ones take a few hundredths of a
second."""


class Checkpointer(AutoSave):
    """Saves a run into a directory, and lets a run that was stopped at any moment resume as if it
    had not been.

    A checkpoint holds the parameters, frozen or not; the trainer's moments, counts, learning rate,
    schedule and settings; the moving averages that follow it; the random states (ours, Python's
    `random`, NumPy's global one) of every rank; epoch and position of `sampler`; `extra`; and what
    add() was given. Saving changes nothing in the run. Files of killed saves are never taken for
    checkpoints.

    Make model, trainer, schedule and sampler as at the first start, then call resume(). With
    `every`, saves are automatic: when the loop over the sampler asks for its next batch, and at its
    end, or, without a sampler, at the end of update(). After SIGUSR1 to any rank, all ranks save at
    their next step and go on.

    If an automatic save cannot be written, for example on a full disk, the run warns, goes on, and
    tries again at the next period. One of more than 16 MB is copied, and written in a background
    thread: at most one at a time, and the end of the program waits for it. Only one run at a time
    saves into a directory: when a newer attempt of a job has resumed, the older attempt ends with
    an error, and a second run is refused while the first one lives.

    Args:
        directory: where the files are; created if necessary.
        model: all parameters.
        trainer: with several ranks a DistributedTrainer, or a LocalSGD, saved after an average.
        sampler: what shard() returned.
        keep: number of checkpoints to keep.
        every: a number of updates (500), a time ("10min"; units s, min, h) or "epoch". None: only
            save() and SIGUSR1.
        required: an automatic save that cannot be written raises OSError on all ranks, as save()
            does; nothing is written in the background then.
        background: whether automatic saves are written in a background thread; None: if they are
            large. Takes memory for one more file on rank 0.

    Raises:
        ValueError: a setting makes no sense.
        TypeError: one of the objects is of another kind.

    >>> import tempfile
    >>> import dist_dynet as dy
    >>> folder = tempfile.TemporaryDirectory()
    >>> def run(epochs):
    ...     dy.reset_random_seed(1)
    ...     m = dy.ParameterCollection()
    ...     w = m.add_parameters(2, init=0)
    ...     trainer = dy.AdamTrainer(m, alpha=0.1)
    ...     batches = dy.parallel.shard(range(6), batch_size=2)
    ...     checkpointer = dy.parallel.Checkpointer(folder.name, m, trainer, batches, every=2)
    ...     resumed = checkpointer.resume()
    ...     steps = 0
    ...     while batches.epoch < epochs:
    ...         for batch in batches:
    ...             _ = dy.renew_cg()
    ...             dy.squared_distance(dy.dropout(w, 0.5), dy.inputVector(batch)).backward()
    ...             trainer.update()
    ...             steps += 1
    ...     return resumed, steps, checkpointer.step
    >>> run(epochs=3), run(epochs=4)
    ((False, 9, 8), (True, 4, 12))
    >>> folder.cleanup()
    """

    def __init__(
        self,
        directory: FileName,
        model: ParameterCollection,
        trainer: Trainer | DistributedTrainer | LocalSGD,
        sampler: Shard[Any] | None = None,
        keep: int = 3,
        every: int | str | None = None,
        required: bool = False,
        background: bool | None = None,
    ) -> None:
        self._inner = checked(model, trainer, sampler)
        self._updates, self._seconds, self._epochs = period(every)
        if self._epochs and sampler is None:
            raise ValueError(
                'Checkpointer: every="epoch" needs a sampler; got none. Call save() at the end of'
                " an epoch, or use shard()."
            )
        if required and background:
            raise ValueError(
                "Checkpointer: required=True needs to know of each save whether it was written; got"
                " background=True as well. Leave one of them out."
            )
        self._files, self.directory = CheckpointFiles(directory, keep), str(directory)
        self._required, self._background = required, False if required else background
        local = trainer if isinstance(trainer, LocalSGD) else None
        self._model, self._sampler = model, sampler
        self._trainer = self._inner if isinstance(trainer, LocalSGD) else trainer
        self._saves_first = every is not None
        self.extra: dict[str, Any] = {}
        """What else the program wants to keep, such as the best score so far: a dict of strings to
        arrays, numbers, strings, dicts and lists of them. Rank 0's is saved; resume() gives it to
        all ranks."""
        self._objects: dict[str, tuple[Any, bool]] = {}
        self._counted = local or self._inner  # its updates are those that `every` counts
        self._step, self._since = self._counted.updates, time.monotonic()
        # updates and epoch at the last save, whether it was written or not
        self._last_try, self._epoch = self._step, self._next_epoch()
        self._background_failure: Exception | None = None  # what ended saving in the background
        self._marked = self._pending = False  # SIGUSR1 came; all ranks know that a save is due
        self._sync = trainer.sync if isinstance(trainer, DistributedTrainer) else None
        self._world = here = together.here if (together := self._sync or local) else world()
        if here.size > 1 and local is None:
            if self._sync is None or (negotiation := self._sync.negotiation) is None:
                raise TypeError(
                    f"Checkpointer: with {here.size} ranks trainer must be a DistributedTrainer;"
                    f" got {type(trainer).__name__}. Wrap it: DistributedTrainer(trainer)."
                )
            negotiation.asks.append(self._save_flag)
            negotiation.on_flags.append(self._on_flags)
        if local is not None:
            self._objects["local_sgd"] = local, True  # each rank has moments of its own
            local.asks.append(self._save_flag)
            local.on_average.append(self._on_average)
        self._comm: Any = here.lend(self) if here.size > 1 else None
        if sampler is not None:
            sampler.listen(self)
            if every is not None:
                Hooks(self._inner).refuse(self._check_loop)
        elif local is None:
            Hooks(self._inner).after(self._save_if_due)
        mark_on_usr1(self)

    @property
    def step(self) -> int:
        """Number of updates in the last checkpoint that was written or resumed."""
        return self._step

    def add(self, name: str, obj: Any, per_rank: bool = False) -> None:
        """Makes an object part of the checkpoints: one with state() and load_state(), a collection,
        or a numpy.random.Generator.

        Call it before resume(), in the same order as at the first start.

        Args:
            name: a unique name.
            obj: the object.
            per_rank: each rank's own state is saved; otherwise rank 0's is saved and given to all.
                A checkpoint of another number of ranks leaves such objects unchanged, unless they
                have load_states(states, rank), which receives the states of all ranks.

        Raises:
            ValueError: the name is taken.
            TypeError: the object is none of these, or the name no text.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> import numpy as np
        >>> m, noise = dy.ParameterCollection(), np.random.default_rng(1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, dy.SimpleSGDTrainer(m))
        ...     checkpointer.add("noise", noise)
        ...     saved, drawn = checkpointer.save(), noise.random()
        ...     resumed = checkpointer.resume()
        >>> resumed, noise.random() == drawn
        (True, True)
        """
        if isinstance(name, str) and name in self._objects:
            raise ValueError(f"Checkpointer.add: names must differ; got {name!r} twice.")
        take(name, obj)
        self._objects[name] = obj, per_rank

    def _members(self) -> list[Any]:
        """The trainer, and all added objects."""
        return [self._trainer, *(obj for obj, _ in self._objects.values())]

    # ---- saving ------------------------------------------------------------------------

    def save(self) -> bool:
        """Saves now. Call it on all ranks, at the end of a loop's body: what the body does after it
        is not repeated after resume().

        Returns:
            False: gradients wait to be applied (set_accumulation). The save is then made at the end
                of the first step without any.

        Raises:
            OSError: the file cannot be written, on all ranks; the earlier checkpoints are whole.
            RuntimeError: the ranks are at different steps; moving averages are swapped in; another
                run saves into the directory.
            TypeError: something in `extra` or in the state of an object cannot be saved.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> trainer = dy.SimpleSGDTrainer(m)
        >>> trainer.update()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, trainer)
        ...     saved = checkpointer.save()
        >>> saved, checkpointer.step
        (True, 1)
        """
        return self._save(automatic=False)

    @trial.leaves_out
    @during(lib.DN_SAVE)
    def _save(self, automatic: bool) -> bool:
        """As save(). An automatic save that fails is a warning, unless saves are required."""
        self._marked, self._since = False, time.monotonic()
        what = self._world.collective("checkpoint")
        self._files.wait()
        sampler = self._sampler.state() if self._sampler is not None else None
        place = [sampler["epoch"], sampler["position"]] if sampler else []
        mine = {
            "at": [self._counted.updates, *place],
            "pending": any(map(waits, self._members())),
            "written": self._files.written,
        }
        with self._world.uninterrupted(what):
            own = {k: state_of(o) for k, (o, per_rank) in self._objects.items() if per_rank}
            part = {
                "draws": rng_states(),
                "rests": packed(self._sync.residuals() if self._sync else {}),
                "objects": own,
            }
            checksummed = memoryview(add_checksum(part))
            mine["size"] = len(checksummed)
            written, failure = self._save_together(mine, checksummed, sampler, automatic, what)
        if not self._pending:
            self._last_try, self._epoch = self._counted.updates, self._next_epoch()
        if failure is not None:
            if not (automatic and isinstance(failure, OSError | MemoryError)) or self._required:
                raise failure
            self._warn(failure)
        elif not self._pending and written is not None and written >= 0:
            self._step = written
        return not self._pending and failure is None

    def _save_together(
        self,
        mine: Mapping[str, Any],
        checksummed: memoryview,
        sampler: Mapping[str, Any] | None,
        automatic: bool,
        what: str,
    ) -> tuple[int | None, Exception | None]:
        """Updates in the last file that was written, and the exception of rank 0, if any. Nothing
        is written if gradients wait, which sets `_pending`."""
        here, comm = self._world, self._comm
        every = here.gather(comm, mine, what)
        for rank, other in enumerate(every):
            if other["at"] != every[0]["at"]:
                raise RuntimeError(
                    f"{self._world.name} {what}: all ranks must be at one place; got update, epoch,"
                    f" position {other['at']} on rank {rank}, {every[0]['at']} on rank 0. Call"
                    " save() on all ranks alike."
                )
        self._pending = any(part["pending"] for part in every)
        if self._pending:
            return None, None
        parts: list[NDArray[np.uint8]] = []

        def prepare() -> None:
            if self._background_failure is not None:
                raise self._background_failure
            self._files.claim()
            parts.extend(np.empty(other["size"], np.uint8) for other in every)

        failure = from_main(here, comm, prepare, what)[1]
        if failure is not None:
            return None, failure
        collect(here, comm, checksummed, [other["size"] for other in every], parts, what)
        return from_main(here, comm, lambda: self._write(parts, sampler, automatic), what)

    def _write(
        self, parts: list[NDArray[np.uint8]], sampler: Mapping[str, Any] | None, automatic: bool
    ) -> int:
        """Writes the file, or starts a thread that does. Returns the number of updates in the last
        file that is written."""
        with unchanged([root_of(self._model)], "checkpoint"):
            content = self._content(parts, sampler)
        step, written = self._counted.updates, self._files.written
        background = (
            content.size > _BACKGROUND_BYTES if self._background is None else self._background
        )
        if background and automatic:
            self._files.write_in_background(content, step, self._on_failure)
            return written
        self._files.write(content, step)
        return step

    def _on_failure(self, error: Exception) -> None:
        """Handles an exception of the background thread: an error of the system is a warning; any
        other ends the run at the next save."""
        if isinstance(error, OSError | MemoryError):
            self._warn(error)
        else:
            self._background_failure = error
            report(str(error))

    def _warn(self, error: Exception) -> None:
        if self._world.rank == 0:
            warn(
                f"checkpoint: a save has failed ({error or type(error).__name__}). The run goes on,"
                " and tries again at the next period; Checkpointer(required=True) ends it instead."
            )

    def _content(self, parts: list[NDArray[np.uint8]], sampler: Mapping[str, Any] | None) -> Copied:
        trainer = self._inner.state()
        added = {k: state_of(o) for k, (o, per_rank) in self._objects.items() if not per_rank}
        return Copied(
            {
                "format": _FORMAT,
                "hashes": hash_indicator(),
                "step": self._counted.updates,
                **stored(self._model),
                "trainer": trainer,
                "settings": settings_of(self._inner),
                "made": made(self._members()),
                "averages": [f.state() for f in followers_of(self._inner)],
                "sampler": sampler,
                "objects": added,
                "extra": self.extra,
                "hosts": self._sync.hosts if self._sync else [],
                "ranks": parts,
            },
            [*parts, *trainer.values()],
        )

    # ---- resuming ----------------------------------------------------------------------

    @trial.leaves_out
    def resume(self) -> bool:
        """Resumes from the newest good checkpoint, if there is one. Call it on all ranks, before
        the loop.

        With `every`, other runs can no longer save into the directory. If a run on another host was
        killed a moment ago, this waits up to 45 s.

        A damaged checkpoint is skipped, with a line on stderr. If there is none and `every` was
        given, the initial state is saved. The number of ranks may change: ranks that existed
        continue their random draws, and additional ones get different draws.

        Returns:
            Whether there was one.

        Raises:
            ValueError: it is of another model, trainer, schedule or sampler; the difference is
                named, and all is as it was.
            RuntimeError: there are checkpoints, and all are damaged; another run lives and
                saves into the directory.
            OSError: the directory cannot be read.

        >>> import tempfile
        >>> import dist_dynet as dy
        >>> m = dy.ParameterCollection()
        >>> w = m.add_parameters(1, init=1)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpointer = dy.parallel.Checkpointer(folder, m, dy.SimpleSGDTrainer(m))
        ...     was_there, saved = checkpointer.resume(), checkpointer.save()
        ...     w.set_value([5])
        ...     resumed = checkpointer.resume()
        >>> was_there, resumed, w.as_array().tolist()
        (False, True, [1.0])
        """
        what = self._world.collective("resume")
        buffer: HostBuffer | None = None

        def look() -> tuple[str, int] | None:
            nonlocal buffer
            if self._saves_first:
                self._files.claim()
            name, buffer = self._files.newest()
            return (name, len(buffer.view)) if buffer else None

        with self._world.uninterrupted(what):
            found, failure = from_main(self._world, self._comm, look, what)
            if found:
                view = distribute(self._world, self._comm, buffer, found[1], what)
        if failure is not None:
            raise failure
        if not found:
            if self._saves_first:
                self.save()
            return False
        self._load(tree_of(view), f"checkpoint {found[0]}")
        if self._world.rank == 0:
            report_progress(f"resumed {self._step}")
        return True

    def _load(self, tree: dict[str, Any], what: str) -> None:
        followers = followers_of(self._inner)
        rank, ranks = self._world.rank, len(tree["ranks"])
        mine = tree_of(tree["ranks"][rank if rank < ranks else 0].data)
        objects, expected = objects_of(self._objects, tree, rank, self._world.size)
        for part, there, here in (
            ("format", tree["format"], _FORMAT),
            ("whether there is a sampler", tree["sampler"] is not None, self._sampler is not None),
            ("the number of moving averages and the like", len(tree["averages"]), len(followers)),
            ("the names of added objects", sorted(objects), expected),
        ):
            if there != here:
                raise ValueError(
                    f"{what}: {part} must be as in this program, {here}; got {there}. Make"
                    " everything as at the first start."
                )
        check_stored(self._model, tree, what)
        with ExitStack() as undo:
            try:
                check_made(tree.get("made"), self._members())
                if self._sampler is not None:
                    undo.callback(self._sampler.load_state, self._sampler.state())
                    self._sampler.load_state(tree["sampler"])
                if followers or objects:  # they may refuse later; else it is memory in vain
                    undo.callback(self._trainer.load_state, self._trainer.state())
                self._trainer.load_state(tree["trainer"])
                for follower, state in zip(followers, tree["averages"], strict=True):
                    undo.callback(follower.load_state, follower.state())
                    follower.load_state(state)
            except ValueError as error:
                raise ValueError(f"{what}: {error}") from error
            undo.callback(set_settings, self._inner, settings_of(self._inner))
            set_settings(self._inner, tree["settings"])
            self._trainer.set_accumulation(self._inner.accumulation)  # nothing is gathered yet
            undo.callback(set_rng_streams, rng_states())
            if objects:
                undo.callback(load_stored, self._model, copied(stored(self._model)))
            load_stored(self._model, tree)
            if self._sync is not None:
                if (ranks, tree["hosts"]) == (self._world.size, self._sync.hosts):
                    self._sync.load_residuals(unpacked(mine["rests"]), shared=False)
                elif self._sync.hosts and rank in self._sync.hosts[0]:
                    rests = (tree_of(part.data)["rests"] for part in tree["ranks"])
                    self._sync.load_residuals(added_up(rests), shared=True)
            for name, state in objects.items():
                obj, which = self._objects[name][0], f"{what}, {name}"
                undo.callback(load_state_of, obj, copied(state_of(obj)), which)
                load_state_of(obj, copied(state), which)
            resume_rng_streams(mine["draws"], rank, ranks)  # after objects, which may have drawn
            self.extra = copied(tree["extra"])
            undo.pop_all()
        self._step = self._last_try = self._files.written = tree["step"]
        self._since = time.monotonic()
        self._epoch, self._pending = self._next_epoch(), False
        warn_of_hashes(tree["hashes"], what, self._world.rank)
