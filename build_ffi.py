"""Builds the C extensions with cffi (API mode), from one header.

There is one per number type: `_core_float32` and `_core_float64` hold all of csrc but csrc/python.
setup.py names the two FFI objects below; `python setup.py build_ext --inplace` builds them for work
on the sources.
"""

import functools
import os
import re
import runpy
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
GENERATED = ROOT / "build" / "generated"
SOURCES = sorted(str(p.relative_to(ROOT)) for p in CSRC.rglob("*.c") if p.parent.name != "python")
ROWS = [*sorted((CSRC / "ops").glob("*.c")), CSRC / "graph" / "leaves.c"]
"""The files with rows of operations."""
HEADERS = sorted(str(p.relative_to(ROOT)) for p in CSRC.rglob("*.h"))
FLAGS = [
    "-O3",
    "-std=gnu11",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp-simd",
    "-fvisibility=hidden",
    "-Werror=implicit-function-declaration",
    "-Wno-pass-failed",  # of clang: which loops it does not make vector loops
    "-g0",  # Python's own flags ask for -g: three quarters of the file, a quarter of the time
    *os.environ.get("DIST_DYNET_CFLAGS", "").split(),
]

CLONES_PROBE = """
#include "dn_real.h"
void f(float *x, int n);
#ifdef CALLER
__attribute__((target("arch=skylake-avx512"))) static void g(float *x) { x[0] += 1; }
int main(int argc, char **argv) { (void)argv; float x[1] = {0}; __builtin_cpu_init(); f(x, argc);
    if (__builtin_cpu_supports("avx512f")) g(x); return x[0] < 0; }
#else
DN_MULTIVERSION void f(float *x, int n) { for (int i = 0; i < n; i++) x[i] += 1; }
#endif
"""
"""Two files: clang 14 calls what it has cloned by another name than other files do."""


def compiler() -> list[str]:
    """The C compiler that Python's own build machinery would take."""
    return (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()


def need_compiler() -> None:
    """One line where there is no C compiler, or none that finds the C library and Python's
    headers."""
    told = compiler()
    install = "Debian, Ubuntu: apt install gcc libc6-dev python3-dev; Fedora: dnf install gcc"
    install += " python3-devel. CC names another compiler. Wheels need none."
    if not shutil.which(told[0]):
        raise SystemExit(f"dist_dynet: needs a C compiler; {told[0]} is not there. {install}")
    for header in ("stdlib.h", "Python.h"):
        result = subprocess.run(
            [*told, "-E", f"-I{sysconfig.get_path('include')}", "-x", "c", "-"],
            input=f"#include <{header}>\n",
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode:
            raise SystemExit(
                f"dist_dynet: the C compiler {' '.join(told)} must find {header}. {install}"
            )


def clone_flags() -> list[str]:
    """The best form of function multiversioning that the compiler knows (dn_real.h); none: one
    version for every processor.

    DIST_DYNET_CLONES=0 asks for none: for other compilers' sake in tests, and for sanitizers, which
    do not get on with it.
    """
    if os.environ.get("DIST_DYNET_CLONES") == "0":
        return []
    with tempfile.TemporaryDirectory() as folder:
        sources = [Path(folder) / name for name in ("callee.c", "caller.c")]
        for source, first in zip(sources, ("", "#define CALLER\n"), strict=True):
            source.write_text(first + CLONES_PROBE)
        for level in ("2", "1"):
            flag = f"-DDN_TARGET_CLONES={level}"
            command = [
                *compiler(),
                "-O2",
                "-Werror",
                "-fPIC",
                flag,
                f"-I{CSRC}",
                *map(str, sources),
                "-o",
                str(Path(folder) / "probe"),
            ]
            if subprocess.run(command, capture_output=True, check=False).returncode == 0:
                return [flag]
    return []


def write_op_list() -> None:
    """Gathers the rows DN_OP(name, ...) of csrc/ops into op_list.h: the one list of operations."""
    row = re.compile(r"^(?:DN_OP|ELEMENTWISE)\((\w+),", re.M)
    names = [m[1] for p in ROWS for m in row.finditer(p.read_text())]
    twice = {n for n in names if names.count(n) > 1}
    if twice:
        raise SystemExit(f"csrc/ops: these operations have two rows: {', '.join(sorted(twice))}")
    text = "".join(f"DN_OP_ITEM({name})\n" for name in names)
    GENERATED.mkdir(parents=True, exist_ok=True)
    path = GENERATED / "op_list.h"
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def sources_by_file() -> dict[str, str]:
    """{file: its text as the preprocessor leaves it}, headers included; nothing of what the
    compiler refuses, which says so later.

    The system's headers count as empty: nothing of theirs is asked for, and to read them for each
    source would take most of the time.
    """
    relative = functools.cache(lambda file: os.path.relpath(ROOT / file, ROOT))
    texts: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in CSRC.rglob("*.[ch]"):
            for name in re.findall(r"^ *# *include <(.+)>", path.read_text(), re.M):
                empty = Path(folder) / name
                empty.parent.mkdir(parents=True, exist_ok=True)
                empty.touch()
        folders = [f"-I{path}" for path in (CSRC, GENERATED, folder)]
        command = [*compiler(), "-E", "-nostdinc", *folders, *SOURCES]
        result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    text: list[str] = []
    for line in result.stdout.splitlines() if result.returncode == 0 else ():
        if line.startswith("# ") and (marker := re.match(r'# \d+ "([^"]+)"', line)):
            text = texts.setdefault(relative(marker[1]), [])
        else:
            text.append(line)
    return {name: "\n".join(lines) for name, lines in texts.items() if name.startswith("csrc/")}


def kernel_gaps() -> list[str]:
    """Kernels that are used, declared in kernels.h and defined, but not all three: each with the
    file to edit first."""
    header, texts = "csrc/kernels/kernels.h", sources_by_file()
    files = {name: text for name, text in texts.items() if name.endswith(".c")}
    declared = dict.fromkeys(re.findall(r"\b(dn__\w+)\s*\(", texts.get(header, "")))
    defined = {
        name: file
        for file, text in files.items()
        for name in re.findall(r"\b(dn__\w+)\([^;{}]*\)\s*\{", text)
    }
    uses = {file: re.findall(r"\b(dn__\w+)", text) for file, text in files.items()}
    in_headers = {
        file: set(re.findall(r"\b(dn__\w+)", text))
        for file, text in texts.items()
        if file not in files
    }
    everywhere = set().union(*in_headers.values())
    inline = set().union(*(names for file, names in in_headers.items() if file != header))
    users: dict[str, list[str]] = {}
    for file, names in uses.items():
        for name in set(names) - {
            n for n in names if defined.get(n) == file and names.count(n) == 1
        }:
            users.setdefault(name, []).append(file)
    gaps = [
        f"{header}: does not declare {name}, which {users[name][0]} uses"
        for name in sorted(users.keys() - everywhere)
        if users[name] != [defined.get(name)]
    ]
    raw, previous = (CSRC / "kernels" / "kernels.h").read_text(), ""
    for name in declared:
        if name not in defined:
            place = re.search(
                rf"\b(?:dn__)?{name.removeprefix('dn__').removesuffix('_grad')}\b", raw
            )
            section = re.findall(r"kernels/\w+\.c", raw[: place.start() if place else None])
            gaps.append(f"csrc/{section[-1]}: does not define {name}, which {header} declares")
        elif name not in users and name not in inline:
            gaps.append(
                f"{users[previous][0] if previous in users else 'csrc'}: does not use {name}, which"
                f" {header} declares"
            )
        elif name in users:
            previous = name
    return gaps


def rule_gaps() -> list[str]:
    """Rules of trainers that are in one of the two lists only."""
    listed = set(re.findall(r"^ +(DN_RULE_\w+)", (CSRC / "dn_api.h").read_text(), re.M))
    rows = set(re.findall(r"\[(DN_RULE_\w+)\] =", (CSRC / "params" / "rules.c").read_text()))
    gaps = [
        f"csrc/params/rules.c: RULES has no row of {name}, which csrc/dn_api.h lists"
        for name in sorted(listed - rows)
    ]
    return gaps + [
        f"csrc/dn_api.h: does not list {name}, of which RULES in csrc/params/rules.c has a row"
        for name in sorted(rows - listed)
    ]


def declarations(defines: list[str]) -> str:
    """What cffi reads of dn_api.h."""
    command = [
        *compiler(),
        "-E",
        "-P",
        "-DDN_CDEF",
        *defines,
        f"-I{GENERATED}",
        str(CSRC / "dn_api.h"),
    ]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def make(name: str, defines: list[str]) -> FFI:
    """The FFI of an extension of all sources, with these macros."""
    checkout = runpy.run_path(str(ROOT / "dist_dynet" / "_checkout.py"))
    number = f"enum dn_sources {{ DN_API = {checkout['api_number'](CSRC)} }};\n"
    ffi = FFI()
    ffi.cdef(declarations(defines) + number)
    ffi.set_source(
        f"dist_dynet.{name}",
        f'#include "dn_api.h"\n{number}',
        sources=SOURCES,
        depends=[*HEADERS, str((GENERATED / "op_list.h").relative_to(ROOT)), "build_ffi.py"],
        include_dirs=["csrc", str(GENERATED.relative_to(ROOT))],
        extra_compile_args=[*FLAGS, *defines],
        libraries=["m", "pthread"],
    )
    return ffi


need_compiler()
write_op_list()
if gaps := kernel_gaps() + rule_gaps():
    raise SystemExit("\n".join(gaps))
clones = clone_flags()
core_float = make("_core_float32", clones)
core_double = make("_core_float64", [*clones, "-DDN_DOUBLE"])
