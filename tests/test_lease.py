"""Of two runs that save into one directory one does, and the other says so; neither spoils the
other's files.

How long: ten seconds.
"""

import errno
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from checkpoints import model_of, names, train

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet.parallel.checkpoints import lease
from dist_dynet.parallel.checkpoints.lease import Lease, LostLeaseError, Owner

pytestmark = pytest.mark.filterwarnings("ignore:.*hashed strings differently")

OTHER_RUN = """
import sys
import dist_dynet as dy
from checkpoints import model_of, train
from dist_dynet import parallel
m = model_of()
trainer = dy.AdamTrainer(m)
checkpointer = parallel.Checkpointer(sys.argv[1], m, trainer, every=1)
checkpointer.resume()
print("resumed", flush=True)
for line in sys.stdin:
    train(m, trainer)
    print("saved", trainer.updates, flush=True)
"""


class OtherRun:
    """A program that saves in each update; it makes one for each line that it is given."""

    def __init__(self, folder, **variables):
        self.process = subprocess.Popen(
            [sys.executable, "-c", OTHER_RUN, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **variables},
        )
        assert self.process.stdout.readline() == "resumed\n"

    def step(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline()


@contextmanager
def other_run(folder, **variables):
    run = OtherRun(folder, **variables)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.communicate()


def run_here(folder, **options):
    m = model_of()
    trainer = dy.AdamTrainer(m)
    return m, trainer, parallel.Checkpointer(folder, m, trainer, **{"every": 1, **options})


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch):
    monkeypatch.setattr(lease, "FAREWELL", 0.2)
    monkeypatch.setattr(lease, "PATIENCE", 0.3)
    monkeypatch.setattr(lease, "BEAT", 0.05)


def test_run_is_refused_while_another_one_lives_and_goes_on_when_it_is_dead(tmp_path):
    _, trainer, checkpointer = run_here(tmp_path)
    m, other, saver = run_here(tmp_path, every=None)
    with other_run(tmp_path) as run:
        assert run.step() == "saved 1\n"
        unfinished = tmp_path / ".checkpoint-000003-step-2.abc.tmp"
        unfinished.write_text("of the other run")
        named = rf"must be saved to by one run; process {run.process.pid} on .* lives and saves"
        with pytest.raises(RuntimeError, match=named):
            checkpointer.resume()
        assert saver.resume() and other.updates == 1  # reads, and is in nobody's way
        train(m, other)
        with pytest.raises(RuntimeError, match=named):
            saver.save()
        assert unfinished.exists() and run.step() == "saved 2\n"
    assert checkpointer.resume() and trainer.updates == 2
    assert (
        not unfinished.exists()
        and json.loads((tmp_path / lease.NAME).read_text())["process"] == os.getpid()
    )


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        (
            {"DIST_DYNET_PROGRESS": "p", "DIST_DYNET_ATTEMPT": "1"},
            {"DIST_DYNET_PROGRESS": "p", "DIST_DYNET_ATTEMPT": "2"},
        ),
        (
            {"SLURM_JOB_ID": "7", "DIST_DYNET_ATTEMPT": "3"},
            {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "1", "DIST_DYNET_ATTEMPT": "0"},
        ),
    ],
)
def test_newer_attempt_goes_on_and_the_older_writes_no_more(older, newer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    with other_run(folder, **older) as run:
        assert [run.step(), run.step()] == ["saved 1\n", "saved 2\n"]
        for name, value in newer.items():
            monkeypatch.setenv(name, value)
        m, trainer, checkpointer = run_here(folder)
        assert checkpointer.resume() and trainer.updates == 2
        assert run.step() == ""
        words = run.process.stderr.read()
        assert f"process {os.getpid()} on " in words and "has taken it over" in words
        assert run.process.wait() == 1
    train(m, trainer)
    assert names(folder) == ["2:1", "3:2", "4:3"]


def owner_elsewhere(**changed):
    return replace(Owner.here("theirs"), host="node9", machine="another boot", **changed)


def test_run_of_another_host_is_known_to_live_by_its_touches(tmp_path, capfd):
    path = tmp_path / lease.NAME
    path.write_text(json.dumps(asdict(owner_elsewhere())))
    touched, ended = 0, threading.Event()

    def touch():
        nonlocal touched
        while not ended.wait(0.05):
            touched += 1
            os.utime(path)

    toucher = threading.Thread(target=touch)
    toucher.start()
    try:
        with pytest.raises(LostLeaseError, match="on node9 lives and saves"):
            Lease(tmp_path).claim()
    finally:
        ended.set()
        toucher.join()
    assert touched and "looks for up to" in capfd.readouterr().err
    assert Lease(tmp_path).claim()  # nobody touches it any more
    path.write_text(json.dumps(asdict(owner_elsewhere(launcher="p", attempt=2))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIST_DYNET_PROGRESS", "p")
        patch.setenv("DIST_DYNET_ATTEMPT", "1")
        with pytest.raises(LostLeaseError, match="attempt 2 lives"):
            Lease(tmp_path).claim()
        patch.setenv("DIST_DYNET_ATTEMPT", "3")
        patch.setattr(lease, "PATIENCE", float("inf"))
        assert Lease(tmp_path).claim()


def test_process_of_any_name_is_seen_to_live():
    """The system keeps 15 bytes of a script's name, of a letter its first byte, say."""
    code = "open('/proc/self/comm', 'wb').write(b'\\xc3) Z'); print('named', flush=True); input()"
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"named\n"
        assert lease._started(process.pid).isdecimal()
        process.kill()
        process.wait()
        assert lease._started(process.pid) == ""


def test_lease_that_names_nobody_is_taken_and_an_emptied_directory_claimed_again(tmp_path):
    (tmp_path / lease.NAME).write_text("{")
    mine = Lease(tmp_path)
    assert mine.claim() and not mine.claim()
    (tmp_path / lease.NAME).unlink()
    assert not mine.claim() and Owner.read(tmp_path / lease.NAME).process == os.getpid()


def test_directory_that_cannot_be_made_or_written_to_is_said(tmp_path, monkeypatch):
    words = r"checkpoint: the directory must be one .* got: (.*)\. Allow that, or give Checkpointer"
    (tmp_path / "file").write_text("")
    for folder in tmp_path / "file", tmp_path / "file" / "x":
        with pytest.raises(OSError, match=words) as raised:
            run_here(folder)[2].resume()
        assert raised.value.filename == str(folder)

    def refused(path, *arguments, **named):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / lease.NAME).write_text("{")
    for method in "write_text", "unlink":
        monkeypatch.setattr(Path, method, refused)
    with pytest.raises(PermissionError, match=words) as raised:
        run_here(tmp_path)[2].resume()
    assert {path.name for path in tmp_path.iterdir()} == {"file", lease.NAME}


def test_lease_is_touched_and_given_back(tmp_path):
    path = tmp_path / lease.NAME
    mine = Lease(tmp_path)
    mine.claim()
    os.utime(path, (0, 0))
    waited = threading.Event()
    while path.stat().st_mtime == 0:
        waited.wait(0.01)
    del mine
    assert not path.exists()


def test_of_two_checkpointers_in_one_process_the_first_one_says_so(tmp_path):
    m, trainer, first = run_here(tmp_path, every=None, keep=9)
    n, other, second = run_here(tmp_path, every=None, keep=9)
    train(m, trainer)
    assert first.save()
    train(n, other, 2)
    assert second.save()
    with pytest.raises(RuntimeError, match="another Checkpointer of this process has taken"):
        first.save()
    assert second.save() and names(tmp_path) == ["1:1", "2:2", "3:2"]


def test_directory_that_is_taken_over_while_a_file_is_written_keeps_no_file_of_the_older(
    tmp_path, monkeypatch
):
    m, trainer, older = run_here(tmp_path, every=None)
    train(m, trainer)
    newer = []

    def take_over(before):
        def replaced(*arguments):
            if not newer:
                newer.append(Lease(tmp_path))
                newer[0].claim()
            return before(*arguments)

        return replaced

    older._files.claim()
    # between the last look and the name; before that
    for owner, name in ((Path, "replace"), (os, "fsync")):
        newer.clear()
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, take_over(getattr(owner, name)))
            with pytest.raises(RuntimeError, match="has taken it over"):
                older.save()
        assert newer and names(tmp_path) == []
        older._files._lease = Lease(tmp_path)
        older._files.claim()


def test_lease_is_kept_by_the_next_save_where_a_thread_could_not_start(tmp_path, monkeypatch):
    def beats():
        return {t for t in threading.enumerate() if t.name == "dist_dynet lease"}

    def refuses(thread):
        raise RuntimeError("can't start new thread")

    m, others = model_of(), beats()  # of earlier checkpointers, which may end meanwhile
    checkpointer = parallel.Checkpointer(tmp_path, m, dy.AdamTrainer(m))
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuses)
        with pytest.raises(RuntimeError):
            checkpointer.save()
    checkpointer.save()
    assert len(beats() - others) == 1
