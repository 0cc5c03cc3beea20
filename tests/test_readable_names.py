"""Parameters of builders and blocks have names that a person can read, in summaries, repr() and
messages; the names of files stay those of DyNet, /_0, /_1, ...

How long: two seconds.
"""

import copy
import pickle
import re

import numpy as np
import pytest
from net_table import NETS

import dist_dynet as dy
from dist_dynet._manner import manner


def parameters(m):
    return [*m.parameters_list(), *m.lookup_parameters_list()]


def names(m):
    return [p.readable_name() for p in parameters(m)]


def documented(cls):
    """The docstrings of a class and of its bases, which say what parameters are called."""
    return "\n".join(c.__doc__ or "" for c in cls.__mro__)


@pytest.mark.parametrize("name", NETS)
def test_names_are_those_of_the_documents(name):
    m = dy.ParameterCollection()
    built = NETS[name].make(m)
    texts = [documented(type(built))]
    texts += [documented(type(part)) for part in vars(built).values()]
    texts += [documented(getattr(built, "rnn_builder_factory", type(None)))]
    texts.append(documented(dy.Linear) if isinstance(built, dy.MLP) else "")
    found = names(m)
    assert len(set(found)) == len(found)
    for p, readable in zip(parameters(m), found, strict=True):
        folder = p.name()[: p.name().rindex("/") + 1]
        assert re.fullmatch(r"_\d+", p.name()[len(folder) :]), "DyNet's name, in files"
        assert readable.startswith(folder)
        role = readable[readable.rindex("/") + 1 :]
        words = re.findall(r"[\w-]+", role.replace("mask-x", "masks").replace("mask-h", "masks"))
        assert not role.startswith("_"), f"{type(built).__name__}: no role: _roles or _dense()"
        assert all(re.search(rf"\b{re.escape(word)}\b", "\n".join(texts)) for word in words), role


def test_names_of_layers_and_of_trees():
    m = dy.ParameterCollection()
    dy.GRUBuilder(2, 2, 3, m)
    assert names(m)[8:11] == [
        "/gru-builder/0/bh",
        "/gru-builder/1/Wzx",
        "/gru-builder/1/Wzh",
    ]
    m = dy.ParameterCollection()
    dy.MLP([2, 3, 4], m.add_subcollection("head"))
    assert names(m)[2:] == ["/head/mlp/linear_1/W", "/head/mlp/linear_1/b"]


def test_names_of_classes_are_those_of_the_file(tmp_path):
    (tmp_path / "classes").write_text("animal cat\nanimal dog\nplant tree\nplant moss\n")
    (tmp_path / "paths").write_text("0 0\tcat\n0 0\tdog\n0 1\ttree\n0 1\tmoss\n1\tstone\n1\tsand\n")
    words = {w: k for k, w in enumerate(("cat", "dog", "tree", "moss"))}
    m = dy.ParameterCollection()
    dy.ClassFactoredSoftmaxBuilder(3, tmp_path / "classes", words, m, bias=False)
    assert [name.removeprefix("/class-factored-softmax-builder/") for name in names(m)] == [
        *("W", "animal/W", "plant/W")
    ]
    m = dy.ParameterCollection()
    words.update(stone=4, sand=5)
    dy.HierarchicalSoftmaxBuilder(3, tmp_path / "paths", words, m, bias=False)
    assert [name.removeprefix("/hierarchical-softmax-builder/") for name in names(m)] == [
        *("W", "0/W", "0/0/W", "0/1/W", "1/W")
    ]


def test_names_given_by_the_program_stay():
    m = dy.ParameterCollection().add_subcollection("encoder")
    W, b = m.add_parameters((2, 3), name="W"), m.add_parameters(2)
    assert (W.readable_name(), b.readable_name()) == ("/encoder/W", "/encoder/_0")


def test_names_are_copied_pickled_and_loaded(tmp_path):
    m = dy.ParameterCollection()
    lstm = dy.VanillaLSTMBuilder(1, 2, 3, m)
    expected = [f"/vanilla-lstm-builder/0/{role}" for role in ("Wx", "Wh", "b")]
    dy.save(tmp_path / "model", [lstm])
    loaded = dy.ParameterCollection()
    dy.load(tmp_path / "model", loaded)
    for other in (m, copy.deepcopy(m), pickle.loads(pickle.dumps(m)), loaded):
        assert names(other) == expected
        assert [p.name() for p in parameters(other)] == [p.name() for p in parameters(m)]


def test_parameters_pickled_without_roles_are_read():
    m = dy.ParameterCollection()
    W = dy.Linear(2, 3, m).get_parameters()[0]
    build, arguments = W.__reduce__()
    kind, root, place, name, role = arguments
    old = build(kind, root, place, name)
    assert role == "W" and old.readable_name() == old.name() == "/linear/_0"
    assert old.as_array().shape == (3, 2)


def test_files_have_the_names_of_dynet(tmp_path):
    m = dy.ParameterCollection()
    dy.VanillaLSTMBuilder(1, 2, 3, m)
    m.save(tmp_path / "model")
    assert re.findall(r"^#\w+# (\S+)", (tmp_path / "model").read_text(), re.M) == [
        f"/vanilla-lstm-builder/_{k}" for k in range(3)
    ]
    assert list(m.named_parameters()) == [f"/vanilla-lstm-builder/_{k}" for k in range(3)]


def test_repr_summary_and_messages_show_them():
    m = dy.ParameterCollection()
    layer = dy.Linear(2, 3, m)
    W, b = layer.get_parameters()
    assert repr(W) == "Parameter /linear/W (3, 2)" and str(b) == "Parameter /linear/b"
    assert m.summary().splitlines()[1].split()[:2] == ["/linear/W", "/linear/_0"]
    other = dy.ParameterCollection()
    dy.Linear(3, 3, other)
    with pytest.raises(ValueError, match=r"/linear/W = \(3, 2\)"):
        m.copy_from(other)
    W.set_value(np.full((3, 2), np.nan))
    dy.renew_cg()
    loss = dy.sum_elems(layer(dy.inputVector([1, 2])))
    assert "/linear/W" in str(dy.find_nonfinite(loss))


def test_summary_without_builders_has_no_names_of_files():
    m = dy.ParameterCollection()
    m.add_parameters(3, name="b")
    assert m.summary().splitlines()[0].split() == ["parameter", "shape", "numbers"]


def test_programs_of_dynet_see_its_names(monkeypatch):
    W = dy.Linear(2, 3, dy.ParameterCollection()).get_parameters()[0]
    monkeypatch.setattr(manner, "dynet", True)
    assert str(W) == repr(W) == "Parameter /linear/_0"
