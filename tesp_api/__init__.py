"""TESP API: a GA4GH Task Execution Service whose tasks are run by Galaxy Pulsar."""

from typing import Final

__version__: Final = "1.0.0"
