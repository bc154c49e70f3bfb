"""What is left for a second job: against two S3 servers that check signatures."""

import hashlib
import os
import secrets
import signal
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.runner.conftest import Engine, Job, Node, Report, decoded, sh, until
from tests.servers.proxy import Silence, faulty
from tests.servers.s3 import Bucket

NAMES = ("a", "with space", "žluťoučký", "sub/deep/x", "100%25?&#+", "it's")
FILL = sh(
    "cd /out; mkdir -p sub/deep none;"
    "for n in a 'with space' žluťoučký sub/deep/x '100%25?&#+' \"it's\";"
    'do head -c 100000 /dev/urandom > "$n"; done; (cd /out; sha256sum a sub/deep/x)'
)
OLD = {"at": datetime.now(UTC) - timedelta(hours=2), "seconds": 60}


def deferred(bucket: Bucket, path: str = "/out", **more: object) -> dict[str, object]:
    name = f"s3://{bucket.name}/r"
    return {"path": path, "type": "DIRECTORY", "name": name, "deferred": True, **more}


def signed(bucket: Bucket, method: str, key: str, path: str, **more: Any) -> dict[str, object]:
    url = bucket.presigned(method, key, **more)
    name = f"s3://{bucket.name}/{key}"
    return {"path": path, "type": "FILE", "name": name, "url": url, "signed": True}


def files(bucket: Bucket, report: Report, **more: Any) -> list[dict[str, object]]:
    """Return the order for what a report says is left, as the server would sign it."""
    return [
        {
            "path": path, "size_bytes": size, "name": f"s3://{bucket.name}/r/{below}",
            "url": bucket.presigned("PUT", f"r/{below}", **more),
        }
        for _, path, below, size in report.document["left"]
    ]  # fmt: skip


def stage_out(node: Node, engine: Engine, of: str, wanted: Sequence[object]) -> Job:
    return node.start(engine, mode="send", of=of, files=list(wanted))


def test_a_directory_is_left_and_sent_by_a_second_job(
    engine: Engine, node: Node, bucket: Bucket
) -> None:
    job = node.start(engine, FILL, outputs=[deferred(bucket)])
    run = job.report().complete()
    assert run.outputs == []
    assert sorted(below for _, _, below, _ in run.document["left"]) == sorted(NAMES)
    assert os.listdir(job.directory / "working") == ["task"]
    assert "1 empty directories" in run.log
    sent = stage_out(node, engine, job.name, files(bucket, run)).report().complete()
    assert bucket.names() == sorted(f"r/{name}" for name in NAMES)
    assert hashlib.sha256(bucket.get("r/a")).hexdigest() == run.stdout().split()[0]
    assert hashlib.sha256(bucket.get("r/sub/deep/x")).hexdigest() == run.stdout().split()[2]
    assert {one["path"]: one["size_bytes"] for one in sent.outputs} == {
        f"/out/{name}": 100000 for name in NAMES
    }
    assert not (job.directory / "working" / "task").exists()


def test_inputs_come_from_signed_urls_and_a_directory_as_the_server_lists_it(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    content = {name: secrets.token_bytes(50_000) for name in NAMES}
    for name, data in content.items():
        bucket.put(f"d/{name}", data)
    listed = [
        {"name": name, "url": bucket.presigned("GET", f"d/{name}"), "size_bytes": 50_000}
        for name in NAMES
    ]
    inputs = [
        signed(bucket, "GET", "d/a", "/in/one"),
        {"path": "/in/d", "type": "DIRECTORY", "name": f"s3://{bucket.name}/d", "signed": True,
         "files": listed, "directories": ["empty/here"]},
    ]  # fmt: skip
    outputs = [signed(bucket, "PUT", "up", "/out/up") | {"max_bytes": 60_000}]
    script = sh("cat /in/one /in/d/sub/deep/x | sha256sum; test -d /in/d/empty/here;"
                "ls /in/d | wc -l; cp /in/one /out/up")  # fmt: skip
    done = node.run(host, script, inputs=inputs, outputs=outputs).complete()
    expected = hashlib.sha256(content["a"] + content["sub/deep/x"]).hexdigest()
    assert done.stdout() == f"{expected}  -\n7\n"
    assert bucket.get("up") == content["a"]
    assert done.document["left"] == []
    assert done.outputs == [
        {"url": f"s3://{bucket.name}/up", "path": "/out/up", "size_bytes": 50_000}
    ]


def test_a_large_file_is_left_and_sent_in_parts(host: Engine, node: Node, bucket: Bucket) -> None:
    part_bytes, size = 5 << 20, (12 << 20) + 5
    output = signed(bucket, "PUT", "big", "/out/big") | {"max_bytes": 1 << 20}
    job = node.start(host, sh(f"head -c {size} /dev/urandom > /out/big; sha256sum < /out/big"),
                     outputs=[output])  # fmt: skip
    run = job.report().complete()
    assert run.document["left"] == [[0, "/out/big", "", size]]
    where = {"Bucket": bucket.name, "Key": "big"}
    upload = bucket.client.create_multipart_upload(**where)["UploadId"]
    parts = [
        bucket.presigned("PUT", "big", partNumber=str(number), uploadId=upload)
        for number in (1, 2, 3)
    ]
    wanted = {"path": "/out/big", "size_bytes": size, "name": f"s3://{bucket.name}/big",
              "parts": parts, "part_bytes": part_bytes}  # fmt: skip
    sent = stage_out(node, host, job.name, [wanted]).report().complete()
    ((index, etags),) = sent.document["etags"]
    assert index == 0
    bucket.client.complete_multipart_upload(
        **where,
        UploadId=upload,
        MultipartUpload={
            "Parts": [{"PartNumber": n, "ETag": tag} for n, tag in enumerate(etags, 1)]
        },
    )
    assert hashlib.sha256(bucket.get("big")).hexdigest() == run.stdout().split()[0]
    assert sent.outputs == [
        {"url": f"s3://{bucket.name}/big", "path": "/out/big", "size_bytes": size}
    ]


def test_an_expired_input_makes_the_job_stale_and_leaves_nothing(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    bucket.put("x", b"1")
    done = node.run(host, ["true"], inputs=[signed(bucket, "GET", "x", "/in/x", **OLD)])
    assert (done.outcome, done.codes) == ("stale", [])
    assert "the signature of the URL has expired" in done.reason
    assert "X-Amz" not in str(done.document)


def test_a_wrong_signature_is_an_answer_and_not_stale(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    bucket.put("x", b"1")
    one = signed(bucket, "GET", "x", "/in/x")
    wrong = str(one["url"])[:-4] + "0000"
    done = node.run(host, ["true"], inputs=[{**one, "url": wrong}])
    assert done.outcome == "system_error"
    assert "HTTP 403 Forbidden (SignatureDoesNotMatch)" in done.reason
    missing = node.run(host, ["true"], inputs=[signed(bucket, "GET", "none", "/in/x")])
    assert "HTTP 404 Not Found (NoSuchKey)" in missing.reason


def test_an_output_whose_signature_ended_is_left(host: Engine, node: Node, bucket: Bucket) -> None:
    output = signed(bucket, "PUT", "r/", "/out/x", **OLD)
    job = node.start(host, sh("echo 1 > /out/x"), outputs=[output])
    run = job.report().complete()
    assert run.document["left"] == [[0, "/out/x", "", 2]]
    late = stage_out(node, host, job.name, files(bucket, run, **OLD)).report()
    assert late.outcome == "stale"
    assert (job.directory / "working" / "task").exists()
    wanted = [{**one, "url": bucket.presigned("PUT", "x")} for one in files(bucket, run)]
    stage_out(node, host, job.name, wanted).report().complete()
    assert bucket.get("x") == b"1\n"
    gone = stage_out(node, host, job.name, wanted).report()
    assert "is not on the node any more" in gone.reason


def test_what_is_there_after_a_failed_program_is_left_too(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    outputs = [deferred(bucket, "/out/*.txt", type="FILE", path_prefix="/out")]
    script = sh("echo 1 > /out/a.txt; echo 2 > /out/b.log; exit 4")
    job = node.start(host, script, outputs=outputs)
    run = job.report()
    assert (run.outcome, run.codes) == ("executor_error", [4])
    assert run.document["left"] == [[0, "/out/a.txt", "a.txt", 2]]
    stage_out(node, host, job.name, files(bucket, run)).report().complete()
    assert bucket.names() == ["r/a.txt"]


def test_more_files_than_a_report_can_list_are_an_error(host: Engine, node: Node) -> None:
    outputs = [{"path": "/out", "type": "DIRECTORY", "name": "s3://b/r", "deferred": True}]
    program = "import os; [open(f'/out/{os.urandom(100).hex()}', 'x') for _ in range(9000)]"
    script = ["/usr/bin/python3", "-c", program]
    done = node.run(host, script, outputs=outputs)
    assert done.outcome == "system_error"
    assert "9000 files are left to be sent: too many to be told" in done.reason
    assert done.document["left"] == []


def test_a_left_tree_is_reaped_like_any_other(engine: Engine, node: Node) -> None:
    outputs = [{"path": "/out", "type": "DIRECTORY", "name": "s3://b/r", "deferred": True}]
    job = node.start(engine, sh("mkdir /out/d; echo 1 > /out/d/x; chmod 0 /out/d"), outputs=outputs)
    run = job.report()
    assert (run.outcome, len(run.document["left"])) == ("complete", 1)
    node.run(engine, mode="reap", of=job.name, containers=1).complete()
    assert os.listdir(job.directory / "working") == []


def test_a_killed_stage_out_leaves_the_tree_and_can_be_done_again(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    job = node.start(host, FILL, outputs=[deferred(bucket)])
    run = job.report().complete()
    with faulty(int(bucket.s3.endpoint.rpartition(":")[2])) as proxy:
        proxy.always(Silence())
        wanted = [
            {**one, "url": str(one["url"]).replace(bucket.s3.endpoint, proxy.url())}
            for one in files(bucket, run)
        ]
        late = stage_out(node, host, job.name, wanted)
        until(lambda: proxy.connections >= 2, 20)
        os.kill(late.process.pid, signal.SIGKILL)
        late.process.communicate()
        until(lambda: late.watch() == "reaped\n", 20)
    assert late.processes() == []
    assert (job.directory / "working" / "task" / "root" / "out" / "a").stat().st_size == 100000
    stage_out(node, host, job.name, files(bucket, run)).report().complete()
    assert len(bucket.names()) == len(NAMES)


def test_reaping_a_stage_out_ends_it_and_spares_the_tree(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    job = node.start(host, sh("echo 1 > /out/x"), outputs=[deferred(bucket)])
    run = job.report().complete()
    with faulty(int(bucket.s3.endpoint.rpartition(":")[2])) as proxy:
        proxy.always(Silence())
        (one,) = files(bucket, run)
        url = str(one["url"]).replace(bucket.s3.endpoint, proxy.url())
        late = stage_out(node, host, job.name, [{**one, "url": url}])
        until(lambda: proxy.connections, 20)
        node.run(host, mode="reap", of=late.name, containers=0).complete()
        assert late.process.wait(10) != 0
        late.process.communicate()
    assert (job.directory / "working" / "task").exists()
    node.run(host, mode="reap", of=job.name, containers=1).complete()
    assert not (job.directory / "working" / "task").exists()


def test_the_report_of_a_stage_out_is_written_before_its_tree_goes(
    host: Engine, node: Node, bucket: Bucket
) -> None:
    job = node.start(host, sh("echo 1 > /out/x"), outputs=[deferred(bucket)])
    run = job.report().complete()
    late = stage_out(node, host, job.name, files(bucket, run))
    report = late.report().complete()
    line = (late.directory / "outputs" / "tes_report").read_text()
    assert decoded(line) == report.document
    assert (late.directory / "outputs" / "tes_heartbeat").exists()
