"""The only module that loads C extensions.

It chooses the number type (DIST_DYNET_DTYPE=float32|float64), loads the extensions, hands BLAS to
the kernels, and turns the negative results of C calls into Python exceptions. It knows nothing of
parameters or policy.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
import threading
from collections import Counter
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ._checkout import api_number
from ._environment import choice, whole

DTYPE_NAME = choice("DIST_DYNET_DTYPE", ("float32", "float64"))
DTYPE = np.dtype(DTYPE_NAME)

FAST_PATHS = choice("DIST_DYNET_FAST_PATHS", ("1", "0")) == "1"
"""Whether functions in C stand for those of Python's that are called most often. Without them the
same is done more slowly: for tests, and to find a fault."""

try:
    _core: Any = import_module(f"dist_dynet._core_{DTYPE_NAME}")
    if TYPE_CHECKING or FAST_PATHS:
        from . import _expression as _calls
    else:
        from . import _plain as _calls
except ModuleNotFoundError as error:
    if error.name == "_cffi_backend":
        raise ImportError(
            f"dist_dynet: needs cffi, which {sys.executable} does not have. Run: pip install cffi"
        ) from error
    if _archive := next((path for path in Path(__file__).parents if path.is_file()), None):
        raise ImportError(
            "dist_dynet: must lie in a folder, since extensions cannot be loaded from an archive;"
            f" got {_archive}. Unpack it, and name its folder on PYTHONPATH."
        ) from error
    raise ImportError(
        f"dist_dynet: the package must be compiled; got sources alone, in {Path(__file__).parent}."
        f" To compile them in place: pip install -e {Path(__file__).parents[1]}. If another version"
        " is installed: run Python from another folder."
    ) from error
if _calls.Node.__subclasses__():  # the functions in C know those of Python's of one import
    raise ImportError(
        "dist_dynet: was imported before in this process, and its modules were taken out of"
        " sys.modules, as unittest.mock.patch.dict(sys.modules) does with those that are imported"
        " within it. Import it once, before that, and leave them there; in a notebook restart the"
        " kernel."
    )
ffi: Any = _core.ffi
lib: Any = _core.lib


def _check_sources() -> None:
    """Of a checkout: whether its declarations have changed since it was compiled."""
    compiled = Path(_core.__file__)
    csrc = compiled.parents[1] / "csrc"
    since = compiled.stat().st_mtime
    if not any(header.stat().st_mtime > since for header in csrc.glob("dn_api*.h")):
        return
    if getattr(lib, "DN_API", None) != api_number(csrc):
        raise ImportError(
            f"dist_dynet: {csrc} has changed since it was compiled. Compile it again: pip install"
            f" -e {csrc.parent}"
        )


_check_sources()
calls = _calls
accelerated = calls.accelerated
"""What stands for a function of Python's: one of csrc/python of the same name, which calls it for
all that it does not take; without fast paths the function itself."""

NULL = ffi.NULL
DIM = ffi.typeof("dn_dim *")
_REAL_POINTER = ffi.typeof("dn_real *")


_declined: Counter[str] = Counter()


def declines(name: str) -> bool:
    """Whether a fast path of Python's own, of this name, is switched off; counts how often it
    was."""
    if FAST_PATHS:
        return False
    _declined[name] += 1
    return True


def declined() -> Counter[str]:
    """How often each of them was declined because it is switched off, by name."""
    return _declined.copy()


# ---- BLAS ------------------------------------------------------------------------------


def _blas_candidates() -> list[tuple[str, str]]:
    """(path, prefix of the C functions) in the order of preference."""
    chosen = os.environ.get("DIST_DYNET_BLAS", "")
    if chosen == "none":
        return []
    if chosen:
        return [(chosen, "cblas_"), (chosen, "scipy_cblas_")]
    # not imported: all that it needs takes a tenth of the time of this import
    found = find_spec("scipy_openblas32")
    folders = found.submodule_search_locations or [] if found else []
    return [
        (str(p), "scipy_cblas_")
        for folder in folders
        for p in sorted(Path(folder, "lib").glob("libscipy_openblas*"))
    ]


def _load_blas() -> str:
    """Plugs a BLAS library into the kernels; returns a description of it."""
    letter = "s" if DTYPE_NAME == "float32" else "d"
    for path, prefix in _blas_candidates():
        try:
            library = _opened(path)
            functions = [getattr(library, f"{prefix}{letter}{name}") for name in ("gemm", "gemv")]
            # of LAPACK, which most libraries have as well
            getrf = getattr(library, f"{prefix.removesuffix('cblas_')}{letter}getrf_", None)
        except (OSError, AttributeError):
            continue
        lib.dn_set_blas(
            *(
                ffi.cast("void *", ctypes.cast(f, ctypes.c_void_p).value) if f else NULL
                for f in (*functions, getrf)
            )
        )
        _limit_threads(library, prefix)
        _multiply_once(functions[0])
        _blas["kernels"] = f"{Path(path).name} {_core_name(library, prefix)}".rstrip()
        return path
    if os.environ.get("DIST_DYNET_BLAS", "none") not in ("", "none"):
        raise ImportError(
            f"DIST_DYNET_BLAS={os.environ['DIST_DYNET_BLAS']}: not a BLAS library with cblas"
            " functions."
        )
    lib.dn_set_blas(NULL, NULL, NULL)
    return "none (plain C)"


def _opened(path: str) -> ctypes.CDLL:
    """The library, with one thread: OpenBLAS would start one per core as it is loaded, and each
    would be busy for 30 ms."""
    name = "OPENBLAS_NUM_THREADS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        return ctypes.CDLL(path)
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _multiply_once(gemm: Any) -> None:
    """OpenBLAS takes its buffers at the first product, and ends the process where there is no
    memory for them: better here than in a run."""
    n, row_major, plain = 128, 101, 111  # larger than what is multiplied without a buffer
    real = ctypes.c_float if DTYPE_NAME == "float32" else ctypes.c_double
    a, c = np.zeros((n, n), DTYPE), np.zeros((n, n), DTYPE)
    x = ctypes.c_void_p(a.ctypes.data)
    y = ctypes.c_void_p(c.ctypes.data)
    sizes = [ctypes.c_int(n)] * 3
    gemm(row_major, plain, plain, *sizes, real(1), x, sizes[0], x, sizes[0], real(0), y, sizes[0])


def _core_name(library: Any, prefix: str) -> str:
    """The processor for which OpenBLAS has chosen its kernels; they give other roundings on
    another."""
    name = getattr(library, f"{prefix.removesuffix('cblas_')}openblas_get_corename", None)
    if name is None:
        return ""
    name.restype = ctypes.c_char_p
    return str(name().decode())


def _limit_threads(library: Any, prefix: str) -> None:
    """One thread: ours call it (csrc/kernels/parallel.h), each with a piece."""
    for name in (
        f"{prefix.removesuffix('cblas_')}openblas_set_num_threads",
        "MKL_Set_Num_Threads",
        "bli_thread_set_num_threads",
    ):
        setter = getattr(library, name, None)
        if setter is not None:
            setter(1)


_blas = {"kernels": "plain C"}
BLAS = _load_blas()
BLAS_KERNELS = _blas["kernels"]
"""What decides how BLAS rounds: the library and the kernels that it has chosen for this
processor."""
SIMD: str = ffi.string(lib.dn_simd_level()).decode()


def bf16_instructions() -> str:
    """What multiplies numbers rounded to bfloat16 on this machine: "amx", "avx512" or "plain";
    "none" in the float64 build."""
    return str(ffi.string(lib.dn_bf16_isa()).decode())


# ---- threads ---------------------------------------------------------------------------


def possible_threads(n: int, what: str) -> int:
    """The number, if so many threads can compute.

    Raises:
        ValueError: they cannot.
    """
    if not 1 <= n <= lib.dn_most_threads():
        raise ValueError(f"{what}: takes a number from 1 to {lib.dn_most_threads()}; got {n}.")
    return n


def set_threads(n: int, what: str) -> None:
    """How many threads of this process compute at one thing; see settings.init()."""
    lib.dn_set_threads(possible_threads(n, what))


try:
    set_threads(whole("DIST_DYNET_THREADS", 1), "DIST_DYNET_THREADS")
except ValueError as error:
    raise ImportError(str(error)) from None

# ---- operations ------------------------------------------------------------------------

OPS: dict[str, int] = {ffi.string(lib.dn_op_name(i)).decode(): i for i in range(lib.DN_OP_COUNT)}
"""The number of each operation, by name, from the rows of csrc/ops."""

# ---- errors ----------------------------------------------------------------------------


class NegativeIndexError(ValueError, OverflowError):
    """An index below 0 where there is nothing to count from the end. An OverflowError, too, as in
    DyNet."""


_EXCEPTIONS: dict[int, type[Exception]] = {
    lib.DN_ERROR_VALUE: ValueError,
    lib.DN_ERROR_NEGATIVE: NegativeIndexError,
    lib.DN_ERROR_STALE: RuntimeError,
    lib.DN_ERROR_STATE: RuntimeError,
    lib.DN_ERROR_MEMORY: MemoryError,
    lib.DN_ERROR_NONFINITE: RuntimeError,
    lib.DN_ERROR_BUSY: RuntimeError,
    lib.DN_ERROR_INTERNAL: RuntimeError,
}


class _Callback(threading.local):
    """What this thread's C call is doing in Python: the operation of the user's own that runs now,
    and what it raised."""

    running = ""
    tracing = ""
    """The cell whose function runs now, to be traced."""
    raised: BaseException | None = None


callback = _Callback()

GRAPH_SHIFT: int = lib.DN_INDEX_BITS + lib.DN_EPOCH_BITS
"""A node's handle >> GRAPH_SHIFT is its graph; a parameter's is larger than any graph."""


def fail(code: int, *handles: int, what: str = "") -> NoReturn:
    """Raises the exception that a negative result of a call with these handles stands for; `what`
    as in fail_in()."""
    # calls are made on the graph of the first input that is a node; of parameters alone, on the
    # current graph
    graphs = (h >> GRAPH_SHIFT for h in handles)
    fail_in(next((g for g in graphs if g >> lib.DN_GRAPH_BITS == 0), calls.current()), code, what)


def fail_in(graph: int, code: int, what: str = "") -> NoReturn:
    """The same for a call on a graph. `what` is the function that was called, where the operation
    has another name."""
    if code == lib.DN_ERROR_PYTHON:
        raised, callback.raised = callback.raised, None
        try:
            raise raised or RuntimeError(
                "an operation written in Python raised an exception in another thread."
            )
        finally:
            del raised
    if code in (lib.DN_ERROR_BUSY, lib.DN_ERROR_STALE) and callback.tracing:
        raise RuntimeError(
            f"{callback.tracing}: the function uses an expression of the graph that is not among"
            " its arguments, or the graph itself. Pass as arguments what it needs."
        )
    if code == lib.DN_ERROR_BUSY and callback.running:
        raise RuntimeError(
            f"graph busy: inside of forward and backward of {callback.running} no node can be made"
            " or read. Compute with the arrays given."
        )
    message = ffi.string(lib.dn_message(graph)).decode(errors="replace")
    if code == lib.DN_ERROR_BUSY or not message:  # without words: dn_value() found no way in
        raise RuntimeError(
            "this graph is being computed by another thread. Each thread has a graph of its own:"
            " call renew_cg() in it."
        )
    if what:
        operation, colon, rest = message.partition(": ")
        message = f"{what}: {rest}" if colon and operation in OPS else message
    prefix = "Stale Expression: " if code == lib.DN_ERROR_STALE else ""
    raise _EXCEPTIONS[code](prefix + message)


calls.bind(int(ffi.cast("uintptr_t", lib.dn_node_table())), OPS, fail_in)

# ---- memory ----------------------------------------------------------------------------


def view(pointer: Any, size: int, owner: object = None) -> NDArray[Any]:
    """The numbers behind a C pointer as a NumPy array, without a copy. The array keeps `owner`
    alive; without one the caller does.

    Raises:
        MemoryError: the pointer is NULL: C had no memory.
    """
    if size == 0:
        return np.empty(0, DTYPE)
    if not pointer:
        raise MemoryError(f"no memory for {size * DTYPE.itemsize} bytes.")
    if owner is not None:
        pointer = ffi.gc(pointer, partial(is_, owner))  # no function of Python's is called
    return np.frombuffer(ffi.buffer(pointer, size * DTYPE.itemsize), DTYPE)


def view_ints(pointer: Any, size: int) -> NDArray[np.int32]:
    """The same for a pointer to int."""
    return np.frombuffer(ffi.buffer(pointer, size * 4), np.int32) if size else np.empty(0, np.int32)


def pointer(array: NDArray[Any]) -> Any:
    """A C pointer to a contiguous array of the build's number type, valid while the array lives."""
    return ffi.from_buffer(_REAL_POINTER, array) if array.size else NULL


def read(pointer_to_values: Any, dims: tuple[int, ...], batch: int) -> NDArray[np.float64]:
    """A float64 copy in DyNet's form: the dims, plus the batch as last axis when there is more than
    one."""
    size = math.prod(dims, start=batch)
    return shaped(view(pointer_to_values, size).astype(np.float64), dims, batch)


def shaped(values: NDArray[np.float64], dims: tuple[int, ...], batch: int) -> NDArray[np.float64]:
    """Flat numbers in DyNet's form."""
    shape = (*dims, batch) if batch != 1 else (dims or (1,))
    return values if len(shape) == 1 else values.reshape(shape, order="F")
