"""Classes with a spec, as DyNet's documentation makes them: saved together, and loaded into another collection."""

import tempfile
from pathlib import Path

import dynet as dy


class Layer:
    """A dense layer whose spec is a tuple of plain values."""

    def __init__(self, pc, n_in, n_out, nonlinearity):
        self.pc = pc.add_subcollection("layer")
        self.spec = n_in, n_out, nonlinearity
        self.W, self.b = self.pc.add_parameters((n_out, n_in)), self.pc.add_parameters(n_out, init=0.1)
        self.nonlinearity = {"tanh": dy.tanh, "relu": dy.rectify, "none": lambda x: x}[nonlinearity]

    def __call__(self, x):
        return self.nonlinearity(dy.affine_transform([self.b, self.W, x]))

    def param_collection(self):
        return self.pc

    @staticmethod
    def from_spec(spec, pc):
        return Layer(pc, *spec)


class Net:
    """Layers and a builder below it; the spec is a dict, locals() as programs have it."""

    def __init__(self, pc, sizes, cell="gru", names=("a", "b")):
        self.spec = {k: v for k, v in locals().items() if k not in ("self", "pc")}
        self.pc = pc.add_subcollection("net")
        self.rnn = {"gru": dy.GRUBuilder, "lstm": dy.VanillaLSTMBuilder}[cell](1, sizes[0], sizes[1], self.pc)
        self.layers = [Layer(self.pc, n, m, kind) for n, m, kind in zip(sizes[1:], sizes[2:], ["tanh", "relu", "none"])]

    def __call__(self, xs):
        h = self.rnn.initial_state().transduce(xs)[-1]
        for layer in self.layers:
            h = layer(h)
        return h

    def param_collection(self):
        return self.pc

    @staticmethod
    def from_spec(spec, pc):
        return Net(pc, **spec)


def show(what, y):
    print(what, [f"{v:.5f}" for v in y.npvalue().ravel()])


path = str(Path(tempfile.mkdtemp()) / "model")
m = dy.ParameterCollection()
net, E, extra = Net(m, [3, 4, 5, 2], cell="lstm"), m.add_lookup_parameters((6, 3)), m.add_parameters((2, 2))
trainer = dy.AdamTrainer(m)
for step in range(4):
    dy.renew_cg()
    y = extra * net([E[i] for i in (1, 3, step)])
    loss = dy.pickneglogsoftmax(y, step % 2)
    print(step, f"{loss.value():.5f}")
    loss.backward()
    trainer.update()
dy.save(path, [net, E, extra])
dy.save(path + "-layer", [net.layers[0]])

m2 = dy.ParameterCollection()
net2, E2, extra2 = dy.load(path, m2)
(first,) = dy.load(path + "-layer", dy.ParameterCollection())
print(net2.spec, first.spec, [p.name() for p in m2.parameters_list()][:4], len(m2.parameters_list()), len(m2.lookup_parameters_list()))
dy.renew_cg()
show("saved", extra * net([E[i] for i in (0, 2, 4)]))
show("loaded", extra2 * net2([E2[i] for i in (0, 2, 4)]))
show("first layer", first(dy.inputVector([1, 2, 3, 4])))
one = next(iter(dy.load_generator(path, dy.ParameterCollection())))
print(one.spec["cell"])
