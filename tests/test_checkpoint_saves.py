"""Checkpointer in one process: saves that fail."""

import resource
import warnings
from pathlib import Path

import pytest
from checkpoints import model_of, names, train

import dist_dynet as dy
from dist_dynet import parallel


@pytest.fixture
def full_disk():
    """A switch: with True, files may have ten thousand bytes at most."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def switch(on):
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000 if on else limits[0], limits[1]))

    yield switch
    switch(False)


def larger():
    m = model_of((3, 2))
    m.add_parameters((100, 100), name="large")
    return m


@pytest.mark.parametrize("every", [2, "epoch"])
def test_save_that_fails_is_a_warning_and_tried_again_at_the_next_period(
    every, tmp_path, full_disk
):
    m = larger()
    trainer = dy.AdamTrainer(m)
    batches = parallel.shard(range(4), batch_size=2)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer, batches, every=every)
    assert not checkpointer.resume()
    for epoch in range(4):
        full_disk(epoch in (1, 2))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in batches:
                train(m, trainer)
        assert [str(w.message)[:31] for w in caught] == [
            "checkpoint: a save has failed (" for _ in range(epoch in (1, 2))
        ]
        assert all(warning.filename == __file__ for warning in caught)
        # each epoch has two updates, after which there was one attempt
        assert names(tmp_path)[-1].endswith(f":{(0, 2, 2, 2, 8)[epoch + 1]}")
    assert checkpointer.resume() and trainer.updates == checkpointer.step == 8


def test_save_by_the_program_raises(tmp_path, full_disk):
    m = larger()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path / "a", m, trainer)
    train(m, trainer)
    full_disk(True)
    with pytest.raises(OSError, match="could not be written: File too large"):
        checkpointer.save()


def test_directory_that_cannot_be_made_is_an_error(tmp_path):
    m = model_of()
    (tmp_path / "file").write_text("")
    for folder in tmp_path / "file", tmp_path / "file" / "x":
        with pytest.raises((FileExistsError, NotADirectoryError)):
            parallel.Checkpointer(folder, m, dy.AdamTrainer(m), every=1).resume()


def test_lost_answer_to_a_rename_that_was_done_is_no_failure(tmp_path, monkeypatch):
    rename = Path.replace

    def lost(path, target):
        rename(path, target)
        raise FileNotFoundError(2, "No such file or directory")

    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer)
    checkpointer.resume()
    assert checkpointer.save()
    monkeypatch.setattr(Path, "replace", lost)
    train(m, trainer)
    assert checkpointer.save() and names(tmp_path) == ["1:0", "2:1"]
    monkeypatch.setattr(Path, "replace", lambda *_: rename(Path("none"), Path("nothing")))
    with pytest.raises(OSError, match="No such file"):
        checkpointer.save()
