"""`firedoor`: keys, publish, halt, resume, status, demo.

Imports inside commands: `--help` must answer in a tenth of a second of CPU.
"""

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from firedoor import __version__
from firedoor.cli.client.answers import fail
from firedoor.cli.fleet import authority as authority_commands
from firedoor.cli.options import AnyFleet, AnyKey, Fleet, Key, PassphraseFile, To
from firedoor.cli.orders import commands
from firedoor.errors import FiredoorError
from firedoor.identity import RING_DEFAULT

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Signed updates to every endpoint of a site, and one command that stops them.",
)
keys_app = typer.Typer(no_args_is_help=True, help="Show, rotate and renew a fleet's keys.")
app.add_typer(keys_app, name="keys")
authority_commands.register(keys_app)
commands.register(app)

_OPERATOR = "operator.key"
_PUBLISHER = "releases-*.key"


@app.callback(invoke_without_command=True)
def top(
    version: Annotated[bool, typer.Option("--version", help="show the version")] = False,  # noqa: FBT002
) -> None:
    """Signed updates to every endpoint of a site, and one command that stops them."""
    if version:
        typer.echo(f"firedoor {__version__}")
        raise typer.Exit


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="new folder for the fleet")],
    *,
    name: str = "fleet",
    origin: Annotated[str, typer.Option(help="HOST:PORT where the origin will listen")] = "",
    mdns: Annotated[Optional[list[str]], typer.Option(help="interface for mDNS, or all")] = None,  # noqa: UP045
    publisher: Annotated[Optional[list[str]], typer.Option(help="once for each; main")] = None,  # noqa: UP045
    root_keys: int = 1,
    root_threshold: int = 1,
    halt_keys: int = 2,
    resume_keys: int = 3,
    resume_threshold: int = 2,
    promote_keys: int = 3,
    promote_threshold: int = 2,
    passphrase_file: PassphraseFile = None,
    no_passphrase: bool = False,
) -> None:
    """Make a fleet: its keys, its certificate authority, its first metadata."""
    from firedoor.cli.fleet.keys import init_fleet  # noqa: PLC0415

    counts = {
        "root": (root_keys, root_threshold),
        **{f"releases/{each}": (1, 1) for each in publisher or ["main"]},
        "halt": (halt_keys, 1),
        "resume": (resume_keys, resume_threshold),
        "promote": (promote_keys, promote_threshold),
        "beacon": (1, 1),
    }
    init_fleet(
        folder,
        name=name,
        origin=origin,
        mdns=tuple(mdns or ()),
        counts=counts,
        secrecy=(passphrase_file, no_passphrase),
    )


@keys_app.command("list")
def list_fleet_keys(
    fleet: AnyFleet = None, key: AnyKey = None, passphrase_file: PassphraseFile = None
) -> None:
    """Show every role with its keys and threshold, as root signed it."""
    from firedoor.cli.client.origin import chosen_key  # noqa: PLC0415
    from firedoor.cli.fleet.keys import list_keys  # noqa: PLC0415

    list_keys(chosen_key(fleet, key, _OPERATOR, passphrase_file))


@keys_app.command()
def rotate(
    role: Annotated[str, typer.Argument(help="root, halt, resume, releases/NAME, timestamp, …")],
    *,
    fleet: Fleet,
    keys: Annotated[int, typer.Option(help="how many; as many as now")] = 0,
    threshold: Annotated[int, typer.Option(help="how many must sign; as many as now")] = 0,
    signer: Annotated[Optional[list[Path]], typer.Option(help="root key; all in the fleet")] = None,  # noqa: UP045
    compact: Annotated[bool, typer.Option(help="forget its orders but those of --keep")] = False,
    keep: Annotated[Optional[list[str]], typer.Option(help="whole id of an order")] = None,  # noqa: UP045
    with_key: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option("--with", help="for beacon: a public key of `keys beacon`"),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Give a role other keys; root's keys sign it, and every machine follows."""
    if keep and not compact:
        raise typer.BadParameter("--keep goes with --compact: without it every order survives")
    if compact and role not in {"halt", "resume", "promote"}:
        raise typer.BadParameter(
            "--compact is for halt, resume and promote: their keys sign orders"
        )
    if with_key and role != "beacon":
        raise typer.BadParameter("--with is for beacon: other keys are made here or at the origin")
    from firedoor.cli.fleet.rotation import RotationRequest  # noqa: PLC0415
    from firedoor.cli.fleet.rotation import rotate as rotate_role  # noqa: PLC0415

    survivors = tuple(keep or ()) if compact else None
    others = tuple(with_key or ())
    turn = RotationRequest(role, keys, threshold, tuple(signer or ()), survivors, others)
    rotate_role(fleet, turn, passphrase_file)


@keys_app.command()
def controller(
    file: Annotated[Path, typer.Argument(help="new key file")],
    *,
    key: Annotated[Path, typer.Option(help="operator's key file whose TLS identity it gets")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the key of a program that watches releases and may halt them; print its public half."""
    from firedoor.cli.fleet.keys import make_controller_key  # noqa: PLC0415

    make_controller_key(file, key, passphrase_file)


@keys_app.command()
def beacon(
    state: Annotated[Path, typer.Option(help="state folder of the mirror that shall have it")],
) -> None:
    """Make this mirror a beacon key, as a witness or a second origin; print its public half."""
    from firedoor.cli.fleet.keys import make_beacon_key  # noqa: PLC0415

    make_beacon_key(state)


@keys_app.command()
def operators(
    origin: Annotated[Path, typer.Argument(help="the origin's folder, on its machine")],
    files: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(help="key files of operators, all of them"),
    ] = None,
    new: Annotated[Optional[Path], typer.Option(help="make another one there")] = None,  # noqa: UP045
    passphrase_file: PassphraseFile = None,
) -> None:
    """Say on the origin's disk whose key files make tokens and turn keys; make a new one."""
    from firedoor.cli.fleet.keys import name_operators  # noqa: PLC0415

    name_operators(origin, files or [], new, passphrase_file)


@keys_app.command()
def authority(
    origin: Annotated[Path, typer.Argument(help="the origin's folder, on its machine")],
    files: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(help="key files of operators that make tokens"),
    ] = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make the certificate of the fleet's CA again, for the same key: for fleets of version 0.1."""
    from firedoor.cli.fleet.keys import renew_authority_certificate  # noqa: PLC0415

    renew_authority_certificate(origin, files or [], passphrase_file)


@keys_app.command()
def renew(
    files: Annotated[list[Path], typer.Argument(help="key files of operators or publishers")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Renew the certificates inside key files."""
    from firedoor.cli.fleet.keys import renew_key  # noqa: PLC0415

    for path in files:
        renew_key(path, passphrase_file)


@app.command()
def token(
    fleet: AnyFleet = None,
    *,
    role: Annotated[str, typer.Option(help="agent or mirror")],
    site: Annotated[str, typer.Option()],
    ring: Annotated[str, typer.Option(help="stage of rollouts that it belongs to")] = RING_DEFAULT,
    enrol: Annotated[str, typer.Option(help="HOST:PORT of an enrolment listener")],
    minutes: int = 60,
    count: Annotated[int, typer.Option(help="how many, one a line")] = 1,
    key: AnyKey = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a short-lived, single-use token with which one machine can enrol."""
    from firedoor.cli.client.origin import chosen_key  # noqa: PLC0415
    from firedoor.cli.fleet.enrolment import make_tokens  # noqa: PLC0415

    opened = chosen_key(fleet, key, _OPERATOR, passphrase_file)
    make_tokens(opened, (role, site, ring, minutes * 60), enrol=enrol, count=count)


@app.command()
def enrol(
    token: Annotated[str, typer.Argument(help="from `firedoor token`, or - to read it")] = "",
    *,
    token_file: Annotated[Optional[Path], typer.Option(help="file with the token")] = None,  # noqa: UP045
    state: Annotated[Path, typer.Option(help="state folder of the new mirror or agent")],
    renew: Annotated[bool, typer.Option(help="renew the certificate in --state")] = False,
    to: To = None,
) -> None:
    """Get this machine its certificate, or renew it."""
    from firedoor.cli.fleet import enrolment  # noqa: PLC0415

    if renew:
        enrolment.renew(state, to or [])
    elif not token and token_file is None:
        raise typer.BadParameter("a token, --token-file, or --renew")
    else:
        enrolment.enrol(enrolment.token_text(token, token_file), state)


@app.command()
def publish(
    product: str,
    version: str,
    path: Annotated[Path, typer.Argument(help="folder or file to publish")],
    *,
    fleet: AnyFleet = None,
    key: AnyKey = None,
    handler: str = "files",
    check: Annotated[Optional[list[str]], typer.Option(help="endpoints run it; 0 is well")] = None,  # noqa: UP045
    validate: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="run here first, {path} is the content; 0 is good"),
    ] = None,
    critical_fix: bool = False,
    floor: Annotated[
        str, typer.Option(help="version that no endpoint steps below from now on")
    ] = "",
    controller: Annotated[
        str, typer.Option(help="public key of `keys controller` that may halt this release alone")
    ] = "",
    passphrase_file: PassphraseFile = None,
) -> None:
    """Validate, sign and publish one release; the origin announces it at once."""
    from firedoor.cli.client.origin import chosen_key  # noqa: PLC0415
    from firedoor.cli.releases.publish import PublishRequest, publish_release  # noqa: PLC0415

    wish = PublishRequest(
        product=product,
        version=version,
        path=path,
        handler=handler,
        checks=tuple(check or ()),
        validators=tuple(validate or ()),
        is_critical_fix=critical_fix,
        floor=floor,
        controller=controller,
    )
    publish_release(chosen_key(fleet, key, _PUBLISHER, passphrase_file), wish)


@app.command("list")
def list_releases(
    fleet: AnyFleet = None,
    key: AnyKey = None,
    *,
    json: bool = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """List every release that the fleet's signed metadata names."""
    from firedoor.cli.client.origin import chosen_key  # noqa: PLC0415
    from firedoor.cli.releases.listing import show_releases  # noqa: PLC0415

    show_releases(chosen_key(fleet, key, _OPERATOR, passphrase_file), is_json=json)


@app.command()
def show(
    release: Annotated[str, typer.Argument(help="PRODUCT==VERSION, or PRODUCT for its newest")],
    fleet: AnyFleet = None,
    key: AnyKey = None,
    *,
    files: Annotated[bool, typer.Option("--files", help="every file too")] = False,
    json: bool = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Show what one release is, as its signed manifest says."""
    from firedoor.cli.client.origin import chosen_key  # noqa: PLC0415
    from firedoor.cli.releases.listing import show_release  # noqa: PLC0415

    opened = chosen_key(fleet, key, _OPERATOR, passphrase_file)
    show_release(opened, release, is_json=json, with_files=files)


@app.command()
def status(
    *,
    key: Key,
    to: To = None,
    json: bool = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Who has what, who is behind, what is halted, who has not answered."""
    from firedoor.cli.status import show_status  # noqa: PLC0415

    show_status((key, passphrase_file), to or [], is_json=json)


@app.command()
def carry(
    folder: Annotated[Path, typer.Argument(help="folder on the stick")],
    *,
    key: Key,
    to: To = None,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Serve air-gapped sites by stick: the same command at the fleet and at each such mirror."""
    from firedoor.cli.airgap.carry import carry as carry_stick  # noqa: PLC0415

    carry_stick(folder, (key, passphrase_file), to or [])


@app.command()
def demo(
    *,
    endpoints: Annotated[int, typer.Option(min=2, max=64)] = 8,
    old: Annotated[Optional[Path], typer.Option(help="folder of the old release")] = None,  # noqa: UP045
    new: Annotated[Optional[Path], typer.Option(help="folder of the new release")] = None,  # noqa: UP045
    bad: Annotated[Optional[Path], typer.Option(help="folder of the bad release")] = None,  # noqa: UP045
    json: Annotated[Optional[Path], typer.Option(help="write the figures here")] = None,  # noqa: UP045
) -> None:
    """Show the main job on this machine: publish, swarm, halt in transfer, roll back, resume."""
    from firedoor.cli.demo.story import run_demo  # noqa: PLC0415

    raise typer.Exit(run_demo(endpoints, (old, new, bad), json))


def main() -> None:
    """Run the program; errors are one sentence and an exit code."""
    try:
        app()
    except (FiredoorError, OSError) as error:
        sys.exit(fail(error))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
