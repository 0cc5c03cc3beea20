"""Copies of collections: pickle, copy.deepcopy, copy_from; what holds parameters goes along."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

import dist_dynet as dy

WAYS = {"pickle": lambda x: pickle.loads(pickle.dumps(x)), "deepcopy": copy.deepcopy}


@pytest.fixture(params=WAYS)
def copied(request):
    return WAYS[request.param]


def model():
    m = dy.ParameterCollection()
    m.set_weight_decay(0.125)
    W = m.add_parameters((3, 2), name="W")
    sub = m.add_subcollection("sub")
    E = sub.add_lookup_parameters((5, 2, 3))
    b = sub.add_parameters(4)
    b.set_updated(False)
    return m, sub, W, E, b


def test_copy_has_all_and_shares_nothing(copied):
    m, _, W, E, b = model()
    n = copied(m)
    V, a = n.parameters_list()
    (F,) = n.lookup_parameters_list()
    for p, q in ((W, V), (b, a), (E, F)):
        assert type(p) is type(q) and p is not q
        assert (p.name(), p.shape(), p.is_updated()) == (q.name(), q.shape(), q.is_updated())
        assert (p.as_array() == q.as_array()).all()
    assert n.get_weight_decay() == 0.125 and n.parameter_count() == m.parameter_count()
    before = W.as_array()
    V.set_value(np.zeros((3, 2)))
    assert (W.as_array() == before).all()
    assert n.add_parameters(1, name="W").name() == m.add_parameters(1, name="W").name() == "/W_1"


def test_copy_trains_apart_from_the_original(copied):
    m, _, _, E, _ = model()
    n = copied(m)
    trainer = dy.AdamTrainer(n)
    before = E.as_array()
    (F,) = n.lookup_parameters_list()
    dy.renew_cg()
    dy.sum_elems(F[2]).backward()
    assert F.has_gradient() and not E.has_gradient()
    trainer.update()
    assert (E.as_array() == before).all() and not (F.as_array() == before).all()


def test_gradients_are_not_copied(copied):
    m, _, W, _, _ = model()
    dy.renew_cg()
    dy.sum_elems(W).backward()
    assert W.has_gradient() and not copied(m).parameters_list()[0].has_gradient()


def test_values_under_decay_are_copied_as_they_read(copied):
    m, _, _, E, _ = model()
    trainer = dy.SimpleSGDTrainer(m)
    for _ in range(3):
        trainer.update()
    assert (copied(m).lookup_parameters_list()[0].as_array() == E.as_array()).all()


class Network:
    def __init__(self):
        self.collection = dy.ParameterCollection()
        self.W = self.collection.add_parameters((2, 4), name="W")
        self.lstm = dy.VanillaLSTMBuilder(2, 3, 4, self.collection)
        self.birnn = dy.BiRNNBuilder(1, 3, 4, self.collection, dy.VanillaLSTMBuilder)
        self.first, self.again = self.W, self.W

    def __call__(self, xs):
        dy.renew_cg()
        inputs = [dy.inputVector(x) for x in xs]
        return (
            self.W
            * (self.lstm.initial_state().transduce(inputs)[-1] + self.birnn.transduce(inputs)[0])
        ).npvalue()


def test_objects_with_builders_keep_identity(copied, rng):
    network, xs = Network(), rng.normal(size=(3, 3))
    expected = network(xs)  # the builders now have a sequence in a graph
    twin = copied(network)
    assert twin.W is twin.first is twin.again is twin.collection.parameters_list()[0]
    assert twin.lstm.get_parameters()[0][0] in twin.collection.parameters_list()
    assert (twin(xs) == expected).all()
    twin.W.zero()
    assert not twin(xs).any() and (network(xs) == expected).all()


def test_a_subcollection_brings_its_parents(copied):
    m, sub, _, E, b = model()
    twin = copied(sub)
    assert twin.name() == "/sub/" and twin.parameter_count() == sub.parameter_count()
    assert [p.name() for p in twin._parent.parameters_list()] == [
        p.name() for p in m.parameters_list()
    ]
    both = copied([b, sub, E, m])
    assert (
        both[0] is both[1].parameters_list()[0] and both[2] is both[3].lookup_parameters_list()[0]
    )


def test_pickles_are_read_in_another_process(tmp_path):
    m, *_ = model()
    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(m))
    program = (
        "import sys, pickle; m = pickle.load(open(sys.argv[1], 'rb')); print(m.parameter_count(),"
        " m.parameters_list()[1].name())"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, check=True
    )
    assert ran.stdout.split() == [str(m.parameter_count()), "/sub/_1"]


def test_pickles_of_earlier_versions_are_read():
    m, *_ = model()
    text = pickle.dumps(m, 0)
    moved = {  # what: where earlier versions had it
        b"dist_dynet.params.root\nrebuilt_root": b"dist_dynet.params.copying\nrebuilt_root",
        b"dist_dynet.params.parameters\nrebuilt_parameter": (
            b"dist_dynet.params.copying\nrebuilt_parameter"
        ),
        b"dist_dynet.params.parameters": b"dist_dynet.params.collection",
        b"dist_dynet.params.root": b"dist_dynet.params.collection",
    }
    for now, then in moved.items():
        assert now in text
        text = text.replace(now, then)
    n = pickle.loads(text)
    assert [p.name() for p in n.parameters_list()] == [p.name() for p in m.parameters_list()]
    assert type(n.parameters_list()[0]) is dy.Parameters and type(n._root) is type(m._root)


def test_large_collections_are_copied_quickly():
    m = dy.ParameterCollection()
    for _ in range(3000):
        m.add_parameters(2, init=0)
    assert len(copy.deepcopy(m).parameters_list()) == 3000


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_graphs_are_refused(copying):
    with pytest.raises(TypeError, match="graph"):
        copying(dy.renew_cg())


def test_copy_from_takes_values(rng):
    m, *_ = model()
    n, *_ = model()
    before = [p.as_array() for p in (*n.parameters_list(), *n.lookup_parameters_list())]
    n.copy_from(m, share=0.25)
    for p, q, b in zip(
        m.named_parameters().values(), n.named_parameters().values(), before, strict=True
    ):
        assert np.allclose(q.as_array(), 0.75 * b + 0.25 * p.as_array(), rtol=1e-6, atol=1e-7)
    n.copy_from(m)
    assert (n.parameters_list()[0].as_array() == m.parameters_list()[0].as_array()).all()


def test_copy_from_within_one_tree():
    m = dy.ParameterCollection()
    online, target = m.add_subcollection("online"), m.add_subcollection("target")
    w, v = online.add_parameters((2, 2)), target.add_parameters((2, 2))
    target.copy_from(online)
    assert (w.as_array() == v.as_array()).all()


def test_copy_from_refuses_other_models_and_changes_nothing():
    m, *_ = model()
    n = copy.deepcopy(m)
    m.parameters_list()[0].zero()
    other = dy.ParameterCollection()
    other.add_parameters((3, 2))
    with pytest.raises(TypeError, match="ParameterCollection"):
        n.copy_from([1])
    for source, share in ((other, 1), (m, 1.5)):
        before = n.parameters_list()[0].as_array()
        with pytest.raises(ValueError, match="copy_from"):
            n.copy_from(source, share)
        assert (n.parameters_list()[0].as_array() == before).all()
    n.lookup_parameters_list()
    other.add_parameters(5)
    other.add_lookup_parameters((5, 2, 3))
    with pytest.raises(ValueError, match="shapes"):
        n.copy_from(other)


def test_values_changed_by_copy_from_are_seen():
    m, *_ = model()
    n = copy.deepcopy(m)
    loss = dy.sum_elems(m.parameters_list()[0])
    loss.value()
    m.copy_from(n)
    with pytest.raises(RuntimeError, match="parameters were changed"):
        loss.backward()
