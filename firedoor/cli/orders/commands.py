"""The commands of the brake: halt, drill, resume, revoke, ban, critical-fix, order, attestation."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from firedoor.cli.options import Blind, Combine, Key, Keys, PassphraseFile, SignOnly, To, Wait

if TYPE_CHECKING:
    from firedoor.cli.orders.cosigning import SigningSession
    from firedoor.cli.orders.resume import OrderRequest

order_app = typer.Typer(no_args_is_help=True, help="Carry orders on a stick.")
attestation_app = typer.Typer(invoke_without_command=True, help="Who obeys a halt, with proof.")

_SCOPES = "PRODUCT==VERSION, PRODUCT#N..M, PRODUCT, publisher:X, site:X, digest:HEX, everything"

Scope = Annotated[str, typer.Argument(help=_SCOPES)]
Reason = Annotated[str, typer.Option(help="a sentence for whoever reads status")]
Level = Annotated[int, typer.Option(min=1, max=7, help="1 to 7, see the README")]


def register(app: typer.Typer) -> None:
    """Add these commands to the program."""
    for command in (halt, drill, resume, revoke, ban):
        app.command()(command)
    app.command("critical-fix")(critical_fix)
    app.add_typer(order_app, name="order")
    app.add_typer(attestation_app, name="attestation")
    # Its name in 0.1, when a machine's X.509 was a certificate too.
    app.add_typer(attestation_app, name="certificate", hidden=True)


def halt(
    scope: Scope,
    *,
    reason: Reason,
    key: Keys = None,
    level: Level = 4,
    confirm: Annotated[str, typer.Option(help="the word everything, for that scope")] = "",
    to: To = None,
    wait: Wait = 10.0,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Stop a release on every peer: announcing, serving, fetching, installing, activating."""
    from firedoor.cli.orders.halt import HaltRequest, halt_scope  # noqa: PLC0415  # keeps --help fast

    stop = HaltRequest(scope, level, reason, confirmed=confirm)
    halt_scope(stop, (_some(key), passphrase_file), to=to or [], wait_s=wait)


def drill(
    scope: Scope,
    *,
    reason: Reason = "drill",
    key: Keys = None,
    level: Level = 4,
    to: To = None,
    wait: Wait = 10.0,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Send an order that goes all ways of a halt, is recorded and receipted, and stops nothing."""
    from firedoor.cli.orders.halt import HaltRequest, halt_scope  # noqa: PLC0415  # keeps --help fast

    stop = HaltRequest(scope, level, reason, is_drill=True)
    halt_scope(stop, (_some(key), passphrase_file), to=to or [], wait_s=wait)


def resume(
    halts: Annotated[Optional[list[str]], typer.Argument(help="ids of what to lift")] = None,  # noqa: UP045
    *,
    reason: str = "",
    key: Keys = None,
    sign_only: SignOnly = None,
    combine: Combine = None,
    blind: Blind = False,
    to: To = None,
    wait: Wait = 10.0,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Lift halts, with as many signatures as the fleet's resume role asks for."""
    from firedoor.cli.orders.resume import lift_halts  # noqa: PLC0415  # keeps --help fast

    asked = _asked(halts or [], reason, to, wait)
    lift_halts(asked, _gathering(key, passphrase_file, combine, sign_only, is_blind=blind))


def revoke(
    keyid: Annotated[Optional[str], typer.Argument(help="id of the key that is lost")] = None,  # noqa: UP045
    *,
    keep: Annotated[Optional[list[str]], typer.Option(help="id of an order that survives")] = None,  # noqa: UP045
    reason: str = "",
    key: Keys = None,
    sign_only: SignOnly = None,
    combine: Combine = None,
    blind: Blind = False,
    to: To = None,
    wait: Wait = 10.0,
    passphrase_file: PassphraseFile = None,
) -> None:
    """End every order of a stolen key, but for those that you keep; takes the resume keys."""
    from firedoor.cli.orders.resume import revoke_key  # noqa: PLC0415  # keeps --help fast

    asked = _asked([keyid] if keyid else [], reason, to, wait)
    gathering = _gathering(key, passphrase_file, combine, sign_only, is_blind=blind)
    revoke_key(asked, tuple(keep or ()), gathering)


def ban(
    machine: Annotated[Optional[str], typer.Argument(help="id of a machine or a person")] = None,  # noqa: UP045
    *,
    reason: str = "",
    key: Keys = None,
    sign_only: SignOnly = None,
    combine: Combine = None,
    blind: Blind = False,
    to: To = None,
    wait: Wait = 10.0,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Refuse a machine everywhere, and its renewals; takes the resume keys. Resume lifts it."""
    from firedoor.cli.orders.resume import ban_machine  # noqa: PLC0415  # keeps --help fast

    asked = _asked([machine] if machine else [], reason, to, wait)
    ban_machine(asked, _gathering(key, passphrase_file, combine, sign_only, is_blind=blind))


def critical_fix(
    release: Annotated[Optional[str], typer.Argument(help="PRODUCT==VERSION")] = None,  # noqa: UP045
    *,
    reason: str = "",
    key: Keys = None,
    sign_only: SignOnly = None,
    combine: Combine = None,
    blind: Blind = False,
    to: To = None,
    wait: Wait = 10.0,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let one release pass halts of everything; takes the promote keys."""
    from firedoor.cli.orders.resume import pass_release  # noqa: PLC0415  # keeps --help fast

    asked = _asked([release] if release else [], reason, to, wait)
    pass_release(asked, _gathering(key, passphrase_file, combine, sign_only, is_blind=blind))


@order_app.command("export")
def export_orders(
    file: Path, *, key: Key, to: To = None, passphrase_file: PassphraseFile = None
) -> None:
    """Write every order that a peer holds to a file."""
    from firedoor.cli.orders import order_file  # noqa: PLC0415  # keeps --help fast

    order_file.export_orders(file, (key, passphrase_file), to or [])


@order_app.command("import")
def import_orders(
    file: Path, *, key: Key, to: To = None, passphrase_file: PassphraseFile = None
) -> None:
    """Hand every order of a file to a peer, which passes them on."""
    from firedoor.cli.orders import order_file  # noqa: PLC0415  # keeps --help fast

    order_file.import_orders(file, (key, passphrase_file), to or [])


@attestation_app.callback()
def attestation(
    context: typer.Context,
    *,
    halt: Annotated[str, typer.Option(help="id of the halt; the newest")] = "",
    key: Annotated[Optional[Path], typer.Option("--key", help="key file")] = None,  # noqa: UP045
    out: Annotated[Optional[Path], typer.Option(help="write the attestation there")] = None,  # noqa: UP045
    wait: Annotated[float, typer.Option(help="seconds to follow it")] = 10.0,
    json: bool = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Follow a halt until all have enforced it: expected, recorded, enforced, silent, unknown."""
    if context.invoked_subcommand is not None:
        return
    if key is None:
        raise typer.BadParameter("--key: wanted a key file")
    from firedoor.cli.orders.attestation import watch_halt  # noqa: PLC0415  # keeps --help fast

    watch_halt(halt, (key, passphrase_file), out=out, wait_s=wait, is_json=json)


@attestation_app.command("verify")
def verify_attestation(
    file: Path,
    *,
    root: Annotated[Path, typer.Option(help="the fleet's first root.json")],
    json: bool = False,
) -> None:
    """Check the file of an attestation, with no network."""
    from firedoor.cli.orders.attestation import verify_file  # noqa: PLC0415  # keeps --help fast

    verify_file(file, root, is_json=json)


def _some(keys: list[Path] | None) -> list[Path]:
    if not keys:
        raise typer.BadParameter("--key: wanted a key file, which also opens the connection")
    return keys


def _gathering(
    keys: list[Path] | None,
    passphrase_file: Path | None,
    combine: list[Path] | None,
    sign_only: Path | None,
    *,
    is_blind: bool,
) -> "SigningSession":
    from firedoor.cli.orders.cosigning import SigningSession  # noqa: PLC0415  # keeps --help fast

    parts = tuple(combine or ())
    return SigningSession(tuple(_some(keys)), passphrase_file, parts, sign_only, is_blind)


def _asked(what: list[str], reason: str, to: list[str] | None, wait_s: float) -> "OrderRequest":
    from firedoor.cli.orders.resume import OrderRequest  # noqa: PLC0415  # keeps --help fast

    return OrderRequest(tuple(what), reason, tuple(to or ()), wait_s)
