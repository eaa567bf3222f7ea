"""A disk that somebody fills: with pieces that no release names, or with anything else."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from blake3 import blake3

from firedoor.errors import FiredoorError
from firedoor.runtime.keys.tls import client_context
from firedoor.runtime.storage.order_log import ORDER, OrderLog
from firedoor.wire.codec import pack
from mirror.api.origin_routes import OriginApi
from tests.attacks.burdens import answer_to, client_of, post, request_head, unnamed
from tests.attacks.test_encodings import Nobody, status_of
from tests.live.lab import MIB, LabSite, has_recorded, tell
from tests.live.test_bad_days import fill, small_disk
from tests.unit.firedoor.runtime.network.test_transfers import Fake, run, site
from tests.unit.mirror.api.test_mirror_routes import OPERATOR
from tests.unit.origin_bench import Bench

PIECE = 4 * MIB

# Orders of the largest size for which there is always room.
ORDERS_RESERVED = 64
ORDER_BYTES = 4096

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body")


def stored_in(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@asynccontextmanager
async def on_a_small_disk(site: LabSite, name: str, size: str) -> AsyncIterator[Path]:
    """The program stands still, and has its folder on a disk of this size while the block runs."""
    folder = site.programs[name].folder
    await site.kill(name)
    kept = folder.with_name(f"{name}.kept")
    shutil.move(folder, kept)
    with small_disk(folder, size):
        shutil.copytree(kept, folder, dirs_exist_ok=True)
        yield folder
        await site.kill(name)


# --- pieces --------------------------------------------------------------------------------------


def test_a_piece_that_nobody_has_announced_is_not_kept(bench: Bench) -> None:
    api = OriginApi(bench.origin, Nobody())
    stored = os.urandom(100_000)
    digest = blake3(stored).digest()
    head = {"X-Piece": digest.hex()}

    async def work() -> None:
        async with site(Fake(), agent=OPERATOR, more=api.routes()) as one:
            path = "/v1/publish/piece"
            with pytest.raises(FiredoorError):
                await one.client.post("127.0.0.1", one.port, path, stored, limit=100, headers=head)
            assert not bench.store.has(digest)

    run(work())


def test_a_piece_that_nobody_has_announced_is_refused_before_any_of_it_has_come(
    bench: Bench,
) -> None:
    api = OriginApi(bench.origin, Nobody())
    head = request_head("/v1/publish/piece", f"X-Piece: {'ab' * 32}", f"Content-Length: {PIECE}")

    async def work() -> None:
        async with site(Fake(), agent=OPERATOR, more=api.routes()) as one:
            context = unnamed(client_context(OPERATOR))
            assert status_of(await answer_to(one.port, head, context, span_s=5)) == 403

    run(work())


@pytest.mark.live
@pytest.mark.parametrize("is_announced", [False, True], ids=["unannounced", "announced"])
def test_pieces_that_no_release_names_leave_the_origin_its_room(
    tmp_path: Path, *, is_announced: bool
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        async with on_a_small_disk(site, "origin", "38m"):
            await site.start("origin")
            # A halt key: it publishes nothing, but its certificate is an operator's.
            async with client_of(site.fleet / "keys" / "halt-1.key") as client:
                for _ in range(12):
                    stored = os.urandom(PIECE)
                    digest = blake3(stored).digest()
                    with suppress(FiredoorError):
                        if is_announced:
                            await post(client, site, "/v1/publish/missing", pack([digest]))
                        await post(client, site, "/v1/publish/piece", stored, digest.hex())
            await site.publish("kiosk", "1.0", PIECE)

    tell(tmp_path, story)


@pytest.mark.live
def test_what_a_failed_publish_left_is_swept(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        await site.begin_origin()
        pieces = site.programs["origin"].folder / "state" / "pieces"
        async with client_of(site.fleet / "keys" / "releases-main-1.key") as client:
            for _ in range(4):
                stored = os.urandom(PIECE)
                digest = blake3(stored).digest()
                with suppress(FiredoorError):
                    await post(client, site, "/v1/publish/missing", pack([digest]))
                    await post(client, site, "/v1/publish/piece", stored, digest.hex())
        await site.kill("origin")
        await site.start("origin")
        await site.publish("kiosk", "1.0", MIB)

        async def is_swept() -> bool:
            return stored_in(pieces) < PIECE

        await site.until("only the release's pieces are kept", is_swept, 12)

    tell(tmp_path, story)


# --- orders --------------------------------------------------------------------------------------


def test_an_order_log_has_room_for_orders_on_a_disk_that_is_full(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("a disk of its own takes root")
    with small_disk(tmp_path / "disk", "4m"):
        log = OrderLog(tmp_path / "disk" / "orders.log")
        fill(tmp_path / "disk")
        records = [bytes([number]) * ORDER_BYTES for number in range(ORDERS_RESERVED)]
        for record in records:
            log.append_all([(ORDER, record)])
        log.close()
        # The disk is still full.
        again = OrderLog(tmp_path / "disk" / "orders.log")
        assert again.orders == records
        again.close()


@pytest.mark.live
@pytest.mark.parametrize("name", ["origin", "mirror", "endpoint-1"])
def test_a_halt_that_meets_a_full_disk_is_recorded_and_outlives_a_restart(
    tmp_path: Path, name: str
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        names = await site.enrol(1, ["kiosk"])
        await site.start_all(names)
        async with on_a_small_disk(site, name, "12m") as folder:
            await site.start(name)
            await site.until_all("all are in step", [name], lambda each: each["is_trust_fresh"])
            fill(folder)
            # Kept by the one that is asked alone: nobody else can give it back.
            for other in {"origin", "mirror", *names} - {name}:
                await site.kill(other)
            await site.halt("kiosk", at=name)
            await site.until_all("it is recorded", [name], has_recorded)
            await site.kill(name)
            await site.start(name)
            await site.until_all("it is known again", [name], has_recorded)

    tell(tmp_path, story)
