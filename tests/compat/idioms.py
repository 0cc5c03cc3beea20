"""Many idioms of published programs in one: inputs that are set anew, checkpoints, immediate mode, all trainers, files, states by hand."""

import os
import tempfile

import dynet as dy
import numpy as np


def R(x):
    return np.round(np.asarray(x, dtype=float).ravel(), 4).tolist()


pc = dy.ParameterCollection()
sub = pc.add_subcollection("enc")
# Deep biaffine
U = sub.add_parameters((6, 6), init="glorot")
w1 = sub.add_parameters(6)
bias = sub.add_parameters(1, init=0)
rnn = dy.BiRNNBuilder(2, 5, 6, sub, dy.LSTMBuilder)
E = pc.add_lookup_parameters((20, 5), init=dy.NormalInitializer(0, 0.1))
tr = dy.AdamTrainer(pc, alpha=0.01)
tr.set_sparse_updates(False)
tr.set_clip_threshold(3.0)
for it in range(3):
    dy.renew_cg(immediate_compute=True, check_validity=True)
    rnn.set_dropout(0.2) if it else rnn.disable_dropout()
    xs = [E[i] for i in (1, 4, 7, 2)]
    hs = rnn.transduce([dy.dropout(x, 0.1) for x in xs])
    H = dy.concatenate_cols(hs)
    S = dy.transpose(H) * U * H
    S = dy.colwise_add(S, dy.transpose(H) * w1)
    loss = dy.esum([dy.pickneglogsoftmax(dy.pick(S, j, dim=1), (j + 1) % 4) for j in range(4)])
    loss = loss + dy.sum_elems(dy.square(U.expr(True))) * 0.01
    print("biaffine", loss.value(), R(S.npvalue())[:3])
    loss.backward()
    tr.update()
# minibatch + autobatch
for ab in (False, True):
    dy.renew_cg(autobatching=ab)
    rnn.disable_dropout()
    ls = []
    for k in range(4):
        hs = rnn.transduce([dy.lookup(E, i) for i in range(k + 1)])
        ls.append(dy.squared_norm(hs[-1]) * dy.scalarInput(k + 1.0))
    l = dy.average(ls)
    print("ab", R(l.value()))
    l.backward()
    print(R(E.grad_as_array())[:6])
    tr.update()
# checkpoint / revert in beam
dy.renew_cg()
x = dy.parameter(U) * dy.ones(6)
dy.cg_checkpoint()
for k in range(3):
    y = dy.tanh(x * float(k))
    print("cp", R(y.value())[:2])
    dy.cg_revert()
    dy.cg_checkpoint()
# hinge, rank loss, REINFORCE
dy.renew_cg()
logits = w1.expr(True) * 2.0
probs = dy.softmax(logits).npvalue()
probs /= probs.sum()
np.random.seed(0)
a = np.random.choice(6, p=probs)
lo = dy.pickneglogsoftmax(logits, int(a)) * 1.5 - dy.dot_product(dy.softmax(logits), dy.log_softmax(logits)) * 0.1
print("rl", lo.scalar_value())
lo.backward()
tr.update()
dy.renew_cg()
v = dy.inputTensor(np.arange(12).reshape(3, 4))
print(R(v[1].value()), R(v[1:3].value()), R(dy.pick_range(v, 1, 3, 1).value()), R(dy.max_dim(v, 0).value()), R(dy.reshape(v, (4, 3)).npvalue()))
print(R(dy.hinge(w1, 2, 0.5).value()), R(dy.pairwise_rank_loss(dy.transpose(w1), dy.transpose(w1)).value()))
b = dy.inputTensor(np.random.rand(3, 5), batched=True)
print(
    R(dy.pick_batch(b, [0, 1, 2, 0, 1]).value()),
    R(dy.pickneglogsoftmax_batch(b, [0, 1, 2, 0, 1]).value()),
    R(dy.pick_batch_elems(b, [1, 3]).npvalue()),
)
print(R(dy.concatenate_to_batch([b, b]).npvalue())[:4], dy.mean_batches(b).dim(), R(dy.moment_elems(b, 2).value()))
# trainers
for T in (
    dy.SimpleSGDTrainer,
    dy.MomentumSGDTrainer,
    dy.AdagradTrainer,
    dy.AdadeltaTrainer,
    dy.RMSPropTrainer,
    dy.AmsgradTrainer,
    dy.CyclicalSGDTrainer,
):
    t = T(pc)
    for _ in range(2):
        dy.renew_cg()
        l = dy.squared_norm(U * dy.ones(6)) + dy.squared_norm(E[3])
        l.value()
        l.backward()
        t.update()
    print(T.__name__, R(l.value()), t.learning_rate > 0)
    t.restart()
# saving
with tempfile.TemporaryDirectory() as d:
    pc.save(os.path.join(d, "m"))
    pc2 = dy.ParameterCollection()
    s2 = pc2.add_subcollection("enc")
    [s2.add_parameters(s) for s in ((6, 6), 6, 1)]
    dy.BiRNNBuilder(2, 5, 6, s2, dy.LSTMBuilder)
    pc2.add_lookup_parameters((20, 5))
    pc2.populate(os.path.join(d, "m"))
    print(R(pc2.parameters_list()[0].as_array())[:3], len(open(os.path.join(d, "m")).read()))
    U.save(os.path.join(d, "u"), "/U")
    E.save(os.path.join(d, "u"), "/E", append=True)
    p = dy.ParameterCollection()
    q = p.load_param(os.path.join(d, "u"), "/U")
    e = p.load_lookup_param(os.path.join(d, "u"), "/E")
    print(q.name(), e.name(), R(q.as_array())[:2], R(e.row_as_array(2)))
    s = dy.GRUBuilder(1, 4, 4, p)
    dy.save(os.path.join(d, "b"), [s, q])
    g, q2 = dy.load(os.path.join(d, "b"), dy.ParameterCollection())
    dy.renew_cg()
    print(R(g.initial_state().add_input(dy.ones(4)).output().value()))
# set_s / set_h / branching
l = dy.LSTMBuilder(2, 3, 4, pc)
dy.renew_cg()
s = l.initial_state()
s1 = s.add_input(dy.ones(3))
s2 = s1.set_s([dy.ones(4)] * 4)
s3 = s2.add_input(dy.zeros(3))
s4 = s1.set_h([dy.ones(4)] * 2)
print(R(s3.output().value()), R(s4.add_input(dy.ones(3)).output().value()), len(s4.s()), s3.prev() is not None)
l2 = dy.LSTMBuilder(1, 3, 4, pc)
dy.renew_cg()
print(R(l2.initial_state_from_raw_vectors([[1, 2, 3, 4], [0.1] * 4]).add_input(dy.ones(3)).output().value()))
# conv
dy.renew_cg()
im = dy.inputTensor(np.random.rand(5, 5, 2))
K = pc.add_parameters((3, 3, 2, 4))
c = dy.conv2d(im, K, stride=(1, 1), is_valid=True)
print(c.dim(), R(c.npvalue())[:4])
m = dy.maxpooling2d(c, (2, 2), (1, 1))
print(m.dim(), R(m.npvalue())[:3])
z = dy.sum_elems(m)
z.backward()
print(R(K.grad_as_array())[:5])
# inputs reuse
dy.renew_cg()
x = dy.vecInput(3)
y = dy.scalarInput(1)
o = dy.dot_product(x, x) * y
for k in range(3):
    x.set([k, 1, 2])
    y.set(k)
    print(o.value())
t = dy.inputTensor(np.ones((2, 2)), reusable_expr=True)
u = dy.sum_elems(t)
print(u.value())
t.set([1, 2, 3, 4])
print(u.value())
lk = dy.lookup(E, 1)
n = dy.squared_norm(lk)
a = n.value()
lk.set(2)
print(R(a), R(n.value()))
pk = dy.pick(w1, 0)
print(R(pk.value()))
pk.set_index(1)
print(R(pk.value()))
dy.renew_cg()
n = dy.noise(dy.zeros(3), 1.0)
print(R(n.value()), R(n.value()), R(n.value(recalculate=True)))
print(R(dy.strided_select(dy.inputTensor(np.arange(12).reshape(3, 4)), [1, 2], [0, 0], [3, 4]).npvalue()))
print(R(dy.layer_norm(dy.inputVector([1, 2, 3, 4]), dy.ones(4), dy.zeros(4)).value()), R(dy.weight_norm(U, dy.scalarInput(2)).npvalue())[:3])
print(
    R(dy.logsumexp([dy.scalarInput(1), dy.scalarInput(2)]).value()),
    R(dy.emax([dy.inputVector([1, 5]), dy.inputVector([3, 2])]).value()),
    R(dy.cumsum(dy.inputVector([1, 2, 3])).value()),
)
