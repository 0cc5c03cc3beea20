"""What the task programs share: command line, measuring, synthetic data, equal initial values.

A task program runs one peer in one process and prints one JSON line. It is written once against
DyNet's API; the peer says which module is imported (`dist_dynet` or `dynet`). A PyTorch twin does
the same training step. Knows nothing of the other peers' interpreters or of rounds: run.py does.
"""

import argparse
import importlib
import itertools
import json
import random
import resource
import sys
import time

import numpy as np


def main(task, unit, dynet_task, torch_task, loss_steps, loss_of="unit", options=None):
    """Runs the peer named on the command line and prints the JSON line.

    `dynet_task(dy, args)` and `torch_task(torch, args)` build the model and return `step()`, which
    does one training step and returns (units done, loss as a float). The first `loss_steps` steps
    are the warm-up; their loss per unit (or per step) is printed, to show that the peers compute
    the same; so is that of the first, which no update has touched.
    """
    parser = argparse.ArgumentParser(description=f"Benchmark task {task}; unit: {unit}.")
    parser.add_argument(
        "--peer", default="dist_dynet", help="dist_dynet, dynet, torch, or another such module"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="CPU seconds to measure")
    for name, how in (options or {}).items():
        parser.add_argument(name, **how)
    args, _peer_flags = parser.parse_known_args()  # flags such as --dynet-mem are the peer's
    module = importlib.import_module(args.peer)
    if args.peer == "torch":
        module.set_num_threads(1)
        module.set_num_interop_threads(1)
        step = torch_task(module, args)
    else:
        step = dynet_task(module, args)
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
    }
    result.update(measure(step, args.seconds))
    statistics = getattr(step, "statistics", None)
    if statistics is not None:
        result["autobatch"] = statistics()._asdict()  # of the last graph
    print(json.dumps(result), flush=True)


def measure(step, seconds):
    """Units per CPU second over at least `seconds` CPU seconds, and the process's peak memory."""
    units = 0
    wall = time.perf_counter()
    start = now = time.process_time()
    while now - start < seconds:
        units += step()[0]
        now = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "per_cpu_second": units / (now - start),
        "cpu_seconds": now - start,
        "cpu_share": (now - start) / (time.perf_counter() - wall),
        "peak_mib": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


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

    def update():
        for o in optimizers:
            o.step()
            o.zero_grad(set_to_none=True)

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
