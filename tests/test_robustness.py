"""Nothing that Python can say crashes: nonsense arguments, random programs, sizes too large, a
second import. Messages name the op.

The programs run in processes of their own (tests/nonsense.py), with 3 GB of address space. How
long: about twenty seconds.
"""

import copy
import pickle

import numpy as np
import pytest
from processes import output_of, run_python

import dist_dynet as dy


def run_nonsense(kind, tmp_path, n, dtype="float32"):
    log = tmp_path / "log"
    script = __file__.replace("test_robustness", "nonsense")
    result = run_python(
        "-W", "ignore", script, kind, str(log), "0", str(n), timeout=300, DIST_DYNET_DTYPE=dtype
    )
    assert result.returncode == 0, (
        f"status {result.returncode}"
        f" in\n{log.read_text()}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    )
    return result.stdout


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nonsense_arguments_raise_ordinary_exceptions(tmp_path, dtype):
    assert "exceptions" in run_nonsense("calls", tmp_path, 40, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_random_programs_raise_ordinary_exceptions(tmp_path, dtype):
    assert "'ok'" in run_nonsense("programs", tmp_path, 600, dtype)


# ---- what crashed DyNet ----------------------------------------------------------------

MATRIX, VECTOR = np.ones((2, 3)), np.ones(3)


def _table():
    return dy.ParameterCollection().add_lookup_parameters((4, 3))


CRASHES = {
    "scalar_value of a vector": (
        lambda: dy.inputVector([1, 2]).scalar_value(),
        ValueError,
        "scalar_value: the expression must be one number",
    ),
    "scalar_value of a batch": (
        lambda: dy.ones(1, batch_size=2).scalar_value(),
        ValueError,
        "scalar_value",
    ),
    "init_row of wrong length": (lambda: _table().init_row(0, [1]), ValueError, "init_row"),
    "init_row out of range": (
        lambda: _table().init_row(4, VECTOR),
        ValueError,
        "init_row: row 4 is outside the table of 4 rows",
    ),
    "row_as_array out of range": (
        lambda: _table().row_as_array(-1),
        ValueError,
        "row -1 is outside",
    ),
    "rows_as_array out of range": (
        lambda: _table().rows_as_array([0, 9]),
        ValueError,
        "row 9 is outside",
    ),
    "negative weight decay": (
        lambda: dy.ParameterCollection().set_weight_decay(-1),
        ValueError,
        "set_weight_decay",
    ),
    "weight decay of 1": (
        lambda: dy.ParameterCollection().set_weight_decay(1),
        ValueError,
        "set_weight_decay",
    ),
    "negative dim": (
        lambda: dy.ParameterCollection().add_parameters((-1,)),
        ValueError,
        "add_parameters",
    ),
    "bare Expression": (lambda: dy.Expression().dim(), ValueError, "made by hand"),
    "bare Trainer": (lambda: dy.Trainer().update(), TypeError, "Trainer"),
    "set_h without vectors": (
        lambda: dy.VanillaLSTMBuilder(1, 2, 2, dy.ParameterCollection()).initial_state().set_h(),
        (ValueError, AssertionError),
        "set_h",
    ),
    "wide bias": (
        lambda: dy.affine_transform([dy.zeros((3, 4)), dy.zeros((3, 2)), dy.zeros(2)]),
        ValueError,
        "affine_transform: the bias must have the dims",
    ),
    "tanh of None": (lambda: dy.tanh(None), TypeError, "tanh: takes expressions; got NoneType"),
    "one_hot outside": (
        lambda: dy.one_hot(3, 3),
        ValueError,
        "one_hot: index 3 is outside of 3 classes",
    ),
    "lookup outside": (
        lambda: _table()[4],
        ValueError,
        "lookup: index 4 is outside the table. Indices run from 0 to 3.",
    ),
    "lookup_batch outside": (
        lambda: dy.lookup_batch(_table(), [0, -1]),
        ValueError,
        "lookup_batch: index -1",
    ),
    "set of wrong length": (
        lambda: dy.vecInput(3).set([1]),
        ValueError,
        "set: the number of values must equal the size of the input; got 1 values",
    ),
    "pick outside": (
        lambda: dy.pick(dy.inputVector([1]), 1),
        ValueError,
        "pick: index 1 is outside dim 0 of x = (1,)",
    ),
    "class outside": (
        lambda: dy.pickneglogsoftmax(dy.inputVector([1]), -1),
        ValueError,
        "pickneglogsoftmax: index -1",
    ),
    "unbatched mismatch": (
        lambda: dy.inputTensor(MATRIX) * dy.inputTensor(MATRIX),
        ValueError,
        "matmul: columns of a must equal rows of b",
    ),
    "two parameters": (
        lambda: (
            dy.ParameterCollection().add_parameters((2, 3))
            * dy.ParameterCollection().add_parameters((2, 3))
        ),
        ValueError,
        (
            "matmul: columns of a must equal rows of b; got a = (2, 3), b = (2, 3). Did you mean"
            " transpose(a) * b?"
        ),
    ),
    "dropout of a parameter": (
        lambda: dy.dropout(dy.ParameterCollection().add_parameters(2), 7),
        ValueError,
        "dropout: the dropout rate",
    ),
    "pick in a dim of size zero": (
        lambda: dy.pick(dy.zeros((0, 3)), 1, 1).backward(),
        ValueError,
        "backward: the loss must be one number",
    ),
    "too many dims": (lambda: dy.zeros((1,) * 8), ValueError, "zeros: takes 1 to 7 dims"),
    "too many elements": (
        lambda: dy.zeros((1 << 16, 1 << 16)),
        ValueError,
        "zeros: the result would have more than 2147483647 elements",
    ),
    "batches that differ": (
        lambda: dy.ones(2, batch_size=2) + dy.ones(2, batch_size=3),
        ValueError,
        "add: batch sizes must be equal or 1; got 2 and 3",
    ),
}


@pytest.mark.parametrize(("use", "error", "message"), CRASHES.values(), ids=list(CRASHES))
def test_what_crashed_dynet_raises(use, error, message):
    with pytest.raises(error) as caught:
        use()
    assert message in str(caught.value)
    assert dy.scalarInput(3).value() == 3


def test_slices_take_huge_steps_and_sizes_of_zero():
    x = dy.inputVector([1, 2, 3])
    assert x[:: (1 << 31) - 1].value() == 1
    assert x[1::2].value() == 2
    assert x[2:1].dim() == ((0,), 1)
    assert x[-100:100].value() == [1, 2, 3]
    assert dy.pick(dy.zeros((0, 3)), 1, 1).value() == []
    assert dy.softmax(dy.zeros(0)).value() == []
    assert x[:: 1 << 40].value() == 1  # as in Python


def test_expressions_are_copied_but_not_pickled():
    """In another process, such as a worker or another rank, the handle might name another node."""
    x = dy.inputVector([1, 2])
    assert copy.copy(x).value() == copy.deepcopy({"x": x})["x"].value() == [1, 2]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(x, protocol)
    trainer = dy.AdamTrainer(dy.ParameterCollection())
    for refused in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            refused(trainer)


# ---- objects of the classes in C, made by hand ------------------------------------------

BARE = """
import copyreg, itertools
import dist_dynet as dy
from dist_dynet._ffi import calls
dy.renew_cg()
x, uses = dy.inputVector([1, 2]), 0
states = dy.GRUBuilder(1, 2, 2, dy.ParameterCollection()).initial_state(),
makers = (lambda cls: cls(), lambda cls: cls((), []), lambda cls: cls.__new__(cls), object.__new__,
          lambda cls: copyreg._reconstructor(cls, object, None))
classes = {type(dy.tanh), *type(x[0]).__mro__, *type(states[0]).__mro__} - {object}
for cls, make in itertools.product(classes, makers):
    try: bare = [make(cls) for _ in range(3000)]
    except TypeError: continue
    o = bare.pop()
    for name in dir(o) + ["_h", "__wrapped__"]:
        for use in (lambda f: f(), lambda f: f(x), lambda f: f([x, x])):
            try: use(getattr(o, name))
            except Exception: uses += 1
    for use in (repr, hash, lambda o: o(x), lambda o: o * x, lambda o: x + o, lambda o: dy.esum([o])):
        try: use(o)
        except Exception: uses += 1
    del o, bare  # their memory is free now
    assert {tuple(y.value()) for y in [x * k for k in (1.0,) * 3000]} == {(1, 2)}
print(uses > 100)
"""  # noqa: E501


def test_objects_of_classes_in_c_that_are_made_by_hand_do_not_crash():
    assert output_of(BARE) == "True\n"


# ---- sizes too large -------------------------------------------------------------------

HUGE = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
import numpy as np, dist_dynet as dy
n = (1 << 31) - 1
m = dy.ParameterCollection()
w = m.add_parameters(3, init=1)
def trained():
    dy.renew_cg(); m.reset_gradients()
    dy.sum_elems(dy.square(w)).backward()
    return w.value() == [1, 1, 1] and w.grad_as_array().tolist() == [2, 2, 2]
uses = [
    lambda: dy.vecInput(n), lambda: dy.zeros(n).value(), lambda: dy.random_normal(n).forward(), lambda: dy.ones((1 << 15, 1 << 15)).value(),
    lambda: m.add_parameters(n), lambda: m.add_parameters(n, init=0), lambda: m.add_lookup_parameters((n, 1)),
    lambda: m.add_lookup_parameters((1, n)),
    lambda: m.add_parameters((1 << 15, 1 << 15), init="normal"), lambda: dy.one_hot(n, 0), lambda: dy.dropout(dy.ones(1 << 30), 0.5).value(),
    lambda: dy.sum_elems(w + dy.zeros(3, batch_size=n // 3)).value(),
    lambda: dy.lookup_batch(m.add_lookup_parameters((2, 3000)), [0] * 700_000).value(), lambda: dy.VanillaLSTMBuilder(1, 20000, 20000, m),
    lambda: dy.inputTensor([1.0]) * dy.zeros((1, n)).value(), lambda: dy.sum_elems(dy.concatenate([dy.ones(1 << 29)] * 3)).value(),
]
for i, use in enumerate(uses):
    try: use(); print(i, "was done")
    except MemoryError: pass
    assert trained(), i
print("alive")
"""  # noqa: E501


def test_sizes_beyond_memory_raise_memory_error():
    assert output_of(HUGE) == "alive\n"


def test_backward_out_of_memory_leaves_the_graph_usable():
    code = """
import resource, dist_dynet as dy
w = dy.ParameterCollection().add_parameters((1000, 1000), init=1)
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, resource.getrlimit(resource.RLIMIT_AS)[1]))
results = []
for n in (400, 2):
    dy.renew_cg()
    y = w.expr(True)
    try:
        for _ in range(n): y = y * 1.0
        loss = dy.sum_elems(y)
        loss.value()
        loss.backward()
        results.append(float(w.gradient().max()))
    except MemoryError: results.append("memory")
print(results)
"""
    assert output_of(code) == "['memory', 1.0]\n"


# ---- imports ---------------------------------------------------------------------------


def test_second_import_is_refused_and_the_first_one_works():
    """Tests take modules out of sys.modules, as mock.patch.dict(sys.modules) does."""
    code = """if True:
        import sys
        import unittest.mock
        import numpy  # which refuses the same
        with unittest.mock.patch.dict(sys.modules):
            import dist_dynet as dy
        try:
            import dist_dynet
        except ImportError as error:
            print(error)
        w = dy.ParameterCollection().add_parameters(1, init=2)
        dy.renew_cg()
        print((w * 3).value())
    """
    said, value = output_of(code, DIST_DYNET_FAST_PATHS="1").splitlines()
    assert "was imported before in this process, and its modules were taken out" in said
    assert "Import it once, before that" in said and value == "6.0"
