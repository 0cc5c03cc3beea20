"""Whether networks learn the same with products rounded to bfloat16: a tagger, a language model,
trees and a parser, each from several seeds with both precisions.

    python benchmarks/precision.py                       # all, three seeds: about 8 minutes
    python benchmarks/precision.py trees parser --seeds 1 2 3 4 5

The tagger, the trees and the parsers are the programs of examples/; the language model is here. How
to read the table: docs/precision.md. The exit status is 1 if a mean with rounded products is worse
than the mean in float32 by more than the spread of the seeds in float32.
"""

import argparse
import gzip
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
PROGRAMS = {
    "tagger": (["tagger.py", "--epochs", "2"], "test accuracy", 1),
    "language model": (None, "nats a word on dev", -1),
    "trees": (["treelstm.py"], "test accuracy", 1),
    "parser": (["stack_parser.py", "--limit", "4000"], "heads right on test", 1),
    "crf": (["crf_tagger.py"], "F1", 1),
}
"""The arguments; what the result stands behind in the last line; -1: less is better."""
PRECISIONS = ("float32", "bf16")


def sentences(part, vocabulary=None):
    """Lists of word numbers of the English Web Treebank; 0: a rare word."""
    path = EXAMPLES / "data" / "ud-ewt" / f"en_ewt-ud-{part}.conllu.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        blocks = file.read().split("\n\n")
    read = [re.findall(r"^\d+\t([^\t]+)", block, re.M) for block in blocks]
    if vocabulary is None:
        counts = Counter(word for words in read for word in words)
        vocabulary = {w: k + 2 for k, w in enumerate(word for word, n in counts.items() if n > 2)}
    return [[vocabulary.get(w, 0) for w in words] for words in read if words], vocabulary


def language_model(seed, updates=500, batch_size=16):
    """Trains an LSTM on sentences; prints the loss of a word of the dev set."""
    import dist_dynet as dy

    train, vocabulary = sentences("train")
    dev, _ = sentences("dev", vocabulary)
    dy.reset_random_seed(seed)
    m = dy.ParameterCollection()
    n = len(vocabulary) + 2
    E = m.add_lookup_parameters((n, 128))
    lstm = dy.VanillaLSTMBuilder(1, 128, 256, m)
    output = dy.StandardSoftmaxBuilder(256, n, m)
    trainer = dy.AdamTrainer(m)

    def loss_of(batch):
        dy.renew_cg()
        before = dy.lookup_batch(E, [w for words in batch for w in [1, *words]])
        hs, _ = lstm.initial_state().transduce_packed(before, [len(words) + 1 for words in batch])
        after = [w for words in batch for w in [*words, 1]]
        return dy.sum_batches(output.neg_log_softmax_batch(hs, after)), len(after)

    rng = np.random.default_rng(seed)
    for _ in range(updates):
        loss, words = loss_of([train[i] for i in rng.integers(len(train), size=batch_size)])
        (loss / words).backward()
        trainer.update()
    total = np.zeros(2)
    for i in range(0, len(dev), batch_size):
        loss, words = loss_of(dev[i : i + batch_size])
        total += loss.value(), words
    print(f"{PROGRAMS['language model'][1]} {total[0] / total[1]:.4f}")


def result(name, seed, precision):
    """The result of one run."""
    arguments, words, _ = PROGRAMS[name]
    with tempfile.TemporaryDirectory() as folder:
        command = (
            [sys.executable, __file__, "--language-model", str(seed)]
            if arguments is None
            else [sys.executable, str(EXAMPLES / arguments[0]), *arguments[1:], "--seed", str(seed)]
        )
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "DIST_DYNET_PRECISION": precision,
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": "0",
        }
        run = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}:\n{run.stderr[-2000:]}")
    last = run.stdout.strip().splitlines()[-1]
    return float(re.search(rf"{words} ([\d.]+)", last)[1])


def main():
    """Runs all, prints the table."""
    parser = argparse.ArgumentParser(description="Quality with products rounded to bfloat16.")
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--language-model", type=int, metavar="SEED", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.language_model is not None:
        language_model(args.language_model)
        return 0
    if unknown := set(args.programs) - PROGRAMS.keys():
        parser.error(f"programs are {', '.join(PROGRAMS)}; got {', '.join(sorted(unknown))}.")
    print("| program | result | float32 | bf16 |\n|---|---|---|---|")
    worse = False
    for name in args.programs or PROGRAMS:
        _, words, sign = PROGRAMS[name]
        found = {p: [result(name, seed, p) for seed in args.seeds] for p in PRECISIONS}
        shown = [
            f"{np.mean(each):.4f} ({min(each):.4f} - {max(each):.4f})" for each in found.values()
        ]
        print(f"| {name} | {words} | {' | '.join(shown)} |", flush=True)
        floats, rounded = found.values()
        worse |= sign * (np.mean(floats) - np.mean(rounded)) > max(floats) - min(floats)
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
