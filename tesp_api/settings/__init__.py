"""The operator's settings, read once into one frozen, typed value."""

from tesp_api.settings.loading import load
from tesp_api.settings.model import Settings
from tesp_api.settings.showing import masked, secret_values, table

__all__ = ["Settings", "load", "masked", "secret_values", "table"]
