"""Builds a case of the op table in a new graph and reads its value and gradients, in the arrays'
form (dims..., batch)."""

import numpy as np

import dist_dynet as dy
from dist_dynet._ffi import DTYPE, OPS, lib

NAMES = {number: name for name, number in OPS.items()}


def drawn(row, case, rng):
    """Arrays for the inputs of a case, exact in the build's number type."""
    with np.errstate(all="ignore"):
        return [
            a.astype(DTYPE).astype(np.float64)
            for a in row.sample(rng, case.inputs, **case.attributes)
        ]


def expected(row, arrays, attributes):
    with np.errstate(all="ignore"):
        return np.asarray(row.reference(*arrays, **attributes), dtype=np.float64)


def array_of(expression):
    """The value of an expression as dims..., batch."""
    dims, batch = expression.dim()
    return expression.npvalue().reshape((*dims, batch), order="F")


def kept(collection, spec, array, parameters):
    """What outlives graphs of an input: a parameter, a table, or an array, of data without a batch
    without that axis. `parameters`: so are unbatched tensors."""
    if spec.kind == "parameter" or (spec.kind == "tensor" and parameters and spec.batch == 1):
        return collection.parameters_from_numpy(array[..., 0])
    if spec.kind == "table":
        return collection.lookup_parameters_from_numpy(np.moveaxis(array[..., 0], -1, 0))
    return array if spec.kind == "tensor" or spec.batch > 1 else array[..., 0]


class Run:
    """A case in a new graph. `parameters`: unbatched tensors are parameters. `shared`: the first
    two inputs are one expression."""

    def __init__(self, row, case, arrays, parameters=False, shared=False):
        self.row, self.case = row, case
        if row.reference is None:
            dy.reset_random_seed(1)  # the same draws in every run
        dy.renew_cg()
        self.collection = dy.ParameterCollection()
        self.inputs = [
            self._input(spec, a, parameters) for spec, a in zip(case.inputs, arrays, strict=True)
        ]
        if shared:
            self.inputs[1] = self.inputs[0]
        self.expression = self.build()

    def _input(self, spec, array, parameters):
        x = kept(self.collection, spec, array, parameters)
        is_input = spec.kind == "tensor" and isinstance(x, np.ndarray)
        return dy.inputTensor(x, batched=True, reusable_expr=True) if is_input else x

    def build(self):
        """One more node of the same inputs."""
        return self.row.build(*self.inputs, **self.case.attributes)

    def value(self):
        return array_of(self.expression)

    def loss(self, w, expression=None):
        """The sum of w times the value."""
        expression = self.expression if expression is None else expression
        return dy.sum_batches(dy.dot_product(expression, dy.inputTensor(w, batched=True)))

    def gradients(self, w):
        """Those of the sum of w times the value with respect to each input (data: zeros)."""
        self.collection.reset_gradients()
        self.loss(w).backward(full=True)
        return self.read_gradients()

    def read_gradients(self):
        return [
            self._gradient(spec, x) for spec, x in zip(self.case.inputs, self.inputs, strict=True)
        ]

    @staticmethod
    def _gradient(spec, x):
        if spec.kind == "data":
            return np.zeros(spec.shape)
        if isinstance(x, dy.LookupParameters):
            return np.moveaxis(x.grad_as_array(), 0, -1)[..., None]
        if isinstance(x, dy.Parameters):
            return x.grad_as_array()[..., None]
        return x.gradient().reshape(spec.shape, order="F")

    @staticmethod
    def ops():
        """The names of the operations of the graph's nodes."""
        graph = dy.cg()
        return {NAMES[lib.dn_node_op(graph.expression(i)._h)] for i in range(len(graph))}


def element(case, arrays, b, batched_attributes):
    """Batch element b alone: a case without batch, and its arrays."""
    inputs = tuple(type(i)(i.dims, 1, i.kind) for i in case.inputs)
    attributes = {k: [v[b]] if k in batched_attributes else v for k, v in case.attributes.items()}
    return type(case)(inputs, attributes), [
        a[..., b : b + 1] if a.shape[-1] > 1 else a for a in arrays
    ]
