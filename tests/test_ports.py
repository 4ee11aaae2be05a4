from __future__ import annotations

import socket

import pytest

from containers import ports
from containers.ports import free_ports


def test_ports_are_free_and_no_connection_gets_them() -> None:
    found = free_ports(20)
    assert len(set(found)) == 20
    with socket.create_server(("127.0.0.1", 0)) as given:
        assert max(found) < given.getsockname()[1]
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_in_use_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    few = sorted(free_ports(3))
    monkeypatch.setattr(ports, "_NEVER_GIVEN", few)
    with socket.create_server(("127.0.0.1", few[1])):
        assert sorted(free_ports(2)) == [few[0], few[2]]
        with pytest.raises(OSError, match=rf"no 3 ports from {few[0]} to {few[2]} are free"):
            free_ports(3)
