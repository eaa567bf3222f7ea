"""Private keys in files, sealed with a passphrase: argon2id and secretbox of PyNaCl.

A key file holds all that its owner needs at 4 a.m. on a strange machine: the signing key, a TLS
identity with its certificate, the fleet's CA, and where to find the fleet.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import nacl.pwhash.argon2id as kdf
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random as random_bytes

from firedoor.errors import Malformed, Untrusted
from firedoor.runtime.files import durable_write
from firedoor.runtime.folders import read_named
from firedoor.wire.codec import record

FORMAT = "firedoor-key-1"

BEACON_KEY = "beacon.key"
"""The file of a mirror's own beacon key, in its state folder."""

CONTROLLER = "controller"
"""The role, in its key file, of a program that may halt the releases that name its key."""

_KDF = "argon2id"

# Costs in a file are its writer's word; ours are 64 and 256 MiB, and a file may not ask for more.
_MEMORY_BYTES_MAX = 1 << 30
_OPERATIONS_MAX = 8

_SEED_BYTES = 32
_KEY_FILE_BYTES_MAX = 1 << 16


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret under a passphrase; texts are hex."""

    kdf: str
    opslimit: int
    memlimit: int
    salt: str
    box: str


@dataclass(frozen=True, slots=True)
class KeyFile:
    """One key with its identity. `secret`: 64 bytes in hex, signing seed and TLS seed."""

    role: str
    name: str
    fleet: str
    keyid: str
    public: str
    secret: str = field(default="", repr=False)
    certificate: str = ""
    ca: str = ""
    origin: str = ""
    mdns: tuple[str, ...] = ()
    sealed: Sealed | None = None
    format: str = FORMAT

    @property
    def signing_seed(self) -> bytes:
        """The seed that signs metadata and orders."""
        return bytes.fromhex(self.secret)[:_SEED_BYTES]

    @property
    def tls_seed(self) -> bytes:
        """The seed of the TLS identity."""
        return bytes.fromhex(self.secret)[_SEED_BYTES:]


def write_key_file(path: Path, key: KeyFile, passphrase: str | None) -> None:
    """Write `key` durably with mode 0600, sealed unless `passphrase` is None."""
    if passphrase is not None:
        key = replace(key, secret="", sealed=_seal(bytes.fromhex(key.secret), key.role, passphrase))
    # Either the secret or its sealed form stands in the file, never both.
    unused = "secret" if key.sealed is not None else "sealed"
    table = {name: value for name, value in asdict(key).items() if name != unused}
    durable_write(path, json.dumps(table, indent=1).encode(), 0o600)


def read_key_file(path: Path, passphrase: Callable[[], str]) -> KeyFile:
    """The key in a file; `passphrase` is called only if it is sealed.

    Raises:
        Unavailable: the file cannot be read.
        Malformed, TooLarge: it is no key file of this version.
        Untrusted: the passphrase does not open it.
    """
    key = record(KeyFile, _table(path), what=str(path))
    if key.format != FORMAT:
        raise Malformed(str(path), wanted=FORMAT, got=key.format[:40])
    if key.sealed is not None and key.secret:
        raise Malformed(str(path), wanted="a secret or a sealed one", got="both")
    if key.sealed is not None:
        _check_costs(path, key.sealed)
        key = replace(key, secret=_open(path, key.sealed, passphrase()).hex(), sealed=None)
    try:
        is_whole = len(bytes.fromhex(key.secret)) == 2 * _SEED_BYTES
    except ValueError:
        is_whole = False
    if not is_whole:
        raise Malformed(str(path), wanted="two 32-byte seeds in hex", got="something else")
    return key


def _table(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(read_named(path, _KEY_FILE_BYTES_MAX))
    # Deep brackets make json raise RecursionError.
    except (ValueError, RecursionError) as error:
        raise Malformed(str(path), wanted="a key file", got=str(error)[:80]) from error
    if not isinstance(table, dict):
        raise Malformed(str(path), wanted="a key file", got=type(table).__name__)
    return table


def replace_certificate(path: Path, certificate: str) -> None:
    """Put another certificate into a key file, whose secret stays sealed as it is.

    Raises:
        Unavailable: the disk refuses; the file is as it was.
        Malformed, TooLarge: it is no key file.
    """
    _replace(path, "certificate", certificate)


def replace_authority(path: Path, ca: str) -> None:
    """Put another certificate of the fleet's CA into a key file; raises as the above."""
    _replace(path, "ca", ca)


def _replace(path: Path, field_name: str, text: str) -> None:
    table = _table(path) | {field_name: text}
    durable_write(path, json.dumps(table, indent=1).encode(), 0o600)


def read_public(path: Path) -> KeyFile:
    """What a key file says without its secret, sealed or not; raises as `read_key_file`."""
    return replace(record(KeyFile, _table(path), what=str(path)), secret="", sealed=None)


def is_sealed(path: Path) -> bool:
    """Whether the key in this file needs a passphrase; raises as `read_key_file`."""
    return _table(path).get("sealed") is not None


def _seal(secret: bytes, role: str, passphrase: str) -> Sealed:
    # Root keys are used rarely and matter most; a halt key must open fast at 4 a.m. (FACTS.md).
    is_root = role == "root"
    opslimit = kdf.OPSLIMIT_MODERATE if is_root else kdf.OPSLIMIT_INTERACTIVE
    memlimit = kdf.MEMLIMIT_MODERATE if is_root else kdf.MEMLIMIT_INTERACTIVE
    salt = random_bytes(kdf.SALTBYTES)
    key = kdf.kdf(SecretBox.KEY_SIZE, passphrase.encode(), salt, opslimit, memlimit)
    return Sealed(_KDF, opslimit, memlimit, salt.hex(), bytes(SecretBox(key).encrypt(secret)).hex())


def _check_costs(path: Path, sealed: Sealed) -> None:
    if sealed.kdf != _KDF:
        raise Malformed(str(path), wanted=_KDF, got=repr(sealed.kdf[:40]))
    is_bearable = (
        kdf.MEMLIMIT_MIN <= sealed.memlimit <= _MEMORY_BYTES_MAX
        and kdf.OPSLIMIT_MIN <= sealed.opslimit <= _OPERATIONS_MAX
    )
    if not is_bearable:
        got = f"{sealed.memlimit} bytes, {sealed.opslimit} rounds"
        raise Malformed(str(path), wanted="bearable key costs", got=got)


def _open(path: Path, sealed: Sealed, passphrase: str) -> bytes:
    try:
        salt, box = bytes.fromhex(sealed.salt), bytes.fromhex(sealed.box)
        key = kdf.kdf(
            SecretBox.KEY_SIZE, passphrase.encode(), salt, sealed.opslimit, sealed.memlimit
        )
        return bytes(SecretBox(key).decrypt(box))
    # PyNaCl's own ValueError is also a CryptoError: a damaged file is no wrong passphrase.
    except ValueError as error:
        raise Malformed(str(path), wanted="a sealed key", got=str(error)[:80]) from error
    except CryptoError as error:
        raise Untrusted(str(path), wanted="its passphrase", got="another one") from error
