"""Decoding by beam and by sampling over states that are taken out, set by hand and gone back from, with checkpoints of the graph."""

import dynet as dy
import numpy as np

m = dy.ParameterCollection()
E, R, b = m.add_lookup_parameters((7, 4), init="normal"), m.add_parameters((7, 5)), m.add_parameters(7)
lstm, gru = dy.VanillaLSTMBuilder(2, 4, 5, m), dy.GRUBuilder(1, 4, 5, m)

for rnn in (lstm, gru):
    dy.renew_cg()
    start = rnn.initial_state().add_input(E[0])
    beam = [(0.0, [], start)]
    for _ in range(4):
        longer = []
        for score, words, state in beam:
            logp = dy.log_softmax(dy.affine_transform([b, R, state.output()])).npvalue()
            for w in np.argsort(-logp)[:3]:
                longer.append((score + float(logp[w]), [*words, int(w)], state))
        longer.sort(key=lambda hypothesis: -hypothesis[0])
        beam = [(score, words, state.add_input(E[words[-1]])) for score, words, state in longer[:3]]
    for score, words, state in beam:
        print(type(rnn).__name__, words, f"{score:.4f}", len(state.s()), len(state.h()), f"{dy.sum_elems(state.output()).value():.4f}")
    best = beam[0][2]
    again = rnn.initial_state(list(best.s())).add_input(E[1])
    print(f"{dy.sum_elems(best.prev().output()).value():.4f}", f"{dy.sum_elems(again.output()).value():.4f}")
    shifted = best.set_h([h * 0.5 for h in best.h()])
    print(f"{dy.sum_elems(shifted.add_input(E[2]).output()).value():.4f}")
    state = rnn.initial_state_from_raw_vectors([np.full(5, 0.1 * (k + 1)) for k in range(len(best.s()))])
    print(f"{dy.sum_elems(state.add_input(E[2]).output()).value():.4f}")

dy.renew_cg()
x = dy.tanh(R * dy.ones(5))
print(f"{dy.sum_elems(x).value():.4f}")
for k in range(3):
    dy.cg_checkpoint()
    y = dy.sum_elems(dy.cmult(x, x)) * float(k)
    print(k, f"{y.value():.4f}")
    dy.cg_revert()
dy.renew_cg()
loss = dy.pickneglogsoftmax(dy.tanh(R * dy.ones(5)), 3)
loss.backward()
print(f"{loss.value():.4f} {np.abs(R.grad_as_array()).sum():.4f}")
