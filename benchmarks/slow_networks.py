"""What a slow network leaves of several hosts' speed, and what the ways around it do to the loss: a
tagger, 32 sentences a rank.

    mpirun -n 2 --hosts a,b python benchmarks/slow_networks.py [--steps 512] [--seeds 2]
        [--every 64]

A minute. "alone" exchanges nothing: the most that there could be. The others are an exchange at
every update, as it is and in 8 bits, and LocalSGD. Each way
trains a model of its own, in turns of --every steps within one run, so that a busy machine hurts
all alike. A line per way:

    ms       a step, mean over all turns: of the slowest rank in each
    speed    of "alone" / this one: 1 is as if there were no network
    MB       that a rank hands over, a step
    loss     per word on sentences that are not trained on, after the last step: mean over seeds of
             the order of data, least and greatest ("alone": rank 0's model)
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from hosts import SENTENCES, Way, tagger

HELD_OUT = 100


def ways_of(dy, every):
    parallel = dy.parallel

    def distributed(**options):
        return lambda trainer: parallel.DistributedTrainer(trainer, average="sum", **options)

    return {
        "alone": lambda trainer: trainer,
        "each": distributed(),
        "each, int8": distributed(compression="int8"),
        "local": lambda trainer: parallel.LocalSGD(trainer, every=every),
    }


def trained(dy, seed, options, times, moved):
    """Trains all ways; the loss of each in the end."""
    parallel = dy.parallel
    rank, size = parallel.rank(), parallel.world_size()
    ways = {}
    for name, wrap in ways_of(dy, options.every).items():
        ways[name] = way = Way(dy, tagger)
        way.trainer = wrap(way.trainer)
    data = next(iter(ways.values())).data
    rng = np.random.default_rng(seed)
    batches = [
        rng.choice(len(data) - HELD_OUT, SENTENCES * size, replace=False)
        for _ in range(options.steps)
    ]
    for start in range(0, options.steps, options.every):
        for name, way in ways.items():
            parallel.barrier()
            before, begin = way.trainer.stats().bytes, time.perf_counter()
            for batch in batches[start : start + options.every]:
                way.step([data[i] for i in batch[rank::size]])
            seconds = time.perf_counter() - begin
            if start:  # the first turn warms up
                times[name].append(parallel.all_reduce(seconds, "max") / options.every)
                moved[name].append((way.trainer.stats().bytes - before) / options.every)
    held = [data[i] for i in range(len(data) - HELD_OUT, len(data))]
    losses = {}
    for name, way in ways.items():
        dy.renew_cg(autobatching=True)
        losses[name] = way.loss_of(held).value() / sum(len(words) for words, _ in held)
    return losses


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--every", type=int, default=64)
    options = parser.parse_args()
    if options.steps % options.every or options.steps < 2 * options.every:
        parser.error("--steps must be two or more times --every, without remainder")
    import dist_dynet as dy

    names = list(ways_of(dy, options.every))
    times, moved = {name: [] for name in names}, {name: [] for name in names}
    losses = [trained(dy, seed, options, times, moved) for seed in range(options.seeds)]
    if dy.parallel.is_main():
        print(f"{dy.parallel.world_size()} ranks, every {options.every}")
        print(f"{'way':12} {'ms':>7} {'speed':>6} {'MB':>7}  loss")
        for name in names:
            ms, own = 1e3 * np.mean(times[name]), [loss[name] for loss in losses]
            print(
                f"{name:12} {ms:7.1f} {np.mean(times['alone']) * 1e3 / ms:6.2f}"
                f" {np.mean(moved[name]) / 1e6:7.3f}  {np.mean(own):.4f}"
                f" ({min(own):.4f} - {max(own):.4f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
