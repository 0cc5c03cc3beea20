"""Steps of recurrent networks that are computed as one sequence, or as several (chain.c in
csrc/schedule), give what the same steps give one by one.

Immediate mode computes each node when it is made: there every step is by itself.

How long: half a minute on one core.
"""

import re

import numpy as np
import pytest
from net_table.recurrent import FACTORIES
from test_batched_gemm import assert_equal

import dist_dynet as dy

INPUT, HIDDEN, ROWS, WORDS = 4, 3, 7, 5


class Drawn:
    """A program over one network that is advanced step by step, drawn with `seed`: run() computes
    it. What is drawn depends on no value."""

    def __init__(self, seed):
        rng = self.rng = np.random.default_rng(seed)
        self.seed, self.m = seed, dy.ParameterCollection()
        name = rng.choice(sorted(FACTORIES))
        self.builder = FACTORIES[name](int(rng.integers(1, 3)), INPUT, HIDDEN, self.m)
        self.E = self.m.add_lookup_parameters((ROWS, INPUT))
        self.P, self.W = self.m.add_parameters((INPUT, INPUT)), self.m.add_parameters((WORDS, 3))
        self.H = self.m.add_parameters((INPUT, HIDDEN))
        for p in self.m.parameters_list():
            p.set_value(rng.normal(size=p.shape()))
        self.E.init_from_array(rng.normal(size=(ROWS, INPUT)))
        for p in self.m.parameters_list():
            p.set_updated(bool(rng.random() > 0.1))
        self.rate = 0.4 if rng.random() < 0.3 else 0
        self.trainer = dy.MomentumSGDTrainer(self.m, 0.05)
        self.trainer.skip_nonfinite = True
        self.batch = int(rng.choice([1, 1, 3]))

    def x(self, states, poisoned):
        """One of the inputs that a step may have."""
        rng, batch = self.rng, self.batch
        kind = rng.choice(["rows"] * 6 + ["given", "computed", "fed back", "one for all"])
        rows = [int(i) for i in rng.integers(0, ROWS, batch)]
        if kind == "fed back":
            # of the last step, or of one long ago, or of another sequence
            n = len(self.seen)
            of = states[-1] if rng.random() < 0.6 or not n else self.seen[int(rng.integers(n))]
            return self.H * of.output() if of.h() else dy.zeros(INPUT)
        if kind == "one for all":
            return self.E[rows[0]]
        if kind == "given":
            given = rng.normal(size=(INPUT, batch))
            if poisoned and rng.random() < 0.3:
                given[0, 0] = np.inf
            return dy.inputTensor(given[:, 0] if batch == 1 else given, batched=batch > 1)
        x = self.E[rows[0]] if batch == 1 else dy.lookup_batch(self.E, rows)
        self.rows.append(x)
        return dy.tanh(self.P * x) if kind == "computed" else x

    def graph(self, read):
        """(values read, losses, states) of one sequence."""
        rng = self.rng
        beginning = self.builder.initial_state()
        if rng.random() < 0.2:
            given = beginning.add_input(self.x([beginning], False)).s()
            beginning = self.builder.initial_state([dy.tanh(e) for e in given])
        states, values, losses = [beginning], [], []
        poisoned, apart = rng.random() < 0.2, rng.random() < 0.3
        known = [self.x(states[:1], poisoned) for _ in range(12)] if apart else []
        for _ in range(int(rng.integers(2, 12))):
            from_one_before = rng.random() < 0.1
            before = states[int(rng.integers(len(states)))] if from_one_before else states[-1]
            states.append(before.add_input(known.pop() if known else self.x(states, poisoned)))
            self.seen.append(states[-1])
            what = rng.choice(["", "loss", "loss", "cells", "read", "several"])
            if what in ("loss", "several"):
                losses.append(self.loss(states[-1].output()))
            if what == "cells":
                losses.append(dy.sum_batches(dy.sum_elems(states[-1].s()[0])))
            if what == "read" and read:
                values.append(states[int(rng.integers(1, len(states)))].output().npvalue())
            if what == "several":
                losses.append(self.loss(states[int(rng.integers(1, len(states)))].output()))
        return values, losses, states

    def loss(self, h):
        words = [int(i) for i in self.rng.integers(0, WORDS, h.dim()[1])]
        return dy.sum_batches(dy.pickneglogsoftmax_batch(self.W * h, words))

    def run(self, sequences=1, steps=2, **graph):
        """Values, gradients of states and parameters, what two updates have made of those."""
        found = []
        dy.reset_random_seed(self.seed + 1)
        if self.rate:
            self.builder.set_dropout(self.rate)
        for _ in range(steps):
            dy.renew_cg(**graph)
            read = self.rng.random() < (0.5 if sequences == 1 else 0.1)
            values, losses, states, self.seen, self.rows = [], [], [], [], []
            for _ in range(sequences):
                for parts, more in zip((values, losses, states), self.graph(read), strict=True):
                    parts += more
            found += values
            kept = [k for k in losses if self.rng.random() < 0.7] or [states[-1].output()[0]]
            loss = dy.sum_batches(dy.esum(kept))
            states = [e for s in states if s.h() for e in s.s()]
            found += [loss.value(), *(e.npvalue() for e in states)]
            loss.backward()
            found += [e.gradient() for e in (*states, *self.rows)]
            found += [p.grad_as_array().copy() for p in (*self.m.parameters_list(), self.E)]
            self.trainer.update()
        return [*found, *(p.as_array().copy() for p in (*self.m.parameters_list(), self.E))]


@pytest.mark.parametrize("autobatching", [0, 1, 2, 3])
@pytest.mark.parametrize("seeds", range(4))
def test_drawn_sequences_equal_those_of_single_steps(seeds, autobatching):
    for seed in range(1000 + 12 * seeds, 1012 + 12 * seeds):
        try:
            assert_equal(
                Drawn(seed).run(5, autobatching=autobatching),
                Drawn(seed).run(5, immediate_compute=True),
                5e-4,
            )
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"the program of seed {seed}") from error


@pytest.mark.parametrize("seeds", range(12))
def test_drawn_programs_equal_those_of_single_steps(seeds):
    for seed in range(25 * seeds, 25 * seeds + 25):
        try:
            assert_equal(Drawn(seed).run(), Drawn(seed).run(immediate_compute=True), 5e-4)
        except (AssertionError, RuntimeError) as error:
            raise AssertionError(f"the program of seed {seed}") from error


def calls_of(operation, make):
    """(calls, nodes) of an operation in what make() computes."""
    with dy.profile() as p:
        make()
    rows = re.findall(rf"^{re.escape(operation)} +([\d,]+) +([\d,]+)", str(p), re.MULTILINE)
    return sum(int(r[0]) for r in rows), sum(int(r[1]) for r in rows)


@pytest.fixture
def network():
    m = dy.ParameterCollection()
    return dy.VanillaLSTMBuilder(2, INPUT, HIDDEN, m), m.add_lookup_parameters((ROWS, INPUT))


def over(builder, xs, each=lambda h: None):
    state = builder.initial_state()
    for x in xs:
        state = state.add_input(x)
        each(state.output())
    return state


def test_steps_whose_inputs_are_known_are_one_call(network):
    builder, E = network
    losses = []
    dy.renew_cg()
    over(builder, [E[i] for i in range(6)], lambda h: losses.append(dy.squared_norm(h)))
    loss = dy.esum(losses)
    assert calls_of("lstm", loss.value) == (2, 12)
    assert calls_of("lstm'", loss.backward) == (2, 12)


def test_step_that_waits_for_the_one_before_is_by_itself(network):
    builder, E = network
    dy.renew_cg()
    state = builder.initial_state().add_input(E[0])
    for _ in range(4):
        h = state.output()
        state = state.add_input(dy.concatenate([h, dy.sum_elems(h)]))
    assert calls_of("lstm", state.output().npvalue) == (10, 10)


def test_last_step_that_nobody_reads_is_by_itself(network):
    """A loss on which it does not depend would give it no gradient, and so end the one call of
    backward."""
    builder, E = network
    losses = []
    dy.renew_cg()
    state = builder.initial_state()
    for i in range(6):
        if i:
            losses.append(dy.squared_norm(state.output()))
        state = state.add_input(E[i])
    loss = dy.esum(losses)
    assert calls_of("lstm", loss.value) == (4, 12)
    assert calls_of("lstm'", loss.backward) == (2, 10)


def test_rows_of_steps_beside_the_loss_have_no_gradient(network):
    builder, E = network
    losses = []
    dy.renew_cg()
    over(builder, [E[i] for i in range(6)], lambda h: losses.append(dy.squared_norm(h)))
    everything, some = dy.esum(losses), dy.esum(losses[:3])
    everything.value()
    some.backward()
    touched = [bool(np.any(row)) for row in E.grad_as_array()]
    assert touched == [True] * 3 + [False] * 4


STRATEGIES = pytest.mark.parametrize("autobatching", [1, 2, 3])


def sentences(network, lengths, read_last=True):
    """A loss of the states of sentences; without read_last, of all but their last ones."""
    builder, E = network
    losses = []
    for n in lengths:
        states = []
        over(builder, [E[i % ROWS] for i in range(n)], states.append)
        losses += [dy.squared_norm(h) for h in (states if read_last else states[:-1])]
    return dy.esum(losses)


@STRATEGIES
def test_steps_of_several_sequences_are_one_call(network, autobatching):
    dy.renew_cg(autobatching=autobatching)
    loss = sentences(network, range(5, 13))
    assert calls_of("lstm", loss.value) == (2, 2 * sum(range(5, 13)))
    assert calls_of("lstm'", loss.backward) == (2, 2 * sum(range(5, 13)))
    stats = dy.autobatch_stats()
    assert stats.least_batches <= stats.batches


@STRATEGIES
def test_last_steps_that_nobody_reads_are_a_group_of_their_own(network, autobatching):
    """In one with others they would have those done one by one in backward."""
    dy.renew_cg(autobatching=autobatching)
    loss = sentences(network, range(5, 13), read_last=False)
    assert calls_of("lstm", loss.value) == (4, 2 * sum(range(5, 13)))
    assert calls_of("lstm'", loss.backward) == (2, 2 * sum(range(4, 12)))


@STRATEGIES
def test_nodes_beside_the_loss_are_groups_of_their_own(autobatching):
    m = dy.ParameterCollection()
    W, E = m.add_parameters((HIDDEN, INPUT)), m.add_lookup_parameters((ROWS, INPUT))
    dy.renew_cg(autobatching=autobatching)
    hs = [dy.tanh(W * E[i % ROWS]) for i in range(30)]
    loss = dy.esum([dy.squared_norm(h) for h in hs[::3]])
    assert calls_of("tanh", loss.value) == (2, 30)
    assert calls_of("tanh'", loss.backward) == (1, 10)


@STRATEGIES
def test_values_asked_for_in_turn_are_one_group(autobatching):
    """The last one is no loss of which the others are beside."""
    m = dy.ParameterCollection()
    W, E = m.add_parameters((1, INPUT)), m.add_lookup_parameters((ROWS, INPUT))
    dy.renew_cg(autobatching=autobatching)
    scores = [dy.logistic(W * E[i % ROWS]) for i in range(30)]
    assert calls_of("logistic", scores[-1].value) == (1, 30)
