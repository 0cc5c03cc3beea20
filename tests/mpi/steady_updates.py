"""Updates that go by a cached plan, without Python, one property after the other on every rank:
steady_updates.py WHAT...

Rank 0 prints "ok" after each.
"""

import sys

import numpy as np
from alike import distributed, model_of, run, step

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel.agreement.negotiation import AsPlanned, Step
from dist_dynet.trainers.state import Settings

rank, size = parallel.rank(), parallel.world_size()

PATTERNS = [[True, True, True], [True, False, True], [False, True, False], [False, False, False]]


def random_updates(count):
    """For each update: of each rank the dense parameters it uses, its rows with their gradients,
    and its weight. The same on all ranks."""
    rng = np.random.default_rng(7)
    used, most = [PATTERNS[0]] * size, 4
    for k in range(count):
        if rng.random() < 0.3:
            used = [PATTERNS[rng.integers(len(PATTERNS))] for _ in range(size)]
        most = 25 if k > count / 2 else most
        weights = rng.choice(4, size, p=[0.04, 0.32, 0.32, 0.32]).tolist()
        yield [
            (used[r], rng.integers(0, 30, rng.integers(0, most)), weights[r]) for r in range(size)
        ]


def steady_updates(average):
    """Updates of changing parameters, against sums in NumPy; returns how many of them went without
    Python."""
    m, parameters, _ = model_of(40, (20, 30), 7)
    table = m.add_lookup_parameters((30, 5), init=0)
    trainer = distributed(m, average=average)
    expected, of_rows = [0.5] * 3, np.zeros(30)
    for update in random_updates(60):
        total = sum(weight for _, _, weight in update)
        for r, (used, rows, weight) in enumerate(update):
            share = weight / total if total else 0
            factor = (r + 1) * (1 if average == "sum" else share)
            expected = [
                value - factor * is_used for value, is_used in zip(expected, used, strict=True)
            ]
            np.subtract.at(of_rows, rows, factor)
        used, rows, weight = update[rank]
        dy.renew_cg()
        terms = [dy.sum_elems(p) for p, is_used in zip(parameters, used, strict=True) if is_used]
        terms += [dy.sum_elems(table[int(row)]) for row in rows]
        if terms:
            (dy.esum(terms) * (rank + 1)).backward()
        trainer.update(weight)
        for p, value in zip(parameters, expected, strict=True):
            assert np.allclose(p.as_array(), value, atol=1e-4)
        assert np.allclose(table.as_array(), of_rows[:, None], atol=1e-4)
        assert not any(p.has_gradient() for p in [*parameters, table])
    parallel.assert_in_sync(m)
    return trainer.sync.exchange.quick


def test_negotiation_adds_up_nothing():
    """In the first update, and in the steady state; the sum does."""
    m, (w,), _ = model_of((3, 4))
    table = m.add_lookup_parameters((5, 2), init=0.5)
    trainer = distributed(m, average="sum")
    planned = []
    for _ in range(4):
        dy.renew_cg()
        ((dy.sum_elems(w) + dy.sum_elems(table[rank])) * (rank + 1)).backward()
        mine = [np.asarray(p.grad_as_array()) for p in (w, table)]
        agreed = trainer.sync.negotiation.reach(1.0, Settings.of(trainer.inner), Step())
        assert all(
            np.array_equal(p.grad_as_array(), g) for p, g in zip((w, table), mine, strict=True)
        )
        parallel.barrier()  # others may add up in this rank's memory, too
        trainer.sync.exchange.sum(agreed)
        assert (w.grad_as_array() == size * (size + 1) / 2).all()
        assert (table.grad_as_array()[:size, 0] == np.arange(1, size + 1)).all()
        m.reset_gradients()
        planned.append(isinstance(agreed, AsPlanned))
    assert planned == [False, True, True, True]


def test_updates_go_without_python():
    for average in ("sum", "mean"):
        # all 60 but the first, and those in which the table's window grows
        assert steady_updates(average) >= 55


def test_other_parameters_in_each_update_go_without_python():
    """Sets that come in turn, other ones on each rank, random ones; parameters that come later, and
    frozen ones."""
    m = dy.ParameterCollection()
    parameters = [m.add_parameters((1 + 7 * k, 3), init=0) for k in range(12)]
    table, used_later = (m.add_lookup_parameters((500, 4), init=0) for _ in range(2))
    trainer = distributed(m, average="sum")
    expected, of_table, updates, rng = [0.0] * 12, np.zeros(500), 0, np.random.default_rng(5)
    sets = [[k for k in range(12) if (k + 1) * (s + 3) % 5 < 3] for s in range(8)]
    frozen = set()

    def update(of_ranks, rows):
        """One update in which each rank uses these parameters, and rows of the table."""
        for r, used in enumerate(of_ranks):
            for k in set(used) - frozen:
                expected[k] -= r + 1
            of_table[rows[r]] -= r + 1
        dy.renew_cg()
        terms = [dy.sum_elems(parameters[k]) for k in of_ranks[rank]] + [
            dy.sum_elems(table[row]) for row in rows[rank]
        ]
        if terms:
            (dy.esum(terms) * (rank + 1)).backward()
        trainer.update()

    def check(started, before, wanted):
        """The values, and how many of the updates since then went without Python."""
        assert all(
            (p.as_array() == value).all() for p, value in zip(parameters, expected, strict=True)
        )
        assert (table.as_array() == of_table[:, None]).all()
        assert trainer.sync.exchange.quick - before >= wanted * (updates - started), (
            trainer.sync.exchange.quick - before,
            updates - started,
        )

    def some_rows(most):
        return [
            rng.choice(500, int(rng.integers(0, most)), replace=False).tolist() for _ in range(size)
        ]

    for n_sets, same in ((2, True), (8, True), (8, False)):
        started, before = updates, trainer.sync.exchange.quick
        for k in range(100):
            update(
                [sets[(k if same else k * (r + 1) + r) % n_sets] for r in range(size)], some_rows(4)
            )
            updates += 1
        check(started, before, 0.95)
    started, before = updates, trainer.sync.exchange.quick
    for k in range(200):  # any sets, and windows that grow
        update(
            [np.flatnonzero(rng.random(12) < 0.5).tolist() for _ in range(size)], some_rows(2 + k)
        )
        updates += 1
    check(started, before, 0.95)
    started, before = updates, trainer.sync.exchange.quick
    for k in range(150):
        if k % 50 == 10:  # in the middle, also of tables; each takes an update or two in Python
            parameters.append(m.add_parameters(40, init=0))
            expected.append(0.0)
        if k % 50 == 30:
            parameters[k // 50].set_updated(False)
            frozen.add(k // 50)
        if k == 140:
            parameters[0].set_updated(True)
            frozen.remove(0)
        update(
            [np.flatnonzero(rng.random(len(parameters)) < 0.5).tolist() for _ in range(size)],
            some_rows(9),
        )
        updates += 1
    check(started, before, 0.95)
    assert not used_later.has_gradient()
    parallel.assert_in_sync(m)


def test_stack_parser_goes_without_python():
    """Each sentence composes or does not, so that the ranks use other parameters."""
    m = dy.ParameterCollection()
    stack, buffer = (dy.VanillaLSTMBuilder(1, 4, 5, m) for _ in range(2))
    words, root = m.add_lookup_parameters((50, 4)), m.add_parameters(4)
    compositions = [m.add_parameters((4, 8)) for _ in range(20)]  # one for each label
    W = m.add_parameters((2, 10))
    trainer, rng = parallel.DistributedTrainer(dy.AdamTrainer(m)), np.random.default_rng(rank)
    for _ in range(100):
        dy.renew_cg()
        tops, losses = [(stack.initial_state().add_input(root), root)], []
        state = buffer.initial_state()
        for word in rng.integers(0, 50, rng.integers(1, 6)).tolist():
            state = state.add_input(words[word])
            tops.append((tops[-1][0].add_input(words[word]), words[word]))
            if len(tops) > 2 and rng.random() < 0.5:
                x = dy.tanh(
                    compositions[rng.integers(20)] * dy.concatenate([tops.pop()[1], tops.pop()[1]])
                )
                tops.append((tops[-1][0].add_input(x), x))
            losses.append(
                dy.pickneglogsoftmax(
                    W * dy.concatenate([tops[-1][0].output(), state.output()]), int(rng.integers(2))
                )
            )
        dy.average(losses).backward()
        trainer.update()
    assert trainer.sync.exchange.quick >= 95
    parallel.assert_in_sync(m)


def test_a_parameter_that_was_frozen():
    m, (a, b), _ = model_of(4, 5)
    trainer = distributed(m, average="sum")
    for _ in range(3):
        step(*([a, b] if rank else [a]))
        trainer.update()
    b.set_updated(rank > 0)
    step(*([a, b] if rank else [a]))
    trainer.update()


def test_settings_that_change():
    m, (w,), _ = model_of(4)
    trainer = distributed(m, average="sum")
    for k in range(4):
        step(w)
        if k == 3 and rank == 1:
            trainer.learning_rate = 0.5
        trainer.update()


def test_updates_between_other_collective_operations():
    m, (w,), _ = model_of(4)
    trainer, second = distributed(m, average="sum"), distributed(m, average="mean")
    for k in range(6):
        step(w)
        (trainer, second)[k % 2].update()
        assert parallel.all_reduce(k, "sum") == k * size
        if k == 3:
            parallel.barrier()
    assert np.allclose(w.as_array(), 0.5 - 3 * size - 3)
    extra = m.add_parameters(9, init=0)
    for _ in range(3):
        step(w, extra)
        trainer.update()
    assert np.allclose(extra.as_array(), -3 * size)


run(globals(), sys.argv[1:])
