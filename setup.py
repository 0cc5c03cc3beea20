from setuptools import setup

setup(cffi_modules=[f"build_ffi.py:{name}" for name in ("core_float", "core_double", "nodes_float", "nodes_double")])
