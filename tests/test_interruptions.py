"""Ctrl-C during long computations, and at any place of whatever changes something: all of it is
usable afterwards.

How long: about twenty seconds.
"""

import contextlib
import gc
import signal
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from interrupted import ctrl_c, interrupted_at
from processes import output_of
from table_followers import follow_all, gaps
from table_methods import METHODS, call_of
from table_trainers import TRAINERS
from test_graph import close

import dist_dynet as dy
from dist_dynet import meter
from dist_dynet._ffi import lib
from dist_dynet.trainers.hooks import Hooks

# ---- long computations -----------------------------------------------------------------


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


# ---- ends of objects -------------------------------------------------------------------


def test_no_code_of_python_runs_at_the_end_of_an_object(tmp_path):
    # what is raised there is ignored: a Ctrl-C that comes just then would be lost. Whole graphs,
    # of threads and of functions while they are traced, are too few to matter
    calls = set()

    def look(frame, event, function):
        code = frame.f_code
        is_callback = code.co_name.lstrip("_") == "remove" and "weakref" in code.co_filename
        is_finalizer = code.co_name == "__call__" and "weakref" in code.co_filename
        if event == "call" and (is_callback or is_finalizer or code.co_name == "__del__"):
            calls.add((row, code.co_filename, code.co_name))

    gc.collect()
    uses = {row: partial(*call_of(row, METHODS, tmp_path)) for row in METHODS}
    for name, of in TRAINERS.items():
        uses[name] = partial(of.make, dy.ParameterCollection())
    uses["storage"] = lambda: [dy.ParameterCollection().add_parameters(2).storage() for _ in "ab"]
    for row, use in uses.items():  # noqa: B007
        dy.renew_cg()
        try:
            sys.setprofile(look)
            use()
            gc.collect()
        finally:
            sys.setprofile(None)
    assert not calls, "use dist_dynet/_weak.py instead"


# ---- any place -------------------------------------------------------------------------


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
    "resumed run": lambda m: m.checkpointer.resume(),
    "search": searched,
    "parameters": grown,
}


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
    m.checkpointer.save()

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

    use(m)
    place, descriptors = 0, len(list(Path("/proc/self/fd").iterdir()))
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
        assert len(list(Path("/proc/self/fd").iterdir())) == descriptors, place
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
