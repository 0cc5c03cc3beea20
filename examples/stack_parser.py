"""Dependency parser: a transition system whose stack is read by a StackLSTM (dy.StackLSTM).

Trains on the English Web Treebank (Universal Dependencies) and prints the share of words that get
the right head. The network's shape follows each sentence: every action is a decision, and a subtree
becomes one vector when it is finished.

    python examples/stack_parser.py
    mpirun -n 2 python examples/stack_parser.py
    echo "She/PRON sleeps/VERB" | python examples/stack_parser.py --predict -

How long: four epochs take 40 s on one core. What to expect: 0.862 to 0.869 of the heads right on
the test set. What it leaves in runs/stack_parser: the model that was best on dev, and
metrics.jsonl.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also with PYTHONSAFEPATH=1
import shared

import dist_dynet as dy
from dist_dynet import parallel

SHIFT, LEFT, RIGHT = range(3)


def read(path, limit):
    """[(words, part-of-speech tags, heads)] of the first sentences of a gzipped CoNLL-U file; a
    head of 0 is the root."""
    return [
        (
            [token["form"].lower() for token in tokens],
            [token["upos"] for token in tokens],
            [token["head"] for token in tokens],
        )
        for tokens in shared.read_treebank(path, limit)
    ]


def oracle(stack, front, heads):
    """The right action of the arc-hybrid system (Kuhlmann, Gomez-Rodriguez and Satta 2011); None:
    the tree has crossing arcs.

    stack: word numbers, the top last, 0 being the root; front: the first word of the buffer;
    heads[w - 1]: the head of w.
    """
    top, n = stack[-1], len(heads)
    if top and front <= n and heads[top - 1] == front:
        return LEFT
    if top and heads[top - 1] == stack[-2] and top not in heads[front - 1 :]:
        return RIGHT
    return SHIFT if front <= n else None


class Parser:
    """The network: a BiLSTM over words, a StackLSTM over unfinished subtrees, and a layer that
    chooses actions."""

    def __init__(self, model, words, tags, size):
        self.words, self.tags, self.size = words, tags, size
        self.model = model = model.add_subcollection("parser")
        init = dy.GlorotInitializer(is_lookup=True)
        self.word_table = model.add_lookup_parameters((len(words), size // 2), init=init)
        self.tag_table = model.add_lookup_parameters((len(tags), size // 2), init=init)
        self.reader = dy.BiRNNBuilder(1, size, size, model, dy.VanillaLSTMBuilder)
        self.stacks = dy.StackLSTM(1, size, size, model)
        self.compose = dy.Linear(2 * size, size, model)
        self.choose = dy.MLP([2 * size, size, 3], model)
        self.root, self.end = model.add_parameters(size), model.add_parameters(size)

    @classmethod
    def of(cls, sentences, model, size):
        """A network for the words and tags of these sentences."""
        words = dy.Vocabulary((word for words, _, _ in sentences for word in words), min_count=2)
        return cls(model, words, dy.Vocabulary(t for _, tags, _ in sentences for t in tags), size)

    @property
    def spec(self):
        """Plain data that from_spec() makes the same network of: for dy.save and dy.load."""
        return self.words.spec, self.tags.spec, self.size

    @classmethod
    def from_spec(cls, spec, model):
        """A network of this spec, with new parameters."""
        words, tags, size = spec
        numbers = map(dy.Vocabulary.from_spec, (words, tags))
        return cls(model, *numbers, size)

    def param_collection(self):
        """Its parameters."""
        return self.model

    def run(self, sentence, train=False):
        """The losses of the right actions, or None where no actions give this tree; without `train`
        the heads that it finds."""
        words, tags, gold = sentence
        inputs = zip(self.words.ids(words), self.tags.ids(tags), strict=True)
        vectors = self.reader.transduce(
            [dy.concatenate([self.word_table[w], self.tag_table[t]]) for w, t in inputs]
        )
        vectors = [self.root, *vectors, self.end]
        stack, items, front, n = self.stacks.empty().push(self.root), [0], 1, len(words)
        losses, heads = [], [0] * n
        while front <= n or len(items) > 1:
            scores = self.choose(dy.concatenate([stack.summary(), vectors[front]]))
            if train:
                action = oracle(items, front, gold)
                if action is None:
                    return None
                losses.append(dy.pickneglogsoftmax(scores, action))
            else:
                possible = [front <= n, front <= n and len(items) > 1, len(items) > 1]
                action = int(np.where(possible, scores.npvalue(), -np.inf).argmax())
            if action == SHIFT:
                stack = stack.push(vectors[front])
                items.append(front)
                front += 1
                continue
            child, below = stack.top(), stack.pop()
            number = items.pop()
            heads[number - 1] = head = front if action == LEFT else items[-1]
            if action == LEFT:
                vectors[head] = self.subtree(vectors[head], child)
                stack = below
            else:
                stack = below.pop().push(self.subtree(below.top(), child))
        return losses if train else heads

    def subtree(self, head, child):
        """The vector of a head with one more child."""
        return dy.tanh(self.compose(dy.concatenate([head, child])))

    def count(self, sentence):
        """How many words get their head, and how many there are."""
        dy.renew_cg()
        return sum(h == g for h, g in zip(self.run(sentence), sentence[2], strict=True)), len(
            sentence[2]
        )


def evaluate(parser, sentences):
    """The share of words with the right head; the ranks divide the sentences, and each gets the
    whole answer."""
    right, words = np.sum(parallel.evaluate(parser.count, sentences), axis=0)
    return right / words


def tagged(line):
    """(words, tags) of words such as She/PRON."""
    words, _, tags = zip(*(word.rpartition("/") for word in line.split()), strict=True)
    if not all(words):
        raise ValueError("a word without a tag")
    return words, tags


def predict(args):
    """The head of each word of a line: words with their part-of-speech tags, as in She/PRON."""
    parser = shared.load(args)
    for words, tags in shared.lines(args.predict, tagged, "words with tags: She/PRON sleeps/VERB"):
        dy.renew_cg()
        heads = parser.run(([word.lower() for word in words], tags, None))
        names = ["ROOT", *words]
        print(*(f"{w}<-{names[head]}" for w, head in zip(words, heads, strict=True)))


def main():
    """Train, keep the epoch that is best on dev, test it."""
    cli = shared.parser(
        "StackLSTM dependency parser for the English Web Treebank.",
        "stack_parser",
        data="ud-ewt",
        epochs=4,
        batch_size=16,
    )
    cli.add_argument("--size", type=int, default=64, help="of all vectors")
    args = cli.parse_args()
    if args.predict:
        return predict(args)
    train, dev, test = (
        read(args.data / f"en_ewt-ud-{part}.conllu.gz", args.limit)
        for part in ("train", "dev", "test")
    )
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    parser = Parser.of(train, model, args.size)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, learning_rate=0.003))
    batches = parallel.shard(
        train, args.batch_size, seed=args.seed, epoch=1, cost=lambda s: len(s[0])
    )
    run, best = shared.begin(args, parser, trainer, batches)
    for epoch in range(batches.epoch, args.epochs + 1):
        for batch in run.epoch(batches):
            dy.renew_cg(autobatching=True)
            losses = [loss for sentence in batch for loss in parser.run(sentence, train=True) or ()]
            if losses:  # a rank may be left without sentences, or with crossing arcs alone
                loss = dy.esum(losses)
                run.log(len(losses), loss=loss.value() / len(losses))
                (loss / len(batch)).backward()
            trainer.update()
        loss = run.means()["loss"]
        accuracy = evaluate(parser, dev)
        best.update(accuracy)
        run.write(epoch=epoch, dev_accuracy=accuracy)
        shared.say(
            f"epoch {epoch}: loss of an action {loss:.4f}, heads right on dev {accuracy:.4f}"
        )
        if best.is_over:
            break
    best.restore()
    accuracy = evaluate(parser, test)
    run.write(test_accuracy=accuracy)
    shared.say(f"heads right on test {accuracy:.4f}")


if __name__ == "__main__":
    main()
