"""A variational auto-encoder of texts: each becomes a few numbers, from which words are guessed.

One script for one process and for many:

    python examples/vae.py
    mpirun -n 2 python examples/vae.py
    echo "a charming comedy with a great cast" | python examples/vae.py --predict -

The neural variational document model of Miao, Yu and Blunsom (2016): an encoder reads the set of a
text's words and gives mean and spread of the latent numbers z; they are drawn, and a layer gives
the probability of every word. The loss is an upper bound of -log p(text): -log p(words | z) plus
the divergence of z's distribution from a standard normal one.

How long: half a minute on a busy core. What to expect: a perplexity of a word of about 360 on test;
the frequencies of words alone give 373. What it leaves in runs/vae: the model that was best on dev,
and metrics.jsonl.
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


def read(path):
    """The words of each text of a gzipped file of labelled trees."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [re.findall(r" ([^\s()]+)\)", line) for line in file]


class AutoEncoder:
    """Encoder, latent numbers, decoder."""

    def __init__(self, model, words, size, latent):
        self.words, self.sizes = words, (size, latent)
        self.model = model = model.add_subcollection("vae")
        init = dy.GlorotInitializer(is_lookup=True)
        self.table = model.add_lookup_parameters((len(words), size), init=init)
        self.hidden = dy.Linear(size, size, model)
        self.mean, self.log_variance = (
            dy.Linear(size, latent, model),
            dy.Linear(size, latent, model),
        )
        self.weight = model.add_parameters((len(words), latent))
        counts = np.array([words.counts[name] for name in words]) + 1.0  # z = 0: as in all texts
        self.bias = model.add_parameters(len(words), init=np.log(counts / counts.sum()))

    @property
    def spec(self):
        """Plain data that from_spec() makes the same network of: for dy.save and dy.load."""
        return self.words.spec, self.sizes

    @classmethod
    def from_spec(cls, spec, model):
        """A network of this spec, with new parameters."""
        words, sizes = spec
        return cls(model, dy.Vocabulary.from_spec(words), *sizes)

    def param_collection(self):
        """Its parameters."""
        return self.model

    def encode(self, ids):
        """Mean and logarithm of the variance of z."""
        h = dy.tanh(self.hidden(dy.esum([self.table[k] for k in ids])))
        return self.mean(h), self.log_variance(h)

    def bound(self, ids, weight=1.0):
        """-log p(words | z) + weight * KL(q(z) || N(0, 1)), for one draw of z."""
        mean, log_variance = self.encode(ids)
        noise = dy.random_normal(self.sizes[1])
        z = mean + dy.cmult(dy.exp(0.5 * log_variance), noise)
        divergence = 0.5 * dy.sum_elems(
            dy.square(mean) + dy.exp(log_variance) - log_variance - dy.ones(self.sizes[1])
        )
        log_p = dy.log_softmax(dy.affine_transform([self.bias, self.weight, z]))
        return weight * divergence - dy.esum([dy.pick(log_p, k) for k in ids])

    def likeliest(self, ids, n=8):
        """The words that the mean of z makes likelier than they are for z = 0."""
        dy.renew_cg()
        z, _ = self.encode(ids)
        scores = (self.weight * z).npvalue()
        return [self.words.name(int(k)) for k in np.argsort(-scores)[:n]]


def known(network, text):
    """The numbers of the words that the network knows."""
    return [k for k in network.words.ids(text) if k]


def predict(args):
    """For each line the words that its latent numbers stand for."""
    network = shared.load(args)
    for line in shared.lines(args.predict):
        ids = known(network, line.lower().split())
        print(*(network.likeliest(ids) if ids else ["-"]))


def main():
    """Train, keep the epoch with the lowest bound on dev, test it."""
    parser = shared.parser(
        "A variational auto-encoder of the words of film reviews.",
        "vae",
        data="polarity",
        epochs=8,
        batch_size=32,
        unit="texts",
    )
    parser.add_argument("--size", type=int, default=64, help="of word vectors and the hidden layer")
    parser.add_argument("--latent", type=int, default=16, help="how many latent numbers")
    args = parser.parse_args()
    if args.predict:
        return predict(args)
    texts = {part: read(args.data / f"{part}.txt.gz") for part in ("train", "dev", "test")}
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    words = dy.Vocabulary((w for text in texts["train"] for w in text), min_count=5)
    network = AutoEncoder(model, words, args.size, args.latent)
    train, dev, test = (
        [ids for text in part if (ids := known(network, text))] for part in texts.values()
    )
    train = train[: args.limit]
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, learning_rate=0.003))
    batches = parallel.shard(train, args.batch_size, seed=args.seed, epoch=1, cost=len)
    run, best = shared.begin(args, network, trainer, batches, lower=True)

    def bound_of(ids):
        dy.renew_cg()
        return network.bound(ids).value()

    def perplexity(data):
        return np.exp(sum(parallel.evaluate(bound_of, data)) / sum(map(len, data)))

    for epoch in range(batches.epoch, args.epochs + 1):
        weight = min(1.0, epoch / 4)  # at first words count more, or z would not be used
        for batch in run.epoch(batches):
            if batch:  # a rank may be left without texts at the end of an epoch
                dy.renew_cg(autobatching=True)
                loss = dy.average([network.bound(ids, weight) for ids in batch])
                run.log(loss=loss.value())
                loss.backward()
            trainer.update()
        loss, dev_perplexity = run.means()["loss"], perplexity(dev)
        best.update(dev_perplexity)
        run.write(epoch=epoch, dev_perplexity=dev_perplexity)
        shared.say(f"epoch {epoch}: loss of a text {loss:.2f}, dev perplexity {dev_perplexity:.1f}")
        if best.is_over:
            break
    best.restore()
    test_perplexity = perplexity(test)
    run.write(test_perplexity=test_perplexity)
    shared.say(f"test perplexity {test_perplexity:.1f}")


if __name__ == "__main__":
    main()
