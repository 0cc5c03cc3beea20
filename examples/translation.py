"""Translation with attention: English sentences become German ones.

One script for one process and for many:

    python examples/translation.py
    mpirun -n 2 python examples/translation.py
    echo "today the old dog follows this cat ." | python examples/translation.py --predict -
    ... --predict - --attention attention.png    # a picture of where the decoder has looked

A BiLSTM reads the sentence. An LSTM writes the translation: at each step it compares its state with
every word that was read (Bahdanau, Cho and Bengio 2015), takes their mean, weighted by how well
they fit, and is told at the next step what it took (Luong, Pham and Manning 2015). In training it
is also told the right words; in the search a beam keeps the likeliest beginnings.

The sentences come from a small grammar, data/en-de/make.py. They are nonsense, but right German:
genders, cases, the dative after some verbs, verbs in two parts, and another order of words.

How long: 8 epochs take 40 s on one core. What to expect: 0.98 of the test sentences are right, word
for word. What it leaves in runs/translation: the model that was best on dev, and metrics.jsonl.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with PYTHONSAFEPATH=1
import shared

import dist_dynet as dy
from dist_dynet import parallel

END = "</s>"  # of a sentence, and what the decoder is told before its first word


def read(path):
    """[(English words, German words)] of a gzipped file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [tuple(side.split() for side in line.split("\t")) for line in file]


class Translator:
    """A BiLSTM over the source, a decoder with attention."""

    def __init__(self, model, source, target, size, dropout):
        self.source, self.target, self.size, self.dropout = source, target, size, dropout
        self.model = model = model.add_subcollection("translator")
        init = dy.GlorotInitializer(is_lookup=True)
        self.source_table = model.add_lookup_parameters((len(source), size), init=init)
        self.target_table = model.add_lookup_parameters((len(target), size), init=init)
        self.encoder = dy.BiRNNBuilder(1, size, size, model, dy.VanillaLSTMBuilder)
        self.decoder = dy.VanillaLSTMBuilder(1, 2 * size, size, model)
        self.attention = dy.AdditiveAttention(size, size, size, model)
        self.combined = dy.Linear(2 * size, size, model)
        self.output = dy.Linear(size, len(target), model)

    @property
    def spec(self):
        """Plain data that from_spec() makes the same network of: for dy.save and dy.load."""
        return self.source.spec, self.target.spec, self.size, self.dropout

    @classmethod
    def from_spec(cls, spec, model):
        """A network of this spec, with new parameters."""
        source, target, *rest = spec
        words = dy.Vocabulary.from_spec
        return cls(model, words(source), words(target), *rest)

    def param_collection(self):
        """Its parameters."""
        return self.model

    def embed(self, table, k):
        """A row of a table, with dropout in training."""
        vector = table[k]
        return dy.dropout(vector, self.dropout) if self.dropout and self.model.training else vector

    def read(self, words):
        """What the decoder looks at: a column for each word, and the same projected."""
        vectors = [self.embed(self.source_table, k) for k in self.source.ids(words)]
        columns = dy.concatenate_cols(self.encoder.transduce(vectors))
        return columns, self.attention.project(columns)

    def begin(self):
        """The decoder's state, and what it has seen, before the first word."""
        return self.decoder.initial_state(), dy.zeros(self.size)

    def step(self, read, before, word):
        """(state and what it has seen after one more word, attention to each source word)."""
        (columns, projected), (state, seen) = read, before
        state = state.add_input(dy.concatenate([self.embed(self.target_table, word), seen]))
        weights = self.attention.weights(state.output(), columns, projected=projected)
        both = dy.concatenate([state.output(), columns * weights])
        return (state, dy.tanh(self.combined(both))), weights

    def loss(self, pair):
        """-log p(target | source)."""
        source, target = pair
        read, state = self.read(source), self.begin()
        words = self.target.ids((*target, END))
        losses = []
        for before, word in zip([self.target[END], *words], words, strict=False):
            state, _ = self.step(read, state, before)
            losses.append(dy.pickneglogsoftmax(self.output(state[1]), word))
        return dy.esum(losses)

    def translate(self, source, width):
        """The likeliest translation that a beam of this width finds."""
        dy.renew_cg()
        read = self.read(source)

        def advance(states, words):
            after = [self.step(read, *both)[0] for both in zip(states, words, strict=True)]
            return after, [dy.log_softmax(self.output(seen)) for _, seen in after]

        end = self.target[END]
        found = shared.beam_search(self.begin(), advance, end, width, 2 * len(source) + 10)
        return [self.target.name(k) for k in found]

    def attention_to(self, source, target):
        """What share of its attention each target word, the end included, has given to each source
        word: an array (target, source)."""
        dy.renew_cg()
        read, state, rows = self.read(source), self.begin(), []
        for word in self.target.ids((END, *target)):
            state, weights = self.step(read, state, word)
            rows.append(weights)
        return np.array(dy.npvalues(rows))


def draw(weights, source, target, file):
    """A picture of attention: a row for each word that was written."""
    import matplotlib.pyplot as plt

    rows, columns = weights.shape
    figure, axes = plt.subplots(figsize=(0.4 * columns + 2, 0.3 * rows + 1.5))
    axes.pcolormesh(weights, cmap="Blues", vmin=0, vmax=1, edgecolors="white")
    axes.set_xticks(np.arange(columns) + 0.5, source, rotation=60, ha="left")
    axes.set_yticks(np.arange(rows) + 0.5, target)
    axes.tick_params(length=0, labeltop=True, labelbottom=False)
    axes.invert_yaxis()
    figure.savefig(file, bbox_inches="tight")
    plt.close(figure)


def predict(args):
    """The translation of each line; --attention draws that of the first."""
    translator = shared.load(args)
    translator.model.eval()
    for number, line in enumerate(shared.lines(args.predict)):
        source = line.split()
        target = translator.translate(source, args.beam)
        print(" ".join(target))
        if args.attention and number == 0:
            weights = translator.attention_to(source, target)
            draw(weights, source, [*target, END], args.attention)


def main():
    """Train, keep the epoch that is best on dev, test it."""
    parser = shared.parser(
        "Translates English sentences of a small grammar into German: attention, beam search.",
        "translation",
        data="en-de",
        epochs=8,
        batch_size=16,
    )
    parser.add_argument("--size", type=int, default=128, help="of vectors and states; even")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--attention", metavar="FILE", help="with --predict: a picture")
    args = parser.parse_args()
    if args.predict:
        return predict(args)
    train, dev, test = (read(args.data / f"{part}.txt.gz") for part in ("train", "dev", "test"))
    train = train[: args.limit]
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    source, target = (
        dy.Vocabulary((word for pair in train for word in pair[side]), special=[END])
        for side in (0, 1)
    )
    translator = Translator(model, source, target, args.size, args.dropout)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, learning_rate=0.003))
    batches = parallel.shard(
        train, args.batch_size, seed=args.seed, epoch=1, cost=lambda pair: len(pair[1])
    )
    schedule = dy.schedules.Linear(trainer, steps=args.epochs * len(batches))
    run, best = shared.begin(args, translator, trainer, batches)

    def share(pairs, width):
        """Of the pairs whose translation is right, every word of it."""
        model.eval()
        right = parallel.evaluate(
            lambda pair: translator.translate(pair[0], width) == pair[1], pairs
        )
        model.train()
        return np.mean(right)

    for epoch in range(batches.epoch, args.epochs + 1):
        for batch in run.epoch(batches):
            if batch:  # a rank may be left without sentences at the end of an epoch
                dy.renew_cg(autobatching=True)
                loss = dy.average([translator.loss(pair) for pair in batch])
                run.log(loss=loss.value())
                loss.backward()
            trainer.update()
            schedule.step()
        loss, right = run.means()["loss"], share(dev, 1)
        best.update(right)
        run.write(epoch=epoch, dev_right=right)
        shared.say(f"epoch {epoch}: loss of a sentence {loss:.3f}, {right:.3f} of dev right")
        if best.is_over:
            break
    best.restore()
    right = share(test, args.beam)
    run.write(test_right=right)
    shared.say(f"test, with a beam of {args.beam}: {right:.3f} right")


if __name__ == "__main__":
    main()
