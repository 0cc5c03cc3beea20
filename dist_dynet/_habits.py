"""Names that other toolkits have, and what is written here in their place: read when somebody asks for a name that is not there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

WRITTEN_HERE = {
    "Adam": "AdamTrainer",
    "AdamW": "AdamWTrainer",
    "CrossEntropyLoss": "pickneglogsoftmax",
    "DistributedDataParallel": "parallel.DistributedTrainer",
    "Dropout": "dropout",
    "Embedding": "m.add_lookup_parameters",
    "GRU": "GRUBuilder",
    "LSTM": "LSTMBuilder",
    "MSELoss": "squared_distance",
    "Parameter": "m.add_parameters",
    "SGD": "SimpleSGDTrainer",
    "array": "inputTensor",
    "backward": "loss.backward",
    "bmm": "matmul",
    "cat": "concatenate",
    "dot": "dot_product",
    "manual_seed": "reset_random_seed",
    "matrix": "inputTensor",
    "maximum": "bmax",
    "mean": "mean_elems",
    "minimum": "bmin",
    "mse_loss": "squared_distance",
    "mul": "cmult",
    "nll_loss": "pickneglogsoftmax",
    "norm": "l2_norm",
    "rand": "random_uniform",
    "randn": "random_normal",
    "relu": "rectify",
    "seed": "reset_random_seed",
    "sigmoid": "logistic",
    "stack": "concatenate_cols",
    "sum": "sum_elems",
    "value": "x.value",
    "vector": "inputVector",
}
"""A name in PyTorch or NumPy -> the one here. With a letter before the dot: of a collection m, an expression x."""


def hint(name: str) -> str:
    """A sentence for the error, or nothing."""
    here = WRITTEN_HERE.get(name, "")
    if not here:
        return ""
    return f" Write {here if here.split('.')[0] in ('m', 'x', 'loss') else f'dy.{here}'}() here."


class NotHere:
    """A name that a class does not have, though users of other toolkits look for it there: reading and setting it says what to do instead.

    Objects of subclasses without __slots__ may have an attribute of that name.
    """

    def __init__(self, instead: str) -> None:
        self._instead = instead
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, thing: object, owner: type) -> Any:
        own: dict[str, Any] = getattr(thing, "__dict__", {})
        if self._name not in own:
            raise AttributeError(f"{owner.__name__!r} object has no attribute {self._name!r}. {self._instead}", name=self._name, obj=thing)
        return own[self._name]

    def __set__(self, thing: object, value: Any) -> None:
        if not hasattr(thing, "__dict__"):
            self.__get__(thing, type(thing))
        vars(thing)[self._name] = value


class TrainerHabits:
    """What trainers do not have."""

    __slots__ = ()
    if not TYPE_CHECKING:  # type checkers say so by themselves
        lr = NotHere("Write learning_rate.")
        step = NotHere("Write update().")
        update_epoch = NotHere("Leave it out: in DyNet it does nothing.")
        zero_grad = NotHere("Leave it out: update() forgets the gradients.")
