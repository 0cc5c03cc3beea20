"""What compression has rounded away is neither lost nor added twice, whatever comes of an update:
what the parameters have got, and what all ranks' residuals hold, is the sum of all gradients that
were to come into updates.

Rank 0 prints "ok" in the end.
"""

import numpy as np

import dist_dynet as dy
from dist_dynet import parallel

rank = parallel.rank()


class Run:
    """A model whose gradients are drawn, a trainer that subtracts their sum, and that sum."""

    def __init__(self, code):
        self.m = m = dy.ParameterCollection()
        self.dense = [m.add_parameters((30, 20), name="W", init=0), m.add_parameters(7, init=0)]
        self.table = m.add_lookup_parameters((10, 5), init=0)
        self.trainer = parallel.DistributedTrainer(
            dy.SimpleSGDTrainer(m, 1.0), "sum", compression=code
        )
        self.trainer.set_clip_threshold(0)
        self.rng = np.random.default_rng(rank)
        self.sums = {p: np.zeros(p.shape()) for p in (*self.dense, self.table)}

    def backward(self, size=1.0, scaled=1.0, used=2, counts=True):
        """Gradients of this size, which the program scales before the update."""
        dy.renew_cg()
        losses = []
        for p in (*self.dense[:used], self.table):
            shape = (5,) if p is self.table else p.shape()
            gradient = size * self.rng.normal(size=shape)
            x = p[3] if p is self.table else p
            losses.append(dy.sum_elems(dy.cmult(x, dy.inputTensor(gradient))))
            if counts and p is self.table:
                self.sums[p][3] += scaled * gradient
            elif counts:
                self.sums[p] += scaled * gradient
        dy.esum(losses).backward()
        if scaled != 1:
            for p in self.sums:
                p.scale_gradient(scaled)

    def step(self, **options):
        self.backward(**options)
        return self.trainer.update()

    def came(self):
        """By parameter what it has got, and what all residuals hold of it."""
        state, came = self.trainer.state(), {}
        for p, mine in self.sums.items():
            rest = state.get(f"rest:{p.name()}", np.zeros(mine.size))
            rest = np.reshape(rest, mine.shape, order="C" if p is self.table else "F")
            came[p] = sum(parallel.gather(rest)) - p.as_array()
        return came

    def totals(self):
        return {p: sum(parallel.gather(mine)) for p, mine in self.sums.items()}

    def check(self):
        came = self.came()
        for p, total in self.totals().items():
            off = np.abs(came[p] - total).max()
            assert off < 2e-5 * (1 + np.abs(total).max()), (p.name(), off)


def plain(run):
    pass


def scaled_after_backward(run):
    """As with losses that are scaled up, so that small gradients are not lost."""
    for _ in range(3):
        run.step(size=1024.0, scaled=1 / 1024)


def two_passes(run):
    run.backward()
    run.step()


def thrown_away(run):
    run.backward(size=1e6, counts=False)
    run.m.reset_gradients()


def unused_in_a_step(run):
    run.step(used=1)
    run.step()
    run.step(used=1)


def clipped(run):
    """By one factor: what has come into the update, and what is to come."""
    before, sums = run.came(), run.totals()
    values = {p: p.as_array() for p in sums}
    run.trainer.set_clip_threshold(1.0)
    run.step(size=1e3)
    run.trainer.set_clip_threshold(0)
    came, size = run.came(), np.sqrt(sum(((p.as_array() - values[p]) ** 2).sum() for p in sums))
    assert abs(size - 1) < 1e-3
    gradients = {p: total - sums[p] for p, total in run.totals().items()}
    by = np.sum((came[run.dense[0]] - before[run.dense[0]]) * gradients[run.dense[0]])
    by /= np.sum(gradients[run.dense[0]] ** 2)
    for p, gradient in gradients.items():  # but for what steps before it had left
        assert np.abs(came[p] - before[p] - by * gradient).max() < 0.1
        run.sums[p] = came[p] / parallel.world_size()


def left_out(run):
    """Of the gradients that are finite some are as large as they come before losses are not."""
    run.trainer.set_clip_threshold(1e12)
    run.trainer.skip_nonfinite = True
    run.backward(size=1e6, counts=False)
    (run.dense[1][0] * float("inf")).backward()
    assert not run.trainer.update() and run.trainer.skipped == 1


def not_finite(run):
    run.trainer.set_clip_threshold(1e12)
    run.backward(size=1e6, counts=False)
    (run.dense[1][0] * float("inf")).backward()
    refused(run)


def other_settings(run):
    run.trainer.learning_rate = 1.0 + rank
    run.backward(size=1e6, counts=False)
    refused(run)
    run.trainer.learning_rate = 1.0


def refused(run):
    """The gradients are thrown away."""
    try:
        run.trainer.update()
    except RuntimeError:
        run.m.reset_gradients()
    else:
        raise AssertionError("not refused")


def added(run):
    """A parameter that is new to the exchange."""
    run.backward()
    run.dense.append(run.m.add_parameters(3, init=0))
    run.sums[run.dense[-1]] = np.zeros(3)
    run.trainer.update()
    run.step(used=3)


ACTS = (
    plain,
    scaled_after_backward,
    two_passes,
    thrown_away,
    unused_in_a_step,
    clipped,
    left_out,
    not_finite,
    other_settings,
    added,
)
for act in ACTS:
    run = Run("bf16")
    for _ in range(3):
        run.step()
    act(run)
    run.check()
    for _ in range(3):
        run.step()
    run.check()
if rank == 0:
    print("ok")
