"""Vocabularies: numbers of names, files, word vectors. How long: a second."""

import gzip
import json
from collections import Counter

import numpy as np
import pytest

import dist_dynet as dy

TEXT = ["b", "a", "c", "a", "b", "a", "d"]


def test_numbers_follow_frequency_then_first_occurrence():
    v = dy.Vocabulary(TEXT)
    assert v.names == ["<unk>", "a", "b", "c", "d"] and list(v) == v.names
    assert v.ids(TEXT) == [2, 1, 3, 1, 2, 1, 4] and [v.name(k) for k in range(5)] == v.names
    assert v["zebra"] == 0 and "zebra" not in v and "a" in v
    assert dy.Vocabulary(Counter(TEXT)) == v
    assert "5 names" in repr(v)


def test_rare_names_and_those_beyond_the_size_are_unknown():
    v = dy.Vocabulary(TEXT, min_count=2, special=["</s>", "a"])
    assert v.names == ["<unk>", "</s>", "a", "b"]
    assert v.counts == Counter({"<unk>": 2, "a": 3, "b": 2})
    assert dy.Vocabulary(TEXT, max_size=2).names == ["<unk>", "a"]
    assert dy.Vocabulary(TEXT, max_size=2).counts["<unk>"] == 4
    assert dy.Vocabulary().names == ["<unk>"]


def test_without_an_unknown_name_others_are_an_error():
    v = dy.Vocabulary(TEXT, unknown=None)
    assert v.names == ["a", "b", "c", "d"] and v["a"] == 0
    with pytest.raises(KeyError, match=r"'e' is not one of 4 names"):
        v.ids("ae")
    with pytest.raises(ValueError, match="there is no unknown name"):
        v.ids_with_unknown("a", np.random.default_rng(1))
    for number in (-1, 4):
        with pytest.raises(IndexError, match="from 0 to 3"):
            v.name(number)


def test_wrong_names_are_refused():
    with pytest.raises(TypeError, match="special names come in a list; got '</s>'"):
        dy.Vocabulary(special="</s>")
    with pytest.raises(TypeError, match="how often a name occurs must be an integer; got 'b'"):
        dy.Vocabulary({"a": "b"})
    for alpha in -1, np.nan, np.inf:
        with pytest.raises(ValueError, match="alpha must be a number from 0 on"):
            dy.Vocabulary(TEXT).ids_with_unknown(["a"], np.random.default_rng(1), alpha)
    with pytest.raises(TypeError, match=r"must be texts; got 3"):
        dy.Vocabulary([3])
    with pytest.raises(ValueError, match="must differ"):
        dy.Vocabulary(special=["<unk>"])
    with pytest.raises(ValueError, match="max_size must leave room"):
        dy.Vocabulary(TEXT, special=["x"], max_size=1)


def test_rare_names_are_made_unknown_more_often():
    v = dy.Vocabulary(["often"] * 99 + ["once"])
    rng = np.random.default_rng(1)
    ids = np.array([v.ids_with_unknown(["often", "once"], rng, alpha=1.0) for _ in range(4000)])
    shares = (ids == 0).mean(axis=0)
    assert abs(shares[0] - 0.01) < 0.01 and abs(shares[1] - 0.5) < 0.04
    assert v.ids_with_unknown(["once", "<unk>"], rng, alpha=0) == [2, 0]


def test_a_saved_vocabulary_is_the_same(tmp_path):
    more = {"Straße": np.int64(3), "new\nline": 1, "no UTF-8 \udce9": 2}
    v = dy.Vocabulary(Counter(TEXT) + Counter(more), special=["</s>"])
    for names in v, dy.Vocabulary(TEXT):
        names.save(tmp_path / "v.json")
        assert dy.Vocabulary.load(tmp_path / "v.json") == names
        assert dy.Vocabulary.load(tmp_path / "v.json").counts == names.counts
    assert dy.Vocabulary.from_spec(v.spec) == v
    assert dy.Vocabulary(TEXT) != v and v != 3
    bare = dy.Vocabulary(TEXT, unknown=None)
    assert dy.Vocabulary.from_spec(bare.spec) == bare


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"unknown": "u", "names": ["a"], "counts": [1]}',
        '{"unknown": null, "names": ["a", "a"], "counts": [1, 1]}',
        '{"unknown": null, "names": [1], "counts": [1]}',
        '{"unknown": null, "names": ["a"], "counts": []}',
    ],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "v").write_text(content)
    with pytest.raises(ValueError, match="holds no vocabulary"):
        dy.Vocabulary.load(tmp_path / "v")
    with pytest.raises(FileNotFoundError):
        dy.Vocabulary.load(tmp_path / "missing")


def test_a_vocabulary_is_part_of_the_spec_of_a_network(tmp_path):
    class Tagger:
        def __init__(self, model, words):
            self.words, self.model = words, model.add_subcollection("tagger")
            self.table = self.model.add_lookup_parameters((len(words), 2))

        def param_collection(self):
            return self.model

        @property
        def spec(self):
            return (self.words.spec,)

        @classmethod
        def from_spec(cls, spec, model):
            return cls(model, dy.Vocabulary.from_spec(spec[0]))

    globals()["Tagger"] = Tagger
    Tagger.__qualname__ = "Tagger"
    made = Tagger(dy.ParameterCollection(), dy.Vocabulary(TEXT))
    dy.save(tmp_path / "m", [made])
    (loaded,) = dy.load(tmp_path / "m", dy.ParameterCollection(), allow_pickle=True)
    assert loaded.words == made.words
    assert (loaded.table.as_array() == made.table.as_array()).all()


@pytest.mark.parametrize("header", ["", "4 2\n"])
@pytest.mark.parametrize("zipped", [False, True])
def test_vectors_come_from_text_files(tmp_path, header, zipped):
    lines = ["a 1 2\n", "the 0.5 -1 \n", "new york 3 4\n", "other 7 7\n"]
    text = header + "".join([lines[2], *lines] if header else lines)  # which says the size
    file = tmp_path / ("v.txt.gz" if zipped else "v.txt")
    file.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    v = dy.Vocabulary(["a", "The", "new york", "missing"])
    table = v.vectors(file)
    assert table.shape == (5, 2) and table.dtype == np.float32
    assert table[v.ids(["a", "The", "new york"])].tolist() == [[1, 2], [0.5, -1], [3, 4]]
    drawn = table[v.ids(["<unk>", "missing"])]
    assert (drawn != 0).all() and (drawn[0] != drawn[1]).all()
    assert (v.vectors(file) == table).all() and (v.vectors(file, seed=1) != table).any()
    lookup = dy.ParameterCollection().add_lookup_parameters(table.shape, init=table)
    assert (lookup.as_array() == table).all()


def test_vectors_that_are_wrong_are_refused(tmp_path):
    file = tmp_path / "v"
    v = dy.Vocabulary(["a", "b"])
    for text, words in (
        ("a 1 2\nb 1\n", "line 2: 2 numbers are wanted; got 1"),
        ("a 1 x\n", "line 1: "),
        ("2 3\na 1 2\nb 1 2\n", "line 2: 3 numbers are wanted; got 2"),
        ("c 1 2\n", "none of the 3 names"),
        ("", "none of the 3 names"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=words):
            v.vectors(file)
    with pytest.raises(FileNotFoundError):
        v.vectors(tmp_path / "missing")
    zipped = tmp_path / "v.gz"
    zipped.write_bytes(gzip.compress(b"a 1 2\nb 3 4\n")[:-12])
    file.write_bytes(b"\xff 1 2\n")
    for damaged in (zipped, file):
        with pytest.raises(RuntimeError, match=f"Could not read vectors from {damaged}: "):
            v.vectors(damaged)


def test_vectors_of_one_number_have_no_header_by_mistake(tmp_path):
    file = tmp_path / "v"
    v = dy.Vocabulary(["a", "b"])
    for header in ("", "2 1\n"):
        file.write_text(f"{header}a 0.5\nb 3\n")
        assert v.vectors(file)[v.ids(["a", "b"])].tolist() == [[0.5], [3]]


def test_the_file_is_json(tmp_path):
    dy.Vocabulary(["a"]).save(tmp_path / "v")
    assert json.loads((tmp_path / "v").read_text()) == {
        "unknown": "<unk>",
        "names": ["<unk>", "a"],
        "counts": [0, 1],
    }
