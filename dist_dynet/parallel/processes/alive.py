"""Tells whether a process is alive, on any host, even while it holds Python's lock: a C thread
answers datagrams.

It knows sockets and addresses, and nothing about ranks. Where datagrams are blocked, every process
looks dead, as if it had not been asked.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from ..._ffi import lib

_TOKEN, _NONCE = 16, 8
_TRIES, _PAUSE = 3, 0.2
_SIOCGIFADDR = 0x8915
_ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


class Address(NamedTuple):
    """Where a process answers datagrams. It answers only senders that know its token."""

    token: bytes
    ports: dict[int, int]  # by family
    hosts: list[tuple[int, str]]


def answer() -> Address:
    """Starts to answer. The thread runs as long as the process."""
    token, ports = os.urandom(_TOKEN), {}
    for family, any_host in _ANY.items():
        with suppress(OSError):  # the host may support only one family
            receiver = socket.socket(family, socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            receiver.bind((any_host, 0))
            port = receiver.getsockname()[1]
            if lib.dn_answer_alive(receiver.detach(), token) == 0:
                ports[int(family)] = port
    return Address(token, ports, _hosts())


def _hosts() -> list[tuple[int, str]]:
    """The addresses of this host: those of its interfaces and of its name."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # it has no address of this family
                request = struct.pack("256s", name.encode()[:15])
                packed = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)[20:24]
                found.append((int(socket.AF_INET), socket.inet_ntoa(packed)))
    with suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(
            socket.gethostname(), None, type=socket.SOCK_DGRAM
        ):
            found.append((int(family), str(address[0])))
    return list(dict.fromkeys(found))


def those_alive(asked: Mapping[int, Address]) -> set[int]:
    """The numbers of the processes that answer within about half a second."""
    nonce, alive = os.urandom(_NONCE), set[int]()
    tokens = {address.token: number for number, address in asked.items()}
    senders: dict[int, socket.socket] = {}
    try:
        for kind in _ANY:
            with suppress(OSError):
                senders[int(kind)] = sender = socket.socket(kind, socket.SOCK_DGRAM)
                sender.setblocking(False)
        for _ in range(_TRIES):
            for number in asked.keys() - alive:
                token, ports, hosts = asked[number]
                for family, host in hosts:
                    with suppress(OSError, KeyError):  # the address may be unreachable
                        senders[family].sendto(token + nonce, (host, ports[family]))
            end = time.monotonic() + _PAUSE
            while len(alive) < len(asked) and (left := end - time.monotonic()) > 0:
                for sender in select.select([*senders.values()], [], [], left)[0]:
                    with suppress(OSError):  # the port is closed there
                        said = sender.recv(64)
                        if said[_TOKEN:] == nonce and said[:_TOKEN] in tokens:
                            alive.add(tokens[said[:_TOKEN]])
            if len(alive) == len(asked):
                break
    finally:
        for sender in senders.values():
            sender.close()
    return alive
