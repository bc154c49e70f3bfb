"""TLS towards Pulsar or its broker: whom to trust, and what to show of ourselves."""

import ssl
from pathlib import Path

from tesp_api.domain.errors import Misconfigured


def client_context(
    *,
    verify: bool = True,
    ca_file: Path | None = None,
    cert_file: Path | None = None,
    key_file: Path | None = None,
) -> ssl.SSLContext:
    """Return what all connections share: reading the system's certificates takes a while.

    `ca_file` is trusted instead of the system's; `key_file` may be in `cert_file` too. Raises
    Misconfigured for a file that is of no use.
    """
    context = _trusting(ca_file)
    if cert_file is not None:
        _show(context, cert_file, key_file)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _trusting(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Misconfigured(f"`pulsar.ca_file` {ca_file} cannot be used: {error}.") from error


def _show(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    try:
        # Never asked for on the terminal: a key with a passphrase is an error.
        context.load_cert_chain(cert_file, key_file, password="")
    except OSError as error:
        files = f"{cert_file}, `pulsar.key_file` {key_file}" if key_file else str(cert_file)
        raise Misconfigured(f"`pulsar.cert_file` {files} cannot be used: {error}.") from error
