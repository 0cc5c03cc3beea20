"""Learning-rate schedules: their formulas, warm-up, plateau, state."""

import inspect
import math

import numpy as np
import pytest
from tables import differing, known_classes

import dist_dynet as dy
from dist_dynet import schedules


def trainer_of(rate=0.5):
    return dy.SimpleSGDTrainer(dy.ParameterCollection(), rate)


def rates(trainer, schedule, n):
    seen = []
    for _ in range(n):
        seen.append(trainer.learning_rate)
        schedule.step()
    return np.array(seen)


FORMULAS = {
    "constant": (lambda t, w: schedules.Constant(t, warmup=w), lambda n, w: 1.0),
    "linear": (
        lambda t, w: schedules.Linear(t, 20, end=0.1, warmup=w),
        lambda n, w: 1 - 0.9 * min(1, n / 20),
    ),
    "cosine": (
        lambda t, w: schedules.Cosine(t, 20, warmup=w),
        lambda n, w: (1 + math.cos(math.pi * min(1, n / 20))) / 2,
    ),
    "inverse square root": (
        lambda t, w: schedules.InverseSquareRoot(t, warmup=w),
        lambda n, w: math.sqrt((w + 1) / (n + w + 1)),
    ),
}


NOT_IN_THE_TABLE = {"Plateau": "depends on what it is given: test_plateau"}


def test_table_has_every_schedule():
    rows = {type(make(trainer_of(), 0)) for make, _ in FORMULAS.values()}
    classes = known_classes(schedules, schedules._Schedule)
    gaps = differing(
        classes, rows, NOT_IN_THE_TABLE, "FORMULAS of tests/test_schedules.py", schedules.__file__
    )
    assert not gaps, gaps


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("name", FORMULAS)
def test_schedule_is_its_formula(name, warmup):
    make, formula = FORMULAS[name]
    trainer = trainer_of()
    got = rates(trainer, make(trainer, warmup), 40)
    expected = [
        0.5 * ((n + 1) / (warmup + 1) if n < warmup else formula(n - warmup, warmup))
        for n in range(40)
    ]
    assert np.allclose(got, expected, rtol=1e-14)
    # no jump: the warm-up ends at the base
    assert (np.diff(got[:warmup]) > 0).all() and got.max() == 0.5


def test_base_may_be_given():
    trainer = trainer_of(0.5)
    schedules.Constant(trainer, base=2.0)
    assert trainer.learning_rate == 2


@pytest.mark.parametrize("greatest", [False, True])
def test_plateau(greatest):
    trainer = trainer_of(1.0)
    schedule = schedules.Plateau(
        trainer, 0.5, patience=2, threshold=0.1, greatest_is_best=greatest, least=0.2
    )
    sign = -1 if greatest else 1
    seen = []
    for measure in (5, 4, 3.95, 4.5, float("nan"), 4, 4, 4, 3.5, 3.5, 3.5, 3.5, 3.5, 3.5, 3.5):
        schedule.step(sign * measure)
        seen.append(trainer.learning_rate)
    assert seen == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.2, 0.2, 0.2, 0.2]


def test_state_continues_where_it_was():
    measures = [(3.0,), (2.0,), (2.5,), (2.5,), (2.5,), (1.0,), (1.0,), (1.0,), (1.0,), (1.0,)]
    for make, steps in (
        (lambda t: schedules.Cosine(t, 30, warmup=4), [()] * 10),
        (lambda t: schedules.Plateau(t, patience=1), measures),
    ):
        trainer, other = trainer_of(), trainer_of(7)
        first, second = make(trainer), make(other)
        for given in steps[:5]:
            first.step(*given)
        other.load_state(trainer.state())
        assert second.steps_done == 5
        for given in steps[5:]:
            first.step(*given)
            second.step(*given)
            assert trainer.learning_rate == other.learning_rate
        assert first.state_dict() == second.state_dict()


def test_state_lacking_something_is_refused_and_nothing_changes():
    trainer = trainer_of()
    schedule = schedules.Plateau(trainer)
    schedule.step(1.0)
    before = schedule.state_dict(), trainer.learning_rate
    for key in before[0]:
        with pytest.raises(ValueError, match=key):
            schedule.load_state_dict({k: v for k, v in before[0].items() if k != key})
    for thing in (schedule.load_state_dict, trainer.load_state):
        with pytest.raises(TypeError, match="takes"):
            thing([1])
    with pytest.raises(ValueError, match="best"):
        trainer.load_state(
            {**trainer_of().state(), "schedule:n": np.array(3.0), "schedule:base": np.array(1.0)}
        )
    assert (schedule.state_dict(), trainer.learning_rate) == before


def test_state_without_a_schedule_leaves_the_schedule():
    trainer = trainer_of()
    state = trainer_of(3).state()
    schedule = schedules.Linear(trainer, 4)  # a trainer alone does not keep it
    schedule.step()
    trainer.load_state(state)
    assert trainer.learning_rate == 3 and schedule.steps_done == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda t: schedules.Linear(t, 0),
        lambda t: schedules.Constant(t, warmup=-1),
        lambda t: schedules.Plateau(t, factor=1),
        lambda t: schedules.Plateau(t, factor=0),
        lambda t: schedules.Plateau(t, patience=-1),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="must"):
        make(trainer_of())


OTHERS = {
    "steps": 41,
    "end": 0.25,
    "warmup": 3,
    "factor": 0.25,
    "patience": 9,
    "threshold": 0.5,
    "greatest_is_best": True,
    "least": 0.01,
}
"""Another value of each argument."""


@pytest.mark.parametrize("name", schedules.__all__)
def test_what_a_schedule_was_made_with_has_all_arguments_but_base(name):
    """A checkpoint of a schedule that was made otherwise is refused by that: _settings() of the
    class in dist_dynet/schedules.py."""
    make = getattr(schedules, name)
    arguments = set(inspect.signature(make).parameters) - {"trainer", "base"}
    needed = {"steps": 40} if "steps" in arguments else {}
    made = make(trainer_of(), **needed).made
    assert make(trainer_of(), base=0.125, **needed).made == made
    for argument in arguments:
        assert argument in OTHERS, "give it a value in OTHERS"
        other = make(trainer_of(), **{**needed, argument: OTHERS[argument]}).made
        assert other != made and f"{argument}={OTHERS[argument]!r}" in other
