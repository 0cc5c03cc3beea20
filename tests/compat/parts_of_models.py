"""Training a part: trainers of subcollections, frozen parameters, gradients that are stopped, turned round and scaled, rates that fall."""

import dynet as dy
import numpy as np

m = dy.ParameterCollection()
body, head = m.add_subcollection("body"), m.add_subcollection("head")
W, b, E = body.add_parameters((4, 3)), body.add_parameters(4, init=0.2), body.add_lookup_parameters((5, 3))
V, D = head.add_parameters((2, 4)), head.add_parameters((3, 4))
trainers = {
    "all": dy.MomentumSGDTrainer(m, 0.05), "body": dy.AdagradTrainer(body, 0.1), "head": dy.RMSPropTrainer(head, 0.01),
    "cyclical": dy.CyclicalSGDTrainer(m, 0.01, 0.1, 4.0),
}  # fmt: skip


def sums():
    return [f"{np.abs(p.as_array()).sum():.5f}" for p in (W, b, E, V, D)]


def loss_of(k):
    dy.renew_cg()
    h = dy.tanh(dy.affine_transform([b, W, E[k]]))
    main = dy.pickneglogsoftmax(V * h, k % 2)
    adversary = dy.pickneglogsoftmax(D * dy.scale_gradient(h, -0.5), k % 3)
    watcher = dy.squared_norm(V * dy.nobackprop(h)) * 0.01
    return main + adversary + watcher + dy.squared_norm(dy.flip_gradient(b)) * 0.1


for name, trainer in trainers.items():
    trainer.set_clip_threshold(1.0)
    for k in range(4):
        W.set_updated(k != 1)
        E.set_updated(k != 2)
        loss = loss_of(k)
        print(name, k, f"{loss.value():.5f}")
        loss.backward()
        print("updated", W.is_updated(), E.is_updated(), f"{np.abs(W.grad_as_array()).sum():.5f}")
        trainer.update()
        trainer.learning_rate = trainer.learning_rate * 0.9
    trainer.restart()
    print(name, *sums())
W.scale(0.5)
b.clip_inplace(-0.1, 0.1)
V.set_value(np.arange(8).reshape(2, 4) / 10)
print(*sums(), f"{loss_of(3).value():.5f}")
