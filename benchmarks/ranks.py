"""Data-parallel training on one host: N ranks beside N processes that exchange nothing, and beside
PyTorch's DistributedDataParallel (gloo).

    python benchmarks/ranks.py                          # tagger and rnnlm, 2 ranks, 5 rounds: about
                                                        # 6 minutes
    python benchmarks/ranks.py tagger --ranks 1 2 4 --rounds 3

Every rank trains on 32 sentences a step, one thread each. In each round these run once, in turn:

    alone     N processes of dist_dynet, each with a plain trainer
    barrier   as alone, but before each update all wait for the last by a flag in shared memory
    ranks     N ranks of dist_dynet with DistributedTrainer
    t-alone   N processes of PyTorch
    t-ddp     N ranks of PyTorch with DistributedDataParallel

The speed of a core of a shared machine changes from second to second, by more than what is to be
measured. So these three take turns in the same N processes, which have a model for each: a block of
steps of each, then in another order. In a block of `alone` no process knows of the others. The
variants of PyTorch are processes of their own; its interpreter comes from --torch-python or
DIST_DYNET_BENCH_TORCH, without one they are left out. A line per variant says how many words a
second all processes did together (wall time, median and span over the rounds). Then, of the same
round:

    efficiency          ranks / alone, and the same for PyTorch
    lockstep / alone    what `alone` would have reached had its processes waited for one another
                        after each step, and exchanged nothing: as the time of a step varies
                        from core to core and from step to step, no exchange can do better
    barrier / alone     what is left where they really wait, and exchange nothing
    ranks / t-ddp

`parts` is one more run of the ranks in which a barrier stands before each update, so that waiting
for a slower rank is not counted as exchange: ms of a step (computing, waiting, negotiation and
exchange, update), of each the median.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "tasks")]

TASKS = ("tagger", "rnnlm")
BATCH = 32
WARM = 8
BLOCKS = 12  # of each kind in a round


# ---- the models: one step over a list of sentences -------------------------------------


def dynet_model(task, m):
    """step(batch) -> the summed loss, as an expression; in plain DyNet style, a sentence at a
    time."""
    import common
    import rnnlm
    import tagger

    import dist_dynet as dy

    if task == "tagger":
        embedding, forward, backward, w, bias = tagger.initial_values()
        builder = dy.BiRNNBuilder(1, tagger.EMBEDDING, tagger.HIDDEN, m, dy.VanillaLSTMBuilder)
        common.set_dynet_lstm(builder, forward, backward)
    else:
        embedding, lstm, w, bias = rnnlm.initial_values()
        builder = dy.VanillaLSTMBuilder(1, rnnlm.EMBEDDING, rnnlm.HIDDEN, m)
        common.set_dynet_lstm(builder, lstm)
    table = m.lookup_parameters_from_numpy(embedding)
    W, b = m.parameters_from_numpy(w), m.parameters_from_numpy(bias)

    def loss_of(batch):
        losses = []
        for words, targets in batch:
            xs = [table[i] for i in words]
            hs = (
                builder.transduce(xs) if task == "tagger" else builder.initial_state().transduce(xs)
            )
            losses += [
                dy.pickneglogsoftmax(dy.affine_transform([b, W, h]), t)
                for h, t in zip(hs, targets, strict=True)
            ]
        return dy.esum(losses)

    return loss_of


def corpus(task):
    """(words, targets) of 2,000 sentences."""
    import common
    import rnnlm
    import tagger

    if task == "tagger":
        return [
            (s, common.tags(s, tagger.TAGS, seed=i))
            for i, s in enumerate(common.sentences(2000, 5, 40, tagger.VOCABULARY, seed=1))
        ]
    return [
        ([rnnlm.START, *s[:-1]], s)
        for s in common.sentences(2000, 15, 35, rnnlm.VOCABULARY, seed=3)
    ]


def batches(task, ranks, rank):
    """An endless stream of this process's part of steps of 32 sentences a rank, balanced by
    words."""
    data, epoch = corpus(task), 0
    while True:
        order = np.random.default_rng(epoch).permutation(len(data))
        for start in range(0, len(data) - BATCH * ranks + 1, BATCH * ranks):
            step = [data[i] for i in order[start : start + BATCH * ranks]]
            step.sort(key=lambda example: -len(example[0]))
            # there and back
            yield [
                x
                for i, x in enumerate(step)
                if rank in (i % (2 * ranks), 2 * ranks - 1 - i % (2 * ranks))
            ]
        epoch += 1


# ---- what one process does -------------------------------------------------------------


def warmed(step, meet, seconds, share):
    """How many steps fit in that time, after some to warm up; `share(x)` gives all processes rank
    0's number."""
    for _ in range(WARM):
        step()
    meet()
    start = time.perf_counter()
    for _ in range(WARM):
        step()
    return max(4, int(share(seconds * WARM / (time.perf_counter() - start))))


def timed(step, meet, steps):
    """(words of this process, seconds of each step)."""
    meet()
    words, clock = 0, [time.perf_counter()]
    for _ in range(steps):
        words += step()
        clock.append(time.perf_counter())
    return words, np.diff(clock)


class Meeting:
    """A trainer that waits for those of the other processes before it updates."""

    def __init__(self, trainer, rank, ranks):
        from dist_dynet._ffi import ffi
        from dist_dynet.parallel.processes import memory, session

        here, everyone = session.world(), range(ranks)
        ((self._memory, starts),) = memory.map_together(
            here, here.comm, everyone, ranks, None, lambda _: [64], "barrier"
        )
        self._flags = [ffi.cast("int64_t *", self._memory + start) for start in starts]
        self._trainer, self._rank, self._steps = trainer, rank, 0

    def update(self):
        """As the trainer's, when all have come."""
        self._steps += 1
        self._flags[self._rank][0] = self._steps
        while any(flag[0] < self._steps for flag in self._flags):
            pass
        self._trainer.update()


def run_ours(variant, task, seconds):
    """One process of `ours` (`alone` and `ranks` in turn) or `parts`; rank 0 prints the JSON
    line."""
    import dist_dynet as dy
    from dist_dynet import meter, parallel

    rank, ranks = parallel.rank(), parallel.world_size()
    parts = []

    def update(trainer, begin):
        """trainer.update(), and what it takes."""
        computed = time.perf_counter()
        parallel.barrier()
        met, before = time.perf_counter(), meter.read()
        trainer.update()
        spent = meter.read().since(before).seconds()
        exchange = spent["agreement"] + spent["exchange"] + spent["rows"]
        parts.append((computed - begin, met - computed, exchange, spent["update"]))

    def program(wrap):
        """A model's training step."""
        m = dy.ParameterCollection()
        loss_of, trainer, stream = (
            dynet_model(task, m),
            wrap(dy.AdamTrainer(m)),
            batches(task, ranks, rank),
        )

        def step():
            begin = time.perf_counter()
            batch = next(stream)
            dy.renew_cg()
            loss = loss_of(batch)
            loss.forward()
            loss.backward()
            if variant == "parts" and ranks > 1:
                update(trainer, begin)
            else:
                trainer.update()
            return sum(len(words) for words, _ in batch)

        return step

    steps_of = {
        "ranks": program(lambda trainer: parallel.DistributedTrainer(trainer, average="sum"))
    }
    if variant == "ours":
        steps_of["alone"] = program(lambda trainer: trainer)
        steps_of["barrier"] = program(lambda trainer: Meeting(trainer, rank, ranks))
        seconds /= BLOCKS
    counts = {}
    for name, step in steps_of.items():
        counts[name] = warmed(
            step,
            parallel.barrier,
            seconds,
            lambda x: parallel.all_reduce(x if rank == 0 else 0.0, "sum"),
        )
    steps = min(counts.values())
    blocks = {name: [] for name in steps_of}
    for k in range(BLOCKS if variant == "ours" else 1):
        names = list(steps_of)
        for name in names[k % len(names) :] + names[: k % len(names)]:
            blocks[name].append(timed(steps_of[name], parallel.barrier, steps))
    result = {}
    for name, mine in blocks.items():
        every = parallel.gather([(words, took.tolist()) for words, took in mine])
        if rank == 0:  # by process, over all blocks
            took = np.array([[seconds for _, seconds in of] for of in every])
            result[name] = {
                "words": [sum(words for words, _ in of) for of in every],
                "seconds": took.sum((1, 2)).tolist(),
            }
            result[name]["lockstep"] = took.max(0).sum()
            result[name]["last"] = took.sum(2).max(0).sum()
    if rank == 0:
        if parts:
            result["parts"] = [
                1e3 * statistics.median(column) for column in zip(*parts[2 * WARM :], strict=True)
            ]
        print(json.dumps(result, default=float), flush=True)


def run_torch(variant, task, seconds, rank, ranks, port):
    """One process of `t-alone` or `t-ddp`."""
    import rnnlm
    import tagger
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    sizes = tagger if task == "tagger" else rnnlm
    hidden = sizes.HIDDEN // 2 if task == "tagger" else sizes.HIDDEN
    classes = tagger.TAGS if task == "tagger" else rnnlm.VOCABULARY

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(sizes.VOCABULARY, sizes.EMBEDDING)
            self.lstm = torch.nn.LSTM(
                sizes.EMBEDDING, hidden, bidirectional=task == "tagger", batch_first=True
            )
            self.linear = torch.nn.Linear(sizes.HIDDEN, classes)

        def forward(self, words, lengths, targets):
            packed = torch.nn.utils.rnn.pack_padded_sequence(
                self.embedding(words), lengths, batch_first=True, enforce_sorted=False
            )
            hs, _ = self.lstm(packed)
            return torch.nn.functional.cross_entropy(self.linear(hs.data), targets, reduction="sum")

    torch.manual_seed(1)
    model = Model()
    if variant == "t-ddp":
        model = torch.nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    stream = batches(task, ranks, rank)

    def step():
        batch = next(stream)
        lengths = torch.tensor([len(words) for words, _ in batch])
        pad = int(lengths.max())
        words = torch.tensor([w + [0] * (pad - len(w)) for w, _ in batch])
        targets = torch.tensor([t + [0] * (pad - len(t)) for _, t in batch])
        targets = torch.nn.utils.rnn.pack_padded_sequence(
            targets, lengths, batch_first=True, enforce_sorted=False
        ).data
        optimizer.zero_grad(set_to_none=variant != "t-ddp")
        loss = model(words, lengths, targets)
        loss.item()
        loss.backward()
        optimizer.step()
        return int(lengths.sum())

    def share(x):
        value = torch.tensor([x if rank == 0 else 0.0])
        dist.all_reduce(value)
        return value.item()

    done, took = timed(step, dist.barrier, warmed(step, dist.barrier, seconds, share))
    every = [None] * ranks
    dist.all_gather_object(every, (done, took.sum()))
    if rank == 0:
        result = {
            "words": [w for w, _ in every],
            "seconds": [s for _, s in every],
            "last": max(s for _, s in every),
        }
        print(json.dumps({variant: result}, default=float), flush=True)
    sys.stdout.flush()
    os._exit(0)  # gloo's threads sometimes abort a regular end


# ---- the rounds ------------------------------------------------------------------------


def free_port():
    """A port of this host that nobody uses now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def launch(variant, task, ranks, options):
    """The JSON line of one run."""
    from run import TORCH, US, environment

    worker = [__file__, task, "--work", variant, "--seconds", str(options.seconds)]
    if variant.startswith("t-"):
        port = free_port()
        commands = [
            [
                options.torch_python,
                *worker,
                "--rank",
                str(r),
                "--ranks",
                str(ranks),
                "--port",
                str(port),
            ]
            for r in range(ranks)
        ]
    else:
        beside = Path(options.python).with_name("mpirun")
        commands = [
            [
                str(beside) if beside.exists() else "mpirun",
                "-n",
                str(ranks),
                options.python,
                *worker,
            ]
        ]
    variables = environment(TORCH if variant.startswith("t-") else US)
    processes = [
        subprocess.Popen(c, env=variables, stdout=subprocess.PIPE, text=True) for c in commands
    ]
    outputs = [p.communicate()[0] for p in processes]
    if any(p.returncode for p in processes):
        raise RuntimeError(
            f"{variant} of {task} ended with status {[p.returncode for p in processes]}"
        )
    return json.loads(next(line for line in "".join(outputs).splitlines() if line.startswith("{")))


def rate(result, variant):
    """Words a second over all processes; those that exchange end together, so that the slowest
    counts."""
    if variant in ("alone", "t-alone"):
        return sum(w / s for w, s in zip(result["words"], result["seconds"], strict=True))
    return sum(result["words"]) / result["last"]


def span(values):
    """Median (least - greatest)."""
    return f"{statistics.median(values):.3g} ({min(values):.3g} - {max(values):.3g})"


def compare(task, ranks, options, torch):
    """All rounds of a task and a number of ranks, and their table."""
    variants = ["alone", "barrier", "ranks", *(["t-alone", "t-ddp"] if torch else [])]
    rates = {variant: [] for variant in [*variants, "lockstep"]}
    for _ in range(options.rounds):
        for run in ["ours", *variants[3:]]:
            for variant, result in launch(run, task, ranks, options).items():
                rates[variant].append(rate(result, variant))
                if variant == "alone":
                    rates["lockstep"].append(sum(result["words"]) / result["lockstep"])
    print(f"{task}, {ranks} ranks, {BATCH} sentences each")
    for variant in variants:
        print(f"  {variant:8} {span([x / 1e3 for x in rates[variant]])} k words/s")
    quotients = [
        ("efficiency", "ranks", "alone"),
        ("lockstep / alone", "lockstep", "alone"),
        ("barrier / alone", "barrier", "alone"),
    ]
    quotients += (
        [("PyTorch's", "t-ddp", "t-alone"), ("ranks / t-ddp", "ranks", "t-ddp")] if torch else []
    )
    for name, a, b in quotients:
        print(f"  {name}: {span([x / y for x, y in zip(rates[a], rates[b], strict=True)])}")
    if ranks > 1:
        parts = launch("parts", task, ranks, options)["parts"]
        words = ", ".join(
            f"{name} {ms:.3g}"
            for name, ms in zip(("computing", "waiting", "exchange", "update"), parts, strict=True)
        )
        print(
            f"  parts, ms: {words}; exchange / step without waiting"
            f" {parts[2] / (sum(parts) - parts[1]):.1%}",
            flush=True,
        )


def main():
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tasks", nargs="*", metavar="TASK", help=f"of {', '.join(TASKS)} (default: both)"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch-python", default=os.environ.get("DIST_DYNET_BENCH_TORCH"))
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        if options.work.startswith("t-"):
            run_torch(
                options.work,
                options.tasks[0],
                options.seconds,
                options.rank,
                options.ranks[0],
                options.port,
            )
        else:
            run_ours(options.work, options.tasks[0], options.seconds)
        return
    unknown = set(options.tasks) - set(TASKS)
    if unknown:
        parser.error(f"unknown task {', '.join(sorted(unknown))}; there are {', '.join(TASKS)}")
    if not options.torch_python:
        print("left out: PyTorch (no interpreter given)", file=sys.stderr)
    for task in options.tasks or TASKS:
        for ranks in options.ranks:
            compare(task, ranks, options, options.torch_python)


if __name__ == "__main__":
    main()
