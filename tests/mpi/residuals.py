"""What compression has left over, in checkpoints: residuals.py FOLDER save | resume |
memory.

"save" trains, keeps the sum of all ranks' residuals and saves; "resume" goes on from there, with as
many ranks as there are now: the sum must come into the parameters once. "memory" looks at what a
save and resume() take.
"""

import sys
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

folder, mode = Path(sys.argv[1]), sys.argv[2]
rank = parallel.rank()
rng = np.random.default_rng(rank)
m = dy.ParameterCollection()
W = m.add_parameters((300, 20_000 if mode == "memory" else 1000), name="W", init=0)
b = m.add_parameters(5, name="b", init=0)
E = m.add_lookup_parameters((20, 30), name="E", init=0)
trainer = parallel.DistributedTrainer(
    dy.SimpleSGDTrainer(m, 1.0), average="sum", compression="bf16"
)
trainer.set_clip_threshold(0)
checkpointer = parallel.Checkpointer(folder, m, trainer)


def step(scale):
    dy.renew_cg()
    losses = [
        dy.sum_elems(dy.cmult(p, dy.inputTensor(scale * rng.random(p.shape())))) for p in (W, b)
    ]
    rows = range(20) if not scale else rng.integers(0, 15, 4)
    losses += [dy.dot_product(E[i], dy.inputVector(scale * rng.random(30))) for i in rows]
    dy.esum(losses).backward()
    trainer.update()


def residuals():
    """The sum over ranks, by parameter."""
    every = parallel.gather(
        {key: rest for key, rest in trainer.state().items() if key.startswith("rest:")}
    )
    return {
        p.name(): sum(
            np.reshape(part[f"rest:{p.name()}"], -1) for part in every if f"rest:{p.name()}" in part
        )
        for p in (W, b, E)
    }


def values():
    """In the order of residuals."""
    return {
        W.name(): W.as_array().ravel(order="F"),
        b.name(): b.as_array(),
        E.name(): E.as_array().ravel(),
    }


def peak_from_now_on():
    """Bytes that it has now."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak():
    """The most bytes of memory that this process has had."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


if mode == "save":
    for _ in range(3):
        step(1)
    total = residuals()
    checkpointer.extra = {"total": total}
    assert all(np.abs(rest).max() > 0 for rest in total.values())
    assert checkpointer.save()
    step(1)
    after = values()
    assert checkpointer.resume()
    rng = np.random.default_rng(rank)
    for _ in range(3):
        rng.random(W.shape()), rng.random(b.shape()), rng.integers(0, 15, 4)
        [rng.random(30) for _ in range(4)]
    step(1)
    assert all(np.array_equal(after[name], value) for name, value in values().items())
elif mode == "memory":
    step(1)
    trainer.state()
    start = peak_from_now_on()
    assert checkpointer.save()
    saving = peak() - start
    size = parallel.gather(sum(path.stat().st_size for path in folder.glob("c*")))[0]
    start = peak_from_now_on()
    assert checkpointer.resume()
    resuming = peak() - start
    # a rank that writes nothing has its residuals once more, which are less than a third of the
    # file; the file is there once a host, and nobody has two of it
    assert rank == 0 or saving < size / 2, (saving, size)
    assert resuming < 1.6 * size, (resuming, size)
else:
    assert checkpointer.resume()
    total, before = checkpointer.extra["total"], values()
    step(0)
    after, left = values(), residuals()
    for name, rest in total.items():
        came = before[name] - after[name]
        rounding = 2 * np.finfo(rest.dtype).eps * np.abs(before[name]).max()
        assert np.abs(came + left[name] - rest).max() < rounding
        assert np.abs(left[name]).max() < 2.0**-7 * np.abs(rest).max()  # what rounding leaves
parallel.barrier()
