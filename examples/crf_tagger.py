"""Named entities: a BiLSTM whose tags are chosen together by a conditional random field (dy.CRF),
or one by one for comparison.

Trains on Wikigold and prints precision, recall and F1 of whole entities. One script for one process
and for many:

    python examples/crf_tagger.py                        # with a CRF
    python examples/crf_tagger.py --independent          # without: a softmax for each word
    mpirun -n 2 python examples/crf_tagger.py

The network is small and knows no more words than the training set has. What the CRF adds is that
tags fit together: no entity begins in its middle, and neighbours agree on its class.

How long: 15 epochs take 15 s on one core. What to expect: test F1 0.57 to 0.59 with the CRF, 0.54
to 0.55 without (the gain is in precision). What it leaves: the model that was best on dev, in
--output.
"""

import argparse
import gzip
from collections import Counter
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

UNKNOWN = 0


def read(path):
    """[(words, tags)] of a gzipped file of two columns, a blank line after each sentence."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        blocks = file.read().strip().split("\n\n")
    return [
        tuple(zip(*(line.split("\t") for line in block.splitlines()), strict=True))
        for block in blocks
    ]


def shape(word):
    """What a word looks like: runs of capitals, small letters, digits and others, as in Xx, 0-0,
    X."""
    kinds = [
        "X" if c.isupper() else "x" if c.islower() else "0" if c.isdigit() else c for c in word
    ]
    return "".join(
        kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before
    )


FEATURES = {
    "word": str.lower,
    "prefix": lambda w: w[:3],
    "suffix": lambda w: w[-3:],
    "shape": shape,
}
"""What the network sees of a word: a row of a table each."""


def entities(tags):
    """{(begin, end, class)} of BIO tags. I- without an entity of its class before it begins one."""
    found, begin, kind = set(), 0, None
    for t, tag in enumerate([*tags, "O"]):
        if tag != f"I-{kind}":
            if kind is not None:
                found.add((begin, t, kind))
            begin, kind = t, None if tag == "O" else tag[2:]
    return found


class Tagger:
    """The network, over the features and tags of these sentences."""

    def __init__(self, model, sentences, args):
        self.dropout, self.independent = args.dropout, args.independent
        self.tags = sorted({tag for _, tags in sentences for tag in tags})
        self.ids, self.tables = {}, {}
        for name, feature in FEATURES.items():
            count = Counter(feature(word) for words, _ in sentences for word in words)
            self.ids[name] = {
                value: k for k, value in enumerate((v for v in count if count[v] > 1), 1)
            }
            rows, init = len(self.ids[name]) + 1, dy.GlorotInitializer(is_lookup=True)
            self.tables[name] = model.add_lookup_parameters(
                (rows, args.size // len(FEATURES)), init=init
            )
        self.rnn = dy.BiRNNBuilder(1, args.size, args.size, model, dy.VanillaLSTMBuilder)
        self.output = dy.Linear(args.size, len(self.tags), model)
        # an entity begins with B-, and goes on as what it began
        inside = [tag for tag in self.tags if tag.startswith("I-")]
        fits = {tag: ("B" + tag[1:], tag) for tag in inside}
        self.crf = dy.CRF(
            model,
            self.tags,
            [
                (before, tag)
                for tag in inside
                for before in (None, *self.tags)
                if before not in fits[tag]
            ],
        )

    def emissions(self, words, train=False):
        """A vector for each word: the score of each tag."""
        keep = self.dropout if train else 0
        rows = [
            [
                self.tables[name][self.ids[name].get(f(word), UNKNOWN)]
                for name, f in FEATURES.items()
            ]
            for word in words
        ]
        inputs = [dy.concatenate(row) for row in rows]
        outputs = self.rnn.transduce([dy.dropout(x, keep) for x in inputs] if keep else inputs)
        return [self.output(dy.dropout(h, keep) if keep else h) for h in outputs]

    def loss(self, batch):
        """Mean over sentences of -log p(tags)."""
        dy.renew_cg(autobatching=True)
        losses = []
        for words, tags in batch:
            scores = self.emissions(words, train=True)
            if self.independent:
                losses += [
                    dy.pickneglogsoftmax(score, self.tags.index(tag))
                    for score, tag in zip(scores, tags, strict=True)
                ]
            else:
                losses.append(self.crf.neg_log_likelihood(scores, tags))
        return dy.esum(losses) / len(batch)

    def count(self, sentence):
        """How many entities are right, how many were found, how many there are."""
        words, tags = sentence
        dy.renew_cg()
        scores = self.emissions(words)
        if self.independent:
            guessed = [
                self.tags[k]
                for k in dy.concatenate_cols(scores)
                .npvalue()
                .reshape(len(self.tags), -1)
                .argmax(axis=0)
            ]
        else:
            guessed = self.crf.decode(scores)
        found, gold = entities(guessed), entities(tags)
        return len(found & gold), len(found), len(gold)


def evaluate(tagger, sentences):
    """(precision, recall, F1) of whole entities; the ranks divide the sentences, and each gets the
    whole answer."""
    right, found, gold = np.sum(parallel.evaluate(tagger.count, sentences), axis=0)
    return right / max(found, 1), right / gold, 2 * right / (found + gold)


def main():
    """Train, keep the epoch that is best on dev, test it."""
    parser = argparse.ArgumentParser(description="BiLSTM-CRF for named entities, on Wikigold.")
    parser.add_argument(
        "--data", type=Path, default=Path(__file__).parent / "data" / "wikigold", help="folder"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/crf_tagger.model"), help="file for the best model"
    )
    parser.add_argument(
        "--independent", action="store_true", help="a softmax for each word instead of the CRF"
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--batch-size", type=int, default=16, help="sentences of one update, over all ranks"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=128,
        help="of the word vectors and of the BiLSTM; a multiple of 4",
    )
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    train, dev, test = (read(args.data / f"{part}.conll.gz") for part in ("train", "dev", "test"))
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    tagger = Tagger(model, train, args)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, 0.003))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    best = -1.0
    for epoch in range(1, args.epochs + 1):
        total = np.zeros(2)
        for batch in parallel.shard(
            train, batch_size=args.batch_size, seed=args.seed, epoch=epoch, cost=lambda s: len(s[0])
        ):
            if batch:  # a rank may be left without sentences at the end of an epoch
                loss = tagger.loss(batch)
                total += loss.value() * len(batch), len(batch)
                loss.backward()
            trainer.update()
        loss_sum, sentences = parallel.all_reduce(total, "sum")
        f1 = evaluate(tagger, dev)[2]
        if f1 > best:  # the same on every rank
            best = f1
            model.save(args.output)
        if parallel.is_main():
            print(f"epoch {epoch}: loss {loss_sum / sentences:.3f}, dev F1 {f1:.3f}", flush=True)
    model.populate(args.output)
    precision, recall, f1 = evaluate(tagger, test)
    if parallel.is_main():
        print(f"test precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}")


if __name__ == "__main__":
    main()
