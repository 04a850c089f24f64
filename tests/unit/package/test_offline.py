"""The guard of all tests against network access."""

import os
import socket
import urllib.error
import urllib.request

import pytest

REFUSED = "tests use no network"


def test_refuses_connections_and_lookups_of_other_machines():
    with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        for reach in (stream.connect, stream.connect_ex, lambda address: datagrams.sendto(b"x", address)):
            with pytest.raises(PermissionError, match=f"a test tried to reach 192.0.2.1: {REFUSED}"):
                reach(("192.0.2.1", 80))
    for name in ("example.invalid", b"example.invalid"):
        with pytest.raises(PermissionError, match=REFUSED):
            socket.getaddrinfo(name, 80)
    with pytest.raises((PermissionError, urllib.error.URLError), match=REFUSED):
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://example.invalid", timeout=1)


def test_allows_connections_to_this_machine():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname(), timeout=5) as client,
    ):
        other, _ = server.accept()
        with other:
            client.sendall(b"x")
            assert other.recv(1) == b"x"


def test_hub_clients_are_offline_in_tests_and_servers():
    from instructbrush.tools.comfy_server import OFFLINE

    for settings in (os.environ, OFFLINE):
        assert settings["HF_HUB_OFFLINE"] == settings["TRANSFORMERS_OFFLINE"] == "1"
    # Nothing listens there.
    assert OFFLINE["http_proxy"] == OFFLINE["https_proxy"] == "http://127.0.0.1:9"
