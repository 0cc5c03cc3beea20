"""Checkpointer in one process: when it saves, what a checkpoint holds, which one a resumed run
takes, what is refused."""

import os
import random
import re
import signal

import numpy as np
import pytest
from checkpoints import equal, model_of, names, shard, train, values
from processes import output_of
from table_followers import follow_all

import dist_dynet as dy
from dist_dynet import parallel


def test_the_last_ones_are_kept_and_the_newest_good_one_wins(tmp_path, capfd):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path / "new" / "run", m, trainer, keep=2)
    folder = tmp_path / "new" / "run"
    assert not checkpointer.resume() and not folder.exists()
    folder.mkdir(parents=True)
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
    for damaged in (
        content[:100],
        content[:-1],
        content[:400] + bytes([content[400] ^ 1]) + content[401:],
        b"",
    ):
        newest.write_bytes(damaged)
        capfd.readouterr()
        assert checkpointer.resume() and trainer.updates == 3 and equal(values(m), kept[3])
        assert re.search(
            r"checkpoint: passes over '.*checkpoint-000004-step-4.safetensors', which is damaged:"
            r" its .*",
            capfd.readouterr().err,
        )
    train(m, trainer, 2)
    checkpointer.save()
    # the newest, although one with this name was damaged
    assert checkpointer.resume() and trainer.updates == 5
    for path in folder.iterdir():
        path.write_bytes(b"x")
    with pytest.raises(RuntimeError, match=r"none of the 2 files in .* is whole"):
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
    assert (
        other.get_clip_threshold(),
        other.get_clip_value(),
        other.accumulation,
        other.skipped,
    ) == (0.5, 0.25, 2, 1)
    assert (other.learning_rate, other.skip_nonfinite, n.get_weight_decay()) == (0.125, True, 0.01)
    assert (
        not other._settings.sparse
        and not n.parameters_list()[0].is_updated()
        and n.lookup_parameters_list()[0].is_updated()
    )
    assert equal(second_.state(), second.state()) and generator_.random() == following
    assert (
        equal(resumed.extra, checkpointer.extra)
        and equal(values(m), values(n))
        and equal(values(critic), values(critic_))
    )


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
    assert found == [
        (0, 0),
        (0, 1),
        (0, 1),
        (0, 2),
        (0, 2),
        (0, 3),
        (1, 0),
        (1, 0),
        (1, 1),
        (1, 1),
        (1, 2),
        (1, 2),
        (1, 3),
        (2, 0),
    ]
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
    average, followers = dy.MovingAverage(trainer), follow_all(trainer)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer, every=2, keep=9)
    assert not checkpointer.resume()
    train(m, trainer, 4)
    everything = {**followers, "average": average, "trainer": trainer}
    state = {name: each.state() for name, each in everything.items()}, values(m)
    assert names(tmp_path) == ["1:0", "2:2", "3:4"]
    train(m, trainer, 1)
    assert checkpointer.resume() and equal(values(m), state[1])
    lost = [type(e) for name, e in everything.items() if not equal(e.state(), state[0][name])]
    assert not lost, f"a resumed run has another state of {lost}"
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


def test_usr1_does_not_kill_a_program_that_is_done(tmp_path):
    """Python sets signals to their defaults before it takes the program's data apart."""
    code = f"""
import os, signal
import dist_dynet as dy

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGUSR1):
        kill(process, number)
        print("got it", flush=True)

m = dy.ParameterCollection()
checkpointer = dy.parallel.Checkpointer({str(tmp_path)!r}, m, dy.SimpleSGDTrainer(m))
late = Late()
"""
    assert output_of(code) == "got it\n"


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
    report = dy.load_safetensors(
        n, tmp_path / "checkpoint-000001-step-1.safetensors", strict=False, trainer=other
    )
    assert (
        equal(values(n), values(m)) and not report.missing and equal(other.state(), trainer.state())
    )


def test_progress_is_reported_to_the_launcher(tmp_path, monkeypatch):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path / "run", m, trainer, every=2)
    monkeypatch.setenv("DIST_DYNET_PROGRESS", str(tmp_path / "progress"))
    assert not checkpointer.resume() and not (tmp_path / "progress").exists()
    train(m, trainer, 5)
    assert checkpointer.resume()
    assert (tmp_path / "progress").read_text() == "0\n2\n4\nresumed 4\n"


def test_another_program_is_refused_by_name(tmp_path):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    train(m, trainer)
    parallel.Checkpointer(tmp_path, m, trainer).save()

    def resume(model, trainer=None, sampler=None, change=lambda checkpointer: None):
        checkpointer = parallel.Checkpointer(
            tmp_path, model, trainer or dy.AdamTrainer(model), sampler
        )
        change(checkpointer)
        before = values(model)
        with pytest.raises(
            ValueError, match=r"^checkpoint checkpoint-000001-step-1.safetensors: "
        ) as caught:
            checkpointer.resume()
        assert equal(values(model), before)
        return str(caught.value)

    assert '"/W" (3, 2) of float32, in the model (3, 4)' in resume(model_of((3, 4))).replace(
        "float64", "float32"
    )
    assert 'got none of "/new" (2,)' in resume(model_of(extra=["new"]))
    less = dy.ParameterCollection()
    less.add_parameters((3, 2), name="W")
    assert '"/E" (5, 3) is missing' in resume(less)
    same = model_of()
    assert re.search(
        r"as in this program, \['SimpleSGDTrainer.*got \['AdamTrainer",
        resume(same, dy.SimpleSGDTrainer(same)),
    )
    assert "whether there is a sampler" in resume(same, sampler=shard())
    assert "added objects" in resume(
        same, change=lambda c: c.add("x", np.random.default_rng(), per_rank=True)
    )
    assert "added objects" in resume(same, change=lambda c: c.add("x", np.random.default_rng()))
    assert re.search(
        "trainers, their constants .* 0.5, .*; got .*AdamTrainer with constants 0.9,",
        resume(same, dy.AdamTrainer(same, beta_1=0.5)),
    )
    averaged = dy.AdamTrainer(same)
    average = dy.MovingAverage(averaged)
    assert "number of moving averages" in resume(same, averaged) and average.state()["calls"] == 0


class Refuses:
    """Has a state, and refuses to load one."""

    def state(self):
        return {"n": 1}

    def load_state(self, state):
        raise ValueError("object: not mine")


def test_what_an_object_refuses_is_an_error_with_the_name_of_the_file(tmp_path):
    m = model_of()
    batches = shard()
    checkpointer = parallel.Checkpointer(tmp_path, m, dy.AdamTrainer(m), batches)
    checkpointer.save()
    for other in shard(data=range(1, 11)), shard(seed=4):
        with pytest.raises(ValueError, match=r"^checkpoint checkpoint-000001-step-0.*: shard: "):
            parallel.Checkpointer(tmp_path, m, dy.AdamTrainer(m), other).resume()
    checkpointer.add("other", Refuses())
    checkpointer.save()
    with pytest.raises(ValueError, match="object: not mine"):
        checkpointer.resume()


def test_arguments_are_checked(tmp_path):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    with pytest.raises(
        TypeError, match=r"^Checkpointer: sizes must be integers; got 2\.5 for keep"
    ):
        parallel.Checkpointer(tmp_path, m, trainer, keep=2.5)
    values_of = (0, -1, 0.0, "", "x", "5", "5 days", "0s", "-1s", "9" * 400 + "h", "\ud800")
    kinds = (1.5, True, False, np.nan, np.inf, b"5s", [5], np.bool_(True), 1j, np.array([1, 2]))
    for error, wrong in ((ValueError, values_of), (TypeError, kinds)):
        for every in wrong:
            with pytest.raises(error, match=r"^Checkpointer: every must be a number of up"):
                parallel.Checkpointer(tmp_path, m, trainer, every=every)
    for arguments, words in (
        ({"keep": 0}, "keep must be 1 or more; got 0"),
        ({"every": "epoch"}, "needs a sampler"),
        (
            {"model": dy.ParameterCollection()},
            "model must have all parameters that are trained; got one without /W",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            parallel.Checkpointer(
                **{"directory": tmp_path, "model": m, "trainer": trainer, **arguments}
            )
    for arguments in ({"model": 3}, {"trainer": 3}, {"sampler": [1]}):
        with pytest.raises(TypeError, match=f"^Checkpointer: {next(iter(arguments))} must be"):
            parallel.Checkpointer(
                **{"directory": tmp_path, "model": m, "trainer": trainer, **arguments}
            )
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer)
    checkpointer.add("x", trainer)
    with pytest.raises(ValueError, match="names must differ; got 'x' twice"):
        checkpointer.add("x", trainer)
    for name, wrong in (("y", random.Random(1)), ("y", None), ("y", Refuses), (None, m), (3, m)):
        with pytest.raises(TypeError, match=r"^Checkpointer\.add: (takes objects|name must)"):
            checkpointer.add(name, wrong)
    assert checkpointer.save()
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        parallel.Checkpointer(tmp_path / "file", m, trainer).resume()
