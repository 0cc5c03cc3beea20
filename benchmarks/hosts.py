"""Training steps over several hosts beside what the wire and the processor allow: a tagger and a
language model, 32 sentences a rank.

    mpirun -n 2 --hosts a,b python benchmarks/hosts.py [--steps 30] [--rate 125] [--tasks tagger
    rnnlm] [--compression bf16]

A minute. Started by mpirun over the hosts; --rate is that of a host's link in MB/s, each direction.
Sizes as in tasks/tagger.py and tasks/rnnlm.py, one graph a step, batched on the fly. Ways of
exchange ("early": overlapped with backward, "late": not) take turns of a few steps in one run. A
line per task and way, ms of the slowest rank, median over the steps and, in brackets, the least:

    compute    the same step on every rank at once without an exchange
    wire       2 (N - 1) / N of the bytes, dense parameters and rows of tables that any host has
               used, over the rate
    step       with the exchange
    after      update() alone, of the rank that came to it last: what of exchange and update did not
               fit beside backward; on a busy machine the one figure to compare
    ratio      step / max(compute, wire)
"""

import argparse
import os
import socket
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent / "tasks"))
SENTENCES, TURN, WARM = 32, 6, 2


def tagger(dy, m):
    """loss_of(sentences) of tasks/tagger.py's model, and its data."""
    import common
    import tagger as task

    embedding, forward, backward, w, bias = task.initial_values()
    table = m.add_lookup_parameters((task.VOCABULARY, task.EMBEDDING))
    table.init_from_array(embedding)
    birnn = dy.BiRNNBuilder(1, task.EMBEDDING, task.HIDDEN, m, dy.VanillaLSTMBuilder)
    common.set_dynet_lstm(birnn, forward, backward)
    W, b = m.add_parameters((task.TAGS, task.HIDDEN)), m.add_parameters(task.TAGS)
    W.set_value(w)
    b.set_value(bias)

    def loss_of(sentences):
        losses = []
        for words, tags in sentences:
            hidden = birnn.transduce([table[i] for i in words])
            losses += [
                dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), t)
                for h, t in zip(hidden, tags, strict=True)
            ]
        return dy.esum(losses)

    corpus = common.sentences(1000, 5, 40, task.VOCABULARY, seed=1)
    return (
        loss_of,
        [(words, common.tags(words, task.TAGS, seed=i)) for i, words in enumerate(corpus)],
        lambda example: example[0],
    )


def rnnlm(dy, m):
    """The same of tasks/rnnlm.py."""
    import common
    import rnnlm as task

    embedding, lstm_values, w, bias = task.initial_values()
    table = m.add_lookup_parameters((task.VOCABULARY, task.EMBEDDING))
    table.init_from_array(embedding)
    lstm = dy.VanillaLSTMBuilder(1, task.EMBEDDING, task.HIDDEN, m)
    common.set_dynet_lstm(lstm, lstm_values)
    W, b = m.add_parameters((task.VOCABULARY, task.HIDDEN)), m.add_parameters(task.VOCABULARY)
    W.set_value(w)
    b.set_value(bias)

    def loss_of(sentences):
        losses = []
        for words in sentences:
            hidden = lstm.initial_state().transduce([table[i] for i in (task.START, *words[:-1])])
            losses += [
                dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), i)
                for h, i in zip(hidden, words, strict=True)
            ]
        return dy.esum(losses)

    return loss_of, common.sentences(1000, 15, 35, task.VOCABULARY, seed=3), lambda words: words


class Way:
    """One way of training: a model and a trainer of its own."""

    def __init__(self, dy, task, exchange=None, overlap=True, **options):
        self.dy, self.m = dy, dy.ParameterCollection()
        self.loss_of, self.data, self.words = task(dy, self.m)
        trainer = dy.AdamTrainer(self.m)
        if exchange is not None:
            os.environ["DIST_DYNET_EXCHANGE"] = exchange
            trainer = dy.parallel.DistributedTrainer(trainer, average="sum", **options)
            if trainer.sync.wire is not None:  # there are several hosts
                trainer.sync.wire.overlap.is_possible = overlap
        self.trainer = trainer
        self.times, self.after = [], []

    def step(self, sentences):
        """One step; seconds, and those of update()."""
        start = time.perf_counter()
        self.dy.renew_cg(autobatching=True)
        loss = self.loss_of(sentences)
        loss.value()
        loss.backward()
        middle = time.perf_counter()
        self.trainer.update()
        end = time.perf_counter()
        return end - start, end - middle


def work(task, options):
    """What each rank does for one task; rank 0 prints."""
    import dist_dynet as dy
    from dist_dynet import parallel

    rank, size = parallel.rank(), parallel.world_size()
    ways = {
        "compute": Way(dy, task),
        "late": Way(dy, task, "auto", overlap=False),
        "early": Way(dy, task, "auto"),
    }
    if options.mpi:
        ways["mpi"] = Way(dy, task, "mpi")
    if options.compression:
        ways[options.compression] = Way(dy, task, "auto", compression=options.compression)
    first = next(iter(ways.values()))
    order = np.random.default_rng(5).permutation(len(first.data)).tolist()
    batches = [
        order[i : i + SENTENCES * size]
        for i in range(0, len(order) - SENTENCES * size, SENTENCES * size)
    ]
    rows = [len({w for i in batch for w in first.words(first.data[i])}) for batch in batches]
    for turn in range(-(-options.steps // TURN)):
        for way in ways.values():
            for i in range(WARM + TURN):
                parallel.barrier()
                mine = batches[(turn * TURN + i) % len(batches)][rank::size]
                seconds, after = way.step([way.data[j] for j in mine])
                if i >= WARM:
                    way.times.append(1e3 * seconds)
                    way.after.append(1e3 * after)
    dense = sum(p.as_array().size for p in first.m.parameters_list())
    width = first.m.lookup_parameters_list()[0].shape()[1]
    hosts = len(set(parallel.gather(socket.gethostname())))
    share, used = 2 * (hosts - 1) / hosts * 4 / options.rate / 1e3, np.mean(rows) * width
    wire = share * (dense + used)
    slowest = {name: parallel.all_reduce(way.times, "max") for name, way in ways.items()}
    last = {name: parallel.all_reduce(way.after, "min") for name, way in ways.items()}
    compute = slowest.pop("compute")
    for name, times in slowest.items() if rank == 0 else ():
        columns = []
        for of in (np.median, np.min):
            ratio = of(times) / max(of(compute), wire)
            columns.append(
                f"{of(compute):8.1f} {wire:8.1f} {of(times):8.1f} {of(last[name]):8.1f}"
                f" {ratio:8.2f}"
            )
        print(f"{task.__name__:7} {name:6} {columns[0]}   ({columns[1]} )", flush=True)


def main():
    """Runs the tasks on this rank."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rate", type=float, default=125.0)
    parser.add_argument(
        "--tasks", nargs="+", default=["tagger", "rnnlm"], choices=["tagger", "rnnlm"]
    )
    parser.add_argument("--compression", choices=["bf16"])
    parser.add_argument("--mpi", action="store_true", help="also DIST_DYNET_EXCHANGE=mpi")
    options = parser.parse_args()
    from dist_dynet import parallel

    if parallel.is_main():
        names = ("compute", "wire", "step", "after", "ratio")
        columns = " ".join(f"{name:>8}" for name in names)
        print(f"{parallel.world_size()} ranks\n{'task':7} {'way':6} {columns}", flush=True)
    for name in options.tasks:
        work({"tagger": tagger, "rnnlm": rnnlm}[name], options)


if __name__ == "__main__":
    main()
