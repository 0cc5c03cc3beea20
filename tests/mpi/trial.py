"""A program for `dist-dynet check`: right, or with the mistake that its argument names."""

import sys

import dist_dynet as dy

mistake = sys.argv[1] if len(sys.argv) > 1 else ""
several = dy.parallel.world_size() > 1
words = [f"word {i}" for i in range(40)]
numbers = {w: i for i, w in enumerate(set(words) if mistake == "set" else words)}
data = [(numbers[words[i % 40]], i * 7 % 8) for i in range(61)]
if mistake == "order" and several:
    data = data[::-1]
m = dy.ParameterCollection()
W, b = m.add_parameters((8, 8)), m.add_parameters(8)
table = m.add_lookup_parameters((40, 8))
trainer = dy.AdamTrainer(m)
if mistake != "not distributed":
    trainer = dy.parallel.DistributedTrainer(trainer)
    checkpointer = dy.parallel.Checkpointer("run", m, trainer, every=1)
    checkpointer.resume()


def loss_of(word, tag):
    x = table[word]
    if mistake == "dropout":
        x = dy.dropout(x, 0.5)
    return dy.pickneglogsoftmax(W * x + b, tag)


def train(batches):
    for batch in batches:
        dy.renew_cg()
        if mistake == "exception" and several:
            raise ValueError("only with several ranks")
        if batch:
            losses = [loss_of(*example) for example in batch]
            (dy.esum if mistake == "sum" else dy.average)(losses).backward()
        if not mistake and batch.step % 2 == 0:
            trainer.update_subset([W], [])
            m.reset_gradients()
        else:
            trainer.update()


rank, size = dy.parallel.rank(), dy.parallel.world_size()
try:
    for _ in range(1000):
        if mistake == "no shard":
            train([data[i : i + 5] for i in range(rank * 5, 60, 5 * size)])
        else:
            train(dy.parallel.shard(data, batch_size=10))
finally:
    print("left with", sys.exc_info()[0], flush=True)
