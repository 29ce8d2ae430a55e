"""Connections between process 0 of a job and all others, opened by a secret that they share."""

from __future__ import annotations

import hmac
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

Broadcast = Callable[[list], object]  # replaces the contents of a list by that of process 0's
Peers = dict[int, tuple[socket.socket, str]]  # by number: the connection, the machine's name

SETUP = 60.0  # seconds in which all must have connected
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 40_000}
LINE = 32_768  # bytes of a message, at most


def connect(process: int, processes: int, broadcast: Broadcast) -> Peers:
    """Process 0's connections to all others, or another one's to process 0.

    All must call it. The kernel closes them when the other machine has not answered for 40 seconds.

    Returns:
        None at all, on all processes, where one could not connect; process 0 then warns.
    """
    peers = _accept(processes, broadcast) if process == 0 else _join(process, broadcast)
    complete = [len(peers) == processes - 1]
    broadcast(complete)
    if complete[0]:
        return peers
    for peer, _ in peers.values():
        peer.close()
    return {}


def _accept(processes: int, broadcast: Broadcast) -> Peers:
    """Process 0's side: all others that came in time."""
    secret, host, deadline = secrets.token_hex(32), socket.gethostname(), time.monotonic() + SETUP
    peers: Peers = {}
    with _serve() as server:
        broadcast([secret, server.getsockname()[1], host])
        while len(peers) < processes - 1 and time.monotonic() < deadline:
            server.settimeout(max(0.1, deadline - time.monotonic()))
            with suppress(OSError, ValueError, TypeError, AttributeError):  # a stranger, or nobody
                peer = server.accept()[0]
                peer.settimeout(5)
                given, number, name = json.loads(peer.recv(LINE))
                if hmac.compare_digest(given, secret):
                    _keep_alive(peer)
                    peers[number] = (peer, name)
    missing = sorted(set(range(1, processes)) - peers.keys())
    if missing:
        print(
            f"warning: processes {', '.join(map(str, missing))} cannot reach a port of {host}: "
            "if one of the processes dies, the others may wait for it",
            file=sys.stderr,
        )
    return peers


def _join(process: int, broadcast: Broadcast) -> Peers:
    """The others' side: the connection to process 0, if it can be had."""
    offer: list[Any] = ["", 0, ""]
    broadcast(offer)
    secret, port, host = str(offer[0]), int(offer[1]), str(offer[2])
    with suppress(OSError):
        address = (os.environ.get("MASTER_ADDR", host), port)
        peer = socket.create_connection(address, timeout=SETUP / 2)
        peer.sendall(json.dumps([secret, process, socket.gethostname()]).encode())
        _keep_alive(peer)
        return {0: (peer, host)}
    return {}


def _serve() -> socket.socket:
    """A server on any free port of all interfaces."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _keep_alive(peer: socket.socket) -> None:
    """Lets the kernel notice within 40 seconds that the other machine is gone."""
    peer.settimeout(None)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):  # each system has some of them
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
