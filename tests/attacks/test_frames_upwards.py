"""What a mirror sends up, whatever comes from below: frames that an honest upstream takes."""

from pathlib import Path

from firedoor.errors import Refused
from firedoor.identity import Peer, PeerId, Role
from firedoor.wire.messages import Health, decode_message, encode_message
from tests.attacks.hostile import healths
from tests.attacks.made_reports import oversize_report, small_report
from tests.attacks.one_mirror import OneMirror, Wire
from tests.unit.origin_bench import Bench

BAD, HONEST = (Peer(PeerId(digit * 32), Role.AGENT, "branch") for digit in "12")
LOWER = Peer(PeerId("3" * 32), Role.MIRROR, "branch")

# More than one list of a message may hold.
LOST_AT_ONCE = 1500


def refused(frames: list[bytes]) -> list[str]:
    """Why an honest peer would hang up over some of these frames."""
    whys = []
    for frame in frames:
        try:
            decode_message(frame)
        except Refused as error:
            whys.append(str(error))
    return whys


def test_a_report_that_fits_no_frame_is_not_sent_up(bench: Bench, tmp_path: Path) -> None:
    async def story(mirror: OneMirror) -> None:
        bad, honest = Wire(), Wire()
        mirror.meet(BAD, bad)
        mirror.meet(HONEST, honest)
        bad.bring(oversize_report(BAD.id, "branch"))
        honest.bring(encode_message(Health((small_report(HONEST.id),))))
        await mirror.until(lambda: any(one.id == HONEST.id for one in mirror.above.reports()))
        assert refused(mirror.above.sent) == []

    OneMirror(bench, tmp_path / "mirror").run(story)


def test_all_who_are_lost_at_once_are_told_in_parts(bench: Bench, tmp_path: Path) -> None:
    ids = [f"{number:032x}" for number in range(LOST_AT_ONCE)]

    async def story(mirror: OneMirror) -> None:
        lower = Wire()
        mirror.meet(LOWER, lower)
        for message in healths([small_report(each) for each in ids], 500):
            lower.bring(encode_message(message))
        await mirror.until(lambda: {one.id for one in mirror.above.reports()} >= {*ids})
        lower.close()
        await mirror.until(lambda: gone(mirror) == {*ids} or bool(refused(mirror.above.sent)))
        assert refused(mirror.above.sent) == []

    def gone(mirror: OneMirror) -> set[str]:
        return {one.id for one in mirror.above.reports() if not one.is_connected}

    OneMirror(bench, tmp_path / "mirror").run(story)


def test_of_many_reports_of_one_endpoint_the_newest_goes_up(bench: Bench, tmp_path: Path) -> None:
    versions = [f"{number}.0" for number in range(100)]

    async def story(mirror: OneMirror) -> None:
        bad = Wire()
        mirror.meet(BAD, bad)
        for version in versions:
            bad.bring(encode_message(Health((small_report(BAD.id, version),))))
        await mirror.until(lambda: versions[-1] in said(mirror))
        assert len(said(mirror)) <= 10

    def said(mirror: OneMirror) -> list[str]:
        return [one.products[0].version for one in mirror.above.reports() if one.id == BAD.id]

    OneMirror(bench, tmp_path / "mirror").run(story)
