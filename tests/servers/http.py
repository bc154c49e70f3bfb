"""nginx as a file server of the test: by HTTP, by TLS, and as a second host under another port.

What it serves below `/` are the files of `files`; GET (with Range and index pages), PUT, DELETE.
The same files lie below other paths too, each with a manner of its own:

    /private/…     for the user and the password alone        /token/…    for the bearer alone
    /moved/…       302 to the plain path                      /kept/…     307 to it
    /elsewhere/…   307 to the plain path of the second host   /secure/…   307 to the one by TLS
    /leads/ftp/…   302 to ftp://, and /leads/file/… to file:/// and the path
    /round/…       302 to itself, for ever                    /login/…    302 to a web page
    /whole/…       without Range                              /slow/…     100 kB/s
    /page/…        200 with a web page, whatever is asked for
    /chunked/…     compressed on the way, so without a length
    /readonly/…    405 to PUT                                 /status/CODE  that status
    /md5-wrong/…   with a Content-MD5 that is not the content's
"""

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

from tests.needs import need
from tests.servers.pki import Pki
from tests.servers.process import HOST, free_port, listens, running

PAGE: Final = "<!DOCTYPE html><title>Sign in</title><p>Who are you?</p>\n"
STATUS: Final = (400, 401, 403, 404, 410, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request as it came in; `host` is the port that was asked."""

    method: str
    path: str
    status: int
    host: int
    authorization: str
    range: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Web:
    """Where it is, whom it knows, and what it was asked."""

    port: int
    tls_port: int
    other_port: int
    username: str
    password: str
    token: str
    files: Path
    ca: Path
    ledger: Path

    @property
    def base(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def tls(self) -> str:
        return f"https://{HOST}:{self.tls_port}"

    @property
    def other(self) -> str:
        """The same files; another origin."""
        return f"http://{HOST}:{self.other_port}"

    def offer(self, path: str, content: bytes) -> str:
        """Serve `content` at `path`, and return its URL."""
        file = self.files / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return f"{self.base}/{path.lstrip('/')}"

    def asked(self, part: str = "") -> Sequence[Asked]:
        """Return the requests whose path has `part` in it, as they were answered.

        nginx writes one down when it has been answered: just after the client has it all.
        """
        found = [Asked(**json.loads(line)) for line in self.ledger.read_text().splitlines()]
        return [one for one in found if part in one.path]


@contextmanager
def nginx(directory: Path, pki: Pki) -> Iterator[Web]:
    """Run nginx on `directory/files`."""
    need("nginx")
    for name in ("files", "tmp", "pages"):
        (directory / name).mkdir()
    (directory / "pages" / "sign-in.html").write_text(PAGE)
    web = Web(
        port=free_port(),
        tls_port=free_port(),
        other_port=free_port(),
        username="tester",
        password=f"canary{secrets.token_hex(8)}",
        token=f"canary{secrets.token_hex(16)}",
        files=directory / "files",
        ca=pki.ca,
        ledger=directory / "ledger",
    )
    (directory / "users").write_text(f"{web.username}:{{PLAIN}}{web.password}\n")
    configuration = directory / "nginx.conf"
    configuration.write_text(_configuration(directory, web, pki))
    command = ["nginx", "-e", str(directory / "log"), "-c", str(configuration)]
    ports = (web.port, web.tls_port, web.other_port)
    with running(command, directory / "log", lambda: all(map(listens, ports))):
        yield web


def _configuration(directory: Path, web: Web, pki: Pki) -> str:
    return CONFIGURATION.substitute(
        directory=directory,
        host=HOST,
        port=web.port,
        tls=web.tls_port,
        other=web.other_port,
        certificate=pki.certificate,
        key=pki.key,
        token=web.token,
        statuses="\n".join(f"location = /status/{s} {{ return {s}; }}" for s in STATUS),
    )


class _Template(Template):
    delimiter = "@"  # the dollar is nginx's own


CONFIGURATION: Final = _Template("""
daemon off;
user root;
worker_processes 1;
pid @directory/pid;
error_log @directory/log;
events { worker_connections 256; }
http {
    log_format ledger escape=json '{"method": "$request_method", "path": "$request_uri", '
        '"status": $status, "host": $server_port, "authorization": "$http_authorization", '
        '"range": "$http_range"}';
    access_log @directory/ledger ledger;
    client_body_temp_path @directory/tmp/body;
    proxy_temp_path @directory/tmp/proxy;
    fastcgi_temp_path @directory/tmp/fastcgi;
    uwsgi_temp_path @directory/tmp/uwsgi;
    scgi_temp_path @directory/tmp/scgi;
    client_max_body_size 0;
    types { text/html html htm; text/plain txt; }
    default_type application/octet-stream;
    absolute_redirect off;
    dav_methods PUT DELETE MKCOL;
    create_full_put_path on;
    server {
        listen @host:@port;
        listen @host:@other;
        listen @host:@tls ssl;
        ssl_certificate @certificate;
        ssl_certificate_key @key;
        root @directory/files;
        location / { autoindex on; }
        location /private/ {
            alias @directory/files/;
            autoindex on;
            auth_basic tests;
            auth_basic_user_file @directory/users;
        }
        location /token/ {
            if ($http_authorization != "Bearer @token") { return 401; }
            alias @directory/files/;
            autoindex on;
        }
        location /moved/ { rewrite ^/moved(/.*)$ $1 redirect; }
        location ~ ^/kept(/.*)$ { return 307 $1; }
        location ~ ^/elsewhere(/.*)$ { return 307 http://@host:@other$1; }
        location ~ ^/secure(/.*)$ { return 307 https://@host:@tls$1; }
        location ~ ^/leads/ftp(/.*)$ { return 302 ftp://@host:@port$1; }
        location ~ ^/leads/file(/.*)$ { return 302 file://$1; }
        location /round/ { return 302 $request_uri; }
        location /login/ { return 302 /pages/sign-in.html; }
        location /pages/ { alias @directory/pages/; }
        location /page/ { root @directory/pages; try_files /sign-in.html =404; }
        location /whole/ { alias @directory/files/; max_ranges 0; }
        location /slow/ { alias @directory/files/; limit_rate 100k; }
        location /chunked/ {
            alias @directory/files/;
            gzip on;
            gzip_types *;
            gzip_min_length 0;
        }
        location /readonly/ { alias @directory/files/; dav_methods off; }
        location /md5-wrong/ {
            alias @directory/files/;
            add_header Content-MD5 1B2M2Y8AsgTpgAmY7PhCfg==;
        }
        @statuses
    }
}
""")
