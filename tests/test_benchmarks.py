"""The benchmarks run, and print what they promise. What they measure is not tested: times are no
tests.

How long: about eight seconds; the one marked slow compiles kernels, half a minute.
"""

import os
import re
import shutil
from pathlib import Path

import pytest
from processes import run_python

FOLDER = Path(__file__).parent.parent / "benchmarks"
COMPILER = (os.environ.get("CC") or "cc").split()
NUMBER = r"[\d.]+(?:e[+-]\d+)?"


def printed(program, *arguments):
    """What a benchmark prints, beside no peers."""
    environment = {
        "DIST_DYNET_BENCH_DYNET": "",
        "DIST_DYNET_BENCH_TORCH": "",
        "OMP_NUM_THREADS": "1",
        "PYTHONSAFEPATH": "",
    }
    result = run_python(str(FOLDER / program), *arguments, **environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_run_prints_a_line_per_task():
    table = printed("run.py", "xor", "mlp_64", "attention_16", "--rounds", "1", "--seconds", "0.02")
    assert (
        len(re.findall(rf"\| (?:xor|mlp_64|attention_16), \w+/s +\| +{NUMBER} k? ", table)) == 3
    ), table


def test_autobatch_prints_each_strategy():
    table = printed(
        "autobatch.py",
        "--rounds",
        "1",
        "--seconds",
        "0.02",
        "--batch",
        "2",
        "--strategies",
        "off",
        "auto",
        "--",
        "batch_rnnlm",
    )
    assert re.search(r"\boff\b", table) and re.search(r"\bauto\b", table), table


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(COMPILER[0]), reason="needs a C compiler")
def test_products_prints_each_way():
    table = printed("products.py", "16x2x8", "--rounds", "1")
    for name in ("bf16, plain", "float32", "NumPy, float32"):
        assert re.search(rf"16x2x8 +{name} +{NUMBER} +{NUMBER} +{NUMBER}", table), table


@pytest.mark.mpi
def test_ranks_prints_efficiency_and_parts():
    pytest.importorskip("mpi4py")
    table = printed("ranks.py", "tagger", "--rounds", "1", "--seconds", "0.05")
    for name in ("efficiency", "lockstep / alone"):
        assert float(re.search(rf"{name}: ({NUMBER})", table)[1]) > 0
    parts = re.search(
        rf"parts, ms: computing ({NUMBER}), waiting ({NUMBER}), exchange ({NUMBER}), update"
        rf" ({NUMBER});",
        table,
    )
    assert parts and all(float(ms) > 0 for ms in parts.groups())
