"""Checkpointer in one process: saves that fail, and saves that are written beside training."""

import errno
import os
import resource
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from checkpoints import equal, model_of, names, train, values

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel.checkpoints import lease


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


@pytest.mark.parametrize("background", [None, True])
@pytest.mark.parametrize("every", [2, "epoch"])
def test_save_that_fails_is_a_warning_and_tried_again_at_the_next_period(
    every, background, tmp_path, full_disk
):
    m = larger()
    trainer = dy.AdamTrainer(m)
    batches = parallel.shard(range(4), batch_size=2)
    checkpointer = parallel.Checkpointer(
        tmp_path, m, trainer, batches, every=every, background=background
    )
    assert not checkpointer.resume()
    for epoch in range(4):
        full_disk(epoch in (1, 2))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in batches:
                train(m, trainer)
            checkpointer._files.wait()
        assert [str(w.message)[:31] for w in caught] == [
            "checkpoint: a save has failed (" for _ in range(epoch in (1, 2))
        ]
        if not background:
            assert all(warning.filename == __file__ for warning in caught)
        # each epoch has two updates, after which there was one attempt
        assert names(tmp_path)[-1].endswith(f":{(0, 2, 2, 2, 8)[epoch + 1]}")
    assert checkpointer.resume() and trainer.updates == checkpointer.step == 8


def test_save_by_the_program_and_required_saves_raise(tmp_path, full_disk):
    m = larger()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path / "a", m, trainer)
    train(m, trainer)
    full_disk(True)
    with pytest.raises(OSError, match="must be written to the end; got: File too large"):
        checkpointer.save()
    parallel.Checkpointer(tmp_path / "b", m, trainer, every=1, required=True)
    with pytest.raises(OSError, match="must be written to the end"):
        train(m, trainer)
    with pytest.raises(ValueError, match="required=True needs to know"):
        parallel.Checkpointer(tmp_path / "b", m, trainer, required=True, background=True)


def test_save_beside_training_is_of_the_moment_it_was_asked_for(tmp_path, monkeypatch, request):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer, every=2, background=True, keep=9)
    checkpointer.resume()
    go_on, flush = threading.Event(), os.fsync
    request.addfinalizer(go_on.set)
    monkeypatch.setattr(os, "fsync", lambda descriptor: go_on.wait() and flush(descriptor))
    checkpointer.extra["list"] = [1]
    train(m, trainer, 2)
    kept = values(m), trainer.state()
    checkpointer.extra["list"].append(2)
    train(m, trainer, 1)  # while the file waits for the disk
    assert not (tmp_path / "checkpoint-000002-step-2.safetensors").exists()
    assert checkpointer.step == 0
    threading.Timer(0.2, go_on.set).start()
    train(m, trainer, 1)  # waits for the first: one at a time
    assert checkpointer.step == 2
    assert checkpointer.save() and names(tmp_path) == ["1:0", "2:2", "3:4", "4:4"]
    for later in ("3", "4"):
        (tmp_path / f"checkpoint-00000{later}-step-4.safetensors").unlink()
    assert checkpointer.resume() and equal((values(m), trainer.state()), kept)
    assert checkpointer.extra["list"] == [1]


def test_large_files_are_written_beside_training_by_default(tmp_path, monkeypatch):
    threads = []
    flush = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda d: threads.append(threading.current_thread().name) or flush(d)
    )
    for name, rows in (("small", 10), ("large", 3_000_000)):
        m = dy.ParameterCollection()
        w = m.add_parameters((rows, 2), init=0)
        trainer = dy.SimpleSGDTrainer(m)
        checkpointer = parallel.Checkpointer(tmp_path / name, m, trainer, every=1)
        dy.renew_cg()
        dy.sum_elems(w).backward()
        trainer.update()
        checkpointer._files.wait()
    assert {*threads} == {"MainThread", "dist_dynet checkpoint"}
    assert threads.index("dist_dynet checkpoint") > threads.index("MainThread")


def test_file_whose_thread_does_not_start_is_written_at_once(tmp_path, monkeypatch):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer, every=1, background=True)
    checkpointer.resume()
    start = threading.Thread.start

    def refuses(thread):
        if thread.name == "dist_dynet checkpoint":
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuses)
        train(m, trainer)
        assert names(tmp_path) == ["1:0", "2:1"]
    train(m, trainer)
    assert checkpointer.save() and names(tmp_path) == ["2:1", "3:2", "4:2"]


@pytest.mark.parametrize("last", ["", "raise ValueError('at the end')"])
def test_end_of_the_program_waits_for_the_file(last, tmp_path):
    code = f"""
import os, time
import dist_dynet as dy
from checkpoints import model_of, train
from dist_dynet import parallel
flush = os.fsync
os.fsync = lambda descriptor: time.sleep(0.5) or flush(descriptor)
m = model_of()
trainer = dy.AdamTrainer(m)
checkpointer = parallel.Checkpointer({str(tmp_path)!r}, m, trainer, every=1, background=True)
train(m, trainer)
assert not any("step" in name for name in os.listdir({str(tmp_path)!r}) if name[0] != ".")
{last}
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode == 0) == (not last) and ("at the end" in run.stderr) == bool(last)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-000001-step-1.safetensors"]


def test_file_server_that_fails_behind_the_file_is_no_failure_of_it(tmp_path, monkeypatch):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    checkpointer = parallel.Checkpointer(tmp_path, m, trainer)
    checkpointer.save()
    train(m, trainer)

    def broken(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(checkpointer._files, "_outlived", broken)
        assert checkpointer.save() and checkpointer.step == 1
    assert names(tmp_path) == ["1:0", "2:1"]
    fsync = os.fsync

    def last(descriptor):  # of the folder, when the file has its name
        fsync(descriptor)
        if names(tmp_path)[-1] == "3:2":
            monkeypatch.setattr(lease.Owner, "read", broken)

    monkeypatch.setattr(os, "fsync", last)
    train(m, trainer)
    words = r"must be one that this run can read and write; got: Stale file handle\. Allow that"
    with pytest.raises(OSError, match=words):
        checkpointer.save()
    assert names(tmp_path) == ["1:0", "2:1", "3:2"]


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
