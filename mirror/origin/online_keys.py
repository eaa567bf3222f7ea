"""The origin's online keys: snapshot, timestamp and beacon, each in a key file of its own.

A rotation makes the new key here, so that no private key travels: it waits in `<role>.new.key`
until root or targets name it. Which of the two files counts is what signed metadata says, so a
crash at any point leaves a key that fits.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from firedoor.errors import Malformed, Unavailable
from firedoor.runtime.files import sync_folder
from firedoor.runtime.keys.key_files import KeyFile, is_sealed, read_key_file, write_key_file
from firedoor.trust.keys import key_of

ONLINE_ROLES = ("snapshot", "timestamp", "beacon")


class OnlineKeys:
    """The key files in the origin's folder. `passphrase` opens and seals them."""

    def __init__(self, folder: Path, passphrase: Callable[[], str]) -> None:
        self._folder = folder
        self._passphrase = passphrase

    def fresh(self, role: str) -> KeyFile:
        """A new key of this role, durable and waiting; the one that waited before is gone.

        Raises:
            Malformed: no such role.
            Unavailable: the disk refuses.
        """
        if role not in ONLINE_ROLES:
            raise Malformed("role", wanted=" or ".join(ONLINE_ROLES), got=repr(role[:80]))
        # A file that is lost is made again; another of this origin says of which fleet.
        path = self._path(role)
        pattern = path if path.exists() else self._folder / "identity.key"
        old = replace(read_key_file(pattern, self._passphrase), certificate="", ca="", origin="")
        secret = os.urandom(64)
        public = key_of(secret[:32])
        key = replace(
            old,
            role=role,
            name=role,
            keyid=public.keyid,
            public=public.keyval["public"],
            secret=secret.hex(),
        )
        seal = self._passphrase() if is_sealed(pattern) else None
        write_key_file(self._waiting(role), key, seal)
        return key

    def of(self, role: str, keyids: list[str]) -> KeyFile:
        """The key of this role that signed metadata names; a waiting one takes its place.

        Raises:
            Unavailable: neither file has it.
        """
        for path in (self._path(role), self._waiting(role)):
            key = read_key_file(path, self._passphrase) if path.exists() else None
            if key is None or key.keyid not in keyids:
                continue
            if path == self._waiting(role):
                path.replace(self._path(role))
                sync_folder(self._folder)
            return key
        why = f"signed metadata names {', '.join(each[:12] for each in keyids)}, not the key here"
        raise Unavailable(str(self._path(role)), why=why)

    def holds(self, role: str, keyids: list[str]) -> bool:
        """Whether one of the two files has a key with such an id."""
        paths = [path for path in (self._path(role), self._waiting(role)) if path.exists()]
        return any(read_key_file(path, self._passphrase).keyid in keyids for path in paths)

    def _path(self, role: str) -> Path:
        return self._folder / f"{role}.key"

    def _waiting(self, role: str) -> Path:
        return self._folder / f"{role}.new.key"
