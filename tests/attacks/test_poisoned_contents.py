"""What failed a check of one publisher's release says nothing of another publisher's release.

The thief has the key of `other`, whose manuals the endpoint follows, too. It publishes the very
bytes of main's kiosk as manuals, with a check that fails; the kiosk is main's.
"""

from pathlib import Path

import pytest

from tests.attacks.test_release_keys import TwoPublishers, key_of
from tests.live.lab import LabSite, Table, product_of, tell

pytestmark = [pytest.mark.live, pytest.mark.slow]


async def begin(site: LabSite) -> str:
    """An endpoint right below the origin that follows a product of each publisher."""
    await site.begin_origin()
    origin = [site.programs["origin"].address]
    products = ["kiosk", "manuals"]
    [name] = await site.enrol(1, products, mirrors=origin, checks_run_as_agent=True)
    await site.start(name)
    return name


async def publish(site: LabSite, whose: str, release: str, content: str, *words: str) -> None:
    """Publish `content` as PRODUCT==VERSION by one publisher's key."""
    product, _, version = release.partition("==")
    tree = site.folder / "trees" / f"{whose}-{product}-{version}"
    tree.mkdir(parents=True)
    (tree / "content").write_text(content, "utf-8")
    key = key_of(site, f"releases-{whose}-1")
    await site.firedoor("publish", product, version, str(tree), "--key", key, *words)


async def poison(site: LabSite, name: str, content: str) -> None:
    """The thief's release with these bytes has failed its check on the endpoint."""
    await publish(site, "other", "manuals==1.0", content, "--check", "false")

    def has_failed(status: Table) -> bool:
        return "failed its check" in str(product_of(status, "manuals")["detail"])

    await site.until_all("the thief's release has failed", [name], has_failed)


def test_a_halt_steps_back_to_bytes_that_another_publisher_let_fail(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        await publish(site, "main", "kiosk==1.0", "one")
        await site.until_running("kiosk", "1.0", [name])
        await publish(site, "main", "kiosk==2.0", "two")
        await site.until_running("kiosk", "2.0", [name])
        await poison(site, name, "one")
        key = key_of(site, "halt-1")
        to = site.programs["origin"].address
        words = ("--level", "6", "--reason", "bad", "--key", key, "--to", to)
        await site.firedoor("halt", "kiosk==2.0", *words)
        await site.until_running("kiosk", "1.0", [name])

    tell(tmp_path, story, TwoPublishers)


def test_a_release_is_installed_whose_bytes_another_publisher_let_fail(tmp_path: Path) -> None:
    async def story(site: LabSite) -> None:
        name = await begin(site)
        await publish(site, "main", "kiosk==1.0", "one")
        await site.until_running("kiosk", "1.0", [name])
        # The fix, which the thief has seen before it is out.
        await poison(site, name, "the fix")
        await publish(site, "main", "kiosk==2.0", "the fix")
        await site.until_running("kiosk", "2.0", [name])

    tell(tmp_path, story, TwoPublishers)
