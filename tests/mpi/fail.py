"""Fails in the way that argv[1] names, on rank 1, while the other ranks go on."""

import ctypes
import os
import signal
import sys
import threading
import time

from forked import fork

import dist_dynet as dy
from dist_dynet import parallel

how = sys.argv[1]
rank = int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
if how == "before start" and rank == 1:
    raise RuntimeError("bad data file")
model = dy.ParameterCollection()
W = model.add_parameters((3, 3), name="W")
if (how == "missing parameter" and rank != 1) or how == "other dims":
    model.add_subcollection("enc").add_parameters(3 + (how == "other dims" and rank == 1), name="V")
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(model))


def step(scale=1.0):
    dy.renew_cg()
    if W.is_updated():
        (dy.sum_elems(W) * scale).backward()
    trainer.update()


def in_a_thread():
    raise ValueError("words of the thread")


for i in range(10):
    step()
    if i == 5 and rank == 1:
        if how == "raise":
            raise ValueError("words of the exception")
        if how.startswith("exit"):
            sys.exit(int(how.split()[1]))
        if how in ("leave 0", "leave 3"):
            os._exit(int(how.split()[1]))
        if how.startswith("vanish"):
            ctypes.CDLL(None)._exit(int(how.split()[1]))
        if how == "early end":
            break
        if how == "thread":
            threading.Thread(target=in_a_thread).start()
            time.sleep(60)
        if how == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(60)
        if how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if how == "loop":
            while True:
                pass
        if how.startswith("fork"):
            child = fork()
            if not child and how == "fork leave":
                os._exit(0)
            if not child:  # what it raises is its own, also in a thread
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
                thread = threading.Thread(target=in_a_thread)
                thread.start()
                thread.join()
                raise ValueError("words of the child")
            os.waitpid(child, 0)
        if how == "late end":
            thread = threading.Thread(target=sys.exit)
            thread.start()
            thread.join()
        if how == "slow":
            print("slow", flush=True)
            time.sleep(1.5)
        if how == "long call":  # computes, and holds Python's lock
            sum(range(1 << 60))
        if how == "stuck call":  # sleeps, and holds Python's lock
            ctypes.PyDLL(None).sleep(60)
        if how == "busy call":  # longer than others wait for an answer
            ctypes.PyDLL(None).sleep(5)
        if how == "order":
            parallel.barrier()
        if how in ("kill", "segv"):
            os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSEGV)
        if how == "accumulation":
            trainer.set_accumulation(2)
        if how == "frozen":
            W.set_updated(False)
        if how == "nan":
            step(float("nan"))
    if how == "barrier" and i == 5:
        if rank == 1:
            time.sleep(60)
        parallel.barrier(timeout=1)
if how == "beside Join":
    with parallel.Join(trainer):
        for _ in range(1 + rank):
            step()
            parallel.all_reduce(1)
if how == "extra" and rank == 0:
    step()
if how == "alone" and rank == 0:
    parallel.DistributedTrainer(dy.SimpleSGDTrainer(model))
if how == "late end" and rank == 0:
    time.sleep(3)  # work of rank 0 alone, after the others have ended
