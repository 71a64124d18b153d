"""httpx over the broker: ``client`` for ``ctx.http``, ``transport`` for a client of one's own.

    import ssl, httpx
    from clawai.sdk.http import transport
    mine = httpx.Client(transport=transport(ctx.network, verify=ssl.create_default_context()))

Redirects are not followed unless asked for, as httpx has it; each host that is followed to must be
granted. Proxies of the environment do not apply: the broker is the only way out. Needs
``clawai[http]``.
"""

import contextlib
import ssl
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from clawai.sdk.errors import ClawError
from clawai.sdk.net import Network, NetworkError, is_connected

TIMEOUT = 30.0
CONNECTIONS, KEPT, KEPT_S = 32, 8, 30.0
"""Of one client: open at the same time, idle ones that are kept, and for how many seconds."""
_CONNECT = {"timed_out": httpcore.ConnectTimeout, "too_many": httpcore.PoolTimeout}


class Stream(httpcore.NetworkStream):
    """A connection as httpcore wants it. ``sock`` may be TLS."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read some bytes."""
        try:
            self._sock.settimeout(timeout)
            data: bytes = self._sock.recv(max_bytes)
            return data
        except TimeoutError as error:
            raise httpcore.ReadTimeout(str(error)) from error
        except (OSError, NetworkError) as error:
            raise httpcore.ReadError(str(error)) from error

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write all bytes."""
        try:
            self._sock.settimeout(timeout)
            self._sock.sendall(buffer)
        except TimeoutError as error:
            raise httpcore.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    def close(self) -> None:
        """Close it."""
        self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """Speak TLS from here on; the broker sees ciphertext."""
        try:
            self._sock.settimeout(timeout)
            return Stream(ssl_context.wrap_socket(self._sock, server_hostname=server_hostname))
        except TimeoutError as error:
            self.close()
            raise httpcore.ConnectTimeout(str(error)) from error
        except (OSError, NetworkError) as error:
            self.close()
            raise httpcore.ConnectError(str(error)) from error

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks for: whether an idle connection has ended."""
        if info == "is_readable":
            return not is_connected(self._sock)
        if info == "ssl_object":
            return getattr(self._sock, "_sslobj", None)
        return self._sock if info == "socket" else None


class Backend(httpcore.NetworkBackend):
    """Connects through the broker."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection; what is not granted stays a ``ClawError``."""
        try:
            return Stream(
                self._network.connect(host, port, TIMEOUT if timeout is None else timeout)
            )
        except NetworkError as error:
            kind = _CONNECT.get(error.reason, httpcore.ConnectError)
            raise kind(str(error)) from error

    def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        """There are no UNIX sockets for plugins."""
        raise ClawError("not_permitted", "a plugin cannot connect to UNIX sockets")


class Body(httpx.SyncByteStream):
    """A response's body, read as it comes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        with _mapped():
            yield from self._stream

    def close(self) -> None:
        """Give the connection back."""
        self._stream.close()


class Transport(httpx.BaseTransport):
    """Requests over a pool of connections that the broker makes."""

    def __init__(self, network: Network, verify: ssl.SSLContext | bool = True) -> None:
        self._pool = httpcore.ConnectionPool(
            ssl_context=httpx.create_ssl_context(verify=verify, trust_env=False),
            max_connections=CONNECTIONS,
            max_keepalive_connections=KEPT,
            keepalive_expiry=KEPT_S,
            network_backend=Backend(network),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; the response's body is read later."""
        url = request.url
        wanted = httpcore.Request(
            method=request.method,
            url=httpcore.URL(
                scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
            ),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        with _mapped():
            response = self._pool.handle_request(wanted)
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=Body(response.stream),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    """httpcore's errors as those of httpx, which have the same names."""
    try:
        yield
    except Exception as error:
        same = getattr(httpx, type(error).__name__, None)
        if type(error).__module__.startswith("httpcore") and same:
            raise same(str(error)) from error
        raise


def transport(network: Network, verify: ssl.SSLContext | bool = True) -> httpx.BaseTransport:
    """A transport for ``httpx.Client``; ``verify`` as httpx has it."""
    return Transport(network, verify)


def client(network: Network) -> httpx.Client:
    """The client behind ``ctx.http``."""
    return httpx.Client(transport=Transport(network), timeout=TIMEOUT, trust_env=False)
