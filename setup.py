"""Builds the package; all but the C extensions (build_ffi.py, and the one that is written by hand) is in pyproject.toml."""

import os

from setuptools import Extension, setup

expression = Extension(
    "dist_dynet._expression",
    ["csrc/python/expression.c"],
    include_dirs=["csrc", "build/generated"],
    depends=["csrc/dn_api.h"],
    define_macros=[("DN_NODES", None), ("Py_LIMITED_API", "0x030A0000")],
    extra_compile_args=["-O3", "-std=gnu11", "-fvisibility=hidden", *os.environ.get("DIST_DYNET_CFLAGS", "").split()],
    py_limited_api=True,
)
setup(
    cffi_modules=[f"build_ffi.py:{name}" for name in ("core_float", "core_double", "nodes_float", "nodes_double")],
    ext_modules=[expression],
)
