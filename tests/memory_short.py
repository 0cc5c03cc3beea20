"""Run under the shim (shim.c) by test_memory_short.py: for n = 1, 2, ... the n-th allocation of a
program fails, once or from then on.

After it, MemoryError was raised or the numbers are right; and when there is memory again they are
right in the same graph. `python memory_short.py PROGRAM AUTOBATCHING` prints how many allocations
were made to fail.
"""

import ctypes
import os
import sys
import threading
from pathlib import Path

import numpy as np

import dist_dynet as dy

shim = ctypes.CDLL(None)
shim.shim_failures.restype = ctypes.c_long


def watch_the_package():
    spans = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        fields = line.split()
        if len(fields) > 5 and Path(fields[5]).parent.name == "dist_dynet" and ".so" in fields[5]:
            low, high = (int(x, 16) for x in fields[0].split("-"))
            a, b = spans.get(fields[5], (low, high))
            spans[fields[5]] = min(a, low), max(b, high)
    assert spans
    for low, high in spans.values():
        shim.shim_watch(ctypes.c_size_t(low), ctypes.c_size_t(high))


def fail_from(n, lasting):
    shim.shim_fail(ctypes.c_long(n), int(lasting))


class Model:
    """Parameters, and programs that use them. Each returns the loss of a new graph."""

    def __init__(self):
        dy.reset_random_seed(3)
        self.collection = m = dy.ParameterCollection()
        self.w, self.v, self.b = (
            m.add_parameters((4, 4)),
            m.add_parameters((4, 4)),
            m.add_parameters(4),
        )
        self.table = m.add_lookup_parameters((30, 4))
        self.lstm = dy.VanillaLSTMBuilder(1, 4, 4, m)
        self.cell = dy.traced(lambda x, y: dy.tanh(self.w * x + dy.cmult(y, self.b)))

    def products(self):
        xs = [dy.tanh(self.b + 0.1 * k) for k in range(12)]
        return dy.esum([dy.sum_elems(dy.square(self.w * x + self.b)) for x in xs])

    def rows(self):
        xs = [self.table[k % 5] for k in range(40)]
        ys = [dy.tanh(dy.affine_transform([self.b, self.w, x])) for x in xs]
        return dy.esum([dy.dot_product(x, y) for x, y in zip(xs, ys[1:], strict=False)])

    def network(self):
        hs = [
            self.lstm.initial_state().transduce(
                [self.table[(i + k) % 7] for k in range(3 + i % 2)]
            )[-1]
            for i in range(6)
        ]
        return dy.esum([dy.pickneglogsoftmax(self.v * h, i % 4) for i, h in enumerate(hs)])

    def steps(self):
        """One sequence, whose inputs are computed before their turn; a loss that does not depend on
        the last of them, which are read all the same."""
        state, losses = self.lstm.initial_state(), []
        for k in range(12):
            state = state.add_input(dy.tanh(dy.lookup_batch(self.table, [k, k + 1])))
            losses.append(dy.sum_batches(dy.squared_norm(self.v * state.output())))
        return dy.esum(losses[:9])

    def sentences(self):
        """Several sequences of single steps; the loss does not depend on their last ones."""
        losses = []
        for n in range(3, 8):
            state, hs = self.lstm.initial_state(), []
            for k in range(n):
                state = state.add_input(dy.tanh(self.w * self.table[(3 * n + k) % 7]))
                hs.append(state.output())
            losses += [dy.pickneglogsoftmax(self.v * h, n % 4) for h in hs[:-1]]
        return dy.esum(losses)

    def traced(self):
        hs = [self.cell(self.table[k % 6], self.table[k % 4]) for k in range(20)]
        return dy.sum_elems(dy.esum([self.cell(h, self.table[0]) for h in hs]))

    def shapes(self):
        xs = [dy.inputVector([k, 1.0, 2.0, 0.5 * k]) for k in range(12)]
        rows = [dy.reshape(self.w * x, (2, 2)) for x in xs]
        return dy.sum_elems(dy.esum([dy.transpose(r) * r for r in rows])) + dy.sum_elems(
            dy.concatenate([dy.max_dim(r) for r in rows])
        )

    @property
    def parameters(self):
        return [*self.collection.parameters_list(), *self.collection.lookup_parameters_list()]

    def gradients(self):
        return [p.grad_as_array() for p in self.parameters]


def once_more(model, mode, name, n, lasting):
    """One run in which the n-th allocation fails, in a thread, whose graph is new. What it gave,
    and how many failed."""
    out = {}

    def run():
        for p in model.parameters:
            p.clear_gradient()
        dy.renew_cg(autobatching=mode)
        loss, errors = None, 0
        fail_from(n, lasting)
        try:
            loss = getattr(model, name)()
            loss.value()
            loss.backward()
        except MemoryError:
            errors = 1
        out["failed"] = shim.shim_failures()
        fail_from(0, False)
        out["first"] = None if errors else (loss.value(), model.gradients())
        if errors:  # there is memory again
            if loss is None:
                dy.renew_cg(autobatching=mode)
                loss = getattr(model, name)()
            value = loss.value()
            loss.backward()
            out["again"] = value, model.gradients()

    def run_and_keep_errors():
        try:
            run()
        except BaseException as error:
            fail_from(0, False)
            out["error"] = error

    thread = threading.Thread(target=run_and_keep_errors)
    thread.start()
    thread.join()
    if "error" in out:
        raise AssertionError(f"{name}, autobatching {mode}: allocation {n}, {lasting=}") from out[
            "error"
        ]
    return out


ROUNDED = os.environ.get("DIST_DYNET_PRECISION") == "bf16"


def agree(a, b):
    """To rounding; that of bf16, where a product of equal rows, for which there was no memory, is
    made of each row: their gradients are rounded one by one then, not their sum."""
    return np.allclose(a[0], b[0], rtol=1e-4) and all(
        np.allclose(x, y, rtol=1e-3, atol=2**-7 * np.abs(y).max() if ROUNDED else 1e-5)
        for x, y in zip(a[1], b[1], strict=True)
    )


def main(name, mode, most):
    watch_the_package()
    model = Model()
    once_more(model, mode, name, 0, False)
    right = once_more(model, mode, name, 0, False)["first"]
    count = 0
    for lasting in (False, True):
        for n in range(1, most + 1):
            out = once_more(model, mode, name, n, lasting)
            if not out["failed"]:
                break
            count += 1
            for when in ("first", "again"):
                if out.get(when) is not None:
                    assert agree(out[when], right), (
                        f"{name}, autobatching {mode}: allocation {n}, {lasting=}, {when}:"
                        f" {out[when]}; {right}"
                    )
    for w in model.parameters:
        w.clear_gradient()
    before = [p.as_array() for p in model.parameters]
    trainer = dy.AdamTrainer(model.collection)
    for n in range(1, most + 1):
        dy.renew_cg(autobatching=mode)
        getattr(model, name)().backward()
        gradients = model.gradients()
        fail_from(n, False)
        try:
            trainer.update()
        except MemoryError:
            fail_from(0, False)
            count += 1
            assert trainer.updates == 0
            assert all(
                np.array_equal(x, p.as_array())
                for x, p in zip(before, model.parameters, strict=True)
            )
            assert agree((0, gradients), (0, model.gradients()))
            for p in model.parameters:
                p.clear_gradient()
            trainer.restart()
        else:
            fail_from(0, False)
            assert trainer.updates == 1
            break
    print(count + failed_loads(model, trainer.state(), most))


def failed_loads(model, state, most):
    """How many allocations failed while new trainers took this state: all of it or nothing."""
    for n in range(1, most + 1):
        trainer = dy.AdamTrainer(model.collection)
        fail_from(n, False)
        try:
            trainer.load_state(state)
        except MemoryError:
            fail_from(0, False)
            assert trainer.updates == 0
            assert not any(x.any() for name, x in trainer.state().items() if ":" in name)
        else:
            fail_from(0, False)
            assert not shim.shim_failures()
            loaded = trainer.state()
            assert loaded.keys() == state.keys()
            assert all(np.array_equal(x, state[name]) for name, x in loaded.items())
            return n - 1
    raise AssertionError(f"{most} allocations were not enough")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
