"""Loops over shard() that accumulate gradients, or say what a batch weighs."""

import contextlib
import itertools
from functools import partial

import numpy as np
from least_squares import DATA, EPOCH, SIZE, Model, descend, expect, steps
from mpi4py import MPI
from raised import raises

import dist_dynet as dy
from dist_dynet import parallel


def test_accumulation():
    for k in (2, 3):
        a = Model(accumulate=k)
        passes = []
        for epoch in range(k):
            for batch in a.shard:
                a.step(batch)
            passes += steps(epoch=epoch)
        w = np.zeros(2)
        for i in range(0, len(passes), k):
            gradient = w - descend(w, passes[i : i + k])
            w = w - gradient / k
        assert np.allclose(a.w.as_array(), w, rtol=1e-12, atol=1e-12)
    a = Model()
    for number, batch in enumerate(a.shard):
        if number < 2:
            with a.trainer.no_sync():
                a.step(batch)
        else:
            a.step(batch)
    expect(a, steps())


def test_gradients_that_wait_are_those_of_the_program():
    """What it does to gradients between passes is done to those of earlier passes, too."""
    first, second, third = steps()
    for act, factor in (
        (lambda a: a.w.scale_gradient(0.5), 0.5),
        (lambda a: a.w.clear_gradient(), 0),
        (lambda a: a.m.reset_gradients(), 0),
    ):
        a = Model(accumulate=3)
        for batch in a.shard:
            a.step(batch)
            if batch.step == 1:
                act(a)
        w = np.zeros(2)
        gradient = (
            factor * (2 * w - descend(w, [first]) - descend(w, [second])) + w - descend(w, [third])
        )
        assert np.allclose(a.w.as_array(), w - gradient / 3, rtol=1e-12, atol=1e-12), (
            a.w.as_array(),
            w - gradient / 3,
        )


def test_gradients_that_wait_are_changed_on_all_ranks_alike():
    """Where one rank alone does so, and others have some, the update is refused on all ranks, until
    they are forgotten."""
    acts = (
        lambda w, model: w.scale_gradient(0.5),
        lambda w, model: w.set_gradient(np.ones(w.dim()[0])),
        lambda w, model: w.clear_gradient(),
        lambda w, model: model.reset_gradients(),
    )
    silent = contextlib.nullcontext

    def step(m, t, used, act, is_subset, no_sync):
        """Two passes, in the second of which those do something that act says."""
        for number in range(2):
            dy.renew_cg()
            for p in used:
                (dy.sum_elems(p[0] if isinstance(p, dy.LookupParameters) else p) * 3).backward()
            if number:
                act()
            with t.no_sync() if no_sync and not number else silent():
                if is_subset and not number:
                    t.update_subset([1], [])
                else:
                    t.update()

    def outcome(t, *arguments):
        try:
            step(*arguments)
        except RuntimeError as error:
            assert "gradients of earlier passes of this accumulation of" in str(error), error
            return "refused"
        return "updated"

    rank, size = parallel.rank(), parallel.world_size()
    for act, average, way, kind in itertools.product(
        acts, ("mean", "sum"), ("accumulate", "no_sync", "subset"), range(2)
    ):
        if average == "sum" and way == "subset" and act is acts[1]:
            continue  # it replaces what was added in place
        m = dy.ParameterCollection()
        w, other, table = m.add_parameters(2), m.add_parameters(2), m.add_lookup_parameters((2, 1))
        p = table if kind and act is not acts[1] else w
        t = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 1), average)
        if way == "accumulate":
            t.set_accumulation(2)
        more = way == "subset", way == "no_sync"
        alone = {r: partial(act, p, m) if rank == r else int for r in range(2)}
        before = p.as_array()
        # by all; by the one that has some; then by one of those that have some, and that has none
        assert outcome(t, m, t, (p, other), partial(act, p, m), *more) == "updated"
        assert size == 1 or not np.array_equal(p.as_array(), before) or act in acts[2:]
        mine = (p, other) if rank else (other,)
        if act is not acts[3]:
            assert outcome(t, m, t, mine, alone[1] if size == 2 else int, *more) == "updated"
        for used in ((p, other), mine):
            before = p.as_array()
            told = outcome(t, m, t, used, alone[0], *more)
            assert told == ("refused" if size > 1 else "updated"), (average, way)
            assert size == 1 or np.array_equal(p.as_array(), before)
            m.reset_gradients()  # on all ranks
            if size > 1:
                t.update()  # the pass that was refused
            assert outcome(t, m, t, (p, other), int, *more) == "updated"
            assert not np.array_equal(p.as_array(), before)
            parallel.assert_in_sync(m)


def test_tokens():
    """n as a number of the program's, on the batch before backward, or said by shard()."""
    for way in ("number", "batch", "shard"):
        a = Model(average="weighted")
        a.shard = parallel.shard(
            list(DATA),
            SIZE,
            cost=lambda x: 9 if x[0] > 0.5 else 1,
            weight=(lambda _: 1.0) if way == "shard" else None,
        )
        for batch in a.shard:
            if way == "batch":
                batch.n = len(batch)
            a.backward(batch)
            a.trainer.update(*([len(batch)] if way == "number" else []))
        expect(a, *EPOCH)


def test_arrays_of_weights_count_as_they_are_in_each_step():
    """A program may change them in place, as boosting does and what draws by priority."""

    def trained(make, comm):
        a, weights = Model(average="weighted"), make(1.0 + np.arange(len(DATA)) % 3)
        a.trainer = parallel.DistributedTrainer(
            dy.SimpleSGDTrainer(a.m, 0.1), average="weighted", comm=comm
        )
        a.trainer.set_clip_threshold(0)
        shard = parallel.shard(range(len(DATA)), SIZE, weight=weights, comm=comm)
        for epoch in range(3):
            for batch in shard:
                dy.renew_cg()
                if batch:
                    assert batch.n == sum(weights[i] for i in batch)
                    losses = [
                        dy.squared_distance(a.w * float(x[2]), dy.inputTensor(x[:2]))
                        * float(weight)
                        for x, weight in ((DATA[i], weights[i]) for i in batch)
                    ]
                    (dy.esum(losses) / float(batch.n)).backward()
                a.trainer.update()
                weights[batch.step] += 2 * epoch
            for i in range(len(DATA)):
                weights[i] = 1.0 + (i + epoch) % 4
        return a.w.as_array()

    for make in np.array, list:
        alone, divided = (trained(make, comm) for comm in (MPI.COMM_SELF, None))
        assert np.allclose(divided, alone, rtol=1e-12, atol=1e-12), (make, divided - alone)
    for wrong, words in ((-1.0, "0 or more; got -1"), (None, "a number; got None")):
        weights = [1.0] * 6
        batches = iter(parallel.shard(range(6), 2, weight=weights, comm=MPI.COMM_SELF))
        next(batches)
        weights[:] = [wrong] * 6
        with raises((TypeError, ValueError), match=f"shard: weight.* must be .*{words}"):
            next(batches)


def test_examples_of_weight_zero():
    """Their rows are used, though a rank may have no other examples: Adam moves them on."""

    def trained(comm, if_none, **options):
        m = dy.ParameterCollection()
        table = m.add_lookup_parameters((len(DATA), 2), init=0.5)
        trainer = parallel.DistributedTrainer(dy.AdamTrainer(m, 0.1), comm=comm, **options)
        for epoch in range(3):
            weights = (np.arange(len(DATA)) + epoch) % 3 > 0
            for batch in parallel.shard(
                range(len(DATA)), SIZE, epoch=epoch, comm=comm, weight=weights
            ):
                dy.renew_cg()
                if batch:
                    losses = [dy.squared_norm(table[i]) * float(weights[i]) for i in batch]
                    alone = if_none if batch.total else 1  # of the whole step it is 1
                    (dy.esum(losses) / (batch.n or alone)).backward()
                trainer.update()
        return table.as_array()

    for if_none in 1, 0:  # 0/0 on a rank whose examples all have weight 0
        for options in {}, {"accumulate": 2}, {"exchange": "mpi"}:
            whole, divided = (trained(comm, if_none, **options) for comm in (MPI.COMM_SELF, None))
            assert np.allclose(divided, whole, rtol=1e-9, atol=1e-9), (options, divided - whole)


def test_examples_of_weight_zero_count_in_sums():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=1.0)
    trainer = parallel.DistributedTrainer(dy.SimpleSGDTrainer(m, 0.1), average="sum")
    for batch in parallel.shard(range(8), 8, weight=[1.0, *[0.0] * 7]):
        dy.renew_cg()
        dy.esum([w * (0.1 * i) for i in batch]).backward()
        trainer.update()
    assert abs(float(w.as_array()[0]) - (1 - 0.1 * 0.1 * sum(range(8)))) < 1e-6


def test_n_of_batches_with_examples():
    """n is set where there are examples: a rank without any has nothing to add."""
    for accumulate, named in itertools.product((1, 2), (False, True)):
        a = Model(average="weighted", accumulate=accumulate)
        for batch in parallel.shard(list(DATA), 1, shuffle=False):
            if batch:
                batch.n = 7
            a.step(batch, *([batch] if named else []))
        w = np.zeros(2)
        for i in range(0, len(DATA) // accumulate * accumulate, accumulate):
            passes = [DATA[k : k + 1] for k in range(i, i + accumulate)]
            w = w - (w - descend(w, passes)) / accumulate
        assert np.allclose(a.w.as_array(), w, rtol=1e-12, atol=1e-12), (accumulate, named)


def test_n_that_one_rank_sets():
    """Of several passes a rank cannot know by itself that another one counts otherwise."""
    for way in ("set", "number"):
        a = Model(accumulate=2)
        for batch in a.shard:
            a.backward(batch)
            is_odd = parallel.rank() == 0 and batch.step == 0
            if is_odd and way == "set":
                batch.n = 9
            try:
                a.trainer.update(*([9] if is_odd and way == "number" else []))
            except RuntimeError as error:
                said = parallel.gather(str(error))
                assert any("count otherwise than shard() has said on rank 0" in x for x in said)
                assert parallel.world_size() > 1 and batch.step == 1
                break
        else:
            assert parallel.world_size() == 1
        if parallel.world_size() > 1:
            expect(a)


def test_ranks_at_unlike_steps_of_an_accumulation():
    """One leaves its epoch before the last batch, and the others use that."""
    a = Model(accumulate=2)
    said = ""
    try:
        for _ in range(2):
            for batch in a.shard:
                if parallel.rank() == 0 and batch.step == 2:
                    break
                a.step(batch)
    except RuntimeError as error:
        said = str(error)
    if parallel.world_size() > 1:
        assert any("batches are of unlike steps of shard()" in x for x in parallel.gather(said))
        assert np.allclose(a.w.as_array(), descend(np.zeros(2), steps()[:2]) / 2, rtol=1e-12)


def test_weighted_without_weights():
    """Batches that nobody has weighted are refused, as in one process; accumulated ones, too."""
    for accumulate in (1, 2):
        a = Model(average="weighted", accumulate=accumulate)
        kind = ValueError if parallel.world_size() == 1 else RuntimeError
        for batch in a.shard:
            a.backward(batch)
            try:
                a.trainer.update()
            except kind as error:
                assert 'average="weighted" needs a weight; got none' in str(error), error
                break
        else:
            raise AssertionError("not refused")
        assert a.w.as_array().tolist() == [0, 0]
