"""What the server is known by at another one."""

from base64 import b64encode
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Login:
    """A user and password, or, where it is not empty, a bearer token. Never printed."""

    username: str = ""
    password: str = ""
    token: str = ""

    @property
    def authorization(self) -> str:
        """The value of HTTP's header `Authorization`."""
        if self.token:
            return f"Bearer {self.token}"
        return "Basic " + b64encode(f"{self.username}:{self.password}".encode()).decode()
