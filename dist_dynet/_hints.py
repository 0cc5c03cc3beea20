"""Names of other toolkits and what to write instead, shown when a program asks `dy`, or one of its
objects, for them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from functools import update_wrapper
from types import CellType, FunctionType
from typing import Any

WRITTEN_HERE = {
    "Adam": "AdamTrainer",
    "AdamW": "AdamWTrainer",
    "CrossEntropyLoss": "pickneglogsoftmax",
    "DistributedDataParallel": "parallel.DistributedTrainer",
    "Dropout": "dropout",
    "Embedding": "m.add_lookup_parameters",
    "Adagrad": "AdagradTrainer",
    "Adadelta": "AdadeltaTrainer",
    "Conv2d": "conv2d",
    "GRU": "GRUBuilder",
    "LSTM": "LSTMBuilder",
    "MaxPool2d": "maxpooling2d",
    "MultiheadAttention": "MultiHeadAttention",
    "RMSprop": "RMSPropTrainer",
    "RNN": "SimpleRNNBuilder",
    "MSELoss": "squared_distance",
    "Parameter": "m.add_parameters",
    "SGD": "SimpleSGDTrainer",
    "array": "inputTensor",
    "asarray": "inputTensor",
    "backward": "loss.backward",
    "bmm": "matmul",
    "cat": "concatenate",
    "concat": "concatenate",
    "from_numpy": "inputTensor",
    "full": "constant",
    "div": "cdiv",
    "hstack": "concatenate_cols",
    "linear": "affine_transform",
    "permute": "transpose",
    "view": "reshape",
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
    "BCELoss": "binary_log_loss",
    "ELU": "elu",
    "GELU": "gelu",
    "GRUCell": "GRUBuilder",
    "LSTMCell": "LSTMBuilder",
    "NLLLoss": "pickneglogsoftmax",
    "ReLU": "rectify",
    "SiLU": "silu",
    "Sigmoid": "logistic",
    "Softmax": "softmax",
    "Tanh": "tanh",
    "amax": "max_dim",
    "binary_cross_entropy": "binary_log_loss",
    "embedding": "lookup",
    "flatten": "reshape",
    "gather": "pick",
    "index_select": "select_rows",
    "multinomial": "sample_categorical",
    "normal": "random_normal",
    "reduce_mean": "mean_elems",
    "reduce_sum": "sum_elems",
    "swish": "silu",
    "tensor": "inputTensor",
}
"""A name in PyTorch or NumPy -> the one here. With a letter before the dot: of a collection m, an
expression x."""


_NO_GRADIENTS = (
    "Leave it out: a graph without backward() computes no gradients. m.eval() switches dropout off."
)
_OWN_MODEL = (
    "A model is a class of your own: its parameters are in a dy.ParameterCollection m, and a method"
    " makes the expressions. See docs/nn.md."
)
_SCHEDULES = "Learning-rate schedules are dy.schedules.Linear, Cosine, Plateau, ..."
_STARTED = "Leave it out: dy.parallel finds the ranks that mpirun has started."
_ONLY_CPU = "Leave it out: there is only the CPU."
SENTENCES = {
    "BatchNorm1d": "dy.LayerNorm(dim, m) normalises the numbers of each example.",
    "CosineAnnealingLR": _SCHEDULES,
    "DataLoader": "Use a list of batches, or dy.parallel.shard(data, batch_size).",
    "Dataset": "Data are a list of Python's, or anything that has a length and indices.",
    "LayerList": "Use a list of Python's.",
    "Module": _OWN_MODEL,
    "ModuleList": "Use a list of Python's.",
    "ReduceLROnPlateau": _SCHEDULES,
    "Sequential": "Write dy.MLP(sizes, m), or call one block after the other.",
    "StepLR": _SCHEDULES,
    "Transformer": "dy.MultiHeadAttention is its block; see examples/transformer.py.",
    "BCEWithLogitsLoss": "Write dy.binary_log_loss(dy.logistic(x), y) here.",
    "Conv1d": "Write dy.conv2d() or dy.filter1d_narrow() here.",
    "DistributedSampler": "Write dy.parallel.shard(data, batch_size) here.",
    "GradScaler": "Leave it out: bfloat16 has the range of float32.",
    "Identity": "Leave it out.",
    "TransformerEncoder": "dy.MultiHeadAttention is its block; see examples/transformer.py.",
    "Variable": "Expressions are made by functions such as dy.inputTensor().",
    "add": "Write a + b here.",
    "autocast": 'Write dy.init(precision="bf16") here.',
    "bfloat16": 'Write dy.init(precision="bf16"), which rounds operands of products.',
    "binary_cross_entropy_with_logits": "Write dy.binary_log_loss(dy.logistic(x), y) here.",
    "chunk": "Write x[begin:end] for each part here.",
    "data": "Use a list of batches, or dy.parallel.shard(data, batch_size).",
    "einsum": "Write dy.matmul(), dy.cmult() and dy.sum_dim() here.",
    "expand": "Dims that are repeated: dy.concatenate([x] * n); a batch repeats by itself.",
    "eye": "Write dy.inputTensor(numpy.eye(n)) here.",
    "float16": 'Write dy.init(precision="bf16"), which rounds operands of products.',
    "half": 'Write dy.init(precision="bf16"), which rounds operands of products.',
    "init_process_group": _STARTED,
    "kl_div": "Write dy.dot_product(p, dy.log(p) - dy.log(q)) here.",
    "l1_loss": "Write dy.l1_distance() here; it is a sum.",
    "leaky_relu": "Write dy.bmax(x, a * x) here.",
    "masked_fill": "Write dy.cmult() with a mask of ones and zeros, or dy.masked_softmax().",
    "mm": "Write a * b here.",
    "neg": "Write -x here.",
    "numpy": "Functions are names of dy itself, such as dy.tanh.",
    "ones_like": "Write dy.ones(x.dim()[0]) here.",
    "onnx": "There is no export; see docs/not_there.md.",
    "outer": "Write a * dy.transpose(b) here.",
    "prod": "Write dy.exp(dy.sum_elems(dy.log(x))) of positive numbers here.",
    "random": "Write dy.random_normal() or dy.random_uniform() here.",
    "repeat": "Write dy.concatenate([x] * n) here.",
    "set_num_threads": "Write dy.init(threads=n) here.",
    "softplus": "Write dy.logsumexp([x, 0 * x]) here.",
    "split": "Write x[begin:end] for each part here.",
    "std": "Write dy.std_dim() or dy.std_elems() here.",
    "sub": "Write a - b here.",
    "tile": "Write dy.concatenate([x] * n) here.",
    "value_and_grad": "Write loss.value(), loss.backward(), then p.grad_as_array() here.",
    "var": "Write dy.moment_elems(x, 2) - dy.square(dy.mean_elems(x)) here.",
    "xavier_uniform_": "It is the default; see init= of m.add_parameters().",
    "zeros_like": "Write dy.zeros(x.dim()[0]) here.",
    "arange": "Write dy.inputVector(range(n)) here.",
    "clamp": "Write dy.bmin() and dy.bmax() with a constant here.",
    "clip": "Write dy.bmin() and dy.bmax() with a constant here.",
    "clip_grad_norm_": "Write trainer.set_clip_threshold(norm) here; 5 is the default.",
    "clip_grad_value_": "Write trainer.set_clip_value(limit) here.",
    "compile": "Write @dy.traced before a function that is called often.",
    "cuda": _ONLY_CPU,
    "device": _ONLY_CPU,
    "dtype": "The number type is set by DIST_DYNET_DTYPE=float32 or float64.",
    "enable_grad": _NO_GRADIENTS,
    "float32": "The number type is set by DIST_DYNET_DTYPE=float32 or float64.",
    "float64": "The number type is set by DIST_DYNET_DTYPE=float32 or float64.",
    "functional": "Functions are names of dy itself, such as dy.softmax.",
    "grad": "Write loss.backward(), then p.grad_as_array() or x.gradient() here.",
    "inference_mode": _NO_GRADIENTS,
    "jit": "Write @dy.traced before a function that is called often.",
    "lr_scheduler": _SCHEDULES,
    "max": (
        "Write dy.max_dim() for the largest along a dim, dy.bmax() for those of two expressions, or"
        " x.npvalue().max() for a number."
    ),
    "min": (
        "Write dy.min_dim() for the smallest along a dim, dy.bmin() for those of two expressions,"
        " or x.npvalue().min() for a number."
    ),
    "no_grad": _NO_GRADIENTS,
    "optim": "Trainers are names of dy itself, such as dy.AdamTrainer(m).",
    "pack_padded_sequence": "Pass lengths= to transduce(); see docs/sequences.md.",
    "pad_sequence": "Pass lengths= to transduce(); see docs/sequences.md.",
    "set_grad_enabled": _NO_GRADIENTS,
    "squeeze": "Write dy.reshape(x, dims) here.",
    "unsqueeze": "Write dy.reshape(x, dims) here.",
    "utils": "See docs/migrating.md for what is written here in the place of PyTorch's names.",
    "vmap": "Write one graph per example and dy.renew_cg(autobatching=True) here.",
    "where": "Write dy.cmult() with a mask of ones and zeros here.",
}
"""A name -> what to do, where the replacement is not a single function."""


def hint(name: str) -> str:
    """A sentence for the error; empty if there is none."""
    here = WRITTEN_HERE.get(name, "")
    if not here:
        return f" {SENTENCES[name]}" if name in SENTENCES else ""
    return f" Write {here if here.split('.')[0] in ('m', 'x', 'loss') else f'dy.{here}'}() here."


def explain_name(error: BaseException) -> None:
    """Appends that sentence to Python's error about a name that the package does not have. After
    many expressions the package has no __getattr__ that could do so."""
    if type(error) is not AttributeError or error.obj is not sys.modules[__package__]:
        return
    sentence = hint(error.name or "")
    if sentence:
        error.obj = None  # otherwise Python suggests one of our names that looks similar
        if not str(error).endswith(sentence):
            error.args = (f"{error}.{sentence}",)


OF_EXPRESSIONS = {
    "T": "dy.transpose()",
    "argmax": "x.npvalue().argmax()",
    "clamp": "dy.bmin() and dy.bmax() with a constant",
    "clone": "Leave it out: expressions never change.",
    "cpu": _ONLY_CPU,
    "cuda": _ONLY_CPU,
    "data": "x.npvalue()",
    "device": _ONLY_CPU,
    "dtype": "x.npvalue().dtype",
    "exp": "dy.exp()",
    "flatten": "dy.reshape()",
    "float": _ONLY_CPU.replace("only the CPU", "one number type"),
    "log": "dy.log()",
    "matmul": "a * b",
    "max": "dy.max_dim(), dy.bmax() or x.npvalue().max()",
    "min": "dy.min_dim(), dy.bmin() or x.npvalue().min()",
    "ndim": "len(x.dim()[0])",
    "norm": "dy.l2_norm()",
    "permute": "dy.transpose()",
    "pow": "x ** n",
    "relu": "dy.rectify()",
    "repeat": "dy.concatenate([x] * n)",
    "requires_grad": "p.is_updated()",
    "sigmoid": "dy.logistic()",
    "softmax": "dy.softmax()",
    "sqrt": "dy.sqrt()",
    "squeeze": "dy.reshape()",
    "tanh": "dy.tanh()",
    "to": _ONLY_CPU,
    "transpose": "dy.transpose()",
    "unsqueeze": "dy.reshape()",
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
    "children": "m.named_parameters()",
    "cpu": _ONLY_CPU,
    "cuda": _ONLY_CPU,
    "modules": "m.named_parameters()",
    "requires_grad_": "p.set_updated()",
    "to": _ONLY_CPU,
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
    "cuda": _ONLY_CPU,
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
    "to": _ONLY_CPU,
    "weight": "get_parameters()",
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
    "init": _STARTED,
    "init_process_group": _STARTED,
    "shutdown": "Leave it out: MPI ends with the program.",
    "size": "dy.parallel.world_size()",
    "spawn": "Start the script by `dist-dynet run -n 2 train.py`, or by mpirun.",
}
"""A name of dy.parallel, as of PyTorch, Horovod and mpi4py."""
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


def of_parallel(name: str) -> str:
    """A sentence for the error of dy.parallel; empty if there is none."""
    here = OF_PARALLEL.get(name, "")
    return f" {_sentence(here)}" if here else ""


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
    """Makes the errors of a class say what to write instead of these attributes."""
    for name, here in attributes.items():
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
