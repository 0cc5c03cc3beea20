"""Accumulation under DistributedTrainer: N ranks of k passes over n examples do what one process
does with N k n. Prints "ok" on rank 0.

Steps that are not finite are left out on all ranks, though only one of them saw the bad number.
"""

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

PASSES, EXAMPLES, STEPS, RATE = 3, 4, 5, 0.1
size, rank = parallel.world_size(), parallel.rank()
m = dy.ParameterCollection()
w = m.add_parameters(2, init=0)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, RATE))
trainer.set_clip_threshold(0)
trainer.set_accumulation(PASSES)
trainer.skip_nonfinite = True
data = np.random.default_rng(1).normal(size=(STEPS, size, PASSES, EXAMPLES, 2))
data[2, size - 1, 1, 0, 0] = np.nan
expected = np.zeros(2)
for step in range(STEPS):
    for i in range(PASSES):
        dy.renew_cg()
        losses = [dy.squared_distance(w, dy.inputVector(x)) for x in data[step, rank, i]]
        (dy.esum(losses) / EXAMPLES).backward()
        trainer.update()
    if step != 2:
        expected -= RATE * 2 * (expected - data[step].reshape(-1, 2).mean(axis=0))
assert np.allclose(w.as_array(), expected, rtol=1e-5), (w.as_array(), expected)
assert (trainer.updates, trainer.skipped, trainer.accumulation) == (STEPS - 1, 1, PASSES)
try:
    trainer.update_subset([0], [])
except RuntimeError as error:
    assert "takes no part in accumulation" in str(error)
else:
    raise AssertionError("update_subset within an accumulation")
# one trainer waits, another one of the same model goes on
both = dy.ParameterCollection()
one, other = both.add_subcollection("one"), both.add_subcollection("other")
p, q = one.add_parameters(1, init=0), other.add_parameters(1, init=0)
waits = parallel.DistributedTrainer(dy.SimpleSGDTrainer(one, 1), accumulate=2)
goes_on = parallel.DistributedTrainer(dy.SimpleSGDTrainer(other, 1))
for updates, _ in enumerate(parallel.shard(range(4 * size), batch_size=2 * size), 1):
    dy.renew_cg()
    (p + q * (rank + 1)).backward()
    waits.update()
    goes_on.update(1)
    assert p.as_array() == (-1 if updates == 2 else 0)
    assert q.as_array() == -updates * (size + 1) / 2
parallel.assert_in_sync(both)
# what waits is reset as in one process: a pass, and the gradients of an update of the other part
trainer, kept = parallel.DistributedTrainer(dy.SimpleSGDTrainer(both, 1)), []
for batch in parallel.shard(range(4 * size), batch_size=size):
    dy.renew_cg()
    (p + q).backward()
    if batch.step == 2:
        trainer.set_accumulation(2)
    if batch.step == 0:
        trainer.update_subset([p], [])
    else:
        trainer.update()
    if batch.step in (0, 2):
        both.reset_gradients()
    kept.append((p.as_array().item(), q.as_array().item()))
moved = np.subtract(kept, kept[0]).tolist()
assert moved == [[0, 0], [-1, -1], [-1, -1], [-1.5, -1.5]], moved
parallel.assert_in_sync(m)
if rank == 0:
    print("ok")
