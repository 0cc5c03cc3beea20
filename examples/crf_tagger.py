"""Named entities: a BiLSTM whose tags are chosen together by a conditional random field (dy.CRF),
or one by one for comparison.

Trains on Wikigold and prints precision, recall and F1 of whole entities. One script for one process
and for many:

    python examples/crf_tagger.py                        # with a CRF
    python examples/crf_tagger.py --independent          # without: a softmax for each word
    mpirun -n 2 python examples/crf_tagger.py
    echo "Ada Lovelace lived in London ." | python examples/crf_tagger.py --predict -

The network is small and knows no more words than the training set has. What the CRF adds is that
tags fit together: no entity begins in its middle, and neighbours agree on its class.

How long: 15 epochs take 15 s on one core. What to expect: test F1 from 0.55 to 0.65 with the CRF,
0.51 to 0.53 without; the test set has 246 entities, so seeds differ much. What it leaves in
runs/crf_tagger: the model that was best on dev, and metrics.jsonl.
"""

import gzip
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with PYTHONSAFEPATH=1
import shared

import dist_dynet as dy
from dist_dynet import parallel, training


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


class Tagger:
    """The network. `vocabularies` has the numbers of each feature."""

    def __init__(self, model, vocabularies, tags, size, dropout, independent):
        self.vocabularies, self.tags, self.size = vocabularies, tags, size
        self.dropout, self.independent = dropout, independent
        self.model = model = model.add_subcollection("tagger")
        width, init = size // len(FEATURES), dy.GlorotInitializer(is_lookup=True)
        self.tables = [
            model.add_lookup_parameters((len(v), width), init=init) for v in vocabularies
        ]
        self.rnn = dy.BiRNNBuilder(1, size, size, model, dy.VanillaLSTMBuilder)
        self.output = dy.Linear(size, len(tags), model)
        # an entity begins with B-, and continues as what it began
        self.crf = dy.CRF(model, tags.names, dy.CRF.bio(tags.names))

    @classmethod
    def of(cls, sentences, model, size, dropout, independent):
        """A network for the features and tags of these sentences."""
        vocabularies = [
            dy.Vocabulary((feature(w) for words, _ in sentences for w in words), min_count=2)
            for feature in FEATURES.values()
        ]
        tags = dy.Vocabulary(sorted({tag for _, tags in sentences for tag in tags}), unknown=None)
        return cls(model, vocabularies, tags, size, dropout, independent)

    @property
    def spec(self):
        """Plain data that from_spec() makes the same network of: for dy.save and dy.load."""
        return (
            [v.spec for v in (*self.vocabularies, self.tags)],
            self.size,
            self.dropout,
            self.independent,
        )

    @classmethod
    def from_spec(cls, spec, model):
        """A network of this spec, with new parameters."""
        numbers, *rest = spec
        *vocabularies, tags = map(dy.Vocabulary.from_spec, numbers)
        return cls(model, vocabularies, tags, *rest)

    def param_collection(self):
        """Its parameters."""
        return self.model

    def emissions(self, words, train=False):
        """A vector for each word: the score of each tag."""
        keep = self.dropout if train else 0
        rows = [
            [
                table[v[feature(word)]]
                for table, v, feature in zip(
                    self.tables, self.vocabularies, FEATURES.values(), strict=True
                )
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
                    dy.pickneglogsoftmax(score, self.tags[tag])
                    for score, tag in zip(scores, tags, strict=True)
                ]
            else:
                losses.append(self.crf.neg_log_likelihood(scores, tags))
        return dy.esum(losses) / len(batch)

    def predict(self, words):
        """The tag of each word."""
        dy.renew_cg()
        scores = self.emissions(words)
        if not self.independent:
            return self.crf.decode(scores)
        guesses = dy.concatenate_cols(scores).npvalue().reshape(len(self.tags), -1).argmax(axis=0)
        return [self.tags.name(k) for k in guesses]


def evaluate(tagger, sentences):
    """(precision, recall, F1) of whole entities; the ranks divide the sentences, and each gets the
    whole answer."""
    guessed = parallel.evaluate(lambda sentence: tagger.predict(sentence[0]), sentences)
    return training.entity_scores([tags for _, tags in sentences], guessed)


def predict(args):
    """The entities of each line, whose words spaces divide."""
    tagger = shared.load(args)
    for line in shared.lines(args.predict):
        words = line.split()
        found = sorted(training.entities(tagger.predict(words)))
        print("; ".join(f"{' '.join(words[a:b])}: {kind}" for a, b, kind in found) or "-")


def main():
    """Train, keep the epoch that is best on dev, test it."""
    parser = shared.parser(
        "BiLSTM-CRF for named entities, on Wikigold.",
        "crf_tagger",
        data="wikigold",
        epochs=15,
        batch_size=16,
    )
    parser.add_argument(
        "--independent", action="store_true", help="a softmax for each word instead of the CRF"
    )
    parser.add_argument(
        "--size",
        type=int,
        default=128,
        help="of the word vectors and of the BiLSTM; a multiple of 4",
    )
    parser.add_argument("--dropout", type=float, default=0.5)
    args = parser.parse_args()
    if args.predict:
        return predict(args)
    train, dev, test = (read(args.data / f"{part}.conll.gz") for part in ("train", "dev", "test"))
    train = train[: args.limit]
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    tagger = Tagger.of(train, model, args.size, args.dropout, args.independent)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, learning_rate=0.003))
    batches = parallel.shard(
        train, args.batch_size, seed=args.seed, epoch=1, cost=lambda s: len(s[0])
    )
    run, best = shared.begin(args, tagger, trainer, batches)
    for epoch in range(batches.epoch, args.epochs + 1):
        for batch in run.epoch(batches):
            if batch:  # a rank may be left without sentences at the end of an epoch
                loss = tagger.loss(batch)
                run.log(loss=loss.value())
                loss.backward()
            trainer.update()
        loss = run.means()["loss"]
        f1 = evaluate(tagger, dev)[2]
        best.update(f1)
        run.write(epoch=epoch, dev_f1=f1)
        shared.say(f"epoch {epoch}: loss {loss:.3f}, dev F1 {f1:.3f}")
        if best.is_over:
            break
    best.restore()
    precision, recall, f1 = evaluate(tagger, test)
    run.write(test_f1=f1)
    shared.say(f"test precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f}")


if __name__ == "__main__":
    main()
