"""The stack LSTM: what pushes and pops give, over every builder; depth, sharing, refusals.
Gradients and saving: test_nets.py.

How long: three seconds, most of them for the example.
"""

import re
from pathlib import Path

import numpy as np
import pytest
from net_table.recurrent import CLASSES
from processes import predicted, run_example
from test_graph import close

import dist_dynet as dy


@pytest.mark.parametrize("factory", CLASSES)
def test_summary_is_the_output_over_what_lies_on_the_stack(factory, rng):
    stacks = dy.StackLSTM(2, 4, 3, dy.ParameterCollection(), factory)
    dy.renew_cg()
    (empty,) = stacks.get_parameters()
    stack, items = stacks.empty(), []
    for step in range(60):
        if items and rng.random() < 0.45:
            stack = stack.pop()
            items.pop()
        else:
            x = rng.normal(size=4)
            stack = stack.push(dy.inputVector(x), step)
            items.append((step, x))
        assert len(stack) == len(items) and list(stack) == [name for name, _ in reversed(items)]
        if items:
            assert stack.top() == items[-1][0]
    read = stacks.builder.initial_state().transduce(
        [empty.expr(True), *[dy.inputVector(x) for _, x in items]]
    )
    close(stack.summary().npvalue(), read[-1].npvalue(), 1e-5)
    close(stack.state().output().npvalue(), read[-1].npvalue(), 1e-5)


def test_stacks_share_what_they_have_in_common():
    stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
    graph = dy.renew_cg()
    one = stacks.empty().push(dy.ones(2))
    made = len(graph)
    beam = [one.push(dy.inputVector([k, 1]), k) for k in range(5)]
    per_push = (len(graph) - made) / 5
    assert all(b.pop() is one for b in beam) and [b.top() for b in beam] == [0, 1, 2, 3, 4]
    made = len(graph)
    for _ in range(1000):
        assert beam[3].pop().pop().pop is not None and len(beam[3]) == 2
    assert len(graph) == made and per_push <= 4, "pop() makes no nodes"


def test_a_deep_stack_is_made_and_freed():
    stacks = dy.StackLSTM(1, 1, 1, dy.ParameterCollection())
    dy.renew_cg()
    x, stack = dy.zeros(1), stacks.empty()
    for _ in range(30_000):
        stack = stack.push(x)
    assert len(stack) == 30_000 and np.isfinite(stack.summary().value())
    stack.summary().backward()
    del stack


def test_stack_drops_out_and_holds_constants():
    stacks = dy.StackLSTM(1, 2, 40, dy.ParameterCollection())
    dy.renew_cg()
    x = dy.ones(2)
    plain = stacks.empty().push(x).summary().npvalue()
    stacks.set_dropout(0.5)
    dropped = [stacks.empty().push(x).summary().npvalue() for _ in range(2)]
    assert not np.allclose(*dropped) and not np.allclose(dropped[0], plain)
    stacks.disable_dropout()
    close(stacks.empty().push(x).summary().npvalue(), plain)
    dy.sum_elems(stacks.empty(update=False).push(x).summary()).backward()
    assert not any(p.has_gradient() for p in stacks.param_collection().parameters_list())
    with pytest.raises(ValueError, match="set_dropout"):
        stacks.set_dropout(2)


def test_stack_refuses_what_it_cannot_do():
    stacks = dy.StackLSTM(1, 2, 3, dy.ParameterCollection())
    dy.renew_cg()
    empty = stacks.empty()
    for use in (empty.pop, empty.top):
        with pytest.raises(IndexError, match="the stack is empty"):
            use()
    with pytest.raises(TypeError, match="push: takes expressions; got str"):
        empty.push("x")
    with pytest.raises(ValueError, match="inputs have dim"):
        empty.push(dy.zeros(3))
    with pytest.raises(ValueError, match="StackLSTM: sizes must be positive"):
        dy.StackLSTM(0, 2, 3, dy.ParameterCollection())
    for factory in (3, int, dy.BiRNNBuilder, lambda *a: None):
        with pytest.raises(
            TypeError, match="rnn_builder_factory must be the class of a recurrent builder"
        ):
            dy.StackLSTM(1, 2, 3, dy.ParameterCollection(), factory)


@pytest.mark.float32
def test_the_example_learns(tmp_path):
    script = Path(__file__).parents[1] / "examples" / "stack_parser.py"
    result = run_example(
        script,
        "--limit",
        "200",
        "--epochs",
        "3",
        "--size",
        "32",
        *("--save", str(tmp_path / "model"), "--metrics", str(tmp_path / "metrics.jsonl")),
    )
    assert result.returncode == 0, result.stderr
    right = [float(x) for x in re.findall(r"right on (?:dev|test) (\S+)", result.stdout)]
    losses = [float(x) for x in re.findall(r"loss of an action ([\d.]+)", result.stdout)]
    assert (
        losses == sorted(losses, reverse=True)
        and len(losses) == 3
        and len(right) == 4
        and right[-1] > 0.3
    ), result.stdout
    found = predicted(script, tmp_path, "She/PRON sleeps/VERB\n")
    assert re.fullmatch(r"She<-\w+ sleeps<-\w+\n", found)
