"""Memory that is short for a while: MemoryError or right numbers then, right numbers afterwards.
Each in a process of its own."""

import pytest
from processes import output_of, run_python

PROGRAMS = ("products", "rows", "network", "steps", "sentences", "traced", "shapes")


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
@pytest.mark.parametrize("program", PROGRAMS)
def test_allocation_that_fails_leaves_no_wrong_numbers(program, mode, shim):
    result = run_python("memory_short.py", program, str(mode), "200", timeout=60, LD_PRELOAD=shim)
    assert result.returncode == 0, result.stdout[-1000:] + result.stderr[-3000:]
    assert int(result.stdout) > 20  # so many allocations have failed


LIMITED = """
import resource, sys
import dist_dynet as dy
mode, megabytes, n = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
m = dy.ParameterCollection()
w = m.add_parameters((64, 64), init=0.01)

def build():
    dy.renew_cg(autobatching=mode)
    xs = [dy.inputVector([i * 1e-4] * 64) for i in range(n)]
    return dy.sum_elems(dy.esum([dy.tanh(w * x) for x in xs]))

loss = build()
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + int(megabytes * 2**20), resource.RLIM_INFINITY))
try:
    loss.value()
    print("no error")
except MemoryError:
    print("MemoryError")
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
again = loss.value()
right = build().value()
assert abs(again - right) <= 1e-4 * abs(right), (again, right)
"""  # noqa: E501


@pytest.mark.parametrize("mode", [0, 1, 2])
@pytest.mark.parametrize("megabytes", [2, 5, 9])
def test_value_is_right_when_there_is_memory_again(mode, megabytes):
    result = run_python("-c", LIMITED, str(mode), str(megabytes), "40000", timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr[-3000:]
    assert result.stdout.split() == ["MemoryError"]


def test_first_product_of_blas_does_not_end_the_process():
    code = """
import resource
import dist_dynet as dy
m = dy.ParameterCollection()
w = m.add_parameters((128, 128), init=0.5)
dy.renew_cg()
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, resource.RLIM_INFINITY))
try:
    (w * w).value()
except MemoryError:
    pass
print("alive")
"""  # noqa: E501
    assert output_of(code).split() == ["alive"]
