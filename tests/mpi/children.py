"""Programs and processes that a rank starts between its updates, however they end, are no ranks and
do no harm."""

import multiprocessing
import os
import subprocess
import sys
import warnings

import dist_dynet as dy
from dist_dynet import parallel

PROGRAMS = {
    "import dist_dynet as dy; print(dy.parallel.world_size())": 0,
    "import dist_dynet; raise ValueError('words')": 1,
    "import os, dist_dynet as dy; print(dy.parallel.gather(1)); os._exit(4)": 4,
}


def square(x):
    """What workers compute."""
    assert parallel.world_size() == 1 or multiprocessing.get_start_method() == "fork"
    return x * x


def feed(queue):
    """A data loader."""
    for x in range(20):
        queue.put(x)
    queue.put(None)


def main():
    """Trains on what other processes give."""
    rank, size = parallel.rank(), parallel.world_size()
    m = dy.ParameterCollection()
    w = m.add_parameters(3, init=0)
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1.0), average="sum")
    trainer.set_clip_threshold(0)
    expected = 0

    def step(by):
        nonlocal expected
        dy.renew_cg()
        (dy.sum_elems(w) * by).backward()
        trainer.update()
        expected -= by * size

    for code, status in PROGRAMS.items():
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr
        assert done.stdout.strip() in ("", "1", "[1]") and ("words" in done.stderr) == (status == 1)
        step(1)
    for how in ("fork", "spawn"):
        multiprocessing.set_start_method(how, force=True)
        queue = multiprocessing.Queue(4)
        loader = multiprocessing.Process(target=feed, args=(queue,))
        loader.start()
        while (x := queue.get()) is not None:
            step(x)
        loader.join()
        assert loader.exitcode == 0
        with multiprocessing.Pool(1) as pool:
            for x in pool.imap(square, range(5)):
                step(x)
    assert (w.as_array() == expected).all()
    parallel.assert_in_sync(m)
    if rank == 0:
        print("ok")


if __name__ == "__main__":
    warnings.simplefilter("ignore", DeprecationWarning)  # from Python 3.12: of fork beside threads
    os.environ["PYTHONWARNINGS"] = "ignore"
    main()
