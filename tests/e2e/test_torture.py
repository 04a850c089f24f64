"""The server's part of `make torture`, with few repetitions."""

from instructbrush.tools.comfy_server import ComfyServer
from instructbrush.tools.torture import server as torture

GOOD = {"escaped": 0, "lost": 0}


def test_survives_two_clients_and_a_lack_of_memory(server: ComfyServer) -> None:
    assert torture.two_clients(server, 2) == {"tried": 4, "survived": 4, **GOOD}
    assert torture.out_of_memory(server) == {"tried": 1, "survived": 1, "refused": 1, **GOOD}


def test_refuses_hostile_names(server: ComfyServer) -> None:
    counts = torture.hostile_names(server, 60, seed=1)
    assert counts == {**counts, "tried": 60, **GOOD}
    assert counts["refused"] > 40


def test_survives_runs_in_a_row(server: ComfyServer) -> None:
    assert torture.soak(server, 5) == {"tried": 5, "survived": 5, **GOOD}
