"""left_out.py: on several ranks, a program in which one rank leaves out the backward pass of its
examples, while others make theirs, is told so, once, on rank 0, whichever rank does it; programs
that are right are told nothing. Each case is some steps of training; rank 0 prints "ok"."""

import contextlib
import warnings

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._manner import manner

DATA = [float(i) for i in range(9)]
LAST = parallel.world_size() - 1


class Model:
    """A vector and a table, and their trainer."""

    def __init__(self, make=parallel.DistributedTrainer, **options):
        self.m = dy.ParameterCollection()
        self.w = self.m.add_parameters(2, init=0.5)
        self.table = self.m.add_lookup_parameters((3, 2), init=0.5)
        self.trainer = make(dy.AdamTrainer(self.m, 0.1), **options)

    def backward(self, batch, table=False):
        """Of the mean of the losses of a batch."""
        dy.renew_cg()
        if batch:
            p = self.table[0] if table else self.w
            dy.average([dy.squared_distance(p, dy.inputVector([x, 1])) for x in batch]).backward()


def is_large(batch):
    """Whether the loss of this rank's part is: on the first rank or the last."""
    return parallel.rank() == (LAST if batch.step % 2 else 0)


def by_its_loss(a, batch):
    if not is_large(batch):
        a.backward(batch)
    a.trainer.update()


def by_its_loss_named(a, batch):
    if not is_large(batch):
        a.backward(batch)
    a.trainer.update(batch)


def by_its_loss_with_a_number(a, batch):
    if not is_large(batch):
        a.backward(batch)
    a.trainer.update(len(batch))


def by_its_loss_of_a_table(a, batch):
    if not is_large(batch):
        a.backward(batch, table=True)
    a.trainer.update()


def by_its_loss_in_a_subset(a, batch):
    if not is_large(batch):
        a.backward(batch)
    a.trainer.update_subset([0], [])


def by_its_loss_in_no_sync(a, batch):
    """In the first of two passes."""
    with a.trainer.no_sync() if batch.step == 0 else contextlib.nullcontext():
        (by_its_loss if batch.step == 0 else plain)(a, batch)


def plain(a, batch):
    a.backward(batch)
    a.trainer.update()


def by_all(a, batch):
    if not parallel.all_reduce(float(is_large(batch)), "max"):
        a.backward(batch)
    a.trainer.update()


def by_all_on_no_batch(a, batch):
    large = parallel.all_reduce(float(batch.step == 1), "max")
    if not large:
        a.backward(batch)
        a.trainer.update(batch)


def counted_as_none(a, batch):
    if is_large(batch):
        a.trainer.update(0)
    else:
        a.backward(batch)
        a.trainer.update(len(batch))


def twice(a, batch):
    a.backward(batch)
    a.trainer.update()
    a.trainer.update()


def in_two_parts(a, batch):
    a.backward(batch)
    a.trainer.update_subset([0], [])
    a.trainer.update_subset([], [0])


def in_parts(a, batch):
    """Which are passes; that of a rank with one example has a part without any."""
    half = (len(batch) + 1) // 2
    with a.trainer.no_sync():
        a.backward(batch[:half])
        a.trainer.update()
    a.backward(batch[half:])
    a.trainer.update()


def by_hand(a, batch):
    a.w.set_gradient([1, 1])
    a.trainer.update()


def of_what_depends_on_nothing(a, batch):
    """A pass that gives no gradients on one rank."""
    if is_large(batch):
        dy.renew_cg()
        dy.squared_norm(dy.nobackprop(a.w * 2)).backward()
    else:
        a.backward(batch)
    a.trainer.update()


def said_by(body, size=4, shard=None, **options):
    """What is said in some steps."""
    manner.said.discard("left out")
    a, found = Model(**options), []
    for batch in parallel.shard(DATA, size, **(shard or {})):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            body(a, batch)
        assert all(warning.filename == __file__ for warning in caught)
        found += [str(warning.message) for warning in caught]
    if isinstance(a.trainer, parallel.LocalSGD):
        a.trainer.average()
    parallel.assert_in_sync(a.m)
    return found


TOLD = parallel.is_main() and parallel.world_size() > 1
for body in (
    by_its_loss,
    by_its_loss_named,
    by_its_loss_with_a_number,
    by_its_loss_of_a_table,
    by_its_loss_in_a_subset,
    by_its_loss_in_no_sync,
):
    for options in ({}, {"shared_model": True}, {"exchange": "mpi"}):
        said = said_by(body, **options)
        assert len(said) == TOLD, (body.__name__, options, said)
        assert all(text.startswith("update: on some rank there was no backward") for text in said)
assert len(said_by(by_its_loss, accumulate=2)) == TOLD
for body in (
    plain,
    by_all,
    by_all_on_no_batch,
    counted_as_none,
    twice,
    in_two_parts,
    in_parts,
    by_hand,
    of_what_depends_on_nothing,
):
    for size in (1, 4, 9):  # with 1 all ranks but one have no examples
        assert said_by(body, size) == [], (body.__name__, size)
assert said_by(plain, accumulate=2) == said_by(by_all, accumulate=2) == []
# each rank decides on its own steps, also on the last before an average
for every, size in ((1, 4), (2, 4), (2, 2), (3, 2), (5, 2)):
    for body in (plain, counted_as_none):
        said = said_by(body, size, make=parallel.LocalSGD, every=every)
        assert said == [], (body.__name__, every, size, said)
# where losses are summed, each example counts by itself
assert said_by(by_its_loss, average="sum") == []
if parallel.is_main():
    print("ok")
