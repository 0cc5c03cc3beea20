"""Hostile, damaged and odd files of saved objects: they are refused with a message, or harmless,
and nothing that they name is called, imported or asked."""

from __future__ import annotations

import collections
import contextlib
import copyreg
import os
import pickle
import re
import struct
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import numpy as np
import pytest
from pickled_classes import (
    Closing,
    Colour,
    Factory,
    Laid,
    Layer,
    Point,
    Restoring,
    Slotted,
    Vocabulary,
    Watched,
    calls,
    filled,
)
from text_files import small, state

import dist_dynet as dy
from dist_dynet.io import load, save


@pytest.fixture(autouse=True)
def no_calls():
    calls.clear()


def named(thing, name=None):
    """The opcode for a class or function, by its module and name."""
    return f"c{thing.__module__}\n{name or thing.__name__}\n".encode()


def text(s):
    return b"V" + s.encode() + b"\n"


def number(n):
    return b"L%dL\n" % n


def meta(spec):
    """A record with this spec, given in opcodes."""
    return b"(" + named(Layer) + spec + text("/layer/") + b"t."


SYSTEM = b"cos\nsystem\n"
TOUCH = b"(" + text("touch evil") + b"t"
VOCABULARY, WATCHED = named(Vocabulary), named(Watched)
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
F8 = b"cnumpy\ndtype\n(Vf8\nI0\nI1\ntR"


def array(shape, dtype=F8, data=b"B\x08\x00\x00\x00" + bytes(8)):
    return (
        RECONSTRUCT
        + b"(I1\n("
        + b"".join(map(number, shape))
        + b"t"
        + dtype
        + b"I00\n"
        + data
        + b"tb"
    )


HOSTILE = {
    "call": (SYSTEM + TOUCH + b"R", "os.system is named"),
    "nested call": (b"(lp0\n" + SYSTEM + TOUCH + b"Ra", "os.system"),
    "call in arguments": (
        named(collections.OrderedDict) + b"(" + SYSTEM + TOUCH + b"RtR",
        "os.system",
    ),
    "inst": (b"(" + text("touch evil") + b"ios\nsystem\n", "INST"),
    "obj": (b"(" + SYSTEM + text("touch evil") + b"o", "os.system"),
    "obj of a builder": (b"(" + named(Layer) + text("x") + b"o", "OBJ"),
    "newobj of a function": (SYSTEM + TOUCH + b"\x81", "os.system"),
    "eval": (b"cbuiltins\neval\n(Vopen('evil', 'w')\ntR", "builtins.eval"),
    "eval of Python 2": (b"c__builtin__\neval\n(Vopen('evil', 'w')\ntR", "builtins.eval"),
    "getattr": (
        b"cbuiltins\ngetattr\n(" + VOCABULARY + text("__init__") + b"tR",
        "Vocabulary.__init__ is named",
    ),
    "getattr of a value": (
        b"cbuiltins\ngetattr\n(" + named(Layer) + text("from_spec") + b"tR",
        "Layer.from_spec is named",
    ),
    "getattr of an object": (
        b"cbuiltins\ngetattr\n(" + WATCHED + b")\x81" + text("x") + b"tR",
        "an attribute of something is taken",
    ),
    "dotted name": (
        b"c" + Layer.__module__.encode() + b"\nos.system\n" + TOUCH + b"R",
        "does not have",
    ),
    "class by another module": (b"cpathlib\nos\n", "pathlib.os is named"),
    "call of an own class": (VOCABULARY + b"((ltR", "would be called with arguments"),
    "call of a builder": (named(Layer) + b"(NNtR", "Layer would be called"),
    "call of an operation": (
        b"cdynet\nreset_random_seed\n(I1\ntR",
        "dynet.reset_random_seed is named",
    ),
    "new with arguments": (WATCHED + b"(I1\nt\x81", "would be called with arguments"),
    "new with keywords": (
        WATCHED + b")}" + text("a") + b"I1\ns\x92",
        "would be called with arguments",
    ),
    "build on a class": (
        named(Layer) + b"}" + text("from_spec") + b"I1\nsb",
        "attributes of .*Layer are set",
    ),
    "build on a name": (
        VOCABULARY + b"}" + text("x") + b"I1\nsb",
        "attributes of .*Vocabulary are set",
    ),
    "build on an operation": (
        b"cdynet\ntanh\n}" + text("__doc__") + b"I1\nsb",
        "attributes of .*tanh are set",
    ),
    "build on an enum": (named(Colour) + b"(I1\ntR}" + text("_value_") + b"I1\nsb", "are set"),
    "build with other names": (VOCABULARY + b")\x81}I1\nI1\nsb", "not a dictionary of names"),
    "build with a list": (VOCABULARY + b")\x81(lb", "not a dictionary of names"),
    "unknown slots": (
        named(Slotted) + b")\x81(N}" + text("hidden") + b"I1\nstb",
        "other __slots__",
    ),
    "slots that are methods": (
        named(Slotted) + b")\x81(N}" + text("hidden") + b"I1\nstb",
        "other __slots__",
    ),
    "setstate": (
        named(Restoring) + b")\x81}" + text("x") + b"I1\nsb",
        "Restoring has a __setstate__",
    ),
    "del": (named(Closing) + b")\x81", "Closing has a __del__"),
    "append to an object": (WATCHED + b")\x81I1\na", "items are added to"),
    "items of an object": (WATCHED + b")\x81I1\nI1\ns", "items of .* are set"),
    "items of a class": (named(Layer) + b"I1\nI1\ns", "items of .* are set"),
    "object as a key": (b"}" + WATCHED + b")\x81I1\ns", "__hash__ and __eq__"),
    "object in a tuple as a key": (b"}(" + WATCHED + b")\x81tI1\ns", "__hash__ and __eq__"),
    "object in a set": (b"\x8f(" + WATCHED + b")\x81\x90", "__hash__ and __eq__"),
    "object in an old set": (
        b"c__builtin__\nset\n((l" + WATCHED + b")\x81atR",
        "__hash__ and __eq__",
    ),
    "object in a frozenset": (b"(" + WATCHED + b")\x81\x91", "__hash__ and __eq__"),
    "object in a dict": (b"(" + WATCHED + b")\x81I1\nd", "__hash__ and __eq__"),
    "class as a value": (VOCABULARY, "Vocabulary is kept as a value"),
    "class in an object": (
        VOCABULARY + b")\x81}" + text("x") + VOCABULARY + b"sb",
        "Vocabulary is kept as a value",
    ),
    "function as a value": (b"c_codecs\nencode\n", "_codecs.encode is kept as a value"),
    "getattr as a value": (b"cbuiltins\ngetattr\n", "builtins.getattr is kept as a value"),
    "persistent id": (b"Pevil\n", "PERSID"),
    "binary persistent id": (text("evil") + b"Q", "BINPERSID"),
    "extension code": (b"\x82\x07" + TOUCH + b"R", "EXT1"),
    "long extension code": (b"\x84\x07\x00\x00\x00" + TOUCH + b"R", "EXT4"),
    "out of band": (b"\x97", "NEXT_BUFFER"),
    "enum that is missing": (named(Colour) + b"(I7\ntR", "no such member"),
    "enum by new": (named(Colour) + b"(I7\nt\x81", "enum"),
    "enum by another attribute": (
        b"cbuiltins\ngetattr\n(" + named(Colour) + text("_missing_") + b"tR",
        "Colour._missing_ is named",
    ),
    "named tuple too short": (named(Point) + b"(I1\nt\x81", "has 2 fields"),
    "named tuple called": (named(Point) + b"(I1\nI1\ntR", "would be called"),
    "defaultdict of a function": (b"ccollections\ndefaultdict\n(" + SYSTEM + b"tR", "os.system"),
    "defaultdict of a builder": (
        b"ccollections\ndefaultdict\n(" + named(Layer) + b"tR",
        "makes its values",
    ),
    "defaultdict of an operation": (
        b"ccollections\ndefaultdict\n(cdynet\nones\ntR",
        "makes its values",
    ),
    "own defaultdict of a builder": (
        named(Factory) + b"(" + named(Layer) + b"tR",
        "makes its values",
    ),
    "Counter of an object": (
        b"ccollections\nCounter\n(" + WATCHED + b")\x81tR",
        "not given a dictionary",
    ),
    "deque of a generator": (
        b"ccollections\ndeque\n(" + VOCABULARY + b")\x81I1\ntR",
        "a deque is given",
    ),
    "deque of less than nothing": (
        b"ccollections\ndeque\n()I-1\ntR",
        "maxlen must be non-negative",
    ),
    "OrderedDict of pairs": (b"ccollections\nOrderedDict\n((ltR", "is given arguments"),
    "bytearray of a number": (b"cbuiltins\nbytearray\n(L99999999999L\ntR", "not given as bytes"),
    "bytes of a number": (b"cbuiltins\nbytes\n(L99999999999L\ntR", "not given as bytes"),
    "list of a range": (
        b"cbuiltins\nlist\n(cbuiltins\nrange\n(L99999999999L\ntRtR",
        "list would be called",
    ),
    "set of a range": (
        b"cbuiltins\nset\n(cbuiltins\nrange\n(L99999999999L\ntRtR",
        "not given a list",
    ),
    "appends of a range": (b"(lcbuiltins\nrange\n(I9\ntRe", "load|must be readable"),
    "huge Fraction": (b"cfractions\nFraction\n(V1e999999999\ntR", "as two integers"),
    "codec": (b"c_codecs\nencode\n(Vx\nVzlib_codec\ntR", "not given as bytes"),
    "huge shape": (array([10**12]), "other contents"),
    "negative shape": (array([-1]), "NumPy does not write"),
    "shape of more than there is": (array([2]), "other contents"),
    "overflowing shape": (array([2**62, 4]), "other contents"),
    "empty elements": (
        array([10**15], b"cnumpy\ndtype\n(VV0\nI0\nI1\ntR", b"C\x00"),
        "other contents",
    ),
    "pointers": (array([1], b"cnumpy\ndtype\n(VO8\nI0\nI1\ntR"), "other contents"),
    "pointers of a scalar": (
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(VO8\nI0\nI1\ntRC\x08" + bytes(8) + b"tR",
        "other contents",
    ),
    "pointers in fields": (
        array(
            [1],
            b"cnumpy\ndtype\n(VV8\nI0\nI1\ntR"
            b"(I3\nV|\nN(Va\nt}Va\n(cnumpy\ndtype\n(VO8\nI0\nI1\ntRI0\ntsI8\nI1\nI16\ntb",
        ),
        "other contents",
    ),
    "dtype of another size": (
        b"cnumpy\ndtype\n(Vf8\nI0\nI1\ntR(I3\nV<\nNNNI64\nI8\nI0\ntb",
        "NumPy does not write",
    ),
    "dtype with flags": (array([1], F8 + b"(I3\nV<\nNNNI-1\nI-1\nI63\ntb"), ""),
    "dtype of text": (b"cnumpy\ndtype\n(Vf8,f8\nI0\nI1\ntR", "simple name"),
    "array of a class": (
        b"cnumpy.core.multiarray\n_reconstruct\n(" + VOCABULARY + b"(I0\ntC\x01btR",
        "a class of its own",
    ),
    "array of a shape": (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(L99999999999L\ntC\x01btR",
        "",
    ),
    "path of an object": (b"cpathlib\nPurePosixPath\n(" + WATCHED + b")\x81tR", "other arguments"),
    "time zone of an object": (b"cdatetime\ntimezone\n(" + WATCHED + b")\x81tR", "other arguments"),
    "reconstructor of another base": (
        b"ccopyreg\n_reconstructor\n(" + VOCABULARY + b"cbuiltins\ndict\n}tR",
        "is made of a",
    ),
    "reconstructor of a builder": (
        b"ccopyreg\n_reconstructor\n(" + SYSTEM + b"cbuiltins\nobject\nNtR",
        "os.system",
    ),
    "reconstructor of a type": (
        b"ccopyreg\n_reconstructor\n(cbuiltins\nset\ncbuiltins\nobject\nNtR",
        "an object of builtins.set is made",
    ),
    "object of another layout": (named(Laid) + b")\x81", "Laid is derived from a built-in class"),
    "comparison of an array's order": (
        b"cnumpy.core.numeric\n_frombuffer\n(C\x08"
        + bytes(8)
        + F8
        + b"(I1\nt"
        + WATCHED
        + b")\x81tR",
        "does not write",
    ),
    "comparison of a dtype's size": (
        F8 + b"(I3\nV<\nNNN" + WATCHED + b")\x81I-1\nI0\ntb",
        "does not write",
    ),
    "comparison of keywords": (
        WATCHED + b")" + WATCHED + b")\x81\x92",
        "would be called with arguments",
    ),
    "long name": (b"c" + b"x" * 1_000_000 + b"\ny\n", r"x{100}\.y is named"),
    "subprocess": (b"csubprocess\nPopen\n)\x81", "subprocess.Popen is named"),
    "subprocess by the module": (
        named(Layer).replace(b"Layer", b"subprocess") + b")\x81",
        "subprocess is named",
    ),
    "loop of a key": (b"}" + b"(I1\nt" + b"2\x86" * 200 + b"I1\ns", "too many parts"),
    "deep key": (b"}" + b")" + b"\x85" * 100_000 + b"I1\ns", "too many parts"),
    "deep frozenset": (b")" + b"(\x91" + b"\x85\x85" * 100_000 + b"(20\x91", ""),
    "stack underflow": (b"0" * 50, "must be readable"),
    "frame of nothing": (b"\x95" + struct.pack("<Q", 2**62), "must describe objects"),
    "long string": (b"\x8d" + struct.pack("<Q", 2**40), "must be readable"),
    "long bytes": (b"\x8e" + struct.pack("<Q", 2**40), "must be readable"),
    "long bytearray": (b"\x96" + struct.pack("<Q", 2**40), "must be readable"),
    "endless bytearray": (b"\x96" + b"\xff" * 8, "must be readable"),
    "long integer": (b"\x8b" + struct.pack("<i", 2**31 - 1), "must be readable"),
    "negative integer": (b"\x8b" + struct.pack("<i", -5), "must be readable"),
    "many digits": (b"I" + b"9" * 1_000_000 + b"\n", "must be readable"),
    "protocol": (b"\x80\xff", "must be readable"),
    "memo that is empty": (b"j\xff\xff\xff\xff", "must be readable"),
    "unknown opcode": (b"\xff", "must be readable"),
}


@pytest.fixture(scope="module")
def limited():
    """Runs code with 600 MB of memory beyond what is there: what a file claims would take much
    more."""
    import resource

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


PYTHONS_OWN = re.compile(r"encodings\.raw_unicode_escape|_sysconfigdata_.*")
"""What Python itself imports when it first reads a text, or is asked where it is installed."""


@pytest.fixture
def hostile(tmp_path, monkeypatch, limited):
    """Loads a hostile .meta; gives the error's text; sees to it that nothing has happened."""
    monkeypatch.chdir(tmp_path)
    save("o", [Layer(dy.ParameterCollection(), 0)])
    calls.clear()

    def read(content):
        Path("o.meta").write_bytes(content)
        m = small()
        before, modules = state(m), set(sys.modules)
        with pytest.raises(RuntimeError, match=r"^load: .*o\.meta") as caught:
            load("o", m)
        imported = {n for n in set(sys.modules) - modules if not PYTHONS_OWN.fullmatch(n)}
        assert state(m) == before and not imported
        assert calls == [] and sorted(p.name for p in Path().iterdir()) == ["o.data", "o.meta"]
        assert not isinstance(caught.value.__cause__, MemoryError), (
            "it was stopped by the limit of memory"
        )
        assert len(str(caught.value)) < 2000
        return str(caught.value)

    return read


@pytest.mark.parametrize("name", [n for n in HOSTILE if HOSTILE[n][1]])
def test_hostile_specs_are_refused_with_a_message_and_do_nothing(hostile, name):
    content, match = HOSTILE[name]
    copyreg.add_extension("os", "system", 7)
    try:
        message = hostile(meta(content))
    finally:
        copyreg.remove_extension("os", "system", 7)
    assert re.search(match, message), message


@pytest.mark.parametrize("name", [n for n in HOSTILE if not HOSTILE[n][1]])
def test_odd_specs_are_harmless(tmp_path, limited, name):
    """What they describe is odd, but made as it should be, or refused."""
    save(tmp_path / "o", [Layer(dy.ParameterCollection(), 0)])
    (tmp_path / "o.meta").write_bytes(meta(HOSTILE[name][0]))
    try:
        (layer,) = load(tmp_path / "o", dy.ParameterCollection())
    except RuntimeError as error:
        assert str(error).startswith("load: ") and not isinstance(error.__cause__, MemoryError)
    else:
        assert not isinstance(layer.spec, np.ndarray) or layer.spec.nbytes <= 8
        assert not isinstance(layer.spec, np.ndarray) or not layer.spec.dtype.hasobject


@pytest.mark.parametrize("allow_pickle", [False, True])
@pytest.mark.parametrize(
    "content", [b"\x80\x04Nr\xff\xff\xff\x7f.", b"Nr\xff\xff\xff\xff.", b"Np4000000000\n."]
)
def test_index_of_the_memo_takes_no_memory(tmp_path, limited, content, allow_pickle):
    (tmp_path / "o.meta").write_bytes(content)
    (tmp_path / "o.data").write_bytes(b"")
    with pytest.raises(RuntimeError, match="must describe objects; got a NoneType"):
        load(tmp_path / "o", dy.ParameterCollection(), allow_pickle=allow_pickle)
    (tmp_path / "o.meta").write_bytes(b"\x96" + struct.pack("<Q", 2**40))
    with pytest.raises(RuntimeError, match="truncated"):
        load(tmp_path / "o", dy.ParameterCollection(), allow_pickle=allow_pickle)


@pytest.mark.parametrize(
    "kind",
    ["defaultdict", "deque", "object array", "list", "tuple", "dict", "SimpleNamespace", "object"],
)
@pytest.mark.parametrize("outwards", [True, False])
def test_deep_nesting_ends_in_no_crash(tmp_path, kind, outwards):
    """From within, or from without: each container is filled after it was put into the next one."""
    deep = 60_000
    empty, fill = {
        "defaultdict": (b"ccollections\ndefaultdict\n)R", b"I1\n%bs"),
        "deque": (b"ccollections\ndeque\n)R", b"%ba"),
        "object array": (RECONSTRUCT, b"(I1\n(I1\ntcnumpy\ndtype\n(VO\nI0\nI1\ntRI00\n(l%batb"),
        "list": (b"]", b"%ba"),
        "tuple": (b"", b"%b\x85"),
        "dict": (b"}", b"I1\n%bs"),
        "SimpleNamespace": (b"ctypes\nSimpleNamespace\n)R", b"}Vx\n%bsb"),
        "object": (VOCABULARY + b")\x81", b"}Vx\n%bsb"),
    }[kind]
    if kind == "tuple":
        spec = b")" + b"\x85" * deep
    elif outwards:
        # each is the value of the next: made, kept in the memo, put into the next
        spec = b"N" + b"".join(b"q\x00" + b"0" + empty + fill % b"h\x00" for _ in range(deep))
    else:
        spec = (
            empty
            + b"q\x01q\x00"
            + b"".join(b"0h\x00" + fill % (empty + b"q\x00") for _ in range(deep))
            + b"0h\x01"
        )
    program = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import dist_dynet as dy, pickled_classes
        dy.save("o", [pickled_classes.Layer(dy.ParameterCollection(), 0)])
        open("o.meta", "wb").write(open("deep", "rb").read())
        try:
            dy.load("o", dy.ParameterCollection())
            print("loaded")
        except RuntimeError as error:
            print(error)
    """
    (tmp_path / "deep").write_bytes(meta(spec))
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    job = subprocess.run(
        [sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert job.returncode == 0, (job.returncode, job.stderr)
    if kind in ("defaultdict", "deque", "object array"):
        assert "containers are nested more than 1000 deep" in job.stdout
    else:
        assert job.stdout == "loaded\n" or "load: " in job.stdout


def test_modules_that_a_file_names_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "leaves_a_mark.py").write_text(
        "open('mark', 'w')\nclass Layer:\n    from_spec = None\n"
    )
    package = tmp_path / "also_a_mark"
    package.mkdir()
    (package / "__init__.py").write_text("open('mark', 'w')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    save("o", [Layer(dy.ParameterCollection(), 0)])
    for name in (
        "leaves_a_mark\nLayer",
        "also_a_mark.inside\nf",
        "dist_dynet.leaves_a_mark\nx",
        "dist_dynet.parallel\nf",
    ):
        for content in (
            b"(c" + name.encode() + b"\nNV/layer/\nt.",
            meta(b"c" + name.encode() + b"\n"),
        ):
            Path("o.meta").write_bytes(content)
            with pytest.raises(
                RuntimeError, match=r"whose module this program has not imported|does not have"
            ):
                load("o", dy.ParameterCollection())
    assert not Path("mark").exists() and "leaves_a_mark" not in sys.modules


def test_lazy_modules_are_not_asked(tmp_path, monkeypatch):
    class Lazy(types.ModuleType):
        def __getattribute__(self, name):
            calls.append(name)
            return super().__getattribute__(name)

        def __getattr__(self, name):
            calls.append(name)
            return Vocabulary

    monkeypatch.setitem(sys.modules, "lazy_module", Lazy("lazy_module"))
    save(tmp_path / "o", [Layer(dy.ParameterCollection(), 0)])
    calls.clear()
    (tmp_path / "o.meta").write_bytes(meta(b"clazy_module\nVocabulary\n)\x81"))
    with pytest.raises(
        RuntimeError, match=r"lazy_module\.Vocabulary is named, which this program does not have"
    ):
        load(tmp_path / "o", dy.ParameterCollection())
    assert calls == []


def test_classes_of_other_packages_are_not_made(tmp_path, monkeypatch):
    """Neither by their own name nor by that of a module of the program that has imported them."""
    monkeypatch.chdir(tmp_path)
    site = tmp_path / "venv" / "site-packages"
    site.mkdir(parents=True)
    (site / "installed_module.py").write_text("class Thing:\n    pass\n")
    (tmp_path / "own_module.py").write_text(
        "from installed_module import Thing\nclass Mine:\n    pass\n"
    )
    elsewhere = tmp_path.parent / f"{tmp_path.name}-elsewhere"
    elsewhere.mkdir()
    (elsewhere / "foreign_module.py").write_text("class Thing:\n    pass\n")
    for folder in (tmp_path, site, elsewhere):
        monkeypatch.syspath_prepend(str(folder))
    import foreign_module  # noqa: F401
    import installed_module  # noqa: F401
    import own_module

    save("o", [Layer(dy.ParameterCollection(), 0)])
    for name in (
        "installed_module\nThing",
        "own_module\nThing",
        "foreign_module\nThing",
        "argparse\nArgumentParser",
    ):
        Path("o.meta").write_bytes(meta(b"c" + name.encode() + b"\n)\x81"))
        with pytest.raises(RuntimeError, match="nor a class of the program's own modules"):
            load("o", dy.ParameterCollection())
    Path("o.meta").write_bytes(meta(b"cown_module\nMine\n)\x81"))
    assert type(load("o", dy.ParameterCollection())[0].spec) is own_module.Mine


@pytest.mark.parametrize("seed", range(4))
def test_damaged_pickles_are_refused_or_harmless(hostile, seed):
    """Bytes of good files changed at random: an exception in a message, or an object; no call, no
    file, no crash."""
    rng = np.random.default_rng(seed)
    good = pickle.dumps(
        (
            Layer,
            [
                Vocabulary(["a"]),
                Colour.RED,
                np.arange(3),
                {"x": filled(Watched)},
                collections.deque([1], 3),
            ],
            "/layer/",
        )
    )
    data = Path("o.data").read_bytes()
    for _ in range(400):
        content = bytearray(good)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            content[place] = rng.integers(0, 256)
        Path("o.meta").write_bytes(content)
        calls.clear()
        with contextlib.suppress(RuntimeError):
            load("o", dy.ParameterCollection())
        assert not set(calls) - {"init"} and Path("o.data").read_bytes() == data
        assert sorted(p.name for p in Path().iterdir()) == ["o.data", "o.meta"]
