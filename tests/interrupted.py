"""Signals at every place of a call where Python looks for them."""

import gc
import inspect
import signal
import sys


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def is_in_callback(frame):
    """Of a weak reference or the garbage collector: the interpreter drops what is raised there."""
    of_collector = [getattr(callback, "__code__", None) for callback in gc.callbacks]
    while frame is not None and "weakref" not in frame.f_code.co_filename:
        if frame.f_code in of_collector:
            return True
        frame = frame.f_back
    return frame is not None


def interrupted_at(place, use, handler=ctrl_c, again=0):
    """Runs use(), and the handler of a signal at this place of those where Python looks at signals:
    entries of functions, returns from C; and once more so many places later, if use() has them.

    False if it has not so many of them.
    """
    left = place

    def look(frame, event, function):
        nonlocal left
        if frame.f_code.co_filename.startswith("<"):
            return
        # a generator that goes on is left out: Python 3.10 would end it by this without its
        # finally, as no signal does; and so is the __enter__ of a lock, which Python 3.14 calls so
        # that what is raised behind it leaves any lock held
        if (event == "c_return" and function.__name__ != "__enter__") or (
            event == "call" and not frame.f_code.co_flags & inspect.CO_GENERATOR
        ):
            if left in (0, -again) and is_in_callback(frame):
                return
            left -= 1
            if left in (-1, -1 - again):
                handler()

    before = sys.getprofile()
    try:
        sys.setprofile(look)
        use()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(before)
    return left < 0
