"""Builds the package: the C extensions (build_ffi.py, and the one that is written by hand), what is
installed, and what is computed of its description. All else is in pyproject.toml."""

import copy
import os
import re
import runpy
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def check_python() -> None:
    """Refuses in one line what cannot be compiled, or would not work."""
    if sys.platform != "linux":
        raise SystemExit(
            f"dist_dynet: needs Linux; got {sys.platform}. Use a container, or WSL under Windows."
        )
    if sys.maxsize < 2**32:
        raise SystemExit(
            "dist_dynet: needs a Python of 64 bits; got one of 32. Use a 64-bit system."
        )
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise SystemExit(
            "dist_dynet: needs a Python with its global lock; got a free-threaded build. Use"
            " python3.13, say, not python3.13t."
        )


def long_description() -> str:
    """README.md with links that hold away from the sources: to the address in pyproject.toml."""
    settings = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (address,) = re.findall(r'^Repository = "(.*?)/?"$', settings, re.M)

    def absolute(link: re.Match[str]) -> str:
        path = link[1]
        kind = "blob" if Path(path.partition("#")[0]).suffix or path == "LICENSE" else "tree"
        return f"]({address}/{kind}/main/{path})"

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!\w+:|#)([^)\s]+)\)", absolute, text)


class BuildApart(build_ext):
    """Extensions that compile at the same time have objects of the same names, with other settings:
    each gets a folder of its own."""

    def build_extension(self, ext):
        """Builds one; called in several threads."""
        mine = copy.copy(self)
        mine.build_temp = os.path.join(self.build_temp, ext.name)  # noqa: PTH118 - a text
        super(BuildApart, mine).build_extension(ext)


def files(pattern: str) -> list[str]:
    """Those of the project that fit, from its root, in one order on all systems."""
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))


check_python()
expression = Extension(
    "dist_dynet._expression",
    files("csrc/python/*.c"),
    include_dirs=["csrc", "build/generated"],
    depends=[*files("csrc/*.h"), *files("csrc/python/*.h"), "build/generated/op_list.h"],
    define_macros=[("Py_LIMITED_API", "0x030A0000")],
    extra_compile_args=[
        "-O3",
        "-std=gnu11",
        "-fvisibility=hidden",
        "-g0",  # as in build_ffi.py
        *os.environ.get("DIST_DYNET_CFLAGS", "").split(),
    ],
    py_limited_api=True,
)
# older setuptools refuse in pyproject.toml the licence that newer ones demand there, and warn of
# packages listed there
has_expression = int(setuptools.__version__.split(".")[0]) >= 77
setup(
    version=runpy.run_path(str(ROOT / "dist_dynet" / "_version.py"))["__version__"],
    long_description=long_description(),
    long_description_content_type="text/markdown",
    **{"license_expression" if has_expression else "license": "Apache-2.0"},
    license_files=["LICENSE"],
    packages=[
        *sorted(setuptools.find_packages(include=["dist_dynet", "dist_dynet.*"])),
        "dist_dynet.cli._site",  # not to be imported: it is put on the path of ranks
    ],
    package_data={"dist_dynet": ["py.typed", "*.pyi"], "dist_dynet.compat": ["site/*.py"]},
    include_package_data=False,
    cffi_modules=[f"build_ffi.py:{name}" for name in ("core_float", "core_double")],
    ext_modules=[expression],
    cmdclass={"build_ext": BuildApart},
    options={
        # the extensions keep to the stable ABI: one wheel serves this Python and later ones
        "bdist_wheel": {"py_limited_api": "cp310"},
        # one extension a processor: the two cores, float and double, compile side by side
        "build_ext": {"parallel": str(len(os.sched_getaffinity(0)))},
    },
)
