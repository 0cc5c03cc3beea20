"""Nothing that Python can say crashes: nonsense arguments, random programs, sizes too large,
interruptions. Messages name the op.

The programs run in processes of their own (tests/nonsense.py), with 3 GB of address space. How
long: about twenty seconds.
"""

import contextlib
import copy
import pickle
import signal

import numpy as np
import pytest
from interrupted import ctrl_c, interrupted_at
from processes import output_of, run_python
from table_followers import follow_all, gaps
from test_graph import close

import dist_dynet as dy
from dist_dynet import meter
from dist_dynet._ffi import lib
from dist_dynet.trainers.hooks import Hooks


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


# ---- interruptions ---------------------------------------------------------------------


def test_long_computations_can_be_interrupted():
    code = """
import signal, time, dist_dynet as dy
signal.signal(signal.SIGALRM, signal.default_int_handler)
w = dy.ParameterCollection().add_parameters(1_000_000, init=0.5)
y = w.expr(True)
for _ in range(400): y = dy.tanh(y)
loss, late = dy.sum_elems(y), []
for use in (loss.value, loss.backward, loss.backward):
    start = time.process_time()  # not a clock: other programs may have the processor
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        use()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt: late.append(time.process_time() - start)
w.clear_gradient()
loss.value(); loss.backward()
print(all(t < 2 for t in late), len(late) > 0, loss.value() > 0, w.has_gradient())
"""
    assert output_of(code) == "True True True True\n"


@pytest.mark.parametrize("mode", [1, 2])
def test_order_in_the_making_can_be_interrupted_and_all_continues(mode):
    # the first signal comes while the order of 600,000 nodes is made, before any is computed; later
    # ones at other places
    code = f"""
import signal, dist_dynet as dy
signal.signal(signal.SIGALRM, signal.default_int_handler)
W = dy.ParameterCollection().add_parameters((2, 2), init=0.4)
def graph(mode):
    dy.renew_cg(autobatching=mode)
    xs = [dy.inputVector([i / 1000, 1]) for i in range(1000)]
    first, ys = dy.sum_elems(W * xs[0]), xs
    for _ in range(300): ys = [dy.tanh(W * y) for y in ys]
    return xs, first, ys, dy.sum_elems(dy.esum(ys))
def interrupted(use, seconds):
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        use()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt: return True
    return False
def gradient(loss):
    W.clear_gradient()
    loss.backward()
    return W.grad_as_array()
def right(given, expected): return abs(given - expected).max() < 1e-4 * abs(expected).max()
xs, first, ys, loss = graph(0)
value, derivative, of_first = loss.npvalue(), gradient(loss), gradient(first)
xs[1].set([3, -2])
other = loss.npvalue()
def revert(): dy.cg_checkpoint(); dy.tanh(loss); dy.cg_revert()
def nested(): dy.cg_checkpoint(); interrupted(dy.tanh(loss).value, 0.02); dy.cg_revert()
acts = dict(nothing=lambda: None, node=lambda: dy.tanh(ys[0]), revert=revert, nested=nested, lower=ys[500].value,
            again=lambda: interrupted(loss.value, 0.03), backward=lambda: right(gradient(first), of_first) or wrong.append("first"))
wrong = []
for name in acts:
    for seconds in (0.001, 0.06):
        xs, first, ys, loss = graph({mode})
        acts["lower"] = ys[500].value
        first.value()
        computed = dy.autobatch_stats().nodes
        was = interrupted(loss.value, seconds)
        if seconds == 0.001 and not (was and dy.autobatch_stats().nodes == computed):
         wrong.append("not interrupted")
        acts[name]()
        if not right(loss.npvalue(), value): wrong.append((name, seconds, "value"))
        if not right(gradient(loss), derivative): wrong.append((name, seconds, "gradient"))
        if name == "nothing":
            interrupted(lambda: loss.value(recalculate=True), seconds)
            xs[1].set([3, -2])
            interrupted(loss.value, seconds)
            if not right(loss.npvalue(), other): wrong.append((seconds, "set"))
interrupted(graph({mode})[3].value, 0.001)
dy.renew_cg()
print(wrong, (W * dy.inputVector([1, 1])).npvalue().tolist() == (W.as_array() @ [1, 1]).tolist())
"""  # noqa: E501
    assert output_of(code) == "[] True\n"


def test_long_draws_of_initial_values_can_be_interrupted():
    code = """
import signal, dist_dynet as dy
signal.signal(signal.SIGALRM, signal.default_int_handler)
m = dy.ParameterCollection()
for add in (lambda: m.add_parameters(200_000_000, init="normal"), lambda: m.add_lookup_parameters((2_000_000, 100))):
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        add()
        print("not interrupted")
    except KeyboardInterrupt: pass
print(m.parameters_list(), m.lookup_parameters_list(), m.add_parameters(2).name())
"""  # noqa: E501
    assert output_of(code) == "[] [] /_0\n"


def trained_by_a_cell(m):
    """A step of training with a cell, which is traced, and an operation written in Python."""
    W, E = m.parameters_list()[0], m.lookup_parameters_list()[0]
    near = dy.traced(lambda x, y: dy.tanh(W * x) + y)
    own = dy.function(np.tanh, lambda xs, y, dy: [dy * (1 - y * y)], 3)
    dy.renew_cg(autobatching=True)
    dy.squared_norm(own(near(E[1], E[2])) + near(E[3], E[1])).backward()
    m.trainer.update()


def swapped_in(m):
    m.average.swap_in()
    m.average.swap_out()


def searched(m):
    with dy.trace_nonfinite():
        dy.renew_cg()
        dy.tanh(m.parameters_list()[0]).value()


def grown(m):
    m.other.add_parameters(3)
    m.other.add_lookup_parameters((2, 2), init=np.ones((2, 2)))
    dy.set_random_state(dy.random_state())


INTERRUPTED = {
    "training": trained_by_a_cell,
    "averages": swapped_in,
    "text file": lambda m: m.save(m.folder / "text"),
    "safetensors": lambda m: dy.save_safetensors(m, m.folder / "safetensors", m.trainer),
    "objects": lambda m: dy.save(m.folder / "objects", m.parameters_list()),
    "checkpoint": lambda m: m.checkpointer.save(),
    "search": searched,
    "parameters": grown,
}


@pytest.fixture
def ctrl_c_raises():
    """Also in a process that was started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def no_waiting():
    """Ends a test that waits for a lock."""

    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("waits for itself"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# callbacks of weak references cannot pass it on
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("handler", ["Ctrl-C", "the same"])
@pytest.mark.parametrize("use", INTERRUPTED.values(), ids=list(INTERRUPTED))
@pytest.mark.usefixtures("ctrl_c_raises", "no_waiting")
def test_signal_at_any_place_leaves_all_usable(use, handler, tmp_path):
    m = dy.ParameterCollection()
    W = m.add_parameters((3, 3), init=1)
    m.add_lookup_parameters((4, 3), init=0.5)
    m.folder, m.trainer, m.other = tmp_path, dy.SimpleSGDTrainer(m, 0), dy.ParameterCollection()
    m.average = dy.MovingAverage(m.trainer)
    batches = dy.parallel.shard([1], batch_size=1)
    m.checkpointer = dy.parallel.Checkpointer(tmp_path / "run", m, m.trainer, batches)
    m.trainer.update()

    def handle():
        if handler == "Ctrl-C":
            ctrl_c()
        with contextlib.suppress(RuntimeError):  # such as of a graph that is busy
            use(m)

    def interrupted():
        try:
            return interrupted_at(place, lambda: use(m), handle)
        except RuntimeError:  # such as of expressions of a graph that the handler has closed
            return True

    place = 0
    while interrupted():
        # there are thousands in a checkpoint, and each costs a file twice where it is saved again
        place += 1 if handler == "Ctrl-C" and use != INTERRUPTED["checkpoint"] else 1 + place // 9
        if m.average.is_in:
            m.average.swap_out()
        dy.renew_cg()
        m.reset_gradients()
        x = dy.inputVector([0, 1, 2])
        assert dy.traced(lambda x: x * 2)(x).value() == [0, 2, 4], place
        dy.sum_elems(W * x).backward()
        assert W.grad_as_array().tolist() == [[0, 1, 2]] * 3 and (W.as_array() == 1).all(), place
        m.trainer.update()
        assert not list(tmp_path.glob(".*")), place
        assert dy.log(dy.scalarInput(0)).value() == -np.inf, place  # nothing searches
        assert meter.switch(meter.NONE) == lib.DN_COMPUTE, place
    assert place > 20


@pytest.mark.parametrize("wrapped", [lambda trainer: trainer, dy.parallel.DistributedTrainer])
@pytest.mark.usefixtures("ctrl_c_raises", "no_waiting")
def test_signal_at_any_place_of_an_update_comes_before_or_after_all_of_it(wrapped):
    m = dy.ParameterCollection()
    w, trainer = m.add_parameters(1, init=0, name="w"), wrapped(dy.SimpleSGDTrainer(m, 1))
    average, followers = dy.MovingAverage(trainer, decay=None), follow_all(trainer)
    done, interrupted, place, values = 0, 0, 0, []
    more = True
    while more:
        w.set_gradient([-1])
        more = interrupted_at(place, trainer.update, ctrl_c)
        if trainer.updates == done:
            interrupted += 1
            assert w.grad_as_array() == -1, place
        else:
            done += 1
            values.append(w.as_array()[0])
        state = average.state()
        assert trainer.updates == done == state["calls"] == state["averaged"], place
        if done:
            close(state["average:/w"], [np.mean(values)])
            assert not (said := gaps(followers, values)), f"{place}: {said}"
        place += 1
    assert interrupted > 3 and done > 10


TRAINERS = {
    "plain": dy.CyclicalSGDTrainer,
    "distributed": lambda m: dy.parallel.DistributedTrainer(dy.CyclicalSGDTrainer(m)),
    "local": lambda m: dy.parallel.LocalSGD(dy.CyclicalSGDTrainer(m), every=1),
}


def averaged(trainer_of, failing=lambda calls: False):
    """Everything after some updates, in some of which a follower fails; and how many have."""
    m, calls, failures = dy.ParameterCollection(), 0, 0
    w, trainer = m.add_parameters(2, init=0), trainer_of(m)

    class Failing:
        def update(self):
            nonlocal calls
            calls += 1
            if failing(calls):
                raise MemoryError

    def follow(follower):
        Hooks(getattr(getattr(trainer, "outer", trainer), "inner", trainer)).follow(follower)

    averages = [dy.MovingAverage(trainer)]
    follow(Failing())
    averages.append(dy.MovingAverage(trainer, decay=None))
    for k in range(5):
        if k == 3:
            m.add_parameters(1, init=1)
        w.set_gradient([k, 1])
        try:
            trainer.update()
        except MemoryError:
            failures += 1
    everything = trainer.state()
    for k, average in enumerate(averages):
        everything |= {f"{k} {name}": a for name, a in average.state().items()}
    return {name: np.asarray(a).tolist() for name, a in everything.items()}, w.value(), failures


@pytest.mark.parametrize("trainer_of", TRAINERS.values(), ids=TRAINERS)
def test_followers_know_each_update_whatever_one_of_them_raises(trainer_of):
    *want, _ = averaged(trainer_of)
    *got, failures = averaged(trainer_of, lambda calls: calls in (1, 3, 7))
    assert got == want and failures == 3


@pytest.mark.parametrize("trainer_of", TRAINERS.values(), ids=TRAINERS)
def test_update_with_averages_swapped_in_changes_nothing(trainer_of):
    m = dy.ParameterCollection()
    w, trainer = m.add_parameters(1, init=0), trainer_of(m)
    average = dy.MovingAverage(trainer)
    w.set_gradient([1])
    trainer.update()
    before, value = trainer.state(), w.as_array()
    with average.applied():
        w.set_gradient([1])
        with pytest.raises(RuntimeError, match=r"swapped in\. Call swap_out"):
            trainer.update()
    assert (w.as_array() == value).all()
    assert {k: v.tolist() for k, v in trainer.state().items()} == {
        k: v.tolist() for k, v in before.items()
    }


NO_MEMORY = """
import gc
import numpy as np
import _testcapi
import dist_dynet as dy

wrapped = WRAPPED
m = dy.ParameterCollection()
w, table = m.add_parameters(3, init=0), m.add_lookup_parameters((4, 2), init=0)
trainer = wrapped(m)
average, values = dy.MovingAverage(trainer, decay=None), []
gc.disable()
gradient, place, failures = np.ones(3), 0, 0
while failures == place:
    if place % 20 == 0:
        m.add_parameters(1)
    w.set_gradient(gradient)
    done, failed = trainer.updates, False
    _testcapi.set_nomemory(place, place + 1)
    try:
        trainer.update()
    except MemoryError:
        failed = True
    finally:
        _testcapi.remove_mem_hooks()
    failures += failed
    place += 1
    now = trainer.updates
    assert now - done in (0, 1) and (failed or now > done), place
    if now > done:
        values.append(w.as_array())
    trainer.state()
    state = average.state()
    assert state["averaged"] == now == len(values), (place, now, state)
    if values:
        np.testing.assert_allclose(state["average:/_0"], np.mean(values, axis=0), rtol=1e-5)
print(place)
"""


@pytest.mark.parametrize(
    "wrapped",
    [
        "lambda m: dy.AdamTrainer(m)",
        "lambda m: dy.parallel.DistributedTrainer(dy.AdamTrainer(m))",
    ],
)
def test_no_memory_at_any_place_of_an_update_loses_no_average(wrapped):
    pytest.importorskip("_testcapi", reason="this Python has no hooks for its memory")
    assert int(output_of(NO_MEMORY.replace("WRAPPED", wrapped))) > 10


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


def test_updates_in_a_sub_interpreter_hold_no_signals():
    pytest.importorskip("_testcapi", reason="this Python has no hooks for interpreters")
    code = """
        import warnings
        warnings.simplefilter("ignore")  # of NumPy, which may refuse as well
        try:
            import numpy
        except ImportError:
            print("done")
            raise SystemExit
        import dist_dynet as dy
        m = dy.ParameterCollection()
        w, trainer = m.add_parameters(1, init=0), dy.SimpleSGDTrainer(m, 1)
        average = dy.MovingAverage(trainer)
        w.set_gradient([1])
        trainer.update()
        assert w.value() == -1 and average.state()["calls"] == 1
        print("done")
    """
    code = "\n".join(line[8:] for line in code.splitlines())
    assert "done" in output_of(f"import _testcapi; _testcapi.run_in_subinterp({code!r})")


@pytest.mark.usefixtures("ctrl_c_raises")
def test_second_signal_ends_an_update_whose_follower_does_not_end():
    class Endless:
        def update(self):
            for _ in range(2):
                signal.raise_signal(signal.SIGINT)
            pytest.fail("goes on")

    trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())
    Hooks(trainer).follow(Endless())
    with pytest.raises(KeyboardInterrupt):
        trainer.update()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_error_in_the_middle_of_training_leaves_all_usable():
    m = dy.ParameterCollection()
    w, trainer = m.add_parameters(3, init=1), dy.SimpleSGDTrainer(m, 0.1)
    for i in range(5):
        dy.renew_cg()
        try:
            y = w * (2 if i != 2 else dy.zeros(5))
            dy.sum_elems(y).backward()
            trainer.update()
        except ValueError as error:
            assert i == 2 and "matmul" in str(error)
    close(w.as_array(), 1 - 4 * 0.2)
