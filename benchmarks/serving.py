"""How many sentences a second one process answers with 1 and with 2 threads that share a model.

    python benchmarks/serving.py

A BiLSTM of 256 over 30 words, in batches of 16 sentences. How long: 20 s.
It prints medians of 7 rounds, in which 1 and 2 threads take turns; docs/using.md has figures.
"""

import argparse
import statistics
import threading
import time

import numpy as np

import dist_dynet as dy

SIZE, WORDS, ROUNDS = 256, 5000, 7


def main():
    """Makes a model and measures."""
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((WORDS, SIZE), init="normal", std=0.1)
    rnn = dy.BiRNNBuilder(1, SIZE, SIZE, m, dy.VanillaLSTMBuilder)
    output = dy.Linear(SIZE, 20, m)
    rng = np.random.default_rng(1)
    batches = rng.integers(WORDS, size=(40, 16, 30)).tolist()

    def answer(share):
        for batch in share:
            dy.renew_cg(autobatching=True)
            states = [rnn.transduce([table[k] for k in sentence]) for sentence in batch]
            scores = dy.npvalues([output(dy.esum(hs)) for hs in states])
            assert all(np.isfinite(s).all() for s in scores)

    def rate(n):
        threads = [threading.Thread(target=answer, args=(batches[i::n],)) for i in range(n)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(map(len, batches)) / (time.perf_counter() - began)

    rates = [(rate(1), rate(2)) for _ in range(1 + ROUNDS)][1:]
    for n, of in zip((1, 2), zip(*rates, strict=True), strict=True):
        low, high = min(of), max(of)
        print(f"{n} threads: {statistics.median(of):.0f} sentences/s ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    main()
