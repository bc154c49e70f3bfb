"""What the server knows of URLs: which it serves to whom, and how the node gets at each.

One class, `UrlStorage`, over one small class per scheme; a new scheme is a new class in a module of
its own and a line in the composition root. `s3_client` is not imported here: see there.
"""

from tesp_api.storage.account import Account, ObjectStore
from tesp_api.storage.file import FileScheme, Root
from tesp_api.storage.ftp import FtpScheme
from tesp_api.storage.grants import EVERYBODY, Grant
from tesp_api.storage.http import HttpScheme
from tesp_api.storage.login import Login
from tesp_api.storage.s3 import S3Scheme
from tesp_api.storage.scheme import Scheme
from tesp_api.storage.signing import Addresses, Keys
from tesp_api.storage.urls import UrlStorage

__all__ = [
    "EVERYBODY",
    "Account",
    "Addresses",
    "FileScheme",
    "FtpScheme",
    "Grant",
    "HttpScheme",
    "Keys",
    "Login",
    "ObjectStore",
    "Root",
    "S3Scheme",
    "Scheme",
    "UrlStorage",
]
