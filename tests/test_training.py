"""Training runs: bar, metrics, the best model, entities. How long: three seconds."""

import json
import math
import sys
import time

import numpy as np
import pytest
from jobs import mpirun, needs_mpi

import dist_dynet as dy
from dist_dynet import training
from dist_dynet.parallel.processes import spans


def made():
    m = dy.ParameterCollection()
    return m, m.add_parameters(2, init=1)


def step(w, trainer, run=None):
    dy.renew_cg()
    loss = dy.squared_norm(w)
    value = loss.value()
    if run:
        run.log(loss=value)
    loss.backward()
    trainer.update()
    return value


def lines_of(file):
    return [json.loads(text) for text in file.read_text().splitlines()]


def summaries_of(file):
    """The events of one of TensorBoard's files: records of a length, its sum, data, their sum."""
    from tensorboardX.proto.event_pb2 import Event

    content, events = file.read_bytes(), []
    while content:
        end = 12 + int.from_bytes(content[:8], "little")
        events.append(Event.FromString(content[12:end]))
        content = content[end + 4 :]
    return events


@pytest.mark.parametrize("wrapped", [False, True])
def test_lines_have_what_was_logged_and_the_rate(tmp_path, wrapped):
    m, w = made()
    trainer = dy.SimpleSGDTrainer(m)
    if wrapped:
        trainer = dy.parallel.DistributedTrainer(trainer)
    file = tmp_path / "folder" / "metrics.jsonl"
    run = training.Run(trainer, file, every=2)
    values = []
    for epoch in (1, 2):
        for _ in run.epoch([[1, 2], [3, 4], [5]]):
            values.append(step(w, trainer, run))
        first, second, third = values[-3:]
        wanted = (2 * first + 2 * second + third) / 5
        assert math.isclose(run.means()["loss"], wanted, rel_tol=1e-6)
        run.write(dev_accuracy=epoch / 2)
    lines = lines_of(file)
    assert [(line["update"], line["updates"]) for line in lines] == [(2, 1), (3, 1), (5, 2), (6, 1)]
    assert [line.get("dev_accuracy") for line in lines] == [None, 0.5, None, 1.0]
    assert math.isclose(lines[2]["loss"], np.mean(values[3:5]), rel_tol=1e-6)
    assert all(line["rate"] > 0 and line["gradient_norm"] > 0 for line in lines)
    assert lines[0]["learning_rate"] == trainer.learning_rate


def test_a_line_may_come_without_an_update(tmp_path):
    m, w = made()
    trainer, file = dy.SimpleSGDTrainer(m), tmp_path / "m.jsonl"
    run = training.Run(trainer, file)
    run.write(accuracy=0.25)
    step(w, trainer)
    run.write()
    run.write(test_accuracy=0.5)
    assert [line["updates"] for line in lines_of(file)] == [0, 1, 0]


def test_lines_of_the_launcher_and_of_the_program_are_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(spans, "METRICS", str(tmp_path / "launcher"))
    m, w = made()
    trainer = dy.SimpleSGDTrainer(m)
    spans.follow_alone(trainer)
    run = training.Run(trainer, tmp_path / "program", every=1)
    for _ in run.epoch(range(4)):
        step(w, trainer, run)
    assert len(lines_of(tmp_path / "program")) == 3
    assert lines_of(tmp_path / "program") == lines_of(tmp_path / "launcher")


def test_events_are_those_of_the_lines(tmp_path):
    pytest.importorskip("tensorboardX")
    m, w = made()
    trainer = dy.SimpleSGDTrainer(m)
    folder = tmp_path / "a" / "b"
    run = training.Run(trainer, tmp_path / "m.jsonl", tensorboard=folder, every=1)
    for update in range(1, 5):
        for _ in run.epoch([0]):
            step(w, trainer, run)
        (file,) = folder.iterdir()
        assert file.read_bytes().count(b"gradient_norm") == update - 1  # before anything is closed
    events = [event for event in summaries_of(file) if event.summary.value]
    found = {(event.step, v.tag): v.simple_value for event in events for v in event.summary.value}
    for line in lines_of(tmp_path / "m.jsonl"):
        for name in ("loss", "learning_rate", "gradient_norm", "rate", "wall"):
            assert found[line["update"], name] == np.float32(line[name])


@pytest.mark.parametrize("of", ["metrics", "tensorboard"])
def test_a_run_that_cannot_write_says_so_and_changes_nothing(tmp_path, of):
    if of == "tensorboard":
        pytest.importorskip("tensorboardX")
    m, w = made()
    trainer, good = dy.SimpleSGDTrainer(m), tmp_path / "m.jsonl"
    (tmp_path / "file").touch()
    report = spans.report_on(trainer)
    before = report.further, list(report._sinks), report._every
    for bad in tmp_path / "file" / "folder" / "m", "/proc/none/m":
        words = rf"Run: the folder of {of}= must be one that .*; got: .* Give {of}= another: "
        with pytest.raises(OSError, match=words):
            training.Run(trainer, **{"metrics": good, of: bad}, every=1)
        assert (report.further, report._sinks, report._every) == before
    training.Run(trainer, good, every=1)
    for _ in range(3):
        step(w, trainer)
    assert [line["update"] for line in lines_of(good)] == [2, 3]


def test_two_runs_of_one_second_have_their_own_events(tmp_path):
    pytest.importorskip("tensorboardX")
    for _ in range(2):
        m, w = made()
        trainer = dy.SimpleSGDTrainer(m)
        run = training.Run(trainer, tensorboard=tmp_path)
        step(w, trainer, run)
        run.write()
    assert all(b"loss" in file.read_bytes() for file in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 2


def test_events_need_their_writer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    m, _ = made()
    with pytest.raises(ModuleNotFoundError, match="pip install tensorboardX"):
        training.Run(dy.SimpleSGDTrainer(m), tensorboard=tmp_path)
    with pytest.raises(ValueError, match="every must be 1 or more; got 0"):
        training.Run(dy.SimpleSGDTrainer(m), every=0)


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_the_bar_shows_epoch_loss_and_rate(monkeypatch, capsys, with_tqdm):
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    m, w = made()
    trainer = dy.SimpleSGDTrainer(m)
    batches = dy.parallel.shard(range(8), batch_size=2, epoch=3)
    run = training.Run(trainer, bar=True)
    for _ in run.epoch(batches):
        run.log(loss=0.5)
        step(w, trainer)
        time.sleep(0.11)  # as often as tqdm shows anything
    shown = capsys.readouterr().err
    assert "epoch 3" in shown and "3/4" in shown
    assert "loss 0.5" in shown and "examples/s" in shown


@pytest.mark.parametrize(
    ("bars", "bar", "wanted"),
    [("", None, False), ("1", None, True), ("0", True, True), ("1", False, False)],
)
def test_a_launcher_asks_for_the_bar(monkeypatch, capsys, bars, bar, wanted):
    monkeypatch.setenv("DIST_DYNET_BARS", bars)
    m, _ = made()
    run = training.Run(dy.SimpleSGDTrainer(m), bar=bar)
    assert list(run.epoch([[1], [2]], "reading")) == [[1], [2]]
    assert ("reading" in capsys.readouterr().err) == wanted


def test_the_n_that_a_program_sets_weighs_what_it_logs():
    m, _ = made()
    run, tokens = training.Run(dy.SimpleSGDTrainer(m)), [3.0, 1.0]
    for batch in run.epoch(dy.parallel.shard([1, 2, 3, 4], batch_size=2)):
        batch.n = tokens[batch.step]
        run.log(loss=batch.step)
    assert run.means() == {"loss": 0.25}
    run.log(loss=1.0)  # behind the loop: with the last weight
    assert run.means() == {"loss": 0.4}


def test_what_is_logged_must_be_numbers(tmp_path):
    m, _ = made()
    run = training.Run(dy.SimpleSGDTrainer(m), tmp_path / "m.jsonl")
    for given, values in ((), {"x": 1, "loss": None}), ((), {"loss": "a"}), (("a",), {"loss": 9}):
        with pytest.raises(TypeError, match=r"log: .* must be a number; got"):
            run.log(*given, **values)
    assert run.means() == {}
    run.write()
    run.log(3, loss=1.0)
    run.log(1, loss=5.0)
    run.write()
    first, second = lines_of(tmp_path / "m.jsonl")
    assert "x" not in first and "loss" not in first and second["loss"] == 3.0
    assert run.means() == {"loss": 2.0}


def test_a_run_that_resumes_goes_on_with_its_means(tmp_path):
    def train(until):
        dy.reset_random_seed(1)
        m, w = made()
        trainer = dy.SimpleSGDTrainer(m)
        batches = dy.parallel.shard(range(8), batch_size=2, seed=1, epoch=1)
        run = training.Run(trainer, tmp_path / "m.jsonl", every=1)
        best = training.Best(m, tmp_path / "best", lower=True)
        checkpointer = dy.parallel.Checkpointer(tmp_path / "c", m, trainer, batches, every=1)
        checkpointer.add("run", run, per_rank=True)
        checkpointer.add("best", best)
        checkpointer.resume()
        for _ in run.epoch(batches):
            if trainer.updates == until:
                return None
            step(w, trainer, run)
            best.update(1.0)
        return run.means()["loss"], best.count, [line["attempt"] for line in lines_of(file)]

    file = tmp_path / "m.jsonl"
    whole = train(None)
    file.unlink()
    for path in (tmp_path / "c").iterdir():
        path.unlink()
    assert train(2) is None
    resumed = train(None)
    assert math.isclose(resumed[0], whole[0], rel_tol=1e-6)
    assert set(whole[2]) == {0} and sorted(set(resumed[2])) == [0, 1]


# ---- the best --------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["memory", "file"])
def test_the_best_is_kept_and_comes_back(tmp_path, where):
    m, w = made()
    best = training.Best(m, None if where == "memory" else tmp_path / "a" / "model", patience=2)
    with pytest.raises(RuntimeError, match="there was no score"):
        best.restore()
    told = []
    for score in (1.0, 3.0, 3.0, math.nan):
        w.set_value([score if score == score else 9] * 2)
        if len(told) == 2:
            w.set_value([7, 7])
        told.append((best.update(score), best.is_over))
    assert told == [(True, False), (True, False), (False, False), (False, True)]
    assert (best.score, best.number, best.count) == (3.0, 2, 4)
    w.set_gradient([1, 2])
    best.restore()
    assert w.as_array().tolist() == [3, 3] and w.grad_as_array().tolist() == [1, 2]


def test_lower_may_be_better():
    m, _ = made()
    best = training.Best(m, lower=True)
    assert [best.update(score) for score in (2.0, 3.0, 2.0, 1.0)] == [True, False, False, True]
    assert not best.is_over


@pytest.mark.parametrize("where", ["memory", "file"])
def test_objects_are_kept_by_dy_save(tmp_path, where):
    m = dy.ParameterCollection()
    layers = [dy.Linear(2, 1, m), dy.MLP([2, 3, 1], m)]
    best = training.Best(layers, None if where == "memory" else tmp_path / "model")
    before = [p.as_array() for p in m.parameters_list()]
    best.update(1)
    for p in m.parameters_list():
        p.set_value(p.as_array() + 1)
        p.set_gradient(p.as_array())
    gradients = [p.grad_as_array() for p in m.parameters_list()]
    best.restore()
    left = [p.grad_as_array() for p in m.parameters_list()]
    assert all((a == b).all() for a, b in zip(left, gradients, strict=True))
    after = [p.as_array() for p in m.parameters_list()]
    assert all(np.allclose(a, b, rtol=1e-6) for a, b in zip(before, after, strict=True))
    if where == "file":
        assert len(dy.load(tmp_path / "model", dy.ParameterCollection())) == 2


def test_parameters_that_are_added_are_part_of_the_next_best():
    m = dy.ParameterCollection()
    w, layers = m.add_parameters(1, init=0), [m, dy.ParameterCollection()]
    for kept in (m, [dy.Linear(1, 1, m), dy.Linear(1, 1, layers[1])]):
        best = training.Best(kept)
        best.update(1)
        w.set_value([5])
        late = (m if kept is m else kept[1].param_collection()).add_parameters(1, init=2)
        before = [p.as_array() for c in layers for p in c.parameters_list()]
        with pytest.raises(RuntimeError, match=r"some were added since then\. Give update"):
            best.restore()
        after = [p.as_array() for c in layers for p in c.parameters_list()]
        assert all(map(np.array_equal, before, after))
        assert best.update(2) and best.score == 2
        late.set_value([9])
        best.restore()
        assert late.as_array().tolist() == [2]


def test_a_best_that_cannot_be_kept_is_none(tmp_path):
    m, w = made()
    best = training.Best(m, tmp_path / "model")
    w.set_value([3, 3])
    assert best.update(0.5)
    (tmp_path / "model").unlink()
    (tmp_path / "model").mkdir()
    with pytest.raises(RuntimeError, match="Is a directory"):
        best.update(0.7)
    (tmp_path / "model").rmdir()
    assert (best.score, best.number, best.count) == (0.5, 1, 1)
    assert best.update(0.6) and best.number == 2


def test_the_best_of_a_folder_that_cannot_be_made_is_none(tmp_path):
    m, _ = made()
    (tmp_path / "file").touch()
    for file in tmp_path / "file" / "model", "/proc/none/model":
        best = training.Best(m, file)
        with pytest.raises(RuntimeError, match=r"^save: could not write .* Check the folder"):
            best.update(1)
        assert (best.score, best.count) == (None, 0)


def test_a_file_of_objects_that_fit_no_more_restores_none_of_them(tmp_path):
    m, others = dy.ParameterCollection(), dy.ParameterCollection()
    layers = [dy.Linear(2, 1, m), dy.Linear(1, 2, others)]
    best = training.Best(layers, tmp_path / "model")
    best.update(1)
    every = [*m.parameters_list(), *others.parameters_list()]
    for p in every:
        p.set_value(p.as_array() + 1)
    before = [p.as_array() for p in every]
    layers[1].param_collection().add_parameters(1)
    with pytest.raises(RuntimeError, match=r"some were added since then\. Give update"):
        best.restore()
    assert all(map(np.array_equal, before, [p.as_array() for p in every]))


class NoCollection:
    def param_collection(self):
        return None


def test_the_best_refuses_what_it_cannot_keep(tmp_path):
    m, _ = made()
    for patience in (0, math.nan):
        with pytest.raises(ValueError, match="patience must be 1 or more"):
            training.Best(m, patience=patience)
    with pytest.raises(TypeError, match="got int"):
        training.Best(3)
    in_memory, in_file = training.Best(m), training.Best(m, tmp_path / "model")
    for best, other in ((in_memory, in_file), (in_file, in_memory)):
        other.update(1)
        with pytest.raises(ValueError, match=r"best values of \d models, .*; got \d\. Make it as"):
            best.load_state(other.state())
    assert in_memory.count == in_file.count == 1
    in_file.load_state({"score": 2.0, "number": 1, "count": 4})  # as earlier versions wrote it
    assert in_file.count == 4
    nowhere = training.Best([NoCollection()])
    for score in 1, 2:
        with pytest.raises(TypeError, match=r"^training\.Best: NoCollection must have a method"):
            nowhere.update(score)
    assert (nowhere.score, nowhere.count) == (None, 0)


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_best_goes_on_bit_for_bit_wherever_the_run_is_stopped(tmp_path, where, rng):
    numbers, scores = rng.random((6, 2, 3)), [0.5, 0.2, 0.7, 0.7, 0.9, 0.1]

    def run(stop, folder):
        m, other = dy.ParameterCollection(), dy.ParameterCollection()
        w, table = m.add_parameters((2, 3), name="W"), m.add_lookup_parameters((2, 3), init=1)
        other.add_parameters((2, 3), name="V").set_updated(False)
        m.set_weight_decay(0.1)
        trainer = dy.SimpleSGDTrainer(m)
        in_memory = where == "memory"
        best = training.Best([m, other]) if in_memory else training.Best(m, folder / "best")
        checkpointer = dy.parallel.Checkpointer(folder, m, trainer)
        checkpointer.add("best", best)
        checkpointer.add("other", other)
        checkpointer.resume()
        for score in scores[best.count : stop]:
            step = best.count
            for p in w, *other.parameters_list():
                p.set_value(numbers[step])
            table.init_from_array(numbers[step])
            table.set_gradient(numbers[step])
            trainer.update()
            best.update(score)
        checkpointer.save()
        w.zero()
        if stop is None:
            best.restore()
        return [p.as_array().tobytes() for p in (w, table, *other.parameters_list())]

    whole = run(None, tmp_path / "whole")
    for stop in range(len(scores)):
        run(stop, tmp_path / f"{stop}")
        assert run(None, tmp_path / f"{stop}") == whole, stop


@pytest.mark.mpi
@needs_mpi
def test_the_best_of_several_ranks_has_one_score():
    assert mpirun(2, "best.py")[:2] == (0, "ok\n")


# ---- entities --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("", []),
        ("O O", []),
        ("B-A", [(0, 1, "A")]),
        ("B-A I-A O I-A", [(0, 2, "A"), (3, 4, "A")]),
        ("B-A B-A I-B", [(0, 1, "A"), (1, 2, "A"), (2, 3, "B")]),
        ("I-X-Y I-X-Y", [(0, 2, "X-Y")]),
        ("B I O I B B I", [(0, 2, ""), (3, 4, ""), (4, 5, ""), (5, 7, "")]),
    ],
)
def test_entities_of_tags(tags, wanted):
    assert sorted(training.entities(tags.split())) == wanted


@pytest.mark.parametrize("tag", ["S-PER", "E-PER", "U-PER", "L-PER", "M-PER", "b-PER"])
def test_tags_of_other_schemes_are_refused(tag):
    message = f"takes BIO tags: O, B-CLASS, I-CLASS; got '{tag}'. Write B- for S- and U-, and"
    for gold, guessed in (["O", tag], ["B-PER", "O"]), (["O", "O"], ["O", tag]):
        with pytest.raises(ValueError, match=f"^entity_scores: {message}"):
            training.entity_scores([gold], [guessed])
    with pytest.raises(ValueError, match=f"^entities: {message}"):
        training.entities([tag])


def test_scores_are_those_of_seqeval(rng):
    seqeval = pytest.importorskip("seqeval.metrics")
    names = ["O", "B-A", "I-A", "B-B", "I-B"]
    gold, guessed = (
        [[names[k] for k in rng.integers(5, size=n)] for n in range(1, 30)] for _ in range(2)
    )
    ours = training.entity_scores(gold, guessed)
    theirs = [
        getattr(seqeval, f"{name}_score")(gold, guessed) for name in ("precision", "recall", "f1")
    ]
    assert np.allclose(ours, theirs)


def test_scores_without_entities_are_zero():
    assert training.entity_scores([["O"]], [["O"]]) == (0, 0, 0)
    with pytest.raises(ValueError, match="2 gold tags and 1 guessed"):
        training.entity_scores([["O", "O"]], [["O"]])
    with pytest.raises(ValueError, match="got 2 gold ones and 1 guessed"):
        training.entity_scores([["O"], ["O"]], [["O"]])
    for sentence in "B-A O", [1], None:
        with pytest.raises(TypeError, match="tags of a sentence must be texts in a list"):
            training.entity_scores([["O", "O"]], [sentence])
