"""The engines by their names in an order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tesp_api.runner.apptainer import Apptainer
from tesp_api.runner.docker import Docker, Podman
from tesp_api.runner.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

    from tesp_api.runner.engine import Engine
    from tesp_api.runner.order import Order
    from tesp_api.runner.tree import Tree

ENGINES: dict[str, Callable[[Order, Tree, list[str], Callable[[str], None]], Engine]] = {
    "docker": Docker,
    "podman": Podman,
    "apptainer": Apptainer,
    "singularity": Apptainer,
    "host": Host,
}
