"""Builds the package: the C extensions (build_ffi.py, and the one that is written by hand), and the
licence. All else is in pyproject.toml."""

import copy
import os
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    raise SystemExit(
        "dist_dynet: needs a Python with its global lock; got a free-threaded build. Use"
        " python3.13, say, not python3.13t."
    )


class BuildApart(build_ext):
    """Extensions that compile at the same time have objects of the same names, with other settings:
    each gets a folder of its own."""

    def build_extension(self, ext):
        """Builds one; called in several threads."""
        mine = copy.copy(self)
        mine.build_temp = os.path.join(self.build_temp, ext.name)  # noqa: PTH118 - a text
        super(BuildApart, mine).build_extension(ext)


expression = Extension(
    "dist_dynet._expression",
    [
        f"csrc/python/{name}.c"
        for name in ("expression", "node_functions", "module", "numbers", "states", "values")
    ],
    include_dirs=["csrc", "build/generated"],
    depends=["csrc/dn_api.h", "csrc/python/expression.h"],
    define_macros=[("Py_LIMITED_API", "0x030A0000")],
    extra_compile_args=[
        "-O3",
        "-std=gnu11",
        "-fvisibility=hidden",
        *os.environ.get("DIST_DYNET_CFLAGS", "").split(),
    ],
    py_limited_api=True,
)
setup(
    # here, since older setuptools refuse the string in pyproject.toml that newer ones demand, and
    # these any other form
    license="Apache-2.0",
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
