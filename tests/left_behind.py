"""What is made, used and dropped leaves nothing behind: a program that makes graphs, models and
trainers again and again, or whose calls fail again and again, needs no more memory in the end.

`python left_behind.py operations` prints a line for each act after which memory is missing; also
`nets` and `trainers`. The acts are the rows of those tables, which are complete. Started with
ENVIRONMENT, in which malloc() puts nothing by for later.
"""

import contextlib
import copy
import ctypes
import gc
import itertools
import pickle
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from net_table import NETS
from op_table import FAMILIES
from op_table.run import Run, drawn
from table_trainers import TRAINERS

import dist_dynet as dy

ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
LEAST = 0.5, 4, 128
"""Objects that the collector knows, blocks of Python, and bytes of malloc(): Python's own tables of
strings take a block now and then."""

# ---- what stays ------------------------------------------------------------------------


class Heap(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


heap = getattr(ctypes.CDLL(None), "mallinfo2", None)  # from glibc 2.33 on
if heap:
    heap.restype = Heap


def used():
    """Objects, blocks of Python, and bytes of malloc(), where it says them."""
    gc.collect()
    of_malloc = heap() if heap else Heap()
    of_python = len(gc.get_objects()), sys.getallocatedblocks()
    return *of_python, of_malloc.uordblks + of_malloc.hblkhd


def growth(act, windows, times):
    """What stays of each act(): of several windows of so many times the least, as caches fill up in
    some."""
    act()
    seen = [used()]
    for _ in range(windows):
        for _ in range(times):
            act()
        seen.append(used())
    steps = [np.subtract(after, before) / times for before, after in itertools.pairwise(seen)]
    return np.min(steps, axis=0)


def stays(kept, least=LEAST):
    return (kept >= least).any()


def report(acts):
    """Prints the acts of which something stays; what seems to be one is looked at for longer."""
    for name, act in acts.items():
        if stays(growth(act, 2, 3)) and stays(kept := growth(act, 5, 40)):
            objects, blocks, size = kept
            print(f"{name}: {objects} objects, {blocks} blocks and {size} bytes stay each time")


# ---- what is done ----------------------------------------------------------------------


def use(row):
    """Value and gradients of a row's first case."""
    case = row.cases[0]
    run = Run(row, case, drawn(row, case, np.random.default_rng(1)))
    value = run.value()
    if row.has_gradient:
        run.gradients(np.ones(value.shape))


def fail(refusals):
    dy.renew_cg()
    for refusal in refusals:
        with contextlib.suppress(refusal.exception):
            refusal.call()


def operations():
    rows = [row for family in FAMILIES.values() for row in family.ROWS]
    refused = {f"{row.name}, refused": partial(fail, row.errors) for row in rows}
    return {row.name: partial(use, row) for row in rows} | refused


def learn(net, then=None):
    """Makes a net, learns, and does then(net, model)."""
    model = dy.ParameterCollection()
    built = net.make(model)
    trainer = dy.AdamTrainer(model)
    rng = np.random.default_rng(5)
    dy.renew_cg()
    inputs = [dy.inputTensor(rng.normal(size=dims)) for dims in net.inputs]
    dy.sum_elems(net.value(built, inputs)).backward()
    trainer.update()
    if then:
        then(built, model)


def save_and_load(folder, net, model):
    dy.save(folder / "net", [net])
    dy.load(folder / "net", model)
    model.save(folder / "model")
    model.populate(folder / "model")


def copied(net, model):
    pickle.loads(pickle.dumps((model, net)))
    copy.deepcopy(net)


def nets():
    acts = {name: partial(learn, net) for name, net in NETS.items()}
    folder = Path(tempfile.mkdtemp())
    for name in ("recurrent-both ways GRUBuilder", "blocks-crf"):
        acts[f"{name}, saved"] = partial(learn, NETS[name], partial(save_and_load, folder))
        acts[f"{name}, copied"] = partial(learn, NETS[name], copied)
    return acts


def train(row):
    model = dy.ParameterCollection()
    model.set_weight_decay_lambda(0)
    w, table = model.add_parameters((3, 4), init=0.5), model.add_lookup_parameters((9, 4), init=0.5)
    trainer = row.make(model)
    for k in range(3):
        dy.renew_cg()
        dy.squared_norm(w * table[k]).backward()
        trainer.update()
    trainer.load_state(trainer.state())


def trainers():
    return {name: partial(train, row) for name, row in TRAINERS.items()}


TABLES = {"operations": operations, "nets": nets, "trainers": trainers}

if __name__ == "__main__":
    acts = TABLES[sys.argv[1]]()
    gc.freeze()  # what is there now need not be looked at each time
    report(acts)
