"""Every trainer of table_trainers.py against its formula in float64, 100 steps each; clipping,
accumulation, subsets; state; averages."""

import copy
import inspect
import json
import pickle
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import table_trainers
from table_trainers import (
    STEPS,
    TRAINERS,
    backward,
    close,
    collection_of,
    gradients_of_step,
    reference_step,
    start,
)
from tables import differing, known_classes

import dist_dynet as dy
from dist_dynet import trainers
from dist_dynet._ffi import NULL, lib
from dist_dynet.trainers.following import FollowsTrainer

sys.path.insert(0, str(Path(__file__).parent / "oracle"))
import replay

DATA = Path(__file__).parent / "data" / "oracle"
CASES = [
    case
    for name in ("trainers", "trainers_other")
    for case in json.loads((DATA / f"{name}.json").read_text())
]

MODES = {
    "plain": {"clip": 0, "decay": 0, "sparse": True},
    "clipped": {"clip": 1.0, "decay": 0, "sparse": True},
    "clipped by value": {"clip": 1.5, "decay": 0, "sparse": True, "clip_value": 0.3},
    "decayed": {"clip": 5.0, "decay": 0.02, "sparse": True},
    "dense": {"clip": 5.0, "decay": 0, "sparse": False},
    "dense and decayed": {"clip": 2.0, "decay": 0.02, "sparse": False},
}


# ---- the table is whole ----------------------------------------------------------------


def trainer_gaps(classes):
    rows = {type(row.make(dy.ParameterCollection())) for row in TRAINERS.values()}
    return differing(
        classes,
        rows,
        table_trainers.NOT_IN_THE_TABLE,
        "tests/table_trainers.py",
        "dist_dynet/trainers/__init__.py",
    )


def test_table_has_every_trainer():
    known = known_classes(trainers, dy.Trainer).items()
    classes = {name: c for name, c in known if not issubclass(c, FollowsTrainer)}
    assert not (gaps := trainer_gaps(classes)), gaps
    assert all(
        type(row.make(dy.ParameterCollection())).__name__ == name for name, row in TRAINERS.items()
    )


def test_a_trainer_without_a_row_is_reported():
    class Unlisted(dy.AdamTrainer):
        pass

    assert "Unlisted: no row in tests/table_trainers.py" in trainer_gaps(
        {**known_classes(trainers, dy.Trainer), "Unlisted": Unlisted}
    )


@pytest.mark.parametrize("moments", [("m", "v"), ("m", "v", "v"), ("m", "v", "top", "more"), ()])
def test_a_trainer_names_the_moments_that_its_rule_keeps(moments):
    with pytest.raises(
        TypeError,
        match=(
            r"Wrong: _moments must name each of the 3 moments .*RULES in"
            r" csrc/params/rules.c.*Mend the class"
        ),
    ):
        type("Wrong", (dy.AmsgradTrainer,), {"_moments": moments})


@pytest.mark.parametrize("name", TRAINERS)
def test_c_gives_the_moments_that_there_are(name):
    m = dy.ParameterCollection()
    p, trainer = m.add_parameters(2), TRAINERS[name].make(m)
    n = len(trainer._moments)
    given = [lib.dn_trainer_moment(trainer._c, p._c, k) != NULL for k in range(-1, n + 1)]
    assert given == [False, *[True] * n, False]


@pytest.mark.parametrize(("method", "updates"), [("_prepare", [0, 1, 2]), ("_advance", [1, 2, 3])])
def test_a_trainer_that_takes_part_in_updates_is_asked_at_each(method, updates):
    calls = []

    def own(self):
        calls.append(self.updates)
        getattr(dy.AdamTrainer, method)(self)

    trainer = type("Own", (dy.AdamTrainer,), {method: own})(dy.ParameterCollection())
    for _ in range(3):
        trainer.update()
    assert calls == updates


def test_every_rule_of_c_has_a_trainer():
    rules = {getattr(lib, name) for name in dir(lib) if name.startswith("DN_RULE_")}
    have = {type(row.make(dy.ParameterCollection()))._rule for row in TRAINERS.values()}
    assert rules == have, (
        f"no row in tests/table_trainers.py for the rules {rules - have} of csrc/params/rules.c"
    )
    assert lib.dn_rule_moments(max(rules) + 1) == lib.dn_rule_moments(-1) == -1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", TRAINERS)
def test_trainer_is_its_formula_for_100_steps(name, mode, rng):
    make, rule, distributions = TRAINERS[name]
    settings = MODES[mode]
    if distributions and settings["decay"]:
        pytest.skip("distributions have no weight decay")
    values, table = start(rng, distributions)
    m, parameters, lookup = collection_of(values, table)
    m.set_weight_decay(settings["decay"])
    trainer = make(m)
    trainer.set_clip_threshold(settings["clip"])
    trainer.set_clip_value(settings.get("clip_value", 0))
    trainer.set_sparse_updates(settings["sparse"])
    moments = {}
    for t in range(1, STEPS + 1):
        dense, rows = gradients_of_step(rng, t)
        backward(parameters, lookup, dense, rows)
        trainer.update()
        reference_step(rule, values, table, moments, dense, rows, t, **settings)
    for p in parameters.values():
        assert close(p.as_array(), values[p.name()[1:]]), p
    assert close(lookup.as_array(), table)
    assert trainer.updates == STEPS and trainer.whoami() == name
    state = trainer.state()
    for key, kept in moments.items():  # of a dense parameter, or of a row of the table
        for moment, expected in kept.items():
            got = state[f"{moment}:/E"][key] if isinstance(key, int) else state[f"{moment}:/{key}"]
            assert close(got, expected), (
                f"{moment} of {key} in state(): see _moments of {name} in {type(trainer).__module__}"  # noqa: E501
            )
    assert {key.partition(":")[0] for key in state if ":" in key} == {*moments["W"]}


@pytest.mark.float32
@pytest.mark.parametrize("case", CASES, ids=lambda c: c["id"])
def test_trainer_has_the_numbers_of_dynet(case):
    assert not replay.differences(case["result"], replay.trainer(dy, case), 1e-5)


# ---- AdamW, EG, Cyclical ---------------------------------------------------------------


def test_adamw_has_the_arguments_and_defaults_of_adam():
    adam, adamw = (inspect.signature(c).parameters for c in (dy.AdamTrainer, dy.AdamWTrainer))
    assert {name: adamw[name] for name in adam} == adam
    assert [*adamw][: len(adam) - 1] == [*adam][:-1]  # by position; learning_rate only by name


def test_adamw_excluded_parameters_do_not_shrink(rng):
    values, table = start(rng)
    m, parameters, lookup = collection_of(values, table)
    trainer = dy.AdamWTrainer(m, 0.1, weight_decay=0.5, no_decay=[parameters["b"]])
    trainer.exclude_from_decay([lookup])
    trainer.set_sparse_updates(False)
    trainer.update()  # all gradients are zero
    assert close(parameters["W"].as_array(), 0.95 * values["W"]) and close(
        parameters["F"].as_array(), 0.95 * values["F"]
    )
    assert close(parameters["b"].as_array(), values["b"]) and close(lookup.as_array(), table)
    later = m.add_parameters(2, init=1)
    trainer.update()
    assert close(later.as_array(), 0.95 * np.ones(2))
    with pytest.raises(ValueError, match="collection"):
        trainer.exclude_from_decay([dy.ParameterCollection().add_parameters(1)])
    trainer.update()


def test_eg_refuses_what_is_no_distribution():
    m = dy.ParameterCollection()
    trainer = dy.EGTrainer(m)
    p = m.add_parameters(2, init=0.5)
    trainer.update()
    assert p.as_array().tolist() == [0.5, 0.5]
    m.add_parameters(2, init=np.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="positive"):
        trainer.update()
    m.set_weight_decay(0.1)
    with pytest.raises(ValueError, match="weight decay"):
        trainer.update()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: dy.AdamWTrainer(m, weight_decay=-1), "weight_decay"),
        (lambda m: dy.CyclicalSGDTrainer(m, step_size=0), "step_size"),
        (lambda m: dy.AdamTrainer(m).set_accumulation(0), "set_accumulation"),
        (lambda m: dy.MovingAverage(m, decay=1), "decay"),
        (lambda m: dy.MovingAverage(m, every=0), "every"),
    ],
)
def test_constants_out_of_range_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make(dy.ParameterCollection())


@pytest.mark.parametrize("name", TRAINERS)
def test_arguments_that_are_no_numbers_are_refused_by_name(name):
    cls = getattr(dy, name)
    file = f"{cls.__module__.replace('.', '/')}.py"
    for argument in [*inspect.signature(cls).parameters][1:]:
        is_share = re.match("mom|rho|beta", argument)
        for bad in ("x", float("nan"), {}, object(), *(1, -0.1) * bool(is_share)):
            named = "the learning rate" if argument in ("alpha", "learning_rate") else argument
            if argument == "no_decay" and bad == {}:
                continue
            with pytest.raises((TypeError, ValueError)) as raised:
                cls(dy.ParameterCollection(), **{argument: bad})
            said = str(raised.value)
            assert re.match(rf"{name}: ({named}|the learning rate) must ", said), (
                f"{file}: {argument}={bad!r} of {name}: {said}"
            )


def test_restart_zeroes_the_moments_and_keeps_the_count():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=0)
    trainer = dy.MomentumSGDTrainer(m, 1.0, 0.5)
    for _ in range(2):
        dy.renew_cg()
        dy.dot_product(w, dy.inputVector([1])).backward()
        trainer.update()
    trainer.restart(0.5)
    before = w.as_array()
    trainer.update()
    assert (w.as_array() == before).all() and trainer.updates == 3 and trainer.learning_rate == 0.5


# ---- subsets, accumulation, what is not finite -----------------------------------------


@pytest.mark.parametrize("name", TRAINERS)
def test_update_subset_changes_these_alone(name, rng):
    make, rule, distributions = TRAINERS[name]
    values, table = start(rng, distributions)
    m, parameters, lookup = collection_of(values, table)
    trainer = make(m)
    dense, rows = gradients_of_step(rng, 1)
    backward(parameters, lookup, dense, rows)
    pending = parameters["b"].grad_as_array(), lookup.grad_as_array()
    trainer.set_clip_threshold(0)
    trainer.update_subset([2, 0, 0], [])
    for key in ("W", "F"):
        assert (
            close(parameters[key].as_array(), rule.step(values[key], dense[key], {}, 1))
            and not parameters[key].has_gradient()
        )
    assert (parameters["b"].as_array() == values["b"]).all() and (lookup.as_array() == table).all()
    assert (parameters["b"].grad_as_array() == pending[0]).all() and (
        lookup.grad_as_array() == pending[1]
    ).all()
    trainer.update_subset([parameters["b"]], [lookup])
    assert not parameters["b"].has_gradient() and not lookup.has_gradient() and trainer.updates == 2
    assert (
        not (parameters["b"].as_array() == values["b"]).all()
        and not (lookup.as_array() == table).all()
    )


def test_update_subset_refuses_strangers():
    m = dy.ParameterCollection()
    m.add_parameters(1)
    trainer = dy.SimpleSGDTrainer(m)
    for params, lookups in (
        ([1], []),
        ([-1], []),
        ([], [0]),
        ([dy.ParameterCollection().add_parameters(1)], []),
    ):
        with pytest.raises(ValueError, match="update_subset"):
            trainer.update_subset(params, lookups)
    with pytest.raises(TypeError):
        trainer.update_subset([0.5], [])
    with pytest.raises(TypeError):
        trainer.set_accumulation(2.5)
    trainer.set_accumulation(2)
    with pytest.raises(RuntimeError, match="accumulation"):
        trainer.update_subset([0], [])


def test_update_subset_of_a_subcollection_counts_within_it():
    m = dy.ParameterCollection()
    first = m.add_parameters(1, init=0)
    sub = m.add_subcollection("sub")
    second = sub.add_parameters(1, init=0)
    trainer = dy.SimpleSGDTrainer(sub, 1.0)
    dy.renew_cg()
    (first + second).backward()
    trainer.update_subset([0], [])
    assert (
        second.as_array().tolist() == [-1]
        and first.as_array().tolist() == [0]
        and first.has_gradient()
    )


@pytest.mark.parametrize("name", TRAINERS)
def test_accumulation_is_one_update_by_the_mean(name, rng):
    """4 passes with set_accumulation(4) = one pass with a quarter of all gradients, clipping
    included."""
    make, _, distributions = TRAINERS[name]
    values, table = start(rng, distributions)
    results = []
    steps = [[gradients_of_step(rng, t) for t in range(4)] for _ in range(3)]
    for accumulate in (True, False):
        m, parameters, lookup = collection_of(values, table)
        trainer = make(m)
        trainer.set_clip_threshold(0.4)
        trainer.set_clip_value(0.2)
        if accumulate:
            trainer.set_accumulation(4)
        for step in steps:
            for dense, rows in step:
                backward(parameters, lookup, dense, rows)
                if accumulate:
                    trainer.update()
            if not accumulate:
                for p in (*parameters.values(), lookup):
                    p.scale_gradient(0.25)
                trainer.update()
        assert trainer.updates == 3
        results.append([p.as_array() for p in (*parameters.values(), lookup)])
    assert all(close(a, b, 1e-6) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("clip", [0, 5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_steps_that_are_not_finite_can_be_left_out(clip, bad):
    m = dy.ParameterCollection()
    w, v, table = (
        m.add_parameters(3, init=1),
        m.add_parameters(2, init=1),
        m.add_lookup_parameters((4, 2), init=1),
    )
    trainer = dy.MomentumSGDTrainer(m, 0.1)
    trainer.set_clip_threshold(clip)
    trainer.skip_nonfinite = True
    for number in (bad, 1.0, bad):
        dy.renew_cg()
        (
            dy.dot_product(w, dy.inputVector([1, number, 1]))
            + dy.sum_elems(v)
            + dy.sum_elems(table[1])
        ).backward()
        trainer.update()
    assert (trainer.skipped, trainer.updates) == (2, 1)
    assert (
        close(w.as_array(), 0.9 * np.ones(3))
        and close(v.as_array(), 0.9 * np.ones(2))
        and not any(p.has_gradient() for p in (w, v, table))
    )
    trainer.skip_nonfinite = False
    dy.renew_cg()
    dy.dot_product(w, dy.inputVector([1, bad, 1])).backward()
    if clip:
        with pytest.raises(RuntimeError, match="Magnitude of gradient is bad"):
            trainer.update()
        assert w.has_gradient() and close(w.as_array(), 0.9 * np.ones(3))


def test_infinite_gradients_are_found_before_they_are_clipped_by_value():
    m = dy.ParameterCollection()
    w = m.add_parameters(2, init=0)
    trainer = dy.SimpleSGDTrainer(m, 1.0)
    trainer.set_clip_value(0.5)
    dy.renew_cg()
    dy.dot_product(w, dy.inputVector([float("inf"), 1])).backward()
    with pytest.raises(RuntimeError, match="not finite"):
        trainer.update()


def test_clip_value_with_frozen_and_unused_parameters():
    m = dy.ParameterCollection()
    w, frozen, unused = (m.add_parameters(2, init=0) for _ in range(3))
    frozen.set_updated(False)
    trainer = dy.SimpleSGDTrainer(m, 1.0)
    trainer.set_clip_value(0.5)
    dy.renew_cg()
    dy.dot_product(w + frozen, dy.inputVector([3, -4])).backward()
    trainer.update()
    assert (
        w.as_array().tolist() == [-0.5, 0.5]
        and not frozen.as_array().any()
        and not unused.as_array().any()
    )
    assert trainer.get_clip_value() == 0.5


@pytest.mark.parametrize("name", TRAINERS)
def test_updates_of_tables_cost_what_the_touched_rows_cost(name):
    """The norm, the update and clearing: a table of 400,000 rows of which 3 are touched beside one
    update of all rows."""
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((400_000, 16), init=1 / 16)

    def seconds(trainer, sparse):
        dy.renew_cg()
        dy.sum_elems(table[7] + table[9] + table[399_999]).backward()
        trainer.set_sparse_updates(sparse)
        start = time.process_time()  # not a clock: other programs may have the processor
        trainer.update()
        return time.process_time() - start

    trainer, moves_all_rows = TRAINERS[name].make(m), dy.MomentumSGDTrainer(m)
    seconds(trainer, True)
    assert min(seconds(trainer, True) for _ in range(5)) < 0.05 * min(
        seconds(moves_all_rows, False) for _ in range(2)
    )


@pytest.mark.parametrize("size", [1, 5, 300, 1024, 1025])
@pytest.mark.parametrize("name", TRAINERS)
def test_dense_updates_of_tables_are_those_of_a_parameter_for_each_row(name, size, rng):
    """Whichever rows have a gradient: none, a few, all but one or all. To the bit."""
    values = rng.random((900 if size < 10 else 66, size))
    values /= values.sum(1, keepdims=True)
    by_table, by_row = dy.ParameterCollection(), dy.ParameterCollection()
    table = by_table.lookup_parameters_from_numpy(values)
    rows = [by_row.parameters_from_numpy(v) for v in values]
    trainers = [TRAINERS[name].make(m) for m in (by_table, by_row)]
    trainers[0].set_sparse_updates(False)
    # at first as many as there is memory for, without a row to spare
    for n in (64, 3, 0, len(values), len(values) - 1, 5, 0):
        chosen = rng.permutation(len(values))[:n]
        target = rng.normal(size=size)
        for at in (table, rows):
            dy.renew_cg()
            for i in chosen:
                dy.dot_product(at[int(i)], dy.inputVector(target)).backward()
        for trainer in trainers:
            trainer.set_clip_threshold(0)
            trainer.update()
        assert not table.has_gradient()
    assert np.array_equal(table.as_array(), np.stack([p.as_array() for p in rows]))


def test_updates_round_each_product_whatever_the_place_of_a_number(rng):
    """As NumPy does: no compiler and no processor fuses a product with a sum."""
    for n in (1, 5, 16, 33, 1000):
        m = dy.ParameterCollection()
        w = m.parameters_from_numpy(rng.normal(size=n))
        trainer = dy.MomentumSGDTrainer(m, learning_rate=0.1, mom=0.9)
        trainer.set_clip_threshold(0)
        value = w.storage().copy()
        mom, rate, moment = *np.array([0.9, 0.1], value.dtype), np.zeros_like(value)
        for _ in range(5):
            w.set_gradient(rng.normal(size=n))
            moment = mom * moment - rate * w.grad_as_array().astype(value.dtype)
            value = value + moment
            trainer.update()
        assert np.array_equal(w.storage(), value)


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("name", TRAINERS)
def test_tables_of_rows_without_numbers_are_updated(name, sparse):
    m = dy.ParameterCollection()
    table = m.add_lookup_parameters((100, 0))
    trainer = TRAINERS[name].make(m)
    trainer.set_sparse_updates(sparse)
    for n in (0, 1, 3, 90):
        dy.renew_cg()
        dy.sum_elems(
            dy.esum([dy.concatenate([table[i], dy.ones(1)]) for i in range(n)] or [dy.ones(1)])
        ).backward()
        trainer.update()
    assert table.as_array().shape == (100, 0)


@pytest.mark.parametrize("name", [name for name, row in TRAINERS.items() if not row.distributions])
def test_dense_updates_of_tables_cost_what_those_of_a_matrix_cost(name):
    m, other = dy.ParameterCollection(), dy.ParameterCollection()
    table, matrix = m.add_lookup_parameters((200_000, 2)), other.add_parameters((2, 200_000))
    trainers = {table: TRAINERS[name].make(m), matrix: TRAINERS[name].make(other)}
    trainers[table].set_sparse_updates(False)

    def seconds(p):
        dy.renew_cg()
        dy.sum_elems(table[7] if p is table else matrix).backward()
        start = time.process_time()
        trainers[p].update()
        return time.process_time() - start

    of_table, of_matrix = (min(seconds(p) for _ in range(9)) for p in (table, matrix))
    assert of_table < 10 * of_matrix  # which leaves no time for a call for each row


# ---- state -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["state", "checkpoint"])
@pytest.mark.parametrize("name", TRAINERS)
def test_training_continues_bit_for_bit(name, how, rng, tmp_path):
    """In a new model with a new trainer: from a pickled state(), or from what a Checkpointer has
    saved."""
    make, _, distributions = TRAINERS[name]
    values, table = start(rng, distributions)
    steps = [gradients_of_step(rng, t) for t in range(12)]
    model, trainer, train = new_run(make, values, table)
    train(steps[:6])
    state, before = pickle.dumps(trainer.state()), copy.deepcopy(model)
    dy.parallel.Checkpointer(tmp_path, model, trainer).save()
    train(steps[6:])

    resumed_model, resumed, train_on = new_run(make, *start(rng, distributions))
    if how == "checkpoint":
        assert dy.parallel.Checkpointer(tmp_path, resumed_model, resumed).resume()
    else:
        resumed_model.copy_from(before)
        resumed.load_state(pickle.loads(state))
    train_on(steps[6:])
    end, end_of_resumed = everything(model, trainer), everything(resumed_model, resumed)
    assert end.keys() == end_of_resumed.keys()
    wrong = [key for key in end if not np.array_equal(end[key], end_of_resumed[key])]
    assert not wrong, (
        f"{name}: a resumed run is another run: {wrong}. See state() of {type(trainer).__module__}"
    )


def new_run(make, values, table):
    """A collection, its trainer, and train(steps)."""
    model, parameters, lookup = collection_of(values, table)
    trainer = make(model)

    def train(steps):
        for dense, rows in steps:
            backward(parameters, lookup, dense, rows)
            trainer.update()

    return model, trainer, train


def everything(model, trainer):
    """All that training has come to, by name."""
    return {
        **{name: p.as_array() for name, p in model.named_parameters().items()},
        **trainer.state(),
        "rate": trainer.learning_rate,
    }


def test_moments_that_a_state_does_not_have_begin_anew():
    m = dy.ParameterCollection()
    w = m.add_parameters(2, init=1)
    trainer = dy.AdamTrainer(m)
    before = trainer.state()
    dy.renew_cg()
    dy.sum_elems(w).backward()
    trainer.update()
    trainer.load_state(before)
    moments = [a for name, a in trainer.state().items() if ":" in name]
    assert len(moments) == 2 and not np.any(moments)


def test_state_is_a_copy_and_is_checked_before_anything_changes():
    m = dy.ParameterCollection()
    w = m.add_parameters((2, 3), init=1, name="w")
    trainer = dy.AdamTrainer(m)
    dy.renew_cg()
    dy.sum_elems(w).backward()
    trainer.update()
    state = trainer.state()
    kept = {k: a.copy() for k, a in state.items()}
    trainer.update()
    assert all((state[k] == kept[k]).all() for k in kept) and state["m:/w"].shape == (2, 3)
    now = trainer.state()
    bad = [
        {},
        {**state, "trainer": np.frombuffer(b"AmsgradTrainer", np.uint8)},
        {**state, "m:/w": np.zeros((3, 2))},
        {**state, "m:/x": np.zeros((3, 2))},
        {**state, "top:/w": np.zeros((2, 3))},
        {k: a for k, a in state.items() if k != "v:/w"},
        {k: a for k, a in state.items() if k != "updates"},
    ]
    for wrong in bad:
        with pytest.raises(ValueError, match="load_state"):
            trainer.load_state(wrong)
    after = trainer.state()
    assert all((after[k] == now[k]).all() for k in now)


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy, pickle.dumps])
def test_trainers_are_not_copied(copying):
    with pytest.raises(TypeError, match="load_state"):
        copying(dy.AdamTrainer(dy.ParameterCollection()))


# ---- moving averages -------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("decay", [0.9, 0, None])
def test_moving_average_is_its_formula(decay, every, rng):
    values, table = start(rng)
    m, parameters, lookup = collection_of(values, table)
    trainer = dy.AdamTrainer(m, 0.01)
    average = dy.MovingAverage(trainer, decay, every)
    seen = []
    for t in range(1, 31):
        backward(parameters, lookup, *gradients_of_step(rng, t))
        trainer.update()
        if t % every == 0:
            seen.append([p.as_array() for p in (*parameters.values(), lookup)])
    n = len(seen)
    weights = (
        [1 / n] * n
        if decay is None
        else [(1 - decay) * decay ** (n - 1 - i) / (1 - decay**n) for i in range(n)]
    )
    trained = [p.as_array() for p in (*parameters.values(), lookup)]
    with average.applied():
        for i, p in enumerate((*parameters.values(), lookup)):
            assert close(p.as_array(), sum(w * s[i] for w, s in zip(weights, seen, strict=True)))
        assert average.is_in
        with pytest.raises(RuntimeError, match="swap_out"):
            trainer.update()
    assert all(
        (p.as_array() == t).all()
        for p, t in zip((*parameters.values(), lookup), trained, strict=True)
    )
    with pytest.raises(RuntimeError, match="swap_out"):
        average.swap_out()


def test_moving_average_without_correction_starts_near_zero_and_takes_in_new_parameters():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=2)
    average = dy.MovingAverage(m, decay=0.75, bias_correction=False)
    with pytest.raises(RuntimeError, match="no update"):
        average.swap_in()
    average.update()
    with average.applied():
        assert w.as_array().tolist() == [0.5]
    corrected = dy.MovingAverage(m, decay=0.75)
    corrected.update()
    v = m.add_parameters(1, init=3)
    corrected.update()
    with corrected.applied():
        assert close(w.as_array(), np.array([2])) and close(v.as_array(), np.array([3]))
