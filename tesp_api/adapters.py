"""The neighbours as the settings want them; with the composition root the only files that name
adapters.

Nothing is connected or asked when it is made.
"""

import ssl
from pathlib import Path

from tesp_api.auth import (
    Authenticator,
    BasicAuthentication,
    BearerAuthentication,
    Discovery,
    EitherAuthentication,
    Issuer,
    NoAuthentication,
    Terms,
    Way,
)
from tesp_api.domain.errors import Misconfigured
from tesp_api.ports import Clock, JobRunner, Permit, Store, always
from tesp_api.pulsar.amqp_runner import AmqpRunner
from tesp_api.pulsar.rest import RestRunner
from tesp_api.pulsar.tls import client_context
from tesp_api.settings import Settings
from tesp_api.settings.storage import FtpLogin, Granted, HttpLogin, S3Entry
from tesp_api.storage import (
    EVERYBODY,
    Account,
    Addresses,
    FileScheme,
    FtpScheme,
    Grant,
    HttpScheme,
    Keys,
    Login,
    Root,
    S3Scheme,
    UrlStorage,
)
from tesp_api.store.mongo import MongoStore
from tesp_api.store.sqlite import SqliteStore


def make_store(settings: Settings) -> Store:
    """Return the store the settings name, not yet open."""
    db = settings.db
    if db.sqlite_path is not None:
        return SqliteStore(db.sqlite_path, synchronous=db.sqlite_synchronous)
    assert db.mongodb_uri is not None, "the settings have one of the two"
    return MongoStore(db.mongodb_uri.get_secret_value())


def make_runner(
    settings: Settings, store: Store | None = None, permit: Permit = always
) -> JobRunner:
    """Return the way to Pulsar, not yet connected; `permit` is asked before each request.

    `store`, where it can be, keeps what a message broker brings.
    """
    pulsar = settings.pulsar
    tls = client_context(
        verify=pulsar.verify_tls,
        ca_file=pulsar.ca_file,
        cert_file=pulsar.cert_file,
        key_file=pulsar.key_file,
    )
    if pulsar.amqp_url is not None:
        assert store is not None, "what is heard has to be kept somewhere"
        return AmqpRunner(
            pulsar.amqp_url.get_secret_value(),
            store,
            manager=pulsar.manager,
            timeout_s=pulsar.client_timeout,
            tls=tls,
            permit=permit,
            sweep_s=settings.retention.sweep_s,
        )
    token = pulsar.private_token
    return RestRunner(
        pulsar.url,
        token=token.get_secret_value() if token else None,
        manager=pulsar.manager,
        timeout_s=pulsar.client_timeout,
        tls=tls,
        permit=permit,
    )


def make_storage(settings: Settings, clock: Clock) -> UrlStorage:
    """Return what serves the URLs that the settings grant; nothing is asked yet."""
    storage = settings.storage
    roots = [
        Root(path=str(root.path), owners=_owners(settings, root), mode=root.mode)
        for root in storage.file.roots
    ]
    return UrlStorage(
        HttpScheme((_grant(settings, entry), _login(entry)) for entry in storage.http),
        FtpScheme((_grant(settings, entry), _login(entry)) for entry in storage.ftp),
        FileScheme(roots),
        S3Scheme(
            (_grant(settings, entry), _account(settings, entry, clock)) for entry in storage.s3
        ),
    )


def _grant(settings: Settings, entry: HttpLogin | FtpLogin | S3Entry) -> Grant:
    return Grant(prefixes=entry.prefixes, owners=_owners(settings, entry))


def _owners(settings: Settings, entry: Granted) -> frozenset[str]:
    """Return whom an entry serves: unless it says so, everybody only where nobody is somebody."""
    if entry.owners is not None:
        return frozenset(entry.owners)
    return frozenset() if settings.basic_auth.enable or settings.oauth.enable else EVERYBODY


def _login(entry: HttpLogin | FtpLogin) -> Login:
    token = entry.token if isinstance(entry, HttpLogin) else None
    return Login(
        username=entry.username,
        password=entry.password.get_secret_value(),
        token=token.get_secret_value() if token else "",
    )


def _account(settings: Settings, entry: S3Entry, clock: Clock) -> Account:
    # Only where there are buckets: botocore is 25 MB.
    from tesp_api.storage.s3_client import Access, S3Client  # noqa: PLC0415

    access = Access(
        endpoint=entry.url,
        region=entry.region,
        style=entry.addressing,
        keys=_keys(entry),
        profile=entry.profile,
        anonymous=entry.anonymous,
        timeout_s=settings.storage.timeout_s,
        ca_file=settings.storage.ca_file,
    )
    return Account(
        addresses=Addresses(entry.url, entry.addressing),
        region=entry.region,
        multipart_bytes=entry.multipart_bytes,
        presign_s=settings.storage.presign_s,
        store=S3Client(access),
        now=clock.now,
    )


def _keys(entry: S3Entry) -> Keys | None:
    if entry.access_key is None or entry.secret_key is None:
        return None
    token = entry.session_token
    return Keys(
        access_key=entry.access_key.get_secret_value(),
        secret_key=entry.secret_key.get_secret_value(),
        session_token=token.get_secret_value() if token else None,
    )


def make_authenticator(settings: Settings, clock: Clock) -> Authenticator:
    """Return who lets in whom the settings say; no issuer is asked before a token comes."""
    ways: list[Way] = []
    basic = settings.basic_auth
    if basic.enable:
        password = basic.password.get_secret_value()
        ways.append(BasicAuthentication(basic.username, password, sees_all=basic.admin))
    if settings.oauth.enable:
        ways.append(_bearer(settings, clock))
    return EitherAuthentication(*ways) if ways else NoAuthentication()


def _bearer(settings: Settings, clock: Clock) -> BearerAuthentication:
    oauth = settings.oauth
    discovery = Discovery(_tls(oauth.ca_file))
    issuers = [Issuer(name, discovery, clock, oauth.cache_jwks_ttl) for name in oauth.trusted]
    terms = Terms(
        audience=oauth.required_audience,
        admins=frozenset(oauth.admins),
        admin_claim=oauth.admin_claim,
        admin_value=oauth.admin_value,
    )
    return BearerAuthentication(issuers, terms, clock, ttl_s=oauth.cache_jwks_ttl)


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Misconfigured(f"`oauth.ca_file` {ca_file} cannot be read: {error}.") from error
