"""A language model of words or of characters, that also writes text.

One script for one process and for many:

    python examples/language_model.py                     # of characters
    python examples/language_model.py --words
    mpirun -n 2 python examples/language_model.py
    echo "It was" | python examples/language_model.py --predict - --temperature 0.7

An LSTM reads a sentence and says before each step how likely every next character or word is. To
write, the next one is drawn from these probabilities and read in its turn. A temperature below 1
makes likely ones likelier: exp(score / temperature), normalised.

How long: half a minute on a busy core. What to expect: a perplexity of 5.2 to 5.4 a character on
sentences that were held out. What it leaves in runs/language_model: the model that was best on the
text for validation, and metrics.jsonl.
"""

import gzip
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with PYTHONSAFEPATH=1
import shared

import dist_dynet as dy
from dist_dynet import parallel

END = "</s>"


def read(path, words, limit=None, longest=200):
    """The sentences of a gzipped file as lists of words, or of characters; long ones are cut."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()[:limit]
    return [
        (line.split() if words else list(line.replace("<unk>", "?")))[:longest] for line in lines
    ]


class LanguageModel:
    """p(next | before), by an LSTM. A sentence begins after END and ends with it."""

    def __init__(self, model, symbols, is_of_words, size, dropout):
        self.symbols, self.is_of_words, self.size, self.dropout = (
            symbols,
            is_of_words,
            size,
            dropout,
        )
        self.model = model = model.add_subcollection("lm")
        init = dy.GlorotInitializer(is_lookup=True)
        self.table = model.add_lookup_parameters((len(symbols), size), init=init)
        self.lstm = dy.VanillaLSTMBuilder(1, size, size, model)
        self.output = dy.Linear(size, len(symbols), model)

    @property
    def spec(self):
        """Plain data that from_spec() makes the same network of: for dy.save and dy.load."""
        return self.symbols.spec, self.is_of_words, self.size, self.dropout

    @classmethod
    def from_spec(cls, spec, model):
        """A network of this spec, with new parameters."""
        symbols, *rest = spec
        return cls(model, dy.Vocabulary.from_spec(symbols), *rest)

    def param_collection(self):
        """Its parameters."""
        return self.model

    def loss(self, sentence, dropout=0.0):
        """-log p(sentence), the end included."""
        ids = self.symbols.ids([END, *sentence, END])
        outputs = self.lstm.initial_state().transduce([self.table[k] for k in ids[:-1]])
        if dropout:
            outputs = [dy.dropout(h, dropout) for h in outputs]
        return dy.esum(
            [dy.pickneglogsoftmax(self.output(h), k) for h, k in zip(outputs, ids[1:], strict=True)]
        )

    def sample(self, beginning, temperature, longest=200):
        """A continuation, drawn step by step."""
        dy.renew_cg()
        state = self.lstm.initial_state()
        for k in self.symbols.ids([END, *beginning]):
            state = state.add_input(self.table[k])
        drawn = []
        while len(drawn) < longest:
            scores = self.output(state.output()) / temperature
            k = int(dy.sample_categorical(scores).value())
            if self.symbols.name(k) == END:
                break
            drawn.append(self.symbols.name(k))
            state = state.add_input(self.table[k])
        return drawn


def predict(args):
    """Continues each line."""
    model, joint = shared.load(args), "".join
    if model.is_of_words:
        joint = " ".join
    dy.reset_random_seed(args.seed)
    for line in shared.lines(args.predict):
        beginning = line.split() if model.is_of_words else list(line)
        print(joint([*beginning, *model.sample(beginning, args.temperature)]))


def main():
    """Train, keep the epoch with the lowest loss on the text for validation, write some text."""
    parser = shared.parser(
        "A language model of words or characters on English novels, that also writes.",
        "language_model",
        data="gutenberg",
        epochs=3,
        batch_size=16,
    )
    parser.add_argument("--words", action="store_true", help="of words; else of characters")
    parser.add_argument("--size", type=int, default=128, help="of vectors and states")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--temperature", type=float, default=0.8, help="of what is written")
    args = parser.parse_args()
    if args.predict:
        return predict(args)
    # The text for test is the larger one: it serves for training, the other one is held out.
    train = read(args.data / "test.txt.gz", args.words, args.limit)
    held_out = read(args.data / "valid.txt.gz", args.words)
    dev, test = held_out[0:400:2], held_out[1:400:2]
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    symbols = dy.Vocabulary((x for s in train for x in s), min_count=2, special=[END])
    network = LanguageModel(model, symbols, args.words, args.size, args.dropout)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, learning_rate=0.003))
    batches = parallel.shard(train, args.batch_size, seed=args.seed, epoch=1, cost=len)
    run, best = shared.begin(args, network, trainer, batches, lower=True)

    def loss_of(sentence):
        dy.renew_cg()
        return network.loss(sentence).value()

    def perplexity(sentences):
        total = sum(parallel.evaluate(loss_of, sentences))
        return np.exp(total / sum(len(s) + 1 for s in sentences))

    unit = "word" if args.words else "character"
    for epoch in range(batches.epoch, args.epochs + 1):
        for batch in run.epoch(batches):
            if batch:  # a rank may be left without sentences at the end of an epoch
                dy.renew_cg(autobatching=True)
                loss = dy.average([network.loss(s, args.dropout) for s in batch])
                steps = sum(len(s) + 1 for s in batch)
                run.log(steps, loss=loss.value() * len(batch) / steps)
                loss.backward()
            trainer.update()
        loss, dev_perplexity = run.means()["loss"], perplexity(dev)
        best.update(dev_perplexity)
        run.write(epoch=epoch, dev_perplexity=dev_perplexity)
        shared.say(
            f"epoch {epoch}: loss of a {unit} {loss:.3f}, dev perplexity {dev_perplexity:.2f}"
        )
        if best.is_over:
            break
    best.restore()
    test_perplexity = perplexity(test)
    run.write(test_perplexity=test_perplexity)
    shared.say(f"test perplexity {test_perplexity:.2f}")
    if parallel.is_main():
        print((" " if args.words else "").join(network.sample([], args.temperature)))


if __name__ == "__main__":
    main()
