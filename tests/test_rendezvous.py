"""Connections between the processes of a job; processes are threads here."""

import json
import queue
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

from repa import rendezvous


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n", b"7", b'["guess", 1, "a"]', b'[7, 1, "a"]', b"\xff"]
)
def test_strangers_get_no_connection_and_keep_nobody_out(said: bytes, monkeypatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    sent: queue.SimpleQueue[str] = queue.SimpleQueue()

    def send(values: list) -> None:
        if len(values) == 3:  # the offer; a stranger found the port before process 1
            with socket.create_connection(("localhost", values[1])) as stranger:
                stranger.sendall(said)
        sent.put(json.dumps(values))

    def receive(values: list) -> None:
        values[:] = json.loads(sent.get(timeout=30))

    with ThreadPoolExecutor() as pool:
        other = pool.submit(rendezvous.connect, 1, 2, receive)
        peers = rendezvous.connect(0, 2, send)
        [(here, _)], [(there, _)] = peers.values(), other.result(30).values()
    with here, there:
        there.sendall(b"word")
        assert here.recv(10) == b"word"
