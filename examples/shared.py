"""What the examples share: the options of their command lines, the data, resuming, a line for each
epoch, and a beam search. The networks and their training loops are in the examples themselves."""

import argparse
import contextlib
import gzip
import itertools
import sys
from pathlib import Path

import conllu
import numpy as np

import dist_dynet as dy
from dist_dynet import parallel, training

DATA = Path(__file__).parent / "data"


def parser(description, name, *, data=None, epochs=None, batch_size, unit="sentences"):
    """A parser with the options of all examples; `name` is the folder for what comes out, in
    runs/, `data` that of the data, in examples/data. Without data or epochs it has no such
    options."""
    made = argparse.ArgumentParser(description=description)
    add = made.add_argument
    if data:
        add("--data", type=Path, default=DATA / data, help="folder")
        add("--limit", type=int, help=f"train on so many {unit}")
    if epochs:
        add("--epochs", type=int, default=epochs)
        add("--patience", type=int, help="stop after so many epochs without a better model")
    add(
        "--batch-size",
        type=int,
        default=batch_size,
        help=f"{unit} of one update, over all ranks",
    )
    add("--seed", type=int, default=1)
    add("--save", type=Path, default=Path("runs") / name / "model", help="best model; two files")
    add(
        "--metrics",
        type=Path,
        default=Path("runs") / name / "metrics.jsonl",
        help="lines of JSON, as docs/metrics.md describes",
    )
    add("--tensorboard", type=Path, help="folder for event files; needs tensorboardX")
    add("--checkpoint", type=Path, help="folder, to resume from and to save to")
    add("--checkpoint-every", default="1min", help="updates, or a time: 200, 10min")
    add("--predict", metavar="FILE", help="use the saved model on a text; - for standard input")
    return made


def begin(args, network, trainer, batches, lower=False):
    """(run, best) of a training run: what is shown and written, what is kept; resumed from
    --checkpoint if there is one."""
    run = training.Run(trainer, args.metrics, tensorboard=args.tensorboard)
    best = training.Best(
        [network], args.save, patience=getattr(args, "patience", None), lower=lower
    )
    if args.checkpoint:
        every = args.checkpoint_every
        checkpointer = parallel.Checkpointer(
            args.checkpoint,
            network.param_collection(),
            trainer,
            batches,
            every=int(every) if every.isdigit() else every,
        )
        checkpointer.add("run", run, per_rank=True)
        checkpointer.add("best", best)
        if checkpointer.resume() and parallel.is_main():
            print(f"resumes after update {checkpointer.step}", flush=True)
    return run, best


def say(text):
    """A line, from rank 0."""
    if parallel.is_main():
        print(text, flush=True)


def load(args):
    """The network that --save had written."""
    try:
        (network,) = dy.load(args.save, dy.ParameterCollection())
    except FileNotFoundError:
        script = Path(sys.argv[0]).name
        raise SystemExit(
            f"{script}: there is no model {args.save}. Train one first: the same command without"
            " --predict; or name one by --save."
        ) from None
    return network


def lines(file, parse=str, form="a text"):
    """parse(line) of the lines of --predict that are not empty; where it raises a ValueError, the
    program ends with a message: a line is no `form`."""
    with contextlib.ExitStack() as stack:
        opened = sys.stdin
        if file != "-":
            try:
                opened = stack.enter_context(Path(file).open(encoding="utf-8"))
            except OSError as error:
                raise SystemExit(f"--predict: {file}: {error.strerror}") from None
        for number, line in enumerate(opened, 1):
            if not line.strip():
                continue
            try:
                parsed = parse(line.rstrip("\n"))
            except ValueError:
                raise SystemExit(
                    f"--predict: line {number} must be {form}; got {line.strip()[:80]!r}"
                ) from None
            yield parsed


def beam_search(state, advance, end, width, longest):
    """The likeliest sequence of symbols that a beam of this width finds, without the end; a width
    of 1 takes the best symbol each time. It begins with `end` as the symbol before the first one.

    Args:
        state: before the first symbol.
        advance: of lists of states and of symbols as long, the states after one more symbol each,
            and expressions: log p of every symbol after it.
        end: the symbol that ends a sequence.
        width: how many beginnings are kept.
        longest: so many symbols at most, with the end.
    """
    beam, done = [(0.0, [end], state)], []
    for _ in range(longest):
        states, log_p = advance([h[2] for h in beam], [h[1][-1] for h in beam])
        longer = [
            (score + p[k], [*symbols, int(k)], after)
            for (score, symbols, _), p, after in zip(beam, dy.npvalues(log_p), states, strict=True)
            for k in np.argsort(-p)[:width]
        ]
        longer = sorted(longer, key=lambda hypothesis: -hypothesis[0])[:width]
        done += [h for h in longer if h[1][-1] == end]
        beam = [h for h in longer if h[1][-1] != end]
        # what is longer is not likelier
        if not beam or (done and max(done, key=lambda h: h[0])[0] > beam[0][0]):
            break
    _, symbols, _ = max(done or beam, key=lambda h: h[0])
    return [k for k in symbols if k != end]


def read_treebank(path, limit=None):
    """The first sentences of a gzipped CoNLL-U file: lists of tokens, dicts with form, lemma, upos,
    xpos and head. Multiword tokens (2-3) and empty nodes (8.1), whose id is a tuple, are left
    out."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        parsed = conllu.parse_incr(
            file, fields=("id", "form", "lemma", "upos", "xpos", "features", "head")
        )
        return [
            [token for token in tokens if isinstance(token["id"], int)]
            for tokens in itertools.islice(parsed, limit)
        ]
