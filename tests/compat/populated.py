"""Parameters in files: a whole collection, subcollections under other names, one parameter by its key, values from NumPy."""

import tempfile
from pathlib import Path

import dynet as dy
import numpy as np

folder = Path(tempfile.mkdtemp())


def make(prefix=""):
    m = dy.ParameterCollection()
    encoder, decoder = m.add_subcollection(prefix + "encoder"), m.add_subcollection(prefix + "decoder")
    E, W = encoder.add_lookup_parameters((4, 3), name="words"), encoder.add_parameters((2, 3), name="W")
    V = decoder.add_parameters((2, 2), name="V", init="he")
    return m, encoder, decoder, (E, W, V)


def output(things):
    E, W, V = things
    dy.renew_cg()
    return [f"{v:.5f}" for v in (V * dy.tanh(W * E[2])).npvalue()]


m, encoder, decoder, things = make()
print([p.name() for p in m.parameters_list()], [p.name() for p in m.lookup_parameters_list()], encoder.name(), output(things))
files = {name: str(folder / name) for name in ("all", "encoder", "three")}
m.save(files["all"])
encoder.save(files["encoder"])
things[1].save(files["three"], "/first")
things[2].save(files["three"], "/second", append=True)
things[0].save(files["three"], "/table", append=True)

m2, _, _, things2 = make()
before = output(things2)
m2.populate(files["all"])
print(before, output(things2))
_, encoder3, _, things3 = make("other")
encoder3.populate(files["all"], "/encoder/")
things3[2].populate(files["three"], "/second")
print(output(things3))
m4 = dy.ParameterCollection()
E, W = m4.load_lookup_param(files["three"], "/table"), m4.load_param(files["three"], "/first")
V = m4.parameters_from_numpy(things[2].as_array())
T = m4.lookup_parameters_from_numpy(np.arange(6).reshape(3, 2))
print(E.shape(), W.shape(), T.shape(), output((E, W, V)), T[1].npvalue().tolist())
lines = Path(files["all"]).read_text().splitlines()
print(len(lines), [line.split()[:3] for line in lines if line.startswith("#")])
