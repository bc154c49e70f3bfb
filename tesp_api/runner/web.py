"""Inputs and outputs by HTTP."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tesp_api.runner.http import Body, http
from tesp_api.runner.streams import CHUNK, write_all
from tesp_api.runner.transfer import Parcel, Refused, Transient, public_url
from tesp_api.runner.trouble import readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from http.client import HTTPResponse

    from tesp_api.runner.order import Input
    from tesp_api.runner.transfers import Transfers

NO_PUT = frozenset({404, 405, 501})  # how servers say that they take this upload by POST only


def fetch_http(transfers: Transfers, one: Input, url: str) -> None:
    """Get a file by HTTP, from the start again at each attempt."""
    sink = transfers.tree.open(one.path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o755)

    def once() -> None:
        os.ftruncate(sink, 0)
        os.lseek(sink, 0, os.SEEK_SET)
        with http("GET", url, one.headers, transfers.order.timeout_s) as answer:
            for data in _received(answer):
                write_all(sink, data)

    try:
        transfers.patiently(f"input {public_url(url)}", once)
    finally:
        os.close(sink)


def _received(answer: HTTPResponse) -> Iterator[bytes]:
    """Yield the body of `answer`; raises Transient if it ends before its announced length."""
    from http.client import HTTPException

    announced, received = answer.getheader("Content-Length"), 0
    while True:
        try:
            data = answer.read(CHUNK)
        except (OSError, HTTPException) as error:
            raise Transient(str(error) or type(error).__name__) from error
        if not data:
            break
        received += len(data)
        yield data
    if announced and announced.isdigit() and received != int(announced):
        raise Transient(f"{received} of {announced} bytes received")


def send_http(transfers: Transfers, parcel: Parcel) -> None:
    """Send by PUT, or as the form field `file` by POST where the server takes no PUT."""
    body = Body(parcel.file, os.fstat(parcel.file).st_size)
    timeout_s = transfers.order.timeout_s

    def once() -> None:
        try:
            http("PUT", parcel.url, parcel.headers, timeout_s, body).close()
        except Refused as refusal:
            if refusal.status not in NO_PUT:
                raise
            _post(parcel, timeout_s, body, refusal)

    transfers.patiently(f"output {public_url(parcel.url)}", once)


def _post(parcel: Parcel, timeout_s: float, body: Body, refusal: Refused) -> None:
    boundary = os.urandom(16).hex()
    name = readable(parcel.name)
    for mark, code in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
        name = name.replace(mark, code)
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    form = body._replace(head=head.encode(), tail=f"\r\n--{boundary}--\r\n".encode())
    fields = {**parcel.headers, "Content-Type": f"multipart/form-data; boundary={boundary}"}
    try:
        http("POST", parcel.url, fields, timeout_s, form).close()
    except Refused as error:
        raise Refused(refusal.status, f"to PUT, {error} to POST") from error
