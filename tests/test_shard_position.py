"""Where a loop over shard() is, and how it goes on from there."""

import copy
import multiprocessing
import random
import warnings

import numpy as np
import pytest
from checkpoints import shard

import dist_dynet as dy


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("loop", ["while", "for"])
def test_shard_continues_where_its_state_was_taken(loop, done):
    def run(batches, epochs, stop=None):
        seen = []
        for _ in (
            range(batches.epoch, epochs)
            if loop == "for"
            else iter(lambda: batches.epoch < epochs, False)
        ):
            for batch in batches:
                if (batches.epoch, batches.position) == stop:
                    return seen, batches.state()
                seen.append((batches.epoch, batches.position, batch))
            seen.append("behind the loop")
        return seen, batches.state()

    whole, end = run(shard(), 3)
    assert (end["epoch"], end["position"], whole.count("behind the loop")) == (3, 0, 3)
    before, state = run(shard(), 3, stop=(1, done))
    resumed = shard()
    resumed.load_state(state)
    assert (resumed.epoch, resumed.position) == (1, done)
    after, _ = run(resumed, 3)
    assert before + after == whole


def test_position_of_a_forked_process_is_not_known():
    """Its loop reads ahead for updates here; a state would begin the epoch anew."""
    batches, m = shard(), dy.ParameterCollection()
    w, trainer = m.add_parameters(1), dy.SimpleSGDTrainer(m)
    before = batches.state()

    def step():
        dy.renew_cg()
        w.backward()
        trainer.update()

    child = multiprocessing.get_context("fork").Process(target=list, args=(batches,))
    with warnings.catch_warnings():  # Python 3.12 and later: of threads
        warnings.simplefilter("ignore", DeprecationWarning)
        child.start()
    child.join()
    assert child.exitcode == 0
    assert batches.state() == before  # nobody has trained
    step()
    with pytest.raises(RuntimeError, match="a forked process loops over it"):
        batches.state()
    for _ in batches:
        step()
    assert batches.state()["epoch"] == 1
    batches.epoch = 3  # a child's loop of before counts no more
    assert batches.state()["epoch"] == 3
    step()
    batches.load_state(before)
    assert batches.state() == before


class Example:
    def __init__(self, i):
        self.words = [f"w{i}"]


KINDS = {
    "integers": lambda: [*range(10)],
    "texts": lambda: [f"w{i}" for i in range(10)],
    "pairs": lambda: [([i], i) for i in range(10)],
    "objects": lambda: [Example(i) for i in range(10)],
    "array": lambda: np.arange(20.0).reshape(10, 2),
}


def words_of(batch):
    return [repr(getattr(x, "words", x)) for x in batch]


@pytest.mark.parametrize("stop", [(0, 1), (1, 0), (1, 2), (3, 1)])
@pytest.mark.parametrize("how", ["by epoch", "one after another", "new examples"])
@pytest.mark.parametrize("kind", KINDS)
def test_order_that_is_made_in_place_is_as_it_was_or_refused(kind, how, stop):
    """Each epoch's order made by the program, in the data themselves, and a run that is stopped in
    the midst of an epoch, its random state kept: as a Checkpointer does."""

    def run(state=None, stop=None):
        data, generator, seen = KINDS[kind](), np.random.default_rng(1), []
        batches, first = shard(data=data, shuffle=False), copy.copy(data)
        batches.mark_data()  # as a Checkpointer does
        if state:
            batches.load_state(state[0])
            generator.bit_generator.state = state[1]
        while batches.epoch < 4:
            if how == "by epoch":
                order = random.Random(batches.epoch).sample(range(10), 10)
                data[:] = [first[i] for i in order]
            elif how == "one after another":
                data[:] = [data[i] for i in generator.permutation(10)]
            else:
                data[3:5] = [KINDS[kind]()[(3 + batches.epoch) % 10]] * 2
            for batch in batches:
                seen.append((batches.epoch, batches.position, words_of(batch)))
                if kind == "objects":
                    for x in batch:
                        x.features = batches.position  # kept where a run has come past it alone
                if seen[-1][:2] == stop:
                    return seen, (batches.state(), generator.bit_generator.state)
        return seen, None

    whole, _ = run()
    before, state = run(stop=stop)
    try:
        after, _ = run(state)
    except RuntimeError as error:
        assert how == "one after another" and state[0]["position"] > 0
        assert "needs the data in the order which they had then" in str(error)
    else:
        skipped = len(before) - 1
        if how == "one after another" and state[0]["position"] == 0:
            skipped = stop[0] * 3  # an epoch's beginning tells nothing of the order
            assert [s[:2] for s in after] == [s[:2] for s in whole[skipped:]]
        else:
            assert after == whole[skipped:]


def test_shard_at_the_very_end_of_an_epoch_continues_with_an_empty_rest():
    batches = shard()
    batches.load_state({**batches.state(), "epoch": 4, "position": len(batches)})
    assert (list(batches), batches.epoch, batches.position) == ([], 5, 0)
    assert list(batches) == list(shard(epoch=5))


def test_shard_begins_anew_after_a_break():
    batches, first = shard(), next(iter(shard()))
    for _ in range(2):
        for batch in batches:
            if batches.position == 0:
                assert batch == first
            if batches.position == 1:
                break
        assert (batches.epoch, batches.position) == (0, 1)
    batches.load_state(batches.state())
    assert next(iter(batches)) == list(shard())[1]
    assert list(batches) == list(shard()), "only the first loop goes on from a state"


@pytest.mark.parametrize("updates", [False, True])
@pytest.mark.parametrize("stop", [0, 1])
def test_shard_counts_the_step_that_a_loop_is_left_in_if_it_was_updated(stop, updates):
    m = dy.ParameterCollection()
    w, trainer, batches = m.add_parameters(1), dy.SimpleSGDTrainer(m), shard()
    for batch in batches:
        dy.renew_cg()
        w.backward()
        if batch.step < stop or updates:
            trainer.update()
        if batch.step == stop:
            break
    assert batches.state()["position"] == stop + updates


def test_shard_ends_each_loop_once():
    def draws(kept):
        dy.renew_cg()
        batches = shard(micro_batches=2)
        over = iter(batches)
        assert len(list(over)) == 2 * len(batches)
        later = iter(batches)
        next(later), next(later)
        if not kept:
            del over
        return batches.epoch, batches.position, dy.random_normal(4).npvalue().tolist()

    assert draws(kept=True) == draws(kept=False)


def test_shard_given_another_epoch_begins_it():
    batches = shard()
    batches.load_state({**batches.state(), "position": 2})
    batches.epoch = 0  # the one it has
    assert batches.position == 2
    batches.epoch = 7
    assert batches.position == 0 and list(batches) == list(shard(epoch=7))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 4}, "seed must be as it was when the state was taken, 3; got 4"),
        ({"batch_size": 2}, "batch_size must be as it was when the state was taken, 4; got 2"),
        ({"drop_last": True}, "drop_last must be .* False; got True"),
        ({"shuffle": False}, "shuffle must be .* True; got False"),
        ({"micro_batches": 1}, "micro_batches must be .* 0; got 1"),
        ({"bucket": 1}, "bucket must be .* 0; got 1"),
    ],
)
def test_shard_refuses_a_state_of_another(changed, words):
    other = shard(**changed)
    with pytest.raises(ValueError, match=rf"^shard: {words}"):
        other.load_state(shard().state())
    with pytest.raises(ValueError, match=r"^shard: examples must be .* 9; got 10"):
        shard().load_state({**shard().state(), "examples": 9})
    for bad in ({"position": 4}, {"position": -1}, {"epoch": "x"}):
        with pytest.raises(ValueError, match=r"^shard: .*(position|epoch)"):
            shard().load_state({**shard().state(), **bad})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"data": range(1, 11)}, "data"),
        ({"data": [*range(9), -1]}, "data"),
        ({"weight": [2] * 10}, "weight"),
        ({"cost": [*range(10)], "bucket": 1}, "cost"),
        ({"cost": [*range(10)]}, None),
        ({"data": [*range(10)]}, None),
    ],
)
def test_shard_refuses_a_state_of_other_contents(changed, words):
    given = {"cost": [1] * 10, "bucket": changed.get("bucket"), "weight": [1] * 10}
    first, other = shard(**{**given, "data": [*range(10)]}), shard(**{**given, **changed})
    if words is None:
        other = shard(**{**given, "data": [*range(10)], **changed})
    first.mark_data()
    other.load_state(first.state())  # nobody has looked
    other.mark_data()
    if words is None:
        other.load_state(first.state())
        return
    before = other.state()
    with pytest.raises(ValueError, match=f"^shard: {words} must be what it was in the run"):
        other.load_state({**first.state(), "epoch": 7})
    assert other.state() == before


def test_shard_notifies_listeners_of_each_step():
    heard = []

    class Listener:
        def step_ends(self):
            heard.append(("ends", batches.position, batches.epoch))

    batches = shard(drop_last=True)
    batches.listen(Listener())
    list(batches)
    assert heard == [("ends", 1, 0), ("ends", 2, 0)]


def test_shard_counts_a_batch_without_examples_whose_update_does_nothing():
    """Of LocalSGD, as on the other ranks, which update."""
    m = dy.ParameterCollection()
    trainer = dy.parallel.LocalSGD(dy.SimpleSGDTrainer(m), every=4)
    batches = shard()
    for batch in batches:
        trainer.update(0)
        assert batches.state()["position"] == batch.step + 1


@pytest.mark.parametrize("retries", [False, True])
@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("loop", ["plain", "list"])
def test_shard_goes_past_a_batch_whose_update_was_refused(loop, bad, retries):
    """The program catches the error, and goes on with the next batch."""
    m = dy.ParameterCollection()
    w, trainer = m.add_parameters(1), dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
    batches, places = shard(), []

    def step(batch, factor):
        dy.renew_cg()
        (w * factor).backward()
        trainer.update(*([batch] if loop == "list" else []))

    for batch in list(batches) if loop == "list" else batches:
        try:
            step(batch, float("nan") if batch.step == bad else 1.0)
        except RuntimeError:
            m.reset_gradients()
            if retries:
                step(batch, 1.0)
        places.append(batches.state()["position"])
    is_done = [retries or step != bad for step in range(3)]
    assert places == [step + done for step, done in enumerate(is_done)]
    end = batches.state()
    # a list does not say whether the program has gone on
    last = (1, 0) if loop == "plain" else (0, 2 + is_done[-1])
    assert (end["epoch"], end["position"]) == last
