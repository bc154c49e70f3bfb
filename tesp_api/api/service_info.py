"""service-info: what this server says of itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from tesp_api.api.schema import (
    LegacyDescription,
    Organization,
    ServiceDescription,
    ServiceType,
)

TES_VERSION: Final = "1.1.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceInfo:
    """The operator's words, and what is true of this installation; what is empty is not said.

    `storage` lists what the storage serves, `backend_parameters` the supported keys.
    """

    id: str
    name: str
    version: str
    organization_name: str
    organization_url: str
    description: str = ""
    contact_url: str = ""
    documentation_url: str = ""
    environment: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    storage: Sequence[str] = ()
    backend_parameters: Sequence[str] = ()


def render(info: ServiceInfo) -> bytes:
    """Return the document of TES 1.1."""
    document = ServiceDescription(
        id=info.id,
        name=info.name,
        type=ServiceType(group="org.ga4gh", artifact="tes", version=TES_VERSION),
        organization=Organization(name=info.organization_name, url=info.organization_url),
        version=info.version,
        description=info.description or None,
        contactUrl=info.contact_url or None,
        documentationUrl=info.documentation_url or None,
        createdAt=_moment(info.created_at),
        updatedAt=_moment(info.updated_at),
        environment=info.environment or None,
        storage=info.storage,
        tesResources_backend_parameters=info.backend_parameters,
    )
    return document.model_dump_json(exclude_none=True).encode()


def render_legacy(info: ServiceInfo) -> bytes:
    """Return the document of the versions before."""
    document = LegacyDescription(name=info.name, doc=info.description, storage=info.storage)
    return document.model_dump_json().encode()


def _moment(at: datetime | None) -> str | None:
    if at is None:
        return None
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
