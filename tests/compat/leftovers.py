"""What is looked up and then not used: the word read last, dropped candidates, rows of frozen tables. Rules with moments move such rows."""

import dynet as dy
import numpy as np


def R(x):
    return np.round(np.asarray(x, dtype=float).ravel(), 4).tolist()


TRAINERS = (
    dy.SimpleSGDTrainer,
    dy.MomentumSGDTrainer,
    dy.AdagradTrainer,
    dy.AdadeltaTrainer,
    dy.RMSPropTrainer,
    dy.AdamTrainer,
    dy.AmsgradTrainer,
)
for make in TRAINERS:
    pc = dy.ParameterCollection()
    words = pc.add_lookup_parameters((12, 4))
    tags = pc.add_lookup_parameters((5, 4))
    frozen = pc.add_lookup_parameters((5, 4))
    frozen.set_updated(False)
    rnn = dy.LSTMBuilder(1, 4, 6, pc)
    W, b = pc.add_parameters((12, 6)), pc.add_parameters(12)
    trainer = make(pc)
    for step in range(6):
        dy.renew_cg()
        ids = [(step + 5 * k) % 12 for k in range(4)]
        state = rnn.initial_state().add_input(words[0])
        losses = []
        for i in ids:
            losses.append(dy.pickneglogsoftmax(W * state.output() + b, i))
            state = state.add_input(words[i] + frozen[step % 5] + dy.lookup(tags, i % 5, update=False))
        dropped = dy.lookup_batch(tags, [step % 5, (step + 2) % 5]) + frozen[(step + 1) % 5]
        loss = dy.esum(losses)
        if step % 2:
            loss = loss + dy.squared_norm(tags[step % 3])
        later = words[(step + 1) % 12] + tags[4]
        print(make.__name__, round(loss.value(), 4), dropped.dim(), R((later.value()[0])))
        loss.backward()
        trainer.update()
    print(R(words.as_array()), R(tags.as_array()))
