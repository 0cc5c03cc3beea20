"""A language model over padded minibatches, with a mask and with losses that are picked by batch; the batch dimension in all its uses."""

import dynet as dy
import numpy as np

WORDS = [[3, 1, 4, 1, 5], [2, 6, 5], [3, 5], [2, 7, 1, 2]]
m = dy.ParameterCollection()
E, R, b = m.add_lookup_parameters((9, 5), init="uniform", scale=0.5), m.add_parameters((9, 6)), m.add_parameters(9, init=0)
rnn, trainer = dy.VanillaLSTMBuilder(1, 5, 6, m), dy.AdamTrainer(m, alpha=0.01)
longest = max(map(len, WORDS))
ids = np.array([w + [0] * (longest - len(w)) for w in WORDS])
mask = np.array([[1.0] * len(w) + [0.0] * (longest - len(w)) for w in WORDS])
for epoch in range(5):
    dy.renew_cg()
    state, losses = rnn.initial_state().add_input(dy.lookup_batch(E, [8] * len(WORDS))), []
    for t in range(longest):
        scores = dy.affine_transform([b, R, state.output()])
        loss = dy.pickneglogsoftmax_batch(scores, ids[:, t].tolist())
        if mask[:, t].min() < 1:
            loss = loss * dy.reshape(dy.inputVector(mask[:, t]), (1,), len(WORDS))
        losses.append(loss)
        state = state.add_input(dy.lookup_batch(E, ids[:, t].tolist()))
    each = dy.esum(losses)
    loss = dy.sum_batches(each) / mask.sum()
    print(epoch, f"{loss.value():.5f}", [f"{v:.4f}" for v in np.ravel(each.npvalue())])
    loss.backward()
    trainer.update()

dy.renew_cg()
x = dy.lookup_batch(E, [1, 2, 3])
for name, y in (
    ("mean", dy.mean_batches(x)), ("moment", dy.moment_batches(x, 2)), ("std", dy.std_batches(x)), ("element", dy.pick_batch_elem(x, 1)),
    ("elements", dy.pick_batch_elems(x, [2, 0])), ("joined", dy.concatenate_to_batch([x, E[4]])), ("picked", dy.pick_batch(x, [0, 2, 4])),
    ("sum", dy.sum_dim(x, [0], True)), ("hinge", dy.hinge_batch(R * dy.tanh(dy.concatenate([x, dy.ones(1)])), [0, 3, 8])),
):  # fmt: skip
    print(name, y.dim(), [f"{v:.4f}" for v in np.ravel(y.npvalue())])
