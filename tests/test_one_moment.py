"""What changes several numbers changes all of them or none: Ctrl-C at any place, an error in the
middle, and what other threads read meanwhile.

How long: about twenty seconds.
"""

import functools
import tempfile
import threading

import numpy as np
import pytest
from checkpoints import equal
from interrupted import interrupted_at
from net_table import NETS
from test_damaged_states import HOLDERS, load, state_of

import dist_dynet as dy
from dist_dynet.params.root import Root

# Ctrl-C may come between the opening of a file and what closes it
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

# ---- Ctrl-C ----------------------------------------------------------------------------


def contents(m):
    """All that files hold of a collection, and more."""
    return {
        name: (p.as_array(), p.grad_as_array(), p.has_gradient(), p.is_updated())
        for name, p in m.named_parameters().items()
    }


def model(value):
    m = dy.ParameterCollection()
    m.add_parameters((2, 3), init=value)
    m.add_lookup_parameters((4, 3), init=value)
    m.add_parameters(3, init=value)
    for p in [*m.parameters_list(), *m.lookup_parameters_list()]:
        p.set_gradient(np.full(p.shape(), 10 * value))
    return m


def text_file(folder):
    model(2).save(folder / "text")
    return lambda m: m.populate(folder / "text")


def one_of_a_text_file(folder):
    model(2).save(folder / "text")
    return lambda m: m.parameters_list()[0].populate(folder / "text", "/_0")


def safetensors(folder):
    dy.save_safetensors(model(2), folder / "s")
    return lambda m: dy.load_safetensors(m, folder / "s")


def copied(folder, share=1):
    other = model(2)
    return lambda m: m.copy_from(other, share)


CHANGES = {
    "text file": text_file,
    "one of a text file": one_of_a_text_file,
    "safetensors": safetensors,
    "copy_from": copied,
    "copy_from, a share": functools.partial(copied, share=0.5),
    "set_gradient": lambda folder: lambda m: m.parameters_list()[0].set_gradient(np.ones((2, 3))),
    "set_gradient of a table": lambda folder: (
        lambda m: m.lookup_parameters_list()[0].set_gradient(np.ones((4, 3)))
    ),
    "zero": lambda folder: lambda m: m.parameters_list()[0].zero(),
    "zero of a table": lambda folder: lambda m: m.lookup_parameters_list()[0].zero(),
    "scale": lambda folder: lambda m: m.parameters_list()[0].scale(2),
    "clip_inplace": lambda folder: lambda m: m.parameters_list()[0].clip_inplace(0, 0.5),
}
"""name: how to make change(collection), in a folder"""


@pytest.mark.parametrize("name", CHANGES)
def test_ctrl_c_comes_before_a_change_or_after_it(name, tmp_path):
    change = CHANGES[name](tmp_path)
    before, changed = contents(model(1)), model(1)
    change(changed)
    after, place, m = contents(changed), 0, model(1)
    assert not equal(after, before)
    while interrupted_at(place, lambda m=m: change(m)):
        assert equal(contents(m), before) or equal(contents(m), after), place
        place, m = place + 1, model(1)
    assert place > 5


STATES = [name for name in HOLDERS if name != "LocalSGD"]
"""Those of LocalSGD are loaded when a job starts, by the Checkpointer."""


@pytest.mark.parametrize("name", STATES)
def test_ctrl_c_leaves_all_of_a_state_or_nothing(name):
    new, holder, place = state_of(HOLDERS[name](2)), HOLDERS[name](1), 0
    old = state_of(holder)
    while interrupted_at(place, lambda: load(holder, new)):
        assert equal(state_of(holder), old) or equal(state_of(holder), new), place
        load(holder, old)
        place += 1
    assert place > 5


def test_ctrl_c_leaves_random_draws_where_they_were():
    dy.reset_random_seed(3)
    states = []
    for _ in range(2):
        dy.random_normal(3).value()
        dy.cg().uniform(3)
        dy.ParameterCollection().add_parameters(3)
        states.append(dy.random_state())
    place = 0
    dy.set_random_state(states[0])
    while interrupted_at(place, lambda: dy.set_random_state(states[1])):
        assert any(equal(dy.random_state(), state) for state in states), place
        dy.set_random_state(states[0])
        place += 1
    assert place > 5


class Scheduled(dy.MomentumSGDTrainer):
    """A trainer that has attributes."""


SETTINGS = {
    "restart": lambda m, trainer: trainer.restart(0.5),
    "learning_rate": lambda m, trainer: setattr(trainer, "learning_rate", 0.5),
    "set_clip_threshold": lambda m, trainer: trainer.set_clip_threshold(0.1),
    "set_accumulation": lambda m, trainer: trainer.set_accumulation(2),
    "reset_gradients": lambda m, trainer: m.reset_gradients(),
    "reset_random_seed": lambda m, trainer: dy.reset_random_seed(5),
    "a schedule": lambda m, trainer: trainer.schedule.step(),
    "a plateau": lambda m, trainer: trainer.plateau.step(1),
    "init": lambda m, trainer: dy.init(random_seed=5, weight_decay=0.1),
}
"""name: change(collection, trainer)"""


@pytest.mark.parametrize("name", SETTINGS)
def test_ctrl_c_leaves_what_is_set_as_it_was_or_sets_all_of_it(name):
    change = SETTINGS[name]

    def trained():
        dy.renew_cg()
        dy.init(random_seed=3, weight_decay=0)
        m = model(1)
        trainer = Scheduled(m, 0.25)
        trainer.schedule = dy.schedules.Linear(trainer, 4)
        trainer.plateau = dy.schedules.Plateau(trainer, patience=0)
        trainer.set_clip_threshold(0)
        for _ in range(2):
            trainer.update()
            for p in [*m.parameters_list(), *m.lookup_parameters_list()]:
                p.set_gradient(np.full(p.shape(), 3))
        return m, trainer

    def state(m, trainer):
        """What there is, and what later updates make of it."""
        found = [contents(m), trainer.state(), dy.random_state()]
        found += [dy.ParameterCollection().get_weight_decay(), trainer.learning_rate]
        found += [trainer.accumulation, trainer.get_clip_threshold()]
        found += [trainer.schedule.state_dict(), trainer.plateau.state_dict()]
        found.append(dy.random_normal(3).npvalue())
        for _ in range(2):
            m.parameters_list()[0].set_gradient(np.ones((2, 3)))
            trainer.update()
            found += [contents(m), trainer.state()]
        return found

    given = trained()
    before = state(*given)
    given = trained()
    change(*given)
    after, place = state(*given), 0
    assert not equal(after, before)
    while True:
        given = trained()
        if not interrupted_at(place, lambda given=given: change(*given)):
            break
        now = state(*given)
        assert equal(now, before) or equal(now, after), place
        place += 1
    dy.init(weight_decay=0)
    assert place > 2


@pytest.mark.parametrize("rate", [float("nan"), "x", [0.1, 0.2], 1j])
def test_restart_with_a_wrong_rate_changes_nothing(rate):
    m = dy.ParameterCollection()
    w, trainer = m.add_parameters(2, init=0, name="w"), dy.MomentumSGDTrainer(m, 0.5)
    w.set_gradient([1, 2])
    trainer.update()
    before = trainer.state()
    with pytest.raises(
        (TypeError, ValueError), match="restart: the learning rate must be a number"
    ):
        trainer.restart(rate)
    assert equal(trainer.state(), before) and "v:/w" in before


def test_ctrl_c_in_an_evaluation_leaves_the_draws_of_training():
    def draws():
        return dy.renew_cg().draws()[0], dy.random_normal(3).value()

    def evaluation():
        dy.parallel.evaluate(lambda x: x, [1, 2])

    dy.reset_random_seed(3)
    expected, place, more = draws(), 0, True
    while more:
        dy.reset_random_seed(3)
        more = interrupted_at(place, evaluation)
        assert draws() == expected, place
        place += 1
    assert place > 50


ACCUMULATING = {
    "plain": lambda trainer: trainer,
    "mean": dy.parallel.DistributedTrainer,
    "a number": dy.parallel.DistributedTrainer,
}


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("kind", ACCUMULATING)
def test_ctrl_c_in_an_accumulation_counts_a_pass_or_does_not(kind, follows):
    def passes(interrupted=-1, place=0):
        """Whether Ctrl-C came within a pass, and what there is after each pass."""
        m = dy.ParameterCollection()
        w, trainer = m.add_parameters(1, init=0), ACCUMULATING[kind](dy.SimpleSGDTrainer(m, 1))
        average, came, found = dy.MovingAverage(trainer) if follows else None, False, []
        trainer.set_accumulation(2)

        def update():
            return trainer.update(2) if kind == "a number" else trainer.update()

        def counted():
            return trainer.updates, getattr(trainer, "inner", trainer)._gathered

        for number in range(6):
            dy.renew_cg()
            (w.expr(True) * (number + 1)).backward()
            before = counted()
            if number == interrupted:
                came = interrupted_at(place, update)
            if counted() == before:
                update()
            found.append((counted(), w.as_array()[0], average.state() if follows else {}))
        return came, found

    expected = passes()[1]
    assert expected[-1][0] == (3, 0)
    for number in range(2, 4):
        place, more = 0, True
        while more:
            more, found = passes(number, place)
            assert equal(found, expected), (number, place)
            place += 1


def state_of_model(m, trainer):
    return contents(m), trainer.state(), dy.random_state()


def test_ctrl_c_leaves_all_of_a_file_with_a_trainer_or_nothing(tmp_path):
    def trained(steps):
        dy.reset_random_seed(steps)
        m = model(1)
        trainer = dy.AdamTrainer(m)
        for _ in range(steps):
            model_gradient = np.ones((2, 3))
            m.parameters_list()[0].set_gradient(model_gradient)
            trainer.update()
        m.reset_gradients()
        return m, trainer

    dy.save_safetensors(*trained(3)[:1], tmp_path / "s", trained(3)[1], random=True)
    place, loads = 0, lambda m, t: dy.load_safetensors(m, tmp_path / "s", trainer=t, random=True)
    given = trained(1)
    loads(*given)
    after = state_of_model(*given)
    while True:
        given = trained(1)
        before = state_of_model(*given)
        if not interrupted_at(place, lambda given=given: loads(*given)):
            break
        now = state_of_model(*given)
        assert equal(now, before) or equal(now, after), place
        place += 7  # there are hundreds
    assert place > 50


# ---- errors ----------------------------------------------------------------------------


def names_in(m):
    return [list(c.named_parameters()) for c in m._lineage()]


class OfBoth(dy.Linear):
    """Has a parameter of the collection that it is given, and a collection of its own."""

    def __init__(self, m):
        m.add_parameters(4, name="own")
        super().__init__(2, 3, m)


@functools.cache
def folder_of_a_file():
    folder = tempfile.TemporaryDirectory()
    dy.ParameterCollection().add_parameters(2, init=0, name="w").save(f"{folder.name}/w")
    return folder


ADDED = {
    "of a file": lambda m: m.load_param(f"{folder_of_a_file().name}/w", "/w"),
    "of two collections": OfBoth,
    **{name: net.make for name, net in NETS.items()},
    "a parameter": lambda m: m.add_parameters((3, 2)),
    "a table": lambda m: m.add_lookup_parameters((3, 2)),
    "of an array": lambda m: m.parameters_from_numpy(np.ones((3, 2))),
    "a table of an array": lambda m: m.lookup_parameters_from_numpy(np.ones((3, 2))),
}


@pytest.mark.parametrize("name", ADDED)
def test_what_fails_to_be_made_leaves_nothing_in_the_collection(name, monkeypatch):
    # as without it: the same names and values, of what is made next, too
    make, new, within = ADDED[name], Root.new_parameter, dy.ParameterCollection()

    def made():
        dy.reset_random_seed(5)
        m = dy.ParameterCollection().add_subcollection("all")
        m.add_parameters(2)
        return m

    def then(m):
        make(m)
        m.add_parameters(3)
        root = list(m._lineage())[-1]
        return {n: p.as_array() for n, p in root.named_parameters().items()}

    expected = then(made())
    for most in range(len(expected) - 2):
        m, left = made(), [most]

        def fails(root, dims, rows=0, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise MemoryError("parameters: out of memory")
            return new(root, dims, rows)

        monkeypatch.setattr(Root, "new_parameter", fails)
        with pytest.raises(MemoryError):
            make(m)
        monkeypatch.setattr(Root, "new_parameter", new)
        assert names_in(m) == [["/_0"], ["/all/_0"]]
        assert equal(then(m), expected)
    assert not within.parameters_list()


def test_sizes_that_are_too_large_leave_no_half_of_a_network():
    m = dy.ParameterCollection()
    with pytest.raises(ValueError, match="a parameter holds at most"):
        dy.MLP([2, 3, 1 << 30], m)
    assert not m.parameters_list()
    assert dy.MLP([2, 3, 2], m).get_parameters()[0].name() == "/mlp/linear/_0"


def test_draws_are_not_put_back_under_another_thread():
    m, values = dy.ParameterCollection(), []

    class DrawnBeside(dy.PyInitializer):
        def values(self, dims, is_lookup):
            thread = threading.Thread(target=lambda: values.append(m.add_parameters(3).as_array()))
            thread.start()
            thread.join()
            raise ValueError("no values")

    with pytest.raises(ValueError, match="no values"):
        m.add_parameters(3, init=DrawnBeside())
    assert (m.add_parameters(3).as_array() != values[0]).all()
    assert [p.name() for p in m.parameters_list()] == ["/_1", "/_2"]


def test_rows_without_numbers_are_written():
    m = dy.ParameterCollection()
    E = m.add_lookup_parameters((3, 0))
    E.init_from_array(np.zeros((3, 0)))
    E.init_row(1, [])
    E.set_gradient(np.zeros((3, 0)))
    E.zero()
    m.copy_from(m, 0.5)
    assert E.as_array().shape == (3, 0) and not E.has_gradient()


# ---- other threads ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["text file", "safetensors", "copy_from", "averages"])
def test_other_threads_see_all_of_a_change_or_nothing(name, tmp_path):
    def large(value):
        m = dy.ParameterCollection()
        for _ in range(30):
            m.add_parameters(20, init=value)
        m.add_lookup_parameters((30, 20), init=value)
        return m

    m, others = large(1), [large(2), large(1)]
    for k, other in enumerate(others):
        other.save(tmp_path / f"text {k}")
        dy.save_safetensors(other, tmp_path / f"s {k}")
    average = dy.MovingAverage(m, decay=None)
    average.update()
    m.copy_from(others[0])
    changes = {
        "text file": lambda k: m.populate(tmp_path / f"text {k}"),
        "safetensors": lambda k: dy.load_safetensors(m, tmp_path / f"s {k}"),
        "copy_from": lambda k: m.copy_from(others[k]),
        "averages": lambda k: average.swap_out() if average.is_in else average.swap_in(),
    }
    seen, ends = set(), threading.Event()

    def read():
        while not ends.is_set():
            dy.renew_cg()
            xs = [*m.parameters_list(), m.lookup_parameters_list()[0][3]]
            try:
                seen.add(tuple(np.unique(dy.concatenate_to_batch(xs).npvalue())))
            except RuntimeError as error:
                assert "another thread has changed parameters" in str(error)

    reader = threading.Thread(target=read)
    reader.start()
    for k in range(120):
        changes[name](k % 2)
    ends.set()
    reader.join()
    assert seen <= {(1.0,), (2.0,)} and seen


@pytest.mark.parametrize("change", ["scale", "clip_inplace"])
def test_what_changes_values_by_themselves_loses_nothing_that_another_thread_writes(change):
    w = dy.ParameterCollection().add_parameters(100_000, init=0)
    keep = {"scale": lambda: w.scale(1), "clip_inplace": lambda: w.clip_inplace(-1e9, 1e9)}[change]
    writer = threading.Thread(target=lambda: [w.set_value(np.full(100_000, k)) for k in range(300)])
    writer.start()
    while writer.is_alive():
        keep()
    writer.join()
    assert set(w.as_array()) == {299}
