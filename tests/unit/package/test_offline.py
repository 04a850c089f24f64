"""The guard that every test stands behind: nothing leaves this machine."""

import os
import socket
import urllib.error
import urllib.request

import pytest

REFUSED = "tests use no network"


def test_nothing_outside_is_reached_or_looked_up():
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for reach in (stream.connect, stream.connect_ex, lambda address: datagrams.sendto(b"x", address)):
            with pytest.raises(PermissionError, match=f"a test tried to reach 192.0.2.1: {REFUSED}"):
                reach(("192.0.2.1", 80))
    for name in ("example.invalid", b"example.invalid"):
        with pytest.raises(PermissionError, match=REFUSED):
            socket.getaddrinfo(name, 80)
    with pytest.raises((PermissionError, urllib.error.URLError), match=REFUSED):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://example.invalid", timeout=1)


def test_this_machine_may_be_reached():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        other, _ = server.accept()
        with other:
            client.sendall(b"x")
            assert other.recv(1) == b"x"


def test_hubs_are_told_to_stay_offline_here_and_in_servers():
    from instructbrush.tools.comfy_server import OFFLINE

    for settings in (os.environ, OFFLINE):
        assert settings["HF_HUB_OFFLINE"] == settings["TRANSFORMERS_OFFLINE"] == "1"
    # Nobody listens there.
    assert OFFLINE["http_proxy"] == OFFLINE["https_proxy"] == "http://127.0.0.1:9"
