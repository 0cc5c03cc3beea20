"""Read by Python at the start of a rank's script: lets the script say that it has ended of its own
accord, and steps out of the way.

It runs before the script, so its atexit function is the last one. There SIGUSR1 is ignored, too:
it means "write a checkpoint now", Python would set it to its default when it ends, and that would
kill a rank that has done its work and only gives back its memory. `os._exit`, signals and crashes
skip it: the relay, which sees the status of the process, then knows that a status of 0 does not
mean an end (dist_dynet/cli/_relay.py). Nothing else of the script's process is changed; children of
the script do not find this file. A sitecustomize that the machine has is run as if this one were
not there.
"""

import atexit
import os
import signal
import sys
from importlib import import_module, invalidate_caches
from importlib.util import find_spec

_FOLDER = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib would be imported before every script


def _mark_the_end(descriptor: int, process: int) -> None:
    def mark() -> None:
        if os.getpid() == process:
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            os.write(descriptor, b"end")

    os.set_inheritable(descriptor, False)
    atexit.register(mark)


def _step_aside() -> None:
    sys.path[:] = [p for p in sys.path if p != _FOLDER]
    rest = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p != _FOLDER]
    os.environ["PYTHONPATH"] = os.pathsep.join(rest)
    if not os.environ["PYTHONPATH"]:
        del os.environ["PYTHONPATH"]
    invalidate_caches()
    mine = sys.modules.pop("sitecustomize", None)
    if find_spec("sitecustomize") is not None:
        import_module("sitecustomize")
    elif mine is not None:
        sys.modules["sitecustomize"] = mine  # site expects one


_variable = os.environ.pop("DIST_DYNET_END", "")
if _variable:
    _mark_the_end(int(_variable), os.getpid())
_step_aside()
