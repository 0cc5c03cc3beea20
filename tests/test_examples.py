"""The examples that belong to no single block are run, shortly: they learn. The others:
test_traced.py, test_blocks_crf.py, test_blocks_stack.py.

How long: half a minute.
"""

import re
from pathlib import Path

import pytest
from processes import run_python

EXAMPLES = Path(__file__).parents[1] / "examples"


def numbers(pattern, name, *options):
    """What stands in the group of a pattern, as floats, in what the example prints."""
    result = run_python(str(EXAMPLES / f"{name}.py"), *options, timeout=300)
    assert result.returncode == 0, result.stderr
    return [float(x) for x in re.findall(pattern, result.stdout)]


@pytest.mark.float32
def test_the_transformer_learns():
    right = numbers(
        r"accuracy ([\d.]+)", "transformer", "--limit", "1500", "--epochs", "2", "--size", "32"
    )
    assert len(right) == 3 and right[0] < right[1] and right[2] > 0.5


@pytest.mark.float32
def test_the_episodes_reach_more_goals():
    reached = numbers(r"([\d.]+) of the goals reached", "gridworld", "--updates", "150")
    assert len(reached) == 5 and reached[-1] > max(0.7, 2 * reached[0])


@pytest.mark.float32
def test_the_inflector_learns():
    losses = numbers(r"loss of a form ([\d.]+)", "inflection", "--limit", "4000", "--epochs", "3")
    assert (
        len(losses) == 3 and losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 2
    )
