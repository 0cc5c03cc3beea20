"""reproducible=True: the same bits for every number of ranks. The tree here, the rest in programs
of tests/mpi.

How long: half a minute.
"""

import copy
import random

import numpy as np
import pytest
from jobs import mpirun, needs_mpi
from processes import HERE, run_python

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._ffi import DTYPE
from dist_dynet.parallel.agreement.structure import Structure
from dist_dynet.parallel.batches.division import deal, spread
from dist_dynet.parallel.update.reproducible import FlatLayout, Node, Tree

# ---- the tree --------------------------------------------------------------------------


def random_leaves(rng, layout, tables, count):
    """Leaves with gradients of some parameters and rows, over many orders of magnitude, so that
    other orders of summation show."""
    leaves = []
    for low in range(count):
        filled = rng.random(len(layout.structure.dense)) < 0.7
        dense = np.full(layout.size, np.nan, DTYPE)
        for _, start, end in layout.runs(filled):
            dense[start:end] = rng.normal(size=end - start) * 10.0 ** rng.integers(
                -6, 6, end - start
            )
        rows = []
        for _ in range(tables):
            ids = np.flatnonzero(rng.random(9) < 0.4).astype(np.int32)
            rows.append(
                (ids, (rng.normal(size=(len(ids), 4)) * 10.0 ** rng.integers(-6, 6)).astype(DTYPE))
                if len(ids)
                else None
            )
        leaves.append(Node(low, 0, filled, dense if filled.any() else None, 0, rows))
    return leaves


def root_of(nodes, layout):
    tree = Tree(layout, [])
    for node in copy.deepcopy(nodes):
        tree.push(node)
    return tree


def in_halves(low, high, leaves, layout):
    """The sum as the tree says, by recursion, in plain NumPy: (values or None, rows) of the dense
    parameters and of each table's rows."""
    if high - low == 1:
        leaf = leaves[low]
        parts = {}
        for k, is_filled in enumerate(leaf.filled.tolist()):
            if is_filled:
                ((_, start, end),) = layout.runs(np.arange(len(leaf.filled)) == k)
                parts["dense", k] = leaf.dense[start:end]
        for t, rows in enumerate(leaf.tables):
            for i in range(len(rows[0]) if rows else 0):
                parts[t, int(rows[0][i])] = rows[1][i]
        return parts
    middle = low + (1 << (high - low - 1).bit_length() - 1)
    left, right = in_halves(low, middle, leaves, layout), in_halves(middle, high, leaves, layout)
    return {
        key: left[key] + right[key]
        if key in left and key in right
        else left.get(key, right.get(key))
        for key in left.keys() | right
    }


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 8, 13, 16])
def test_tree_does_not_depend_on_the_ranks(count, seed):
    rng = np.random.default_rng(seed)
    model = dy.ParameterCollection()
    for size in (5, 16, 100, 3):
        model.add_parameters(size)
    layout = FlatLayout(Structure(model))
    leaves = random_leaves(rng, layout, 2, count)
    expected = in_halves(0, count, leaves, layout)
    for ranks in (1, 2, 3, 4, 5, 20):
        nodes = []
        for rank in range(ranks):
            mine = [leaves[number] for number in deal(count, rank, ranks) if number is not None]
            nodes += root_of(mine, layout).nodes
        assert ranks > 1 or len(nodes) <= count.bit_length()
        random.Random(seed).shuffle(nodes)
        root = root_of(sorted(nodes, key=lambda node: node.low), layout).root()
        assert np.array_equal(root.filled, np.logical_or.reduce([leaf.filled for leaf in leaves]))
        found = in_halves(0, 1, [root], layout)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[key], expected[key]) for key in expected)


def test_a_share_of_the_tree_is_that_share_of_the_whole(seed):
    rng = np.random.default_rng(seed)
    model = dy.ParameterCollection()
    for size in (5, 16, 100, 3):
        model.add_parameters(size)
    layout = FlatLayout(Structure(model))
    leaves = random_leaves(rng, layout, 0, 6)
    whole = root_of(leaves, layout).root()
    for first, last in ((0, 16), (16, 64), (64, layout.size), (32, 32)):
        shares = copy.deepcopy(leaves)
        for share in shares:
            share.dense, share.start = (
                None if share.dense is None else share.dense[first:last],
                first,
            )
        assert np.array_equal(
            root_of(shares, layout).root().dense, whole.dense[first:last], equal_nan=True
        )


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
    with pytest.raises(
        ValueError, match="micro_batches, over all ranks, must be at least 1; got 0"
    ):
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


@pytest.mark.parametrize("average", ["mean", "weighted", "sum"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_result_is_that_of_whole_batches(average, accumulate):
    """With losses as `average` says: micro-batches add up to what one process does with whole
    batches, of several steps too."""
    results = []
    for micro_batches in (None, 3):
        dy.reset_random_seed(3)
        model = dy.ParameterCollection()
        W, table = model.add_parameters((3, 4)), model.add_lookup_parameters((7, 4))
        inner = dy.AdamTrainer(model, 0.05)
        inner.set_clip_threshold(0.7)
        trainer = parallel.DistributedTrainer(
            inner, average, reproducible=micro_batches is not None, accumulate=accumulate
        )
        for _ in range(4):
            for batch in parallel.shard(range(14), batch_size=7, micro_batches=micro_batches):
                dy.renew_cg()
                weight = sum(1.0 + x % 3 for x in batch)
                if batch:
                    losses = [
                        dy.pickneglogsoftmax(W * table[x % 7], x % 3)
                        * (1.0 + x % 3 if average == "weighted" else 1)
                        for x in batch
                    ]
                    divisor = {"mean": len(batch), "weighted": weight, "sum": 1}[average]
                    (dy.esum(losses) / divisor).backward()
                trainer.update(*([weight] if average == "weighted" else []))
        assert trainer.updates == 8 // accumulate
        results.append((W.as_array(), table.as_array()))
    for whole, cut in zip(*results, strict=True):
        assert np.all(np.abs(whole - cut) <= 1e-5 * (1 + np.abs(whole)))


# ---- several ---------------------------------------------------------------------------


def test_every_number_of_ranks_gives_the_same_bits(mpi):
    alone = run_python(str(HERE / "mpi" / "reproducible.py"))
    ways = dict(line.rsplit(" ", 1) for line in alone.stdout.splitlines())
    assert len(ways) == len(set(ways.values())) == 13, alone.stdout + alone.stderr
    for ranks, engine in ((2, "auto"), (3, "mpi"), (4, "auto")):
        status, output, _ = mpirun(ranks, "reproducible.py", engine, mpi=mpi)
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
