"""A program whose types mypy --strict and pyright check; it is never run. See tests/test_types.py.

A line that ends with `# error` must be refused, all others accepted.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

import dist_dynet as dy
from dist_dynet import parallel

if sys.version_info >= (3, 11):
    from typing import assert_type
else:
    from typing_extensions import assert_type

m = dy.ParameterCollection()
W = m.add_parameters((2, 3), name="W")
E = m.add_lookup_parameters((100, 3), init=dy.GlorotInitializer(is_lookup=True))
assert_type(W, dy.Parameters)
assert_type(E, dy.LookupParameters)
assert_type(m.eval(), dy.ParameterCollection)
assert_type(m.training, bool)

# expressions
dy.renew_cg(autobatching=True)
x = dy.inputVector([1, 2, 3])
y = dy.tanh(W * x + 1)
assert_type(y, dy.Expression)
assert_type(2 * x - 1, dy.Expression)
assert_type(x[1:3], dy.Expression)
assert_type(np.ones((2, 3)) @ x, dy.Expression)
assert_type(W @ x, dy.Expression)
assert_type(dy.concatenate([E[1], x]), dy.Expression)
assert_type([each for each in x], list[dy.Expression])
x.set([3, 2, 1])
E[1].set(2)
E.batch([1, 2]).set([3, 4])
dy.tanhh(x)  # error
x.reshape((3, 1))  # error
dy.tanh()  # error
dy.softmax(x, dim=0)  # error

# values
loss = dy.pickneglogsoftmax(y, 1)
total, n = 0.0, 3
total += loss.value() / n
mean: float = loss.value() / n
first: float = y.value()[0]
print(f"{loss.value():.3f}", min(total, loss.value()), float(loss))
assert_type(loss.value(), Any)
assert_type(loss.scalar_value(), float)
assert_type(y.vec_value(), list[float])
assert_type(y.npvalue(), NDArray[np.float64])
assert_type(y.dim(), tuple[tuple[int, ...], int])
assert_type(dy.npvalues([x, y]), list[NDArray[np.float64]])
probabilities: NDArray[Any] = np.asarray(dy.softmax(y))
loss.backward()
loss.backwards()  # error

# networks
lstm = dy.LSTMBuilder(1, 3, 4, m)
lstm.set_dropout(0.5)
assert_type(lstm.train(), dy.VanillaLSTMBuilder)
state = lstm.initial_state().add_input(x)
assert_type(state, dy.RNNState)
assert_type(state.transduce([x]), list[dy.Expression])
birnn = dy.BiRNNBuilder(1, 3, 4, m, dy.GRUBuilder)
assert_type(birnn.transduce([x, x]), list[dy.Expression])
assert_type(dy.MLP([3, 4], m, dropout=0.1)(x), dy.Expression)
assert_type(dy.Linear(3, 4, m).eval(), dy.Linear)
dy.Linear(3, 4)  # error
lstm.set_dropuot(0.5)  # error


@dy.traced
def cell(a: dy.Expression, b: dy.Expression) -> dy.Expression:
    return dy.tanh(a + b)


assert_type(cell(x, x), dy.Expression)

# training
trainer = dy.AdamTrainer(m, learning_rate=0.01)
trainer.learning_rate *= 0.5
trainer.update()
dy.AdamTrainer(m, lr=0.01)  # error
schedule = dy.schedules.Cosine(trainer, steps=100, warmup=10)
schedule.step()
dy.schedules.Cosine(m, steps=100)  # error
ranks = parallel.DistributedTrainer(trainer)
for batch in parallel.shard([(1, 2), (3, 4)], batch_size=2, seed=3):
    for example in batch:
        assert_type(example, tuple[int, int])
    ranks.update()
assert_type(parallel.rank(), int)
assert_type(parallel.gather(3), list[int])
total = parallel.all_reduce(total)
parallel.all_reduce(total, "average")  # error
dy.schedules.Linear(ranks, steps=100)
local = parallel.LocalSGD(trainer)


def train(any_trainer: dy.TrainerLike, rate: float) -> bool:
    any_trainer.learning_rate = rate
    any_trainer.set_accumulation(2)  # error
    assert_type(any_trainer.collection, dy.ParameterCollection)
    assert_type(any_trainer.stats().updates, int)
    return bool(any_trainer.update())


for each in (trainer, ranks, local):
    train(each, 0.1)
    dy.MovingAverage(each)
    dy.schedules.Constant(each)
    dy.training.Run(each)
train(ranks.inner, 0.1)
train(m, 0.1)  # error
train(dy.MovingAverage(m), 0.1)  # error
assert_type(dy.training.Best(m, "best"), dy.training.Best)
dy.compat.install()
dy.save("model", [lstm])
assert_type(dy.load("model", m), list[Any])
dy.cg().dump("graph.txt")
print(m.summary(), trainer, dy.autobatch_stats().batches)
