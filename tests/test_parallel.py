"""Data-parallel training: the logic in this process, the rest in programs of tests/mpi that mpirun
starts.

How long: half a minute for each MPI.
"""

import copy
import os
import pickle
import re
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from jobs import launch, mpirun, needs_mpi, run_program
from table_trainers import TRAINERS

import dist_dynet as dy
from dist_dynet import _launcher, parallel
from dist_dynet.parallel.division import divide
from dist_dynet.parallel.exchange.exchange import merge_ranges

# ---- one process -----------------------------------------------------------------------


def run_python(code, **environment):
    clean = {
        k: v for k, v in os.environ.items() if not k.startswith(("PMI", "OMPI_", "SLURM_", "MPI_"))
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command,
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_serial_run_imports_no_mpi():
    code = (
        "import sys, dist_dynet as dy; m = dy.ParameterCollection(); t ="
        " dy.parallel.DistributedTrainer(dy.SimpleSGDTrainer(m)); t.update();dy.parallel.barrier();"
        " dy.parallel.all_reduce(1); print(sorted(n for n in sys.modules if"
        " n.startswith('mpi4py')))"
    )
    result = run_python(code)
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_launcher_without_mpi4py_says_what_to_install():
    code = "import sys; sys.modules['mpi4py'] = None\nimport dist_dynet as dy; dy.parallel.rank()"
    result = run_python(
        f"try:\n exec({code!r})\nexcept ImportError as e: print(e)", PMI_RANK="0", PMI_SIZE="2"
    )
    assert "rank 0 of 2" in result.stdout and _launcher.INSTALL in result.stdout


def test_import_under_a_launcher_installs_the_hooks_and_starts_no_mpi():
    code = (
        "import sys, threading; before = sys.excepthook, threading.excepthook; import"
        " dist_dynet.parallel;"
    )
    code += (
        "print(sys.excepthook.__module__, before[1] is threading.excepthook, 'mpi4py' in"
        " sys.modules)"
    )
    ranks = run_python(code, PMI_RANK="0", PMI_SIZE="2").stdout
    assert ranks == "dist_dynet.parallel.processes.failures False False\n"
    assert run_python(code).stdout == "dist_dynet._tracebacks True False\n"


@pytest.mark.mpi
@pytest.mark.skipif(not find_spec("mpi4py"), reason="mpi4py is not installed")
def test_wrong_mpirun_is_named():
    # What a rank sees when mpirun belongs to another MPI: variables of a launcher that mpi4py's
    # library does not know.
    code = (
        "import dist_dynet as dy\ntry: dy.parallel.rank()\nexcept RuntimeError as e:"
        " print(e, flush=True)\nimport os; os._exit(0)"
    )
    variables = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    variables |= {"PMIX_RANK": "1", "PMIX_NAMESPACE": "prterun-1@1"}  # MPI_Init ends MPICH
    if "Open MPI" in run_python("from mpi4py import MPI; print(MPI.Get_library_version())").stdout:
        variables = {"PMI_RANK": "1", "PMI_SIZE": "2"}
    assert "started 2 processes, but mpi4py" in run_python(code, **variables).stdout


def in_world_of(library, after, **variables):
    """What a program prints that meets the others with a stand-in for mpi4py whose library sees one
    process."""
    code = f"""
import os, sys, types
import dist_dynet as dy
world = types.SimpleNamespace(size=1, rank=0, Abort=lambda code: os.write(1, b"aborts"))
mpi = types.SimpleNamespace(COMM_WORLD=world, Is_initialized=lambda: True, Is_finalized=lambda: False, Finalize=lambda: None, get_vendor=lambda: ({library!r}, (5, 0, 0)))
sys.modules["mpi4py"] = types.SimpleNamespace(rc=types.SimpleNamespace(finalize=True, initialize=False), MPI=mpi)
try:
    print(dy.parallel.rank(), flush=True)
except RuntimeError as error:
    print(error, flush=True)
{after}
"""  # noqa: E501
    return run_python(code, **variables)


# What Slurm 24.11 leaves in the environment of task 1 of 2, in an allocation of 4 on two nodes.
TASK = {
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "2",
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_LOCALID": "0",
}
PMI2 = {**TASK, "PMI_RANK": "1", "PMI_SIZE": "2"}
PMIX = {
    **TASK,
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "slurm.pmix.16.0",
    "PMIX_SECURITY_MODE": "munge,native",
}


@pytest.mark.parametrize(
    ("library", "variables", "plugin"), [("MPICH", PMIX, "pmi2"), ("Open MPI", PMI2, "pmix")]
)
def test_plugin_of_srun_for_another_mpi_is_named(library, variables, plugin):
    said = in_world_of(
        library,
        "print(os.environ.get('PMIX_SECURITY_MODE'), flush=True);"
        " dy.parallel.processes.failures._exit(0)",
        **variables,
    ).stdout
    assert (
        f"Slurm started 2 processes, but mpi4py ({library}) sees 1." in said
        and f"srun --mpi={plugin}\n" in said
    )
    # Open MPI's wheel cannot do without
    assert said.endswith("native\n" if variables is PMIX else "None\n")


def test_rank_of_slurm_leaves_it_to_the_launcher_to_end_the_others():
    """There MPI_Abort would kill the relay that says who has failed; without dist-dynet run nothing
    else ends the job."""
    plain = in_world_of("Open MPI", "raise ValueError('words')", **PMI2)
    launched = in_world_of("Open MPI", "raise ValueError('words')", **PMI2, DIST_DYNET_ATTEMPT="0")
    assert plain.stdout.endswith("aborts") and not launched.stdout.endswith("aborts")
    assert plain.returncode == launched.returncode == 1 and "ValueError: words" in launched.stderr


def test_tasks_that_srun_has_not_connected_are_refused():
    """Each would train alone, and write the same files."""
    # a program that meets nobody
    assert (
        run_python("import dist_dynet as dy; print(dy.__name__)", **TASK).stdout == "dist_dynet\n"
    )
    for variables in (TASK, {**TASK, "SLURM_PROCID": "0"}):
        said = run_python("import dist_dynet as dy; dy.parallel.world_size()", **variables).stderr
        assert (
            "srun must connect the tasks that it starts; got 2 tasks without an MPI" in said
            and "srun --mpi=pmi2 with MPICH" in said
        )
    for alone in (
        {**TASK, "SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
        {**PMI2, "PMI_FD": "99"},
    ):
        _launcher.refuse_lone_task(alone)


@pytest.mark.mpi
@pytest.mark.skipif(not find_spec("mpi4py"), reason="mpi4py is not installed")
def test_ranks_with_another_version_are_named(python, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, sys, types\n"
        "if '1' in (os.environ.get('PMI_RANK'), os.environ.get('OMPI_COMM_WORLD_RANK')):\n"
        "    sys.modules['dist_dynet._version'] = types.SimpleNamespace(__version__='0.0.1')\n"
        "import dist_dynet as dy\ndy.parallel.rank()\n"
    )
    job = launch(python, "run", "-n", 2, program)
    words = r"all ranks must agree; dist_dynet \S+ here, dist_dynet \S+ on rank [01]\."
    assert job.returncode == 1 and re.search(words, job.stderr), job.stderr


def test_launch_is_read_from_the_environment():
    find = _launcher.find
    assert find({}) is None
    assert (
        find(
            {
                "OMPI_COMM_WORLD_RANK": "2",
                "OMPI_COMM_WORLD_SIZE": "3",
                "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            }
        ).local_rank
        == 0
    )
    assert find({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None  # a batch script
    assert (
        find(PMI2) == find(PMIX) == _launcher.Launch(rank=1, size=2, local_rank=0, launcher="Slurm")
    )
    # of mpirun, which srun has started on the nodes
    assert find({**PMI2, "MPI_LOCALRANKID": "1"}) == _launcher.Launch(1, 2, 1, "MPICH")


def test_division_balances_costs_and_keeps_every_position_once():
    rng = np.random.default_rng(1)
    costs = rng.integers(5, 40, 32).tolist()
    for ranks in (1, 2, 3, 4, 40):
        parts = divide(costs, ranks)
        assert len(parts) == ranks and sorted(i for part in parts for i in part) == list(range(32))
        loads = [sum(costs[i] for i in part) for part in parts]
        assert max(loads) - min(loads) <= max(costs)
    assert [len(part) for part in divide([1] * 7, 3)] == [3, 2, 2]


def test_shard_gives_every_example_once_an_epoch_in_a_new_order():
    data = list(range(100, 121))
    batches = parallel.shard(data, batch_size=8, seed=3, epoch=5)
    assert len(batches) == 3 and batches.epoch == 5
    first, second = list(batches), list(batches)
    assert batches.epoch == 7 and first != second
    assert all(sorted(x for batch in batches for x in batch) == data for batches in (first, second))
    assert second == list(parallel.shard(data, batch_size=8, seed=3, epoch=6))
    assert [len(b) for b in parallel.shard(data, batch_size=8, drop_last=True)] == [8, 8]
    with pytest.raises(ValueError, match="batch_size must be 1 or more; got 0"):
        parallel.shard(data, batch_size=0)


def test_shard_takes_sequences_and_integers():
    assert len(parallel.shard(range(9), batch_size=9 / 3)) == 3
    for arguments in (
        {"batch_size": 2.5},
        {"batch_size": "2"},
        {"batch_size": 2, "micro_batches": 1.5},
    ):
        with pytest.raises(
            TypeError, match=f"^shard: sizes must be integers; got .* for {list(arguments)[-1]}"
        ):
            parallel.shard(range(9), **arguments)
    for name in ("seed", "epoch"):
        assert len(parallel.shard(range(9), 3, **{name: np.int64(2)})) == 3
        with pytest.raises(ValueError, match=f"^shard: {name} must be 0 or more; got -1"):
            parallel.shard(range(9), 3, **{name: -1})
        for bad in (None, "1", 1.5):
            with pytest.raises(TypeError, match=f"^shard: {name} must be an integer; got {bad!r}"):
                parallel.shard(range(9), 3, **{name: bad})
    batches = parallel.shard(range(9), 3)
    with pytest.raises(ValueError, match=r"^shard: epoch must be 0 or more; got -1"):
        batches.epoch = -1
    assert batches.epoch == 0
    for data in ((x for x in "abc"), {"a": 1}, {1, 2}, 3):
        with pytest.raises(
            TypeError,
            match=f"^shard: data must be a sequence .*; got {type(data).__name__}. Write list",
        ):
            parallel.shard(data, batch_size=2)


def test_batches_know_what_they_are_part_of():
    batches = list(parallel.shard("abcde", batch_size=3, shuffle=False, epoch=2))
    assert [(batch, batch.n, batch.total, batch.epoch, batch.step) for batch in batches] == [
        (["a", "b", "c"], 3, 3, 2, 0),
        (["d", "e"], 2, 2, 2, 1),
    ]
    first = batches[0]
    assert all(
        type(copied) is list
        for copied in (
            copy.copy(first),
            copy.deepcopy(first),
            pickle.loads(pickle.dumps(first)),
            first[:],
        )
    )
    first.n = 7
    assert (first.n, first.total) == (7, None)
    for bad in (-1, float("nan")):
        with pytest.raises(ValueError, match=r"^batch.n must be a number, 0 or more; got"):
            first.n = bad
    weighted = [
        (batch.n, batch.total)
        for batch in parallel.shard([[1], [2, 3], [4]], batch_size=2, shuffle=False, weight=len)
    ]
    assert weighted == [(3, 3), (1, 1)]


def test_ranges_are_cut_at_chunks_gaps_and_foreign_parameters():
    used = [True, True]
    assert merge_ranges([(0, 0, 16), (0, 16, 5)], used) == ([(0, 0, 21)], [])
    # another collection's between them
    assert merge_ranges([(0, 0, 16), (0, 64, 5)], used) == ([(0, 0, 16), (0, 64, 69)], [])
    assert merge_ranges([(0, 0, 16), (1, 0, 5)], used) == ([(0, 0, 16), (1, 0, 5)], [])
    large = 1 << 17
    places = [(0, 0, 16), (0, 16, large), (0, 16 + large, 8)]
    assert merge_ranges(places, [True, False, True]) == (
        [(0, 0, 16), (0, 16 + large, 24 + large)],
        [],
    )
    assert merge_ranges(places, [False, False, True]) == ([(0, 16 + large, 24 + large)], [])
    assert merge_ranges(places, [False] * 3) == ([], [])


def one_weight(average="mean"):
    model = dy.ParameterCollection()
    w = model.add_parameters(1, init=1)
    dy.renew_cg()
    dy.sum_elems(w).backward()
    return w, parallel.DistributedTrainer(
        dy.SimpleSGDTrainer(model, learning_rate=1), average=average
    )


def test_trainer_with_one_process_is_the_wrapped_one(capfd):
    w, trainer = one_weight()
    trainer.learning_rate = 0.5
    trainer.set_clip_threshold(0.1)
    assert (trainer.inner.learning_rate, trainer.get_clip_threshold(), trainer.gradient_norm()) == (
        0.5,
        pytest.approx(0.1),
        1.0,
    )
    trainer.update()
    assert w.as_array() == pytest.approx([0.95])
    trainer.set_learning_rate(0.25)
    trainer.restart(0.125)
    trainer.set_sparse_updates(False)
    for each in trainer, parallel.LocalSGD(trainer.inner):
        each.status()
        assert "lr=0.125" in capfd.readouterr().err
    assert trainer.whoami() == "SimpleSGDTrainer" and trainer.collection is trainer.inner.collection


@pytest.mark.parametrize("act", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("wrapper", [parallel.DistributedTrainer, parallel.LocalSGD])
def test_trainers_cannot_be_copied(act, wrapper):
    trainer = wrapper(dy.SimpleSGDTrainer(dy.ParameterCollection()))
    with pytest.raises(TypeError, match=f"^{wrapper.__name__}: trainers cannot be copied or"):
        act(trainer)


def test_trainer_has_the_whole_interface_of_trainers():
    public = {name for name in dir(dy.Trainer) if not name.startswith("_")}
    assert public <= set(dir(parallel.DistributedTrainer)), (
        "write the new method out in dist_dynet/parallel/trainer.py"
    )


def test_weights_and_options_are_checked():
    w, trainer = one_weight()
    for bad in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="weight must be a number, 0 or more"):
            trainer.update(bad)
    with pytest.raises(
        TypeError, match=r"^update: the weight must be a number or a batch of shard\(\); got 'x'"
    ):
        trainer.update("x")
    trainer.update(0)
    assert w.as_array() == [1]  # counts for nothing, and is forgotten
    trainer.update(3)
    assert w.as_array() == [1]
    with pytest.raises(ValueError, match="average must be mean or sum; got 'weighted'"):
        one_weight("weighted")
    with pytest.raises(TypeError, match="takes a trainer such as"):
        parallel.DistributedTrainer(one_weight()[1])
    with pytest.raises(ValueError, match="reproducible=True takes no compression and no accum"):
        parallel.DistributedTrainer(trainer.inner, reproducible=True, accumulate=2)


@pytest.mark.parametrize("name", ["update", "update_subset"])
def test_trainers_with_an_update_of_their_own_are_refused(name):
    """It would not be called, with one process either: LocalSGD does call it."""

    class Named(dy.SimpleSGDTrainer):
        """Another name alone."""

    class Own(Named):
        """Whose update does something else."""

    setattr(Own, name, lambda self, *args: None)
    m = dy.ParameterCollection()
    parallel.DistributedTrainer(Named(m))
    parallel.LocalSGD(Own(m))
    with pytest.raises(TypeError, match=rf"Own\.{name}\(\) would not be called"):
        parallel.DistributedTrainer(Own(m))


def test_collectives_with_one_process():
    assert parallel.all_reduce(2.5, "max") == 2.5
    assert parallel.all_reduce(True) == 1
    array = np.ones((2, 2))
    assert parallel.all_reduce(array) is not array
    with pytest.raises(
        ValueError, match="op must be one of sum, mean, max, min, prod; got 'median'"
    ):
        parallel.all_reduce(1, "median")
    with pytest.raises(TypeError, match="takes numbers and arrays of numbers; got str"):
        parallel.all_reduce("a")
    parallel.barrier(timeout=0)
    parallel.broadcast_parameters(dy.ParameterCollection())
    assert parallel.evaluate(str, [1, 2], cost=None) == ["1", "2"]


# ---- several ---------------------------------------------------------------------------

WAYS = [f"{trainer} {average}" for trainer in ("sgd", "adam") for average in ("mean", "sum")]
ENGINES = ("auto", "mpi")


def trained(folder, ranks, ways, **options):
    """The parameters after train.py, by way and rank."""
    folder.mkdir()
    status, output, _ = mpirun(ranks, "train.py", folder, *ways, **options)
    assert (status, output) == (0, "")
    return {
        way: [dict(np.load(folder / f"{way} {rank}.npz")) for rank in range(ranks)] for way in ways
    }


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_do_what_one_process_does(ranks, mpi, tmp_path):
    """With each engine; and all ranks, and a second run, have the same bits."""
    folder = tmp_path / "1"
    folder.mkdir()
    result = run_program("train.py", folder, *WAYS)
    assert result.returncode == 0, result.stderr
    ways = [f"{way} {engine}" for way in WAYS for engine in ENGINES]
    first = trained(tmp_path / "first", ranks, ways, mpi=mpi)
    second = trained(tmp_path / "second", ranks, ways[:4], mpi=mpi) if ranks == 2 else {}
    for way in WAYS:
        alone = dict(np.load(folder / f"{way} 0.npz"))
        for name, values in alone.items():
            for engine in ENGINES:
                every = first[f"{way} {engine}"] + second.get(f"{way} {engine}", [])
                assert np.all(np.abs(every[0][name] - values) <= 1e-5 * (1 + np.abs(values))), (
                    way,
                    engine,
                    name,
                )
                assert all(
                    np.array_equal(parameters[name], every[0][name]) for parameters in every
                ), (way, engine, name)


@pytest.mark.slow
@pytest.mark.mpi
@needs_mpi
def test_all_trainers_do_on_ranks_what_they_do_alone(tmp_path):
    every = {}
    for ranks in (1, 2, 3, 4):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        status, output, _ = mpirun(ranks, "all_trainers.py", folder)
        assert (status, output) == (0, "")
        every[ranks] = dict(np.load(folder / "0.npz"))
    assert {key.split()[0] for key in every[1]} == {*TRAINERS}
    for ranks in (2, 3, 4):
        for key, alone in every[1].items():
            assert np.linalg.norm(every[ranks][key] - alone) <= 1e-5 * np.linalg.norm(alone), (
                ranks,
                key,
            )


@pytest.mark.parametrize("ranks", [2, 4])
def test_collectives_of_ranks(ranks, mpi, tmp_path):
    status, output, _ = mpirun(ranks, "collectives.py", tmp_path, mpi=mpi)
    assert status == 0, output
