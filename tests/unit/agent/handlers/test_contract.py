"""What every handler of the registry keeps, whichever it is."""

import sys
from pathlib import Path

import pytest

from agent.handlers.contract import Handler
from agent.handlers.registry import MAKERS, make_handler
from firedoor.errors import Halted, Malformed, Unavailable
from firedoor.pieces.handlers import HANDLERS
from firedoor.pieces.manifest import Manifest, content_digest, encode_manifest, manifest_id
from firedoor.runtime.storage.tree import read_tree

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the switch is a link")


class Product:
    """One product under a handler, and releases of one file."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.root = folder / "root"
        self.handler: Handler = make_handler(name, self.root)
        self.stored: dict[bytes, bytes] = {}

    def release(self, version: str) -> tuple[Manifest, str]:
        source = self.folder / f"source-{version}"
        source.mkdir(exist_ok=True)
        (source / "app").write_text(version)
        files = read_tree(source, lambda piece, stored: self.stored.update({piece.digest: stored}))
        made = Manifest("app", version, 1, "team", self.name, files, content_digest(files))
        return made, manifest_id(encode_manifest(made))

    def stage(self, version: str) -> tuple[str, str]:
        manifest, name = self.release(version)
        self.handler.stage(manifest, name, store_get=self.stored.get, may_go_on=lambda: None)
        return version, name


@pytest.fixture(params=sorted(MAKERS))
def product(request: pytest.FixtureRequest, tmp_path: Path) -> Product:
    return Product(request.param, tmp_path)


def test_every_name_has_capabilities_and_a_maker_and_no_other_has() -> None:
    assert MAKERS.keys() == HANDLERS.keys()
    with pytest.raises(Malformed, match="handler: wanted"):
        make_handler("no-such", Path())


def test_a_handler_promises_what_its_name_promises(product: Product) -> None:
    assert product.handler.capabilities == HANDLERS[product.name]


def test_nothing_is_staged_or_active_at_first(product: Product) -> None:
    assert product.handler.staged() == []
    assert product.handler.active() is None


def test_what_is_staged_becomes_active_by_one_step_and_survives_the_process(
    product: Product,
) -> None:
    one, two = product.stage("1.0"), product.stage("2.0")
    product.handler.activate(*one)
    product.handler.activate(*two)
    again = make_handler(product.name, product.root)
    assert again.active() == two
    assert sorted(again.staged()) == [one, two]


def test_a_step_back_leads_to_what_ran_before(product: Product) -> None:
    one, two = product.stage("1.0"), product.stage("2.0")
    for release in (one, two, one):
        product.handler.activate(*release)
    assert (product.handler.active() == one) is product.handler.capabilities.can_step_back


def test_a_staging_that_is_aborted_or_lacks_a_piece_leaves_nothing(product: Product) -> None:
    def halted() -> None:
        raise Halted("app", level=3)

    manifest, name = product.release("1.0")
    stage = product.handler.stage
    with pytest.raises(Halted):
        stage(manifest, name, store_get=product.stored.get, may_go_on=halted)
    with pytest.raises(Unavailable):
        stage(manifest, name, store_get=lambda _: None, may_go_on=lambda: None)
    assert product.handler.staged() == []


def test_what_is_removed_or_put_aside_is_no_longer_staged(product: Product) -> None:
    one, two = product.stage("1.0"), product.stage("2.0")
    product.handler.unstage(*one)
    product.handler.quarantine(*two)
    assert product.handler.staged() == []


def test_deactivating_leaves_what_is_staged(product: Product) -> None:
    one = product.stage("1.0")
    product.handler.activate(*one)
    product.handler.deactivate()
    assert product.handler.active() is None
    assert product.handler.staged() == [one]
