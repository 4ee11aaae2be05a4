"""Passes TCP connections on from an address of this machine to another."""

import asyncio
import contextlib
from ipaddress import IPv4Network, IPv6Network, ip_address

_CHUNK_BYTES = 1 << 16


async def relay(address: str, peers: IPv4Network | IPv6Network, target: tuple[str, int]) -> asyncio.Server:
    """Listens on a free port of ``address`` for ``peers`` only, and connects each of them to ``target``."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError):
            if ip_address(writer.get_extra_info("peername")[0]) not in peers:
                return
            target_reader, target_writer = await asyncio.open_connection(*target)
            with contextlib.closing(target_writer):
                await asyncio.gather(_copy(reader, target_writer), _copy(target_reader, writer))

    return await asyncio.start_server(serve, address, 0)


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(_CHUNK_BYTES):
        sink.write(chunk)
        await sink.drain()
    sink.write_eof()
