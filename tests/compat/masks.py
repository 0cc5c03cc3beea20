"""Dropout in recurrent networks: masks of a sequence, rates that change, batches, no dropout in tests."""

import dynet as dy
import numpy as np

m = dy.ParameterCollection()
E, V = m.add_lookup_parameters((9, 4)), m.add_parameters((9, 6))
builders = [
    dy.VanillaLSTMBuilder(2, 4, 6, m), dy.CompactVanillaLSTMBuilder(1, 4, 6, m), dy.SimpleRNNBuilder(1, 4, 6, m), dy.GRUBuilder(1, 4, 6, m),
    dy.CoupledLSTMBuilder(1, 4, 6, m),
]  # fmt: skip
SENTENCES = np.array([[1, 2, 3, 4, 0], [5, 6, 7, 0, 0], [8, 1, 0, 0, 0]])


def loss_of(rnn, batch):
    state, losses = rnn.initial_state(), []
    if batch > 1 and hasattr(rnn, "set_dropout_masks"):
        rnn.set_dropout_masks(batch_size=batch)
    for now, after in zip(SENTENCES[:batch].T, SENTENCES[:batch].T[1:]):
        state = state.add_input(dy.lookup_batch(E, now.tolist()))
        loss = dy.pickneglogsoftmax_batch(V * state.output(), after.tolist())
        losses.append(dy.cmult(loss, dy.inputTensor((now > 0).astype(float), batched=True)))
    return dy.sum_batches(dy.esum(losses)) / batch


for rnn in builders:
    trainer = dy.SimpleSGDTrainer(m, learning_rate=0.1)
    for epoch, rate in enumerate((0.0, 0.5, 0.2, 0.0)):
        rnn.set_dropout(rate) if epoch != 2 else getattr(rnn, "set_dropouts", lambda d, r: rnn.set_dropout(d))(rate, 0.4)
        if rate == 0:
            rnn.disable_dropout()
        for batch in (1, 3):
            dy.renew_cg()
            loss = loss_of(rnn, batch)
            print(type(rnn).__name__, epoch, batch, f"{loss.value():.4f}")
            loss.backward()
            trainer.update()
