import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from tesp_api import settings
from tesp_api.domain.errors import Misconfigured
from tesp_api.settings.keys import keys
from tesp_api.settings.model import Keys, Section, Settings

REPOSITORY = Path(__file__).parents[2]
REFERENCE = """
[default]
db.mongodb_uri = "mongodb://localhost:27017"
pulsar.url = "http://localhost:8913"
pulsar.status.poll_interval = 4
pulsar.status.max_polls = 400
pulsar.client_timeout = 30
logging.level = "DEBUG"
logging.output_json = false
oauth.enable = false
oauth.allowed_issuers = []
oauth.required_audience = "tesp-api"
oauth.cache_jwks_ttl = 300
basic_auth.enable = false
basic_auth.username = ""
basic_auth.password = ""

[dev-docker]
db.mongodb_uri = "mongodb://tesp-db:27017"
pulsar.url = "http://pulsar_rest:8913"
logging.output_json = false
"""


class Written:
    """A settings file in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "settings.toml"

    def load(self, text: str, **environ: str) -> Settings:
        self.path.write_text(text)
        return settings.load(self.path, environ)

    def complaints(self, text: str, **environ: str) -> list[str]:
        with pytest.raises(Misconfigured) as caught:
            self.load(text, **environ)
        return str(caught.value).splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Written:
    return Written(tmp_path)


# Where values come from.


def test_the_file_in_the_repository_loads_in_each_of_its_profiles() -> None:
    path = REPOSITORY / "settings.toml"
    local = settings.load(path, {"FASTAPI_PROFILE": "local"})
    docker = settings.load(path, {"FASTAPI_PROFILE": "dev-docker"})

    assert settings.load(path, {}) == Settings()
    assert local.db.mongodb_uri is None
    assert local.db.sqlite_path == Path("var/tesp.sqlite")
    assert docker.pulsar.url == "http://pulsar_rest:8913"


def test_without_a_file_there_are_the_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.load(environ={}) == Settings()


def test_the_file_is_looked_for_in_the_working_directory_or_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "settings.toml").write_text("[default]\nserver.port = 1\n")
    (tmp_path / "other.toml").write_text("[default]\nserver.port = 2\n")
    monkeypatch.chdir(tmp_path)

    assert settings.load(environ={}).server.port == 1
    assert settings.load(environ={"TESP_SETTINGS_FILE": "other.toml"}).server.port == 2


def test_the_process_environment_is_used_when_none_is_passed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(os.environ, "TESP_SERVER__PORT", "7")
    assert settings.load().server.port == 7


def test_the_references_file_is_taken_as_it_is_with_a_warning_for_each_key_without_effect(
    file: Written,
) -> None:
    loaded = file.load(REFERENCE, FASTAPI_PROFILE="dev-docker")

    assert loaded.profile == "dev-docker"
    assert loaded.db.mongodb_uri == SecretStr("mongodb://tesp-db:27017")
    assert loaded.pulsar.status.poll_interval == 4
    assert loaded.logging.level == "DEBUG"
    assert [warning.split("`")[1] for warning in loaded.warnings] == [
        "pulsar.status.max_polls",
    ]
    assert (loaded.oauth.required_audience, loaded.oauth.cache_jwks_ttl) == ("tesp-api", 300)


def test_a_profile_inherits_what_it_does_not_say_also_within_a_section(file: Written) -> None:
    loaded = file.load(
        "[default]\npulsar.max_jobs = 3\npulsar.status.poll_interval = 9\n"
        "[site]\npulsar.status.poll_interval = 1\n",
        FASTAPI_PROFILE="site",
    )
    assert (loaded.pulsar.max_jobs, loaded.pulsar.status.poll_interval) == (3, 1)


def test_a_profiles_list_replaces_an_inherited_one(file: Written) -> None:
    text = '[default]\nstorage.file.roots = ["/a", "/b"]\n[site]\nstorage.file.roots = ["/c"]\n'
    loaded = file.load(text, FASTAPI_PROFILE="site")
    assert [root.path for root in loaded.storage.file.roots] == [Path("/c")]


def test_profiles_are_found_whatever_the_case(file: Written) -> None:
    assert file.load("[Site]\nserver.port = 5\n", FASTAPI_PROFILE="SITE").server.port == 5


def test_the_secrets_file_beside_it_is_laid_over(file: Written) -> None:
    secrets = file.path.with_name(".secrets.toml")
    secrets.write_text('[default]\npulsar.private_token = "0123"\n')
    token = file.load('[default]\npulsar.private_token = "x"\n').pulsar.private_token
    assert token == SecretStr("0123")


def test_the_environment_overrides_the_file(file: Written) -> None:
    loaded = file.load(
        "[default]\nserver.port = 5\nserver.access_log = true\n",
        TESP_SERVER__PORT="6",
        TESP_SERVER__ACCESS_LOG="false",
        TESP_PULSAR__STATUS__POLL_INTERVAL="0.5",
        TESP_DB__SQLITE_PATH="x.sqlite",
        TESP_INSTANCE="abc",
    )
    assert (loaded.server.port, loaded.server.access_log) == (6, False)
    assert loaded.pulsar.status.poll_interval == 0.5
    assert loaded.db.sqlite_path == Path("x.sqlite")
    assert loaded.instance == "abc"


def test_a_number_that_may_be_missing_comes_from_the_environment_too(file: Written) -> None:
    loaded = file.load(
        "[default]\n",
        TESP_LIMITS__QUEUE="10000",
        TESP_LIMITS__TASKS_PER_OWNER="",
        TESP_RETENTION__DAYS="0.5",
    )
    assert (loaded.limits.queue, loaded.limits.tasks_per_owner) == (10_000, None)
    assert (loaded.retention.days, loaded.retention.sweep_s) == (0.5, 60)


@pytest.mark.parametrize(
    ("name", "value"),
    [("TESP_LIMITS__QUEUE", "0"), ("TESP_LIMITS__QUEUE", "many"), ("TESP_RETENTION__DAYS", "-1")],
)
def test_a_limit_that_is_no_positive_number_is_refused(
    file: Written, name: str, value: str
) -> None:
    with pytest.raises(Misconfigured, match=name.removeprefix("TESP_").lower().split("__")[0]):
        file.load("[default]\n", **{name: value})


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_a_password_from_the_environment_is_taken_letter_by_letter(password: str) -> None:
    if password.strip():
        token = settings.load(
            REPOSITORY / "settings.toml", {"TESP_PULSAR__PRIVATE_TOKEN": password}
        )
        assert token.pulsar.private_token == SecretStr(password)


@pytest.mark.parametrize("password", ["0123", "1e5", "true", "0x10", "@int 3", "[1]", "a=b", "'x'"])
def test_a_password_that_looks_like_something_else_stays_a_text(
    file: Written, password: str
) -> None:
    loaded = file.load("[default]\n", TESP_BASIC_AUTH__PASSWORD=password)
    assert loaded.basic_auth.password.get_secret_value() == password


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('["--ulimit", "nofile=1024:1024"]', ("--ulimit", "nofile=1024:1024")),
        ("--ulimit nofile=1024:1024", ("--ulimit", "nofile=1024:1024")),
        ("--label 'a b'", ("--label", "a b")),
        ("[]", ()),
    ],
)
def test_a_list_from_the_environment_is_json_or_words(
    file: Written, text: str, expected: tuple[str, ...]
) -> None:
    assert file.load("[default]\n", TESP_CONTAINER__RUN_ARGS=text).container.run_args == expected


def test_an_empty_variable_counts_as_not_set(file: Written) -> None:
    loaded = file.load(
        "[default]\nserver.port = 5\n",
        TESP_SERVER__PORT="",
        TESP_NONSENSE="",
        FASTAPI_PROFILE="",
        CONTAINER_TYPE="",
    )
    assert loaded.server.port == 5
    assert loaded.container.type == "docker"


def test_container_type_is_taken_from_the_references_variable_unless_ours_is_set(
    file: Written,
) -> None:
    text = '[default]\ncontainer.type = "docker"\n'
    theirs = file.load(text, CONTAINER_TYPE="singularity")
    ours = file.load(text, CONTAINER_TYPE="singularity", TESP_CONTAINER__TYPE="podman")
    assert (theirs.container.type, theirs.container.command) == ("singularity", "singularity")
    assert ours.container.type == "podman"


def test_a_program_is_the_engines_command_where_given(file: Written) -> None:
    loaded = file.load('[default]\ncontainer.program = "/opt/bin/docker"\n')
    assert loaded.container.command == "/opt/bin/docker"


def test_blank_texts_in_the_file_mean_not_given(file: Written) -> None:
    loaded = file.load('[default]\npulsar.amqp_url = ""\ndb.sqlite_path = ""\n')
    assert loaded.pulsar.amqp_url is None
    assert loaded.db.sqlite_path is None


# Which store.


@pytest.mark.parametrize(
    ("profile", "environ", "expected"),
    [
        ("", {}, "mongodb://default"),
        ('db.sqlite_path = "f"', {}, None),
        ('db.mongodb_uri = "mongodb://site"', {"TESP_DB__SQLITE_PATH": "f"}, None),
        ('db.sqlite_path = "f"', {"TESP_DB__MONGODB_URI": "mongodb://e"}, "mongodb://e"),
    ],
)
def test_whoever_names_a_store_last_has_chosen_it(
    file: Written, profile: str, environ: dict[str, str], expected: str | None
) -> None:
    text = f'[default]\ndb.mongodb_uri = "mongodb://default"\n[site]\n{profile}\n'
    db = file.load(text, FASTAPI_PROFILE="site", **environ).db
    assert db.mongodb_uri == (SecretStr(expected) if expected else None)
    assert db.sqlite_path == (None if expected else Path("f"))


def test_two_stores_in_one_place_are_refused(file: Written) -> None:
    text = '[default]\ndb.mongodb_uri = "mongodb://x"\ndb.sqlite_path = "f"\n'
    assert file.complaints(text) == [
        "`db.mongodb_uri` and `db.sqlite_path` are both in [default] of settings.toml: "
        "there is one store."
    ]
    both = {"TESP_DB__MONGODB_URI": "mongodb://x", "TESP_DB__SQLITE_PATH": "f"}
    assert "both in the environment" in file.complaints("[default]\n", **both)[0]


def test_no_store_at_all_is_refused(file: Written) -> None:
    assert file.complaints('[default]\ndb.mongodb_uri = ""\n') == [
        "one of `db.mongodb_uri` and `db.sqlite_path` should be given."
    ]


# What is refused, and in which words.


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("pulsar.ulr = 'x'", "`pulsar.ulr` is no setting (did you mean `pulsar.url`?)."),
        (
            "pulsar.poll_interval = 3",
            "`pulsar.poll_interval` is no setting (did you mean `pulsar.status.poll_interval`?).",
        ),
        ("pulsr.url = 'x'", "`pulsr` is no setting (did you mean `pulsar`?)."),
        ("qqqq = 1", "`qqqq` is no setting."),
        ("profile = 'x'", "`profile` is no setting"),
        ("warnings = ['x']", "`warnings` is no setting"),
        (
            "pulsar.client_timeout = '30'",
            '`pulsar.client_timeout` is "30", but it should be a valid number.',
        ),
        ("pulsar.max_jobs = 1.5", "`pulsar.max_jobs` is 1.5, but it should be a valid integer."),
        ("pulsar.max_jobs = true", "`pulsar.max_jobs` is true, but it should be a valid integer."),
        ("pulsar.max_jobs = 0", "`pulsar.max_jobs` is 0, but it should be greater than or equal"),
        ("dispatch.lease_s = inf", "`dispatch.lease_s` is Infinity, but it should be a finite"),
        ("dispatch.lease_s = nan", "`dispatch.lease_s` is NaN, but it should be a finite number."),
        (
            "server.access_log = 'yes'",
            '`server.access_log` is "yes", but it should be a valid bool',
        ),
        ("server.host = 1", "`server.host` is 1, but it should be a valid string."),
        ("logging = 'DEBUG'", '`logging` is "DEBUG", but it should be a table of settings.'),
        (
            "logging.level = 'LOUD'",
            "`logging.level` is \"LOUD\", but it should be 'TRACE', 'DEBUG'",
        ),
        ("container.type = 'both'", "`container.type` is \"both\", but it should be 'docker'"),
        (
            "storage.file.roots = ['/a', 'b']",
            '`storage.file.roots[1].path` is "b", but it should be an absolute path.',
        ),
        ("container.run_args = 'x'", '`container.run_args` is "x", but it should be a valid'),
        ("pulsar.url = 'ftp://h'", '`pulsar.url` is "ftp://h", but it should be a URL that begins'),
        ("pulsar.amqp_url = 'http://h'", "`pulsar.amqp_url` is given, but it should begin with"),
        ("db.mongodb_uri = 'http://h'", "`db.mongodb_uri` is given, but it should begin with"),
        ("instance = 'a-b'", '`instance` is "a-b", but it should match pattern'),
        ("basic_auth.username = 'a:b'", '`basic_auth.username` is "a:b", but it should match'),
        ("basic_auth.enable = true", "`basic_auth.enable` needs `basic_auth.username` and"),
        ("dispatch.silence_s = 59", "`dispatch.silence_s` should be at least twice"),
    ],
)
def test_a_mistake_stops_the_start_with_one_line(file: Written, line: str, complaint: str) -> None:
    (found,) = file.complaints(f"[default]\n{line}\n")
    assert found.startswith(complaint)


def test_all_mistakes_are_told_at_once_each_with_its_source(file: Written) -> None:
    complaints = file.complaints(
        "[default]\nserver.port = 'x'\n",
        TESP_LOGS__TAIL_BYTES="many",
        TESP_DB_MONGODB_URI="mongodb://x",
        CONTAINER_TYPE="lxc",
        TESP_CONTAINER__RUN_ARGS="'unclosed",
    )
    assert [complaint.split(", but")[0] for complaint in complaints] == [
        "TESP_DB_MONGODB_URI is no setting (did you mean TESP_DB__MONGODB_URI?).",
        '`container.type` is "lxc" (from CONTAINER_TYPE)',
        '`container.run_args` is "\'unclosed" (from TESP_CONTAINER__RUN_ARGS)',
        '`logs.tail_bytes` is "many" (from TESP_LOGS__TAIL_BYTES)',
        '`server.port` is "x"',
    ]


def test_complaints_show_no_secrets(file: Written) -> None:
    text = (
        "[default]\npulsar.url = 'ftp://u:hunter2@h'\nbasic_auth.password = 12345\n"
        "db.mongodb_uri = 'monodb://u:hunter2@h'\npulsar.private_token = 12345\n"
    )
    complaints = file.complaints(text)
    assert len(complaints) == 4
    assert not any(secret in line for line in complaints for secret in ("hunter2", "12345"))


def test_variables_that_others_set_are_no_mistakes(file: Written) -> None:
    file.load(
        "[default]\n",
        TESP_TEST_REQUIRE="all",
        TESP_DATA_DIR="/data",
        TESP_SERVICE_HOST="10.0.0.1",
        TESP_API_SERVICE_HOST="10.0.0.1",
        TESP_API_SERVICE_PORT="8080",
        TESP_API_SERVICE_PORT_HTTP="8080",
        TESP_API_PORT="tcp://10.0.0.1:8080",
        TESP_API_PORT_8080_TCP="tcp://10.0.0.1:8080",
        TESP_API_PORT_8080_TCP_ADDR="10.0.0.1",
    )


def test_a_forgotten_underscore_is_no_variable_of_others(file: Written) -> None:
    (complaint,) = file.complaints("[default]\n", TESP_SERVER_PORT="8080")
    assert complaint == "TESP_SERVER_PORT is no setting (did you mean TESP_SERVER__PORT?)."


def test_a_profile_that_is_not_in_the_file_is_refused(file: Written) -> None:
    (complaint,) = file.complaints("[default]\n[site]\n", FASTAPI_PROFILE="sit")
    assert (
        complaint == "FASTAPI_PROFILE is 'sit', but there is no section [sit], only default, site."
    )


def test_an_empty_section_is_a_profile(file: Written) -> None:
    assert (
        file.load("[default]\nserver.port = 3\n[site]\n", FASTAPI_PROFILE="site").server.port == 3
    )


@pytest.mark.parametrize("text", ["server.port = 3\n", "[server]\nport = 3\n", "x = 1\n"])
def test_a_key_outside_of_every_profile_is_refused(file: Written, text: str) -> None:
    (complaint,) = file.complaints(text)
    assert "is in no profile: put it below [default]." in complaint


@pytest.mark.parametrize("text", ["[default\n", "[default]\nserver.host = '@format {env[NO]}'\n"])
def test_a_file_that_cannot_be_read_is_named(file: Written, text: str) -> None:
    (complaint,) = file.complaints(text)
    assert complaint.startswith(f"{file.path} cannot be read: ")


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    missing = tmp_path / "no.toml"
    for path, environ in ((missing, {}), (None, {"TESP_SETTINGS_FILE": str(missing)})):
        with pytest.raises(Misconfigured, match=r"There is no settings file .*no\.toml"):
            settings.load(path, environ)


def test_options_of_dynaconf_do_not_change_what_is_read(file: Written) -> None:
    (complaint,) = file.complaints("[default]\n", SETTINGS_FILE_FOR_DYNACONF="/other.toml")
    assert "SETTINGS_FILE_FOR_DYNACONF" in complaint


# The value itself.


def test_settings_are_frozen_all_the_way_down() -> None:
    loaded = Settings()
    with pytest.raises(ValidationError):
        loaded.pulsar.status.poll_interval = 1  # type: ignore[misc]


def test_every_key_has_a_meaning_and_a_default_that_passes_its_own_check() -> None:
    for key in keys():
        assert (key.field.description or "").rstrip().endswith("."), key.name
        assert not key.field.is_required(), key.name
    assert Keys.model_validate(Keys().model_dump()) == Keys()


def test_every_section_says_what_it_is() -> None:
    assert all(section.__doc__ for section in Section.__subclasses__())


@pytest.mark.parametrize(
    "change",
    [
        {"pulsar": {"url": "https://user:hunter2@pulsar.example/"}},
        {"pulsar": {"amqp_url": "amqp://user:hunter2@mq/vhost", "private_token": "hunter2"}},
        {"db": {"mongodb_uri": "mongodb://user:hunter2@db/tesp"}},
        {"basic_auth": {"username": "me", "password": "hunter2"}},
    ],
)
def test_a_secret_is_neither_shown_nor_printed_but_known_for_masking(
    change: dict[str, dict[str, str]],
) -> None:
    loaded = Keys.model_validate_json(json.dumps(change))
    assert "hunter2" not in repr(loaded)
    assert "hunter2" not in str(settings.masked(loaded))
    assert set(settings.secret_values(loaded)) == {"hunter2"}


def test_effective_values_are_shown_as_they_would_be_written() -> None:
    shown = settings.masked(Keys())
    assert shown["pulsar.url"] == "http://localhost:8913"
    assert shown["db.mongodb_uri"] == "mongodb://localhost:27017"
    assert shown["pulsar.verify_tls"] == "true"
    assert shown["container.image_schemes"] == "docker, oras, library, shub"
    assert shown["pulsar.private_token"] == ""
    assert list(shown) == [key for key, _ in sorted(shown.items(), key=_by_section)]


def _by_section(item: tuple[str, str]) -> tuple[str, str]:
    section, _, name = item[0].rpartition(".")
    return section, name


def test_the_table_has_each_key_with_its_variable() -> None:
    table = settings.table()
    for key in keys():
        assert f"| `{key.name}` | `{key.variable}` |" in table
    assert "`TESP_PULSAR__STATUS__POLL_INTERVAL` | `4` | Longest interval" in table


# Bearer tokens.


@pytest.mark.parametrize("key", ["issuers", "allowed_issuers"])
def test_issuers_are_named_under_our_key_or_the_references(file: Written, key: str) -> None:
    text = f"""[default]
oauth.enable = true
oauth.{key} = ["https://a.example/", "http://127.0.0.1:9/realm"]
oauth.required_audience = "tes"
"""
    loaded = file.load(text)
    assert loaded.oauth.trusted == ("https://a.example/", "http://127.0.0.1:9/realm")
    assert loaded.warnings == ()


def test_issuers_of_both_keys_count_once_and_come_from_the_environment_too(file: Written) -> None:
    text = '[default]\noauth.issuers = ["https://a.example"]\n'
    both = "https://a.example https://b.example"
    loaded = file.load(text, TESP_OAUTH__ALLOWED_ISSUERS=both)
    assert loaded.oauth.trusted == ("https://a.example", "https://b.example")


def test_tokens_without_issuers_to_trust_stop_the_start(file: Written) -> None:
    [line] = file.complaints("[default]\noauth.enable = true\noauth.allowed_issuers = []\n")
    assert line == "`oauth.enable` needs `oauth.issuers`: whose tokens are to be taken."


@pytest.mark.parametrize(
    ("issuer", "should"),
    [
        ("http://issuer.example", "begin with https://; http:// is for loopback addresses only"),
        (
            "issuer.example",
            "be a URL that begins with https:// and names a host, without user, query, fragment",
        ),
    ],
)
def test_an_issuer_that_cannot_be_asked_safely_stops_the_start(
    file: Written, issuer: str, should: str
) -> None:
    [line] = file.complaints(f'[default]\noauth.issuers = ["{issuer}"]\n')
    assert line == f'`oauth.issuers[0]` is "{issuer}", but it should {should}.'


def test_tokens_for_any_audience_are_allowed_with_a_warning(file: Written) -> None:
    loaded = file.load('[default]\noauth.enable = true\noauth.issuers = ["https://a.example"]\n')
    [warning] = loaded.warnings
    assert warning.startswith("`oauth.required_audience` is not given")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('oauth.admin_claim = "groups"', "`oauth.admin_claim` and `oauth.admin_value` need"),
        ('oauth.admin_value = "admins"', "`oauth.admin_claim` and `oauth.admin_value` need"),
        ('oauth.admins = ["alice"]', "each of `oauth.admins` should be `issuer|subject`"),
        ('oauth.admins = ["https://b.example|alice"]', "each of `oauth.admins` should be"),
        ("oauth.cache_jwks_ttl = 0", "`oauth.cache_jwks_ttl` is 0"),
    ],
)
def test_half_a_rule_for_administrators_stops_the_start(
    file: Written, text: str, complaint: str
) -> None:
    enabled = '[default]\noauth.enable = true\noauth.issuers = ["https://a.example"]\n'
    [line] = file.complaints(enabled + text + "\n")
    assert line.startswith(complaint)


# Data: whom credentials and roots serve.

STORAGE = """[default]
storage.ca_file = "/etc/lab.pem"

[[default.storage.file.roots]]
path = "/data/{owner}"
owners = ["*"]
mode = "bind"

[[default.storage.http]]
prefixes = ["https://lab.example/private/"]
token = "hunter2-http"

[[default.storage.ftp]]
prefixes = ["ftp://lab.example/"]
username = "lab"
password = "hunter2-ftp"

[[default.storage.s3]]
prefixes = ["s3://", "gs://bucket/{owner}/"]
endpoint = "https://s3.lab.example/"
access_key = "hunter2-ak"
secret_key = "hunter2-sk"
session_token = "hunter2-st"

[[default.storage.s3]]
prefixes = ["s3://aws"]
profile = "lab"
region = "eu-west-3"
"""


def test_each_entry_of_storage_is_a_table(file: Written) -> None:
    storage = file.load(STORAGE).storage
    assert [(str(root.path), root.mode) for root in storage.file.roots] == [
        ("/data/{owner}", "bind")
    ]
    lab, amazon = storage.s3
    assert (lab.url, lab.addressing) == ("https://s3.lab.example", "path")
    assert (amazon.url, amazon.addressing) == ("https://s3.eu-west-3.amazonaws.com", "virtual")
    assert storage.ftp[0].owners is None


@pytest.mark.parametrize(
    ("entry", "url", "addressing"),
    [
        ({"prefixes": ["gs://"]}, "https://storage.googleapis.com", "path"),
        (
            {"prefixes": ["s3://"], "region": "cn-north-1"},
            "https://s3.cn-north-1.amazonaws.com.cn",
            "virtual",
        ),
        (
            {"prefixes": ["s3://"], "endpoint": "http://h", "style": "virtual"},
            "http://h",
            "virtual",
        ),
    ],
)
def test_without_an_endpoint_a_bucket_is_amazons_or_googles(
    entry: dict[str, object], url: str, addressing: str
) -> None:
    (s3,) = Keys.model_validate_json(json.dumps({"storage": {"s3": [entry]}})).storage.s3
    assert (s3.url, s3.addressing) == (url, addressing)


def test_a_root_may_be_a_text_and_entries_may_come_from_the_environment(file: Written) -> None:
    loaded = file.load(
        "[default]\n",
        TESP_STORAGE__FILE__ROOTS="/a /b",
        TESP_STORAGE__S3='[{"prefixes": ["s3://"], "anonymous": true}]',
    )
    assert [str(root.path) for root in loaded.storage.file.roots] == ["/a", "/b"]
    assert loaded.storage.s3[0].anonymous


def test_secrets_within_entries_are_neither_shown_nor_printed_but_known_for_masking(
    file: Written,
) -> None:
    loaded = file.load(STORAGE)
    assert "hunter2" not in repr(loaded)
    shown = settings.masked(loaded)
    assert "hunter2" not in str(shown)
    assert '"prefixes": ["s3://aws"], "region": "eu-west-3", "profile": "lab"' in shown[
        "storage.s3"
    ].replace('"owners": null, ', "")
    kinds = {"http", "ftp", "ak", "sk", "st"}
    assert set(settings.secret_values(loaded)) == {f"hunter2-{kind}" for kind in kinds}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "s3 = [{prefixes=['s3:/x']}]",
            '`storage.s3[0].prefixes[0]` is "s3:/x", but it should begin',
        ),
        (
            "s3 = [{prefixes=['ftp://x']}]",
            '`storage.s3[0].prefixes[0]` is "ftp://x", but it should',
        ),
        ("s3 = [{prefixes=['s3://{owner}/x']}]", "`storage.s3[0].prefixes[0]` is"),
        ("s3 = [{prefixes=['s3://b/{user}/']}]", "`storage.s3[0].prefixes[0]` is"),
        ("s3 = [{prefixes=['s3://b/../c']}]", "`storage.s3[0].prefixes[0]` is"),
        (
            "s3 = [{prefixes=[]}]",
            "`storage.s3[0].prefixes` is [], but it should name at least one.",
        ),
        ("s3 = [{access_key='hunter2'}]", "`storage.s3[0].prefixes` is missing."),
        ("s3 = ['hunter2']", "`storage.s3[0]` is given, but it should be a table of settings."),
        ("s3 = 'hunter2'", "`storage.s3` is given, but it should be"),
        (
            "s3 = [{prefixes=['s3://'], acces_key='hunter2'}]",
            "`storage.s3[0].acces_key` is no setting (did you mean `storage.s3[].access_key`?).",
        ),
        (
            "s3 = [{prefixes=['s3://'], access_key='hunter2'}]",
            "`storage.s3[0]`: `access_key` and `secret_key` need each other.",
        ),
        (
            "s3 = [{prefixes=['s3://'], secret_key=5}]",
            "`storage.s3[0].secret_key` is given, but it should be",
        ),
        (
            "s3 = [{prefixes=['s3://'], session_token='hunter2'}]",
            "`storage.s3[0]`: `session_token` needs",
        ),
        (
            "s3 = [{prefixes=['s3://'], profile='p', anonymous=true}]",
            "`storage.s3[0]`: only one of",
        ),
        (
            "s3 = [{prefixes=['s3://', 'gs://']}]",
            "`storage.s3[0]`: s3:// and gs:// need an entry each",
        ),
        (
            "s3 = [{prefixes=['s3://'], endpoint='http://u:hunter2@h'}]",
            "`storage.s3[0].endpoint` is",
        ),
        (
            "s3 = [{prefixes=['s3://'], multipart_bytes=6000000000}]",
            "`storage.s3[0].multipart_bytes` is 6000000000",
        ),
        ("http = [{prefixes=['https://'], token='hunter2'}]", "`storage.http[0].prefixes[0]` is"),
        (
            "http = [{prefixes=['https://u:hunter2@h/'], token='x'}]",
            "`storage.http[0].prefixes[0]` is",
        ),
        (
            "http = [{prefixes=['https://h/?a'], token='hunter2'}]",
            "`storage.http[0].prefixes[0]` is",
        ),
        ("http = [{prefixes=['https://h/']}]", "`storage.http[0]`: it should have either"),
        (
            "http = [{prefixes=['https://h/'], username='u', token='t'}]",
            "`storage.http[0]`: it should",
        ),
        ("ftp = [{prefixes=['ftp://h/'], username='u'}]", "`storage.ftp[0].password` is missing."),
        ("file.roots = ['/a/../b']", '`storage.file.roots[0].path` is "/a/../b", but it should'),
        ("file.roots = [{path='/a', mode='link'}]", '`storage.file.roots[0].mode` is "link", but'),
        ("presign_s = 604801", "`storage.presign_s` is 604801, but it should be"),
    ],
)
def test_half_an_entry_stops_the_start_without_its_secrets(
    file: Written, text: str, complaint: str
) -> None:
    (found,) = file.complaints(f"[default.storage]\n{text}\n")
    assert found.startswith(complaint)
    assert "hunter2" not in found


def test_an_entry_that_is_no_json_is_not_shown(file: Written) -> None:
    (found,) = file.complaints("[default]\n", TESP_STORAGE__S3='[{"secret_key": "hunter2"')
    assert found.startswith("`storage.s3` is given (from TESP_STORAGE__S3), but it should be")


def test_what_serves_nobody_is_told_at_the_start(file: Written) -> None:
    basic = "basic_auth = {enable=true, username='u', password='p'}\n"
    root = "storage.file.roots = [{path='/a', owners=['basic:u']}, '/b', {path='/c', owners=['*']}]"
    with_authentication = file.load(f"[default]\n{basic}{root}\n").warnings
    without = file.load(f"[default]\n{root}\n").warnings
    assert [text.partition(" ")[0] for text in with_authentication] == ["`storage.file.roots[1]`"]
    assert [text.partition(" ")[0] for text in without] == ["`storage.file.roots[0]`"]


def test_the_table_has_the_keys_of_entries() -> None:
    assert "| `storage.s3[].multipart_bytes` |  | `1073741824` | " in settings.table()
    assert "| `storage.file.roots[].mode` |  | `copy` | " in settings.table()
