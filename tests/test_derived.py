"""Classes that programs derive from those of this package: an __init__ that leaves out the one
above it is told so, and whatever else they define changes nothing."""

import copy
import dataclasses
import inspect
import pickle

import pytest

import dist_dynet as dy

MADE_BY_OTHERS = {
    *("AutobatchStats", "DeviceInfo", "NonFinite", "Profile", "ProfileRow", "Tensor"),  # results
    *("ComputationGraph", "Expression", "RNNState", "StackedRNNState", "Batch", "Stack"),
    *("Sampler", "TrainerLike", "SoftmaxBuilder"),
    *("UnsignedValue", "FloatValue", "UnsignedVectorValue", "FloatVectorValue", "DynetParams"),
}
"""Classes whose objects functions return, or that hold one value or nothing."""


def public_classes():
    for module in dy, dy.parallel, dy.schedules, dy.training:
        for name in module.__all__:
            found = getattr(module, name)
            if not inspect.isclass(found) or issubclass(found, dy.PyInitializer | Exception):
                continue
            if name not in MADE_BY_OTHERS:
                yield found


def test_each_public_class_says_that_its_init_is_to_be_called():
    seen = []
    for cls in public_classes():
        seen.append(cls)
        for base in (cls, type("Between", (cls,), {}), type("Mixed", (Forgetful, cls), {})):
            own = {} if issubclass(base, Forgetful) else {"__init__": lambda self, *_: None}
            derived = type("Derived", (base,), own)
            for _ in range(2):
                with pytest.raises(TypeError, match=r"Derived: its __init__ must call that of"):
                    derived()
            assert f"that of {cls.__name__} first" in words_of(derived), cls
    assert len(seen) > 40


def test_help_shows_what_a_class_takes():
    for cls in public_classes():
        takes = list(inspect.signature(cls.__init__).parameters.values())[1:]
        for of in cls, type("Below", (cls,), {}):
            assert list(inspect.signature(of).parameters.values()) == takes, cls


def test_help_shows_what_a_class_of_a_program_takes():
    class New(dy.Linear):
        def __new__(cls, size, more=2):
            return super().__new__(cls)

        def __init__(self, size, more=2):
            super().__init__(size, size, dy.ParameterCollection())

    class Calls(type):
        def __call__(cls, size):
            return None

    class Both(New):
        def __init__(self, both):
            super().__init__(both)

    class Called(dy.Linear, metaclass=Calls):
        pass

    class Any(dy.Linear):
        def __init__(*given):
            pass

    below = type("Below", (New,), {})
    takes = {New: "(size, more=2)", below: "(size, more=2)", Both: "(both)", Any: "(*given)"}
    for cls, expected in {**takes, Called: "(size)", Data: "(size: int = 2) -> None"}.items():
        assert str(inspect.signature(cls)) == expected, cls
    linear = New(2)
    called = str(inspect.signature(dy.Linear.__call__)).replace("self, ", "")
    assert str(inspect.signature(linear)) == called


@dataclasses.dataclass
class Data(dy.ParameterCollection):
    size: int = 2


class Forgetful:
    def __init__(self):
        pass


def words_of(derived):
    with pytest.raises(TypeError) as caught:
        derived()
    return str(caught.value)


def test_what_is_used_before_it_is_made_is_told_so_but_not_mistakes_of_the_program():
    class Late(dy.ParameterCollection):
        def __init__(self):
            self.w = self.add_parameters(2)
            super().__init__()

    class Builder(dy.LSTMBuilder):
        def __init__(self, m):
            self.initial_state()

    class Mistaken(dy.ParameterCollection):
        def __init__(self):
            self.hidden.size = 2

    assert words_of(Late).endswith(
        "that of ParameterCollection first. Begin it with super().__init__()."
    )
    assert "super().__init__()" in words_of(Data)
    assert "super().__init__(layers, input_dim, hidden_dim, model)" in words_of(
        lambda: Builder(dy.ParameterCollection())
    )

    class OfOthers(dy.ParameterCollection):
        def __init__(self):
            super().__init__()
            dy.relu(self.add_parameters(2))  # the package says that there is none

    for mistaken, words in (Mistaken, "hidden"), (OfOthers, "rectify"):
        with pytest.raises(AttributeError, match=words):
            mistaken()


@dataclasses.dataclass(slots=True)
class Slots(dy.ParameterCollection):
    size: int = 2

    def __post_init__(self):
        dy.ParameterCollection.__init__(self)


@dataclasses.dataclass
class Plain(dy.ParameterCollection):
    size: int = 2

    def __post_init__(self):
        super().__init__()


@pytest.mark.parametrize("cls", [Slots, Plain])
def test_data_classes_are_copied(cls):
    m = cls(3)
    w = m.add_parameters(2, init=1)
    dy.SimpleSGDTrainer(m).update()
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m))):
        assert type(other) is cls and other.size == 3
        assert other.parameters_list()[0].as_array().tolist() == w.as_array().tolist()
        other.parameters_list()[0].set_value([5, 5])
    assert w.as_array().tolist() == [1, 1]


def raises(*_):
    raise ZeroDivisionError


OWN = {
    "__bool__": lambda self: False,
    "__len__": lambda self: 0,
    "__eq__": raises,
    "__iter__": raises,
    "__contains__": raises,
}
"""Methods of a program's own that Python calls where it is not meant."""


def trained(collection, trainer, builder):
    dy.reset_random_seed(1)
    m = collection()
    w, table = m.add_parameters((2, 2)), m.add_lookup_parameters((3, 2))
    lstm = builder(1, 2, 2, m.add_subcollection("encoder"))
    by = trainer(m)
    average, schedule = dy.MovingAverage(by), dy.schedules.Linear(by, steps=3)
    best = dy.training.Best(m)
    for _ in range(2):
        dy.renew_cg()
        x = w * table[1]
        dy.sum_elems(lstm.initial_state().transduce([x, x])[-1]).backward()
        by.update()
        schedule.step()
    best.update(1.0)
    for wrapped in (
        dy.parallel.DistributedTrainer(by),
        dy.parallel.LocalSGD(trainer(m), every=1),
    ):
        w.set_gradient([[1, 2], [3, 4]])
        wrapped.update(1)
    by.load_state(by.state())
    with average.applied():
        other = copy.deepcopy(m)
    other.copy_from(m)
    return [p.as_array().tolist() for p in (*m.parameters_list(), *other.parameters_list(), table)]


def test_what_derived_classes_define_changes_no_number():
    bases = dy.ParameterCollection, dy.AdamTrainer, dy.LSTMBuilder
    want = trained(*bases)
    for name, method in OWN.items():
        own = {name: method, "__hash__": object.__hash__}
        derived = [type("Own", (base,), {**own, "__module__": __name__}) for base in bases]
        assert trained(*derived) == want, name
