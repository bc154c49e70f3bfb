"""Run by the Python that has py-tes 0.4: does all a client can do, and prints what it learnt."""

import json
import sys

import tes


def main(url: str) -> None:
    client = tes.HTTPClient(url)
    hello = tes.Executor(image="ubuntu:20.04", command=["echo", "hello"])
    long = tes.Executor(image="ubuntu:20.04", command=["sleep", "300"])
    task_id = client.create_task(tes.Task(name="old client", executors=[hello], tags={"a": "b"}))
    canceled = client.create_task(tes.Task(executors=[long]))
    client.cancel_task(canceled)
    ended = client.wait(task_id, timeout=60)
    full = client.get_task(task_id, "FULL")
    pages = client.list_tasks(view="FULL", page_size=1)
    learnt = {
        "doc": client.get_service_info().doc,
        "state": ended.state,
        "stdout": full.logs[0].logs[0].stdout,
        "exit_code": full.logs[0].logs[0].exit_code,
        "canceled": client.get_task(canceled, "MINIMAL").state,
        "basic": client.get_task(task_id, "BASIC").tags,
        "listed": [each.id for each in pages.tasks],
        "next": [
            each.id
            for each in client.list_tasks(page_size=1, page_token=pages.next_page_token).tasks
        ],
        "ids": [canceled, task_id],
    }
    print(json.dumps(learnt))


main(sys.argv[1])
