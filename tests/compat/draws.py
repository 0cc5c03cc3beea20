"""Every way of drawing: initial values, random nodes, dropout of every kind and of every builder, sampling; in sequence, from one generator."""

import tempfile
from pathlib import Path

import dynet as dy
import numpy as np


def show(what, x):
    print(what, *np.round(np.asarray(x, dtype=float).ravel(), 5).tolist())


pc = dy.ParameterCollection()
dy.renew_cg()
show("glorot", pc.add_parameters((2, 3)).as_array())
show("saxe", pc.add_parameters((3, 3), init=dy.SaxeInitializer()).as_array())
x = dy.dropout(dy.ones(6), 0.5)
late = pc.add_parameters(3, init="normal")
show("drawn when computed", x.value())
show("normal", late.as_array())
for name, make in [
    ("random_normal", lambda: dy.random_normal((2, 2), 1.0, 0.5, batch_size=2)), ("random_uniform", lambda: dy.random_uniform(3, -1, 2)),
    ("random_bernoulli", lambda: dy.random_bernoulli((6,), 0.3, 2.0)), ("random_gumbel", lambda: dy.random_gumbel((3,))),
    ("dropout", lambda: dy.dropout(dy.ones(5, batch_size=2), 0.3)), ("dropout_dim", lambda: dy.dropout_dim(dy.ones((3, 4)), 1, 0.4)),
    ("dropout_batch", lambda: dy.dropout_batch(dy.ones(2, batch_size=5), 0.4)), ("block_dropout", lambda: dy.block_dropout(dy.ones(3), 0.5)),
    ("noise", lambda: dy.noise(dy.zeros(5), 0.1)),
]:
    e = make()
    show(name, e.npvalue())
    show(name + " once more", e.npvalue(recalculate=True))
for builder in (dy.VanillaLSTMBuilder, dy.SimpleRNNBuilder, dy.GRUBuilder, dy.CoupledLSTMBuilder, dy.CompactVanillaLSTMBuilder,
                dy.FastLSTMBuilder, dy.SparseLSTMBuilder):
    rnn = builder(2, 3, 4, pc)
    rnn.set_dropout(0.4)
    dy.renew_cg()
    first = rnn.initial_state().add_inputs([dy.ones(3), dy.ones(3) * 0.3])
    second = rnn.initial_state().add_input(dy.ones(3) * 2.0)
    show(builder.__name__, [s.output().value() for s in [*first, second]])
    if hasattr(rnn, "set_dropouts"):
        rnn.set_dropouts(0.0, 0.5)
        dy.renew_cg()
        show("rates of their own", [e.value() for e in rnn.initial_state().transduce([dy.ones(3), dy.ones(3) * 0.5, dy.ones(3)])])
lstm = dy.LSTMBuilder(1, 3, 4, pc)
lstm.set_dropout(0.5)
dy.renew_cg()
state = lstm.initial_state([dy.random_normal((4,), batch_size=2), dy.zeros(4)])
show("batch", state.add_input(dy.ones(3, batch_size=2)).output().npvalue())
show("the same masks", lstm.initial_state().add_input(dy.ones(3, batch_size=2)).output().npvalue())
birnn = dy.BiRNNBuilder(2, 3, 8, pc, dy.LSTMBuilder)
birnn.set_dropout(0.3)
show("both ways", [e.value() for e in birnn.transduce([dy.ones(3), dy.zeros(3)])])
dy.renew_cg()
logs = dy.inputTensor(np.log(np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]]).T))
show("categorical", [logs.tensor_value().categorical_sample_log_prob(dim).as_numpy().ravel().sum() for dim in (0, 1, 0, 1)])
softmax = dy.StandardSoftmaxBuilder(3, 5, pc)
show("softmax", [softmax.sample(dy.ones(3)) for _ in range(12)])
with tempfile.TemporaryDirectory() as folder:
    clusters = Path(folder) / "clusters"
    clusters.write_text("A a\nA b\nB c\nB d\nC e\n")
    factored = dy.ClassFactoredSoftmaxBuilder(3, str(clusters), dict(zip("abcde", range(5))), pc)
dy.renew_cg()
show("factored", [factored.sample(dy.ones(3)) for _ in range(12)])
frozen, free = pc.add_parameters(2, init=1.0), pc.add_parameters(2, init=1.0)
frozen.set_updated(False)
trainer = dy.SimpleSGDTrainer(pc, learning_rate=1.0)
trainer.set_clip_threshold(1.0)
loss = dy.squared_norm(frozen + free * 2.0)
for _ in range(3):
    loss.value()
    loss.backward()
    trainer.update()
show("frozen parameters in the norm, values kept over updates", [free.as_array(), frozen.as_array(), frozen.grad_as_array()])
show("at the end", dy.random_uniform(4, 0, 1).value())
dy.reset_random_seed(9)
show("seeded anew", dy.random_uniform(4, 0, 1).value())
