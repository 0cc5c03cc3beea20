"""numbered.py: parameters that a program makes while it works on a batch of shard(), and that their
number alone tells from one another, are warned of once, on rank 0: where ranks meet other examples
first, unlike ones have the same number. Where the program names them, the ranks compare the names;
what is made between loops is no matter. Each case: two epochs of two ranks; rank 0 prints "ok"."""

import warnings

import dist_dynet as dy
from dist_dynet import parallel
from dist_dynet._manner import manner

DATA = [2, 3]  # of two kinds, of which each rank meets another one


def by_number(m, kind):
    return m.add_parameters(3)


def table(m, kind):
    return m.add_lookup_parameters((2, 3))[1]


def builder(m, kind):
    return dy.GRUBuilder(1, 3, 3, m).initial_state().add_input(dy.ones(3)).output()


def block(m, kind):
    return dy.Linear(3, 3, m)(dy.ones(3))


def numbered_collection(m, kind):
    return m.add_subcollection().add_parameters(3, name="b")


def name_taken(m, kind):
    return m.add_parameters(3, name="W")


def in_a_collection(m, kind):
    return m.home.add_parameters(3)


def in_an_empty_collection(m, kind):
    return m.empty.add_parameters(3)


def builder_of_builders(m, kind):
    return dy.BiRNNBuilder(1, 3, 4, m, dy.GRUBuilder).transduce([dy.ones(3)])[0]


def by_name(m, kind):
    return m.add_parameters(3, name=f"b{kind}")


def named_collection(m, kind):
    return builder(m.add_subcollection(f"of{kind}"), kind)


def trained(make, wrap, alike=False, early=True):
    """What is said in two epochs; alike: of data of one kind; early: the parameters of all kinds
    are made before the trainer, and again between the epochs."""
    manner.said.discard("numbered")
    m = Model()
    W = m.add_parameters((2, 3), name="W")
    made = {kind: make(m, kind) for kind in (2, 3)} if early else {}
    trainer = wrap(dy.SimpleSGDTrainer(m, 0.1))
    if early == "late":
        made = {kind: make(m, kind) for kind in (2, 3)}
    found = []
    for epoch in range(2):
        for batch in parallel.shard([2] * 2 if alike else DATA, 2, epoch=epoch, shuffle=False):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                dy.renew_cg()
                for kind in batch:
                    if kind not in made:
                        made[kind] = make(m, kind)
                dy.average([dy.squared_norm(W * dy.ones(3)) for kind in batch]).backward()
                trainer.update()
            assert all(warning.filename == __file__ for warning in caught)
            found += [str(warning.message) for warning in caught]
        if early:
            make(m, epoch)
    return found


class Model(dy.ParameterCollection):
    def __init__(self):
        super().__init__()
        self.home = self.add_subcollection("home")
        self.home.add_parameters(1)
        self.empty = self.add_subcollection("empty")


def every_step(trainer):
    return parallel.LocalSGD(trainer, every=1)


TOLD = parallel.is_main()
for wrap in parallel.DistributedTrainer, every_step:
    for make in (
        by_number,
        table,
        builder,
        block,
        numbered_collection,
        name_taken,
        in_a_collection,
        in_an_empty_collection,
        builder_of_builders,
    ):
        said = trained(make, wrap, early=False)
        assert len(said) == TOLD, (make.__name__, said)
        assert all("was made while the program worked on a batch" in text for text in said)
        for early in True, "late":
            assert trained(make, wrap, early=early) == [], make.__name__
    for make in by_name, named_collection:
        assert trained(make, wrap, alike=True, early=False) == [], make.__name__
        try:
            trained(make, wrap, early=False)
            raise AssertionError(make.__name__)
        except RuntimeError as error:
            assert "Make the same parameters on all ranks" in str(error), error
if parallel.is_main():
    print("ok")
