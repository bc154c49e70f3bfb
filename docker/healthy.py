"""`healthy.py PORT`: the health check of both images. Succeeds if an HTTP server answers there.

Any answer but an error of the server's own: 401 (no token) and 421 (no allowed host) are signs of
life too. The images have no curl.
"""

import sys
from http.client import HTTPConnection
from typing import Final

TIMEOUT_S: Final = 5


def main(port: str) -> int:
    """Return the exit status."""
    connection = HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_S)
    connection.request("GET", "/healthz")
    return connection.getresponse().status // 500


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
