"""Builds the package; all but the C extensions (build_ffi.py) is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=[f"build_ffi.py:{name}" for name in ("core_float", "core_double", "nodes_float", "nodes_double")])
