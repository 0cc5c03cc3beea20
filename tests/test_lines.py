"""The line that another thread is in, which the watchdog of a rank asks for all the time.

How long: about ten seconds.
"""

import pytest
from processes import output_of
from test_structure import modules

CODE = """
import gc, os, sys, threading, time
from dist_dynet.parallel.processes.user_line import line_of_thread
from dist_dynet.traced_functions import several_threads

main, places, several = threading.main_thread().ident, set(), set()

def let_others_run(phase, _):
    if threading.get_ident() != main:
        time.sleep(0.001)

def watch():
    gc.callbacks.append(let_others_run)
    while not done:
        gc.set_threshold(1)
        places.add(line_of_thread(main).split(":")[0])
        several.add(several_threads())
        gc.set_threshold(*usual)

def wide(n, *arguments):
    return wide(n - 1, *arguments, n)[:9] if n else [time.sleep(0.0002), *arguments]

def generated(n):
    yield from generated(n - 1) if n else [1]

def plain(n):
    a = b = c = n
    return plain(n - 1) + a + b + c if n else 0

done, usual = False, gc.get_threshold()
watcher = threading.Thread(target=watch)
watcher.start()
end = time.monotonic() + 3
while time.monotonic() < end:
    wide(60), list(generated(90)), plain(700), time.sleep(0.001), plain(300)
done = True
watcher.join()
print(places - {" at threading.py"}, several, gc.isenabled(), line_of_thread(0) == "")
"""


@pytest.mark.parametrize("fast", ["1", "0"])
def test_lines_of_a_thread_that_runs_on_are_read_while_garbage_is_collected(fast):
    """What is collected may let other threads run, whose frames end."""
    printed = output_of(CODE, timeout=60, DIST_DYNET_FAST_PATHS=fast)
    assert printed == "{' at <string>'} {True} True True\n"


def test_frames_of_other_threads_are_asked_for_without_the_collector():
    bare = [name for name, path in modules().items() if "_current_frames()" in path.read_text()]
    assert not bare, f"use calls.without_collector(sys._current_frames) in {bare}"
