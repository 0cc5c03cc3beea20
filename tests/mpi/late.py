"""Ranks that have used MPI end; rank 1 is killed while Python takes itself apart, the others take
half a second for it."""

import os
import signal
import time

from dist_dynet import parallel

assert parallel.all_reduce(1) == parallel.world_size()


class Late:
    def __init__(self, rank):
        self.rank = rank

    def __del__(self, kill=os.kill, process=os.getpid(), sleep=time.sleep):  # noqa: B008
        if self.rank == 1:
            kill(process, signal.SIGKILL)
        sleep(0.5)


late = Late(parallel.rank())
