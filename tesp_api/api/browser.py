"""Swagger UI at `/`, from files that come with this package: no other site is asked for anything.

`assets` holds the files of swagger-ui-dist as they are published, with their licence, and
`start.js`, which is ours.
"""

from html import escape
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response

from tesp_api.api.resource import Handler

ASSETS: Final = Path(__file__).parent / "assets"
FILES: Final = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png", "start.js")
PREFIX: Final = "/swagger-ui"
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
"""Content-Security-Policy: what is not from here is not loaded, and nobody frames the page."""

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="swagger-ui/favicon-32x32.png">
<link rel="stylesheet" href="swagger-ui/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="swagger-ui/swagger-ui-bundle.js"></script>
<script src="swagger-ui/start.js"></script>
</body>
</html>
"""


def page(title: str) -> Handler:
    """Return what answers with the page."""
    html = _PAGE.format(title=escape(title))

    async def handler(_request: Request) -> Response:
        headers = {"Content-Security-Policy": POLICY, "X-Frame-Options": "DENY"}
        return HTMLResponse(html, headers=headers)

    return handler


def asset(name: str) -> Handler:
    """Return what answers with one of the files."""

    async def handler(_request: Request) -> Response:
        return FileResponse(ASSETS / name, headers={"Cache-Control": "max-age=86400"})

    return handler
