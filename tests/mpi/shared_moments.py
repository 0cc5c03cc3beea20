"""Every trainer with dense parameters and tables, clipped, with added parameters and update_subset():
writes values and state to FOLDER/RANK.npz. Where the ranks share memory, the moments are one copy.

    shared_moments.py FOLDER
"""

import os
import sys
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

sys.path.insert(0, str(Path(__file__).parents[1]))
import table_trainers

rank, size = parallel.rank(), parallel.world_size()


def trained(name, clip, limit):
    make, _, distributions = table_trainers.TRAINERS[name]
    dy.reset_random_seed(5)
    m = dy.ParameterCollection()
    W, table = m.add_parameters((90, 100), name="W"), m.add_lookup_parameters((40, 6), name="t")
    small = [m.add_parameters(3 + i, name="s") for i in range(5)]
    if distributions:
        for p in (W, table, *small):
            p.set_value(np.full(p.shape(), 1 / np.prod(p.shape())))
    inner = make(m)
    trainer = parallel.DistributedTrainer(inner)
    trainer.set_clip_threshold(clip)
    trainer.set_clip_value(limit)
    late = None
    for step in range(14):
        if step == 5:
            late = m.add_parameters((70, 70), name="late", init=0.01)
        if step == 9:
            trainer.load_state(trainer.state())
        if step == 11:
            trainer.restart()
        dy.renew_cg()
        rng = np.random.default_rng(step * size + rank)
        # ranks use other rows, and other parameters
        rows = rng.integers(0, 40, 1 + step)
        losses = [dy.sum_elems(dy.cmult(table[r], dy.random_normal(6))) for r in rows.tolist()]
        losses += [dy.sum_elems(dy.cmult(W, dy.inputTensor(rng.normal(size=(90, 100)))))]
        losses += [dy.squared_norm(p) for i, p in enumerate(small) if (i + rank + step) % 3 == 0]
        if late is not None and rank == 0:
            losses.append(dy.squared_norm(late))
        dy.esum(losses).backward()
        if step == 7:
            trainer.update_subset([W, small[1]], [table], 1)
        trainer.update(1)
    parallel.assert_in_sync(m)
    exchange = trainer.sync.exchange
    if os.environ.get("DIST_DYNET_EXCHANGE") != "mpi" and not os.environ.get("SHARES"):
        assert exchange.quick >= 6, exchange.quick
        assert len(exchange._moments.shared) >= 2
        try:
            inner.update()
        except RuntimeError as error:
            assert "share its moments" in str(error)
        else:
            raise AssertionError("an update beside the other ranks")
    state = trainer.state()
    if hasattr(os, "fork") and size > 1 and (child := os.fork()):
        assert os.waitpid(child, 0)[1] == 0
    elif size > 1:
        inner.restart()  # of the child's own copy
        os._exit(0)
    parallel.all_reduce(1)
    for key, value in trainer.state().items():
        assert np.array_equal(value, state[key]), key
    del trainer, exchange
    inner.update()  # moments have returned
    return {f"{name} {p.name()}": p.as_array() for p in m.parameters_list() + [table]} | {
        f"{name} {clip} {key}": value for key, value in state.items()
    }


results = {}
for name in table_trainers.TRAINERS:
    for clip, limit in ((0.0, 0.0), (0.05, 0.0), (0.05, 0.01)):
        for key, value in trained(name, clip, limit).items():
            results[f"{key} {clip} {limit}"] = value
np.savez(Path(sys.argv[1], f"{rank}.npz"), **results)
