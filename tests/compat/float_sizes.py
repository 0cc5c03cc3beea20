"""Sizes as programs compute them: n / 2 is a float, sizes come from NumPy; counts, indices and dims, too."""

import dynet as dy
import numpy as np

HIDDEN, WORDS = 8, np.array([3, 1, 4, 1, 5])
m = dy.ParameterCollection()
E = m.add_lookup_parameters((int(WORDS.max()) + 1, 4))
W, b = m.add_parameters((int(HIDDEN / 2), 4)), m.add_parameters(int(HIDDEN / 2), init=dy.ConstInitializer(0.5))
forward, backward = (dy.LSTMBuilder(1, 4, HIDDEN / 2, m) for _ in range(2))


def show(what, x):
    print(what, x.dim()[0], [f"{v:.4f}" for v in np.asarray(x.npvalue()).ravel()])


dy.renew_cg()
xs = [E[int(w)] for w in WORDS]
hs = [dy.concatenate([f, k]) for f, k in zip(forward.initial_state().transduce(xs), backward.initial_state().transduce(xs[::-1])[::-1])]
H = dy.concatenate_cols(hs)
show("states", H)
show("moment", dy.moment_dim(H, [1], 2.0, False, 3.0))
show("mean", dy.mean_dim(H, [0], False))
show("std", dy.std_dim(H, [1], False))
show("element", dy.pick(H, 2.0, 1.0))
show("softmax", dy.softmax(H, 1.0))
show("log-sum-exp", dy.logsumexp_dim(H, 0.0))
show("greatest", dy.max_dim(H, 1.0))
show("sums", dy.cumsum(H, 1.0))
show("pooled", dy.kmax_pooling(H, 2.0, 1.0))
show("folded", dy.fold_rows(H, 2.0))
show("zeros", W * xs[0] + b + dy.zeros(HIDDEN // 2))
E.init_row(2.0, [1, 2, 3, 4])
dy.renew_cg()
show("row", E[2] + dy.ones(4))
