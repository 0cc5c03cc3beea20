"""Names that other toolkits have, and what is written here in their place: read when somebody asks `dy` for a name that it does not have."""

from __future__ import annotations

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
