"""The health check of a Pulsar by AMQP: succeeds if each of its queues is read by somebody.

One message that is no JSON ends Pulsar's reading of that queue for good, and its process goes on.
"""

import sys
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import amqp

URL: Final = Path("/run/tesp/amqp/pulsar_url")
QUEUES: Final = ("setup", "kill", "status")
TIMEOUT_S: Final = 5


def main() -> int:
    """Return the exit status."""
    url = urlsplit(URL.read_text(encoding="utf-8"))
    connection = amqp.Connection(
        host=f"{url.hostname}:{url.port}",
        userid=url.username,
        password=url.password,
        virtual_host=url.path[1:],
        connect_timeout=TIMEOUT_S,
    )
    with connection, connection.channel() as channel:
        found = [channel.queue_declare(f"pulsar__{name}", passive=True) for name in QUEUES]
        return int(not all(queue.consumer_count for queue in found))


if __name__ == "__main__":
    sys.exit(main())
