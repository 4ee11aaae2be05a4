"""Where processes listen, from the kernel's own tables."""

import contextlib
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

Address = IPv4Address | IPv6Address
_LISTEN = "0A"


def listening(pids: Iterable[int]) -> set[tuple[Address, int]]:
    """Address and port of each TCP socket that one of these processes accepts connections at."""
    mine = {inode for pid in pids for inode in _sockets(pid)}
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path("/proc/net", table).read_text().splitlines()]
    places = [line[1].rpartition(":") for line in lines if line[3] == _LISTEN and line[9] in mine]
    return {(_address(address), int(port, 16)) for address, _, port in places}


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # it has ended
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    return found


def _address(text: str) -> Address:
    """The kernel writes addresses in words of 32 bits, each in the machine's own order."""
    words = [socket.ntohl(int(text[at : at + 8], 16)).to_bytes(4, "big") for at in range(0, len(text), 8)]
    address = ip_address(b"".join(words))
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address
