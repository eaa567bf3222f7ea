"""Settings of the two daemons: TOML text to a frozen record, or a sentence that says what is wrong.

Unknown keys, wrong types and half-configured pairs are refused by name. deploy/config.d explains
each key. No environment look-ups; settings are passed to constructors.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

from msgspec import Meta

from firedoor.errors import Malformed, Unavailable
from firedoor.identity import checked_name
from firedoor.wire.codec import record

S = TypeVar("S")

Rate = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Budgets in bytes a second; 0 is none."""

    send_bytes_per_s: Rate = 0
    receive_bytes_per_s: Rate = 0


@dataclass(frozen=True, slots=True)
class ProductSettings:
    """One product that this endpoint follows."""

    root: str
    version: str = "newest"
    handler: str = "files"
    check: tuple[str, ...] = ()
    # A content update that breaks a machine does so within seconds; longer settles are the site's.
    settle_s: Annotated[float, Meta(ge=0)] = 5.0
    check_timeout_s: Annotated[float, Meta(gt=0)] = 30.0


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """agent.toml."""

    fleet_root: str
    state: str
    site: str
    listen: str = "0.0.0.0:7443"
    mirrors: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    mdns: tuple[str, ...] = ()
    limits: LimitSettings = field(default_factory=LimitSettings)
    products: dict[str, ProductSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """mirror.toml. Without `upstream` this mirror is the origin and needs `origin_folder`."""

    fleet_root: str
    state: str
    site: str
    listen: str = "0.0.0.0:7443"
    upstream: tuple[str, ...] = ()
    mdns: tuple[str, ...] = ()
    enrol_listen: str = ""
    origin_folder: str = ""
    passphrase_file: str = ""
    limits: LimitSettings = field(default_factory=LimitSettings)


def read_agent(path: Path) -> AgentSettings:
    """The settings in an agent.toml.

    Raises:
        Malformed: not TOML, an unknown key, a wrong type, or a name that cannot be one.
        Unavailable: the file cannot be read.
    """
    settings = _read(AgentSettings, path)
    checked_name(f"{path}: site", settings.site)
    for name, product in settings.products.items():
        checked_name(f"{path}: product", name)
        if product.handler != "files":
            what = f"{path}: products.{name}.handler"
            raise Malformed(what, wanted='"files"', got=repr(product.handler))
    for address in (settings.listen, *settings.mirrors, *settings.peers):
        split_address(address)
    return settings


def read_mirror(path: Path) -> MirrorSettings:
    """The settings in a mirror.toml.

    Raises:
        Malformed, Unavailable: as `read_agent` says.
    """
    settings = _read(MirrorSettings, path)
    checked_name(f"{path}: site", settings.site)
    if bool(settings.upstream) == bool(settings.origin_folder):
        raise Malformed(
            str(path),
            wanted="either upstream (a site's mirror) or origin_folder (the origin)",
            got="both" if settings.upstream else "neither",
        )
    for address in (settings.listen, *settings.upstream):
        split_address(address)
    return settings


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        Malformed: no colon, or a port that is not 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004  # TCP
        raise Malformed("address", wanted="HOST:PORT", got=repr(text))
    return host.strip("[]"), int(port)


def _read(kind: type[S], path: Path) -> S:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Unavailable(str(path), why=error.strerror or "cannot be read") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Malformed(str(path), wanted="TOML", got=str(error)) from error
    return record(kind, table, what=str(path))
