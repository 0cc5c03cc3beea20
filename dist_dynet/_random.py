"""Seeds and streams.

Initial parameters come from one mt19937 per process, drawn as libstdc++ does. Draws inside graphs
(dropout, noise) are keyed by (seed, stream, draw counter, node, element): the stream tells ranks,
threads and forked children apart, or examples that ranks share. In DyNet's order (use_dynet_order)
the first thread's graph draws from the mt19937, too, node after node.
"""

from __future__ import annotations

import os
import threading
from typing import Any

from ._deferred_signals import DeferSignals
from ._ffi import ffi, lib
from ._integers import integer_argument
from ._weak import WeakSet

_MASK = (1 << 64) - 1


def _mix(a: int, b: int) -> int:
    """A 64-bit number that depends on both (the finaliser of splitmix64)."""
    z = (a ^ (b * 0x9E3779B97F4A7C15)) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def checked_place(
    stream: int | None, counter: int, samples: int | None
) -> tuple[int | None, int, int]:
    """The arguments of ComputationGraph.draw_from() as integers.

    Raises: TypeError, OverflowError as it does.
    """

    def checked(value: int, name: str) -> int:
        n = integer_argument(value, "draw_from", name)
        if n >> 64:
            raise OverflowError(f"draw_from: {name} must lie in [0, 2^64); got {n}.")
        return n

    counter = checked(counter, "counter")
    return (
        None if stream is None else checked(stream, "stream"),
        counter,
        counter if samples is None else checked(samples, "samples"),
    )


def _unforeseen() -> int:
    """A seed from the system; odd, so that it is not 0."""
    return int.from_bytes(os.urandom(4), "little") >> 1 | 1


class _State:
    """The generators and counters of this process."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # a signal handler may draw during a draw
        self.rank = 0
        self.lineage = 0  # in a forked child a number of its own
        self.forks = 0
        self.threads = 0
        self.dynet_order = False
        self.graphs: WeakSet[Any] = WeakSet()  # to be reseeded
        self.seed = _unforeseen()
        self.generator: Any = ffi.gc(lib.dn_rng_new(self.seed), lib.dn_rng_free)
        self.draws: dict[int, int] = {}  # how often each thread has drawn from it
        self.evaluations = 0  # since the seed was set

    def draws_of_others(self) -> dict[int, int]:
        me = threading.get_ident()
        return {thread: n for thread, n in self.draws.items() if thread != me}

    def reset(self, seed: int) -> None:
        graphs = list(self.graphs)
        with DeferSignals():
            with self.lock:
                self.seed, self.evaluations = seed & _MASK, 0
                lib.dn_rng_seed(self.generator, seed & 0xFFFFFFFF)
            for graph in graphs:  # their seeds, too, or none of it
                graph._seed()

    def tell(self) -> None:
        for graph in list(self.graphs):
            graph._seed()


_state = _State()
_WORDS = ffi.typeof(f"uint32_t[{lib.DN_RNG_STATE_WORDS}]")


def reset_random_seed(seed: int) -> None:
    """Restarts all random draws from `seed`: initial parameters, dropout, noise, sampling.

    The same seed repeats the same draws. A seed of 0 is replaced by a random one.

    Raises:
        ValueError: the seed is below 0.

    >>> import dist_dynet as dy
    >>> dy.reset_random_seed(5)
    >>> W = dy.ParameterCollection().add_parameters((2, 2))
    >>> W.as_array().round(4).tolist()
    [[-0.681, 0.9081], [-1.0896, 0.8116]]
    """
    number = integer_argument(seed, "reset_random_seed", "seed")
    if number < 0:
        raise ValueError(f"reset_random_seed: seed must be 0 or more; got {seed}.")
    _state.reset(number or _unforeseen())


def generators_of_python() -> tuple[Any, ...]:
    """The states of Python's and NumPy's own generators, which programs also draw from."""
    import pickle  # here, as few programs need them
    import random

    import numpy as np

    return random.getstate(), pickle.dumps(np.random.get_state(legacy=False))


def drawn() -> Any:
    """The state of the generator of initial values, for put_back().

    Not a context manager: Ctrl-C may come between its end and that of the block around it.
    """
    state = ffi.new(_WORDS)
    with _state.lock:
        lib.dn_rng_get_state(_state.generator, state)
        return state, _state.draws_of_others()


def put_back(before: Any) -> None:
    """Resets the generator of initial values to a state given by drawn(), unless another thread has
    drawn since, which must not draw the same again."""
    state, draws = before
    with _state.lock:
        if _state.draws_of_others() == draws:
            lib.dn_rng_set_state(_state.generator, state)


def seed() -> int:
    """The seed last given to reset_random_seed(), or drawn at the start."""
    return _state.seed


def set_seed(seed: int, evaluations: int) -> None:
    """Keys all graphs by this seed, with counters at 0, after so many evaluations. The generator of
    initial values is not changed."""
    _state.seed, _state.evaluations = seed & _MASK, evaluations
    _state.tell()


def evaluations() -> int:
    """How many evaluations next_evaluation() has counted since the seed was set."""
    return _state.evaluations


def next_evaluation() -> int:
    """A number for an evaluation by all ranks, each of which counts it."""
    with _state.lock:
        _state.evaluations += 1
        return _state.evaluations


def generator() -> Any:
    """The process's mt19937. Hold lock() while drawing."""
    return _state.generator


def use_dynet_order(on: bool) -> None:
    """Whether all that a program's results depend on is as in DyNet: one generator, in the order of
    computation."""
    if on != _state.dynet_order:
        _state.dynet_order = on
        _state.tell()


def dynet_order() -> bool:
    """Whether use_dynet_order() is on."""
    return _state.dynet_order


def node_generator(thread: int) -> Any:
    """The generator that the nodes of a thread's graph draw from in turn; NULL if their draws are
    keyed.

    Draws of other threads than the first stay keyed: with a common generator they would depend on
    which thread comes first.
    """
    return _state.generator if _state.dynet_order and thread == 0 else ffi.NULL


def lock() -> threading.RLock:
    me = threading.get_ident()
    _state.draws[me] = _state.draws.get(me, 0) + 1
    return _state.lock


def on_reset(graph: Any) -> None:
    """Registers a graph, whose _seed() is called whenever its key changes."""
    _state.graphs.add(graph)


def set_rank(rank: int) -> None:
    """Sets the stream of this process to that of its rank. Called by dist_dynet.parallel."""
    if rank != _state.rank:
        _state.rank = rank
        _state.tell()


def new_thread() -> int:
    """A number for a thread's graph; 0 for the first."""
    with _state.lock:
        _state.threads += 1
        return _state.threads - 1


def key(thread: int) -> tuple[int, int]:
    """(seed, stream) of a thread's graph."""
    stream = (
        _state.rank
        if not thread and not _state.lineage
        else _mix(_mix(_state.rank, thread), _state.lineage)
    )
    return _state.seed, stream


def _count_fork() -> None:
    _state.forks += 1


def _become_child() -> None:
    _state.lock = threading.RLock()
    lib.dn_rng_forked(_state.generator)
    _state.lineage = _mix(_state.lineage + 1, _state.forks)
    lib.dn_rng_seed(_state.generator, _mix(_state.seed, _state.lineage) & 0xFFFFFFFF)
    _state.tell()


os.register_at_fork(before=_count_fork, after_in_child=_become_child)
