"""other_data.py FOLDER: each rank reads a file of its own, whose lines are in another order; the
first update() says so on both."""

import sys
from pathlib import Path

from raised import raises

import dist_dynet as dy
from dist_dynet import parallel

data = Path(sys.argv[1], str(parallel.rank())).read_text().split()
m = dy.ParameterCollection()
w = m.add_parameters(1, init=1)
trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
for batch in parallel.shard(data, batch_size=3):
    if batch:
        dy.renew_cg()
        w.backward()
    with raises(
        RuntimeError,
        match=(
            r"must agree; data of 3 examples with fingerprint [0-9a-f]+ here, data of 3 examples"
            r" with fingerprint [0-9a-f]+ on rank \d\. Give shard\(\) the same data in the same"
            r" order on all ranks: it divides them itself\.$"
        ),
    ):
        trainer.update()
    break
assert w.as_array().tolist() == [1]
if parallel.is_main():
    print("ok")
