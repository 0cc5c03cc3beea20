"""The examples that belong to no single block are run, shortly: they learn. The others:
test_traced.py, test_blocks_crf.py, test_blocks_stack.py.

How long: three quarters of a minute.
"""

import gzip
import json
import re
from pathlib import Path

import pytest
from processes import output_of, predicted, run_example

EXAMPLES = Path(__file__).parents[1] / "examples"


def numbers(pattern, name, folder, *options):
    """What stands in the group of a pattern, as floats, in what the example prints. Model and
    metrics are left in the folder."""
    files = ("--save", str(folder / "model"), "--metrics", str(folder / "metrics.jsonl"))
    result = run_example(EXAMPLES / f"{name}.py", *files, *options)
    assert result.returncode == 0, result.stderr
    return [float(x) for x in re.findall(pattern, result.stdout)]


def refusal(name, folder, text):
    """What an example says of a line that it cannot read."""
    (folder / "text").write_text(text)
    files = ("--save", str(folder / "model"), "--predict", str(folder / "text"))
    result = run_example(EXAMPLES / f"{name}.py", *files)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    return result.stderr


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
    assert "line 2 must be row and column" in refusal("gridworld", tmp_path, "0 0 0 2\nhere\n")


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


def test_predicting_without_a_model_says_so(tmp_path):
    assert "Train one first" in refusal("text_classification", tmp_path, "fine\n")


LINES = {
    ("inflection", "lemma_and_tag"): ("stop VBG", ["stop", "stop it VBG"]),
    ("gridworld", "start_and_goal"): ("0 0 5 6", ["0 0", "a b c d"]),
    ("stack_parser", "tagged"): ("She/PRON sleeps/VERB", ["She sleeps", "She/PRON sleeps"]),
    ("treelstm", "parse"): (
        "(0 (0 (0 MAX) (0 3)) (0 4))",
        ["( MAX 1 2 )", "3", "(0 3", "0 3)", "(0 3) (0 4)", "()", "((0 1))"],
    ),
}
"""(example, how it reads a line of --predict): (a line that is right, lines that are not)."""


def test_lines_of_another_form_are_refused(tmp_path):
    code = f"""
import sys
from importlib import import_module
from pathlib import Path
sys.path.insert(0, {str(EXAMPLES)!r})
import shared
file = Path({str(tmp_path / "text")!r})
for (module, parse), (right, wrong) in {LINES!r}.items():
    parse = getattr(import_module(module), parse)
    file.write_text(right + "\\n\\n" + right + "\\n")
    assert len(list(shared.lines(file, parse))) == 2
    for line in wrong:
        file.write_text(right + "\\n" + line + "\\n")
        try:
            list(shared.lines(file, parse, "so"))
        except SystemExit as error:
            print(error)
try:
    list(shared.lines(file.with_name("nothing")))
except SystemExit as error:
    print(error)
"""
    said = output_of(code).splitlines()
    wrong = [line for _, lines in LINES.values() for line in lines]
    assert said[:-1] == [f"--predict: line 2 must be so; got {line!r}" for line in wrong]
    assert said[-1].endswith("nothing: No such file or directory")


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


@pytest.mark.float32
def test_the_translator_learns(tmp_path):
    sizes = {"train": 1500, "dev": 20, "test": 20}
    for name, size in sizes.items():  # the first short ones
        lines = gzip.decompress((EXAMPLES / "data" / "en-de" / f"{name}.txt.gz").read_bytes())
        short = [line for line in lines.splitlines(True) if line.count(b" ") < 16][:size]
        (tmp_path / f"{name}.txt.gz").write_bytes(gzip.compress(b"".join(short)))
    options = ("--data", str(tmp_path), "--epochs", "4", "--size", "64", "--batch-size", "4")
    losses = numbers(r"loss of a sentence ([\d.]+)", "translation", tmp_path, *options)
    assert len(losses) == 4 and losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.6 * losses[0]
    picture = tmp_path / "attention.svg"
    command = ("--save", tmp_path / "model", "--attention", picture, "--predict", tmp_path / "text")
    (tmp_path / "text").write_text("today the old dog sleeps .\nzzzz\n")
    result = run_example(EXAMPLES / "translation.py", *map(str, command))
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 2
    assert picture.read_text().startswith("<?xml")


def test_sentences_of_the_grammar_are_what_it_makes(monkeypatch):
    """The files are the script's, and sentences of dev and test have combinations of words that
    training has not."""
    monkeypatch.syspath_prepend(str(EXAMPLES / "data" / "en-de"))
    import make

    parts = make.corpus()
    for name, pairs in parts.items():
        text = gzip.decompress((make.FOLDER / f"{name}.txt.gz").read_bytes()).decode()
        assert text == "".join(f"{english}\t{german}\n" for english, german in pairs)
    assert len({english for pairs in parts.values() for english, _ in pairs}) == sum(
        make.SIZES.values()
    )


@pytest.mark.parametrize(
    ("noun", "number", "determiner", "case", "german"),
    [
        ("dog", "s", "a", "nom", "ein alter Hund"),
        ("dog", "s", "a", "dat", "einem alten Hund"),
        ("cat", "s", "the", "dat", "der alten Katze"),
        ("house", "s", "a", "acc", "ein altes Haus"),
        ("house", "p", "this", "dat", "diesen alten Häusern"),
        ("boy", "s", "my", "acc", "meinen alten Jungen"),
        ("child", "p", "", "nom", "alte Kinder"),
        ("child", "p", "", "dat", "alten Kindern"),
        ("doctor", "p", "the", "nom", "die alten Ärztinnen"),
    ],
)
def test_german_phrases_agree(monkeypatch, noun, number, determiner, case, german):
    monkeypatch.syspath_prepend(str(EXAMPLES / "data" / "en-de"))
    import make

    (found,) = (n for n in make.NOUNS if n.english == noun)
    assert make.Phrase(number, found, determiner, "old").german(case) == german
