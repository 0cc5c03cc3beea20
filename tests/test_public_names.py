"""What is made for users can be had by users: it is in __all__ of its module or package, and a
document names it.

A message names the file to edit.
"""

import inspect
import re
from importlib import import_module
from pathlib import Path
from types import WrapperDescriptorType

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet import nn, ops, params, schedules, trainers
from dist_dynet.nn.owner import Owner
from dist_dynet.trainers.following import FollowsTrainer

DOCUMENTS = Path(__file__).resolve().parents[1] / "docs"
FOR_BUILDERS = {"concatenate_pairs", "lstm_gates", "masked"}
"""Functions of the families that only dist_dynet.nn calls."""


def own(module, kind):
    """{name: what is defined in a module}, of one kind, without what begins with an underscore."""
    found = {name: thing for name, thing in vars(module).items() if kind(thing)}
    return {
        name: thing
        for name, thing in found.items()
        if thing.__module__ == module.__name__ and not name.startswith("_")
    }


def file_of(package):
    return f"{package.__name__.replace('.', '/')}{'/__init__' * hasattr(package, '__path__')}.py"


def modules(package):
    """The modules of a package, or a module itself."""
    if not hasattr(package, "__path__"):
        return [package]
    files = sorted(Path(package.__file__).parent.glob("[a-z]*.py"))
    return [import_module(f"{package.__name__}.{path.stem}") for path in files]


def class_gaps(package, found):
    """Classes that are not in __all__ of their package, and not there to derive others from."""
    bases = {base for c in found.values() for base in c.__mro__[1:]}
    file = file_of(package)
    return [
        f"{file}: does not import {name} of {c.__module__}, or does not have it in __all__"
        for name, c in found.items()
        if not (name in package.__all__ and hasattr(package, name)) and c not in bases
    ]


@pytest.mark.parametrize(
    ("package", "base", "page"),
    [
        (nn, Owner, "nn.md"),
        (trainers, trainers.Trainer, "training.md"),
        (trainers, FollowsTrainer, "training.md"),
        (params, dy.PyInitializer, "training.md"),
        (schedules, schedules._Schedule, "training.md"),
    ],
)
def test_classes_are_in_all_of_their_package_and_in_its_document(package, base, page):
    classes = [own(module, inspect.isclass) for module in modules(package)]
    found = {name: c for each in classes for name, c in each.items() if issubclass(c, base)}
    assert len(found) >= (2 if base is FollowsTrainer else 5)
    gaps = class_gaps(package, found)
    text = (DOCUMENTS / page).read_text()
    bases = {base.__name__ for c in found.values() for base in c.__mro__[1:]}
    gaps += [
        f"docs/{page}: does not name {name}"
        for name in found
        if name in package.__all__ and not (name in bases or re.search(rf"\b{name}\b", text))
    ]
    assert not gaps, "\n".join(gaps)


def test_a_class_that_is_left_out_is_reported():
    class Unlisted(trainers.AdamTrainer):
        pass

    (gap,) = class_gaps(trainers, {"Unlisted": Unlisted, "AdamTrainer": trainers.AdamTrainer})
    assert gap.startswith("dist_dynet/trainers/__init__.py: does not import Unlisted")


@pytest.mark.fast_paths  # which stand for functions that are not public
@pytest.mark.parametrize("family", ops.FAMILIES)
def test_operations_are_in_all_of_their_module(family):
    known = {*family.__all__, *FOR_BUILDERS}
    missing = [name for name in own(family, inspect.isfunction) if name not in known]
    assert not missing, f"{file_of(family)}: __all__ leaves out {missing}"


def public_classes():
    """Those that users name, each once."""
    modules = (dy, dy.io, dy.parallel, dy.schedules, dy.training)
    named = {getattr(module, name) for module in modules for name in module.__all__}
    return sorted({c for c in named if inspect.isclass(c)}, key=lambda c: c.__name__)


def called_by_users(cls):
    """{name: function}: the constructor and the methods of a class that Python code is."""
    names = [n for n in dir(cls) if n in ("__init__", "__call__") or not n.startswith("_")]
    found = {name: getattr(cls, name, None) for name in names}  # some exist to raise an error
    return {n: f for n, f in found.items() if inspect.isroutine(f)}


@pytest.mark.parametrize(
    "cls",
    sorted({*public_classes(), *dy.Expression.__subclasses__()}, key=lambda cls: cls.__name__),
    ids=lambda cls: cls.__name__,
)
def test_what_python_says_of_arguments_names_what_users_see(cls):
    public = {c.__name__ for c in public_classes()}
    for name, method in called_by_users(cls).items():
        method = getattr(method, "__func__", method)
        module = getattr(method, "__module__", None) or method.__objclass__.__module__
        if module.startswith("dist_dynet") and not isinstance(method, WrapperDescriptorType):
            *classes, last = method.__qualname__.split(".")
            known = public if name != "__init__" else public | {cls.__name__}
            assert last == name and known.issuperset(classes), method.__qualname__
            is_constructor = name == "__init__" and cls.__name__ in public
            assert not is_constructor or classes == [cls.__name__], method.__qualname__


def public_functions():
    """{name: function}: those of Python that users call, and methods by their class."""
    methods = {
        f"{c.__name__}.{name}": inspect.unwrap(getattr(f, "__func__", f))
        for c in public_classes()
        for name, f in called_by_users(c).items()
    }
    modules = (dy, dy.io, dy.parallel, dy.schedules, dy.training)
    functions = {name: getattr(module, name) for module in modules for name in module.__all__}
    return {name: f for name, f in {**functions, **methods}.items() if inspect.isfunction(f)}


def test_defaults_are_never_changed():
    """One that can be changed belongs to all calls together, and remembers earlier ones."""
    wrong = [
        f"{f.__module__.replace('.', '/')}.py: the default of {argument.name} of {name}"
        for name, f in public_functions().items()
        for argument in inspect.signature(f).parameters.values()
        if isinstance(argument.default, list | dict | set | bytearray | np.ndarray)
    ]
    assert not wrong, f"make these None, and what they mean in each call: {wrong}"


def test_whatever_uses_parameters_trains_them_by_default():
    found = {
        name: inspect.signature(f).parameters["update"].default
        for name, f in public_functions().items()
        if "update" in inspect.signature(f).parameters
    }
    untrained = {name for name, update in found.items() if update is not True}
    assert len(found) > 50 and untrained == {"Parameters.expr"}
