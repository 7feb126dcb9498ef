"""Streams the guest opens: to a Unix socket `vsock.sock_<port>` beside `vsock.sock`.

Whoever wants to be called by the guest listens there, as under Firecracker's and
cloud-hypervisor's hybrid vsock. The directory is the user's alone, and so is who listens there.
Nobody there: refused. Port 1979 is the web proxy's, where there is one.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import anyio
from anyio.abc import SocketAttribute

from vmm.frames import PROXY_PORT
from vmm.mux_stream import MuxStream
from vmm.peers import is_trusted
from vmm.vsock_server import HangupWatch, pump

if TYPE_CHECKING:
    from vmm.proxy import Proxy

CONNECT_TIMEOUT_S = 5.0


class GuestStreams:
    """Leads streams of one guest to where their port says."""

    def __init__(self, vsock_path: str, watch: HangupWatch, proxy: Proxy | None = None) -> None:
        self._vsock_path = vsock_path
        self._watch = watch
        self._proxy = proxy

    async def serve(self, port: int, stream: MuxStream) -> None:
        """Serve one stream to its end; it is closed by the caller."""
        if port == PROXY_PORT and self._proxy is not None:
            await self._proxy.serve(stream)
            return
        try:
            with anyio.fail_after(CONNECT_TIMEOUT_S):
                listener = await anyio.connect_unix(f"{self._vsock_path}_{port}")
        except OSError:  # TimeoutError is one
            stream.reset(errno.ECONNREFUSED)
            return
        async with listener, self._watch.watching(listener) as gone:
            if not is_trusted(listener.extra(SocketAttribute.raw_socket)):
                stream.reset(errno.ECONNREFUSED)
                return
            stream.accept()
            await pump(listener, stream, gone)
