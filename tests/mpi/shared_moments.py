"""Every trainer with dense parameters and tables, clipped, with added parameters and
update_subset(): writes values and state to FOLDER/RANK.npz. Where the ranks share memory, the
moments are one copy.

    shared_moments.py FOLDER
"""

import os
import sys
import warnings
from pathlib import Path

import numpy as np
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

sys.path.insert(0, str(Path(__file__).parents[1]))
import table_trainers

rank, size = parallel.rank(), parallel.world_size()


def not_finite(trainer, W, table, small):
    """The sums that a refused update leaves on this rank; finite ones of the others."""
    if rank == 0:
        W.scale_gradient(np.inf)
    with raises(RuntimeError, match="Magnitude of gradient is bad"):
        trainer.update()
    sums = [table.grad_as_array(), *(p.grad_as_array() for p in small)]
    trainer.collection.reset_gradients()
    return np.concatenate([array.ravel() for array in sums])


def trained(name, clip, limit):
    make, _, distributions = table_trainers.TRAINERS[name]
    dy.reset_random_seed(5)
    m = dy.ParameterCollection()
    W, table = m.add_parameters((90, 100), name="W"), m.add_lookup_parameters((40, 6), name="t")
    small = [m.add_parameters(3 + i, name="s") for i in range(5)]
    if distributions:
        for p in (W, table, *small):
            even = np.full(p.shape(), 1 / np.prod(p.shape()))
            p.init_from_array(even) if p is table else p.set_value(even)
    inner = make(m)
    trainer = parallel.DistributedTrainer(inner, "sum")
    trainer.set_clip_threshold(clip)
    trainer.set_clip_value(limit)
    late, refused = None, np.zeros(0)
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
            trainer.update_subset([W, small[1]], [table])
        if step == 12 and clip:
            refused = not_finite(trainer, W, table, small)
            continue
        trainer.update()
    parallel.assert_in_sync(m)
    exchange = trainer.sync.exchange
    if os.environ.get("DIST_DYNET_EXCHANGE") != "mpi" and not os.environ.get("SHARES"):
        assert exchange.quick >= 6, exchange.quick
        assert len(exchange._moments.shared) >= 2
        with raises(RuntimeError, match="share its moments"):
            inner.update()
    state = trainer.state()
    if name == "AdamTrainer" and clip == 0:
        with warnings.catch_warnings(action="ignore"):  # of threads
            child = os.fork()
        if not child:
            inner.restart()  # of the child's own copy
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    parallel.all_reduce(1)
    for key, value in trainer.state().items():
        assert np.array_equal(value, state[key]), key
    del trainer, exchange
    inner.update()  # moments have returned
    return (
        {f"{name} {p.name()}": p.as_array() for p in [*m.parameters_list(), table]}
        | {f"{name} {clip} {key}": value for key, value in state.items()}
        | {f"{name} sums": refused}
    )


results = {}
for name in table_trainers.TRAINERS:
    for clip, limit in ((0.0, 0.0), (0.05, 0.0), (0.05, 0.01)):
        for key, value in trained(name, clip, limit).items():
            results[f"{key} {clip} {limit}"] = value
np.savez(Path(sys.argv[1], f"{rank}.npz"), **results)
