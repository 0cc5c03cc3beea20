"""The CRF as a block: constraints, names of tags, padded batches, the best sequence, what is
refused. Its values: tests/op_table/crf.py.

How long: three seconds, most of them for the example.
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from processes import predicted, run_example
from test_graph import close

import dist_dynet as dy

TAGS = ["O", "B", "I"]
BIO = [("O", "I"), (None, "I")]


def made(tags=3, forbidden=()):
    dy.renew_cg()
    crf = dy.CRF(dy.ParameterCollection(), tags, forbidden)
    rng = np.random.default_rng(3)
    for p in crf.get_parameters():
        p.set_value(rng.normal(size=p.shape()))
    return crf


def test_names_and_numbers_of_tags_are_the_same_tags(rng):
    crf, E = made(TAGS), dy.inputTensor(rng.normal(size=(3, 4)))
    same = ["O", "B", "I", "O"], [0, 1, 2, 0], [0, "B", 2, "O"]
    assert len({crf.score(E, tags).value() for tags in same}) == 1


def test_probabilities_of_all_sequences_sum_to_one(rng):
    crf = made(TAGS, BIO)
    E = dy.inputTensor(rng.normal(size=(3, 4)))
    losses = {v: crf.neg_log_likelihood(E, v).value() for v in itertools.product(TAGS, repeat=4)}
    assert abs(sum(np.exp(-loss) for loss in losses.values()) - 1) < 1e-5
    for v, loss in losses.items():
        assert (loss == np.inf) == (v[0] == "I" or ("O", "I") in itertools.pairwise(v))
    assert tuple(crf.decode(E)) == min(losses, key=losses.get)


def test_viterbi_gives_the_best_score_and_its_gradient(rng):
    crf = made(4)
    E = dy.inputTensor(rng.normal(size=(4, 5, 3)), batched=True, reusable_expr=True)
    paths, score = crf.viterbi(E)
    every = list(itertools.product(range(4), repeat=5))
    for b in range(3):
        e = dy.pick_batch_elem(E, b)
        scores = [crf.score(e, v).value() for v in every]
        assert tuple(paths[b]) == every[int(np.argmax(scores))]
        close(score.npvalue().ravel()[b], max(scores), 1e-5)
    close(score.npvalue(), crf.score(E, paths).npvalue())
    dy.sum_batches(score).backward(full=True)
    counts = np.zeros((4, 5, 3))
    for b, path in enumerate(paths):
        counts[path, range(5), b] = 1
    close(E.gradient(), counts)


def test_gradient_of_log_partition_is_the_marginals(rng):
    crf = made()
    E = dy.inputTensor(rng.normal(size=(3, 6)), reusable_expr=True)
    crf.log_partition(E).backward(full=True)
    close(E.gradient().sum(0), np.ones(6), 1e-5)
    A, start, stop = (p.grad_as_array() for p in crf.get_parameters())
    close([A.sum(), start.sum(), stop.sum()], [5, 1, 1], 1e-5)


def test_emissions_may_be_vectors(rng):
    crf, columns = made(), rng.normal(size=(4, 3))
    vectors, matrix = [dy.inputVector(x) for x in columns], dy.inputTensor(columns.T)
    close(
        crf.neg_log_likelihood(vectors, [0, 1, 2, 0]).value(),
        crf.neg_log_likelihood(matrix, [0, 1, 2, 0]).value(),
    )
    assert crf.decode(vectors) == crf.decode(matrix) == crf.decode(iter(vectors))
    close(crf.log_partition(vectors[:1]).value(), crf.log_partition(vectors[0]).value())


def test_padding_changes_nothing(rng):
    crf, arrays, tags = (
        made(TAGS, BIO),
        rng.normal(size=(3, 5, 3)),
        [list("OBIOO"), list("BI"), list("O")],
    )
    E = dy.inputTensor(arrays, batched=True, reusable_expr=True)
    lengths = [5, 2, 1]
    loss = crf.neg_log_likelihood(E, tags, lengths)
    close(
        loss.npvalue(),
        crf.neg_log_likelihood(E, [v + ["I"] * (5 - len(v)) for v in tags], lengths).npvalue(),
    )
    for b, n in enumerate(lengths):
        alone = dy.inputTensor(arrays[:, :n, b])
        close(loss.npvalue().ravel()[b], crf.neg_log_likelihood(alone, tags[b]).value(), 1e-5)
        close(
            crf.log_partition(E, lengths).npvalue().ravel()[b],
            crf.log_partition(alone).value(),
            1e-5,
        )
        assert crf.decode(E, lengths)[b] == crf.decode(alone)
    dy.sum_batches(loss).backward(full=True)
    assert (
        not E.gradient()[:, 2:, 1].any()
        and not E.gradient()[:, 1:, 2].any()
        and E.gradient()[:, 4, 0].any()
    )


def test_autobatching_keeps_the_tags_of_sentences_apart():
    crf, arrays = made(TAGS, BIO), np.random.default_rng(1).normal(size=(6, 3, 4))
    tags = [["O", "B", "I", "O"], ["B", "I", "I", "B"], ["O", "O", "O", "B"]] * 2
    found = []
    for autobatching in (False, True):
        dy.renew_cg(autobatching=autobatching)
        losses = [
            crf.neg_log_likelihood(dy.inputTensor(a), v) for a, v in zip(arrays, tags, strict=True)
        ]
        found.append([dy.esum(losses).value(), *[loss.value() for loss in losses]])
    close(*found, 1e-5)


def test_long_sequences_and_large_scores_keep_their_digits():
    crf = dy.CRF(dy.ParameterCollection(), 5)
    E = np.full((5, 2000), 500.0)
    E[0] += 1
    dy.renew_cg()
    loss = crf.neg_log_likelihood(dy.inputTensor(E), [0] * 2000).value()
    assert abs(loss / (2000 * np.log(1 + 4 * np.exp(-1))) - 1) < 1e-4


def test_forbidden_transitions_stay_so_in_training(rng):
    crf = made(TAGS, BIO)
    m = crf.param_collection()
    trainer = dy.AdamTrainer(m, 0.3)
    E = rng.normal(size=(3, 4))
    for _ in range(30):
        dy.renew_cg()
        loss = crf.neg_log_likelihood(dy.inputTensor(E), ["B", "I", "O", "B"])
        loss.backward()
        trainer.update()
    assert loss.value() < 0.01
    assert all(np.isfinite(p.as_array()).all() for p in m.parameters_list())
    assert crf.decode(dy.inputTensor([[9, 9], [0, 0], [8, 99]])) != ["O", "I"]


def test_nothing_possible_is_an_infinite_loss_without_a_gradient():
    crf = dy.CRF(dy.ParameterCollection(), 2, [(None, 0), (None, 1)])
    dy.renew_cg()
    E = dy.inputTensor(np.ones((2, 3)), reusable_expr=True)
    z = crf.log_partition(E)
    assert z.value() == -np.inf
    z.backward(full=True)
    assert not E.gradient().any()
    assert len(crf.decode(E)) == 3


def test_constants_give_parameters_no_gradient(rng):
    for crf in (made(), made(TAGS, BIO)):
        E = dy.inputTensor(rng.normal(size=(3, 4)), reusable_expr=True)
        loss = crf.neg_log_likelihood(E, [0, 1, 2, 0], update=False)
        close(loss.value(), crf.neg_log_likelihood(E, [0, 1, 2, 0]).value())
        loss.backward(full=True)
        assert E.gradient().any() and not any(p.has_gradient() for p in crf.get_parameters())


def test_constraints_outlive_a_revert():
    crf = made(TAGS, BIO)
    E = dy.inputTensor(np.ones((3, 2)))
    dy.cg_checkpoint()
    before = crf.log_partition(E).value()
    dy.cg_revert()
    assert crf.log_partition(E).value() == before


@pytest.mark.parametrize(
    ("use", "error", "message"),
    [
        (
            lambda c, E: dy.CRF(dy.ParameterCollection(), 0),
            ValueError,
            "CRF: sizes must be positive; got tags=0",
        ),
        (
            lambda c, E: dy.CRF(dy.ParameterCollection(), ["a", "a"]),
            ValueError,
            "CRF: each tag must have a name of its own",
        ),
        (
            lambda c, E: dy.CRF(dy.ParameterCollection(), ["a", 2]),
            ValueError,
            "CRF: each tag must have a name of its own",
        ),
        (
            lambda c, E: dy.CRF(dy.ParameterCollection(), ["a"], [("a", "b")]),
            ValueError,
            "CRF: tags are .'a'.; got 'b'",
        ),
        (
            lambda c, E: dy.CRF(dy.ParameterCollection(), 2, [(0, 2)]),
            ValueError,
            "CRF: tags run from 0 to 1; got 2",
        ),
        (
            lambda c, E: dy.CRF(dy.ParameterCollection(), 2, [(None, None)]),
            ValueError,
            "CRF: a forbidden pair must have a tag",
        ),
        (
            lambda c, E: c.score(E, [0, 1]),
            ValueError,
            r"CRF: takes a tag for each step; got \[2\] tags for \[3\] steps",
        ),
        (lambda c, E: c.score(E, [0, 1, 3]), ValueError, "CRF: tags run from 0 to 2; got 3"),
        (lambda c, E: c.score(E, [0, -1, 2]), ValueError, "CRF: tags run from 0 to 2; got -1"),
        (lambda c, E: c.score(E, "abc"), ValueError, "CRF: tags are .*0 to 2"),
        (lambda c, E: c.score(E, 3), TypeError, "CRF: takes a list of tags"),
        (
            lambda c, E: c.score(E, [0.5, 1, 2]),
            TypeError,
            r"CRF: takes a list of tags, or of lists of tags; got \[0.5",
        ),
        (lambda c, E: c.score(E, [[0, 1, 2]] * 2), ValueError, "takes a tag for each step"),
        (
            lambda c, E: c.score(E, [0, 1, 2], [4]),
            ValueError,
            r"lengths must be one for each of 1 sequences, from 1 to 3; got \[4\]",
        ),
        (lambda c, E: c.score(E, [0], [2]), ValueError, "takes a tag for each step"),
        (lambda c, E: c.log_partition(E, [0]), ValueError, "lengths must be"),
        (
            lambda c, E: c.log_partition(dy.zeros((2, 3))),
            ValueError,
            "CRF: emissions must have 3 rows",
        ),
        (lambda c, E: c.log_partition(3), TypeError, "CRF"),
        (lambda c, E: c.log_partition([3]), TypeError, "CRF: takes expressions; got int"),
        (
            lambda c, E: c.neg_log_likelihood([], []),
            ValueError,
            "CRF: there must be at least one step; got an empty list of emissions",
        ),
        (lambda c, E: c.viterbi([]), ValueError, "CRF: there must be at least one step"),
    ],
)
def test_crf_refuses_what_it_cannot_do(use, error, message):
    crf = made()
    with pytest.raises(error, match=message):
        use(crf, dy.zeros((3, 3)))


def test_bio_forbids_what_no_entity_has():
    tags = ["O", "B-A", "I-A", "I-B", "START"]
    pairs = dy.CRF.bio(tags)
    first, of_a, of_b = (
        [(before, tag) in pairs for before in (None, *tags)] for tag in ("B-A", "I-A", "I-B")
    )
    assert not any(first)
    assert of_a == [True, True, False, False, True, True]
    assert of_b == [True, True, True, True, False, True]
    assert len(pairs) == sum(of_a) + sum(of_b)
    assert len(dy.CRF(dy.ParameterCollection(), tags, dy.CRF.bio(tags)).forbidden) == len(pairs)
    with pytest.raises(TypeError, match=r"CRF\.bio: tags must be texts; got 3"):
        dy.CRF.bio([3])


def test_an_empty_sentence_has_no_tags():
    assert made().decode([]) == []


@pytest.mark.float32
def test_the_example_learns(tmp_path):
    script = Path(__file__).parents[1] / "examples" / "crf_tagger.py"
    result = run_example(
        script,
        "--epochs",
        "2",
        "--size",
        "32",
        "--save",
        str(tmp_path / "model"),
        "--metrics",
        str(tmp_path / "metrics.jsonl"),
    )
    assert result.returncode == 0, result.stderr
    f1 = [float(x) for x in re.findall(r"F1 (\S+)", result.stdout)]
    assert len(f1) == 3 and f1[0] < f1[1] and f1[2] > 0.2, result.stdout
    assert len(predicted(script, tmp_path, "Ada Lovelace lived in London .\nx\n").splitlines()) == 2
