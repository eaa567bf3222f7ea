"""The commands of who may publish what: `keys publisher` and `keys grant`."""

from typing import Annotated, Optional

import typer

from firedoor.cli.options import Fleet, PassphraseFile

publisher_app = typer.Typer(no_args_is_help=True, help="Add and remove publishers.")

Name = Annotated[str, typer.Argument(help="of a publisher")]


def register(keys_app: typer.Typer) -> None:
    """Add these commands to `firedoor keys`."""
    keys_app.add_typer(publisher_app, name="publisher")
    keys_app.command()(grant)


@publisher_app.command()
def add(
    name: Name,
    *,
    fleet: Fleet,
    keys: Annotated[int, typer.Option(help="how many")] = 1,
    threshold: Annotated[int, typer.Option(help="how many must sign")] = 1,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Let one more publisher sign releases; root's keys sign that, and its key files are new."""
    from firedoor.cli.fleet.publishers import add_publisher  # noqa: PLC0415

    add_publisher(fleet, name, (keys, threshold), passphrase_file)


@publisher_app.command()
def remove(name: Name, *, fleet: Fleet, passphrase_file: PassphraseFile = None) -> None:
    """Let a publisher sign no more; what runs of it goes on."""
    from firedoor.cli.fleet.publishers import remove_publisher  # noqa: PLC0415

    remove_publisher(fleet, name, passphrase_file)


def grant(
    product: Annotated[Optional[str], typer.Argument()] = None,  # noqa: UP045
    publisher: Annotated[Optional[str], typer.Argument()] = None,  # noqa: UP045
    *,
    fleet: Fleet,
    from_lists: Annotated[
        bool, typer.Option("--from-lists", help="each product to its publisher of today")
    ] = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Say by root's keys whose a product is: no other publisher's release of it counts then."""
    from firedoor.cli.fleet import publishers  # noqa: PLC0415

    if from_lists == (product is not None):
        raise typer.BadParameter("PRODUCT PUBLISHER, or --from-lists")
    if from_lists:
        publishers.grant_from_lists(fleet, passphrase_file)
        return
    if product is None or publisher is None:
        raise typer.BadParameter("PRODUCT and PUBLISHER are needed")
    publishers.grant(fleet, product, publisher, passphrase_file)
