"""Text classification: whether a snippet of a film review is positive or negative.

One script for one process and for many:

    python examples/text_classification.py
    mpirun -n 2 python examples/text_classification.py
    echo "a moving , funny film" | python examples/text_classification.py --predict -
    python examples/text_classification.py --vectors glove.6B.50d.txt    # with word vectors

A convolution in three widths over word vectors, as in Kim (2014): every filter looks for a pattern
of one, two or three words and keeps its largest match. A snippet is a graph of its own; those of a
batch are computed together on the fly.

How long: half a minute on a busy core. What to expect: accuracy 0.76 to 0.79 on test; naive Bayes
on words and pairs of words reaches 0.80. What it leaves in runs/text_classification: the model that
was best on dev, and metrics.jsonl.
"""

import gzip
import re
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with PYTHONSAFEPATH=1
import shared

import dist_dynet as dy
from dist_dynet import parallel

CLASSES = ("negative", "positive")
WIDTHS = (1, 2, 3)


def read(path):
    """[(words, 0 for negative or 1 for positive)] of a gzipped file of labelled trees."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [(re.findall(r" ([^\s()]+)\)", line), int(line[1] == "3")) for line in file]


class Classifier:
    """Word vectors, a matrix of filters for each width, a layer that weighs the matches."""

    def __init__(self, model, words, size, filters, dropout, vectors=None):
        self.words, self.sizes, self.dropout = words, (size, filters), dropout
        self.model = model = model.add_subcollection("classifier")
        init = vectors if vectors is not None else dy.GlorotInitializer(is_lookup=True)
        self.table = model.add_lookup_parameters((len(words), size), init=init)
        self.filters = [dy.Linear(width * size, filters, model) for width in WIDTHS]
        self.output = dy.Linear(len(WIDTHS) * filters, len(CLASSES), model)

    @property
    def spec(self):
        """Plain data that from_spec() makes the same network of: for dy.save and dy.load."""
        return self.words.spec, self.sizes, self.dropout

    @classmethod
    def from_spec(cls, spec, model):
        """A network of this spec, with new parameters."""
        words, sizes, dropout = spec
        return cls(model, dy.Vocabulary.from_spec(words), *sizes, dropout)

    def param_collection(self):
        """Its parameters."""
        return self.model

    def scores(self, words, dropout=0.0):
        """The score of each class."""
        words = [*words, *[""] * (max(WIDTHS) - len(words))]
        vectors = [self.table[k] for k in self.words.ids(words)]
        matches = []
        for width, layer in zip(WIDTHS, self.filters, strict=True):
            # a column for each place: the vectors of `width` neighbours
            columns = [
                dy.concatenate_cols(vectors[k : len(vectors) - width + k + 1]) for k in range(width)
            ]
            matches.append(dy.max_dim(dy.rectify(layer(dy.concatenate(columns))), 1))
        h = dy.concatenate(matches)
        return self.output(dy.dropout(h, dropout) if dropout else h)

    def loss(self, batch):
        """Mean over snippets of -log p(class)."""
        dy.renew_cg(autobatching=True)
        return dy.average(
            [
                dy.pickneglogsoftmax(self.scores(words, self.dropout), label)
                for words, label in batch
            ]
        )

    def probabilities(self, words):
        """Of each class."""
        dy.renew_cg()
        return dy.softmax(self.scores(words)).npvalue()

    def is_right(self, example):
        """Whether the class of a snippet is found."""
        words, label = example
        return int(self.probabilities(words).argmax() == label)


def predict(args):
    """The class of each line, and its probability."""
    classifier = shared.load(args)
    for line in shared.lines(args.predict):
        p = classifier.probabilities(line.lower().split())
        print(f"{CLASSES[p.argmax()]} {p.max():.2f}")


def main():
    """Train, keep the epoch that is best on dev, test it."""
    parser = shared.parser(
        "Is a snippet of a film review positive? Convolutions over word vectors.",
        "text_classification",
        data="polarity",
        epochs=5,
        batch_size=32,
        unit="snippets",
    )
    parser.add_argument("--size", type=int, default=64, help="of word vectors")
    parser.add_argument("--filters", type=int, default=64, help="of each width")
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--vectors", help="file of word vectors, as GloVe's; sets --size")
    args = parser.parse_args()
    if args.predict:
        return predict(args)
    train, dev, test = (read(args.data / f"{part}.txt.gz") for part in ("train", "dev", "test"))
    train = train[: args.limit]
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    words = dy.Vocabulary((word for snippet, _ in train for word in snippet), min_count=2)
    vectors = words.vectors(args.vectors) if args.vectors else None
    size = args.size if vectors is None else vectors.shape[1]
    classifier = Classifier(model, words, size, args.filters, args.dropout, vectors)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, learning_rate=0.001))
    batches = parallel.shard(
        train, args.batch_size, seed=args.seed, epoch=1, cost=lambda example: len(example[0])
    )
    run, best = shared.begin(args, classifier, trainer, batches)
    for epoch in range(batches.epoch, args.epochs + 1):
        for batch in run.epoch(batches):
            if batch:  # a rank may be left without snippets at the end of an epoch
                loss = classifier.loss(batch)
                run.log(loss=loss.value())
                loss.backward()
            trainer.update()
        loss, accuracy = run.means()["loss"], np.mean(parallel.evaluate(classifier.is_right, dev))
        best.update(accuracy)
        run.write(epoch=epoch, dev_accuracy=accuracy)
        shared.say(f"epoch {epoch}: loss {loss:.3f}, dev accuracy {accuracy:.3f}")
        if best.is_over:
            break
    best.restore()
    accuracy = np.mean(parallel.evaluate(classifier.is_right, test))
    run.write(test_accuracy=accuracy)
    shared.say(f"test accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
