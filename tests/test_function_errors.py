"""dy.function: exceptions in operations written in Python, what may not be done in them, and what
other threads may do meanwhile.

How long: a few seconds.
"""

import threading
import traceback

import numpy as np
import pytest
from functions import MineError, batched_network, close, cube, outer, raising_forward
from op_table import FAMILIES
from op_table.run import drawn, kept
from together import together

import dist_dynet as dy

# ---- exceptions ------------------------------------------------------------------------


def raising_backward(xs, y, d):
    raise MineError("in backward")


fails = dy.function(raising_forward, None, 1)


@pytest.mark.parametrize(
    "read",
    [
        dy.Expression.value,
        dy.Expression.npvalue,
        dy.Expression.scalar_value,
        dy.Expression.forward,
        dy.Expression.backward,
        lambda e: e.backward(full=True),
        lambda e: dy.values([e]),
    ],
)
def test_exceptions_in_forward_reach_the_caller_with_the_users_lines(read):
    y = fails(dy.scalarInput(1))
    with pytest.raises(MineError, match="in forward") as caught:
        read(y)
    assert "raising_forward" in "".join(traceback.format_tb(caught.value.__traceback__))


def test_exceptions_in_backward_reach_the_caller_and_leave_no_half_written_gradient():
    w = dy.ParameterCollection().add_parameters(3, init=2)
    f = dy.function(lambda x: x, raising_backward, 3)
    with pytest.raises(MineError, match="in backward") as caught:
        dy.sum_elems(f(w)).backward()
    assert "raising_backward" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert not w.has_gradient()
    with pytest.raises(RuntimeError, match=r"backward\(\) has not been called"):
        w.gradient()
    dy.sum_elems(cube(w)).backward()
    assert w.grad_as_array().tolist() == [12, 12, 12]


def test_a_failed_forward_runs_once_for_one_value():
    runs = []

    def forward(x):
        runs.append(1)
        raise MineError

    y = dy.function(forward, None, 1)(dy.scalarInput(1))
    for n in (1, 2):
        with pytest.raises(MineError):
            y.value()
        assert len(runs) == n


@pytest.mark.parametrize("immediate", [False, True])
def test_graph_is_usable_after_an_error(immediate):
    dy.renew_cg(immediate_compute=immediate)
    switch = []

    def forward(x):
        if not switch:
            raise MineError
        return x + 1

    f = dy.function(forward, lambda xs, y, d: [d], 2)
    w = dy.ParameterCollection().add_parameters(2, init=1)
    a = dy.square(w)
    if immediate:
        with pytest.raises(MineError):
            f(a)
        b = dy.cg().expression(len(dy.cg()) - 1)
    else:
        b = f(a)
    c = dy.square(a)
    d = None if immediate else dy.sum_elems(b * 3)
    if not immediate:
        with pytest.raises(MineError):
            c.value()
        with pytest.raises(MineError):
            d.value()
    assert c.value() == [1, 1]
    assert (c + a).value() == [2, 2]
    dy.sum_elems(c).backward()
    assert w.grad_as_array().tolist() == [4, 4]
    switch.append(1)
    assert b.value() == [2, 2]
    if d is not None:
        assert d.value() == 12
        d.backward()
        assert w.grad_as_array().tolist() == [10, 10]
    dy.renew_cg()
    assert f(dy.inputVector([1, 2])).value() == [2, 3]


def test_revert_after_a_node_was_tried_again():
    switch = []

    def forward(x):
        if not switch:
            raise MineError
        return x + 1

    x = dy.inputVector([1, 2])
    y = dy.function(forward, None, 2)(x)
    z = dy.square(x)
    with pytest.raises(MineError):
        y.value()
    assert z.value() == [1, 4]
    dy.cg_checkpoint()
    switch.append(1)
    assert y.value() == [2, 3]
    dy.cg_revert()
    dy.inputVector([7, 7, 7, 7]).value()
    assert y.value() == [2, 3] and z.value() == [1, 4]


def test_products_beside_failed_ones_are_computed():
    W = dy.ParameterCollection().parameters_from_numpy(np.eye(2))
    xs = [
        dy.inputVector([1, 2]),
        dy.function(raising_forward, None, 2)(dy.zeros(2)),
        dy.inputVector([3, 4]),
    ]
    ys = [W * x for x in xs]
    for read in (0, 1, 2, 1, 0, 2):
        if read == 1:
            with pytest.raises(MineError):
                ys[1].value()
        elif read == 0:
            try:
                assert ys[0].value() == [1, 2]
            except MineError:
                assert ys[0].value() == [1, 2]
        else:
            assert ys[2].value() == [3, 4]


@pytest.mark.parametrize(
    ("forward", "backward", "message"),
    [
        (
            lambda x: np.zeros(4),
            None,
            r"^function f: forward must return an array of shape \(3,\); got \(4,\)",
        ),
        (
            lambda x: np.zeros((3, 1)),
            None,
            r"^function f: forward must return an array of shape \(3,\); got \(3, 1\)",
        ),
        (
            lambda x: x,
            lambda xs, y, d: [],
            (
                r"^function f: backward must return a list of 1 gradients, one for each input; got"
                r" 0 items"
            ),
        ),
        (
            lambda x: x,
            lambda xs, y, d: None,
            r"^function f: backward must return a list of 1 gradients, .* got NoneType",
        ),
        (
            lambda x: x,
            lambda xs, y, d: [np.zeros(2)],
            r"^function f: backward must return for input 0 a gradient of its shape, \(3,\); got",
        ),
    ],
)
def test_bad_results_are_errors(forward, backward, message):
    e = dy.function(forward, backward, 3, name="f")(dy.inputVector([1, 2, 3]))
    with pytest.raises(ValueError, match=message):
        dy.sum_elems(e).backward(full=True)


def test_a_number_is_enough_for_one_number():
    assert dy.function(lambda x: x.sum(), None, 1)(dy.inputVector([1, 2])).value() == 3


@pytest.mark.parametrize(
    ("call", "exception", "message"),
    [
        (
            lambda: dy.function(3, None, 2),
            TypeError,
            "^function: forward must be a function over arrays; got int",
        ),
        (
            lambda: dy.function(np.sin, 3, 2),
            TypeError,
            "^function: backward must be a function over arrays; got int",
        ),
        (
            lambda: dy.function(np.sin, None, "a"),
            TypeError,
            "^function sin: dims must be a number or a tuple",
        ),
        (
            lambda: dy.function(np.sin, None, -2),
            ValueError,
            "^function sin: sizes must not be negative",
        ),
        (lambda: cube(3), TypeError, "^function cube: takes expressions; got int"),
        (lambda: cube(np.zeros(3)), TypeError, "^function cube: takes expressions; got ndarray"),
        (lambda: cube(), AssertionError, "^List is empty"),
        (
            lambda: outer(dy.zeros(2, batch_size=2), dy.zeros(2, batch_size=3)),
            ValueError,
            "^function outer: batch sizes must be equal or 1; got 2, 3",
        ),
        (
            lambda: dy.function(np.sin, None, lambda d: None)(dy.zeros(2)),
            TypeError,
            "^function sin: dims must be",
        ),
        (
            lambda: dy.function(np.sin, None, lambda d: 1 / 0)(dy.zeros(2)),
            ZeroDivisionError,
            "division",
        ),
    ],
)
def test_bad_calls(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


def test_stale_inputs_are_errors():
    x = dy.scalarInput(1)
    dy.renew_cg()
    with pytest.raises(RuntimeError, match=r"^Stale Expression"):
        cube(x)


def test_keyboard_interrupt_comes_out():
    def forward(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dy.function(forward, None, 1)(dy.scalarInput(1)).value()


def test_graph_is_usable_after_an_error_among_batched_nodes(rng):
    m = dy.ParameterCollection()
    m.parameters_from_numpy(rng.normal(size=(3, 2)))
    m.parameters_from_numpy(rng.normal(size=3))
    switch = []

    def forward(x):
        if not switch and x[0] > 0:
            raise MineError
        return x**3

    f = dy.function(forward, cube._backward, lambda d: d)
    dy.renew_cg()
    expected = dy.npvalues(batched_network(m, cube))
    dy.renew_cg(autobatching=2)
    noise = dy.random_normal(3)
    ys = batched_network(m, f)
    loss = dy.sum_elems(dy.esum(ys))
    with pytest.raises(MineError):
        loss.value()
    drawn = noise.value()
    failed = 0
    for _ in range(3):
        failed = 0
        for y, e in zip(ys, expected, strict=True):
            try:
                close(y.npvalue(), e)
            except MineError:
                failed += 1
    assert 0 < failed <= 3
    switch.append(1)
    for y, e in zip(ys, expected, strict=True):
        close(y.npvalue(), e)
    loss.backward()
    gradients = [p.grad_as_array() for p in m.parameters_list()]
    m.reset_gradients()
    assert noise.value() == drawn
    dy.renew_cg()
    dy.sum_elems(dy.esum(batched_network(m, cube))).backward()
    for p, g in zip(m.parameters_list(), gradients, strict=True):
        close(p.grad_as_array(), g)


# ---- what may not be done in them ------------------------------------------------------

BUSY = {
    "make an input": lambda x: dy.scalarInput(1),
    "make a vector": lambda x: dy.inputVector([1]),
    "make a node": lambda x: x + 1,
    "apply": lambda x: cube(x),
    "read value": lambda x: x.value(),
    "read npvalue": lambda x: x.npvalue(),
    "dim": lambda x: x.dim(),
    "renew": lambda x: dy.renew_cg(),
    "renew immediate": lambda x: dy.renew_cg(immediate_compute=True),
    "revert": lambda x: dy.cg_revert(),
    "checkpoint": lambda x: dy.cg_checkpoint(),
    "set": lambda x: x.set(3),
    "backward": lambda x: x.backward(),
    "gradient": lambda x: x.gradient(),
    "parameter": lambda x: dy.ParameterCollection().add_parameters(1).value(),
}


@pytest.mark.parametrize("what", BUSY)
@pytest.mark.parametrize("place", ["forward", "backward", "immediate"])
def test_graph_is_busy_inside(what, place):
    dy.renew_cg(immediate_compute=place == "immediate")
    dy.cg_checkpoint()
    x = dy.scalarInput(2)
    w = dy.ParameterCollection().add_parameters(1, init=1)

    def act(*_):
        with pytest.raises(
            RuntimeError,
            match=(
                r"^graph busy: inside of forward and backward of function mine no node can be made"
                r" or read"
            ),
        ):
            BUSY[what](x)
        return np.ones(1)

    f = dy.function(
        act if place != "backward" else lambda a, b: a,
        act if place != "backward" else lambda xs, y, d: [act(), act()],
        1,
        name="mine",
    )
    y = f(x, w)
    y.value()
    if place == "backward":
        y.backward()
    assert x.value() == 2 and (x + y).value() == 3 if place != "backward" else 4


def test_the_busy_error_comes_out_if_it_is_not_caught():
    x = dy.scalarInput(1)
    y = dy.function(lambda a: x.value(), None, 1)(x)
    with pytest.raises(RuntimeError, match=r"^graph busy"):
        y.value()
    assert x.value() == 1


def test_parameters_can_be_looked_at_in_backward():
    m = dy.ParameterCollection()
    w, E = m.add_parameters(2, init=1), m.add_lookup_parameters((3, 2), init=1)
    seen = []

    def backward(xs, y, d):
        seen.extend(
            [
                w.as_array().tolist(),
                w.grad_as_array().tolist(),
                E.as_array().sum(),
                E.grad_as_array().sum(),
            ]
        )
        return [d]

    dy.sum_elems(dy.function(lambda x: x, backward, 2)(w) + E[1]).backward()
    assert seen == [[1, 1], [0, 0], 6, 2] and w.grad_as_array().tolist() == [1, 1]


def test_another_thread_can_work_inside():
    results = []

    def other():
        dy.renew_cg()
        results.append(cube(dy.inputVector([1, 2])).value())

    def forward(x):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        return x

    assert dy.function(forward, None, 1)(dy.scalarInput(4)).value() == 4
    assert results == [[1, 8]]


def test_threads_with_functions_of_their_own():
    errors = []

    def work(k):
        try:
            f = dy.function(lambda x: x * k, lambda xs, y, d: [d * k], lambda d: d)
            g = dy.function(raising_forward if k % 2 else lambda x: x, None, lambda d: d)
            w = dy.ParameterCollection().add_parameters(3, init=1)
            for _ in range(50):
                dy.renew_cg()
                loss = dy.sum_elems(f(f(w)))
                w.clear_gradient()
                loss.backward()
                assert loss.value() == 3 * k * k and w.grad_as_array().tolist() == [k * k] * 3
                if k % 2:
                    with pytest.raises(MineError):
                        g(w).value()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_function_that_fails_when_its_node_is_made_is_called_once():
    given = []

    def refuse(x):
        given.append(x)
        raise ZeroDivisionError

    f = dy.function(refuse, None, dim=2)
    dy.renew_cg(immediate_compute=True)
    with pytest.raises(ZeroDivisionError):
        f(dy.inputVector([1, 2]))
    assert len(given) == 1


USES = [
    pytest.param(row, case, k, id=f"{family}-{row.label(case)}-{k}")
    for family, module in FAMILIES.items()
    for row in module.ROWS
    for case in row.cases[:1]
    for k, spec in enumerate(case.inputs)
    if spec.kind == "tensor" and spec.batch == 1
]


@together(("row", "case", "k"), USES)
def test_function_that_fails_runs_once_for_each_use(row, case, k, rng):
    """Of every operation: whatever calls it does not call it again another way."""
    runs = []

    def refuse(x):
        runs.append(x)
        raise ZeroDivisionError

    dy.renew_cg(immediate_compute=True)
    collection = dy.ParameterCollection()
    inputs = [
        dy.inputTensor(x, batched=True) if spec.kind == "tensor" else x
        for spec, a in zip(case.inputs, drawn(row, case, rng), strict=True)
        for x in [kept(collection, spec, a, False)]
    ]
    f = dy.function(refuse, None, dim=case.inputs[k].dims)
    with pytest.raises(ZeroDivisionError):
        f(dy.inputVector([1, 2]))
    inputs[k] = dy.cg().expression(len(dy.cg()) - 1)
    runs.clear()
    try:
        row.build(*inputs, **case.attributes)
    except ZeroDivisionError:
        assert len(runs) == 1
    else:
        assert not runs  # the value was not asked for


@pytest.mark.parametrize("autobatching", [False, True])
def test_nodes_computed_in_groups_are_no_longer_those_that_failed(autobatching):
    fails = {"f", "g"}

    def op(name):
        def forward(x):
            if name in fails:
                raise MineError(name)
            return x

        return dy.function(forward, None, lambda d: d, name=name)

    f, g = op("f"), op("g")
    W = dy.ParameterCollection().parameters_from_numpy(np.eye(4))
    dy.renew_cg(autobatching=autobatching)
    x = dy.inputVector([1, 2, 3, 4])
    y = f(x)
    products = [W * (y * k) for k in range(1, 41)]  # many: they are computed as one
    other = g(x)
    for product in products:
        with pytest.raises(MineError, match="f"):
            product.value()
    fails.discard("f")
    x.set([5, 6, 7, 8])
    with pytest.raises(MineError, match="g"):
        dy.esum(products).value()  # and all that was made before it
    for k, product in enumerate(products, 1):
        assert product.value() == [k * n for n in (5, 6, 7, 8)]
    fails.clear()
    loss = dy.esum([dy.sum_elems(dy.cmult(product, product)) for product in products])
    assert other.value() == [5, 6, 7, 8]
    loss.backward()
    squares = sum(k * k for k in range(1, 41))
    want = 2 * squares * np.outer([5, 6, 7, 8], [5, 6, 7, 8])
    np.testing.assert_allclose(W.grad_as_array(), want, rtol=1e-5)
