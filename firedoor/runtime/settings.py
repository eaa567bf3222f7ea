"""Settings of the two daemons: TOML text to a frozen record, or a sentence that says what is wrong.

Unknown keys, wrong types and half-configured pairs are refused by name. deploy/config.d explains
each key. No environment look-ups; settings are passed to constructors.
"""

import ipaddress
import shlex
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from msgspec import Meta

from firedoor.errors import Malformed, Unavailable
from firedoor.identity import checked_name
from firedoor.pieces.handlers import checked_handler
from firedoor.runtime.folders import read_named
from firedoor.units import MIB
from firedoor.wire.codec import record

# Thousands of products with their checks.
_SETTINGS_BYTES_MAX = 4 * MIB

S = TypeVar("S")

Rate = Annotated[int, Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class LimitSettings:
    """Budgets in bytes a second; 0 is none. `large_manifests`: pieces/manifest_reading.py."""

    send_bytes_per_s: Rate = 0
    receive_bytes_per_s: Rate = 0
    large_manifests: bool = False


@dataclass(frozen=True, slots=True)
class ProductSettings:
    """One product that this endpoint follows."""

    root: str
    version: str = "newest"
    handler: str = "files"
    # A payload that is read at its start alone may be switched under its feet; others say when.
    switch: Literal["at-once", "when-told"] = "at-once"
    check: tuple[str, ...] = ()
    # A content update that breaks a machine does so within seconds; longer settles are the site's.
    settle_s: Annotated[float, Meta(ge=0)] = 5.0
    check_timeout_s: Annotated[float, Meta(gt=0)] = 30.0


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """When the boot guard takes a version back that does not stay up; agent/guard/ reads them."""

    crashes: Annotated[int, Meta(ge=1)] = 3
    # A boot loop comes round in one to three minutes.
    within_s: Annotated[float, Meta(gt=0)] = 600.0


@dataclass(frozen=True, slots=True)
class HookSettings:
    """Programs that this machine runs by itself."""

    on_order: tuple[str, ...] = ()


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
    lease: Literal["standard", "thin-wan", "air-gapped"] = "standard"
    check_user: str = ""
    checks_run_as_agent: bool = False
    limits: LimitSettings = field(default_factory=LimitSettings)
    hooks: HookSettings = field(default_factory=HookSettings)
    guard: GuardSettings = field(default_factory=GuardSettings)
    products: dict[str, ProductSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MirrorSettings:
    """mirror.toml. With `origin_folder` it is the origin, with `upstream` a site's mirror.

    With neither a stick feeds it, and its `lease` is "air-gapped".
    """

    fleet_root: str
    state: str
    site: str
    listen: str = "0.0.0.0:7443"
    upstream: tuple[str, ...] = ()
    mdns: tuple[str, ...] = ()
    lease: Literal["standard", "thin-wan", "air-gapped"] = "standard"
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
    _check_common(path, settings)
    for address in (*settings.mirrors, *settings.peers):
        split_address(address)
    for command in settings.hooks.on_order:
        check_command(f"{path}: hooks.on_order", command)
    roots: dict[Path, str] = {}
    for name, product in settings.products.items():
        checked_name(f"{path}: product", name)
        _check_product(f"{path}: products.{name}", product)
        root = Path(product.root).expanduser().absolute()
        if root in roots:
            got = f"that of products.{roots[root]}, {root}"
            raise Malformed(f"{path}: products.{name}.root", wanted="a folder of its own", got=got)
        roots[root] = name
    return settings


def read_mirror(path: Path) -> MirrorSettings:
    """The settings in a mirror.toml.

    Raises:
        Malformed, Unavailable: as `read_agent` says.
    """
    settings = _read(MirrorSettings, path)
    _check_common(path, settings)
    is_fed_by_stick = settings.lease == "air-gapped"
    if settings.upstream and settings.origin_folder:
        wanted = "either upstream (a site's mirror) or origin_folder (the origin)"
        raise Malformed(str(path), wanted=wanted, got="both")
    if not (settings.upstream or settings.origin_folder or is_fed_by_stick):
        wanted = 'upstream (a site\'s mirror), origin_folder (the origin), or lease = "air-gapped"'
        raise Malformed(str(path), wanted=wanted, got="neither")
    for address in settings.upstream:
        split_address(address)
    if settings.enrol_listen and split_address(settings.enrol_listen) == split_address(
        settings.listen
    ):
        wanted = "another address than listen: one asks for certificates, the other takes all"
        raise Malformed(f"{path}: enrol_listen", wanted=wanted, got=settings.enrol_listen)
    if settings.passphrase_file and not settings.origin_folder:
        wanted = "an origin_folder beside it, the only place where keys are sealed"
        raise Malformed(f"{path}: passphrase_file", wanted=wanted, got="none")
    _check_there(f"{path}: origin_folder", settings.origin_folder, Path.is_dir)
    _check_there(f"{path}: passphrase_file", settings.passphrase_file, Path.is_file)
    return settings


def split_address(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[IPV6]:PORT`.

    Raises:
        Malformed: no colon, or a port that is not 0 to 65535.
    """
    host, colon, port = text.rpartition(":")
    is_number = port.isascii() and port.isdigit()
    if not colon or not host or not is_number or int(port) > 65535:  # noqa: PLR2004  # TCP
        raise Malformed("address", wanted="HOST:PORT", got=repr(text))
    return host.strip("[]"), int(port)


def check_command(what: str, command: str) -> None:
    """Whether an endpoint can take this check apart into a program and its arguments.

    Raises:
        Malformed: it is empty, or a quote is left open.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise Malformed(what, wanted="a command", got=f"{command!r}: {error}") from error
    if not words:
        raise Malformed(what, wanted="a command", got="an empty one")


def _check_common(path: Path, settings: AgentSettings | MirrorSettings) -> None:
    checked_name(f"{path}: site", settings.site)
    split_address(settings.listen)
    check_interfaces(f"{path}: mdns", settings.mdns)
    _check_there(f"{path}: fleet_root", settings.fleet_root, Path.is_file)
    if not settings.fleet_root or not settings.state:
        raise Malformed(str(path), wanted="fleet_root and state", got="an empty one")


def check_interfaces(what: str, mdns: tuple[str, ...]) -> None:
    """Whether these may name interfaces for mDNS.

    Raises:
        Malformed: one is neither an address nor, alone, `all`.
    """
    for each in mdns if mdns != ("all",) else ():
        try:
            ipaddress.ip_address(each)
        except ValueError as error:
            wanted = 'addresses of this machine, or just "all"'
            raise Malformed(what, wanted=wanted, got=repr(each)) from error


def _check_product(what: str, product: ProductSettings) -> None:
    checked_handler(f"{what}.handler", product.handler)
    if not product.root:
        raise Malformed(f"{what}.root", wanted="a folder", got="an empty text")
    checked_name(f"{what}.version", product.version)
    for command in product.check:
        check_command(f"{what}.check", command)


def _check_there(what: str, text: str, is_right: Callable[[Path], bool]) -> None:
    path = Path(text).expanduser()
    if text and not is_right(path):
        raise Unavailable(f"{what} {path}", why="it is not there")


def _read(kind: type[S], path: Path) -> S:
    try:
        table = tomllib.loads(read_named(path, _SETTINGS_BYTES_MAX).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Malformed(str(path), wanted="TOML", got=str(error)) from error
    return record(kind, table, what=str(path))
