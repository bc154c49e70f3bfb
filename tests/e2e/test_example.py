"""The first example of the reference's README, word for word but for its host, everywhere."""

import hashlib

from tests.e2e.stack import Stack
from tests.e2e.web import Web

CONTENT = b"not quite a kernel\n" * 5000


def example(host: str) -> dict:
    return {
        "name": "sha1sum of a file fetched over HTTP",
        "inputs": [
            {
                "url": f"http://{host}/linux-6.5.5.tar.xz",
                "path": "/data/kernel.tar.gz",
                "type": "FILE",
            }
        ],
        "executors": [
            {
                "image": "ubuntu:20.04",
                "command": ["/bin/sha1sum", "./kernel.tar.gz"],
                "workdir": "/data/",
                "stdout": "/tmp/stdout.log",
                "stderr": "/tmp/stderr.log",
            }
        ],
    }


def test_the_first_example_is_complete_with_the_right_checksum(stack: Stack, web: Web) -> None:
    web.offer("/linux-6.5.5.tar.xz", CONTENT)

    ended = stack.api.run(example(web.url.removeprefix("http://")))

    assert ended["state"] == "COMPLETE", ended
    (attempt,) = ended["logs"]
    (executor,) = attempt["logs"]
    assert executor["exit_code"] == 0
    assert executor["stdout"] == f"{hashlib.sha1(CONTENT).hexdigest()}  ./kernel.tar.gz\n"
    assert executor.get("stderr", "") == ""
    assert attempt["start_time"] <= executor["start_time"] <= executor["end_time"]
    assert attempt["metadata"]["engine"].startswith(stack.engine)
    assert attempt["metadata"]["job"].startswith(f"tes-{ended['id']}")
    scheme = {"rest": "http", "amqp": "amqp"}[stack.transport]
    assert attempt["metadata"]["pulsar"].startswith(f"{scheme}://127.0.0.1:")
    assert attempt["metadata"]["host"]
    stack.wait_until_nothing_is_left(ended["id"])
