"""Recurrent builders, from zeros and from a given state, and networks of both directions."""

import dist_dynet as dy

from .row import Net

FACTORIES = {
    "simple": dy.SimpleRNNBuilder,
    "gru": dy.GRUBuilder,
    "coupled": dy.CoupledLSTMBuilder,
    "compact": dy.CompactVanillaLSTMBuilder,
    "fast": dy.FastLSTMBuilder,
    "sparse": dy.SparseLSTMBuilder,
    "vanilla": dy.VanillaLSTMBuilder,
    "layer-normalised": lambda *sizes: dy.VanillaLSTMBuilder(*sizes, ln_lstm=True, forget_bias=0.5),
    "sparse layer-normalised": lambda *sizes: dy.SparseLSTMBuilder(*sizes, ln_lstm=True),
}
"""Each makes a builder from layers, input_dim, hidden_dim and a collection. The tests of
test_builders.py and test_padding.py are for all."""

CLASSES = list(
    dict.fromkeys(type(make(1, 1, 1, dy.ParameterCollection())) for make in FACTORIES.values())
)

UNUSED = {"fast": ("_2", "_6", "_13", "_17")}
"""The peepholes of two layers, which DyNet's FastLSTMBuilder has and does not use."""

LAYERS, INPUT, HIDDEN = 2, 4, 3


def cells(builder):
    """Whether the state of a layer is c and h."""
    return isinstance(builder, dy.VanillaLSTMBuilder | dy.CoupledLSTMBuilder)


def from_zeros(builder, xs):
    states = builder.initial_state().add_inputs(xs)
    return dy.concatenate([states[0].output(), *states[-1].s()])


def from_a_state(builder, xs):
    states = builder.initial_state(xs[2:]).add_inputs(xs[:2])
    return dy.concatenate([states[0].output(), *states[-1].s()])


def both_ways(network, xs):
    return dy.concatenate([*network.transduce(xs), network.add_inputs(xs)[1][1].output()])


def _factory(make):
    return lambda m: make(LAYERS, INPUT, HIDDEN, m)


def _starts(make):
    return (4 if cells(make(1, 1, 1, dy.ParameterCollection())) else 2) * ((HIDDEN,),)


NETS = {
    **{
        name: Net(_factory(make), [(INPUT,)] * 3, from_zeros, unused=UNUSED.get(name, ()))
        for name, make in FACTORIES.items()
    },
    **{
        f"{name} from a state": Net(
            _factory(make),
            [(INPUT,)] * 2 + [*_starts(make)],
            from_a_state,
            unused=UNUSED.get(name, ()),
        )
        for name, make in FACTORIES.items()
    },
    **{
        f"both ways {factory.__name__}": Net(
            lambda m, f=factory: dy.BiRNNBuilder(2, 2, 4, m, f), [(2,)] * 3, both_ways
        )
        for factory in (dy.VanillaLSTMBuilder, dy.GRUBuilder)
    },
}
