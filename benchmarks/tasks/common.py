"""What the task programs share: command line, measuring, synthetic data, equal initial values.

A task program runs one peer in one process and prints one JSON line. It is written once against
DyNet's API; the peer says which module is imported (`dist_dynet` or `dynet`). A PyTorch twin does
the same training step. Knows nothing of the other peers' interpreters or of rounds: run.py does.
"""

import argparse
import importlib
import itertools
import json
import os
import random
import resource
import sys
import tempfile
import time

import numpy as np

NO_TWIN = 3
"""The exit status of a task program that has no program for the peer, or not in this form: a twin
that has more than float32 has an attribute `forms`."""
TWIN_OPTIONS = {
    "--precision": {
        "choices": ["float32", "bf16", "bf16_logits"],
        "default": "float32",
        "help": (
            "PyTorch and JAX only: of matrix products; bf16: scores and losses in float32;"
            " bf16_logits: scores in bfloat16, too. DyNet's API: DIST_DYNET_PRECISION"
        ),
    },
    "--compile": {"action": "store_true", "help": "PyTorch only: with torch.compile"},
    "--bucket": {
        "type": int,
        "default": 4,
        "help": "JAX only: lengths are padded to multiples of it; a step is compiled for each",
    },
}


def main(
    task,
    unit,
    dynet_task,
    torch_task,
    loss_steps,
    loss_of="unit",
    options=None,
    jax_task=None,
    operations=None,
):
    """Runs the peer named on the command line and prints the JSON line.

    `dynet_task(dy, args)`, `torch_task(torch, args)` and `jax_task(jax, args)` build the model and
    return `step()`, which does one training step and returns (units done, loss as a float). The
    first `loss_steps` steps are the warm-up; their loss per unit (or per step) is printed, to show
    that the peers compute the same; so is that of the first, which no update has touched. A step
    that is compiled has a function `warm_up()`, which compiles it for all shapes of its data and
    changes no parameter; how long that takes is printed, too. `operations()` are the
    floating-point operations of a unit's matrix products, forward and backward.
    """
    parser = argparse.ArgumentParser(description=f"Benchmark task {task}; unit: {unit}.")
    parser.add_argument(
        "--peer", default="dist_dynet", help="dist_dynet, dynet, torch, jax, or another such module"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds to measure")
    parser.add_argument(
        "--turns",
        action="store_true",
        help="measure for as many CPU seconds as each line on standard input says, until it ends",
    )
    for name, how in {**TWIN_OPTIONS, **(options or {})}.items():
        parser.add_argument(name, **how)
    args, _peer_flags = parser.parse_known_args()  # flags such as --dynet-mem are the peer's
    twin = {"torch": torch_task, "jax": jax_task}.get(args.peer, dynet_task)
    wanted = [args.precision, *(["compile"] if args.compile else [])]
    if twin is None or not set(wanted) <= getattr(twin, "forms", {"float32"}):
        print(f"{task} has no twin for {args.peer} ({', '.join(wanted)})", file=sys.stderr)
        sys.exit(NO_TWIN)
    if args.peer == "jax":
        # its pools have as many threads as there are processors that it may use
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    compilers_cache = tempfile.TemporaryDirectory() if args.compile else None
    if compilers_cache is not None:  # an empty one: each run compiles, as a first run does
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compilers_cache.name
    module = importlib.import_module(args.peer)
    if args.peer == "torch":
        module.set_num_threads(1)
        module.set_num_interop_threads(1)
    step = twin(module, args)
    compiling = warm_up_times(step)
    units, losses = 0, []
    for _ in range(loss_steps):
        n, value = step()
        units += n if loss_of == "unit" else 1
        losses.append(value)
    result = {
        "task": task,
        "peer": args.peer,
        "unit": unit,
        "loss": sum(losses) / units,
        "first_loss": losses[0],
        **compiling,
    }
    if operations is not None:
        result["operations"] = operations()
    result.update(measure(step, turns() if args.turns else [args.seconds]))
    statistics = getattr(step, "statistics", None)
    if statistics is not None:
        result["autobatch"] = statistics()._asdict()  # of the last graph
    print(json.dumps(result), flush=True)


def warm_up_times(step):
    """The processor's and the clock's seconds that a compiled step takes to be compiled; nothing
    for another."""
    warm_up = getattr(step, "warm_up", None)
    if warm_up is None:
        return {}
    wall, start = time.perf_counter(), processor_seconds()
    warm_up()
    return {
        "compile_seconds": processor_seconds() - start,
        "compile_wall_seconds": time.perf_counter() - wall,
    }


def processor_seconds():
    """Of this process and of those that it has started and that have ended: compilers."""
    return sum(os.times()[:4])


MY_TURN = "@"
"""A line of this alone on standard output: the process waits for its next turn."""


def turns():
    """The CPU seconds of each turn, as whoever takes turns with others says."""
    while True:
        print(MY_TURN, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        yield float(line)


def measure(step, turns):
    """Units per CPU second over turns of at least so many CPU seconds, and the process's peak
    memory."""
    units, cpu, wall = 0, 0.0, 0.0
    for seconds in turns:
        began, start = time.perf_counter(), time.process_time()
        now = start
        while now - start < seconds:
            units += step()[0]
            now = time.process_time()
        cpu, wall = cpu + now - start, wall + time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "per_cpu_second": units / cpu,
        "cpu_seconds": cpu,
        "cpu_share": cpu / wall,
        "peak_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


# ---- floating-point operations ---------------------------------------------------------


def products(rows, columns, times=1, inputs_gradient=True):
    """The floating-point operations of y = W x for `times` columns x: of y, of the gradient of W
    and, where it is needed, of that of x."""
    return 2 * rows * columns * times * (3 if inputs_gradient else 2)


def lstm_products(input_dim, hidden_dim, steps):
    """Those of an LSTM's steps from an initial state of zero, whose product is not needed."""
    return products(4 * hidden_dim, input_dim, steps) + products(
        4 * hidden_dim, hidden_dim, steps - 1
    )


# ---- data ------------------------------------------------------------------------------


def sentences(count, shortest, longest, vocabulary, seed):
    """`count` lists of word ids from 1 on, by Zipf's law, with lengths spread evenly over the
    bounds."""
    rng = random.Random(seed)
    ids = range(1, vocabulary)
    cumulative = list(itertools.accumulate(1.0 / i for i in ids))
    return [
        rng.choices(ids, cum_weights=cumulative, k=rng.randint(shortest, longest))
        for _ in range(count)
    ]


def tags(words, count, seed):
    """A tag per word: the word's own in nine cases of ten, else any."""
    rng = random.Random(seed)
    return [w % count if rng.random() < 0.9 else rng.randrange(count) for w in words]


def training_step(dy, collection, stream, trainer, loss_of, units_of):
    """step() of a DyNet task: a graph for the next example, or batch, of the stream."""

    def step(model=collection):  # holds the collection: dynet's trainer does not
        example = next(stream)
        dy.renew_cg()
        loss = loss_of(example)
        value = loss.value()
        loss.backward()
        trainer.update()
        return units_of(example), value

    return step


def batches(corpus, size, length_of, seed):
    """The corpus in batches of about equal length, as one makes them by hand to have little
    padding, in random order."""
    in_order = sorted(corpus, key=length_of)
    result = [in_order[i : i + size] for i in range(0, len(in_order) - size + 1, size)]
    random.Random(seed).shuffle(result)
    return result


def together(stream, size):
    """The examples of a stream in lists of this size, as they come."""
    while True:
        yield list(itertools.islice(stream, size))


def padded(rows, pad=0):
    """One list for each position: what each row has there, and 1 or 0 for whether it has anything
    there."""
    columns = [
        [row[t] if t < len(row) else pad for row in rows] for t in range(max(map(len, rows)))
    ]
    return columns, [[float(t < len(row)) for row in rows] for t in range(len(columns))]


def sum_of_losses(dy, losses, real):
    """The sum of batched losses, one expression for each position, over what is real."""
    masked = [
        x if all(r) else dy.cmult(x, dy.inputTensor([r], batched=True))
        for x, r in zip(losses, real, strict=True)
    ]
    return dy.sum_batches(dy.esum(masked))


# ---- equal initial values --------------------------------------------------------------


def glorot(rng, *shape):
    """Uniform numbers within sqrt(6 / (rows + columns)), float32."""
    bound = np.sqrt(6.0 / sum(shape))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def lstm_values(rng, input_dim, hidden_dim):
    """(Wx, Wh, b) with rows in DyNet's order of gates: input, forget, output, cell."""
    b = np.zeros(4 * hidden_dim, dtype=np.float32)
    return glorot(rng, 4 * hidden_dim, input_dim), glorot(rng, 4 * hidden_dim, hidden_dim), b


def set_dynet_lstm(builder, *values):
    """Gives a one-layer builder its values: one LSTM's for VanillaLSTMBuilder, two for
    BiRNNBuilder."""
    for p, v in zip(
        builder.param_collection().parameters_list(), itertools.chain(*values), strict=True
    ):
        p.set_value(v)


def set_torch_lstm(torch, lstm, values, suffix="l0"):
    """The same values for a layer of nn.LSTM.

    Its gates are input, forget, cell, output; its forget bias holds the 1 that DyNet adds when
    computing. The second bias of nn.LSTM is frozen at zero, so that the number of trained numbers
    is the same.
    """

    def reorder(v):
        i, f, o, g = np.split(v, 4)
        return torch.from_numpy(np.concatenate([i, f, g, o]))

    wx, wh, b = values
    hidden = len(b) // 4
    b = b.copy()
    b[hidden : 2 * hidden] += 1.0
    with torch.no_grad():
        getattr(lstm, "weight_ih_" + suffix).copy_(reorder(wx))
        getattr(lstm, "weight_hh_" + suffix).copy_(reorder(wh))
        getattr(lstm, "bias_ih_" + suffix).copy_(reorder(b))
        getattr(lstm, "bias_hh_" + suffix).zero_()
    getattr(lstm, "bias_hh_" + suffix).requires_grad_(False)


def torch_adam(torch, embeddings, others, kind):
    """A function that updates all and clears the gradients.

    kind "sparse": SparseAdam for the embeddings' used rows and fused Adam for the rest (what DyNet
    does, and the faster one); "dense": fused Adam for everything.
    """
    weights = [e.weight for e in embeddings]
    if kind == "sparse":
        optimizers = [torch.optim.SparseAdam(weights), torch.optim.Adam(others, fused=True)]
    else:
        optimizers = [torch.optim.Adam([*weights, *others], fused=True)]

    def clear():
        for o in optimizers:
            o.zero_grad(set_to_none=True)

    def update():
        for o in optimizers:
            o.step()
        clear()

    update.clear = clear
    return update


def style_of(args, dy):
    """How the sequences are given: what was asked for, else the fastest that the peer has."""
    if args.style != "best":
        return args.style
    return (
        "packed"
        if args.batch > 1 and hasattr(dy, "RNNState") and hasattr(dy.RNNState, "transduce_packed")
        else "transduce"
    )


SEQUENCE_OPTIONS = {
    "--batch": {"type": int, "default": 1, "help": "sentences in a step, batched by hand"},
    "--style": {
        "choices": ["best", "packed", "transduce", "add_input"],
        "default": "best",
        "help": (
            "DyNet's API only: sentences one after another (ours alone), a sequence at once, or"
            " state by state"
        ),
    },
}
EMBEDDING_OPTION = {
    "--embedding": {
        "choices": ["sparse", "dense"],
        "default": "sparse",
        "help": "PyTorch only: how the embedding is updated",
    }
}
