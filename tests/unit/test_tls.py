"""Certificates for the way to Pulsar: what cannot be used is told with its key."""

import ssl
from pathlib import Path

import pytest

from tesp_api.domain.errors import Misconfigured
from tesp_api.pulsar.tls import client_context
from tests.brokers import make_certificates


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tls") / "made"
    make_certificates(directory)
    (directory / "garbage.pem").write_text("no certificate")
    return directory


def test_a_certificate_is_checked_unless_told_otherwise(files: Path) -> None:
    assert client_context().verify_mode is ssl.CERT_REQUIRED
    trusting = client_context(ca_file=files / "ca.pem")
    assert [one["subject"] for one in trusting.get_ca_certs()] == [
        ((("commonName", "test authority"),),)
    ]
    assert client_context(verify=False).verify_mode is ssl.CERT_NONE


def test_a_client_certificate_with_its_key_is_taken(files: Path) -> None:
    client_context(cert_file=files / "client.pem", key_file=files / "client.key")
    both = files / "both.pem"
    both.write_text((files / "client.pem").read_text() + (files / "client.key").read_text())
    client_context(cert_file=both)


@pytest.mark.parametrize("name", ["absent.pem", "garbage.pem"])
def test_a_file_that_holds_no_certificates_is_misconfigured(files: Path, name: str) -> None:
    with pytest.raises(Misconfigured, match=r"`pulsar\.ca_file`"):
        client_context(ca_file=files / name)


@pytest.mark.parametrize("key", [None, "server.key", "garbage.pem", "absent.pem"])
def test_a_key_that_does_not_fit_is_misconfigured(files: Path, key: str | None) -> None:
    with pytest.raises(Misconfigured, match=r"`pulsar\.cert_file`"):
        client_context(cert_file=files / "client.pem", key_file=files / key if key else None)
