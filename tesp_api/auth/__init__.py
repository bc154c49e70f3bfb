"""Who is asking: nobody in particular, the one Basic user, or whom a bearer token names."""

from tesp_api.auth.authenticator import Authenticator, NoAuthentication, Unauthorized
from tesp_api.auth.basic import BasicAuthentication
from tesp_api.auth.bearer import BearerAuthentication
from tesp_api.auth.claims import Terms
from tesp_api.auth.either import EitherAuthentication, Way
from tesp_api.auth.issuer import Discovery, Issuer

__all__ = [
    "Authenticator",
    "BasicAuthentication",
    "BearerAuthentication",
    "Discovery",
    "EitherAuthentication",
    "Issuer",
    "NoAuthentication",
    "Terms",
    "Unauthorized",
    "Way",
]
