"""Dependency parser: a transition system whose stack is read by a StackLSTM (dy.StackLSTM).

Trains on the English Web Treebank (Universal Dependencies) and prints the share of words that get
the right head. The network's shape follows each sentence: every action is a decision, and a subtree
becomes one vector when it is finished.

    python examples/stack_parser.py
    mpirun -n 2 python examples/stack_parser.py

How long: four epochs take 40 s on one core. What to expect: 0.868 of the heads right on the test
set (with --limit 4000, which takes 15 s, 0.818). What it leaves: the model that was best on dev, in
--output.
"""

import argparse
import gzip
from collections import Counter
from pathlib import Path

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

SHIFT, LEFT, RIGHT = range(3)
UNKNOWN = 0


def read(path, limit):
    """[(words, part-of-speech tags, heads)] of the first sentences of a gzipped CoNLL-U file; a
    head of 0 is the root."""
    sentences = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for block in file.read().strip().split("\n\n")[:limit]:
            rows = [line.split("\t") for line in block.splitlines() if not line.startswith("#")]
            # neither multiword tokens (2-3) nor empty nodes (8.1)
            rows = [row for row in rows if row[0].isdigit()]
            sentences.append(
                (
                    [row[1].lower() for row in rows],
                    [row[3] for row in rows],
                    [int(row[6]) for row in rows],
                )
            )
    return sentences


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

    def __init__(self, model, sentences, size):
        words = Counter(word for words, _, _ in sentences for word in words)
        tags = sorted({tag for _, tags, _ in sentences for tag in tags})
        self.words = {word: k for k, word in enumerate((w for w in words if words[w] > 1), 1)}
        self.tags = {tag: k for k, tag in enumerate(tags, 1)}
        init = dy.GlorotInitializer(is_lookup=True)
        self.word_table = model.add_lookup_parameters((len(self.words) + 1, size // 2), init=init)
        self.tag_table = model.add_lookup_parameters((len(tags) + 1, size // 2), init=init)
        self.reader = dy.BiRNNBuilder(1, size, size, model, dy.VanillaLSTMBuilder)
        self.stacks = dy.StackLSTM(1, size, size, model)
        self.compose = dy.Linear(2 * size, size, model)
        self.choose = dy.MLP([2 * size, size, 3], model)
        self.root, self.end = model.add_parameters(size), model.add_parameters(size)

    def run(self, sentence, train=False):
        """The losses of the right actions, or None where no actions give this tree; without `train`
        the heads that it finds."""
        words, tags, gold = sentence
        inputs = zip(
            (self.words.get(w, UNKNOWN) for w in words),
            (self.tags.get(t, UNKNOWN) for t in tags),
            strict=True,
        )
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


def main():
    """Train, keep the epoch that is best on dev, test it."""
    cli = argparse.ArgumentParser(
        description="StackLSTM dependency parser for the English Web Treebank."
    )
    cli.add_argument(
        "--data", type=Path, default=Path(__file__).parent / "data" / "ud-ewt", help="folder"
    )
    cli.add_argument(
        "--output",
        type=Path,
        default=Path("runs/stack_parser.model"),
        help="file for the best model",
    )
    cli.add_argument("--limit", type=int, help="read only so many sentences of each file")
    cli.add_argument("--epochs", type=int, default=4)
    cli.add_argument(
        "--batch-size", type=int, default=16, help="sentences of one update, over all ranks"
    )
    cli.add_argument("--size", type=int, default=64, help="of all vectors")
    cli.add_argument("--seed", type=int, default=1)
    args = cli.parse_args()
    train, dev, test = (
        read(args.data / f"en_ewt-ud-{part}.conllu.gz", args.limit)
        for part in ("train", "dev", "test")
    )
    dy.reset_random_seed(args.seed)
    model = dy.ParameterCollection()
    parser = Parser(model, train, args.size)
    trainer = parallel.DistributedTrainer(dy.AdamTrainer(model, 0.003))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    best = -1.0
    for epoch in range(1, args.epochs + 1):
        total = np.zeros(2)
        for batch in parallel.shard(
            train, batch_size=args.batch_size, seed=args.seed, epoch=epoch, cost=lambda s: len(s[0])
        ):
            dy.renew_cg(autobatching=True)
            losses = [loss for sentence in batch for loss in parser.run(sentence, train=True) or ()]
            if losses:  # a rank may be left without sentences, or with crossing arcs alone
                loss = dy.esum(losses) / len(batch)
                total += loss.value() * len(batch), len(losses)
                loss.backward()
            trainer.update()
        loss_sum, actions = parallel.all_reduce(total, "sum")
        accuracy = evaluate(parser, dev)
        if accuracy > best:  # the same on every rank
            best = accuracy
            model.save(args.output)
        if parallel.is_main():
            print(
                f"epoch {epoch}: loss of an action {loss_sum / actions:.4f}, heads right on dev"
                f" {accuracy:.4f}",
                flush=True,
            )
    model.populate(args.output)
    accuracy = evaluate(parser, test)
    if parallel.is_main():
        print(f"heads right on test {accuracy:.4f}")


if __name__ == "__main__":
    main()
