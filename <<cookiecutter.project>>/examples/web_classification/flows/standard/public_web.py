"""Read one page of the public web, and refuse to read anything else.

A URL comes from outside. It could name this machine, a neighbour on the private network or the
cloud's metadata service, by address, by a name that resolves to one, or by a redirect. So each hop
is checked (scheme, credentials, every address of the host), and the connection goes to the very
address that was checked: the name is not resolved a second time. Proxy settings of the environment
are not used, because a proxy resolves the name again.
"""

from __future__ import annotations

import http.client
import ipaddress
import re
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

PORTS = {"http": 80, "https": 443}
MAX_REDIRECTS = 3
MAX_BYTES = 1_000_000
SILENCE_S = 10.0
DEADLINE_S = 20.0
HTML = ("text/html", "application/xhtml+xml")
CONTENT_TYPES = (*HTML, "text/plain")
REDIRECTS = (301, 302, 303, 307, 308)
USER_AGENT = "web-classification-example/1.0"

IPV6_PUBLIC = ipaddress.ip_network("2000::/3")
# Public by the registry, but not the public web: the host of a virtual machine in Azure, and the
# IPv6 block whose addresses stand for IPv4 addresses (6to4).
NOT_THE_WEB = (ipaddress.ip_network("168.63.129.16/32"), ipaddress.ip_network("2002::/16"))


@dataclass(frozen=True)
class Page:
    """What a server sent, decoded."""

    content: str
    is_html: bool


@dataclass(frozen=True)
class Target:
    """One request that passed the check; `address` is the one to connect to."""

    url: str
    scheme: str
    host: str
    port: int
    address: str
    path: str
    host_header: str


def read_public_page(url: str) -> Page:
    """Fetch an HTML or plain-text page over at most `MAX_REDIRECTS` redirects.

    Raises:
        ValueError: with the URL and the reason why it is refused or cannot be read.
    """
    for _ in range(MAX_REDIRECTS + 1):
        answer = request(check(url))
        if isinstance(answer, Page):
            return answer
        url = urljoin(url, answer)
    raise ValueError(f"{url}: more than {MAX_REDIRECTS} redirects")


def check(url: str) -> Target:
    """The target of a URL whose host has public addresses only.

    Raises:
        ValueError: the URL is malformed, not http(s), holds credentials or leads to an address that
            is not public.
    """
    if re.search(r"[\x00-\x20\x7f\\]", url):
        raise ValueError("not a URL (white space, control character or backslash)")
    try:
        parts = urlsplit(url)
        port, host = parts.port, (parts.hostname or "").encode("idna").decode("ascii")
    except ValueError as error:
        raise ValueError(f"not a URL ({error})") from error
    if parts.scheme not in PORTS:
        raise ValueError(f"{parts.scheme or url}: cannot be fetched (expected http:// or https://)")
    if "@" in parts.netloc:
        raise ValueError(f"{parts.scheme}://…@{host}: a URL with credentials is refused")
    if not host:
        raise ValueError(f"{url}: names no host")
    port = PORTS[parts.scheme] if port is None else port
    addresses = resolve(host, port)
    for address in addresses:
        if not is_public(address):
            raise ValueError(
                f"{url}: refused, {host} has the address {address}, which is not public"
            )
    name = f"[{host}]" if ":" in host else host
    header = name if port == PORTS[parts.scheme] else f"{name}:{port}"
    return Target(
        url, parts.scheme, host, port, addresses[0], _path(parts.path, parts.query), header
    )


def resolve(host: str, port: int) -> list[str]:
    """Every address of a host, the one to prefer first; at least one.

    Raises:
        ValueError: the host cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ValueError(f"{host}: cannot be resolved ({error})") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet, whatever form it comes in."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return is_public(str(ip.ipv4_mapped))
        if ip not in IPV6_PUBLIC:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in block for block in NOT_THE_WEB)


def request(target: Target) -> Page | str:
    """Ask the checked address once: the page, or the URL to which the server redirects.

    Raises:
        ValueError: no connection, too slow, too long, not 200, or a type that is no text.
    """
    connection = _PinnedConnection(target)
    watchdog = threading.Timer(DEADLINE_S, connection.expire)
    watchdog.daemon = True
    watchdog.start()
    headers = {
        "Host": target.host_header,
        "User-Agent": USER_AGENT,
        "Accept": ", ".join(CONTENT_TYPES),
        "Accept-Encoding": "identity",
        "Connection": "close",
    }
    try:
        connection.request("GET", target.path, headers=headers)
        answer = _read(target.url, connection.getresponse())
    except (OSError, http.client.HTTPException) as error:
        if not connection.expired:
            raise ValueError(
                f"{target.url}: cannot be read ({error or type(error).__name__})"
            ) from error
    finally:
        watchdog.cancel()
        connection.close()
    if connection.expired:
        raise ValueError(f"{target.url}: took more than {DEADLINE_S:g} s")
    return answer


class _PinnedConnection(http.client.HTTPConnection):
    """Connects to the checked address; the name stands in the Host header and in TLS only."""

    def __init__(self, target: Target) -> None:
        super().__init__(target.host, target.port, timeout=SILENCE_S)
        self.expired = False
        self._target = target
        self._pinned: socket.socket | None = None

    def connect(self) -> None:
        place = (self._target.address, self._target.port)
        self.sock = self._pinned = socket.create_connection(place, SILENCE_S)
        if self._target.scheme == "https":
            tls = ssl.create_default_context().wrap_socket(
                self.sock, server_hostname=self._target.host, do_handshake_on_connect=False
            )
            self.sock = self._pinned = tls
            tls.do_handshake()

    def expire(self) -> None:
        """End whatever waits on the socket, from another thread."""
        self.expired = True
        if self._pinned is not None:
            with suppress(OSError):
                # The plain socket's method: that of a TLS socket is unsafe beside a reader.
                socket.socket.shutdown(self._pinned, socket.SHUT_RDWR)


def _read(url: str, response: http.client.HTTPResponse) -> Page | str:
    location = response.getheader("Location")
    if response.status in REDIRECTS and location:
        return location
    if response.status != 200:
        raise ValueError(f"{url}: the server answered {response.status} {response.reason}")
    content_type = response.headers.get_content_type()
    if content_type not in CONTENT_TYPES:
        raise ValueError(f"{url}: is {content_type} (expected one of {', '.join(CONTENT_TYPES)})")
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise ValueError(f"{url}: comes compressed although it was asked for plain")
    body = response.read(MAX_BYTES + 1)
    if len(body) > MAX_BYTES:
        raise ValueError(f"{url}: longer than {MAX_BYTES:,} bytes")
    return Page(_decode(body, response.headers.get_content_charset()), content_type in HTML)


def _decode(body: bytes, charset: str | None) -> str:
    declared = re.search(rb"charset=[\"']?([\w-]+)", body[:2048])
    name = charset or (declared[1].decode("ascii") if declared else "utf-8")
    try:
        return body.decode(name, errors="replace")
    except LookupError:
        return body.decode("utf-8", errors="replace")


def _path(path: str, query: str) -> str:
    kept = "/%:@!$&'()*+,;=~?"
    return quote(path or "/", safe=kept) + (f"?{quote(query, safe=kept)}" if query else "")
