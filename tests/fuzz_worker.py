"""Runs programs of fuzz.py in a process of its own, and sends back what they noted:
`python fuzz_worker.py` reads from stdin.

A request is a pickled list of (lines of a program, threads); the answer a pickled list of what each
noted: {key: array, or (exception, words)}, of several threads a list of these.
"""

import faulthandler
import functools
import os
import pickle
import struct
import sys
import threading
import warnings

import numpy as np
import op_table
from fuzz_source import MODEL
from net_table import recurrent
from op_table.run import array_of
from op_table.run import drawn as drawn_arrays

import dist_dynet as dy

_code = functools.lru_cache(20_000)(lambda text: compile(text, "<program>", "exec"))


def _row(family, index):
    return op_table.FAMILIES[family].ROWS[index]


def sample(family, index, case, seed):
    """Arrays for the inputs of a case of the op table."""
    row = _row(family, index)
    return drawn_arrays(row, row.cases[case], np.random.default_rng(seed))


def row(family, index, case, *inputs):
    """The node of a case of the op table."""
    r = _row(family, index)
    return r.build(*inputs, **r.cases[case].attributes)


def cell_of_row(family, index, case, *inputs):
    """The same as a cell."""
    return dy.traced(lambda *xs: row(family, index, case, *xs))(*inputs)


def linked(x, v):
    """x, each number made smaller by up to 5 %, depending on v: so that any node can lead to any
    operation."""
    t = dy.tanh(v if v.dim() == x.dim() else dy.mean_elems(v))
    if t.dim()[1] not in (1, x.dim()[1]):
        t = dy.mean_batches(t)
    return dy.cmult(x, t * 0.025 + 0.975)


def total(nodes):
    """One number that depends on all of them."""
    return dy.esum([dy.sum_batches(dy.sum_elems(dy.tanh(x * 0.5))) for x in nodes])


READY = b"ready..."
_models = threading.Lock()
"""All threads draw first values from one generator."""


class Notes(dict):
    """What a program has noted."""

    def note(self, key, numbers):
        self[key] = np.array(numbers, float)

    def gradients(self, number, m):
        """Those of all parameters."""
        for p in [*m.parameters_list(), *m.lookup_parameters_list()]:
            self.note((number, "gradient of", p.name()), p.grad_as_array())

    def model(self, key, family, index, case, node, *inputs):
        """The value beside what NumPy computes of the values of the inputs."""
        r = _row(family, index)
        arrays = []
        for spec, x in zip(r.cases[case].inputs, inputs, strict=True):
            if isinstance(x, dy.LookupParameters):
                arrays.append(np.moveaxis(x.as_array(), 0, -1)[..., None])
            elif isinstance(x, dy.Parameters):
                arrays.append(x.as_array()[..., None])
            else:
                arrays.append(
                    array_of(x)
                    if isinstance(x, dy.Expression)
                    else np.asarray(x, float).reshape(spec.shape)
                )
        want = np.asarray(r.reference(*arrays, **r.cases[case].attributes), float)
        self[key] = np.stack([array_of(node), want])


class Printed(Notes):
    """For programs of fuzz.py that are printed: prints what they note."""

    def note(self, key, numbers):
        print(*key, np.array(numbers, float).ravel(order="F").tolist())


def steps(state, xs):
    """The outputs of a network that is advanced step by step."""
    outputs = []
    for x in xs:
        state = state.add_input(x)
        outputs.append(state.output())
    return outputs


def gradients_of(states):
    """Those of outputs, or of all that states hold."""
    outputs = [e for s in states for e in ([s] if isinstance(s, dy.Expression) else s.s())]
    return np.concatenate([np.ravel(e.gradient()) for e in outputs])


def names():
    """What lines of programs find."""
    return {
        "dy": dy,
        "np": np,
        "recurrent": recurrent,
        "sample": sample,
        "row": row,
        "cell_of_row": cell_of_row,
        "linked": linked,
        "steps": steps,
        "gradients_of": gradients_of,
        "total": total,
    }


def run(lines):
    """Executes a program line by line; what depends on a line that raised is left out."""
    notes = Notes()
    known = {**names(), "note": notes.note, "model": notes.model, "gradients": notes.gradients}
    with _models:
        for text in (text for number, text in lines if number == MODEL):
            exec(_code(text), known)
    for number, text in lines:
        try:
            if number != MODEL:
                exec(_code(text), known)
        except NameError:
            known.pop(text.split(" = ")[0], None)
        except Exception as error:
            known.pop(text.split(" = ")[0], None)
            notes.setdefault((number, "error"), (type(error).__name__, str(error)[:300]))
    dy.renew_cg(autobatching=0)
    return dict(notes)


def run_in_threads(lines, n):
    """The notes of each of n threads that run a program at the same time."""
    found = [None] * n
    start = threading.Barrier(n)

    def one(k):
        start.wait()
        found[k] = run(lines)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return found


def main():
    faulthandler.enable()
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    answers.write(READY)
    answers.flush()
    while head := sys.stdin.buffer.read(8):
        requests = pickle.loads(sys.stdin.buffer.read(struct.unpack("q", head)[0]))
        found = [run_in_threads(lines, n) if n else run(lines) for lines, n in requests]
        answer = pickle.dumps(found)
        answers.write(struct.pack("q", len(answer)) + answer)
        answers.flush()


if __name__ == "__main__":
    main()
