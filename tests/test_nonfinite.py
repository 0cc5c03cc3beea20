"""The search for NaN and infinity: the first node, its shapes, the line of the program that made
it.

How long: about a second.
"""

import threading
from pathlib import Path

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet import nonfinite

HERE = Path(__file__).name


def line_of(mark):
    """The number of the line of this file that ends with `# <mark>`."""
    (number,) = (
        i
        for i, line in enumerate(Path(__file__).read_text().splitlines(), 1)
        if line.endswith("# " + mark)
    )
    return number


def made_at(place, mark):
    return place is not None and Path(place.file).name == HERE and place.line == line_of(mark)


@pytest.fixture(autouse=True)
def _off():
    yield
    assert "__init__" not in vars(dy.Expression) and not nonfinite._modes


# ---- find_nonfinite --------------------------------------------------------------------


def test_nothing_is_found_where_all_is_finite():
    w = dy.ParameterCollection().add_parameters(3, init=1)
    loss = dy.sum_elems(dy.tanh(w))
    assert dy.find_nonfinite(loss) is None
    loss.backward()
    assert dy.find_nonfinite(loss) is None


def test_first_value_is_found(rng):
    x = dy.inputTensor([[1.0, 0.5], [0.0, 1.0]], batched=True)
    y = dy.log(x)
    loss = dy.sum_batches(dy.sum_elems(dy.exp(y) + dy.cmult(y, y) * 0))
    report = dy.find_nonfinite(loss)
    assert (report.kind, report.node.op, report.node.index, report.element) == (
        "value",
        "log",
        y.index(),
        (1, 0),
    )
    assert (
        report.number == -np.inf
        and report.node.dims == (2,)
        and report.node.batch == 2
        and report.place is None
    )
    assert (
        str(report).splitlines()[0]
        == "the value of node 1 is -inf at (1, 0): v1 = log(v0), dims (2,) x 2"
    )
    assert "its input v0 = input(), value from 0 to 1" in str(report)


def test_infinity_can_be_let_pass():
    mask = dy.inputVector([0, -np.inf])
    probabilities = dy.softmax(dy.zeros(2) + mask)
    assert dy.find_nonfinite(probabilities).node.op == "input"
    assert dy.find_nonfinite(probabilities, infinite=False) is None
    difference = mask - mask
    assert (
        dy.find_nonfinite(dy.sum_elems(difference), infinite=False).node.index == difference.index()
    )


def test_nodes_that_do_not_matter_are_not_looked_at():
    bad = dy.log(dy.scalarInput(0))
    good = dy.scalarInput(1) + 1
    assert dy.find_nonfinite(good) is None and dy.find_nonfinite(bad) is not None


@pytest.mark.parametrize("accumulated", [False, True])
def test_first_gradient_is_found(accumulated):
    m = dy.ParameterCollection()
    w = m.add_parameters(2, init=0)
    if accumulated:
        dy.sum_elems(w * 2).backward()
    v = w * 1
    y = v**0.5
    loss = dy.sum_elems(y)
    loss.backward()
    report = dy.find_nonfinite(loss)
    assert (
        report.kind == "gradient"
        and report.node.index == v.index()
        and report.number == np.inf
        and report.element == (0,)
    )
    assert [n.index for n, *_ in report.from_] == [y.index()]
    assert "sent by v" in str(report) and "gradient from 1 to 1" in str(report)


def test_gradient_of_parameters_tables_and_parts():
    m = dy.ParameterCollection()
    W, E = m.parameters_from_numpy([[0.0, 1.0]]), m.lookup_parameters_from_numpy([[0.0, 1.0]])
    loss = dy.sum_elems(W**0.5)
    loss.backward()
    assert dy.find_nonfinite(loss).node.op == "parameter" and dy.find_nonfinite(loss).element == (
        0,
        0,
    )
    dy.renew_cg()
    loss = dy.sum_elems(E[0] ** 0.5)
    loss.backward()
    assert dy.find_nonfinite(loss).node.op == "lookup"
    dy.renew_cg()
    state = dy.VanillaLSTMBuilder(1, 2, 2, m).initial_state().add_input(E[0])
    loss = dy.sum_elems((state.h()[0] * 0) ** 0.5)
    loss.backward()
    assert dy.find_nonfinite(loss).kind == "gradient"


def test_stale_and_failing_expressions():
    x = dy.scalarInput(1)
    dy.renew_cg()
    with pytest.raises(RuntimeError, match=r"^Stale Expression"):
        dy.find_nonfinite(x)

    def fails(a):
        raise KeyError("mine")

    y = dy.function(fails, None, 1)(dy.scalarInput(1))
    for _ in range(2):
        with pytest.raises(KeyError):
            dy.find_nonfinite(y)
    assert dy.find_nonfinite(dy.ParameterCollection().add_parameters(1, init=1)) is None


# ---- trace_nonfinite -------------------------------------------------------------------


def network(x):
    h = dy.tanh(x)
    p = h - h
    y = dy.log(p)  # log
    return dy.sum_elems(y)


READS = {
    "value": lambda e: e.value(),
    "value, recalculated": lambda e: e.value(recalculate=True),
    "npvalue": lambda e: e.npvalue(),
    "npvalue of a softmax": lambda e: dy.softmax(dy.concatenate([e, e])).npvalue(),
    "vec_value": lambda e: e.vec_value(),
    "scalar_value": lambda e: e.scalar_value(),
    "tensor_value": lambda e: e.tensor_value(),
    "forward": lambda e: e.forward(),
    "backward": lambda e: e.backward(),
    "backward, full": lambda e: e.backward(full=True),
}


@pytest.mark.parametrize("read", READS)
def test_values_are_traced_to_the_line(read):
    with dy.trace_nonfinite():
        dy.renew_cg()
        loss = network(dy.inputVector([1, 2]))
        with pytest.raises(
            dy.NonFiniteError,
            match=r"^NaN or Inf detected: the value of node 3 is -inf at \(0,\): v3 = log\(v2\)",
        ) as caught:
            READS[read](loss)
    report = caught.value.report
    assert made_at(report.place, "log") and report.place.function == "network"
    assert f"{HERE}:{line_of('log')}, in network" in str(caught.value)
    assert isinstance(caught.value, RuntimeError)


def test_lists_and_graph_methods_are_traced():
    with dy.trace_nonfinite():
        dy.renew_cg()
        loss = network(dy.inputVector([1, 2]))
        for read in (dy.values, dy.npvalues, dy.forward):
            with pytest.raises(dy.NonFiniteError):
                read([loss])
        with pytest.raises(dy.NonFiniteError):
            dy.cg().forward_scalar(loss.index())


def test_gradients_are_traced_to_the_line():
    m = dy.ParameterCollection()
    w = m.add_parameters(2, init=0)
    with dy.trace_nonfinite():
        dy.renew_cg()
        v = w * 1  # times
        y = v**0.5  # root
        loss = dy.sum_elems(y)
        assert loss.value() == 0
        with pytest.raises(
            dy.NonFiniteError, match=r"^NaN or Inf detected: the gradient of node \d+ is inf"
        ) as caught:
            loss.backward()
    report = caught.value.report
    assert report.node.index == v.index() and made_at(report.place, "times")
    assert made_at(report.from_[0][2], "root")
    m.reset_gradients()
    assert not w.has_gradient()


def test_no_gradient_is_changed_when_a_value_is_bad():
    w = dy.ParameterCollection().add_parameters(2, init=0)
    with dy.trace_nonfinite():
        dy.renew_cg()
        with pytest.raises(dy.NonFiniteError):
            network(w).backward()
    assert not w.has_gradient()


def test_first_set_then_read_is_no_error():
    with dy.trace_nonfinite():
        dy.renew_cg()
        x = dy.vecInput(2)
        y = dy.log(x)
        x.set([1, 1])
        assert y.value() == [0, 0]


def test_lines_inside_of_builders_are_the_users():
    m = dy.ParameterCollection()
    builder = dy.VanillaLSTMBuilder(1, 2, 2, m)
    with dy.trace_nonfinite():
        dy.renew_cg()
        x = dy.inputVector([np.inf, 0])  # infinite
        out = builder.initial_state().transduce([x])[-1]
        with pytest.raises(dy.NonFiniteError) as caught:
            out.value()
    assert made_at(caught.value.report.place, "infinite")


def test_nodes_from_before_have_no_place():
    y = dy.log(dy.scalarInput(0))
    with dy.trace_nonfinite():
        z = y * 2
        with pytest.raises(dy.NonFiniteError, match="made at a line that is not known") as caught:
            z.value()
    assert caught.value.report.place is None


def test_several_graphs_and_reverts():
    with dy.trace_nonfinite():
        for _ in range(3):
            dy.renew_cg()
            x = dy.scalarInput(1)
            dy.cg_checkpoint()
            dropped = dy.exp(dy.scalarInput(2))
            assert dropped.value() > 7
            dy.cg_revert()
            y = dy.log(x * 0)  # after revert
            with pytest.raises(dy.NonFiniteError) as caught:
                y.value()
            assert made_at(caught.value.report.place, "after revert")


def test_infinity_can_be_let_pass_in_the_mode():
    with dy.trace_nonfinite(infinite=False):
        dy.renew_cg()
        x = dy.inputVector([0, -np.inf])
        assert dy.softmax(x).value() == [1, 0]
        with dy.trace_nonfinite(), pytest.raises(dy.NonFiniteError):
            dy.softmax(x).value()
        assert dy.softmax(x).value() == [1, 0]
        with pytest.raises(dy.NonFiniteError, match="is nan at"):
            (x - x).value()


def test_mode_is_off_afterwards_even_after_errors():
    before = {
        name: getattr(dy.Expression, name)
        for name in ("value", "_computed", "backward", "__init__")
    }
    with pytest.raises(KeyError), dy.trace_nonfinite(), dy.trace_nonfinite():
        raise KeyError
    assert {name: getattr(dy.Expression, name) for name in before} == before
    dy.renew_cg()
    assert network(dy.inputVector([1, 2])).value() == -np.inf


def test_training_continues_as_without():
    def train(traced):
        dy.reset_random_seed(3)
        m = dy.ParameterCollection()
        builder, trainer = dy.VanillaLSTMBuilder(1, 3, 4, m), dy.AdamTrainer(m)
        losses = []
        for _ in range(5):
            dy.renew_cg()
            out = builder.initial_state().transduce([dy.dropout(dy.ones(3), 0.5) for _ in range(4)])
            loss = dy.pickneglogsoftmax(out[-1], 1)
            losses.append(loss.value())
            loss.backward()
            trainer.update()
        return losses

    plain = train(False)
    with dy.trace_nonfinite():
        assert train(True) == plain


def test_threads_are_traced_each_in_its_graph():
    found = []

    def work(k):
        dy.renew_cg()
        loss = network(dy.inputVector([k]))
        try:
            loss.value()
        except dy.NonFiniteError as error:
            found.append(error.report.place)

    with dy.trace_nonfinite():
        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    assert len(found) == 4 and all(made_at(p, "log") for p in found)


@pytest.mark.parametrize("autobatching", [0, 2, 3])
def test_step_that_is_computed_with_others_is_named_itself(autobatching):
    """Its outputs and those of the others lie side by side."""
    m = dy.ParameterCollection()
    builder = dy.VanillaLSTMBuilder(1, 2, 3, m)
    builder.get_parameters()[0][0].set_value(np.zeros((12, 2)))

    def report(autobatching, immediate):
        dy.renew_cg(autobatching=autobatching, immediate_compute=immediate)
        states, hs = [builder.initial_state() for _ in range(3)], []
        for t in range(5):
            for k in range(3):
                bad = (t, k) == (2, 1)
                x = dy.inputVector([np.inf, 1] if bad else [0.1 * t, 0.2 * k])
                states[k] = states[k].add_input(x)
                hs.append(states[k].output())
        loss = dy.esum([dy.sum_elems(h) for h in hs])
        loss.forward()
        found = dy.find_nonfinite(loss, infinite=False)
        return found.kind, found.node, found.element

    one_by_one = report(0, True)
    assert one_by_one[1].op == "lstm"
    assert report(autobatching, False) == one_by_one
