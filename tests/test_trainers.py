"""Trainers against their formulas in NumPy, in double: dense and sparse, clipping, rates,
selection, what is refused.

Losses are linear in the parameters (a dot product with chosen numbers), so that gradients are those
numbers. How long: about two seconds.
"""

import gc
import math

import numpy as np
import pytest
from checkpoints import equal
from test_graph import close

import dist_dynet as dy
from dist_dynet._ffi import DTYPE

NAMES = ["W", "b", "U", "T"]
# T: a table; U: gets a gradient in every fourth step only
SHAPES = {"W": (3, 4), "b": (5,), "U": (2, 2), "T": (6, 3)}


class Reference:
    """The formulas, on a dict of arrays. step(gradients): rows of a table without a gradient are
    None."""

    def __init__(self, rule, values, rate, clip=5.0, sparse=True):
        self.rule, self.rate, self.clip, self.sparse, self.t = rule, rate, clip, sparse, 0
        self.p = {k: v.copy() for k, v in values.items()}
        self.restart()

    def restart(self):
        self.m = {k: np.zeros_like(v) for k, v in self.p.items()}
        self.v = {k: np.zeros_like(v) for k, v in self.p.items()}

    def step(self, g, rows, frozen=()):
        """g: gradients by name, dense; rows: which rows of T have one."""
        self.t += 1
        norm = np.sqrt(sum((x**2).sum() for k, x in g.items() if k not in frozen))
        scale = self.clip / norm if 0 < self.clip < norm else 1.0
        for k, p in self.p.items():
            if k in frozen:
                continue
            part = (sorted(set(rows)) if self.sparse else slice(None)) if k == "T" else ...
            gradient = scale * g.get(k, np.zeros_like(p))[part]
            if self.rule == "sgd":
                p[part] -= self.rate * gradient
                continue
            m, v = self.m[k], self.v[k]
            m[part] = 0.9 * m[part] + 0.1 * gradient
            v[part] = 0.999 * v[part] + 0.001 * gradient**2
            rate = self.rate * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t)
            p[part] -= rate * m[part] / (np.sqrt(v[part]) + 1e-8)


def make_model():
    m = dy.ParameterCollection()
    return m, {
        k: m.add_lookup_parameters(s) if k == "T" else m.add_parameters(s)
        for k, s in SHAPES.items()
    }


def backward(parameters, g, rows):
    """Gives the parameters these gradients. Rows of the table: one lookup each, repeated ones
    share."""
    dy.renew_cg()
    parts = [dy.dot_product(parameters[k], dy.inputTensor(x)) for k, x in g.items() if k != "T"]
    for i in sorted(set(rows)):
        n = rows.count(i)
        parts += [dy.dot_product(parameters["T"][i], dy.inputVector(g["T"][i] / n))] * n
    dy.esum(parts).backward()


def draw(rng, step, size=1.0):
    rows = [] if step % 5 == 4 else rng.integers(0, 6, size=rng.integers(1, 4)).tolist()
    g = {
        k: size * rng.normal(size=SHAPES[k]) for k in ("W", "b") + (("U",) if step % 4 == 0 else ())
    }
    g["T"] = np.zeros(SHAPES["T"])
    for i in rows:
        g["T"][i] = size * rng.normal(size=3)
    return g, rows


RULES = {"sgd": (dy.SimpleSGDTrainer, 0.1), "adam": (dy.AdamTrainer, 0.01)}


def compare(rule, rng, steps=60, size=1.0, sparse=True, clip=None, change=None, frozen=()):
    m, parameters = make_model()
    make, rate = RULES[rule]
    trainer = make(m, rate)
    reference = Reference(
        rule,
        {k: p.as_array() for k, p in parameters.items()},
        rate,
        5.0 if clip is None else clip,
        sparse,
    )
    trainer.set_sparse_updates(sparse)
    if clip is not None:
        trainer.set_clip_threshold(clip)
    for k in frozen:
        parameters[k].set_updated(False)
    before = {k: p.as_array() for k, p in parameters.items()}
    for step in range(steps):
        g, rows = draw(rng, step, size)
        backward(parameters, g, rows)
        if change:
            change(step, trainer, reference)
        norm = np.sqrt(sum((x**2).sum() for k, x in g.items() if k not in frozen))
        close(trainer.gradient_norm(), norm)
        trainer.update()
        reference.step(g, rows, frozen)
        assert trainer.gradient_norm() == 0 and not any(
            p.has_gradient() for p in parameters.values()
        )
    for k, p in parameters.items():
        close(p.as_array(), reference.p[k], 3e-5)
        assert k in frozen or np.abs(p.as_array() - before[k]).max() > 1e-3


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("sparse", [True, False])
def test_trainer_follows_its_formula(rule, sparse, rng):
    compare(rule, rng, steps=100, size=0.3, sparse=sparse)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("clip", [None, 0.7, 0, -3])
def test_clipping_that_hits_and_that_is_off(rule, clip, rng):
    compare(rule, rng, size=5, clip=max(0, clip) if clip is not None else None)


@pytest.mark.parametrize(
    "trainer",
    [dy.AdamTrainer, dy.AmsgradTrainer, lambda m, rate: dy.AdamWTrainer(m, rate, weight_decay=0)],
)
def test_bias_correction_takes_out_what_the_moments_hold(trainer):
    """Under a gradient that stays the same, m^ / sqrt(v^) is 1 in every update: the numbers 1 - b1
    and 1 - b2 must be those of the moments."""
    m = dy.ParameterCollection()
    w = m.add_parameters(3, init=0)
    t = trainer(m, 0.25)
    t.set_clip_threshold(0)
    for step in range(1, 65):
        dy.renew_cg()
        dy.dot_product(w, dy.inputVector([4, -8, 0.5])).backward()
        t.update()
        np.testing.assert_allclose(w.as_array(), np.array([-1, 1, -1]) * 0.25 * step, rtol=2e-6)


@pytest.mark.parametrize("rule", RULES)
def test_learning_rate_may_change_between_steps(rule, rng):
    def change(step, trainer, reference):
        rate = RULES[rule][1] / (1 + step // 10)
        reference.rate = rate
        if step % 2:
            trainer.learning_rate = rate
        else:
            trainer.set_learning_rate(rate)

    compare(rule, rng, change=change)


@pytest.mark.parametrize("rule", RULES)
def test_restart_zeroes_moments_and_keeps_the_count(rule, rng):
    def change(step, trainer, reference):
        if step in (10, 30):
            trainer.restart()
            reference.restart()
        if step == 40:
            trainer.restart(0.005)
            reference.restart()
            reference.rate = 0.005
            assert trainer.learning_rate == 0.005

    compare(rule, rng, change=change)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("frozen", [("W",), ("T", "b"), ("b", "U")])
def test_frozen_parameters_stay_and_are_not_in_the_norm(rule, frozen, rng):
    compare(rule, rng, size=2, frozen=frozen)


@pytest.mark.parametrize("size", [1, 5, 15, 16, 17, 32])  # beside those that fill their places
def test_frozen_between_its_neighbours_stays_bit_equal(size):
    m = dy.ParameterCollection()
    parameters = [m.add_parameters(size) for _ in range(5)]
    trainer, before = dy.AdamTrainer(m), {}
    for step in range(4):
        dy.renew_cg()
        dy.esum([dy.squared_distance(p, dy.ones(size)) for p in parameters]).backward()
        trainer.update()
        if step == 0:  # its moments would move it
            for k in (2, 4):
                parameters[k].set_updated(False)
                before[k] = parameters[k].storage().tobytes()
    assert {k: parameters[k].storage().tobytes() for k in before} == before


def test_unused_dense_parameter_moves_on_under_adam_and_not_under_sgd():
    for make, moves in ((dy.AdamTrainer, True), (dy.SimpleSGDTrainer, False)):
        m = dy.ParameterCollection()
        w, v, t = (
            m.add_parameters(2, init=1),
            m.add_parameters(2, init=1),
            m.add_lookup_parameters((2, 2), init=1),
        )
        trainer = make(m)
        dy.esum([dy.sum_elems(w), dy.sum_elems(v), dy.sum_elems(t[0])]).backward()
        trainer.update()
        before = w.as_array(), t.as_array()
        dy.renew_cg()
        dy.sum_elems(v).backward()
        trainer.update()
        assert (np.abs(w.as_array() - before[0]).min() > 0) == moves
        assert np.array_equal(t.as_array(), before[1])


def test_trainer_of_a_subcollection_touches_only_its_parameters(rng):
    m = dy.ParameterCollection()
    outside = m.add_parameters(4, init=1)
    sub = m.add_subcollection("s")
    w, t = sub.add_parameters(4, init=1), sub.add_lookup_parameters((3, 4), init=1)
    after = m.add_parameters(4, init=1)
    for trainer in (dy.SimpleSGDTrainer(sub, 0.5), dy.AdamTrainer(sub, 0.5)):
        trainer.set_clip_threshold(2)
        for p in (w, after, outside):
            p.set_value([1] * 4)
            p.clear_gradient()
        t.init_from_array(np.ones((3, 4)))
        dy.renew_cg()
        dy.esum([dy.sum_elems(p) * 3 for p in (outside, w, t[1], after)]).backward()
        close(trainer.gradient_norm(), np.sqrt(8 * 9))
        trainer.update()
        assert outside.as_array().tolist() == after.as_array().tolist() == [1] * 4
        assert outside.grad_as_array().tolist() == after.grad_as_array().tolist() == [3] * 4
        assert not w.has_gradient() and not t.has_gradient()
        expected = 1 - 0.5 * 2 / np.sqrt(8) if isinstance(trainer, dy.SimpleSGDTrainer) else 0.5
        close(w.as_array(), expected)
        close(t.as_array(), [[1] * 4, [expected] * 4, [1] * 4])


@pytest.mark.parametrize("width", [1, 3, 5000])
def test_norm_of_rows_is_the_same_in_any_order(width, rng):
    """Ranks that hold rows in other orders, or other rows, clip alike."""
    n = 3000 if width == 1 else 40
    m = dy.ParameterCollection()
    table, trainer = m.add_lookup_parameters((n, width)), dy.SimpleSGDTrainer(m)
    rows = rng.normal(size=(n, width)) * 10.0 ** rng.uniform(-15, 15, (n, 1))
    rows[0], rows = rows[0] * 1e-20, rows.astype(DTYPE)
    norms = set()
    for _ in range(5):
        order = rng.permutation(n)
        m.reset_gradients()
        table.add_gradients(order, rows[order])
        norms.add(trainer.gradient_norm())
    assert len(norms) == 1
    squares = (rows * rows if width == 1 else rows.astype(np.float64) ** 2).ravel().tolist()
    exact = math.sqrt(math.fsum(squares))
    assert abs(norms.pop() - exact) <= (1e-15 if width == 1 else 1e-6) * exact


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_norm_of_rows_says_what_is_not_finite(bad):
    m = dy.ParameterCollection()
    table, trainer = m.add_lookup_parameters((3, 2)), dy.SimpleSGDTrainer(m)
    table.add_gradients([0, 2], [[1, 2], [bad, 1]])
    assert not np.isfinite(trainer.gradient_norm())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inside", [True, False])
def test_parameters_added_after_the_trainer_was_made(rule, inside):
    m = dy.ParameterCollection()
    part = m.add_subcollection() if inside else m
    first = part.add_parameters(3, init=0)
    trainer = RULES[rule][0](part, 1.0)
    added = []
    for step in range(6):  # over several chunks
        added.append(
            part.add_parameters((10**step // 2 + 1,), init=0)
            if step % 2 == 0
            else part.add_lookup_parameters((3, 2), init=0)
        )
        if step % 2:  # a table of which the trainer knows nothing yet
            assert not [key for key in trainer.state() if key.endswith(f":{added[-1].name()}")]
        m.add_parameters(2, init=0)
        dy.renew_cg()
        parts = [dy.sum_elems(p if isinstance(p, dy.Parameters) else p[1]) for p in (first, *added)]
        dy.esum(parts).backward()
        trainer.set_clip_threshold(0)
        trainer.update()
    for i, p in enumerate(added):
        steps = 6 - i
        moved = p.as_array() if isinstance(p, dy.Parameters) else p.row_as_array(1)
        # constant gradients of 1: SGD moves by 1 a step; Adam's count began with the trainer, so
        # its first step is smaller
        assert np.ptp(moved) == 0 and moved[0] < 0
        if rule == "sgd":
            close(moved, -steps)


@pytest.mark.parametrize("clear", [lambda p: p.scale_gradient(0), lambda p: p.clear_gradient()])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_program_may_catch_a_bad_gradient_clear_it_and_go_on(clear, bad):
    m = dy.ParameterCollection()
    w, t = m.add_parameters(3, init=1), m.add_lookup_parameters((3, 2), init=1)
    trainer = dy.AdamTrainer(m)
    dy.dot_product(w, dy.inputVector([1, bad, 1])).backward()
    dy.sum_elems(t[1] * bad).backward()
    with pytest.raises(RuntimeError, match=r"the gradients are kept.* reset_gradients\(\)"):
        trainer.update()
    for p in (w, t):
        clear(p)
        assert not p.grad_as_array().any()
    dy.renew_cg()
    (dy.sum_elems(w) + dy.sum_elems(t[1])).backward()
    trainer.update()
    assert np.allclose(w.as_array(), 0.999) and np.allclose(t.as_array()[1], 0.999)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradient_that_is_not_finite_changes_nothing(rule, bad):
    m = dy.ParameterCollection()
    w, t = m.add_parameters(3, init=1), m.add_lookup_parameters((3, 2), init=1)
    trainer = RULES[rule][0](m)
    dy.sum_elems(w).backward()
    trainer.update()
    before, state = (w.storage().tobytes(), t.storage().tobytes()), trainer.state()
    dy.renew_cg()
    dy.esum([dy.dot_product(w, dy.inputVector([1, bad, 1])), dy.sum_elems(t[1])]).backward()
    with pytest.raises(RuntimeError, match=r"Magnitude of gradient is bad: (nan|inf)"):
        trainer.update()
    assert (w.storage().tobytes(), t.storage().tobytes()) == before
    assert equal(trainer.state(), state)  # the table has no moments yet
    m.reset_gradients()
    dy.renew_cg()
    dy.sum_elems(w).backward()
    trainer.update()
    assert np.isfinite(w.as_array()).all() and w.storage().tobytes() != before[0]
    trainer.set_clip_threshold(0)  # then NaN spreads, as in DyNet
    dy.renew_cg()
    dy.dot_product(w, dy.inputVector([1, np.nan, 1])).backward()
    trainer.update()
    assert np.isnan(w.as_array()).any()


def test_update_without_gradients_or_parameters():
    for make in (dy.SimpleSGDTrainer, dy.AdamTrainer):
        make(dy.ParameterCollection()).update()
        m = dy.ParameterCollection()
        w = m.add_parameters(3, init=1)
        trainer = make(m)
        trainer.update()
        trainer.update()
        assert w.as_array().tolist() == [1] * 3


def test_settings_read_back(capfd):
    trainer = dy.AdamTrainer(dy.ParameterCollection())
    assert (trainer.learning_rate, trainer.get_clip_threshold(), trainer.whoami()) == (
        0.001,
        5,
        "AdamTrainer",
    )
    trainer.set_clip_threshold(-1)
    assert trainer.get_clip_threshold() == 0
    trainer.update()
    trainer.status()
    assert capfd.readouterr().err == "[lr=0.001 clips=0 updates=1]\n"


def test_status_counts_updates_and_clips_since_the_last_one(capfd):
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)

    def update(trainer, gradient):
        dy.renew_cg()
        (w * dy.scalarInput(gradient)).backward()
        trainer.update()

    trainer = dy.SimpleSGDTrainer(m, learning_rate=0.5)
    for gradient in (6, 4, 5, 7):  # 5 is not above the threshold
        update(trainer, gradient)
    trainer.status()
    update(trainer, 8)
    trainer.status()
    trainer.status()
    shown = [
        "[lr=0.5 clips=2 updates=4]",
        "[lr=0.5 clips=1 updates=1]",
        "[lr=0.5 clips=0 updates=0]",
    ]
    assert capfd.readouterr().err.splitlines() == shown
    assert (trainer.clips, trainer.updates) == (3, 5)
    trainer.load_state(trainer.state())
    trainer.status()
    assert capfd.readouterr().err == "[lr=0.5 clips=0 updates=0]\n"

    resumed = dy.SimpleSGDTrainer(m)
    resumed.load_state(trainer.state())
    update(resumed, 9)
    resumed.status()
    assert capfd.readouterr().err == "[lr=0.5 clips=1 updates=1]\n"
    assert resumed.updates == 6
    resumed.set_clip_threshold(0)
    update(resumed, 9)
    assert resumed.clips == 1


def test_trainer_of_nothing_is_refused():
    for make in (dy.SimpleSGDTrainer, dy.AdamTrainer):
        for m in (None, 5, dy.ParameterCollection, dy.ParameterCollection().add_parameters(2)):
            with pytest.raises(TypeError, match="takes a ParameterCollection"):
                make(m)
    with pytest.raises(NotImplementedError, match="not a trainer by itself"):
        dy.Trainer(dy.ParameterCollection(), 0.1)


def test_trainer_outlives_its_collection():
    trainer = dy.AdamTrainer(dy.ParameterCollection().add_subcollection())
    gc.collect()
    trainer.update()
    assert trainer.gradient_norm() == 0


def test_two_trainers_of_one_collection_take_turns():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainers = [dy.SimpleSGDTrainer(m, 1), dy.SimpleSGDTrainer(m, 10)]
    for step in range(4):
        dy.renew_cg()
        dy.sum_elems(w).backward()
        trainers[step % 2].update()
    assert w.as_array().tolist() == [-22]


@pytest.mark.parametrize("rule", RULES)
def test_weight_decay_multiplies_values_after_each_update(rule, rng):
    m, parameters = make_model()
    m.set_weight_decay(0.05)
    make, rate = RULES[rule]
    trainer = make(m, rate)
    reference = Reference(rule, {k: p.as_array() for k, p in parameters.items()}, rate)
    parameters["b"].set_updated(False)
    for step in range(60):  # the table's factor falls below a quarter on the way
        g, rows = draw(rng, step, 0.5)
        backward(parameters, g, rows)
        trainer.update()
        reference.step(g, rows, ("b",))
        for k in ("W", "U", "T"):
            reference.p[k] *= 0.95
        if step % 7 == 0:
            dy.renew_cg()
            close(parameters["T"][2].value(), reference.p["T"][2], 5e-5)
            close(parameters["T"].expr().npvalue(), reference.p["T"].T, 5e-5)
            close(
                dy.lookup_batch(parameters["T"], [5, 0]).npvalue(), reference.p["T"][[5, 0]].T, 5e-5
            )
        if step % 11 == 0:
            close(parameters["T"].row_as_array(1), reference.p["T"][1], 5e-5)
    for k, p in parameters.items():
        close(p.as_array(), reference.p[k], 5e-5)


def test_rows_that_were_looked_up_only_stay():
    """The loss does not depend on row 1 in the second step: its moments stay, and do not move
    it."""
    pc = dy.ParameterCollection()
    table = pc.add_lookup_parameters((3, 2))
    trainer = dy.AdamTrainer(pc)
    for used in ([0, 1], [0]):
        dy.renew_cg()
        rows = [table[i] for i in range(2)]
        dy.esum([dy.squared_norm(rows[i]) for i in used]).backward()
        before = table.as_array()
        trainer.update()
    assert (table.as_array() != before).any(axis=1).tolist() == [True, False, False]


def test_values_that_are_set_or_read_after_decay_stay(tmp_path):
    dy.init(weight_decay=0.1)
    try:
        pc = dy.ParameterCollection()
    finally:
        dy.init(weight_decay=0)
    W, table = pc.add_parameters(2, init=1.0), pc.add_lookup_parameters((3, 2), init=1.0)
    trainer = dy.SimpleSGDTrainer(pc, 0.0)
    for _ in range(3):
        trainer.update()
    close(W.as_array(), np.full(2, 0.9**3))
    W.set_value([5, 6])
    table.init_row(1, [7, 8])
    pc.save(tmp_path / "model")
    pc.populate(tmp_path / "model")
    dy.renew_cg()
    close(W.value(), [5, 6])
    close([table[i].value() for i in range(3)], [[0.9**3] * 2, [7, 8], [0.9**3] * 2])


@pytest.mark.parametrize(
    "wrapped",
    [lambda trainer: trainer, dy.parallel.DistributedTrainer],
    ids=["trainer", "distributed"],
)
def test_update_epoch_does_nothing_but_warn(wrapped):
    pc = dy.ParameterCollection()
    w = pc.add_parameters(1, init=1)
    trainer = wrapped(dy.SimpleSGDTrainer(pc, 0.5))
    dy.renew_cg()
    w.backward()
    for arguments in (), (0.5,):
        with pytest.warns(
            DeprecationWarning,
            match=r"^update_epoch: does nothing, as in DyNet\. Set trainer\.learning_rate\.$",
        ) as caught:
            trainer.update_epoch(*arguments)
        assert caught[0].filename == __file__
    assert (w.as_array()[0], w.grad_as_array()[0], trainer.learning_rate, trainer.updates) == (
        1,
        1,
        0.5,
        0,
    )
