"""What users feed into a graph: numbers, vectors, tensors, constants."""

import numpy as np

import dist_dynet as dy

from .row import Row, case, data, refuses, tensor


def fixed(*value):
    """A reference that is always this vector (or nested list: matrix), unbatched."""
    return lambda: np.array(value, float)[..., None]


def filled(value):
    return lambda dim, batch: np.full(
        (*([dim] if isinstance(dim, int) else dim), batch), float(value)
    )


def nested_dense(x):
    """The array with the batch as last axis if it has one, as a Fortran-ordered and non-contiguous
    array."""
    return np.repeat(np.asfortranarray(x), 2, axis=0)[::2]


def flat_list(x, batch=1):
    return dy.inputTensorTranspose(x.ravel("F").tolist(), x.shape[: x.ndim - (batch > 1)], batch)


DIMS = [
    case(dim=1, batch=1),
    case(dim=5, batch=1),
    case(dim=(2, 3), batch=1),
    case(dim=[2, 3, 2], batch=3),
    case(dim=1, batch=3),
]
ARRAYS = [case(data(1)), case(data(5)), case(data(3, 4)), case(data(2, 3, 2))]
BATCHED = [case(data(1, batch=3)), case(data(5, batch=3)), case(data(3, 4, batch=3))]
plain = {"has_gradient": False, "per_element": False}


ROWS = [
    Row(
        "input",
        "scalarInput",
        lambda: dy.scalarInput(2.5),
        fixed(2.5),
        [case()],
        **plain,
        errors=[
            refuses(lambda: dy.scalarInput("a"), TypeError, "."),
            refuses(lambda: dy.scalarInput(None), TypeError, "."),
            refuses(
                lambda: dy.scalarInput(1, device="GPU:0"),
                ValueError,
                "^scalarInput: everything is computed on the CPU; got .*GPU:0",
            ),
        ],
    ),
    Row(
        "input",
        "vecInput",
        lambda: dy.vecInput(3),
        fixed(0, 0, 0),
        [case()],
        **plain,
        errors=[
            refuses(
                lambda: dy.vecInput(-1), ValueError, "^vecInput: dims must not be negative; got -1"
            ),
            refuses(lambda: dy.vecInput("a"), TypeError, "."),
            refuses(lambda: dy.vecInput(2.5), TypeError, "^vecInput: dim must be an integer"),
            refuses(
                lambda: dy.vecInput(2, device="GPU:0"),
                ValueError,
                "^vecInput: everything is computed on the CPU",
            ),
            refuses(
                lambda: dy.vecInput(3).set([1, 2]),
                ValueError,
                r"^set: the number of values must equal the size of the input; got 2 values for"
                r" \(3,\)",
            ),
        ],
    ),
    Row(
        "input",
        "inputVector",
        lambda: dy.inputVector([1, 2.5]),
        fixed(1, 2.5),
        [case()],
        **plain,
        errors=[
            refuses(lambda: dy.inputVector(["a"]), TypeError, "."),
            refuses(lambda: dy.inputVector(None), TypeError, "^inputVector: takes numbers"),
            refuses(lambda: dy.inputVector("abc"), TypeError, "^inputVector: takes numbers"),
            refuses(
                lambda: dy.inputVector(3),
                TypeError,
                "^inputVector: takes a vector of numbers; got one number",
            ),
            refuses(
                lambda: dy.inputVector(np.ones((2, 1))),
                TypeError,
                r"^inputVector: takes a vector of numbers; got shape \(2, 1\)",
            ),
            refuses(
                lambda: dy.inputVector([1], device="GPU:0"),
                ValueError,
                "^inputVector: everything is computed on the CPU",
            ),
            refuses(lambda: dy.inputVector([1, None]), TypeError, "."),
            refuses(
                lambda: dy.inputVector((1, None)),
                TypeError,
                r"^inputVector: takes numbers; got \(1, None\)",
            ),
        ],
    ),
    Row(
        "input",
        "inputVector of an array",
        lambda x: dy.inputVector(x),
        lambda x: x,
        [case(data(1)), case(data(5))],
        **plain,
    ),
    Row(
        "input",
        "inputVector of a tuple",
        lambda: dy.inputVector((1, 2)),
        fixed(1, 2),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "inputVector of a generator",
        lambda: dy.inputVector(i for i in range(3)),
        fixed(0, 1, 2),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "vecInput of a whole float",
        lambda: dy.vecInput(2.0, device="CPU"),
        fixed(0, 0),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "inputTensor",
        lambda x: dy.inputTensor(x),
        lambda x: x,
        ARRAYS,
        **plain,
        errors=[
            refuses(
                lambda: dy.inputTensor(3.0),
                TypeError,
                "^inputTensor: takes an array or a nested list; got a single number",
            ),
            refuses(
                lambda: dy.inputTensor([]), ValueError, "^inputTensor: the array has no elements"
            ),
            refuses(
                lambda: dy.inputTensor([[1, None]]),
                TypeError,
                r"^inputTensor: takes .* numbers; got \[\[1, None\]\]",
            ),
            refuses(
                lambda: dy.inputTensor(["1.5"]),
                TypeError,
                "^inputTensor: takes an array or a nested list of numbers; got",
            ),
            refuses(
                lambda: dy.inputTensor(np.array([1j])),
                TypeError,
                "^inputTensor: takes an array or a nested list of numbers; got",
            ),
            refuses(
                lambda: dy.inputTensor([["a"]]),
                TypeError,
                "^inputTensor: takes an array or a nested list of numbers",
            ),
            refuses(
                lambda: dy.inputTensor([[1, 2], [3]]),
                TypeError,
                "^inputTensor: takes an array or a nested list of numbers",
            ),
            refuses(
                lambda: dy.inputTensor(np.zeros((1,) * 8)),
                ValueError,
                "^inputTensor: at most 7 dims; got 8",
            ),
            refuses(
                lambda: dy.inputTensor(np.array(3.0)),
                TypeError,
                "^inputTensor: takes an array or a nested list; got a single number",
            ),
            refuses(
                lambda: dy.inputTensor([np.ones(2), np.ones(3)]),
                ValueError,
                "^inputTensor: arrays that are to be one batch",
            ),
            refuses(
                lambda: dy.inputTensor([1, 2], device="GPU:0"),
                ValueError,
                "^inputTensor: everything is computed on the CPU",
            ),
            refuses(
                lambda: dy.inputTensor([1, 2]).set([3, 4]),
                ValueError,
                r"^set: this tensor input was not made to be set anew.*reusable_expr=True",
            ),
            refuses(
                lambda: dy.inputTensor([1, 2], reusable_expr=True).set([3, 4, 5]),
                ValueError,
                "^set: the number of values",
            ),
        ],
    ),
    Row(
        "input",
        "inputTensor with a batch",
        lambda x: dy.inputTensor(x, batched=True),
        lambda x: x,
        BATCHED,
        **plain,
    ),
    Row(
        "input",
        "inputTensor of integers",
        lambda: dy.inputTensor([[1, 2], [3, 4]]),
        fixed([1, 2], [3, 4]),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "inputTensor of any memory order",
        lambda x: dy.inputTensor(nested_dense(x)),
        lambda x: x,
        ARRAYS,
        **plain,
    ),
    Row(
        "input",
        "inputTensor of a list of arrays",
        lambda x: dy.inputTensor([x[..., b] for b in range(x.shape[-1])], batched=True),
        lambda x: x,
        BATCHED,
        **plain,
    ),
    Row(
        "input",
        "inputTensor of a list of arrays, which is always a batch",
        lambda x: dy.inputTensor([x[..., b] for b in range(x.shape[-1])]),
        lambda x: x,
        BATCHED,
        **plain,
    ),
    Row(
        "input",
        "inputTensor of a list of arrays without dims, a batch of numbers",
        lambda: dy.inputTensor([np.array(k) for k in (1.5, 2, 3)]),
        lambda: np.array([[1.5, 2, 3]]),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "inputTensor of a list of arrays and lists, which is one matrix",
        lambda: dy.inputTensor([np.array([1, 2, 3]), [4, 5, 6]]),
        fixed([1, 2, 3], [4, 5, 6]),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "inputTensor of other number types",
        lambda dtype: dy.inputTensor(np.array([[1, 0, 3], [0, 5, 6]], dtype), batched=True),
        lambda dtype: np.array([[1, 0, 3], [0, 5, 6]], dtype).astype(float),
        [case(dtype=dtype) for dtype in ("bool", "i1", "u8", ">i4", "f2", "f4", ">f4", "f8", "g")],
        **plain,
    ),
    Row(
        "input",
        "inputTensor of one vector as a batch",
        lambda: dy.inputTensor([[1], [2]], batched=True),
        fixed(1, 2),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "inputTensorTranspose",
        lambda x: flat_list(x),
        lambda x: x,
        ARRAYS,
        **plain,
        errors=[
            refuses(
                lambda: dy.inputTensorTranspose([1, 2, 3], (2, 2)),
                ValueError,
                r"^inputTensorTranspose: 3 numbers do not fill dims \(2, 2\) x 1",
            ),
            refuses(
                lambda: dy.inputTensorTranspose([1, 2, 3], None, 2),
                ValueError,
                "^inputTensorTranspose: 3 numbers do not fill",
            ),
            refuses(
                lambda: dy.inputTensorTranspose([1, 2], None, 0),
                ValueError,
                "^inputTensorTranspose: 2 numbers do not fill",
            ),
            refuses(
                lambda: dy.inputTensorTranspose(np.ones((2, 2))),
                TypeError,
                "^inputTensorTranspose: takes a vector of numbers; got shape",
            ),
        ],
    ),
    Row(
        "input",
        "inputTensorTranspose with a batch",
        lambda x: flat_list(x, x.shape[-1]),
        lambda x: x,
        BATCHED,
        **plain,
    ),
    Row(
        "input",
        "inputTensorTranspose of one vector",
        lambda: dy.inputTensorTranspose([1, 2, 3]),
        fixed(1, 2, 3),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "sparse_inputTensor",
        lambda: dy.sparse_inputTensor([[0, 1, 0], [2, 0, 2]], [5, 6, 7], (2, 3), defval=-1),
        fixed([-1, -1, 7], [6, -1, -1]),
        [case()],
        **plain,
        errors=[
            *(
                refuses(
                    lambda n=n: dy.sparse_inputTensor([[0] * n, [1] * n], [1] * n, (60000, 60000)),
                    ValueError,
                    "^sparse_inputTensor: the result would have more than 2147483647 elements",
                )
                for n in (1, 100)
            ),
            refuses(
                lambda: dy.sparse_inputTensor([[0], [3]], [1], (2, 3)),
                ValueError,
                r"^sparse_inputTensor: an index is outside dim 1 of \(2, 3\)",
            ),
            refuses(
                lambda: dy.sparse_inputTensor([[-1], [0]], [1], (2, 3)),
                ValueError,
                "^sparse_inputTensor: an index is outside dim 0",
            ),
            refuses(
                lambda: dy.sparse_inputTensor([[0]], [1], (2, 3)),
                ValueError,
                "^sparse_inputTensor: takes one index per dim and value; got 1 sequences",
            ),
            refuses(
                lambda: dy.sparse_inputTensor([[0, 1], [0]], [1], (2, 3)),
                ValueError,
                "^sparse_inputTensor: takes one index per dim and value",
            ),
            refuses(
                lambda: dy.sparse_inputTensor([[0.5]], [1], (2,)),
                TypeError,
                "^sparse_inputTensor: indices must be integers; got",
            ),
            refuses(
                lambda: dy.sparse_inputTensor([[0]], ["a"], (2,)),
                TypeError,
                "^sparse_inputTensor: takes numbers",
            ),
            refuses(
                lambda: dy.sparse_inputTensor([[0]], [1], (2,), device="GPU:0"),
                ValueError,
                "^sparse_inputTensor: everything",
            ),
            refuses(
                lambda: dy.sparse_inputTensor([[0]], [1], (2,)).set([1, 2]),
                ValueError,
                "^set: this input cannot be set anew",
            ),
        ],
    ),
    Row(
        "input",
        "sparse_inputTensor with a batch",
        lambda: dy.sparse_inputTensor([[0, 1], [2, 0]], [5, 6], (2, 3), batched=True),
        lambda: np.array([[0.0, 0, 5], [6, 0, 0]]),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "one_hot",
        lambda: dy.one_hot(3, 1),
        fixed(0, 1, 0),
        [case()],
        **plain,
        errors=[
            refuses(
                lambda: dy.one_hot(3, 3),
                ValueError,
                "^one_hot: index 3 is outside of 3 classes. Indices run from 0 to 2",
            ),
            refuses(lambda: dy.one_hot(3, [0, -1]), ValueError, "^one_hot: index -1 is outside"),
            refuses(lambda: dy.one_hot(3, 0.5), TypeError, "^one_hot: indices must be integers"),
            refuses(
                lambda: dy.one_hot(1 << 30, [0, 1]),
                ValueError,
                "^one_hot: the result would have more than 2147483647 elements",
            ),
        ],
    ),
    Row(
        "input",
        "sparse_inputTensor of nothing",
        lambda: dy.sparse_inputTensor([[]], [], 2, defval=3),
        fixed(3, 3),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "one_hot of NumPy's numbers",
        lambda: dy.one_hot(np.int64(3), np.int32(2)),
        fixed(0, 0, 1),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "one_hot of an array",
        lambda: dy.one_hot(3, np.array([1, 0])),
        lambda: np.array([[0.0, 1], [1, 0], [0, 0]]),
        [case()],
        **plain,
    ),
    Row(
        "input",
        "one_hot with a batch",
        lambda: dy.one_hot(3, [1, 0]),
        lambda: np.array([[0.0, 1], [1, 0], [0, 0]]),
        [case()],
        **plain,
    ),
    Row(
        "fill",
        "constant",
        lambda dim, batch: dy.constant(dim, 2.5, batch_size=batch),
        filled(2.5),
        DIMS,
        **plain,
        errors=[
            refuses(lambda: dy.constant(-1, 2), ValueError, "constant.*-1|fill.*-1"),
            refuses(lambda: dy.constant("a", 2), TypeError, "^constant"),
            refuses(lambda: dy.constant(2, "a"), (TypeError, ValueError), "."),
            refuses(
                lambda: dy.constant(2, 1, -1),
                ValueError,
                "^constant: the batch size must not be negative; got -1",
            ),
            refuses(
                lambda: dy.constant((60000, 60000), 1),
                ValueError,
                "^constant: the result would have more than 2147483647 elements",
            ),
        ],
    ),
    Row(
        "fill",
        "zeros",
        lambda dim, batch: dy.zeros(dim, batch_size=batch),
        filled(0),
        DIMS,
        **plain,
    ),
    Row(
        "fill",
        "zeroes",
        lambda dim, batch: dy.zeroes(dim, batch_size=batch),
        filled(0),
        DIMS,
        **plain,
    ),
    Row(
        "fill", "ones", lambda dim, batch: dy.ones(dim, batch_size=batch), filled(1), DIMS, **plain
    ),
    Row(
        "input",
        "an input",
        lambda x: x,
        lambda x: x,
        [case(tensor(1)), case(tensor(3, 4, batch=3))],
    ),
]
