"""What depends on the order in which DyNet computes and draws, within this package.

How long: a few seconds.
"""

import pytest

import dist_dynet as dy

# ---- DyNet's order within this package -------------------------------------------------


def test_backward_after_an_update_uses_the_values_of_the_graph(installed):
    m = dy.ParameterCollection()
    W, V = m.add_parameters((1, 1), init=2.0), m.add_parameters((1, 1), init=3.0)
    trainer = dy.SimpleSGDTrainer(m, learning_rate=0.1)
    y = W * V
    assert y.value() == [[6.0]]
    y.backward()
    trainer.update()
    y.backward()
    assert (W.grad_as_array(), V.grad_as_array()) == (3.0, 2.0) and W.as_array() == pytest.approx(
        1.7
    )


def test_sequences_of_one_graph_share_their_start_and_their_masks(installed):
    lstm = dy.LSTMBuilder(1, 3, 20, dy.ParameterCollection())
    lstm.set_dropout(0.5)
    assert lstm.initial_state() is lstm.initial_state()
    first, second = (lstm.initial_state().add_input(dy.ones(3)).output().value() for _ in range(2))
    assert first == second
    dy.renew_cg()
    assert lstm.initial_state().add_input(dy.ones(3)).output().value() != first


@pytest.mark.parametrize(
    "draw",
    [
        lambda: dy.dropout(dy.ones(64), 0.5),
        lambda: dy.random_normal(8),
        lambda: dy.noise(dy.ones(8), 1.0),
    ],
)
def test_draws_do_not_depend_on_the_order_that_batching_chooses(installed, draw):
    """Two draws that do not need one another, in a graph that is batched: the same values whichever
    is asked for first, as the real one's."""
    seen = []
    for first in (0, 1):
        dy.reset_random_seed(3)
        dy.renew_cg(autobatching=True)
        a, b = draw(), draw()
        _ = (a, b)[first].value()
        seen.append((a.value(), b.value()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    # what the real DyNet draws after the masks, where one of the rates is positive and where none
    # is
    ("name", "dropped", "kept"),
    [
        ("SimpleRNNBuilder", 0.693138, 0.676255),
        ("VanillaLSTMBuilder", 0.572794, 0.707687),
        ("CompactVanillaLSTMBuilder", 0.572794, 0.707687),
        ("SparseLSTMBuilder", 0.572794, 0.707687),
    ],
)
def test_masks_are_drawn_where_one_of_the_rates_is_positive(installed, name, dropped, kept):
    for rates, wanted in (
        ((0, 0), kept),
        ((0.5, 0), dropped),
        ((0, 0.5), dropped),
        ((0.3, 0.4), dropped),
    ):
        dy.reset_random_seed(3)
        builder = getattr(dy, name)(1, 3, 4, dy.ParameterCollection())
        builder.set_dropouts(*rates)
        dy.renew_cg()
        state = builder.initial_state()
        builder.set_dropout_masks(1)
        state.add_input(dy.inputVector([1, 2, 3])).add_input(
            dy.inputVector([1, 0, 3])
        ).output().value()
        assert dy.random_uniform(1, 0, 1).value() == pytest.approx(wanted, abs=2e-6), rates


def test_reading_a_parameter_takes_as_many_draws_as_making_it(installed, tmp_path):
    m = dy.ParameterCollection()
    m.add_parameters((2, 3), name="W")
    m.add_lookup_parameters((4, 2), name="E")
    m.save(tmp_path / "m")
    for read, key, size in (m.load_param, "/W", 6), (m.load_lookup_param, "/E", 8):
        dy.reset_random_seed(5)
        drawn = m.add_parameters(size + 1, init="uniform").as_array()
        dy.reset_random_seed(5)
        read(tmp_path / "m", key)
        assert m.add_parameters(1, init="uniform").as_array()[0] == drawn[-1]


def test_refused_names_draw_nothing():
    m = dy.ParameterCollection()
    dy.reset_random_seed(5)
    for add in (m.add_parameters, m.add_lookup_parameters):
        with pytest.raises(RuntimeError, match="must not contain"):
            add((2, 2), name="a_b")
    first = m.add_parameters(4).as_array()
    dy.reset_random_seed(5)
    assert (m.add_parameters(4).as_array() == first).all()


def test_keyed_draws_come_back(installed):
    dy.init(rng="keyed")
    lstm = dy.LSTMBuilder(1, 3, 4, dy.ParameterCollection())
    assert lstm.initial_state() is not lstm.initial_state()
    with pytest.raises(ValueError, match=r"^set_rng: takes 'keyed' or 'dynet'; got 'x'"):
        dy.init(rng="x")
