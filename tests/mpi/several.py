"""Random programs with several trainers over one parameter store, like those of adversarial
training: several.py ENGINE SEED...

Parameters, tables and trainers are added, trainers end, parts are frozen and unfrozen, settings and
trainer states change, ranks use different parameters, and some none. The ranks must do what one
process does with the sum of all losses; rank 0 is that process afterwards. Numbers are small whole
ones and powers of two, so that hardly anything is rounded. Each rank is a host of its own for the
engine "hosts". Rank 0 prints "ok" in the end.
"""

import random
import sys

import numpy as np
from alike import use_engine

import dist_dynet as dy
from dist_dynet import parallel

rank, size = parallel.rank(), parallel.world_size()
KINDS = (dy.SimpleSGDTrainer, dy.MomentumSGDTrainer, dy.CyclicalSGDTrainer)
SHAPES = (1, 5, (3, 4), 17, (40, 30), 100)
STEPS = 120


class Program:
    """One random program; with an engine on this rank, without one in a single process that does
    what all ranks do."""

    def __init__(self, seed, engine):
        self.rng, self.engine = random.Random(seed), engine
        self.average = self.rng.choice(["mean", "sum"])
        self.root = dy.ParameterCollection()
        self.collections = [
            self.root,
            self.root.add_subcollection("generator"),
            self.root.add_subcollection("critic"),
        ]
        self.dense, self.tables, self.trainers, self.states = [], [], [], {}
        for _ in range(4):
            self.add_parameters()
        for _ in range(2):
            self.add_trainer()
        self.pattern = self.new_pattern()

    def add_parameters(self):
        rng, m = self.rng, self.rng.choice(self.collections)
        if rng.random() < 0.6:
            self.dense.append(m.add_parameters(rng.choice(SHAPES), init=rng.randint(-3, 3)))
        else:
            self.tables.append(
                m.add_lookup_parameters(
                    (rng.choice([1, 4, 30]), rng.choice([1, 5, 16])), init=rng.randint(-3, 3)
                )
            )

    def add_trainer(self):
        trainer = self.rng.choice(KINDS)(self.rng.choice(self.collections), 2.0**-6)
        trainer.set_clip_threshold(0)
        if self.engine:
            trainer = parallel.DistributedTrainer(trainer, self.average)
        self.trainers.append(trainer)

    def new_pattern(self):
        """Of each rank, which parameters it uses and how many rows; none in one case of five."""
        some = [
            [self.rng.random() < self.rng.choice([0.5, 1]) for _ in range(40)] for _ in range(size)
        ]
        return [
            (used if self.rng.random() < 0.8 else [False] * 40, self.rng.randint(0, 6))
            for used in some
        ]

    def change(self, trainer):
        """Now and then something changes, alike on all ranks."""
        rng = self.rng
        every = [*self.dense, *self.tables]
        number = self.trainers.index(trainer)
        changes = [
            self.add_parameters,
            self.add_trainer,
            lambda: self.trainers.remove(trainer) if len(self.trainers) > 2 else None,
            lambda: trainer.set_learning_rate(2.0 ** -rng.randint(5, 8)),
            lambda: trainer.set_clip_threshold(rng.choice([0, 5])),
            lambda: trainer.set_clip_value(rng.choice([0, 2])),
            lambda: trainer.set_sparse_updates(rng.random() < 0.5),
            lambda: trainer.restart(),
            lambda: rng.choice(self.collections).set_weight_decay(rng.choice([0, 2.0**-5])),
            lambda: self.states.update({number: trainer.state()}),
            lambda: self.load(trainer, number),
            lambda: [p.set_updated(rng.random() < 0.7) for p in rng.choices(every, k=2)],
            lambda: rng.choice(every).scale(0.5),
        ]
        rng.choice(changes)()

    def load(self, trainer, number):
        """Goes on from a state, if it is one of this trainer's."""
        state = self.states.get(number)
        if state and bytes(state["trainer"]).decode() == trainer.whoami():
            names = {
                f"/{name}".replace("//", "/") for name in trainer.collection.named_parameters()
            }
            if all(
                f"/{key.partition(':')[2]}".replace("//", "/") in names
                for key in state
                if ":" in key
            ):
                trainer.load_state(state)

    def losses(self, of):
        """The terms of one rank's loss."""
        used, count = self.pattern[of]
        draws = random.Random(self.rng.random())  # the same on all ranks, whatever they use
        factors, rows = (
            [draws.choice([-2, -1, 1, 2]) for _ in range(80)],
            [draws.randrange(1000) for _ in range(6)],
        )
        terms = [
            dy.sum_elems(p) * factors[i % 40] for i, p in enumerate(self.dense) if used[i % 40]
        ]
        for i, table in enumerate(self.tables):
            if used[-1 - i % 40]:
                terms += [
                    dy.sum_elems(table[row % len(table)]) * factors[40 + i % 40]
                    for row in rows[:count]
                ]
        return terms if not self.engine or of == rank else []

    def run(self):
        """The parameters' values at the end."""
        rng = self.rng
        for _ in range(STEPS):
            trainer = rng.choice(self.trainers)
            if rng.random() < 0.4:
                self.change(trainer)
                trainer = rng.choice(self.trainers)
            if rng.random() < 0.3:
                self.pattern = self.new_pattern()
            dy.renew_cg()
            terms = [term for of in range(size) for term in self.losses(of)]
            if terms:
                share = 1 / size if self.average == "mean" and not self.engine else 1
                (dy.esum(terms) * share).backward()
            trainer.update()
        if self.engine:
            parallel.assert_in_sync(self.root)
        return [p.as_array() for p in [*self.dense, *self.tables]]


engine, *seeds = sys.argv[1:]
use_engine(engine)
for seed in seeds:
    together = Program(int(seed), engine).run()
    if rank == 0:
        alone = Program(int(seed), None).run()
        for p, q in zip(together, alone, strict=True):
            assert np.allclose(p, q, rtol=1e-4, atol=1e-4), f"seed {seed}: {abs(p - q).max()}"
        assert all(np.isfinite(p).all() for p in alone)
if rank == 0:
    print("ok")
