"""Output layers: values of the real DyNet, batches, whole distributions, sampling, refusals. The
rest: test_nets.py.

FACTORIES of net_table/outputs.py lists them. How long: a second.
"""

import numpy as np
import pytest
from net_table.outputs import CLUSTERS, FACTORIES, PATHS, WORDS
from test_graph import close

import dist_dynet as dy


@pytest.fixture
def clusters(tmp_path):
    path = tmp_path / "clusters"
    path.write_text(CLUSTERS)
    return path


@pytest.fixture
def paths(tmp_path):
    path = tmp_path / "paths"
    path.write_text(PATHS)
    return path


@pytest.fixture(params=[name + bias for name in FACTORIES for bias in ("", " without bias")])
def output(request):
    """A builder over six words with parameters off their initial values."""
    dy.renew_cg()
    m = dy.ParameterCollection()
    builder = FACTORIES[request.param.split()[0]](m, "without" not in request.param)
    rng = np.random.default_rng(2)
    for p in m.parameters_list():
        p.set_value(rng.normal(size=p.shape()))
    for table in m.lookup_parameters_list():
        table.init_from_array(rng.normal(size=table.shape()))
    builder.owner = m
    return builder


def parameters_of(output):
    return [*output.owner.parameters_list(), *output.owner.lookup_parameters_list()]


# ---- values ----------------------------------------------------------------------------


def test_initial_values_and_losses_are_those_of_dynet(clusters):
    dy.renew_cg()
    x = dy.inputVector([1, -2])
    for make, losses in (
        (lambda m: dy.StandardSoftmaxBuilder(2, 3, m), [0.734725, 0.92718, 2.081884]),
        (
            lambda m: dy.ClassFactoredSoftmaxBuilder(2, clusters, WORDS, m),
            [0.734725, 3.623079, 2.669025, 3.20632, 4.208417, 0.997047],
        ),
    ):
        dy.reset_random_seed(7)
        builder = make(dy.ParameterCollection())
        close([builder.neg_log_softmax(x, c).value() for c in range(len(losses))], losses, 1e-5)
    close(builder.class_log_distribution(x).npvalue(), [-0.734725, -0.92718, -2.081884])
    close(builder.subclass_log_distribution(x, 2).npvalue(), [-0.587141, -1.124436, -2.126533])
    assert builder.subclass_log_distribution(x, 0).npvalue().tolist() == [0]


def test_parameters_have_dynets_names_and_shapes(clusters):
    m = dy.ParameterCollection()
    dy.ClassFactoredSoftmaxBuilder(2, clusters, WORDS, m)
    dy.StandardSoftmaxBuilder(2, 4, m)
    assert [(p.name(), p.shape()) for p in m.parameters_list()] == [
        ("/class-factored-softmax-builder/_0", (3, 2)),
        ("/class-factored-softmax-builder/_1", (3,)),
        ("/class-factored-softmax-builder/_2", (2, 2)),
        ("/class-factored-softmax-builder/_3", (2,)),
        ("/class-factored-softmax-builder/_4", (3, 2)),
        ("/class-factored-softmax-builder/_5", (3,)),
        ("/standard-softmax-builder/_0", (4, 2)),
        ("/standard-softmax-builder/_1", (4,)),
    ]


def test_distribution_is_made_of_the_losses(output, rng):
    x = dy.inputVector(rng.normal(size=3))
    losses = [output.neg_log_softmax(x, c).value() for c in range(6)]
    close(-output.full_log_distribution(x).npvalue(), losses, 1e-5)
    close(-dy.log_softmax(output.full_logits(x)).npvalue(), losses, 1e-5)
    close(np.exp(np.negative(losses)).sum(), 1, 1e-5)


def test_batched_equals_unbatched(output, rng):
    array, words = rng.normal(size=(3, 7)), [5, 0, 2, 4, 0, 1, 2]
    columns = [dy.inputVector(array[:, k]) for k in range(7)]
    x = dy.inputTensor(array, batched=True)
    losses = [output.neg_log_softmax(e, c).value() for e, c in zip(columns, words, strict=True)]
    close(output.neg_log_softmax_batch(x, words).npvalue().ravel(), losses, 1e-5)
    one = [output.neg_log_softmax(columns[0], c).value() for c in words]
    close(output.neg_log_softmax_batch(columns[0], iter(words)).npvalue().ravel(), one, 1e-5)
    close(
        output.neg_log_softmax_batch(columns[0], [3]).value(),
        output.neg_log_softmax(columns[0], 3).value(),
    )
    close(
        output.full_log_distribution(x).npvalue()[:, 4],
        output.full_log_distribution(columns[4]).npvalue(),
        1e-5,
    )


def test_update_false_gives_no_gradient(output):
    x = dy.ones(3, batch_size=2)
    loss = output.neg_log_softmax_batch(x, [0, 2], update=False) + output.neg_log_softmax(
        dy.ones(3), 4, False
    )
    dy.sum_batches(loss + dy.sum_elems(output.full_log_distribution(x, False))).backward()
    parameters = parameters_of(output)
    assert not any(p.has_gradient() for p in parameters)
    output.neg_log_softmax(dy.ones(3), 2).backward()
    assert parameters[0].has_gradient()


def test_samples_follow_the_distribution(output):
    dy.reset_random_seed(3)
    x = dy.ones(3) * 0.5
    p = dy.exp(output.full_log_distribution(x)).npvalue()
    counts = np.bincount([output.sample(x) for _ in range(2000)], minlength=6)
    assert np.abs(counts / 2000 - p).max() < 0.05
    with pytest.raises(ValueError, match="without batch"):
        output.sample(dy.ones(3, batch_size=2))


def test_hierarchical_softmax_is_the_product_of_its_choices(paths, rng):
    m = dy.ParameterCollection()
    output = dy.HierarchicalSoftmaxBuilder(3, paths, WORDS | {"g": 6}, m)
    assert [p.shape() for p in m.parameters_list()] == [
        (1, 3),
        (1,),
        (1, 3),
        (1,),
        (1, 3),
        (1,),
        (3, 3),
        (3,),
    ]
    assert m.parameters_list()[0].name() == "/hierarchical-softmax-builder/_0"
    for p in m.parameters_list():
        p.set_value(rng.normal(size=p.shape()))
    dy.renew_cg()
    x = rng.normal(size=3)
    root, one, two, three = (
        W.as_array() @ x + b.as_array()
        for W, b in zip(m.parameters_list()[::2], m.parameters_list()[1::2], strict=True)
    )
    (root,), (one,), (two,) = (1 / (1 + np.exp(-z)) for z in (root, one, two))
    last = np.exp(three) / np.exp(three).sum()
    rest = (1 - root) * (1 - one)
    p = [
        root,
        (1 - root) * one,
        rest * two * last[0],
        rest * two * last[1],
        rest * (1 - two),
        rest * two * last[2],
    ]
    x = dy.inputVector(x)
    close([np.exp(-output.neg_log_softmax(x, c).value()) for c in range(6)], p, 1e-5)
    close(dy.exp(output.full_log_distribution(x)).npvalue(), [*p, 0], 1e-5)
    with pytest.raises(ValueError, match="word of the cluster file; got 6"):
        output.neg_log_softmax(x, 6)


def test_hierarchy_of_one_word_is_certain(tmp_path):
    path = tmp_path / "paths"
    path.write_text("a b\tw\n")
    output = dy.HierarchicalSoftmaxBuilder(2, path, {"w": 0}, dy.ParameterCollection())
    x = dy.ones(2, batch_size=3)
    assert output.neg_log_softmax(dy.ones(2), 0).value() == 0 and output.sample(dy.ones(2)) == 0
    assert (
        output.neg_log_softmax_batch(x, [0] * 3).npvalue().tolist()
        == [[0] * 3]
        == output.full_log_distribution(x).npvalue().tolist()
    )


def test_a_deep_hierarchy_is_read(tmp_path):
    path = tmp_path / "paths"
    path.write_text(f"{'0 ' * 5000}\tw\n{'0 ' * 4999}1\tv\n")
    output = dy.HierarchicalSoftmaxBuilder(2, path, {"w": 0, "v": 1}, dy.ParameterCollection())
    p = dy.exp(output.full_log_distribution(dy.ones(2))).npvalue()
    close(p.sum(), 1)
    close(np.exp(-output.neg_log_softmax(dy.ones(2), 1).value()), p[1])


# ---- sampled classes -------------------------------------------------------------------


def scores_of(output, x, classes):
    W, b = (p.as_array() for p in output.owner.lookup_parameters_list())
    return np.array([W[c] @ x + b[c, 0] for c in classes])


@pytest.mark.parametrize("output", ["sampled"], indirect=True)
def test_sampled_softmax_is_that_of_the_paper(output, rng):
    x, negatives = rng.normal(size=(3, 2)), [1, 4, 4, 0]
    found = output.loss_batch(dy.inputTensor(x, batched=True), [4, 2], negatives).npvalue().ravel()
    q = np.log((np.arange(6) + 2) / (np.arange(6) + 1)) / np.log(7)
    for k, c in enumerate([4, 2]):
        kept = [j for j in negatives if j != c]
        s = scores_of(output, x[:, k], [c, *kept]) - np.log(4 * q[[c, *kept]])
        close(found[k], np.log(np.exp(s).sum()) - s[0], 1e-5)
    close(output.loss(dy.inputVector(x[:, 1]), 2, negatives).value(), found[1], 1e-5)


@pytest.mark.parametrize("output", ["noise"], indirect=True)
def test_noise_contrastive_estimation_is_that_of_the_paper(output, rng):
    x, negatives = rng.normal(size=(3, 2)), [1, 4, 4, 0]
    found = output.loss_batch(dy.inputTensor(x, batched=True), [4, 2], negatives).npvalue().ravel()
    q = np.array([5, 4, 3, 2, 1, 1]) / 16
    for k, c in enumerate([4, 2]):
        s = scores_of(output, x[:, k], [c, *negatives]) - np.log(4 * q[[c, *negatives]])
        close(found[k], np.log1p(np.exp(-s[0])) + np.log1p(np.exp(s[1:])).sum(), 1e-5)
    close(output.loss(dy.inputVector(x[:, 1]), 2, negatives).value(), found[1], 1e-5)


@pytest.mark.parametrize("output", ["sampled", "noise without bias"], indirect=True)
def test_a_sampled_loss_touches_the_rows_it_reads(output):
    x = dy.ones(3, batch_size=3)
    dy.sum_batches(output.loss_batch(x, [2, 3, 2], negatives=[5, 3, 5])).backward()
    for table in output.owner.lookup_parameters_list():
        assert sorted(table.touched_rows()) == [2, 3, 5]
    output.owner.reset_gradients()
    dy.sum_batches(output.loss_batch(x, [2, 3, 2], update=False)).backward()
    close(
        output.loss_batch(dy.ones(3), [2, 3], [1]).npvalue().ravel(),
        [output.loss(dy.ones(3), c, [1]).value() for c in (2, 3)],
        1e-5,
    )
    assert not any(p.has_gradient() for p in parameters_of(output))


@pytest.mark.parametrize("output", ["sampled", "noise"], indirect=True)
def test_sampled_losses_repeat_under_one_seed(output):
    found = []
    for seed in (5, 5, 6):
        dy.reset_random_seed(seed)
        dy.renew_cg()
        found.append([output.loss(dy.ones(3), 1).value() for _ in range(8)])
    assert found[0] == found[1] != found[2] and len(set(found[0])) > 1


def test_a_resumed_run_draws_what_an_uninterrupted_one_does():
    dy.reset_random_seed(3)
    sampler = dy.Sampler(1000, "uniform")

    def step():
        dy.renew_cg()
        return [sampler.draw(5) for _ in range(3)]

    first = step()
    state = dy.random_state()
    second, third = step(), step()
    drawn = {tuple(d) for draws in (first, second, third) for d in draws}
    assert len(drawn) == 9
    dy.reset_random_seed(4)
    step()
    dy.set_random_state(state)
    assert [step(), step()] == [second, third]


@pytest.mark.parametrize("distribution", ["uniform", "log-uniform", [1, 2, 3, 4, 10, 0.5]])
def test_sampler_draws_what_it_says(distribution):
    dy.reset_random_seed(2)
    sampler = dy.Sampler(6, distribution)
    q = np.exp(sampler.log_probability(range(6)))
    close(q.sum(), 1)
    assert np.abs(np.bincount(sampler.draw(20_000), minlength=6) / 20_000 - q).max() < 0.015


@pytest.mark.parametrize("kind", [dy.SampledSoftmax, dy.NoiseContrastiveEstimation])
def test_training_on_samples_lowers_the_exact_loss(kind):
    dy.reset_random_seed(4)
    m = dy.ParameterCollection()
    output, x = kind(4, 50, m, 20, "uniform"), np.eye(4)
    trainer = dy.AdamTrainer(m, 0.05)
    classes = [3, 20, 41, 8]
    for _ in range(150):
        dy.renew_cg()
        dy.sum_batches(output.loss_batch(dy.inputTensor(x, batched=True), classes)).backward()
        trainer.update()
    dy.renew_cg()
    exact = output.neg_log_softmax_batch(dy.inputTensor(x, batched=True), classes).npvalue()
    assert exact.max() < 0.5
    if kind is dy.NoiseContrastiveEstimation:  # its scores are log probabilities by themselves
        assert abs(dy.logsumexp_dim(output.full_logits(dy.inputVector(x[0]))).value()) < 1


def test_words_without_class_have_probability_zero(clusters):
    output = dy.ClassFactoredSoftmaxBuilder(3, clusters, WORDS | {"z": 7}, dy.ParameterCollection())
    p = dy.exp(output.full_log_distribution(dy.ones(3, batch_size=2))).npvalue()
    assert p.shape == (8, 2) and not p[6:].any()
    close(p.sum(0), [1, 1])
    with pytest.raises(ValueError, match="word of the cluster file; got 7"):
        output.neg_log_softmax(dy.ones(3), 7)


# ---- what is refused -------------------------------------------------------------------


def test_bad_arguments_are_refused(output):
    x = dy.ones(3)
    for bad in (-1, 6):
        with pytest.raises(ValueError, match=str(bad)):
            output.neg_log_softmax(x, bad)
        with pytest.raises(ValueError, match=str(bad)):
            output.neg_log_softmax_batch(x, [0, bad])
    for use in (output.full_logits, lambda e: output.neg_log_softmax(e, 0), output.sample):
        with pytest.raises(TypeError):
            use(None)


@pytest.mark.parametrize(
    ("builder", "lines", "what"),
    [
        (dy.ClassFactoredSoftmaxBuilder, "A\n", "lines must be"),
        (dy.ClassFactoredSoftmaxBuilder, "A q\n", "lines must be"),
        (dy.ClassFactoredSoftmaxBuilder, "A a\nB a\n", "has one class"),
        (dy.ClassFactoredSoftmaxBuilder, "", "empty"),
        (dy.HierarchicalSoftmaxBuilder, "a b\n", "lines must be SYMBOLS<tab>WORD"),
        (dy.HierarchicalSoftmaxBuilder, "\ta\n", "lines must be"),
        (dy.HierarchicalSoftmaxBuilder, "x\tq\n", "lines must be"),
        (dy.HierarchicalSoftmaxBuilder, "x\ta\ny\ta\n", "has one place"),
        (dy.HierarchicalSoftmaxBuilder, "x\ta\nx\ta\n", "has one place"),
        (dy.HierarchicalSoftmaxBuilder, "x\ta\nx y\tb\n", "got both at 'x y'"),
        (dy.HierarchicalSoftmaxBuilder, "x y\ta\nx\tb\n", "got both at 'x'"),
        (dy.HierarchicalSoftmaxBuilder, "", "empty"),
    ],
)
def test_bad_cluster_files_are_refused(builder, lines, what, tmp_path):
    path = tmp_path / "clusters"
    path.write_text(lines)
    m = dy.ParameterCollection()
    with pytest.raises(ValueError, match=what):
        builder(2, path, WORDS, m)
    assert not m.parameters_list()


def test_bad_samplers_and_samples_are_refused():
    m = dy.ParameterCollection()
    for distribution in ("zipf", [1, 2], [1, 0, 2], [1, np.inf, 2], [1, -1, 2], np.ones((3, 1))):
        with pytest.raises(ValueError, match="Sampler: distribution must"):
            dy.SampledSoftmax(2, 3, m, 2, distribution)
    with pytest.raises(ValueError, match="there must be a class; got n=0"):
        dy.Sampler(0)
    output = dy.SampledSoftmax(2, 3, m, 2)
    for c, negatives in (([3], [0]), ([-1], [0]), ([0], [3]), ([], [0]), ([0], [])):
        with pytest.raises((ValueError, IndexError)):
            output.loss_batch(dy.ones(2), c, negatives)
    with pytest.raises(TypeError, match="takes expressions"):
        output.loss(None, 1)
    with pytest.raises(ValueError):
        output.loss(dy.ones(5), 1)


def test_bad_sizes_are_refused(clusters):
    m = dy.ParameterCollection()
    for make in (
        lambda: dy.SampledSoftmax(2, 0, m),
        lambda: dy.NoiseContrastiveEstimation(2, 3, m, 0),
        lambda: dy.SampledSoftmax(0, 3, m),
        lambda: dy.StandardSoftmaxBuilder(0, 2, m),
        lambda: dy.StandardSoftmaxBuilder(2, 0, m),
        lambda: dy.ClassFactoredSoftmaxBuilder(0, clusters, WORDS, m),
    ):
        with pytest.raises(ValueError, match="positive"):
            make()
    builder = dy.ClassFactoredSoftmaxBuilder(2, clusters, WORDS, m)
    with pytest.raises(ValueError, match="classid 3"):
        builder.subclass_logits(dy.ones(2), 3)
    for classid in range(3):  # of one word and of several
        with pytest.raises(TypeError, match="takes expressions"):
            builder.subclass_logits(None, classid)
