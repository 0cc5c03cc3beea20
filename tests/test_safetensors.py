"""Files in the safetensors format: round trips, other programs' files, damage, kills; random state;
resuming bit for bit."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy as st

import dist_dynet as dy
from dist_dynet._ffi import DTYPE

KILLS = 12


def model(extra=False):
    m = dy.ParameterCollection()
    m.add_parameters((3, 2), name="W")
    sub = m.add_subcollection("sub")
    sub.add_parameters(4)
    sub.add_lookup_parameters((5, 3))
    m.add_lookup_parameters((4, 2, 3), name="E")
    m.add_parameters((2, 3, 2), name="F")
    if extra:
        m.add_parameters(2, name="extra")
    return m


def values(m):
    return {name: p.as_array() for name, p in m.named_parameters().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k], equal_nan=True) for k in a)


def one_step(m, trainer):
    dy.renew_cg()
    terms = [dy.sum_elems(dy.square(p)) for p in m.parameters_list()] + [
        dy.sum_elems(dy.square(t[1])) for t in m.lookup_parameters_list()
    ]
    dy.esum([dy.dropout(t, 0.5) for t in terms]).backward()
    trainer.update()


def test_file_that_is_replaced_while_it_is_read_is_read_to_its_end(tmp_path, monkeypatch):
    import safetensors

    path, m = tmp_path / "m", dy.ParameterCollection()
    w = m.add_parameters((3, 2), init=1)
    dy.save_safetensors(m, path)
    w.set_value(np.full((3, 2), 2))
    before = safetensors.safe_open

    def replaces(*given, **named):
        monkeypatch.setattr(safetensors, "safe_open", before)
        dy.save_safetensors(m, path)  # another process does
        return before(*given, **named)

    monkeypatch.setattr(safetensors, "safe_open", replaces)
    dy.load_safetensors(m, path)
    assert w.as_array().tolist() == [[1, 1]] * 3
    dy.load_safetensors(m, path)
    assert w.as_array().tolist() == [[2, 2]] * 3


def test_round_trip(tmp_path):
    m, n = model(), model()
    path = tmp_path / "a.safetensors"
    dy.save_safetensors(m, path)
    report = dy.load_safetensors(n, path)
    assert equal(values(m), values(n)) and report == ([], [], [], {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.float32
def test_numbers_that_are_too_large_are_refused(tmp_path):
    m = dy.ParameterCollection()
    w = m.add_parameters(3, init=1, name="W")
    st.save_file({"/W": np.array([1e300, -np.inf, 1])}, tmp_path / "large")
    with pytest.raises(RuntimeError, match=r"entry /W .*a number is too large for float32"):
        dy.load_safetensors(m, tmp_path / "large")
    assert w.as_array().tolist() == [1, 1, 1]
    st.save_file({"/W": np.array([3e38, -np.inf, 1e-300])}, tmp_path / "m")
    dy.load_safetensors(m, tmp_path / "m")
    assert w.as_array().tolist() == [float(np.float32(3e38)), -np.inf, 0]


def test_nan_and_infinity_survive(tmp_path):
    m, n = model(), model()
    m.parameters_list()[0].set_value([[np.nan, np.inf], [-np.inf, 0], [-0.0, 1e-45]])
    dy.save_safetensors(m, tmp_path / "a")
    dy.load_safetensors(n, tmp_path / "a")
    assert equal(values(m), values(n))


def test_parameters_without_numbers(tmp_path):
    m = dy.ParameterCollection()
    m.add_parameters((0, 3), name="none")
    one = m.add_parameters(1, init=1)
    trainer = dy.AdamTrainer(m)
    average = dy.MovingAverage(trainer)
    trainer.update()
    dy.save_safetensors(m, tmp_path / "a", trainer)
    one.zero()
    dy.load_safetensors(m, tmp_path / "a", trainer=trainer)
    with average.applied():
        assert one.as_array().tolist() == [1]
    assert copy.deepcopy(m).parameter_count() == 1


def test_an_empty_collection(tmp_path):
    dy.save_safetensors(dy.ParameterCollection(), tmp_path / "a", metadata={"x": "y"})
    assert dy.load_safetensors(dy.ParameterCollection(), tmp_path / "a").metadata == {"x": "y"}


def test_other_tools_see_shapes_and_numbers(tmp_path):
    m = model()
    dy.save_safetensors(m, tmp_path / "a")
    seen = st.load_file(tmp_path / "a")
    assert seen["/E"].dtype == DTYPE and equal(
        {k: a.astype(np.float64) for k, a in seen.items()}, values(m)
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_files_of_other_tools_are_read(tmp_path, dtype, rng):
    m = dy.ParameterCollection()
    W, E = m.add_parameters((3, 2), name="W"), m.add_lookup_parameters((4, 2, 2), name="E")
    arrays = {
        "/W": rng.normal(size=(3, 2)).astype(dtype),
        "/E": rng.normal(size=(4, 2, 2)).astype(dtype),
    }
    st.save_file(arrays, tmp_path / "a")
    dy.load_safetensors(m, tmp_path / "a")
    for p, a in ((W, arrays["/W"]), (E, arrays["/E"])):
        assert (p.as_array() == a.astype(DTYPE)).all()
    st.save_file({**arrays, "/W": np.zeros((3, 2), np.int32)}, tmp_path / "a")
    with pytest.raises(RuntimeError, match=r"type /W: int32 \(3, 2\) in the file, floats"):
        dy.load_safetensors(m, tmp_path / "a")


def test_a_subcollection_loads_where_it_is_called_otherwise(tmp_path):
    m = dy.ParameterCollection()
    first, second = m.add_subcollection("a"), m.add_subcollection("b")
    w, v = first.add_parameters(3), second.add_parameters(3)
    dy.save_safetensors(first, tmp_path / "a")
    dy.load_safetensors(second, tmp_path / "a")
    assert (w.as_array() == v.as_array()).all()


def test_loading_drops_gradients_and_closes_graphs(tmp_path):
    m = model()
    dy.save_safetensors(m, tmp_path / "a")
    dy.renew_cg()
    loss = dy.sum_elems(m.parameters_list()[0])
    loss.backward()
    dy.load_safetensors(m, tmp_path / "a")
    assert not m.parameters_list()[0].has_gradient()
    with pytest.raises(RuntimeError):
        loss.backward()


def test_decayed_tables_are_saved_as_they_read(tmp_path):
    m, n = model(), model()
    m.set_weight_decay(0.1)
    trainer = dy.SimpleSGDTrainer(m)
    trainer.update()
    dy.save_safetensors(m, tmp_path / "a")
    dy.load_safetensors(n, tmp_path / "a")
    assert equal(values(m), values(n))


# ---- strictness ------------------------------------------------------------------------


def test_strict_names_what_differs_and_changes_nothing(tmp_path):
    m, n = model(extra=True), dy.ParameterCollection()
    dy.save_safetensors(m, tmp_path / "a")
    n.add_parameters((3, 2), name="W", init=0)
    n.add_parameters((3, 3), name="F", init=0)
    n.add_parameters(1, name="own", init=0)
    before = values(n)
    with pytest.raises(
        RuntimeError,
        match=r"missing /own; unexpected .*/extra.*; of another shape or type /F: float\d\d \(",
    ):
        dy.load_safetensors(n, tmp_path / "a")
    assert equal(values(n), before)
    report = dy.load_safetensors(n, tmp_path / "a", strict=False)
    assert report.missing == ["/own"] and set(report.unexpected) == {
        "/E",
        "/extra",
        "/sub/_0",
        "/sub/_1",
    }
    assert [x.split(":")[0] for x in report.mismatched] == ["/F"]
    assert (
        n.parameters_list()[0].as_array() == m.parameters_list()[0].as_array()
    ).all() and not n.parameters_list()[1].as_array().any()


def test_trainer_state_is_asked_for_and_reported(tmp_path):
    m = model()
    trainer = dy.AdamTrainer(m)
    one_step(m, trainer)
    dy.save_safetensors(m, tmp_path / "without")
    dy.save_safetensors(m, tmp_path / "with", trainer)
    assert dy.load_safetensors(m, tmp_path / "with").unexpected == []
    with pytest.raises(RuntimeError, match="missing trainer:"):
        dy.load_safetensors(m, tmp_path / "without", trainer=trainer)
    assert dy.load_safetensors(m, tmp_path / "without", strict=False, trainer=trainer).missing == [
        "trainer:"
    ]
    before = values(m)
    m.parameters_list()[0].scale(2)
    changed = values(m)
    with pytest.raises(ValueError, match="AmsgradTrainer"):
        dy.load_safetensors(m, tmp_path / "with", trainer=dy.AmsgradTrainer(m))
    assert equal(values(m), changed) and not equal(before, changed)


def test_not_strict_takes_the_moments_that_fit(tmp_path):
    m, n = model(extra=True), model()
    trainer = dy.AdamTrainer(m)
    one_step(m, trainer)
    dy.save_safetensors(m, tmp_path / "a", trainer)
    other = dy.AdamTrainer(n)
    report = dy.load_safetensors(n, tmp_path / "a", strict=False, trainer=other)
    assert report.unexpected == ["/extra"] and other.updates == 1
    assert (other.state()["m:/W"] == trainer.state()["m:/W"]).all()


def test_other_things_than_models_are_refused(tmp_path):
    for collection, trainer in (((), None), (model(), "adam")):
        for call in (dy.save_safetensors, dy.load_safetensors):
            with pytest.raises(TypeError, match="safetensors"):
                call(collection, tmp_path / "a", trainer=trainer)


def test_metadata_must_be_texts(tmp_path):
    for metadata, words in (
        ({"epoch": 3}, r"json\.dumps"),
        ({3: "epoch"}, r"json\.dumps"),
        ("epoch", "in a dict; got str"),
        ([("epoch", "3")], "in a dict; got list"),
        ({"epoch": "\ud800"}, "texts that a file can hold"),
        ({"\udce9": ""}, "texts that a file can hold"),
        ({"dist_dynet.crc32": "{}"}, "Use another name"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^save_safetensors: .*{words}"):
            dy.save_safetensors(model(), tmp_path / "a", metadata=metadata)
    assert not list(tmp_path.iterdir())


# ---- damage ----------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path):
    """(model, its values, path, bytes of the file)."""
    m = model()
    path = tmp_path / "a.safetensors"
    dy.save_safetensors(m, path, dy.AdamTrainer(m), {"epoch": "3"})
    for p in m.named_parameters().values():
        p.scale(2)
    return m, values(m), path, path.read_bytes()


def test_files_cut_anywhere_are_refused(stored):
    m, before, path, content = stored
    for size in sorted({*range(0, 16), *range(16, len(content), 37), len(content) - 1}):
        path.write_bytes(content[:size])
        with pytest.raises(RuntimeError, match=r"a\.safetensors', entry \S+ at byte \d+") as caught:
            dy.load_safetensors(m, path)
        assert equal(values(m), before), size
    assert "/" in str(caught.value) and f"the file ends at byte {len(content) - 1}" in str(
        caught.value
    )


def by_earlier_versions(content):
    """A file as those have written it: with checksums of the arrays alone."""
    arrays = st.load(content)
    sums = {name: zlib.crc32(np.ascontiguousarray(array).data) for name, array in arrays.items()}
    return st.save(arrays, {"epoch": "3", "dist_dynet.crc32": json.dumps(sums)})


@pytest.mark.parametrize("earlier", [False, True])
def test_damaged_bits_are_found(stored, earlier, rng):
    """A bit of each byte, changed: refused. In files of earlier versions the texts of the metadata
    had no checksum."""
    m, before, path, content = stored
    content = by_earlier_versions(content) if earlier else content
    texts = content.index(b'"__metadata__"'), content.index(b"}}") if earlier else 0
    loaded = []
    begin = 8 + int.from_bytes(content[:8], "little")
    for at in [*range(begin), *range(begin, len(content), 16)][:: 2 if earlier else 1]:
        damaged = bytearray(content)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            dy.load_safetensors(m, path)
        except RuntimeError as error:
            assert "a.safetensors" in str(error)
            assert equal(values(m), before), at
        else:
            loaded.append(at)
            for p, v in zip(m.named_parameters().values(), before.values(), strict=True):
                assert np.allclose(2 * p.as_array(), v)
                p.scale(2)
    assert all(texts[0] <= at < texts[1] for at in loaded) and len(loaded) < 50
    damaged = bytearray(content)
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(RuntimeError, match=r"entry \S+ at byte \d+: its numbers .*checksum"):
        dy.load_safetensors(m, path)
    path.write_bytes(content)
    assert dy.load_safetensors(m, path).metadata == {"epoch": "3"}


def test_texts_of_ours_that_are_unknown_are_damage(tmp_path):
    m = dy.ParameterCollection()
    m.add_parameters(2, init=1, name="W")
    arrays, text = {"/W": np.ones(2, np.float32)}, json.dumps({"/W": 0})
    for own in (
        {"dist_dynet.crc33": text},
        {"dist_dynet.arrays": text},
        {"dist_dynet.tree": "{}"},
        {"dist_dynet.checksum": "00000000"},
        {"dist_dynet.crc32": text, "dist_dynet.checksum": "00000000"},
        {"dist_dynet.": ""},
    ):
        st.save_file(arrays, tmp_path / "a", own)
        with pytest.raises(RuntimeError, match="entry __metadata__ at byte 8: no version writes"):
            dy.load_safetensors(m, tmp_path / "a")
    st.save_file(arrays, tmp_path / "a", {"dist_dynet": "x", "by": "another"})
    report = dy.load_safetensors(m, tmp_path / "a")
    assert report.metadata == {"dist_dynet": "x", "by": "another"}


def test_strange_files_are_refused(tmp_path):
    m = model()
    path = tmp_path / "a"
    for content in (
        b"",
        b"#Parameter# /_0 {1} 17 ZERO_GRAD\n+0.00000000e+00 \n",
        b"\x02" + bytes(7) + b"[]",
        b"\x04" + bytes(7) + b"null",
        b"\xff" * 8,
        b"\xff" * 7 + b"\x7f",
        b"\x02" + bytes(7) + b"{}",
        b"\x20" + bytes(7) + b'{"__metadata__":{"dist_dynet.crc32":"x"}}'.ljust(32),
    ):
        path.write_bytes(content)
        with pytest.raises(RuntimeError, match="load_safetensors"):
            dy.load_safetensors(m, path)
    with pytest.raises(RuntimeError, match="Could not read model"):
        dy.load_safetensors(m, tmp_path / "missing")
    with pytest.raises(RuntimeError, match="Could not read model"):
        dy.load_safetensors(m, tmp_path)


def test_saving_where_one_cannot(tmp_path):
    m = model()
    for path in (tmp_path / "missing" / "a", tmp_path):
        with pytest.raises(RuntimeError, match="could not write"):
            dy.save_safetensors(m, path)


# ---- resuming --------------------------------------------------------------------------


def test_random_state_repeats_initial_values_and_draws():
    dy.reset_random_seed(7)
    dy.renew_cg()
    state = dy.random_state()
    kept = {k: a.copy() for k, a in state.items()}
    results = []
    for _ in range(2):
        m = dy.ParameterCollection()
        drawn = [m.add_parameters((3, 3)).as_array(), m.add_parameters(5, init="normal").as_array()]
        for _ in range(3):
            dy.renew_cg()
            drawn.append(dy.random_normal(4).npvalue())
            drawn.append(dy.dropout(dy.ones(20), 0.5).npvalue())
            drawn.append(dy.cg().uniform(3))
        results.append(drawn)
        dy.set_random_state(state)
    assert all((a == b).all() for a, b in zip(*results, strict=True)) and equal(state, kept)
    assert dy.random_state()["counter"] == state["counter"]


def test_random_states_that_are_none_are_refused():
    state = dy.random_state()
    bad = [
        {},
        {**state, "mt19937": np.zeros(625, np.uint32)},
        {**state, "mt19937": state["mt19937"][:-1]},
        {**state, "seed": np.array(-1)},
        {**state, "counter": "x"},
        {**state, "mt19937": "x"},
        {**state, "counter": np.array([1, 2])},
    ]
    for wrong in bad:
        with pytest.raises(ValueError, match="set_random_state"):
            dy.set_random_state(wrong)
    assert equal(dy.random_state(), state)


@pytest.mark.parametrize("gone", ["random:seed", "trainer:updates"])
def test_damaged_state_changes_nothing(gone, tmp_path):
    m, path = model(), tmp_path / "a.safetensors"
    trainer = dy.MomentumSGDTrainer(m)
    one_step(m, trainer)
    dy.save_safetensors(m, path, trainer=trainer, random=True)
    whole = st.load_file(path)
    assert gone in whole
    st.save_file({name: array for name, array in whole.items() if name != gone}, path)
    for _ in range(2):
        one_step(m, trainer)
    before = values(m), trainer.state(), dy.random_state()
    with pytest.raises(ValueError, match=r"^(load|set_random)_state: "):
        dy.load_safetensors(m, path, trainer=trainer, random=True)
    assert all(map(equal, (values(m), trainer.state(), dy.random_state()), before))


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(tmp_path):
    dy.reset_random_seed(3)
    m = model()
    trainer = dy.AdamTrainer(m)
    schedule = dy.schedules.Cosine(trainer, 20, warmup=5)
    for _ in range(8):
        one_step(m, trainer)
        schedule.step()
    dy.save_safetensors(m, tmp_path / "a", trainer, random=True)
    for _ in range(8):
        one_step(m, trainer)
        schedule.step()
    dy.reset_random_seed(99)
    n = model()
    resumed = dy.AdamTrainer(n, alpha=5)
    schedule2 = dy.schedules.Cosine(resumed, 20, warmup=5)
    dy.load_safetensors(n, tmp_path / "a", trainer=resumed, random=True)
    for _ in range(8):
        one_step(n, resumed)
        schedule2.step()
    assert equal(values(m), values(n)) and equal(trainer.state(), resumed.state())


TRAINING = """
import sys
import numpy as np
import dist_dynet as dy
m = dy.ParameterCollection()
w = m.add_parameters(300_000, init=0)
trainer = dy.MomentumSGDTrainer(m, learning_rate=1, mom=0)
for step in range(1, 100_000):
    dy.renew_cg()
    (-dy.sum_elems(w)).backward()
    trainer.set_clip_threshold(0)
    trainer.update()
    if sys.argv[2] == "text":
        m.save(sys.argv[1])
    else:
        dy.save_safetensors(m, sys.argv[1], trainer, {"step": str(step)})
    print(step, flush=True)
"""


@pytest.mark.parametrize("form", ["safetensors", "text"])
def test_a_kill_in_the_middle_of_a_save_loses_at_most_a_step(tmp_path, form):
    """The file holds the step whose save was last reported, or the one whose save was going on when
    the process was killed."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(
            [str(Path(dy.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        ),
    }
    chance = random.Random(5)
    for kill in range(KILLS if form == "safetensors" else 3):
        path = tmp_path / f"{kill}.model"
        process = subprocess.Popen(
            [sys.executable, "-c", TRAINING, path, form],
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        with process.stdout:
            saved = int(process.stdout.readline())
            time.sleep(chance.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
            for line in process.stdout:
                saved = int(line) if line.endswith("\n") else saved
        assert process.wait() == -signal.SIGKILL
        m = dy.ParameterCollection()
        w = m.add_parameters(300_000)
        if form == "text":
            m.populate(path)
        else:
            trainer = dy.MomentumSGDTrainer(m, mom=0)
            assert (
                int(dy.load_safetensors(m, path, trainer=trainer).metadata["step"])
                == w.as_array()[0]
                == trainer.updates
            )
        held = w.as_array()
        assert (held == held[0]).all() and held[0] in (saved, saved + 1)
