"""What a release key can make of a few bytes: memory, disk and time at everybody."""

import asyncio
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from firedoor.errors import Unavailable
from firedoor.limits import FILES_NORMAL_MAX
from tests.attacks.bombs import PIECE_RAW, PRODUCT, STORED_ZEROS, many_files, publish, zeros
from tests.attacks.burdens import forget_peak, free_bytes, peak_mb_of, pid_of, resident_mb_of
from tests.attacks.test_full_disk import on_a_small_disk
from tests.live.lab import MIB, LabSite, product_of, tell
from tests.live.test_bad_days import small_disk
from tests.unit.endpoint import Endpoint
from tests.unit.origin_bench import Bench

FILES = 450_000

# What one manifest may cost beside what a program holds anyway.
MOST_MB = 100.0

# And in a process of its own that is gone when it is read.
MOST_OF_CHILD_MB = 250.0

# 4 GiB of zeros from a few hundred bytes.
PIECES = 1024

DISK = "64m"
DISK_LEFT = 32 * MIB

pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body")


# --- memory --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("files", "end"), [(FILES, "TooLarge"), (FILES_NORMAL_MAX, "read")])
def test_a_manifest_of_very_many_files_costs_little_memory_to_refuse_or_to_read(
    new_fleet: Path, tmp_path: Path, files: int, end: str
) -> None:
    (tmp_path / "manifest").write_bytes(many_files(files)[1])
    words = (sys.executable, "-m", "tests.attacks.decode_once")
    done = subprocess.run(
        [*words, new_fleet / "root.json", tmp_path / "state", tmp_path / "manifest"],
        check=True,
        capture_output=True,
        timeout=60,
    )
    said = json.loads(done.stdout)
    print(said)
    assert said["end"] == end
    assert said["most"] - said["before"] < MOST_MB
    assert said["most_of_children"] < MOST_OF_CHILD_MB


@pytest.mark.live
def test_a_manifest_of_very_many_files_costs_no_program_its_memory(tmp_path: Path) -> None:
    bomb = many_files(FILES)

    async def story(site: LabSite) -> None:
        await site.begin()
        [name] = await site.enrol(1, [PRODUCT])
        await site.start(name)
        pids = [pid_of(site, each) for each in ("origin", "mirror", name)]
        before = {pid: resident_mb_of(pid) for pid in pids}
        for pid in pids:
            forget_peak(pid)

        async def has_paid() -> bool:
            return any(peak_mb_of(pid) - before[pid] > MOST_MB for pid in pids)

        if await publish(site, bomb):
            # Where it is taken, all have to read it.
            with suppress(Unavailable):
                await site.until("it costs somebody too much", has_paid, 15)
        grown = {pid: peak_mb_of(pid) - before[pid] for pid in pids}
        assert max(grown.values()) <= MOST_MB

    tell(tmp_path, story)


# --- disk ----------------------------------------------------------------------------------------


def test_a_release_that_unpacks_to_more_than_the_disk_is_not_staged_at_all(
    bench: Bench, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a disk of its own takes root")
    disk = tmp_path / "disk"
    steps: list[str] = []
    left: list[int] = []

    async def story(one: Endpoint) -> None:
        while not one.installer.health().detail:
            left.append(free_bytes(disk))
            await asyncio.sleep(0.005)
        left.append(free_bytes(disk))
        # What is tried in vain is tried less and less often.
        with suppress(TimeoutError):
            async with asyncio.timeout(10):
                while steps.count("before stage") <= 4:
                    await asyncio.sleep(0.05)

    with small_disk(disk, DISK):
        one = Endpoint(bench, disk / "endpoint")
        manifest, _ = zeros(PIECES)
        bench.store.put(manifest.files[0].pieces[0].digest, STORED_ZEROS)
        bench.publish(manifest)
        one._published.append((bytes(PIECE_RAW), manifest))
        one.run(story, cut_power=steps.append)
    assert (min(left) > DISK_LEFT, steps.count("before stage") <= 4) == (True, True)


@pytest.mark.live
def test_a_release_that_unpacks_to_more_than_the_disk_leaves_an_endpoint_its_room(
    tmp_path: Path,
) -> None:
    async def story(site: LabSite) -> None:
        await site.begin()
        [name] = await site.enrol(1, [PRODUCT])
        await site.start(name)
        left: list[int] = []
        async with on_a_small_disk(site, name, DISK) as folder:
            await site.start(name)

            async def look_often() -> None:
                while True:
                    left.append(free_bytes(folder))
                    await asyncio.sleep(0.005)

            async def is_said() -> bool:
                status = await site.status(name)
                detail = str(product_of(status, PRODUCT)["detail"]) if status is not None else ""
                return any(word in detail for word in ("room", "disk", "space"))

            looking = asyncio.ensure_future(look_often())
            # What an origin may refuse by its own figures, endpoints are spared as well.
            if await publish(site, zeros(PIECES), STORED_ZEROS):
                await site.until("its status says why not", is_said, 15)
            looking.cancel()
            await asyncio.wait({looking})
        assert min(left) > DISK_LEFT

    tell(tmp_path, story)
