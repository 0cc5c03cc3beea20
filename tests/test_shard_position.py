"""Where a loop over shard() is, and how it goes on from there."""

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


def test_shard_refuses_a_state_of_other_data():
    first = shard(data=[*range(10)])
    before = first.state()
    first.listen(object())  # as a Checkpointer does
    shard(data=[*range(10)]).load_state(first.state())
    for data in ([*range(1, 11)], [*range(9), -1], [*range(9, -1, -1)]):
        other = shard(data=data)
        other.load_state(before)  # nobody has looked
        other.listen(object())
        state = other.state()
        with pytest.raises(ValueError, match=r"^shard: data must be as it was when the state was"):
            other.load_state({**first.state(), "epoch": 7})
        assert other.state() == state


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


@pytest.mark.parametrize("loop", ["plain", "list"])
def test_shard_goes_past_a_batch_whose_update_was_refused(loop):
    """The program catches the error, and goes on with the next batch."""
    m = dy.ParameterCollection()
    w, trainer = m.add_parameters(1), dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(m))
    batches, places = shard(), []
    for batch in list(batches) if loop == "list" else batches:
        dy.renew_cg()
        (w * (float("nan") if batch.step == 1 else 1.0)).backward()
        try:
            trainer.update(*([batch] if loop == "list" else []))
        except RuntimeError:
            m.reset_gradients()
        places.append(batches.state()["position"])
    # the end of a list is the end of its epoch
    assert places == [1, 2, 3 if loop == "plain" else 0] and trainer.updates == 2
    assert batches.state()["epoch"] == 1 and batches.state()["position"] == 0
