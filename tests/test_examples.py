"""The examples that belong to no single block are run, shortly: they learn. The others:
test_traced.py, test_blocks_crf.py, test_blocks_stack.py.

How long: three quarters of a minute.
"""

import json
import re
from pathlib import Path

import pytest
from processes import predicted, run_example

EXAMPLES = Path(__file__).parents[1] / "examples"


def numbers(pattern, name, folder, *options):
    """What stands in the group of a pattern, as floats, in what the example prints. Model and
    metrics are left in the folder."""
    files = ("--save", str(folder / "model"), "--metrics", str(folder / "metrics.jsonl"))
    result = run_example(EXAMPLES / f"{name}.py", *files, *options)
    assert result.returncode == 0, result.stderr
    return [float(x) for x in re.findall(pattern, result.stdout)]


def predictions(name, folder, text):
    return predicted(EXAMPLES / f"{name}.py", folder, text).splitlines()


@pytest.mark.float32
def test_the_transformer_learns(tmp_path):
    right = numbers(
        *(r"accuracy ([\d.]+)", "transformer", tmp_path),
        *("--limit", "1500", "--epochs", "2", "--size", "32"),
    )
    assert len(right) == 3 and right[0] < right[1] and right[2] > 0.5
    (line,) = predictions("transformer", tmp_path, "The rain stopped .\n")
    assert re.fullmatch(r"The/DET rain/\w+ stopped/\w+ \./PUNCT", line)


@pytest.mark.float32
def test_the_episodes_reach_more_goals(tmp_path):
    reached = numbers(r"([\d.]+) of the goals reached", "gridworld", tmp_path, "--updates", "150")
    assert len(reached) == 5 and reached[-1] > max(0.7, 2 * reached[0])
    walk, walls = predictions("gridworld", tmp_path, "0 0 0 2\n1 1 0 0\n")
    assert walk.startswith("0,0 ") and "walls" in walls


@pytest.mark.float32
def test_the_inflector_learns(tmp_path):
    losses = numbers(
        r"loss of a form ([\d.]+)", "inflection", tmp_path, "--limit", "4000", "--epochs", "3"
    )
    assert (
        len(losses) == 3 and losses == sorted(losses, reverse=True) and losses[-1] < losses[0] / 2
    )
    assert len(predictions("inflection", tmp_path, "stop VBG\nblog NNS\n")) == 2
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "epoch" in line] == [1, 2, 3]
    assert all(line["rate"] > 0 and line["learning_rate"] >= 0 for line in lines)
    assert {"loss", "gradient_norm", "time"} <= lines[0].keys()


@pytest.mark.float32
def test_the_classifier_learns(tmp_path):
    options = ("--limit", "1000", "--epochs", "3", "--filters", "32", "--dropout", "0.2")
    losses = numbers(r"loss ([\d.]+)", "text_classification", tmp_path, *options)
    assert len(losses) == 3 and losses == sorted(losses, reverse=True) and losses[-1] < 0.68
    lines = predictions("text_classification", tmp_path, "a moving film\nboring\n")
    assert all(re.fullmatch(r"(positive|negative) [01]\.\d\d", line) for line in lines)
    assert len(lines) == 2


@pytest.mark.float32
def test_the_language_model_learns_and_writes(tmp_path):
    options = ("--words", "--limit", "300", "--epochs", "2", "--size", "16")
    found = numbers(r"perplexity ([\d.]+)", "language_model", tmp_path, *options)
    assert len(found) == 3 and found[1] < found[0] < 1000
    (line,) = predictions("language_model", tmp_path, "It was\n")
    assert line.startswith("It was")


@pytest.mark.float32
def test_the_auto_encoder_learns(tmp_path):
    options = ("--limit", "1000", "--epochs", "2", "--size", "16", "--latent", "4")
    found = numbers(r"perplexity ([\d.]+)", "vae", tmp_path, *options)
    assert len(found) == 3 and found[1] < found[0]
    words, none = predictions("vae", tmp_path, "a charming comedy\nzzzz\n")
    assert len(words.split()) == 8 and none == "-"
