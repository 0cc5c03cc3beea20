"""Small model files written by the real DyNet, with their contents as data.

`write(dy, folder)` saves the files and returns what `contents.json` holds: for every file the
entries in file order, and the calls that made it.
"""

import sys
from pathlib import Path

from cases_small import rng_of, size, uniform
from replay import array, flat, table_flat

sys.path.append(str(Path(__file__).parents[1]))
import spec_classes


def _entry(p, kind, with_gradient):
    shape = list(p.shape())
    numbers = table_flat if kind == "LookupParameter" else flat
    dim = shape[1:] + shape[:1] if kind == "LookupParameter" else shape
    return {
        "tag": kind,
        "name": p.name(),
        "dim": dim,
        "v": numbers(p.as_array()),
        "grad": numbers(p.grad_as_array()) if with_gradient else None,
    }


def _entries(collection, gradients=()):
    """Entries as `save` writes them: parameters in creation order, then tables."""
    return [_entry(p, "Parameter", p.name() in gradients) for p in collection.parameters_list()] + [
        _entry(p, "LookupParameter", p.name() in gradients)
        for p in collection.lookup_parameters_list()
    ]


def _renamed(entries, old, new):
    return [{**e, "name": new + e["name"][len(old) :]} for e in entries]


def write(dy, folder):
    """Writes the files into `folder`; returns the contents."""
    rng = rng_of("dynet files")

    def parameter(collection, dim, name=""):
        p = collection.add_parameters(tuple(dim), name=name)
        p.set_value(array(uniform(rng, size(dim), digits=4), dim))
        return p

    def table(collection, rows, dim, name=""):
        p = collection.add_lookup_parameters((rows, *dim), name=name)
        n = size(dim)
        for i in range(rows):
            p.init_row(i, uniform(rng, n, digits=4))
        return p

    contents = {}

    def note(name, how, entries, **more):
        contents[name] = {"how": how, "entries": entries, **more}

    # Parameters of 1 to 4 dims, unnamed and named.
    m = dy.ParameterCollection()
    for dim in ([3], [2, 3], [2, 1, 2], [1, 2, 2, 1]):
        parameter(m, dim)
    parameter(m, [2], "bias")
    parameter(m, [1], "bias")
    m.save(str(folder / "parameters.model"))
    note("parameters.model", "m.save(file)", _entries(m))

    # Tables with vector and matrix rows.
    m = dy.ParameterCollection()
    table(m, 4, [3])
    table(m, 2, [2, 2], "matrices")
    m.save(str(folder / "lookup.model"))
    note("lookup.model", "m.save(file)", _entries(m))

    # Parameters and tables in nested subcollections, created alternately.
    m = dy.ParameterCollection()
    parameter(m, [2], "w")
    s = m.add_subcollection("enc")
    table(s, 2, [2], "emb")
    parameter(s, [2, 2])
    s2 = s.add_subcollection()
    parameter(s2, [1, 2], "u")
    s3 = m.add_subcollection("enc")
    parameter(s3, [2])
    table(m, 3, [1], "last")
    m.save(str(folder / "subcollections.model"))
    note("subcollections.model", "m.save(file)", _entries(m))
    s.save(str(folder / "subcollection.model"))
    note("subcollection.model", 's.save(file), s = m.add_subcollection("enc")', _entries(s))
    m.save(str(folder / "keyed.model"), name="/foo")
    keyed = _renamed(_entries(m), "/", "/foo/")
    s.save(str(folder / "keyed.model"), name="/bar", append=True)
    keyed += _renamed(_entries(s), s.name(), "/bar/")
    note("keyed.model", 'm.save(file, name="/foo"); s.save(file, name="/bar", append=True)', keyed)

    # Gradients: one parameter and one table have been used since the last update.
    m = dy.ParameterCollection()
    w = parameter(m, [3, 2], "w")
    parameter(m, [3], "unused")
    t = table(m, 4, [2], "emb")
    table(m, 2, [2], "idle")
    dy.renew_cg()
    dy.dot_product(w * t[2], dy.inputVector([0.5, -1.25, 2.0])).backward()
    m.save(str(folder / "gradients.model"))
    note("gradients.model", "loss.backward(); m.save(file)", _entries(m, {"/w", "/emb"}))

    # Weight decay: the file holds decayed values.
    m = dy.ParameterCollection()
    w = parameter(m, [2, 2], "w")
    m.set_weight_decay(0.125)
    trainer = dy.SimpleSGDTrainer(m)
    for _ in range(2):
        dy.renew_cg()
        dy.dot_product(w, dy.inputTensor(array([1.0, -0.5, 0.25, 2.0], [2, 2]))).backward()
        trainer.update()
    m.save(str(folder / "decayed.model"))
    dy.renew_cg()
    entries = _entries(m)
    entries[0]["v"] = flat(w.npvalue())
    note("decayed.model", "two updates with weight decay 0.125; m.save(file)", entries)

    # Single parameters under a key.
    m = dy.ParameterCollection()
    w = parameter(m, [2, 2])
    t = table(m, 3, [2])
    w.save(str(folder / "single.model"), "/the/matrix")
    t.save(str(folder / "single.model"), "/the/table", append=True)
    w.save(str(folder / "single.model"), append=True)
    entries = _entries(m)
    note(
        "single.model",
        'w.save(file, "/the/matrix"); t.save(file, "/the/table", append=True); '
        "w.save(file, append=True)",
        [{**entries[0], "name": "/the/matrix"}, {**entries[1], "name": "/the/table"}, entries[0]],
    )

    # dy.save: builders and parameters in one go.
    m = dy.ParameterCollection()
    lstm = dy.VanillaLSTMBuilder(2, 2, 2, m)
    w = parameter(m, [2, 3], "w")
    t = table(m, 3, [2], "emb")
    birnn = dy.BiRNNBuilder(1, 2, 4, m, dy.VanillaLSTMBuilder)
    simple = dy.SimpleRNNBuilder(1, 2, 2, m)
    gru = dy.GRUBuilder(1, 2, 2, m)
    for builder in (lstm, birnn, simple, gru):
        for p in builder.param_collection().parameters_list():
            p.set_value(array(uniform(rng, size(p.shape()), digits=4), p.shape()))
    dy.save(str(folder / "objects"), [lstm, w, t, birnn, simple, gru])
    entries = [
        *_entries(lstm.param_collection()),
        _entry(w, "Parameter", False),
        _entry(t, "LookupParameter", False),
        *_entries(birnn.param_collection()),
        *_entries(simple.param_collection()),
        *_entries(gru.param_collection()),
    ]
    objects = [
        {"class": type(b).__name__, "spec": _spec(b), "collection": b.param_collection().name()}
        for b in (lstm, birnn, simple, gru)
    ]
    objects[1:1] = [
        {"class": "Parameters", "name": w.name()},
        {"class": "LookupParameters", "name": t.name()},
    ]
    note(
        "objects.data",
        "dy.save(basename, [lstm, w, t, birnn, simple, gru]); objects.meta holds the pickles",
        entries,
        objects=objects,
    )

    # Its spec holds objects of the program's own classes.
    m = dy.ParameterCollection()
    tagger = spec_classes.example(m)
    for p, set_values in (
        (tagger.matrix, tagger.matrix.set_value),
        (tagger.table, tagger.table.init_from_array),
    ):
        set_values(array(uniform(rng, size(p.shape()), digits=4), p.shape()))
    dy.save(str(folder / "specs"), [tagger])
    note(
        "specs.data",
        "dy.save(basename, [spec_classes.example(m)]); specs.meta holds the pickle",
        _entries(tagger.param_collection()),
        objects=[{"class": "Tagger", "collection": tagger.collection.name()}],
    )
    return contents


def _spec(builder):
    """A builder's spec with classes as names."""
    return [s.__name__ if isinstance(s, type) else s for s in builder.spec]
