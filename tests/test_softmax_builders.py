"""Output layers: values of the real DyNet, batches, whole distributions, sampling, saving; gradients in double.

How long: about two seconds, most of them for the double build.
"""

import numpy as np
import pytest
from gradients import jacobian_difference
from processes import run_python
from test_graph import close

import dist_dynet as dy

WORDS = {w: i for i, w in enumerate("abcdef")}
LINES = "A a 1\nB b 2\nC c 3\n\nC d\nC e\nB f 1\n"


@pytest.fixture
def clusters(tmp_path):
    path = tmp_path / "clusters"
    path.write_text(LINES)
    return path


@pytest.fixture(params=["standard", "standard without bias", "factored", "factored without bias"])
def output(request, clusters):
    """A builder over six words with parameters off their initial values."""
    dy.renew_cg()
    bias = "without" not in request.param
    m = dy.ParameterCollection()
    if request.param.startswith("standard"):
        builder = dy.StandardSoftmaxBuilder(3, 6, m, bias)
    else:
        builder = dy.ClassFactoredSoftmaxBuilder(3, clusters, WORDS, m, bias)
    rng = np.random.default_rng(2)
    for p in m.parameters_list():
        p.set_value(rng.normal(size=p.shape()))
    builder.owner = m
    return builder


# ---- values --------------------------------------------------------------------------------------------------------------------------


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
        ("/class-factored-softmax-builder/_0", (3, 2)), ("/class-factored-softmax-builder/_1", (3,)),
        ("/class-factored-softmax-builder/_2", (2, 2)), ("/class-factored-softmax-builder/_3", (2,)),
        ("/class-factored-softmax-builder/_4", (3, 2)), ("/class-factored-softmax-builder/_5", (3,)),
        ("/standard-softmax-builder/_0", (4, 2)), ("/standard-softmax-builder/_1", (4,)),
    ]  # fmt: skip


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
    close(output.neg_log_softmax_batch(columns[0], [3]).value(), output.neg_log_softmax(columns[0], 3).value())
    close(output.full_log_distribution(x).npvalue()[:, 4], output.full_log_distribution(columns[4]).npvalue(), 1e-5)


def test_update_false_gives_no_gradient(output):
    x = dy.ones(3, batch_size=2)
    loss = output.neg_log_softmax_batch(x, [0, 2], update=False) + output.neg_log_softmax(dy.ones(3), 4, False)
    dy.sum_batches(loss + dy.sum_elems(output.full_log_distribution(x, False))).backward()
    assert not any(p.has_gradient() for p in output.owner.parameters_list())
    output.neg_log_softmax(dy.ones(3), 2).backward()
    assert output.owner.parameters_list()[0].has_gradient()


def test_samples_follow_the_distribution(output):
    dy.reset_random_seed(3)
    x = dy.ones(3) * 0.5
    p = dy.exp(output.full_log_distribution(x)).npvalue()
    counts = np.bincount([output.sample(x) for _ in range(2000)], minlength=6)
    assert np.abs(counts / 2000 - p).max() < 0.05
    with pytest.raises(ValueError, match="without batch"):
        output.sample(dy.ones(3, batch_size=2))


def test_words_without_class_have_probability_zero(clusters):
    output = dy.ClassFactoredSoftmaxBuilder(3, clusters, WORDS | {"z": 7}, dy.ParameterCollection())
    p = dy.exp(output.full_log_distribution(dy.ones(3, batch_size=2))).npvalue()
    assert p.shape == (8, 2) and not p[6:].any()
    close(p.sum(0), [1, 1])
    with pytest.raises(ValueError, match="word of the cluster file; got 7"):
        output.neg_log_softmax(dy.ones(3), 7)


def test_saved_and_loaded(output, tmp_path):
    dy.save(tmp_path / "model", [output])
    (loaded,) = dy.load(tmp_path / "model", dy.ParameterCollection())
    assert type(loaded) is type(output) and loaded.spec == output.spec and loaded.whoami() == output.whoami()
    close(*[b.full_log_distribution(dy.ones(3)).npvalue() for b in (output, loaded)])


# ---- what is refused -----------------------------------------------------------------------------------------------------------------


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
    ("lines", "what"), [("A\n", "lines must be"), ("A q\n", "lines must be"), ("A a\nB a\n", "has one class"), ("", "empty")]
)
def test_bad_cluster_files_are_refused(lines, what, tmp_path):
    path = tmp_path / "clusters"
    path.write_text(lines)
    m = dy.ParameterCollection()
    with pytest.raises(ValueError, match=what):
        dy.ClassFactoredSoftmaxBuilder(2, path, WORDS, m)
    assert not m.parameters_list()


def test_bad_sizes_are_refused(clusters):
    m = dy.ParameterCollection()
    for make in (
        lambda: dy.StandardSoftmaxBuilder(0, 2, m), lambda: dy.StandardSoftmaxBuilder(2, 0, m),
        lambda: dy.ClassFactoredSoftmaxBuilder(0, clusters, WORDS, m),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="positive"):
            make()
    builder = dy.ClassFactoredSoftmaxBuilder(2, clusters, WORDS, m)
    with pytest.raises(ValueError, match="classid 3"):
        builder.subclass_logits(dy.ones(2), 3)


# ---- gradients in double -------------------------------------------------------------------------------------------------------------


@pytest.mark.float64
def test_double_jacobian_of_softmax_builders(output, rng):
    parameters = output.owner.parameters_list()
    arrays = [p.as_array() for p in parameters] + [rng.normal(size=(3, 4))]

    def outputs(*arrays):
        dy.renew_cg()
        for p, a in zip(parameters, arrays, strict=False):
            p.set_value(a)
        x = dy.inputTensor(arrays[-1], batched=True)
        return dy.concatenate([output.neg_log_softmax_batch(x, [0, 2, 5, 2]), output.full_log_distribution(x)]), x

    def gradients_of(w):
        output.owner.reset_gradients()
        y, x = outputs(*arrays)
        dy.sum_batches(dy.dot_product(y, dy.inputTensor(w.reshape(-1, 4), batched=True))).backward(full=True)
        return [*[p.grad_as_array() for p in parameters], x.gradient()]

    difference = jacobian_difference(lambda *a: outputs(*a)[0].npvalue(), arrays, gradients_of)
    assert difference is None, difference


@pytest.mark.float32
def test_gradients_in_the_double_build():
    result = run_python("-m", "pytest", "-q", "-m", "float64", "-p", "no:cacheprovider", __file__, DIST_DYNET_DTYPE="float64")
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-1000:]
    assert "4 passed" in result.stdout
