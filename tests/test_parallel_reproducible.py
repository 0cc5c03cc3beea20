"""reproducible=True: the same bits for every number of ranks. The tree here, the rest in programs
of tests/mpi.

How long: half a minute.
"""

import copy

import numpy as np
import pytest
from jobs import mpirun, needs_mpi
from processes import HERE, run_python

import dist_dynet as dy
from dist_dynet import _random, parallel
from dist_dynet._ffi import DTYPE
from dist_dynet.parallel.division import deal, spread
from dist_dynet.parallel.reproducible import Node, push, root_sum
from dist_dynet.parallel.update.gradients import Gradients

# ---- the tree --------------------------------------------------------------------------


def random_gradients(rng):
    """Over many orders of magnitude, so that other orders of summation show."""

    def numbers(*shape):
        return (rng.normal(size=shape) * 10.0 ** rng.integers(-6, 6, shape)).astype(DTYPE)

    ids = np.flatnonzero(rng.random(9) < 0.4).astype(np.int32)
    return Gradients(rng.random(2) < 0.5, numbers(50), [(ids, numbers(len(ids), 4))])


def arrays(gradients):
    table = np.zeros((9, 4), DTYPE)
    ids, rows = gradients.tables[0]
    table[ids] = rows
    return gradients.dense, table


def in_halves(leaves):
    """The sum as the tree says, by recursion, in plain NumPy."""
    if len(leaves) == 1:
        return arrays(leaves[0])
    middle = 1 << (len(leaves) - 1).bit_length() - 1
    pairs = zip(in_halves(leaves[:middle]), in_halves(leaves[middle:]), strict=True)
    return [left + right for left, right in pairs]


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 8, 13, 16])
def test_tree_does_not_depend_on_the_ranks(count, seed):
    rng = np.random.default_rng(seed)
    leaves = [random_gradients(rng) for _ in range(count)]
    for ranks in (1, 2, 3, 4, 5, 20):
        every = []
        for rank in range(ranks):
            mine = []
            for number in deal(count, rank, ranks):
                if number is not None:
                    push(mine, Node(number, 0, copy.deepcopy(leaves[number])))
            assert ranks > 1 or len(mine) <= count.bit_length()
            for node in mine:
                push(every, node)
        found = root_sum(every)
        assert np.array_equal(found.filled, np.logical_or.reduce([x.filled for x in leaves]))
        for array, expected in zip(arrays(found), in_halves(leaves), strict=True):
            assert np.array_equal(array, expected)


def test_micro_batches_are_dealt_evenly():
    for count in range(1, 20):
        assert sorted(spread(count)) == list(range(count))
        for ranks in range(1, 9):
            dealt = [deal(count, rank, ranks) for rank in range(ranks)]
            assert [n for numbers in dealt for n in numbers if n is not None] == list(range(count))
            assert {len(numbers) for numbers in dealt} == {-(-count // ranks)}
    assert spread(8) == [0, 4, 2, 6, 1, 5, 3, 7]


# ---- one process -----------------------------------------------------------------------


def test_shard_cuts_a_step_into_micro_batches():
    data = list(range(10))
    batches = list(parallel.shard(data, batch_size=6, micro_batches=4, shuffle=False))
    assert (
        sorted(map(len, batches[:4])) == [1, 1, 2, 2]
        and sorted(x for batch in batches[:4] for x in batch) == data[:6]
    )
    assert (
        sorted(map(len, batches[4:])) == [1, 1, 1, 1]
        and sorted(x for batch in batches[4:] for x in batch) == data[6:]
    )
    with pytest.raises(ValueError, match="micro_batches must be 1 or more; got 0"):
        parallel.shard(data, batch_size=6, micro_batches=0)


def test_position_counts_steps_of_micro_batches():
    batches = parallel.shard(range(10), batch_size=4, micro_batches=3)
    positions = [batches.position for _ in batches]
    assert positions == [0, 0, 0, 1, 1, 1, 2, 2, 2] and len(batches) == 3
    with pytest.raises(ValueError, match="micro_batches must be as it was"):
        parallel.shard(range(10), batch_size=4, micro_batches=2).load_state(batches.state())


def test_draws_depend_on_step_and_micro_batch_only():
    def draws(skip):
        dy.reset_random_seed(4)
        result = []
        for i, _ in enumerate(parallel.shard(range(6), batch_size=3, micro_batches=2)):
            if i < skip:
                continue
            for _ in range(2):
                dy.renew_cg()
                result.append(tuple(dy.random_normal(3).value()))
            result.append(tuple(dy.cg().uniform(2)))
        dy.renew_cg()
        return result, dy.random_normal(3).value()

    every, after = draws(0)
    assert len(set(every)) == 12
    assert draws(2) == (every[6:], after)


@pytest.mark.parametrize("inside", ["shard", "micro-batches", "evaluate"])
def test_a_loop_inside_of_a_micro_batch_gives_its_draws_back(inside):
    def draw():
        dy.renew_cg()
        return (*dy.random_normal(2).value(), *dy.cg().uniform(1))

    def draws(inside):
        dy.reset_random_seed(4)
        result = []
        for _ in parallel.shard(range(6), batch_size=3, micro_batches=2):
            result.append(draw())
            if inside == "evaluate":
                parallel.evaluate(lambda _: draw(), range(3))
            elif inside:
                for _ in parallel.shard(range(4), 2, micro_batches=2 if inside[0] == "m" else None):
                    draw()
            result.append(draw())
        return result

    expected = draws(None)
    assert draws(inside) == expected and len({*expected}) == len(expected)


def test_draws_of_an_evaluation_depend_on_seed_call_and_example_alone():
    """Not on what else this process computes, as each rank computes other examples. Draws of the
    program go on where they were, also after an exception, and those of later evaluations after
    random_state()."""

    def draw(graphs=1):
        for _ in range(graphs):
            dy.renew_cg()
        return (*dy.random_normal(2).value(), *dy.cg().uniform(1))

    def evaluated(mine=range(5)):
        return parallel.evaluate(lambda i: draw(1 + i) if i in mine else None, range(5))

    dy.reset_random_seed(4)
    whole = evaluated()
    state = dy.random_state()
    later = evaluated()
    own = [draw() for _ in range(4)]
    assert len({*whole, *later, *own}) == 14
    dy.set_random_state(state)
    draw(3)
    assert evaluated() == later
    for mine in ({1, 4}, {0, 2, 3}):  # of two ranks
        dy.reset_random_seed(4)
        assert evaluated(mine) == [x if i in mine else None for i, x in enumerate(whole)]
    assert draw() == own[0]
    with pytest.raises(ZeroDivisionError):
        parallel.evaluate(lambda i: (draw(), 1 // (i - 2)), range(5))
    assert draw() == own[1]


@pytest.mark.parametrize("way", ["mean", "weighted", "sum"])
def test_result_is_that_of_whole_batches(way):
    """Micro-batches add up to what one process does with whole batches."""
    results = []
    for micro_batches in (None, 3):
        dy.reset_random_seed(3)
        model = dy.ParameterCollection()
        W, table = model.add_parameters((3, 4)), model.add_lookup_parameters((7, 4))
        inner = dy.AdamTrainer(model, 0.05)
        inner.set_clip_threshold(0.7)
        trainer = parallel.DistributedTrainer(
            inner, "sum" if way == "sum" else "mean", reproducible=micro_batches is not None
        )
        for _ in range(4):
            for batch in parallel.shard(range(14), batch_size=7, micro_batches=micro_batches):
                dy.renew_cg()
                weights = [1.0 + x % 3 if way == "weighted" else 1.0 for x in batch]
                batch.n = sum(weights)
                if batch:
                    losses = [
                        dy.pickneglogsoftmax(W * table[x % 7], x % 3) * weight
                        for x, weight in zip(batch, weights, strict=True)
                    ]
                    (dy.esum(losses) / (1 if way == "sum" else batch.n)).backward()
                trainer.update(batch)
        assert trainer.updates == 8
        results.append((W.as_array(), table.as_array()))
    for whole, cut in zip(*results, strict=True):
        assert np.all(np.abs(whole - cut) <= 1e-5 * (1 + np.abs(whole)))


def new_trainer(**options):
    model = dy.ParameterCollection()
    w = model.add_parameters(1, init=0)
    return w, parallel.DistributedTrainer(dy.SimpleSGDTrainer(model, 1), **options)


def test_gradients_of_a_refused_step_are_dropped():
    w, trainer = new_trainer(reproducible=True)
    trainer.set_clip_threshold(5)

    def epoch(factor):
        for batch in parallel.shard([1, 2], batch_size=2, micro_batches=2):
            dy.renew_cg()
            (factor * w).backward()
            trainer.update(batch)

    with pytest.raises(RuntimeError, match="Magnitude of gradient is bad"):
        epoch(float("nan"))
    epoch(1)
    assert w.as_array() == [-1] and trainer.updates == 1


def test_calls_that_do_not_fit_are_errors():
    w, trainer = new_trainer(reproducible=True)
    with pytest.raises(RuntimeError, match="each call belongs to a batch of shard"):
        trainer.update()
    with pytest.raises(RuntimeError, match="no_sync: with reproducible=True"), trainer.no_sync():
        pass
    with pytest.raises(ValueError, match="Join: with reproducible=True"):
        parallel.Join(trainer)
    with pytest.raises(ValueError, match="reproducible=True takes no compression and no acc"):
        new_trainer(reproducible=True, accumulate=2)
    for _ in parallel.shard([1, 2], batch_size=2, micro_batches=2):
        dy.renew_cg()
        w.backward()
        trainer.update()
        with pytest.raises(RuntimeError, match="call it once after each batch of shard"):
            trainer.update()
        break
    assert w.as_array() == [0]
    # the step that was left is dropped
    for _ in parallel.shard([1, 2], batch_size=2, micro_batches=2):
        dy.renew_cg()
        (2 * w).backward()
        trainer.update()
    assert w.as_array() == [-2]
    _random.use_dynet_order(True)
    try:
        for _ in parallel.shard([1], batch_size=1, micro_batches=1):
            with pytest.raises(RuntimeError, match="got DyNet's order of draws"):
                trainer.update()
    finally:
        _random.use_dynet_order(False)
    _, other = new_trainer()
    for _ in parallel.shard([1, 2], batch_size=2, micro_batches=2):
        with pytest.raises(RuntimeError, match="need DistributedTrainer"):
            other.update()
        break


# ---- several ---------------------------------------------------------------------------


def test_every_number_of_ranks_gives_the_same_bits(mpi):
    alone = run_python(str(HERE / "mpi" / "reproducible.py"))
    ways = dict(line.rsplit(" ", 1) for line in alone.stdout.splitlines())
    assert len(ways) == len(set(ways.values())) == 11, alone.stdout + alone.stderr
    for ranks in 2, 3, 4:
        status, output, _ = mpirun(ranks, "reproducible.py", mpi=mpi)
        assert (status, output) == (0, alone.stdout), ranks


@pytest.mark.mpi
@needs_mpi
@pytest.mark.parametrize("ranks", [2, 4])
def test_micro_batches_of_ranks(ranks):
    status, output, _ = mpirun(ranks, "micro_batches.py")
    assert (status, output) == (0, "")


@pytest.mark.mpi
@needs_mpi
def test_a_run_continues_with_another_number_of_ranks(tmp_path):
    program = str(HERE / "mpi" / "elastic.py")
    alone = run_python(program, str(tmp_path / "alone"), "13").stdout
    for ranks, last in ((3, 6), (2, 10)):
        status, output, _ = mpirun(ranks, "elastic.py", tmp_path / "ranks", last)
        assert status == 0 and output.startswith(f"{last} ") and output != alone, output
    assert run_python(program, str(tmp_path / "ranks"), "13").stdout == alone != ""
