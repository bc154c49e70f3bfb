"""A small web server in a thread of the test itself: what it does is seen and set by the test."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.servers.process import HOST


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


@contextmanager
def in_thread(
    handler: type[BaseHTTPRequestHandler], host: str = HOST, **more: Any
) -> Iterator[int]:
    """Serve requests by `handler`, which has `more` as attributes; give the port."""
    server = _Server((host, 0), type("Handler", (handler,), more))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
