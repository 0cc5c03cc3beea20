"""What happens around checkpoints when something is wrong, in one way after the other:
checkpoint.py FOLDER HOW..."""

import os
import resource
import sys
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel import checkpoint_files

checkpoint_files._PIECE = 1000  # so that the bytes of a rank take several messages
rank = parallel.rank()


def step(model, trainer):
    (W,) = model.parameters_list()
    dy.renew_cg()
    dy.squared_norm(W * dy.inputVector([1.0] * 100)).backward()
    trainer.update()


def go(how, folder):
    model = dy.ParameterCollection()
    model.add_parameters((100, 100), name="W")
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model))
    checkpointer = parallel.Checkpointer(folder, model, trainer)
    for i in range(4):
        step(model, trainer)
        if i == 1:
            checkpointer.save()
    if how == "full disk":
        if rank == 0:
            limit_files(50_000)
        try:
            checkpointer.save()
        except OSError as error:
            os.write(2, f"rank {rank}: {error}\n".encode())
        if rank == 0:
            limit_files(resource.RLIM_INFINITY)
        parallel.barrier()
        checkpointer.resume()  # the one before
        assert trainer.updates == checkpointer.step == 2
    elif how == "failing by itself":
        each = parallel.Checkpointer(folder / "each", model, trainer, every=1)
        for i in range(4):
            if rank == 0:
                limit_files(50_000 if i in (1, 2) else resource.RLIM_INFINITY)
            step(model, trainer)
        assert checkpointer.save() and each.step == 8
        steps = sorted(int(path.stem.split("-")[-1]) for path in (folder / "each").glob("c*"))
        assert rank > 0 or steps == [5, 8], steps
    elif how.startswith("save on"):  # "save on 1 alone": that rank alone
        if how == f"save on {rank} alone":
            checkpointer.save()
        step(model, trainer)
    elif how.startswith("resume on"):
        if how == f"resume on {rank} alone":
            checkpointer.resume()
        step(model, trainer)
    elif how.startswith("last save on"):
        if how == f"last save on {rank} alone":
            checkpointer.save()
    elif how == "unlike places":
        batches = parallel.shard(range(4), batch_size=2)
        batches.load_state({**batches.state(), "epoch": rank})
        parallel.Checkpointer(folder / "each", model, trainer, batches).save()
    elif how == "unlike extra":  # rank 0's counts
        checkpointer.extra = {"rank": rank, "array": np.arange(3) + rank}
        checkpointer.save()
        checkpointer.extra = {}
        assert (
            checkpointer.resume()
            and checkpointer.extra["rank"] == 0
            and checkpointer.extra["array"].tolist() == [0, 1, 2]
        )
    elif how == "bad extra":
        if rank == 0:
            checkpointer.extra["here"] = {"deep": object()}
        checkpointer.save()
    elif how == "damaged":
        checkpointer.save()
        if rank == 0:
            newest = max(folder.glob("checkpoint-*"))
            newest.write_bytes(newest.read_bytes()[:-1])
        assert checkpointer.resume() and trainer.updates == 2
        parallel.assert_in_sync(model)
    elif how == "join":  # rank 0 has run out, and saves with the other
        each = parallel.Checkpointer(folder / "each", model, trainer, every=1, keep=9)
        with parallel.Join(trainer):
            for _ in range(1 + 2 * rank):
                step(model, trainer)
        assert each.step == trainer.updates == 7, (each.step, trainer.updates)
        assert rank > 0 or len(list((folder / "each").glob("checkpoint-*"))) == 3
        assert each.resume()
        parallel.assert_in_sync(model)
    elif how == "no MPI trainer":
        parallel.Checkpointer(folder, model, trainer.inner)
    else:
        raise ValueError(how)


def limit_files(size):
    """A disk that is full for whatever is longer."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


for how in sys.argv[2:]:
    go(how, Path(sys.argv[1], how))
