"""Each kind of loop over shard() by itself, with parts of unlike sizes: right, or refused at the
first update() on all ranks.
"""

import loops_over_batches
import loops_over_parts
import loops_with_weights

from dist_dynet import parallel

for module in (loops_over_batches, loops_over_parts, loops_with_weights):
    for name, test in vars(module).items():
        if name.startswith("test_"):
            test()
if parallel.is_main():
    print("ok")
