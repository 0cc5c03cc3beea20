"""Which hosts and how many ranks each attempt gets; jobs on hosts: test_hosts.py.

How long: a second.
"""

import pytest

from dist_dynet.cli import hosts, options
from dist_dynet.cli._messages import RefusedError
from dist_dynet.cli.attempt import Outcome


class Chosen:
    """The hosts of one attempt after the other."""

    def __init__(self, *arguments):
        self.hosts, self.before = hosts.Hosts(options.parse([*arguments, "train.py"])), None

    def next(self):
        chosen = self.hosts.options(self.before)
        assert sum(count for _, count in chosen.hosts) == chosen.ranks
        self.before = Outcome(1)
        return hosts._as_text(chosen.hosts)

    def after_kill(self, rank):
        self.before = Outcome(137, killed=(rank,))
        return self.next()


THREE = ("--hosts", "a:2,b:2,c:2")


def test_host_is_left_out_after_two_failures_if_ranks_may_be_fewer():
    chosen = Chosen(*THREE, "--min-ranks", "4")
    assert chosen.next() == chosen.next() == "a:2,b:2,c:2"
    assert chosen.after_kill(2) == "a:2,b:2,c:2"  # a rank of b
    assert chosen.after_kill(3) == "a:2,c:2"
    assert chosen.next() == "a:2,c:2"
    assert chosen.after_kill(2) == "a:2,c:2"  # of c, now
    # c fails a second time: without it there would be too few
    assert chosen.after_kill(3) == "a:2,b:2,c:2"


def test_number_of_ranks_stays_without_min_ranks():
    chosen = Chosen(*THREE)
    assert chosen.next() == chosen.after_kill(0) == chosen.after_kill(0) == "a:2,b:2,c:2"
    chosen = Chosen(*THREE, "-n", "3")  # there is room elsewhere
    assert chosen.next() == chosen.after_kill(0) == "a:2,b:1"
    assert chosen.after_kill(1) == "b:2,c:1"


def test_missing_ranks_are_those_of_hosts_that_do_not_answer(tmp_path, monkeypatch):
    agent = tmp_path / "agent"
    agent.write_text(
        '#!/bin/sh\n[ "$*" != "a true" ] && [ "$*" != "d true" ] || sleep 100\n'
        '[ "$1" != b ] && sleep 0.5\n'
    )
    agent.chmod(0o755)
    monkeypatch.setattr(hosts, "ANSWER", 2)
    chosen = Chosen("--hosts", "a,b,c,d", "--min-ranks", "1", "--launch-agent", str(agent))
    chosen.next()
    for _ in range(hosts.MOST_FAILURES):
        chosen.before = Outcome(1, missing=True)
        last = chosen.next()
    assert last == "c:1"


def test_hosts_are_read_anew_from_a_file_or_a_command(tmp_path):
    file = tmp_path / "hosts"
    for source in (str(file), f"cat {file}"):
        file.write_text("a:1\nb slots=2  # the new one\n")
        chosen = Chosen("--hosts-from", source, "--min-ranks", "2")
        assert chosen.next() == "a:1,b:2"
        file.write_text("c:4\n")
        assert chosen.next() == "c:4"
        file.write_text("c:1\n")
        with pytest.raises(RefusedError, match=r"there must be places for 2 ranks; got c:1\."):
            chosen.next()
        file.write_text("")
        with pytest.raises(RefusedError, match=r"--hosts-from .*hosts: names no host"):
            chosen.next()
        file.write_text("d:1\ne:1\n")
        assert chosen.next() == "d:1,e:1"
    with pytest.raises(RefusedError, match=r"--hosts-from: does not say .* exit status 3"):
        Chosen("--hosts-from", "exit 3").next()
    same = Chosen("--hosts-from", str(file))
    assert same.next() == "d:1,e:1"
    file.write_text("d:9\n")
    assert same.next() == "d:2"
