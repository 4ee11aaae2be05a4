"""Ports for what is started on this machine."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

# Those that no connection is given: the system takes the ports of connections, and those that it chooses, from 32768 on
# (Linux, ip_local_port_range) or from 49152 on (RFC 6335, which others follow).
_NEVER_GIVEN = range(20_000, 32_768)


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody uses, and that nobody gets who asks for any port.

    A program may take seconds to begin to listen; a port that the system had chosen could be another one's by then.

    Raises:
        OSError: there are not so many.
    """
    found: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(_NEVER_GIVEN, len(_NEVER_GIVEN)):
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(f"no {count} ports from {_NEVER_GIVEN[0]} to {_NEVER_GIVEN[-1]} are free; end what uses them")
