"""Names of other toolkits and what to write instead, shown when a program asks `dy`, or one of its
objects, for them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from functools import update_wrapper
from types import CellType, FunctionType
from typing import Any

from ._foreign_names import ONLY_CPU, SENTENCES, STARTED, WRITTEN_HERE


def hint(name: str) -> str:
    """A full stop and a sentence, behind the error; empty if there is none, so that Python may
    suggest a name."""
    here = WRITTEN_HERE.get(name, "")
    if not here:
        return f". {SENTENCES[name]}" if name in SENTENCES else ""
    return f". Write {here if here.split('.')[0] in ('m', 'x', 'loss') else f'dy.{here}'}() here."


def explain_name(error: BaseException) -> None:
    """Appends that sentence to Python's error about a name that the package does not have. After
    many expressions the package has no __getattr__ that could do so."""
    if type(error) is not AttributeError or error.obj is not sys.modules[__package__]:
        return
    sentence = hint(error.name or "")
    if sentence:
        error.obj = None  # otherwise Python suggests one of our names that looks similar
        if not str(error).endswith(sentence):
            error.args = (f"{error}{sentence}",)


OF_EXPRESSIONS = {
    "T": "dy.transpose()",
    "argmax": "x.npvalue().argmax()",
    "clone": "Leave it out: expressions never change.",
    "cpu": ONLY_CPU,
    "data": "x.npvalue()",
    "dtype": "x.npvalue().dtype",
    "float": ONLY_CPU.replace("only the CPU", "one number type"),
    **dict.fromkeys(("bool", "int", "long"), "x.npvalue()"),
    "matmul": "a * b",
    "ndim": "len(x.dim()[0])",
    "pow": "x ** n",
    "register_hook": "x.gradient() after backward(full=True), or dy.function()",
    "retain_grad": "x.gradient() after backward(full=True)",
    "requires_grad": "p.is_updated()",
    "to": ONLY_CPU,
    "detach": "dy.nobackprop()",
    "grad": "x.gradient()",
    "item": "x.value()",
    "numpy": "x.npvalue()",
    "shape": "x.dim()",
    "size": "x.dim()",
    "t": "dy.transpose()",
    "tolist": "x.value()",
}
OF_PARAMETERS = {
    "copy_": "p.set_value()",
    "data": "p.as_array()",
    "grad": "p.grad_as_array() or p.set_gradient()",
    "numpy": "p.as_array()",
    "requires_grad_": "p.set_updated()",
    "values": "p.as_array()",
    "weight": "p.as_array()",
}
OF_TABLES = OF_PARAMETERS | dict.fromkeys(("copy_", "set_value"), "E.init_from_array()")
OF_PARAMETERS["init_from_array"] = "p.set_value()"
_EACH = "p.set_updated(False) for each p of {}named_parameters().values()"
OF_COLLECTIONS = {
    "children": "m.named_parameters()",
    "cpu": ONLY_CPU,
    "cuda": ONLY_CPU,
    "apply": "p.set_value() for each p of m.named_parameters().values()",
    "get_parameter": "m.named_parameters()[name]",
    "modules": "m.named_parameters()",
    "requires_grad_": _EACH.format("m."),
    "set_updated": _EACH.format("m."),
    "to": ONLY_CPU,
    "load": "m.populate()",
    "load_state_dict": "m.populate()",
    "parameters": "m.parameters_list()",
    "state_dict": "m.save()",
    "zero_grad": "m.reset_gradients()",
}
OF_TRAINERS = {
    "load_state_dict": "trainer.load_state()",
    "lr": "trainer.learning_rate",
    "param_groups": "trainer.learning_rate, or one trainer for each collection",
    "state_dict": "trainer.state()",
    "step": "trainer.update()",
    "zero_grad": "Leave it out: update() forgets the gradients.",
}
OF_OWNERS = {
    "cuda": ONLY_CPU,
    "forward": "Call the block, or initial_state() of a recurrent builder.",
    "load_state_dict": "dy.load(), or param_collection().populate()",
    "named_parameters": "param_collection().named_parameters()",
    "parameters": "get_parameters(), or param_collection().parameters_list()",
    "state_dict": "dy.save(), or param_collection().save()",
    "hidden_size": "hidden_dim",
    "in_features": "input_dim",
    "input_size": "input_dim",
    "num_layers": "layers",
    "out_features": "output_dim",
    "requires_grad_": _EACH.format("param_collection()."),
    "set_updated": _EACH.format("param_collection()."),
    "to": ONLY_CPU,
    **dict.fromkeys(("W", "b", "weight"), "get_parameters()"),
}
OF_PARALLEL = {
    "DistributedDataParallel": "dy.parallel.DistributedTrainer()",
    "DistributedOptimizer": "dy.parallel.DistributedTrainer()",
    "DistributedSampler": "dy.parallel.shard()",
    "all_gather": "dy.parallel.gather()",
    "allgather": "dy.parallel.gather()",
    "allreduce": "dy.parallel.all_reduce()",
    "bcast": "dy.parallel.broadcast_parameters(), or gather(value)[0] of other values",
    "broadcast": "dy.parallel.broadcast_parameters(), or gather(value)[0] of other values",
    "destroy_process_group": "Leave it out: MPI ends with the program.",
    "get_rank": "dy.parallel.rank()",
    "get_world_size": "dy.parallel.world_size()",
    "init": STARTED,
    "init_process_group": STARTED,
    "shutdown": "Leave it out: MPI ends with the program.",
    "size": "dy.parallel.world_size()",
    "spawn": "Start the script by `dist-dynet run -n 2 train.py`, or by mpirun.",
}
"""A name of dy.parallel, as of PyTorch, Horovod and mpi4py."""
OF_VOCABULARIES = {
    **dict.fromkeys(("get", "index", "stoi", "token_to_id", "w2i"), "words[name]"),
    **dict.fromkeys(("encode", "lookup_indices"), "words.ids(names)"),
    **dict.fromkeys(("i2w", "id_to_token", "itos"), "words.name(number)"),
}
OF_SCHEDULES = {"get_last_lr": "trainer.learning_rate"}
OF_RECURRENT_BUILDERS = {
    name: f"builder.initial_state().{name}()" for name in ("add_input", "add_inputs", "transduce")
}
OF_BIRNN_BUILDERS = {"initial_state": "birnn.transduce(), or birnn.add_inputs()"}
"""An attribute in PyTorch, NumPy or old DyNet -> what is written here, or a sentence."""
ARGUMENTS_OF_TRAINERS = {
    "betas": "beta_1= and beta_2=",
    "lr": "learning_rate=",
    "momentum": "mom= of MomentumSGDTrainer",
    "params": "the collection, as the first argument",
    "weight_decay": "m.set_weight_decay() of the collection, or AdamWTrainer",
}
"""The same for arguments of constructors."""


def of_functions(functions: Iterable[str]) -> dict[str, str]:
    """Of an expression's attributes: functions of `dy`, and what is written for those of other
    toolkits."""
    theirs = [name for name in (*WRITTEN_HERE, *SENTENCES) if name[0].islower()]
    return {name: f"dy.{name}()" for name in functions} | {n: hint(n)[2:] for n in theirs}


def of_parallel(name: str) -> str:
    """The same behind the error of dy.parallel."""
    here = OF_PARALLEL.get(name, "")
    return f". {_sentence(here)}" if here else ""


def _sentence(here: str) -> str:
    return here if here.endswith(".") else f"Write {here} here."


class _Elsewhere:
    """A descriptor for an attribute that the class does not have; reading it raises the error with
    the hint. Unlike a __getattr__ it costs nothing for other attributes.

    Objects of subclasses without __slots__ may have an attribute of that name.
    """

    def __init__(self, name: str, here: str) -> None:
        self.name, self.words = name, _sentence(here)

    def __get__(self, owner: object, cls: type) -> Any:
        own: dict[str, Any] = getattr(owner, "__dict__", {})
        if self.name not in own:
            raise AttributeError(
                f"{cls.__name__!r} object has no attribute {self.name!r}. {self.words}",
                name=self.name,
                obj=owner,
            )
        return own[self.name]

    def __set__(self, owner: object, value: object) -> None:
        if not hasattr(owner, "__dict__"):
            self.__get__(owner, type(owner))
        vars(owner)[self.name] = value


def explain_arguments(cls: Any, arguments: dict[str, str]) -> None:
    """Makes constructors of this class and its subclasses say what to write instead of these
    arguments."""

    def new(kind: Any, *given: Any, **named: Any) -> Any:
        for name in named.keys() & arguments.keys():
            if name not in inspect.signature(kind.__init__).parameters:
                raise TypeError(
                    f"{kind.__name__}: there is no argument {name}. Write {arguments[name]} here."
                )
        return object.__new__(kind)

    cls.__new__ = staticmethod(new)


def _names(thing: object) -> list[str]:
    """What dir() shows: all names except those with hints."""
    classes = type(thing).__mro__
    found = (
        (name, next((vars(c)[name] for c in classes if name in vars(c)), None))
        for name in object.__dir__(thing)
    )
    return [name for name, attribute in found if not isinstance(attribute, _Elsewhere)]


def explain(cls: Any, attributes: dict[str, str]) -> None:
    """Makes the errors of a class say what to write instead of these attributes, of those that it
    does not have."""
    for name, here in attributes.items():
        if not hasattr(cls, name):
            setattr(cls, name, _Elsewhere(name, here))
    cls.__dir__ = _names


def name_as_users_do(things: Iterable[Any]) -> None:
    """Makes Python's own errors about arguments name the class that a program has called.
    Constructors that these classes inherit become their own, and methods of private classes, above
    and below these, lose the name of their class.

    >>> class _Shared:
    ...     def __init__(self, m): ...
    ...     def scale(self, factor): ...
    >>> class Net(_Shared): ...
    >>> name_as_users_do([Net])
    >>> Net()
    Traceback (most recent call last):
    TypeError: Net.__init__() missing 1 required positional argument: 'm'
    >>> Net(1).scale()
    Traceback (most recent call last):
    TypeError: scale() missing 1 required positional argument: 'factor'
    """
    classes = [thing for thing in things if isinstance(thing, type)]
    for cls in classes:
        for base in (*cls.__mro__[1:-1], *cls.__subclasses__()):
            if base not in classes and base.__module__.startswith("dist_dynet."):
                for name, method in vars(base).items():
                    method = getattr(method, "__func__", method)
                    if isinstance(method, FunctionType) and not name.startswith("_"):
                        method.__qualname__ = name
        init: Any = cls.__init__  # type: ignore[misc]
        if isinstance(init, FunctionType) and "__init__" not in vars(cls):
            cls.__init__ = constructor_of(cls, init)  # type: ignore[misc]


def constructor_of(cls: type, inherited: FunctionType) -> FunctionType:
    """A copy of an inherited constructor, and of what it wraps, under the name of this class."""
    closure = inherited.__closure__ or ()
    wrapped: Any = getattr(inherited, "__wrapped__", None)
    if any(cell.cell_contents is wrapped for cell in closure):
        cell = CellType(constructor_of(cls, wrapped))
        closure = tuple(cell if c.cell_contents is wrapped else c for c in closure)
    own = FunctionType(
        inherited.__code__, inherited.__globals__, "__init__", inherited.__defaults__, closure
    )
    own.__kwdefaults__ = inherited.__kwdefaults__
    update_wrapper(own, inherited).__qualname__ = f"{cls.__name__}.__init__"
    return own
