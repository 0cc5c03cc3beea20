"""Names that other toolkits have, and what is written here in their place: read when somebody asks
`dy`, or one of its objects, for them."""

from __future__ import annotations

from typing import Any

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
"""A name in PyTorch or NumPy -> the one here. With a letter before the dot: of a collection m, an
expression x."""


def hint(name: str) -> str:
    """A sentence for the error, or nothing."""
    here = WRITTEN_HERE.get(name, "")
    if not here:
        return ""
    return f" Write {here if here.split('.')[0] in ('m', 'x', 'loss') else f'dy.{here}'}() here."


OF_EXPRESSIONS = {
    "T": "dy.transpose()",
    "argmax": "x.npvalue().argmax()",
    "detach": "dy.nobackprop()",
    "grad": "x.gradient()",
    "item": "x.value()",
    "mean": "dy.mean_elems()",
    "numpy": "x.npvalue()",
    "reshape": "dy.reshape()",
    "shape": "x.dim()",
    "size": "x.dim()",
    "sum": "dy.sum_elems()",
    "t": "dy.transpose()",
    "tolist": "x.value()",
    "view": "dy.reshape()",
}
OF_PARAMETERS = {
    "data": "p.as_array()",
    "grad": "p.grad_as_array() or p.set_gradient()",
    "requires_grad_": "p.set_updated()",
    "weight": "p.as_array()",
}
OF_COLLECTIONS = {
    "load_state_dict": "m.populate()",
    "parameters": "m.parameters_list()",
    "state_dict": "m.save()",
    "zero_grad": "m.reset_gradients()",
}
OF_TRAINERS = {
    "lr": "trainer.learning_rate",
    "step": "trainer.update()",
    "zero_grad": "Leave it out: update() forgets the gradients.",
}
"""An attribute in PyTorch, NumPy or old DyNet -> what is written here, or a sentence."""


class _Elsewhere:
    """Stands in a class for an attribute that it does not have. Unlike a __getattr__ it costs
    nothing at other attributes.

    Objects of subclasses without __slots__ may have an attribute of that name.
    """

    def __init__(self, name: str, here: str) -> None:
        self.name, self.words = name, here if here.endswith(".") else f"Write {here} here."

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


def _names(thing: object) -> list[str]:
    """What dir() shows: all but these."""
    classes = type(thing).__mro__
    found = (
        (name, next((vars(c)[name] for c in classes if name in vars(c)), None))
        for name in object.__dir__(thing)
    )
    return [name for name, attribute in found if not isinstance(attribute, _Elsewhere)]


def explain(cls: Any, attributes: dict[str, str]) -> None:
    """Lets the errors of a class say what is written in the place of these attributes."""
    for name, here in attributes.items():
        setattr(cls, name, _Elsewhere(name, here))
    cls.__dir__ = _names
