"""Many ranks and many hosts on one machine: where one process ends, and what a rank costs. Run only
when asked for:

    pytest -m nightly -s tests/test_nightly.py

How long: five minutes on two cores. It prints start-up times and memory, which docs/scaling.md has.
"""

import json
import sys

import numpy as np
import pytest
from jobs import NAMESPACE_HOSTS, launch, need_namespace_hosts, needs_mpi

WAYS = ("adam mean", "sgd sum")
MB = 1e6

pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.mpi, needs_mpi]


def trained(folder, *command, before=()):
    """Each rank's parameters by way, and what each rank has cost."""
    folder.mkdir()
    program = ("many.py", folder, *WAYS)
    done = (
        launch(sys.executable, "run", *command, *program, before=before, limit=900)
        if command
        else launch(sys.executable, *program[1:], program=program[:1])
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ranks = len(list(folder.glob("cost *.json")))
    costs = [json.loads((folder / f"cost {rank}.json").read_text()) for rank in range(ranks)]
    ways = {
        way: [dict(np.load(folder / f"{way} {rank}.npz")) for rank in range(ranks)] for way in WAYS
    }
    return ways, costs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("alone") / "1")


def check(every, alone, ranks, name):
    """All ranks have the same bits, which are one process' numbers, and none has much more memory
    for itself than one process."""
    (ways, costs), (of_one, (cost_of_one,)) = every, alone
    assert len(costs) == ranks
    for way in WAYS:
        (expected,) = of_one[way]
        for p, values in expected.items():
            first = ways[way][0][p]
            assert np.all(np.abs(first - values) <= 1e-5 * (1 + np.abs(values))), (way, p)
            for rank, parameters in enumerate(ways[way]):
                assert np.array_equal(parameters[p], first), (way, p, rank)
    memory, start_up = ([cost[what] for cost in costs] for what in ("memory", "start_up"))
    print(
        f"\n{name}: {ranks} ranks have met {max(start_up):.1f} s after their begin (one process:"
        f" {cost_of_one['start_up']:.1f} s); memory of its own {np.median(memory) / MB:.0f} MB a"
        f" rank, at most {max(memory) / MB:.0f} (one process: {cost_of_one['memory'] / MB:.0f})"
    )
    assert np.median(memory) <= 1.5 * cost_of_one["memory"] + 32 * MB


@pytest.mark.parametrize("ranks", [16, 64])
def test_many_ranks_on_one_host(ranks, alone, tmp_path):
    check(trained(tmp_path / "n", "-n", ranks), alone, ranks, "one host")


@pytest.mark.parametrize("ranks_of_each", [1, 3])
def test_twelve_hosts(ranks_of_each, alone, tmp_path):
    need_namespace_hosts("-n", 12)
    hosts = ",".join(f"node{k}:{ranks_of_each}" for k in range(12))
    done = trained(
        tmp_path / "n", "--no-bind", "--hosts", hosts, before=[NAMESPACE_HOSTS, "-n", 12]
    )
    check(done, alone, 12 * ranks_of_each, "12 hosts")
