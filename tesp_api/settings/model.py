"""Every key of the settings: its type, default, unit and meaning. Frozen; reads nothing.

The text below a field is its description: README's table and `tesp-api check` are made of it.
"""

from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from tesp_api.settings.section import (
    AmqpUrl,
    Count,
    Days,
    Directory,
    Engine,
    File,
    HttpUrl,
    Issuer,
    Level,
    Moment,
    MongodbUri,
    Secret,
    Section,
    Text,
)
from tesp_api.settings.storage import Storage

__all__ = ["Keys", "Section", "Settings"]


class Db(Section):
    """Where tasks are kept: in what is read from a file, exactly one of the two is not None."""

    mongodb_uri: MongodbUri = SecretStr("mongodb://localhost:27017")
    """MongoDB that keeps the tasks: `mongodb://user:password@host:port/database`."""
    sqlite_path: File = None
    """File of the embedded store, relative to the working directory. A profile that gives it
    replaces an inherited `db.mongodb_uri`."""
    sqlite_synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """FULL: an accepted task survives a power cut. NORMAL: it survives a crash of the server."""

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.mongodb_uri is None and self.sqlite_path is None:
            raise ValueError("one of `db.mongodb_uri` and `db.sqlite_path` should be given")
        return self


class PulsarStatus(Section):
    """How often a job is asked for where Pulsar does not tell by itself."""

    poll_interval: float = Field(4, gt=0)
    """Longest interval between two looks at a job, in seconds; young jobs are looked at more
    often."""


class Pulsar(Section):
    """The Pulsar that runs the jobs."""

    url: HttpUrl = Field("http://localhost:8913", repr=False)
    """Pulsar's REST interface."""
    amqp_url: AmqpUrl = None
    """Message broker by which Pulsar is reached instead of `pulsar.url`:
    `amqp[s]://user:password@host:port/vhost`."""
    private_token: Secret = None
    """The `private_token` of Pulsar's `app.yml`."""
    manager: str = Field("_default_", pattern=r"^[A-Za-z0-9_-]+$")
    """Name of Pulsar's job manager."""
    max_jobs: int = Field(16, ge=1, le=10_000)
    """Tasks at Pulsar at a time, of all API processes together; the others wait in QUEUED, since
    Pulsar itself has no limit. Two to four per core of its machine finish a batch soonest."""
    client_timeout: float = Field(30, gt=0)
    """Longest wait for one answer of Pulsar, in seconds."""
    verify_tls: bool = True
    """Whether the certificate of Pulsar, or the broker, is checked."""
    ca_file: File = None
    """Certificates (PEM) to trust for Pulsar, or the broker, instead of the system's."""
    cert_file: File = None
    """Certificate (PEM) that the server shows to Pulsar or the broker."""
    key_file: File = None
    """Key (PEM) of `pulsar.cert_file`; without it, in the same file."""
    status: PulsarStatus = PulsarStatus()


class Dispatch(Section):
    """How tasks are driven, and when one is given up."""

    max_attempts: int = Field(2, ge=1)
    """How often a task is tried whose job was lost without the user's fault."""
    rerun_started: bool = False
    """Whether a lost task is tried again even if an executor had already started, so that parts
    of it may run twice; otherwise it ends in SYSTEM_ERROR."""
    patience_s: float = Field(86_400, gt=0)
    """How long an unreachable Pulsar is waited for, in seconds."""
    lease_s: float = Field(30, gt=0)
    """How long an API process may be silent before another one takes over its tasks, in
    seconds."""
    heartbeat_s: float = Field(30, gt=0)
    """How often a running job shows that it lives, in seconds."""
    silence_s: float = Field(300, gt=0)
    """How long a running job may show no sign of life before it is taken for dead, in seconds; at
    least twice `dispatch.heartbeat_s`."""

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if self.silence_s < 2 * self.heartbeat_s:
            raise ValueError(
                "`dispatch.silence_s` should be at least twice `dispatch.heartbeat_s`, "
                "or living jobs are taken for dead"
            )
        return self


class Container(Section):
    """What runs the executors on Pulsar's machine."""

    type: Engine = "docker"
    """Engine that runs the executors: docker, podman, singularity, apptainer, or host (no image:
    the node's own programs in a sandbox). The variable `CONTAINER_TYPE` sets it too."""
    program: Text = None
    """The engine's program, by name or path; without it, the name of the type."""
    global_args: tuple[str, ...] = ()
    """More arguments for the engine, before its subcommand."""
    run_args: tuple[str, ...] = ()
    """More arguments for the engine's `run` (apptainer, singularity: `exec`)."""
    image_roots: tuple[Directory, ...] = ()
    """Directories on the node below which images may be files (apptainer, singularity)."""
    image_schemes: tuple[str, ...] = ("docker", "oras", "library", "shub")
    """Where other images may come from (apptainer, singularity)."""
    pull_timeout_s: float = Field(1_800, gt=0)
    """Longest time to pull an image, in seconds."""

    @property
    def command(self) -> str:
        """The engine's program; without meaning for `host`."""
        return self.program or self.type


class Logs(Section):
    """What is kept of a task's own output."""

    tail_bytes: int = Field(65_536, ge=0, le=1_048_576)
    """How much of the end of each executor's stdout and stderr is kept in the task, in bytes."""


class Outputs(Section):
    """What becomes of a task's outputs."""

    missing: Literal["warn", "error"] = "warn"
    """What a declared output that is not there after success means: `warn`, a line in the task's
    system log; `error`, SYSTEM_ERROR."""


class Limits(Section):
    """What a client may ask for."""

    body_bytes: int = Field(16_777_216, ge=1_024)
    """Longest request body, in bytes; a longer one is a 413."""
    content_bytes: int = Field(1_048_576, ge=131_072)
    """Longest `content` of one input, in bytes of UTF-8."""
    queue: Count = Field(None, ge=1)
    """Most tasks that may wait in QUEUED; one more is a 503 with Retry-After. Each API process
    counts at least twice a second, so that several may exceed it by what they take meanwhile."""
    tasks_per_owner: Count = Field(None, ge=1)
    """Most unfinished tasks of one owner (who is known only with authentication); one more is a 429
    with Retry-After. Counted as `limits.queue` is."""


class Retention(Section):
    """How long ended tasks are kept, and how often one looks after them."""

    days: Days = Field(None, gt=0)
    """How long a task is kept after its end, in days; none, for ever. One of which something is
    left at Pulsar or in a storage is kept until that is removed."""
    sweep_s: float = Field(60, gt=0)
    """How often ended tasks are searched for leftovers that nobody removes, and for those whose
    time is over, in seconds. Both are found by an index: a search costs next to nothing."""


class Server(Section):
    """Where the API listens (`tesp-api serve`) and whom it answers."""

    host: str = Field("127.0.0.1", min_length=1)
    """Address to listen on."""
    port: int = Field(8_080, ge=0, le=65_535)
    """Port to listen on; 0 is any free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which the server answers (the `Host` header). None given: any, but on a loopback
    address only localhost, 127.0.0.1 and [::1]."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins, beside the server's own, whose pages may call the API."""
    access_log: bool = False
    """Whether each request is logged."""


class Compat(Section):
    """For clients that do not know all of TES."""

    queued_as_initializing: bool = False
    """Whether QUEUED is shown as INITIALIZING: Pulsar's own TES client, and so Galaxy where it
    polls, takes QUEUED for a failure."""


class Logging(Section):
    """The server's own log, on standard error."""

    level: Level = "INFO"
    """Least important records to log: TRACE, DEBUG, INFO, WARNING, ERROR or CRITICAL."""
    output_json: bool = False
    """One JSON object a line instead of text."""


class BasicAuth(Section):
    """HTTP Basic authentication with one user."""

    enable: bool = False
    """Whether requests need this user and password."""
    username: str = Field("", pattern=r"^[^:]*$")
    """User name, without a colon."""
    password: SecretStr = SecretStr("")
    """Password."""
    admin: bool = False
    """Whether this user sees, and may cancel, everybody's tasks."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.enable and not (self.username and self.password.get_secret_value()):
            raise ValueError(
                "`basic_auth.enable` needs `basic_auth.username` and `basic_auth.password`"
            )
        return self


class OAuth(Section):
    """Bearer tokens of OpenID Connect."""

    enable: bool = False
    """Whether requests need a bearer token (with `basic_auth.enable`: it or the password)."""
    issuers: tuple[Issuer, ...] = ()
    """Issuers whose tokens are taken, spelt as the tokens' claim `iss` does. No other is asked for
    anything."""
    allowed_issuers: tuple[Issuer, ...] = ()
    """More of them, under the name that CESNET/tesp-api has for it."""
    required_audience: Text = None
    """What a token's claim `aud` must name. Without it a token is taken that the issuer made for
    any other service."""
    cache_jwks_ttl: float = Field(300, gt=0)
    """How long an issuer's keys, and tokens once proven, are believed before they are looked at
    again, in seconds."""
    admins: tuple[str, ...] = ()
    """Who sees, and may cancel, everybody's tasks: `issuer|subject`, the claims `iss` and `sub` of
    their tokens."""
    admin_claim: Text = None
    """A claim (a text, or a list of texts) that tells who is an administrator; each listed issuer
    is believed in that."""
    admin_value: Text = None
    """What `oauth.admin_claim` holds for an administrator."""
    ca_file: File = None
    """Certificates (PEM) to trust for issuers instead of the system's."""

    @property
    def trusted(self) -> tuple[str, ...]:
        """The issuers under both names."""
        return tuple(dict.fromkeys(self.issuers + self.allowed_issuers))

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.enable and not self.trusted:
            raise ValueError("`oauth.enable` needs `oauth.issuers`: whose tokens are to be taken")
        if (self.admin_claim is None) != (self.admin_value is None):
            raise ValueError("`oauth.admin_claim` and `oauth.admin_value` need each other")
        if self.enable and any(name.partition("|")[0] not in self.trusted for name in self.admins):
            raise ValueError(
                "each of `oauth.admins` should be `issuer|subject`, with one of `oauth.issuers`"
            )
        return self


class ServiceInfo(Section):
    """What `GET /service-info` says of this server beside what the server knows of itself."""

    id: str = Field("tesp-api", min_length=1)
    """Unique name of this service; reverse domain notation is recommended."""
    name: str = Field("TESP API", min_length=1)
    """Name for people."""
    description: str = "GA4GH Task Execution Service whose tasks are run by Galaxy Pulsar."
    """What the service is for."""
    organization_name: str = Field("unnamed", min_length=1)
    """Who provides it."""
    organization_url: str = Field("https://example.org", min_length=1)
    """Web site of the organization."""
    contact_url: Text = None
    """Whom to ask: a URL or `mailto:` address."""
    documentation_url: Text = None
    """Where its documentation is."""
    created_at: Moment = Field(
        None, description="When the service was set up, as `2026-11-23T00:00:00Z`."
    )
    updated_at: Moment = Field(None, description="When the service was last changed.")
    environment: Text = None
    """For instance prod, test, dev or staging."""


class Keys(Section):
    """All that a settings file may hold."""

    instance: str | None = Field(None, pattern=r"^[A-Za-z0-9]{1,32}$")
    """Letters and digits that tell this installation's containers from those of others on the same
    engine; without it, made at the first start and kept in the store."""
    basic_auth: BasicAuth = BasicAuth()
    compat: Compat = Compat()
    container: Container = Container()
    db: Db = Db()
    dispatch: Dispatch = Dispatch()
    limits: Limits = Limits()
    logging: Logging = Logging()
    logs: Logs = Logs()
    oauth: OAuth = OAuth()
    outputs: Outputs = Outputs()
    pulsar: Pulsar = Pulsar()
    retention: Retention = Retention()
    server: Server = Server()
    service_info: ServiceInfo = ServiceInfo()
    storage: Storage = Storage()


class Settings(Keys):
    """The settings as read: the keys, and what the operator should know of how they were read."""

    profile: str = "default"
    """The section of the file that was chosen."""
    warnings: tuple[str, ...] = ()
    """Sentences for the operator, to be logged at the start."""
