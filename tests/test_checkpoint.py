"""Checkpoints and exact resume: where a loop over shard() is; what a checkpoint holds; runs that are killed and go on.

How long: about a minute.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from jobs import Job, environment_of, launch, mpirun, needs_mpi, start

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.io.sealed import DamagedError, seal, unseal
from dist_dynet.parallel import _draws
from dist_dynet.params.stored import load_stored, stored

HERE = Path(__file__).parent


def shard(seed=3, **changed):
    return parallel.shard(range(10), **{"batch_size": 4, "seed": seed, **changed})


# ---- the position of a loop ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", [0, 1, 2])
@pytest.mark.parametrize("loop", ["while", "for"])
def test_shard_goes_on_where_its_state_was_taken(loop, done):
    def run(batches, epochs, stop=None):
        seen = []
        for _ in range(batches.epoch, epochs) if loop == "for" else iter(lambda: batches.epoch < epochs, False):
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


def test_shard_at_the_very_end_of_an_epoch_goes_on_with_an_empty_rest():
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
    assert list(batches) == list(shard())[1:]


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
    ],
)
def test_shard_refuses_a_state_of_another(changed, words):
    other = shard(**changed)
    with pytest.raises(ValueError, match=rf"^shard: {words}"):
        other.load_state(shard().state())
    with pytest.raises(ValueError, match=r"^shard: examples must be .* 9; got 10"):
        shard().load_state({**shard().state(), "examples": 9})
    for bad in ({"position": 4}, {"position": -1}, {"epoch": "x"}):
        with pytest.raises(ValueError, match=r"^shard: position must lie between 0 and 3"):
            shard().load_state({**shard().state(), **bad})


def test_shard_tells_listeners_of_each_step():
    heard = []

    class Listener:
        def step_begins(self):
            heard.append(("begins", batches.position))

        def step_ends(self):
            heard.append(("ends", batches.position, batches.epoch))

    batches = shard(drop_last=True)
    batches.listen(Listener())
    list(batches)
    assert heard == [("begins", 0), ("ends", 1, 0), ("begins", 1), ("ends", 2, 0)]


# ---- what a file holds -----------------------------------------------------------------------------------------------------------------


def equal(a, b):
    """Whether two trees are the same, bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return np.array_equal(a, b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)


def test_sealed_tree_is_the_tree(rng):
    tree = {
        "": {"/W": rng.random((2, 3), np.float32).T}, "empty": np.zeros((0, 3)), "number": np.array(3, np.uint64), "text": 'a"b\\',
        "list": [1, 2.5, None, True, [rng.random(2)]], "a": {"b": np.arange(2)}, "a:b": np.arange(3), "great": 1 << 100,
    }  # fmt: skip
    assert equal(unseal(seal(tree)), tree)
    assert unseal(seal({"x": np.float32(0.5), "y": (1,)})) == {"x": 0.5, "y": [1]}


def test_each_changed_or_missing_byte_of_a_sealed_tree_is_found(rng):
    content = seal({"step": 3, "array": rng.random(5), "text": '"dist_dynet.checksum":"'})
    for i in range(len(content)):
        changed = bytearray(content)
        changed[i] ^= 1 << int(rng.integers(8))
        for damaged in (bytes(changed), content[:i]):
            with pytest.raises(DamagedError):
                unseal(damaged)
    with pytest.raises(DamagedError):
        unseal(content + b"x")


def test_what_cannot_be_sealed_is_named():
    for leaf, place in (({"b": [object()]}, "object at a:b:0"), (np.array(["x"]), "ndarray at a"), ({1: 2}, "int at a, a key")):
        with pytest.raises(TypeError, match=f"^checkpoint: .*; got {place}"):
            seal({"a": leaf})


def model_of(shape=(3, 2), extra=()):
    m = dy.ParameterCollection()
    m.add_parameters(shape, name="W")
    m.add_lookup_parameters((5, 3), name="E")
    for name in extra:
        m.add_parameters(2, name=name)
    return m


def train(m, trainer, steps=1, row=0):
    W, E = m.parameters_list()[0], m.lookup_parameters_list()[0]
    for _ in range(steps):
        dy.renew_cg()
        dy.squared_norm(dy.transpose(W) * dy.dropout(E[row], 0.3)).backward()
        trainer.update()


def values(m):
    return {name: p.as_array() for name, p in m.named_parameters().items()}


def test_reading_stored_values_changes_no_later_bit():
    results = []
    for reads in (False, True):
        dy.reset_random_seed(3)
        m = model_of()
        m.set_weight_decay(0.03)
        trainer = dy.AdamTrainer(m)
        for step in range(20):
            train(m, trainer, row=step % 3)
            if reads:
                state = unseal(seal(stored(m)))
        results.append(values(m))
    assert equal(*results)
    assert state["factors"]["/E"] < 1  # the decay was pending, or this says nothing
    other = model_of()
    load_stored(other, state)
    assert equal(values(other), results[0])


def test_draws_go_on_and_derived_ones_differ():
    def some():
        return [random.random(), random.gauss(0, 1), *np.random.randn(3), *np.random.permutation(5), *dy.cg().uniform(2)]

    random.gauss(0, 1)
    np.random.randn(1)  # the other number of each pair is kept
    state = unseal(seal(_draws.draws()))
    first = some()
    _draws.set_draws(state)
    assert some() == first
    derived = []
    for rank in (1, 2):
        _draws.derive_draws(state, rank)
        derived.append(some())
    _draws.derive_draws(state, 1)
    assert some() == derived[0] != derived[1] and first != derived[0]


@pytest.mark.parametrize("decay", [0.9, None])
def test_moving_average_goes_on(decay):
    m, other = model_of(), model_of()
    averages = []
    for model in (m, other):
        trainer = dy.AdamTrainer(model)
        averages.append(dy.MovingAverage(trainer, decay, every=2))
        train(model, trainer, 3)
    averages[1].load_state(averages[0].state())
    other.copy_from(m)
    for average in averages:
        average.update()
        average.swap_in()
    assert equal(values(m), values(other))
    with pytest.raises(RuntimeError, match="swapped in"):
        averages[0].state()
    with pytest.raises(RuntimeError, match="swapped in"):
        averages[0].load_state({})
    averages[0].swap_out()
    state = averages[0].state()
    for wrong in ({**state, "decay": np.array(0.5)}, {**state, "average:/W": np.zeros(2)}, {**state, "average:/X": np.zeros(2)}, {}):
        with pytest.raises(ValueError, match=r"^MovingAverage: "):
            averages[0].load_state(wrong)
    assert equal(averages[0].state(), state)


# ---- one process -----------------------------------------------------------------------------------------------------------------------


def names(folder):
    return sorted(re.sub(r"checkpoint-0*(\d+)-step-(\d+).safetensors", r"\1:\2", path.name) for path in folder.iterdir())


def test_the_last_ones_are_kept_and_the_newest_good_one_wins(tmp_path, capfd):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path / "new" / "run", m, trainer, keep=2)
    folder = tmp_path / "new" / "run"
    assert not checkpointer.resume() and names(folder) == []
    kept = {}
    (folder / ".checkpoint-000001-step-1.abc.tmp").write_text("of a killed save")
    checkpointer = parallel.Checkpointer(folder, m, trainer, keep=2)
    for _ in range(4):
        train(m, trainer)
        assert checkpointer.save() and checkpointer.step == trainer.updates
        kept[trainer.updates] = values(m)
    assert names(folder) == ["3:3", "4:4"]
    assert checkpointer.resume() and equal(values(m), kept[4])
    newest = folder / "checkpoint-000004-step-4.safetensors"
    content = newest.read_bytes()
    for damaged in (content[:100], content[:-1], content[:400] + bytes([content[400] ^ 1]) + content[401:], b""):
        newest.write_bytes(damaged)
        capfd.readouterr()
        assert checkpointer.resume() and trainer.updates == 3 and equal(values(m), kept[3])
        assert re.search(r"checkpoint: passes over '.*checkpoint-000004-step-4.safetensors', which is damaged: its .*", capfd.readouterr().err)
    train(m, trainer, 2)
    checkpointer.save()
    assert checkpointer.resume() and trainer.updates == 5  # the newest, although one with this name was damaged
    for path in folder.iterdir():
        path.write_bytes(b"x")
    with pytest.raises(RuntimeError, match="all are damaged"):
        checkpointer.resume()


def test_a_checkpoint_holds_settings_objects_and_extra(tmp_path):
    def make():
        m = model_of()
        trainer = dy.AdamTrainer(m)
        checkpointer = parallel.Checkpointer(tmp_path, m, trainer)
        second, generator = dy.MomentumSGDTrainer(m), np.random.default_rng(1)
        checkpointer.add("second", second)
        checkpointer.add("generator", generator, per_rank=True)
        critic = model_of(extra=["c"])
        checkpointer.add("critic", critic)
        return m, trainer, checkpointer, second, generator, critic

    m, trainer, checkpointer, second, generator, critic = make()
    W = m.parameters_list()[0]
    trainer.set_clip_threshold(0.5)
    trainer.set_clip_value(0.25)
    trainer.set_sparse_updates(False)
    trainer.set_accumulation(2)
    trainer.skip_nonfinite = True
    trainer.learning_rate = 0.125
    m.set_weight_decay(0.01)
    train(m, trainer, 2)
    train(m, second)
    for _ in range(2):
        dy.renew_cg()
        (dy.sum_elems(W) * float("nan")).backward()
        trainer.update()
    W.set_updated(False)
    generator.random(3)
    checkpointer.extra = {"best": float("inf"), "curve": [1, 2.5], "counts": np.arange(3)}
    assert checkpointer.save()
    following = generator.random()
    n, other, resumed, second_, generator_, critic_ = make()
    train(n, other)
    assert resumed.resume() and resumed.step == 1
    assert (other.get_clip_threshold(), other.get_clip_value(), other.accumulation, other.skipped) == (0.5, 0.25, 2, 1)
    assert (other.learning_rate, other.skip_nonfinite, n.get_weight_decay()) == (0.125, True, 0.01)
    assert not other._settings.sparse and not n.parameters_list()[0].is_updated() and n.lookup_parameters_list()[0].is_updated()
    assert equal(second_.state(), second.state()) and generator_.random() == following
    assert equal(resumed.extra, checkpointer.extra) and equal(values(m), values(n)) and equal(values(critic), values(critic_))


def test_no_checkpoint_while_gradients_wait(tmp_path):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    trainer.set_accumulation(3)
    batches = parallel.shard(range(10), batch_size=2)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer, batches, every=1, keep=9)
    for _ in batches:
        train(m, trainer)
        if batches.position == 3:  # the fourth call
            assert checkpointer.save() is False
    assert names(tmp_path) == ["1:1"]
    train(m, trainer)
    assert checkpointer.save() and names(tmp_path) == ["1:1", "2:2"]
    trainer.set_accumulation(1)
    dy.renew_cg()
    dy.sum_elems(m.parameters_list()[0]).backward()
    assert checkpointer.save() is False  # a user's own accumulation
    trainer.update()
    assert checkpointer.save()


def test_save_within_the_body_counts_the_step_if_it_was_trained(tmp_path):
    m = model_of()
    trainer = dy.AdamTrainer(m)

    def made():
        batches = parallel.shard(range(6), batch_size=2)
        return batches, parallel.Checkpointer(tmp_path, m, trainer, batches)

    def position_after_resume():
        batches, checkpointer = made()
        checkpointer.resume()
        return batches.epoch, batches.position

    batches, checkpointer = made()
    found = []
    for _ in range(2):
        for _ in batches:
            checkpointer.save()
            found.append(position_after_resume())
            train(m, trainer)
            checkpointer.save()
            found.append(position_after_resume())
        checkpointer.save()
        found.append(position_after_resume())
    assert found == [(0, 0), (0, 1), (0, 1), (0, 2), (0, 2), (0, 3), (1, 0), (1, 0), (1, 1), (1, 1), (1, 2), (1, 2), (1, 3), (2, 0)]
    for _ in batches:
        train(m, trainer)
        break
    checkpointer.save()
    assert position_after_resume() == (2, 1)  # in the middle of the epoch
    batches.epoch = 5
    checkpointer.save()
    assert position_after_resume() == (5, 0)


def test_without_a_sampler_saving_ends_an_update(tmp_path):
    m = model_of()
    trainer = dy.CyclicalSGDTrainer(m)  # does something after each update
    average = dy.MovingAverage(trainer)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer, every=2, keep=9)
    assert not checkpointer.resume()
    train(m, trainer, 4)
    state = trainer.state(), average.state(), values(m)
    assert names(tmp_path) == ["1:0", "2:2", "3:4"]
    train(m, trainer, 1)
    assert checkpointer.resume() and equal((trainer.state(), average.state(), values(m)), state)
    with pytest.raises(RuntimeError, match="swapped in"), average.applied():
        checkpointer.save()


def test_time_is_a_period(tmp_path):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    parallel.Checkpointer(tmp_path / "often", m, trainer, every="0.000001 s", keep=9)
    train(m, trainer, 3)
    assert names(tmp_path / "often") == ["1:1", "2:2", "3:3"]
    trainer = dy.AdamTrainer(m)
    parallel.Checkpointer(tmp_path / "seldom", m, trainer, every="2h")
    train(m, trainer, 3)
    assert not (tmp_path / "seldom").exists()


@pytest.fixture
def _usr1_as_before():
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_usr1_as_before")
def test_usr1_saves_at_the_next_step_and_the_handler_of_before_is_called(tmp_path):
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append("before"))
    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer)
    train(m, trainer)
    assert not tmp_path.joinpath("x").exists() and names(tmp_path) == []
    os.kill(os.getpid(), signal.SIGUSR1)
    assert heard == ["before"] and names(tmp_path) == []
    train(m, trainer, 3)
    assert names(tmp_path) == ["1:2"] and checkpointer.step == 2


def test_other_readers_find_the_parameters_in_a_checkpoint(tmp_path):
    m, n = model_of(), model_of()
    m.set_weight_decay(0.1)
    trainer, other = dy.AdamTrainer(m), dy.AdamTrainer(n)
    train(m, trainer)
    parallel.Checkpointer(tmp_path, m, trainer).save()
    report = dy.load_safetensors(n, tmp_path / "checkpoint-000001-step-1.safetensors", strict=False, trainer=other)
    assert equal(values(n), values(m)) and not report.missing and equal(other.state(), trainer.state())


def test_progress_is_told_to_the_launcher(tmp_path, monkeypatch, capfd):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path / "run", m, trainer, every=2)
    monkeypatch.setenv("DIST_DYNET_PROGRESS", str(tmp_path / "progress"))
    checkpointer.resume()
    train(m, trainer, 5)
    assert (tmp_path / "progress").read_text() == "0\n2\n4\n"
    monkeypatch.setenv("DIST_DYNET_PROGRESS", str(tmp_path / "none" / "progress"))
    assert checkpointer.save()
    assert "could not write to DIST_DYNET_PROGRESS" in capfd.readouterr().err


def test_another_program_is_refused_by_name(tmp_path):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    train(m, trainer)
    parallel.Checkpointer(tmp_path, m, trainer).save()

    def resume(model, trainer=None, sampler=None, change=lambda checkpointer: None):
        checkpointer = parallel.Checkpointer(tmp_path, model, trainer or dy.AdamTrainer(model), sampler)
        change(checkpointer)
        before = values(model)
        with pytest.raises(ValueError, match=r"^checkpoint checkpoint-000001-step-1.safetensors: ") as caught:
            checkpointer.resume()
        assert equal(values(model), before)
        return str(caught.value)

    assert '"/W" (3, 2) of float32, in the model (3, 4)' in resume(model_of((3, 4))).replace("float64", "float32")
    assert 'got none of "/new" (2,)' in resume(model_of(extra=["new"]))
    less = dy.ParameterCollection()
    less.add_parameters((3, 2), name="W")
    assert '"/E" (5, 3) is missing' in resume(less)
    same = model_of()
    assert "must be of a SimpleSGDTrainer; got one of AdamTrainer" in resume(same, dy.SimpleSGDTrainer(same))
    assert "whether there is a sampler" in resume(same, sampler=shard())
    assert "names of added objects" in resume(same, change=lambda c: c.add("x", np.random.default_rng(), per_rank=True))
    assert "names of added objects" in resume(same, change=lambda c: c.add("x", np.random.default_rng()))
    averaged = dy.AdamTrainer(same)
    average = dy.MovingAverage(averaged)
    assert "number of moving averages" in resume(same, averaged) and average.state()["calls"] == 0


def test_arguments_are_checked(tmp_path):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    with pytest.raises(TypeError, match="float"):
        parallel.Checkpointer(tmp_path, m, trainer, every=1.5)
    for every in (0, -1, "x", "5", "5 days", "0s"):
        with pytest.raises(ValueError, match="every must be a number of updates, a time such as"):
            parallel.Checkpointer(tmp_path, m, trainer, every=every)
    for arguments, words in (
        ({"keep": 0}, "keep must be 1 or more; got 0"),
        ({"every": "epoch"}, "needs a sampler"),
        ({"model": dy.ParameterCollection()}, "model must have all parameters that are trained; got one without /W"),
    ):
        with pytest.raises(ValueError, match=words):
            parallel.Checkpointer(**{"directory": tmp_path, "model": m, "trainer": trainer, **arguments})
    for arguments in ({"model": 3}, {"trainer": 3}, {"sampler": [1]}):
        with pytest.raises(TypeError, match=f"^Checkpointer: {next(iter(arguments))} must be"):
            parallel.Checkpointer(**{"directory": tmp_path, "model": m, "trainer": trainer, **arguments})
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer)
    checkpointer.add("x", trainer)
    with pytest.raises(ValueError, match="names must differ; got 'x' twice"):
        checkpointer.add("x", trainer)
    with pytest.raises(TypeError, match="takes objects with state"):
        checkpointer.add("y", random.Random(1))
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        parallel.Checkpointer(tmp_path / "file", m, trainer).resume()


# ---- runs that are killed --------------------------------------------------------------------------------------------------------------


class Run:
    """A run of tests/mpi/resume.py; alone, or with mpirun."""

    def __init__(self, ranks, folder, **options):
        arguments = [str(folder), *(f"{name}={value}" for name, value in options.items())]
        if ranks > 1:
            self.job = start(ranks, "resume.py", *arguments)
        else:
            self.job = Job([sys.executable, "resume.py", *arguments], environment_of(sys.executable), stderr=subprocess.STDOUT)
        self.ranks, self.output = ranks, ""

    def started(self):
        """The processes' ids by rank, when all are about to train."""
        while len(found := dict(re.findall(r"rank=(\d) process=(\d+)", self.output))) < self.ranks:
            line = self.job.process.stdout.readline()
            assert line, self.output
            self.output += line
        return {int(rank): int(process) for rank, process in found.items()}

    def end(self):
        """Exit status."""
        status, rest, _, _ = self.job.end()
        self.output += rest
        return status


def run(ranks, folder, status=0, **options):
    """What a run has come to."""
    this = Run(ranks, folder, **options)
    ended = this.end()
    assert (ended == 0) == (status == 0), this.output
    return this.output


def end_of(folder):
    with np.load(folder / "end.npz") as file:
        return dict(file)


TWO = pytest.param(2, marks=[pytest.mark.mpi, needs_mpi])
RANKS = pytest.mark.parametrize("ranks", [1, TWO])
CASES = {
    "middle": {"die": 10},
    "middle, while": {"die": 10, "loop": "while"},
    "first step": {"die": 0},
    "behind the loop": {"die": 12, "where": "behind", "every": 6},
    "behind the loop, epochs": {"die": 18, "where": "behind", "every": "epoch"},
    "signal": {"die": 9, "every": "epoch", "usr1": 7},
    "average": {"die": 10, "average": "yes"},
    "accumulation": {"die": 10, "accumulate": 2},
    "compression": {"die": 10, "compression": "bf16"},
    "time": {"die": 15, "every": "0.01s", "keep": 1},
}
ON_TWO = ("middle", "behind the loop, epochs", "signal", "accumulation", "compression")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """What a run without checkpoints comes to, by ranks and options; computed once."""
    ends = {}

    def end(ranks, **options):
        key = (ranks, *sorted(options.items()))
        if key not in ends:
            folder = tmp_path_factory.mktemp("undisturbed")
            run(ranks, folder, every="none", **options)
            ends[key] = end_of(folder)
        return ends[key]

    return end


@pytest.mark.parametrize(
    ("ranks", "case"),
    [
        *((1, case) for case in CASES if case != "compression"),
        *(pytest.param(2, case, marks=[pytest.mark.mpi, needs_mpi]) for case in ON_TWO),
    ],
)
def test_killed_run_goes_on_to_the_same_bits(ranks, case, tmp_path, undisturbed):
    options = {**CASES[case]}
    rank = ranks - 1
    deadly = {name: f"{options.pop(name)}:{rank}" for name in ("die", "usr1") if name in options} | {"where": options.pop("where", "body")}
    run(ranks, tmp_path, status="killed", **options, **deadly)
    output = run(ranks, tmp_path, **options)
    assert output.count("resumed=True") == ranks
    if case == "signal":
        assert output.count("step=8\n") == ranks  # steps count from 0
    if case == "first step":
        assert output.count("step=0\n") == ranks
    model = {name: options[name] for name in ("average", "accumulate", "compression") if name in options}
    assert equal(end_of(tmp_path), undisturbed(ranks, **model))


@RANKS
def test_run_killed_at_random_moments_goes_on_to_the_same_bits(ranks, tmp_path, rng, undisturbed):
    kills = 0
    for _ in range(6 if ranks == 1 else 3):
        this = Run(ranks, tmp_path, every=1, rest=0.01)  # trains for 0.24 s at least
        processes = this.started()
        time.sleep(rng.uniform(0, 0.1))
        with suppress(ProcessLookupError):  # a later one may have come to its end
            os.kill(processes[int(rng.integers(ranks))], signal.SIGKILL)
        kills += this.end() != 0
    assert kills and run(ranks, tmp_path, every=1).count("resumed=True") == ranks
    assert equal(end_of(tmp_path), undisturbed(ranks))


def test_restarted_job_goes_on_to_the_same_bits(python, tmp_path, undisturbed):
    job = launch(python, "run", "-n", 2, "--max-restarts", 1, "resume.py", tmp_path, "die=13:1")
    assert job.returncode == 0 and job.stdout.count("resumed=True step=12") == 2, job.stdout + job.stderr
    assert equal(end_of(tmp_path), undisturbed(2))


@pytest.mark.mpi
@needs_mpi
def test_usr1_to_mpirun_makes_all_ranks_save_once(tmp_path, undisturbed):
    this = Run(2, tmp_path / "told", every="epoch", rest=0.03, epochs=2, keep=9)
    this.started()
    time.sleep(0.05)
    this.job.process.send_signal(signal.SIGUSR1)
    assert this.end() == 0, this.output
    steps = [name.split(":")[1] for name in names(tmp_path / "told") if name != "end.npz"]
    assert len({*steps} - {"0", "6", "12"}) <= 1 and len(steps) in (4, 5)  # the ranks may hear it one step apart
    assert equal(end_of(tmp_path / "told"), undisturbed(2, epochs=2))


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_resume_with_another_number_of_ranks(before, after, tmp_path):
    run(before, tmp_path, status="killed", die="10:0")
    output = run(after, tmp_path)
    assert output.count("resumed=True step=9") == after
    end = end_of(tmp_path)
    assert end["trainer updates"] == 24 and end["settings"][-2:].tolist() == [4, 0]
    assert len(np.unique(end["draws"])) == end["draws"].size == 4 * after


WRONG = {
    "save on 0 alone": (75, "wait for one another in different places.*checkpoint"),
    "save on 1 alone": (75, "wait for one another in different places.*checkpoint"),
    "resume on 1 alone": (75, "wait for one another in different places.*resume"),
    "last save on 0 alone": (76, r"checkpoint .*: waits for rank 1 .*, which left the program"),
    "unlike places": (1, r"all ranks must be at one place; got update, epoch, position \[5\] on rank 1, \[4\] on rank 0"),
    "bad extra": (1, "TypeError: checkpoint: .*; got object at extra:here:deep"),
    "no MPI trainer": (1, "with 2 ranks trainer must be a DistributedTrainer; got AdamTrainer"),
}


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("how", WRONG)
def test_what_is_wrong_on_several_ranks_is_named(how, tmp_path):
    status, output, _ = mpirun(2, "checkpoint.py", tmp_path, how, DIST_DYNET_SILENCE="1")
    expected, words = WRONG[how]
    assert status == expected and re.search(words, output), output


def test_full_disks_and_damaged_files_end_no_job(mpi, tmp_path):
    status, output, _ = mpirun(2, "checkpoint.py", tmp_path, "full disk", "damaged", "unlike extra", "join", mpi=mpi)
    assert status == 0, output
    for rank in range(2):
        assert re.search(rf"rank {rank}: \[Errno 27\] checkpoint: the file must be .*full disk/checkpoint-000002-step-4", output), output
    damaged = re.findall("passes over '.*damaged/checkpoint-000002-step-4.*', which is damaged", output)
    assert len(damaged) == 1 and len(output.splitlines()) == 3, output
