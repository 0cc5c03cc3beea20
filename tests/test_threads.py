"""Threads and forks: side by side, over one collection, on somebody else's graph.

How long: about ten seconds on one core.
"""

import threading
import time

import numpy as np
import pytest
from processes import output_of
from test_graph import close

import dist_dynet as dy


def together(*functions):
    """Runs functions in threads of their own, started at one moment; their results. An exception in
    one is raised here."""
    start, results, errors = threading.Barrier(len(functions)), [None] * len(functions), []

    def run(i, f):
        start.wait()
        try:
            results[i] = f()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i, f)) for i, f in enumerate(functions)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results


def train(seed, steps=60):
    """A small model trained on a task of its own; the losses and the parameters' bits."""
    rng = np.random.default_rng(seed)
    m = dy.ParameterCollection()
    lstm = dy.VanillaLSTMBuilder(1, 8, 16, m)
    W, t = (
        m.parameters_from_numpy(rng.normal(size=(7, 16))),
        m.lookup_parameters_from_numpy(rng.normal(size=(20, 8))),
    )
    for p in m.parameters_list():
        p.set_value(rng.normal(size=p.shape()) * 0.3)
    trainer, losses = dy.AdamTrainer(m, 0.01), []
    for _ in range(steps):
        dy.renew_cg()
        words = rng.integers(0, 20, size=6)
        outputs = lstm.initial_state().transduce([t[w] for w in words])
        loss = dy.esum(
            [dy.pickneglogsoftmax(W * h, int(w) % 7) for h, w in zip(outputs, words, strict=True)]
        )
        losses.append(loss.value())
        loss.backward()
        trainer.update()
    return losses, b"".join(p.storage().tobytes() for p in (*m.parameters_list(), t))


def test_two_threads_train_two_models_as_one_would():
    alone = [train(1), train(2)]
    assert alone[0][0][-1] < alone[0][0][0]
    assert together(lambda: train(1), lambda: train(2)) == alone


def test_threads_add_gradients_to_one_collection():
    m = dy.ParameterCollection()
    w, t, W = (
        m.add_parameters(50, init=1),
        m.add_lookup_parameters((9, 50), init=1),
        m.add_parameters((50, 50), init=0),
    )
    rounds = 300

    def add(k):
        for i in range(rounds):
            dy.renew_cg()
            dy.esum([dy.dot_product(w, t[(i + k) % 9]), dy.sum_elems(W * t[k])]).backward()

    together(lambda: add(0), lambda: add(1), lambda: add(2))
    assert w.grad_as_array().tolist() == [3 * rounds] * 50
    assert W.grad_as_array().tolist() == [[3 * rounds] * 50] * 50
    close(t.grad_as_array().sum(), 3 * rounds * 50)


def test_threads_with_two_collections_in_opposite_order_do_not_wait_for_each_other_forever():
    models = [dy.ParameterCollection(), dy.ParameterCollection()]
    parameters = [m.add_parameters(2000, init=1) for m in models]

    def add(first, second):
        for _ in range(2000):
            dy.renew_cg()
            dy.dot_product(first, second).backward()

    together(lambda: add(*parameters), lambda: add(*reversed(parameters)))
    for p in parameters:
        assert p.grad_as_array().tolist() == [4000] * 2000


def test_collection_grows_while_another_thread_computes_with_it():
    m = dy.ParameterCollection()
    w = m.add_parameters(100, init=1)
    stop = threading.Event()

    def compute():
        n = 0
        while not (n and stop.is_set()):
            dy.renew_cg()
            y = dy.sum_elems(w * 2)
            assert y.value() == 200
            y.backward()
            n += 1
        return n

    def grow():
        try:
            for i in range(300):
                m.add_parameters((10_000 if i % 10 == 0 else 50,), init=0)
                m.add_lookup_parameters((5, 3), init=0)
                w.set_updated(i % 3 != 0)
                w.scale_gradient(0.5)
                w.clear_gradient()
        finally:
            stop.set()

    assert together(compute, grow)[0] > 0


# ---- reading parameters while another thread trains them -------------------------------

BESIDES = """
import sys, tempfile, threading, numpy as np, dist_dynet as dy
done, counts, wrong = threading.Event(), {}, []
def besides(train, readings, rounds):
    "Runs readings, by name, in threads of their own while train(i) runs; RuntimeErrors with a message are counted as errors."
    def read(name, f):
        kinds = counts.setdefault(name, {"read": 0, "error": 0})
        while not done.is_set():
            try:
                f()
                kinds["read"] += 1
            except RuntimeError as error:
                kinds["error"] += 1
                if "another thread" not in str(error): wrong.append(f"{name}: {error}")
            except Exception as error:
                wrong.append(f"{name}: {type(error).__name__}: {error}")
                return
    threads = [threading.Thread(target=read, args=item) for item in readings.items()]
    for t in threads: t.start()
    try:
        i = 0
        while i < rounds or (i < 100 * rounds and not all(kinds["read"] + kinds["error"] for kinds in counts.values())):
            train(i)
            i += 1
    finally:
        done.set()
        for t in threads: t.join()
    print("alive", len(readings) == len(counts) and all(kinds["read"] + kinds["error"] for kinds in counts.values()), sorted(set(wrong))[:5])
"""  # noqa: E501


def test_gradients_read_while_another_thread_trains():
    # tables get their first gradients again and again, so that the memory of these moves
    code = (
        BESIDES
        + """
m = dy.ParameterCollection()
W, tables = m.add_parameters((64, 64)), [m.add_lookup_parameters((500, 64))]
trainer = dy.AdamTrainer(m)
def train(i):
    if i % 5 == 0: tables.append(m.add_lookup_parameters((500, 64)))
    dy.renew_cg()
    row = lambda k: W * tables[-1][(k * 7) % 500]
    dy.sum_elems(dy.esum([row(k) for k in range(4 + 97 * (i % 5))])).backward()
    if i % 3 == 2: trainer.update()
def touched():
    E = tables[-1]
    assert E.touched_gradients().shape[1:] == (64,) and (E.touched_rows() < 500).all()
besides(train, {
    "rows_grad_as_array": lambda: tables[-1].rows_grad_as_array([1, 7, 14, 21, 499]).sum(),
    "row_grad_as_array": lambda: tables[-1].row_grad_as_array(7).sum(),
    "grad_as_array": lambda: (tables[-1].grad_as_array().sum(), W.grad_as_array().sum()),
    "touched": touched,
    "gradient_norm": lambda: trainer.gradient_norm(),
}, 400)
"""
    )
    assert output_of(code) == "alive True []\n"


def test_values_read_while_another_thread_updates_are_of_one_moment():
    # all numbers of all parameters are equal at any moment between two updates
    code = (
        BESIDES
        + """
from pathlib import Path
m = dy.ParameterCollection()
W, V, E = m.add_parameters((300, 1000), init=0), m.add_parameters((1000, 300), init=0), m.add_lookup_parameters((300, 1000), init=0)
trainer = dy.SimpleSGDTrainer(m, 1.0)
trainer.set_sparse_updates(False)
trainer.set_clip_threshold(0)
ones = np.ones((300, 1000))
def train(i):
    if i % 4 == 3:
        W.set_value(np.full((300, 1000), i)); V.set_value(np.full((1000, 300), i))
        E.init_from_array(np.full((300, 1000), i))
        return
    for p in (W, E): p.set_gradient(ones)
    V.set_gradient(ones.T)
    trainer.update()
def same(*arrays):
    for a in arrays:
        if np.min(a) != np.max(a): wrong.append(f"{sys._getframe(1).f_code.co_name}: mixed")
def values():
    dy.renew_cg()
    same((W + 1).npvalue())
def parameter():
    dy.renew_cg()
    same(W.npvalue())
def view():
    dy.renew_cg()
    same(dy.reshape(W, (300000,)).npvalue())
def product():
    dy.renew_cg()
    same((W * V).npvalue())
def rows():
    dy.renew_cg()
    same(dy.lookup_batch(E, list(range(300))).npvalue())
def table():
    dy.renew_cg()
    same(E.npvalue())
def arrays():
    same(W.as_array()); same(V.as_array()); same(E.as_array())
    same(E.rows_as_array(range(0, 300, 7))); same(E.row_as_array(5))
folder = tempfile.mkdtemp()
def whole(n):
    same(*(p.as_array() for p in n.parameters_list()))
    same(*(p.as_array() for p in n.lookup_parameters_list()))
def safetensors():
    dy.save_safetensors(m, folder + "/m.safetensors")
    n = dy.ParameterCollection(); n.add_parameters((300, 1000)); n.add_parameters((1000, 300))
    n.add_lookup_parameters((300, 1000))
    dy.load_safetensors(n, folder + "/m.safetensors"); whole(n)
def copies():
    import copy
    whole(copy.deepcopy(m))
def smaller_saves():
    W.save(folder + "/w.txt")
    w = dy.ParameterCollection().add_parameters((300, 1000))
    w.populate(folder + "/w.txt", "/_0")
    same(w.as_array())
readings = [values, parameter, view, product, rows, table, arrays, safetensors, copies, smaller_saves]
besides(train, {f.__name__: f for f in readings}, 200)
"""  # noqa: E501
    )
    assert output_of(code) == "alive True []\n"


def test_backward_whose_parameters_another_thread_updates_midway_is_an_error():
    from dist_dynet.expression import watchers

    m = dy.ParameterCollection()
    w = m.add_parameters(1_000_000, init=1)
    trainer = dy.SimpleSGDTrainer(m)
    z = w
    for _ in range(40):
        z = dy.cmult(z, w)
    loss = dy.sum_elems(z)
    loss.forward()

    class Updates:
        def look(self):
            together(trainer.update)

    updates = Updates()
    watchers.add(updates)
    try:
        with pytest.raises(
            RuntimeError, match="backward: parameters were changed after the values"
        ):
            loss.backward()
    finally:
        watchers.discard(updates)
    assert not w.has_gradient()


# ---- a graph that belongs to another thread --------------------------------------------

USES = {
    "value": lambda e: e.value(),
    "dim": lambda e: e.dim(),
    "node": lambda e: dy.tanh(e),
    "list": lambda e: dy.esum([e, e]),
    "backward": lambda e: e.backward(),
    "gradient": lambda e: e.gradient(),
    "set": lambda e: e.set(1),
    "recalculate": lambda e: e.value(recalculate=True),
}


@pytest.mark.parametrize("use", USES.values(), ids=list(USES))
def test_graph_that_another_thread_computes_with_is_busy(use):
    made, errors, begun, done = [], [], threading.Event(), threading.Event()

    def owner():
        x = dy.scalarInput(0.5)
        y = x + dy.zeros(2_000_000)
        for _ in range(4):
            y = dy.tanh(y)
        loss = dy.sum_elems(y)
        made.append(x)
        begun.set()
        while not done.is_set():
            try:
                loss.value(recalculate=True)
                loss.backward()
            except RuntimeError as error:  # the other thread was quicker
                errors.append(str(error))

    thread = threading.Thread(target=owner)
    thread.start()
    try:
        assert begun.wait(60)
        limit = time.monotonic() + 60
        while time.monotonic() < limit:
            try:
                use(made[0])
            except RuntimeError as error:
                errors.append(str(error))
            if any("computed by another thread" in e for e in errors):
                break
    finally:
        done.set()
        thread.join()
    allowed = ("computed by another thread", "Requested gradient", "was not computed", "meanwhile")
    assert any(allowed[0] in e for e in errors)
    assert all(any(a in e for a in allowed) for e in errors), set(errors)


def test_nodes_made_while_another_thread_reads_the_same_graph():
    # node-making calls keep Python's lock, computing ones do not: each must find the tape whole
    code = """
import threading, dist_dynet as dy
stop, box, errors = threading.Event(), [], set()
def foreign():
    while not stop.is_set():
        for e in box[-1:]:
            try: e.value(); e.dim(); e.gradient()
            except RuntimeError as error: errors.add(str(error).split(":")[0][:20])
            except ValueError as error: errors.add(str(error))
threads = [threading.Thread(target=foreign) for _ in range(2)]
for t in threads: t.start()
for round in range(30):
    while True:
        try: dy.renew_cg(); break
        except RuntimeError: pass
    y = None
    for i in range(3000):
        try:
            y = dy.scalarInput(i) if y is None else dy.tanh(y) + dy.inputVector([1.0])
            if i % 50 == 0: box[:] = [y]
        except RuntimeError as error:
            assert "another thread" in str(error), error
stop.set()
for t in threads: t.join()
known = {"this graph is being ", "Stale Expression", "Requested gradient f", "the value of this ex", "expression belongs t"}
print("alive", errors <= known or errors)
"""  # noqa: E501
    assert output_of(code) == "alive True\n"


def test_expressions_may_be_handed_over_between_threads():
    w = dy.ParameterCollection().add_parameters(3, init=2)
    loss = dy.sum_elems(dy.square(w))

    def other():
        value = loss.value()
        loss.backward()
        return value, (loss * 2).value()

    assert together(other) == [(12, 24)]
    assert w.grad_as_array().tolist() == [4, 4, 4]


def test_more_threads_one_after_another_than_graphs_there_are():
    values = []

    def work(i):
        values.append(dy.scalarInput(i).value())

    for i in range(1100):
        thread = threading.Thread(target=work, args=(i,))
        thread.start()
        thread.join()
    assert values == list(range(1100))


def test_threads_at_once_that_are_too_many_get_an_error():
    code = """
import threading, dist_dynet as dy
threading.stack_size(262144)  # with less, Python 3.14 keeps what threads that ended had
go_on, errors, lock = threading.Event(), [], threading.Lock()
def work():
    try: dy.scalarInput(1).value()
    except MemoryError as error:
        with lock: errors.append(str(error))
    go_on.wait()
threads = [threading.Thread(target=work) for _ in range(1030)]
for t in threads: t.start()
go_on.set()
for t in threads: t.join()
print(len(errors), set(errors), dy.scalarInput(4).value())
"""
    out = output_of(code)
    assert out.endswith("4.0\n") and "more than 1024 threads" in out


def test_threads_still_running_at_the_end_of_the_process():
    code = """
import threading, dist_dynet as dy
def forever():
    w = dy.ParameterCollection().add_parameters((200, 200))
    while True:
        dy.renew_cg()
        dy.sum_elems(w * (w * dy.ones((200, 200)))).backward()
for _ in range(3): threading.Thread(target=forever, daemon=True).start()
import time; time.sleep(0.2)
print("end")
"""
    for _ in range(3):
        assert output_of(code) == "end\n"


def test_graphs_of_threads_stay_when_the_process_ends():
    code = """
import atexit, threading
done, go, built = threading.Event(), threading.Event(), threading.Event()
def at_the_very_end():  # behind all that is registered later
    go.set()
    done.wait(20)
atexit.register(at_the_very_end)
import dist_dynet as dy
def work():
    loss = dy.sum_elems(dy.tanh(dy.inputVector([1, 2])))
    built.set()
    go.wait()
    try:
        loss.backward()
        print("goes on", flush=True)
    except Exception as error:
        print(error, flush=True)
    done.set()
threading.Thread(target=work, daemon=True).start()
built.wait()
"""
    assert output_of(code) == "goes on\n"


# ---- fork ------------------------------------------------------------------------------


def test_child_forked_in_the_middle_of_training_continues_by_itself():
    code = """
import os, sys, numpy as np, dist_dynet as dy
dy.reset_random_seed(2)
m = dy.ParameterCollection()
W, t = m.add_parameters((5, 5)), m.add_lookup_parameters((4, 5))
trainer = dy.AdamTrainer(m, 0.05)
def step(i):
    dy.renew_cg()
    loss = dy.pickneglogsoftmax(W * dy.dropout(t[i % 4], 0.2), i % 4)
    loss.backward(); trainer.update()
    return loss
for i in range(5): step(i)
dy.renew_cg()
half = dy.dropout(dy.tanh(t[1]), 0.5)
loss = dy.sum_elems(W * half)
loss.forward()
sys.stdout.flush()
pid = os.fork()
loss.backward()
before = W.as_array()
trainer.update()
losses = [step(i).value() for i in range(100)]
mask = [v > 0 for v in dy.dropout(dy.ones(50), 0.5).value()]
if pid: assert os.waitpid(pid, 0)[1] == 0
print(np.abs(W.as_array() - before).max() > 0.1, np.mean(losses[-20:]) < np.mean(losses[:20]), *map(int, mask), flush=True)
if not pid: os._exit(0)
"""  # noqa: E501
    lines = output_of(code).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("True True") for line in lines)
    assert lines[0] != lines[1]
