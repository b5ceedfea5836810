"""The server for browsers: on this machine only, and only for who has the address."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from gpuexec.report.serve import ReportServer


@pytest.fixture
def server(tmp_path) -> Iterator[ReportServer]:
    (tmp_path / "report.html").write_text("<!doctype html>🙂", encoding="utf-8")
    (tmp_path / "lock").write_text("secret")
    with ReportServer(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: ReportServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        connection.close()


def test_the_page_is_served_to_who_has_its_address(server):
    assert server.server_address[0] == "127.0.0.1"
    path = server.url.removeprefix(f"http://127.0.0.1:{server.server_port}")
    status, body, headers = get(server, path)
    assert (status, body.decode()) == (200, "<!doctype html>🙂")
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    status, body, _ = get(server, path, "HEAD")
    assert (status, body) == (200, b"")


def test_all_else_is_refused(server):
    token = server.token
    paths = [
        "/",
        "/report.html",
        f"/{token}",
        f"/{token}/",
        f"/{token}x/report.html",
        f"/{token}/lock",
        f"/{token}/../report.html",
        f"/{token}//etc/passwd",
        f"/{token}/trace.json.gz",  # which this run has not
        "/🙂/report.html".encode().decode("latin-1"),
    ]
    assert [get(server, path.encode("ascii", "replace").decode())[0] for path in paths] == [404] * len(paths)


def test_a_page_of_another_site_cannot_read_it(server):
    path = server.url.removeprefix(f"http://127.0.0.1:{server.server_port}")
    assert get(server, path, Host=f"evil.example:{server.server_port}")[0] == 404
    assert get(server, path, "POST")[0] == 501
    assert "Access-Control-Allow-Origin" not in get(server, path)[2]


def test_a_browser_that_goes_is_no_news(server, capfd):
    (server.folder / "report.html").write_bytes(b"x" * 20_000_000)
    path = server.url.removeprefix(f"http://127.0.0.1:{server.server_port}")
    with socket.create_connection(server.server_address[:2]) as browser:
        browser.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
        browser.recv(10)
        browser.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
    answering = [t for t in threading.enumerate() if "process_request_thread" in t.name]
    for thread in answering:
        thread.join()
    assert get(server, path)[0] == 200
    assert capfd.readouterr().err == ""


def test_every_server_has_a_token_of_its_own(tmp_path):
    with ReportServer(tmp_path) as first, ReportServer(tmp_path) as second:
        assert first.token != second.token
        assert len(first.token) >= 32
