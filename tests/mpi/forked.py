"""A child that a rank forks."""

import os
import warnings


def fork():
    """As os.fork(). Python 3.12 and later warn of other threads, which the children here do not
    need."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def in_a_child(check):
    """Calls check() in a child, where it must not raise anything."""
    child = fork()
    if child == 0:
        status = 1
        try:
            check()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
