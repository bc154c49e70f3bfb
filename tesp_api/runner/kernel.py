"""The system calls that Python does not offer (in 3.8)."""

from __future__ import annotations

import os
import sys

# The host engine: no image, but a sandbox of namespaces around the node's own programs.
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID = (
    0x20000,
    0x4000000,
    0x8000000,
    1 << 28,
    1 << 29,
)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = (
    1,
    2,
    4,
    8,
    32,
    4096,
    16384,
    1 << 18,
)

MOUNT_OPTIONS = {
    b"ro": MS_RDONLY, b"nosuid": MS_NOSUID, b"nodev": MS_NODEV, b"noexec": MS_NOEXEC,
    b"noatime": 1 << 10, b"nodiratime": 1 << 11, b"relatime": 1 << 21,
}  # fmt: skip

MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 4, 24, 28

PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 38, 47, 4

# NOROOT, NO_SETUID_FIXUP, NO_CAP_AMBIENT_RAISE and the locks of all: root is nobody special, for
# good.
SECUREBITS_LOCKED = 0xEF

CAPABILITY_VERSION_3 = 0x20080522


class Kernel:
    """The system calls that Python does not offer (in 3.8); each raises OSError."""

    def __init__(self) -> None:
        import ctypes

        self._ctypes = ctypes
        self._libc = ctypes.CDLL(None, use_errno=True)

    def _call(self, name: str, *args: object) -> None:
        if getattr(self._libc, name)(*args) < 0:
            number = self._ctypes.get_errno()
            raise OSError(number, f"{name}: {os.strerror(number)}")

    def unshare(self, flags: int) -> None:
        """Leave the namespaces in `flags` for new ones."""
        self._call("unshare", self._ctypes.c_int(flags))

    def mount(
        self, source: str, target: str, kind: str | None, flags: int, data: str | None = None
    ) -> None:
        """Mount, bind or remount."""
        fields = (os.fsencode(source), os.fsencode(target), kind and kind.encode())
        self._call("mount", *fields, self._ctypes.c_ulong(flags), data and data.encode())

    def pivot_root_here(self) -> None:
        """Make the current directory the root, and let go of the old one with all its mounts."""
        self._call("pivot_root", b".", b".")
        self._call("umount2", b".", self._ctypes.c_int(MNT_DETACH))
        os.chdir("/")

    def prctl(self, option: int, *args: int) -> None:
        """Set an attribute of this process."""
        values = [self._ctypes.c_ulong(value) for value in (*args, 0, 0, 0, 0)[:4]]
        self._call("prctl", self._ctypes.c_int(option), *values)

    def drop_capabilities(self) -> None:
        """Give up all capabilities, and every way to come to one again."""
        self.prctl(PR_SET_NO_NEW_PRIVS, 1)
        self.prctl(PR_SET_SECUREBITS, SECUREBITS_LOCKED)
        self.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
        for capability in range(64):
            try:
                self.prctl(PR_CAPBSET_DROP, capability)
            except OSError:
                break
        header = CAPABILITY_VERSION_3.to_bytes(4, sys.byteorder) + bytes(4)
        self._call("capset", header, bytes(24))
