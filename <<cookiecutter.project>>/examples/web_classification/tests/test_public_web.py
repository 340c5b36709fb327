"""Reading the public web: what is refused, and what is read. No request leaves this machine."""

from __future__ import annotations

import importlib
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

FLOW = Path(__file__).resolve().parents[1] / "flows" / "standard"
PUBLIC = "93.184.215.14"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, with a resolver that knows public names only and never asks a name server."""
    monkeypatch.syspath_prepend(str(FLOW))
    module = importlib.import_module("public_web")
    resolve = module.resolve

    def offline(host: str, port: int) -> list[str]:
        return [PUBLIC] if host.endswith(".example") else resolve(host, port)

    monkeypatch.setattr(module, "resolve", offline)
    return module


class Site(BaseHTTPRequestHandler):
    """A few pages; `seen` keeps the headers of each request."""

    seen: ClassVar[list[dict[str, str]]] = []

    def do_GET(self) -> None:
        """Serve `/<what>`."""
        self.seen.append({"path": self.path, **self.headers})
        status, headers, body = PAGES[self.path]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet."""


HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGES: dict[str, tuple[int, dict[str, str], bytes]] = {
    "/page": (200, HTML, "<p>Grüße</p>".encode()),
    "/latin": (200, {"Content-Type": "text/html"}, b'<meta charset="latin-1"><p>Gr\xfc\xdfe</p>'),
    "/odd": (200, {"Content-Type": "text/html; charset=nonsense"}, b"<p>plain</p>"),
    "/plain?q=a%20b": (200, {"Content-Type": "text/plain"}, b"1 < 2"),
    "/image": (200, {"Content-Type": "image/png"}, b"\x89PNG"),
    "/packed": (200, {**HTML, "Content-Encoding": "gzip"}, b"\x1f\x8b"),
    "/long": (200, HTML, b"x" * 1_000_001),
    "/missing": (404, HTML, b"gone"),
    "/hop": (302, {"Location": "/page"}, b""),
    "/loop": (302, {"Location": "/loop"}, b""),
    "/inward": (301, {"Location": "http://127.0.0.2/page"}, b""),
    "/metadata": (307, {"Location": "http://169.254.169.254/latest"}, b""),
    "/file": (302, {"Location": "file:///etc/passwd"}, b""),
}


@pytest.fixture
def port() -> Iterator[int]:
    """The port of a site on loopback."""
    Site.seen.clear()
    server = HTTPServer(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def target(web: Any, port: int, path: str, scheme: str = "http") -> Any:
    """A target that no check would let pass: it leads to loopback."""
    url = f"{scheme}://site.example:{port}{path}"
    return web.Target(url, scheme, "site.example", port, "127.0.0.1", path, f"site.example:{port}")


@pytest.fixture
def loopback_is_public(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `site.example` be 127.0.0.1 and that address alone be public."""
    resolve = web.resolve
    monkeypatch.setattr(
        web, "resolve", lambda h, p: ["127.0.0.1"] if h == "site.example" else resolve(h, p)
    )
    monkeypatch.setattr(web, "is_public", lambda address: address == "127.0.0.1")


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.0.9",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "168.63.129.16",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:168.63.129.16",
        "::7f00:1",
        "64:ff9b::7f00:1",
        "2001:db8::1",
        "2002:7f00:1::",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1%1",
        "fec0::1",
        "ff0e::1",
    ],
)
def test_address_is_not_public(web: Any, address: str) -> None:
    assert not web.is_public(address)


@pytest.mark.parametrize("address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_address_is_public(web: Any, address: str) -> None:
    assert web.is_public(address)


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "①②⑦.⓪.⓪.①",
        "0",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "169.254.169.254",
        "2852039166",
        "[fd00:ec2::254]",
        "10.0.0.1:8080",
    ],
)
def test_host_in_any_form_is_refused(web: Any, host: str) -> None:
    with pytest.raises(ValueError, match=r"not public|cannot be resolved"):
        web.read_public_page(f"http://{host}/")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "expected http:// or https://"),
        ("ftp://site.example/", "expected http:// or https://"),
        ("gopher://site.example:70/", "expected http:// or https://"),
        ("site.example/page", "expected http:// or https://"),
        ("", "expected http:// or https://"),
        ("http://user@site.example/", "credentials"),
        ("http://site.example@127.0.0.1/", "credentials"),
        ("http:///page", "names no host"),
        ("http://[::1/", "not a URL"),
        ("http://site.example:99999/", "not a URL"),
        ("http://site..example/", "not a URL"),
        ("http://site.example/\r\nHost: other", "not a URL"),
        ("http://site.example/a b", "not a URL"),
        ("http://127.0.0.1\\.site.example/", "not a URL"),
    ],
)
def test_url_is_refused(web: Any, url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        web.check(url)


def test_password_of_a_refused_url_is_not_repeated(web: Any) -> None:
    with pytest.raises(ValueError) as caught:
        web.check("https://anna:hunter2@site.example/")
    assert "hunter2" not in str(caught.value)


def test_one_private_address_among_public_ones_is_enough(
    web: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "resolve", lambda host, port: [PUBLIC, "10.0.0.7"])
    with pytest.raises(ValueError, match=r"has the address 10\.0\.0\.7, which is not public"):
        web.check("https://site.example/")


def test_unknown_host(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ValueError, match=r"nowhere\.test: cannot be resolved"):
        web.check("https://nowhere.test/")


def test_connection_goes_to_the_checked_address(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers differently the second time changes nothing."""
    places: list[tuple[str, int]] = []
    answers = iter([[PUBLIC], ["127.0.0.1"]])

    def refuse(place: tuple[str, int], _: float) -> socket.socket:
        places.append(place)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(web, "resolve", lambda host, port: next(answers))
    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ValueError, match="cannot be read"):
        web.read_public_page("https://site.example/")
    assert places == [(PUBLIC, 443)]


def test_check_keeps_what_the_request_needs(web: Any) -> None:
    made = web.check("HTTPS://Bücher.example:8443/ä?q=ö%20x#part")
    assert made.host == "xn--bcher-kva.example"
    assert made.host_header == "xn--bcher-kva.example:8443"
    assert made.path == "/%C3%A4?q=%C3%B6%20x"
    assert made.address == PUBLIC


def test_page_is_read_with_the_name_in_the_host_header(web: Any, port: int) -> None:
    page = web.request(target(web, port, "/page"))
    assert page == web.Page("<p>Grüße</p>", is_html=True)
    assert Site.seen[0]["Host"] == f"site.example:{port}"


def test_other_charsets_and_plain_text(web: Any, port: int) -> None:
    assert "Grüße" in web.request(target(web, port, "/latin")).content
    assert "plain" in web.request(target(web, port, "/odd")).content
    assert web.request(target(web, port, "/plain?q=a%20b")) == web.Page("1 < 2", is_html=False)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/image", "is image/png"),
        ("/packed", "comes compressed"),
        ("/long", "longer than 1,000,000 bytes"),
        ("/missing", "the server answered 404"),
    ],
)
def test_answer_is_refused(web: Any, port: int, path: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        web.request(target(web, port, path))


def test_tls_asks_for_the_name_of_the_host(
    web: Any, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Context:
        def wrap_socket(self, plain: socket.socket, server_hostname: str, **_: Any) -> Any:
            asked.append(server_hostname)
            plain_with_handshake = PlainTls(fileno=plain.detach())
            plain_with_handshake.settimeout(5)
            return plain_with_handshake

    monkeypatch.setattr(web.ssl, "create_default_context", Context)
    assert web.request(target(web, port, "/page", scheme="https")).is_html
    assert asked == ["site.example"]


class PlainTls(socket.socket):
    """A socket that pretends to have shaken hands."""

    def do_handshake(self) -> None:
        """Nothing to agree on."""


@pytest.mark.usefixtures("loopback_is_public")
def test_redirects_are_followed(web: Any, port: int) -> None:
    assert web.read_public_page(f"http://site.example:{port}/hop").content == "<p>Grüße</p>"


@pytest.mark.usefixtures("loopback_is_public")
def test_redirects_end(web: Any, port: int) -> None:
    with pytest.raises(ValueError, match="more than 3 redirects"):
        web.read_public_page(f"http://site.example:{port}/loop")
    assert len(Site.seen) == 4


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/inward", "127.0.0.2, which is not public"),
        ("/metadata", "169.254.169.254, which is not public"),
        ("/file", "expected http:// or https://"),
    ],
)
def test_redirect_is_checked_again(web: Any, port: int, path: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        web.read_public_page(f"http://site.example:{port}{path}")
    assert len(Site.seen) == 1


def test_server_that_drips_is_cut_off(web: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes before the silence is too long, so only the deadline ends it."""
    monkeypatch.setattr(web, "DEADLINE_S", 0.2)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=drip, args=(server, stop))
        thread.start()
        try:
            with pytest.raises(ValueError, match=r"took more than 0\.2 s"):
                web.request(target(web, server.getsockname()[1], "/"))
        finally:
            stop.set()
            thread.join()


def drip(server: socket.socket, stop: threading.Event) -> None:
    """Send a header that never ends, a byte at a time."""
    connection, _ = server.accept()
    with connection:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not stop.wait(0.02):
            try:
                connection.sendall(b"x")
            except OSError:
                return
