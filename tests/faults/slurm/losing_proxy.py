"""A proxy before slurmrestd that loses one submission, before or after it was carried out."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PASSED_ON = ("Accept", "Content-Type", "X-SLURM-USER-NAME", "X-SLURM-USER-TOKEN")


class LosingProxy:
    """``lose_next(done, then)``: the next submission reaches slurmrestd or not (``done``), ``then`` is called, and the
    connection closes without an answer."""

    url = ""

    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream)
        self.lost = threading.Event()
        self._plan: tuple[bool, Callable[[], None]] | None = None

    def lose_next(self, *, done: bool, then: Callable[[], None]) -> None:
        self.lost.clear()
        self._plan = done, then

    def take_plan(self, path: str) -> tuple[bool, Callable[[], None]] | None:
        if not path.endswith("/job/submit"):
            return None
        plan, self._plan = self._plan, None
        return plan


@contextmanager
def losing_proxy(upstream: str) -> Iterator[LosingProxy]:
    proxy = LosingProxy(upstream)

    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            plan = proxy.take_plan(self.path)
            if plan is None or plan[0]:
                status, kind, answer = self._asked(body)
            if plan is not None:
                plan[1]()
                proxy.lost.set()
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _asked(self, body: bytes) -> tuple[int, str, bytes]:
            try:
                connection = http.client.HTTPConnection(proxy.upstream.hostname or "", proxy.upstream.port, timeout=30)
                headers = {name: self.headers[name] for name in PASSED_ON if name in self.headers}
                connection.request(self.command, self.path, body or None, headers)
                response = connection.getresponse()
                answer = response.read()
                connection.close()
            except OSError as error:
                return 502, "text/plain", str(error).encode()
            return response.status, response.headers.get("Content-Type", "application/json"), answer

        do_GET = do_POST = do_DELETE = _pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: the test tells what it sees."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
