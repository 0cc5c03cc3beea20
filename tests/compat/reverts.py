"""Checkpoints and reverts: what stood before a mark keeps its numbers and its draws, whatever has happened since."""

import dynet as dy
import numpy as np


def show(what, *xs):
    print(what, *(np.round(np.asarray(x, dtype=float).ravel(), 5).tolist() for x in xs))


pc = dy.ParameterCollection()
W, V, E = pc.add_parameters((4, 4)), pc.add_parameters((4, 4)), pc.add_lookup_parameters((9, 4))
lstm = dy.LSTMBuilder(1, 4, 4, pc)
lstm.set_dropout(0.3)
trainer = dy.SimpleSGDTrainer(pc, 0.5)
dy.renew_cg()
V.npvalue()
# computed by the mark, and not again after an update and two reverts
x = dy.tanh(W * E[2])
dy.cg_checkpoint()
y = dy.cmult(x, E[1])
dy.cg_checkpoint()
loss = dy.squared_norm(V * y)
show("loss", loss.value())
loss.backward()
trainer.update()
dy.cg_revert()
dy.cg_revert()
show("before the mark", x.value(), dy.tanh(W * E[2]).value())
# draws that nobody has asked for are those of the mark
dy.renew_cg()
V.npvalue()
start = lstm.initial_state().add_input(dy.noise(E[3], 0.5))
dropped = dy.dropout(x := dy.tanh(W * start.output()), 0.5)
total = dropped + x
dy.cg_checkpoint()
for word in (1, 4):
    show("step", start.add_input(E[word]).output().value(), dropped.value(), dy.random_normal((2,)).value())
    dy.cg_revert()
    dy.cg_checkpoint()
show("total", total.value(), dropped.value(), x.value())
