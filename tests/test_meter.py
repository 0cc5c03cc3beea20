"""Where time goes: phases, stats(), lines of metrics, and who is waited for. The clock is a
pretended one. How long: a second; with ranks, ten."""

import json
import threading

import numpy as np
import pytest

import dist_dynet as dy
from dist_dynet import meter, parallel
from dist_dynet._ffi import lib
from dist_dynet.parallel.processes import spans
from dist_dynet.trainers.stats import slowest

SECOND = 10**9


@pytest.fixture
def clock():
    """A clock that stands still until it is set."""
    lib.dn_meter_follow()
    lib.dn_meter_pretend(0)
    yield lib.dn_meter_pretend
    lib.dn_meter_pretend(-1)


def test_phases_add_up_to_the_time(clock):
    at = 0
    before = meter.switch(lib.DN_EXCHANGE)
    for phase in (lib.DN_ROWS, lib.DN_UPDATE, lib.DN_ROWS, lib.DN_SAVE, before):
        at += 7 + at
        clock(at)
        meter.switch(phase)
    clock(at + 5)
    spent = meter.read().nanoseconds
    assert sum(spent) == at + 5
    assert spent[lib.DN_ROWS] == 14 + 56
    assert spent[before] == 5


def test_the_meter_reads_up_to_now(clock):
    with meter.during(lib.DN_EVALUATE):
        clock(3 * SECOND)
        assert meter.read().seconds()["evaluate"] == 3
        assert meter.wait() == lib.DN_EVALUATE  # does not wait for anybody: it evaluates
    assert meter.wait() == lib.DN_COMPUTE
    clock(4 * SECOND)
    assert meter.switch(lib.DN_COMPUTE) == lib.DN_AGREEMENT
    assert meter.read().seconds()["agreement"] == 1


def test_a_phase_ends_with_an_exception(clock):
    with pytest.raises(KeyError), meter.during(lib.DN_SAVE):
        clock(1)
        raise KeyError
    assert meter.switch(lib.DN_COMPUTE) == lib.DN_COMPUTE


def test_other_threads_change_no_phase(clock):
    seen = []

    def work():
        seen.append(meter.switch(lib.DN_SAVE))
        clock(SECOND)
        seen.append(meter.switch(seen[0]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [-1, -1]
    assert meter.read().seconds()["compute"] == 1


@pytest.mark.parametrize(
    "wrap", [lambda t: t, parallel.DistributedTrainer], ids=["bare", "wrapped"]
)
def test_stats_of_one_process(clock, wrap):
    m = dy.ParameterCollection()
    w = m.add_parameters(2, init=3)
    trainer = wrap(dy.SimpleSGDTrainer(m, learning_rate=0.5))
    for _ in range(2):
        dy.renew_cg()
        dy.sum_elems(w).backward()
        clock(lib.dn_meter_now() + SECOND)
        trainer.update()
    stats = trainer.stats()
    assert stats.updates == 2
    assert stats.learning_rate == 0.5
    assert stats.gradient_norm == pytest.approx(np.sqrt(2))
    assert stats.seconds == {**dict.fromkeys(meter.PHASES, 0), "compute": 2}
    assert stats.wall == 2
    assert stats.ranks == {}
    assert stats.slowest is None
    assert dy.SimpleSGDTrainer(m).stats().wall == 0  # since it was made


def test_the_norm_is_unknown_where_nothing_limits_it():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=3)
    trainer = dy.SimpleSGDTrainer(m)
    assert trainer.stats().gradient_norm is None
    trainer.set_clip_threshold(0)
    dy.renew_cg()
    w.backward()
    trainer.update()
    assert trainer.stats().gradient_norm is None
    trainer.skip_nonfinite = True  # looks at it, too
    w.set_gradient([2])
    trainer.update()
    assert trainer.stats().gradient_norm == 2


def test_accumulated_gradients_count_as_their_mean():
    m = dy.ParameterCollection()
    w = m.add_parameters(1, init=3)
    trainer = dy.SimpleSGDTrainer(m)
    trainer.set_accumulation(2)
    for x in (1, 3):
        dy.renew_cg()
        (w * dy.scalarInput(x)).backward()
        trainer.update()
    assert trainer.stats().gradient_norm == 2


# ---- who is waited for -----------------------------------------------------------------


def waits(*shares, **others):
    """Ranks that wait for these shares of their time."""
    return {"compute": [1 - s for s in shares], "agreement": [*shares], **others}


@pytest.mark.parametrize(
    ("shares", "ranks"),
    [
        ((0.4, 0.4, 0.4, 0), (3,)),
        ((0, 0.2), (0,)),
        ((0.5, 0.05, 0.5, 0.06), (1, 3)),
        ((0.5, 0.5, 0.5), None),  # all wait: for turns, or for the wire
        ((0.3, 0.35, 0.4, 0.45), None),
        ((0, 0, 0, 0.4), None),  # one has less to do
        ((0.02, 0.11), None),
        ((0.2, 0.35), None),  # that is chance rather than one rank
        ((0.3,), None),
        ((0, 0), None),
    ],
)
def test_the_slowest_ranks(shares, ranks):
    found = slowest(waits(*shares))
    assert (found and found.ranks) == ranks


def test_saving_is_no_waiting_and_no_work():
    found = slowest(waits(0.4, 0.0, save=[0, 9], evaluate=[7, 7]))
    assert found.others == pytest.approx(0.4)
    assert slowest(waits(0, 0, save=[1, 1], compute=[0, 0])) is None
    # no more than a tenth, and half as much as the others
    assert slowest({"compute": [1.0, 0.9], "agreement": [0.0, 0.1]}) is None
    assert slowest({"compute": [0.75, 0.5], "agreement": [0.25, 0.5]}) is None


# ---- lines and naming, in updates of a pretended run -----------------------------------


class Run:
    """Ranks whose updates take as many seconds as is said."""

    def __init__(self, ranks, file="", every=10, members=None):
        self.meters = np.zeros(ranks, meter.READING)
        m = dy.ParameterCollection()
        self.w, self.trainer = m.add_parameters(1, init=0), dy.SimpleSGDTrainer(m)
        hosts = [f"node{rank // 2}" for rank in range(ranks)]
        self.report = spans.Report(
            self.trainer,
            lambda: (self.meters, self.trainer.updates),
            members or range(ranks),
            hosts,
            every,
        )
        if file:
            self.report.write_to(spans.JsonLinesFile(str(file)))

    def update(self, compute, times=1):
        """All ranks wait for the one that computes longest."""
        for _ in range(times):
            self.meters["nanoseconds"][:, lib.DN_COMPUTE] += [int(s * SECOND) for s in compute]
            waited = [int((max(compute) - s) * SECOND) for s in compute]
            self.meters["nanoseconds"][:, lib.DN_AGREEMENT] += waited
            self.meters["bytes"] += 8
            dy.renew_cg()
            self.w.backward()
            self.trainer.update()
            self.report.updated()


def test_a_slow_rank_is_named_once(capsys):
    run = Run(4, members=[4, 5, 6, 7])
    run.update([0.001, 0.001, 0.001, 0.002], 30)  # too short a time
    assert capsys.readouterr().err == ""
    run.update([0.6, 0.6, 0.6, 1.0], 30)
    assert capsys.readouterr().err == (
        "dist_dynet: the others wait 40 % of their time for rank 7 on node1, which waits 0 %."
        " trainer.stats() has the times.\n"
    )


def test_an_even_run_names_nobody(capsys):
    run = Run(4)
    for slow in range(40):
        run.update([1.4 if rank == slow % 4 else 1 for rank in range(4)])
    assert capsys.readouterr().err == ""


def lines_of(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_line_for_every_k_updates(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"run": "of before"}\n')
    run = Run(2, file)
    run.update([50, 90])  # reading data, before the first update
    for i in range(24):
        run.trainer.log(loss=i, update=1.5)
        run.update([0.25, 0.5])
    before, one, two = lines_of(file)
    assert before == {"run": "of before"}
    assert (one["update"], one["updates"], two["update"], two["updates"]) == (10, 9, 20, 10)
    assert two["seconds"]["compute"] == [2.5, 5]
    assert two["seconds"]["agreement"] == [2.5, 0]
    assert set(two["seconds"]) == {*meter.PHASES}
    assert (two["wall"], two["bytes"], two["ranks"], two["slowest"]) == (5, 160, [0, 1], [1])
    assert (one["loss"], two["loss"]) == (4, 13.5)
    assert two["update_"] == 1.5  # a name of the line's own
    assert (two["learning_rate"], two["gradient_norm"]) == (0.1, 1)
    run.report.end()
    last = lines_of(file)[-1]
    assert (last["update"], last["updates"]) == (25, 5)
    run.report.end()
    assert len(lines_of(file)) == 4


def test_what_json_has_no_number_for_is_null(tmp_path):
    run = Run(1, tmp_path / "m")
    run.trainer.log(loss=float("nan"))
    run.update([1], 10)
    assert lines_of(tmp_path / "m")[0]["loss"] is None


def test_a_forked_child_writes_no_lines(tmp_path, monkeypatch):
    run = Run(2, tmp_path / "m")
    run.update([1, 2], 9)
    monkeypatch.setattr(spans.os, "getpid", lambda: -1)
    run.update([1, 2], 30)
    run.report.end()
    assert not (tmp_path / "m").exists()


def test_a_file_that_cannot_be_written_ends_no_run(tmp_path, capfd):
    run = Run(1, tmp_path / "missing" / "m")
    run.update([1], 30)
    assert capfd.readouterr().err.count("metrics: ") == 1
