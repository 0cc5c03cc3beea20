"""DeferSignals: when the handlers of signals are called."""

import contextlib
import faulthandler
import os
import signal
import threading
from threading import get_ident

import pytest
from interrupted import interrupted_at

from dist_dynet._deferred_signals import DeferSignals, run_pending_handlers

NUMBERS = (
    *(signal.SIGINT, signal.SIGTERM, signal.SIGALRM),
    *(signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2),
)


class StopError(Exception):
    pass


@pytest.fixture
def calls():
    """The numbers whose handler was called; each raises StopError."""
    numbers = []

    def handler(number, frame):
        numbers.append(number)
        raise StopError

    before = [(number, signal.signal(number, handler)) for number in NUMBERS]
    yield numbers
    for number, old in before:
        signal.signal(number, old)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_handler_is_called_when_the_outer_block_is_over(calls, number):
    done = []
    with pytest.raises(StopError), DeferSignals():
        with DeferSignals():
            signal.raise_signal(number)
        done.append(not calls)
    assert (done, calls) == ([True], [number])
    for block in contextlib.nullcontext(), DeferSignals(needed=False):  # as before
        with pytest.raises(StopError), block:
            signal.raise_signal(number)
            done.append("goes on")
    assert done == [True]


def test_at_the_second_signal_both_are_called(calls):
    for number in (signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, lambda number, frame: calls.append(number))
    with DeferSignals():
        signal.raise_signal(signal.SIGUSR1)
        assert not calls
        signal.raise_signal(signal.SIGINT)
        assert sorted(calls) == [signal.SIGINT, signal.SIGUSR1]


@pytest.mark.parametrize("again", range(9))
def test_blocks_that_signals_leave_anywhere_are_over(ctrl_c_raises, again):
    """Also at the places where a block begins and ends; 0: without a second signal."""

    def blocks():
        with DeferSignals(), DeferSignals():
            get_ident()
        get_ident()

    place, done = 0, []
    while interrupted_at(place, blocks, again=again):
        with pytest.raises(KeyboardInterrupt):  # outside of a block at once
            signal.raise_signal(signal.SIGINT)
            done.append("outside")
        with pytest.raises(KeyboardInterrupt), DeferSignals():
            signal.raise_signal(signal.SIGINT)
            done.append(place)
        assert done == [*range(place + 1)]
        place += 1
    assert place > 10


def test_signals_in_the_midst_of_other_threads_wait_as_well(calls):
    done = []
    with pytest.raises(StopError), DeferSignals():
        thread = threading.Thread(target=lambda: signal.pthread_kill(get_ident(), signal.SIGTERM))
        thread.start()
        thread.join()
        done.append(not calls)
    assert (done, calls) == ([True], [signal.SIGTERM])


def test_blocks_of_other_threads_hold_nothing_back(calls):
    entered, over = threading.Event(), threading.Event()

    def block():
        with DeferSignals():
            entered.set()
            over.wait()

    thread = threading.Thread(target=block)
    thread.start()
    entered.wait()
    with pytest.raises(StopError):
        signal.raise_signal(signal.SIGINT)
    over.set()
    thread.join()


@pytest.mark.parametrize("may", [(True, True), (True, False), (False, True)])
def test_a_wait_is_left_where_every_block_may_be(calls, may):
    outer, inner = (DeferSignals(may_leave=[False, True][can].__bool__) for can in may)
    left = []
    with pytest.raises(StopError), outer, inner:
        signal.raise_signal(signal.SIGINT)
        assert not calls
        try:
            run_pending_handlers()
        except StopError:
            left.append(1)
            raise
    assert (len(left), len(calls)) == (all(may), 1)
    with pytest.raises(StopError), DeferSignals():
        signal.raise_signal(signal.SIGINT)
    assert len(calls) == 2


def test_a_handler_that_the_block_sets_stays(calls):
    with DeferSignals():
        before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.raise_signal(signal.SIGUSR1)
    assert signal.signal(signal.SIGUSR1, before) is signal.SIG_IGN
    assert not calls


@pytest.mark.parametrize("is_set_before", [True, False])
def test_what_is_not_pythons_is_called_at_once(calls, tmp_path, is_set_before):
    """Such as the stack that faulthandler shows."""
    with (tmp_path / "stack").open("w+") as file:
        block = DeferSignals()
        if is_set_before:
            faulthandler.register(signal.SIGUSR2, file)
        with block:
            if not is_set_before:
                faulthandler.register(signal.SIGUSR2, file)
            signal.raise_signal(signal.SIGUSR2)
            file.seek(0)
            assert "test_what_is_not_pythons" in file.read()
        faulthandler.unregister(signal.SIGUSR2)


def test_a_child_that_a_thread_forks_has_left_the_main_threads_block(calls):
    status = []

    def fork():
        child = os.fork()
        if not child:
            try:
                signal.raise_signal(signal.SIGINT)
                for _ in range(100):
                    pass
            except StopError:
                os._exit(3)
            os._exit(4)
        status.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    with DeferSignals():
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()
    assert status == [3]
