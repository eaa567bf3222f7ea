"""Receipts, the book that keeps them, and certificates that are checked offline."""

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from nacl.signing import SigningKey

from firedoor.cli.orders.attestation import checked
from firedoor.errors import Malformed, Refused, TooLarge, Untrusted
from firedoor.halt.attestation import (
    FORMAT,
    Attestation,
    AttestationFile,
    Expected,
    Standing,
    read_file,
    statement_of,
)
from firedoor.halt.envelope import CONTROLLER_HALT, seal
from firedoor.halt.order import HaltPayload, ResumePayload
from firedoor.halt.receipt import (
    LocalState,
    ReceiptBook,
    ReceiptPayload,
    SignedReceipt,
    read_receipt,
    seal_receipt,
)
from firedoor.identity import FleetId, PeerId
from firedoor.limits import RECEIPT_BYTES_MAX
from firedoor.runtime.keys.key_files import read_key_file
from firedoor.runtime.metadata.trust_client import fleet_of
from firedoor.wire.codec import decode, encode
from mirror.origin.origin import Origin
from tests.unit.origin_bench import Bench

FLEET = FleetId("0a" * 16)
ORDER = bytes(range(32))
SEEDS = [bytes([number]) * 32 for number in range(1, 6)]
NOW = 1_700_000_000


def payload(
    *,
    order: bytes = ORDER,
    instance: int = 1,
    enforced_at: int = 0,
    had: LocalState = LocalState.ACTIVE,
) -> ReceiptPayload:
    return ReceiptPayload(1, order, bytes([instance]) * 16, NOW, enforced_at, had.value)


def receipt(seed: bytes, fleet: FleetId = FLEET, **facts: int) -> bytes:
    return seal_receipt(payload(**facts), fleet=fleet, seed=seed)  # type: ignore[arg-type]  # whole numbers only


def id_of(seed: bytes) -> PeerId:
    return PeerId(sha256(bytes(SigningKey(seed).verify_key)).hexdigest()[:32])


def test_a_receipt_says_who_signed_it_and_what() -> None:
    read = read_receipt(receipt(SEEDS[0], enforced_at=NOW + 1), FLEET)
    assert (read.endpoint, read.order, read.had) == (id_of(SEEDS[0]), ORDER, LocalState.ACTIVE)
    assert (read.recorded_at, read.enforced_at, read.is_enforced) == (NOW, NOW + 1, True)


def test_a_receipt_is_small_enough_for_its_limit() -> None:
    assert len(receipt(SEEDS[0], enforced_at=NOW * 1000)) < RECEIPT_BYTES_MAX * 3 // 4


def test_a_receipt_of_another_fleet_is_refused() -> None:
    with pytest.raises(Untrusted, match="signature"):
        read_receipt(receipt(SEEDS[0], FleetId("0b" * 16)), FLEET)


@pytest.mark.parametrize(
    "change",
    [
        {"public": bytes(SigningKey(SEEDS[1]).verify_key)},
        {"signature": bytes(64)},
        {"payload": encode(payload(had=LocalState.NOTHING))},
    ],
)
def test_a_receipt_that_its_key_has_not_signed_is_refused(change: dict[str, bytes]) -> None:
    signed = decode(SignedReceipt, receipt(SEEDS[0]), what="receipt", limit=RECEIPT_BYTES_MAX)
    with pytest.raises(Untrusted):
        read_receipt(encode(replace(signed, **change)), FLEET)


def test_what_is_no_receipt_is_refused() -> None:
    with pytest.raises(TooLarge):
        read_receipt(bytes(RECEIPT_BYTES_MAX + 1), FLEET)
    with pytest.raises(Malformed):
        read_receipt(b"\xc0", FLEET)
    strange = replace(payload(), had="half of it")
    with pytest.raises(Malformed, match="half of it"):
        read_receipt(seal_receipt(strange, fleet=FLEET, seed=SEEDS[0]), FLEET)


def test_what_still_runs_is_not_enforced() -> None:
    said = payload(enforced_at=NOW, had=LocalState.STILL_RUNS)
    assert not read_receipt(seal_receipt(said, fleet=FLEET, seed=SEEDS[0]), FLEET).is_enforced


# --- the book -----------------------------------------------------------------------------------


def test_the_book_keeps_the_first_record_and_the_first_enforcement() -> None:
    book = ReceiptBook()
    recorded, enforced = receipt(SEEDS[0]), receipt(SEEDS[0], enforced_at=NOW)
    assert [book.take(read_receipt(each, FLEET)) for each in (recorded, recorded)] == [True, False]
    assert [book.take(read_receipt(each, FLEET)) for each in (enforced, recorded)] == [True, False]
    assert [each.record for each in book.of(ORDER).values()] == [enforced]


def spoke(book: ReceiptBook, *words: tuple[int, int]) -> None:
    """Instance and moment in seconds of receipts, each of a halt of its own."""
    for instance, moment in words:
        said = replace(
            payload(order=bytes([moment]) * 32, instance=instance), recorded_at=moment * 1000
        )
        book.take(read_receipt(seal_receipt(said, fleet=FLEET, seed=SEEDS[0]), FLEET))


def test_a_restart_is_no_clone_however_often_old_receipts_are_said_again() -> None:
    book = ReceiptBook()
    spoke(book, (1, 10), (1, 20), (2, 30), (2, 40), (1, 10), (1, 20), (2, 30))
    assert book.clones == set()


def test_two_instances_that_speak_in_turns_are_clones() -> None:
    book = ReceiptBook()
    spoke(book, (1, 10), (2, 11), (1, 20))
    assert book.clones == set()
    spoke(book, (2, 21))
    assert book.clones == {id_of(SEEDS[0])}


def test_what_is_not_in_force_any_more_is_forgotten() -> None:
    book = ReceiptBook()
    book.take(read_receipt(receipt(SEEDS[0]), FLEET))
    book.keep_only(frozenset())
    assert book.all() == []


def test_an_order_has_so_many_receipts_and_then_only_those_of_whoever_brings_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("firedoor.halt.receipt.ENDPOINTS_MAX", 2)
    book = ReceiptBook()
    takes = [book.take(read_receipt(receipt(seed), FLEET)) for seed in SEEDS[:3]]
    assert takes == [True, True, False]
    assert book.take(read_receipt(receipt(SEEDS[3]), FLEET), is_own=True)
    assert book.take(read_receipt(receipt(SEEDS[0], enforced_at=NOW), FLEET))


# --- the certificate ----------------------------------------------------------------------------

EXPECTED = (
    Expected(id_of(SEEDS[0]), "branch", NOW, 30, "app 1 (idle)"),
    Expected(id_of(SEEDS[1]), "branch", NOW, 30, "app 1 (idle)"),
    Expected(id_of(SEEDS[2]), "branch", NOW, 30, "app 2 (idle)"),
    Expected(id_of(SEEDS[3]), "island", NOW, 86400, "app 2 (idle)"),
    Expected(id_of(SEEDS[4]), "branch", 0, 30, ""),
)


def file_of(bench: Bench, kind: str = "halt", of: bytes = b"") -> AttestationFile:
    """A certificate by a real fleet's keys: one enforced, one recorded, three silent.

    `of`: the order that its receipts are of, if not its own.
    """
    origin: Origin = bench.origin
    key = read_key_file(bench.fleet / "keys" / "halt-1.key", str)
    fleet = FleetId(key.fleet)
    halt = HaltPayload(1, bytes(16), "app==2", 6, NOW, "crashes")
    order, record = seal(kind, halt, fleet=fleet, keys={key.keyid: key.signing_seed})
    receipts = tuple(
        seal_receipt(payload(order=of or order, enforced_at=at), fleet=fleet, seed=seed)
        for seed, at in ((SEEDS[0], NOW), (SEEDS[1], 0))
    )
    clones = (id_of(SEEDS[1]),)
    statement = statement_of(
        order, times=(NOW, NOW + 60), expected=EXPECTED, receipts=receipts, clones=clones
    )
    return AttestationFile(
        FORMAT,
        origin.later_roots(),
        (bench.fleet / "origin" / "metadata" / "1.targets.json").read_bytes(),
        record,
        origin.signer.sign(statement, "certificate"),
        EXPECTED,
        receipts,
        clones,
    )


def root_of_fleet(fleet: Path) -> bytes:
    return (fleet / "root.json").read_bytes()


def test_a_certificate_says_how_everyone_stands(bench: Bench) -> None:
    found: Attestation = checked(encode(file_of(bench)), root_of_fleet(bench.fleet))
    assert [row.standing for row in found.rows] == [
        Standing.ENFORCED,
        Standing.RECORDED,
        Standing.PAST_BOUND,
        Standing.WITHIN_BOUND,
        Standing.UNKNOWN,
    ]
    assert [row.is_clone for row in found.rows] == [False, True, False, False, False]
    assert (found.halt.scope.text, found.halt.level) == ("app==2", 6)


CHANGES: dict[str, Callable[[AttestationFile], AttestationFile]] = {
    "one endpoint fewer": lambda file: replace(file, expected=file.expected[:-1]),
    "another bound": lambda file: replace(
        file, expected=(replace(file.expected[0], lease_s=1), *file.expected[1:])
    ),
    "one receipt fewer": lambda file: replace(file, receipts=file.receipts[:1]),
    "no clone": lambda file: replace(file, clones=()),
    "another format": lambda file: replace(file, format="firedoor-certificate-2"),
    "another order": lambda file: replace(file, order=file.statement),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_certificate_that_was_changed_does_not_verify(
    bench: Bench, change: Callable[[AttestationFile], AttestationFile]
) -> None:
    with pytest.raises(Refused):
        checked(encode(change(file_of(bench))), root_of_fleet(bench.fleet))


def test_a_controllers_halt_stands_by_the_origins_word(bench: Bench) -> None:
    file, root = file_of(bench, CONTROLLER_HALT), root_of_fleet(bench.fleet)
    assert checked(encode(file), root).halt.is_by_controller
    other = HaltPayload(1, bytes(15) + b"x", "app==2", 6, NOW, "crashes")
    fleet = fleet_of(root)
    forged = seal(CONTROLLER_HALT, other, fleet=fleet, keys={"0f" * 32: bytes(32)})[1]
    with pytest.raises(Untrusted):
        checked(encode(replace(file, order=forged)), root)


def test_receipts_of_another_order_prove_nothing_though_the_origin_has_signed_them(
    bench: Bench,
) -> None:
    with pytest.raises(Untrusted, match="receipts of this halt"):
        checked(encode(file_of(bench, of=ORDER)), root_of_fleet(bench.fleet))


def test_an_order_that_stops_nothing_has_no_certificate(bench: Bench) -> None:
    root = root_of_fleet(bench.fleet)
    keys = [read_key_file(bench.fleet / "keys" / f"resume-{number}.key", str) for number in (1, 2)]
    resume = ResumePayload(1, bytes(16), (bytes(32),), NOW, "mended")
    seeds = {key.keyid: key.signing_seed for key in keys}
    record = seal("resume", resume, fleet=fleet_of(root), keys=seeds)[1]
    with pytest.raises(Untrusted, match="a halt or a drill"):
        checked(encode(replace(file_of(bench), order=record)), root)


def test_another_fleet_s_root_verifies_nothing(bench: Bench) -> None:
    other = root_of_fleet(bench.fleet) + b"\n"
    with pytest.raises(Refused):
        checked(encode(file_of(bench)), other)


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(Malformed):
        read_file(b"junk")
