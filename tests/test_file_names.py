"""What is written is whole or not written at all, and names that no file can have are refused with
a message."""

import inspect
import re
import resource
from pathlib import Path

import numpy as np
import pytest
from test_public_names import public_functions

import dist_dynet as dy


def _limited(write):
    """With no space for more than 64 bytes in a file."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))
    try:
        write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("write", [dy.dump_cg, dy.draw_graph], ids=lambda f: f.__name__)
def test_graph_files_are_written_whole_or_not_at_all(write, tmp_path):
    dy.renew_cg()
    y = dy.tanh(dy.inputVector(np.ones(50)))
    y.value()
    path = tmp_path / "graph.dot"
    path.write_text("old")
    with pytest.raises(RuntimeError, match=rf"{write.__name__}: could not write '.*graph.dot'"):
        _limited(lambda: write(path))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(RuntimeError, match=r"no/graph\.dot"):
        write(tmp_path / "no" / "graph.dot")
    write(path)
    assert "tanh" in path.read_text()


def test_dump_to_a_full_device():
    dy.renew_cg()
    dy.inputVector([1])
    with pytest.raises(RuntimeError, match="dump_cg: could not write '/dev/full'"):
        dy.dump_cg("/dev/full")


CALLS = {
    "save": lambda m, name: dy.save(name, m.parameters_list()),
    "load": lambda m, name: dy.load(name, m),
    "save_safetensors": lambda m, name: dy.save_safetensors(m, name),
    "load_safetensors": lambda m, name: dy.load_safetensors(m, name),
    "draw_graph": lambda m, name: dy.draw_graph(name),
    "dump_cg": lambda m, name: dy.dump_cg(name),
    "ComputationGraph.dump": lambda m, name: dy.cg().dump(name),
    "Best.__init__": lambda m, name: dy.training.Best(m, name),
    "Run.__init__": lambda m, name: dy.training.Run(dy.SimpleSGDTrainer(m), name),
    "Checkpointer.__init__": lambda m, name: dy.parallel.Checkpointer(
        name, m, dy.SimpleSGDTrainer(m)
    ),
    **{
        f"{cls.__name__}.__init__": lambda m, name, cls=cls: cls(2, name, {"a": 0}, m)
        for cls in (dy.ClassFactoredSoftmaxBuilder, dy.HierarchicalSoftmaxBuilder)
    },
    "Profile.save": lambda m, name: dy.Profile().save(name),
    "Vocabulary.save": lambda m, name: dy.Vocabulary(["a"]).save(name),
    "Vocabulary.vectors": lambda m, name: dy.Vocabulary(["a"]).vectors(name),
    "load_generator": lambda m, name: next(dy.load_generator(name, m)),
    "Vocabulary.load": lambda m, name: dy.Vocabulary.load(name),
    **{
        f"{cls.__name__}.{method}": lambda m, name, cls=cls, method=method: getattr(
            m.parameters_list()[0] if cls is dy.Parameters else m.lookup_parameters_list()[0],
            method,
        )(name)
        for cls in (dy.Parameters, dy.LookupParameters)
        for method in ("save", "populate", "write_to_textfile", "populate_from_textfile")
    },
    **{
        f"ParameterCollection.{method}": lambda m, name, method=method: getattr(m, method)(name)
        for method in ("save", "populate", "write_to_textfile", "populate_from_textfile")
    },
    **{
        f"ParameterCollection.{method}": lambda m, name, method=method: getattr(m, method)(
            name, "/x"
        )
        for method in ("load_param", "load_lookup_param")
    },
}
OTHER_NAMES = {"FromFileInitializer.__init__": "takes bytes, too, as DyNet's does"}


def test_whatever_takes_the_name_of_a_file_is_in_the_table():
    """By the annotation, or the name of the argument."""
    named = {"fname", "file", "filename", "folder", "directory"}
    taking = {
        name
        for name, f in public_functions().items()
        for argument in inspect.signature(f).parameters.values()
        if re.search(r"\bFileName\b|\bPath", str(argument.annotation)) or argument.name in named
    }
    missing = taking - {*CALLS, *OTHER_NAMES}
    assert not missing, f"give {sorted(missing)} rows in CALLS of tests/test_file_names.py"


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_names_that_no_file_can_have(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    m = dy.ParameterCollection()
    m.add_parameters(2)
    m.add_lookup_parameters((2, 2))
    dy.renew_cg()
    dy.inputVector([1])
    with pytest.raises(TypeError, match=r"a file name must be text or a path; got b'model\.dot'"):
        call(m, b"model.dot")
    with pytest.raises(TypeError, match="a file name must be text or a path; got 3"):
        call(m, 3)
    with pytest.raises(ValueError, match="must not contain the character with number 0"):
        call(m, "model\0.dot")
    with pytest.raises(ValueError, match=r"a file name must be text that the system can write; g"):
        call(m, "model\ud800.dot")
    assert not list(Path().iterdir())


LATER = {"Best.__init__", "Run.__init__", "Checkpointer.__init__"}
"""What does not touch its file yet."""


@pytest.mark.parametrize("name", [name for name in CALLS if name not in LATER])
def test_links_that_lead_back_to_themselves(name, tmp_path):
    m = dy.ParameterCollection()
    m.add_parameters(2)
    m.add_lookup_parameters((2, 2))
    dy.renew_cg()
    dy.inputVector([1])
    links = [tmp_path / f"loop{end}" for end in ("", ".data", ".meta", ".dot")]
    for link in links:
        link.symlink_to(link.name)
    with pytest.raises((RuntimeError, ValueError), match="oo many levels of symbolic links") as e:
        CALLS[name](m, tmp_path / ("loop.dot" if name == "draw_graph" else "loop"))
    assert re.match(r"[\w.]+: \S|Could not read \w+ from \S", str(e.value)), e.value
    assert {*tmp_path.iterdir()} == {*links} and all(link.is_symlink() for link in links)


def test_numbers_that_are_none():
    m = dy.ParameterCollection()
    w, lstm = m.add_parameters(2), dy.SparseLSTMBuilder(1, 2, 2, m)
    before = w.as_array()
    for value in ("a", "1", None, [1, 2]):
        with pytest.raises(TypeError, match="clip_inplace: takes numbers"):
            w.clip_inplace(value, 1)
        with pytest.raises(TypeError, match="clip_inplace: takes numbers"):
            w.clip_inplace(0, value)
        with pytest.raises(TypeError, match="set_sparsity: takes numbers"):
            lstm.set_sparsity(value)
    assert (w.as_array() == before).all()
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\]"):
        lstm.set_sparsity(float("nan"))
