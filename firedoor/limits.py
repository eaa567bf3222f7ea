"""Every bound of the protocol, in one place, each with its reason.

What hostile input can make larger stands here; what an administrator sets stands in settings.
"""

from firedoor.units import KIB, MIB, Span

# A halt is about 250 bytes; the reason is the only part a person types. The longest resume, of 16
# ids, a reason in four-byte characters and 8 signatures, is 3,400.
ORDER_BYTES_MAX = 4 * KIB

# A reason is a sentence for the person who reads `firedoor status` at 4 a.m.
REASON_BYTES_MAX = 400

# A resume names the halts that it lifts; a bad day has a few, and each is read by its signers.
RESUMED_IDS_MAX = 16

# Orders of a revoked key that survive it: a revocation must stay below ORDER_BYTES_MAX, and a key
# with more orders in force is turned by compaction instead.
SURVIVORS_MAX = 48

# Signatures under one order: thresholds in practice are 1 to 3; 8 leaves room for rotation.
SIGNATURES_MAX = 8

# Orders that no beacon has named yet, held for each signing key: a thief of one key cannot fill
# memory, and an operator in the field will never type so many (halt/README.md, Paths).
UNRECORDED_PER_KEY_MAX = 64

# Halts by the controllers of all releases together, and of one release: a publisher names as many
# keys as it likes, and must not take the room of people's orders.
CONTROLLER_HALTS_MAX = 256
CONTROLLER_HALTS_OF_ONE_MAX = 4

# New orders of one key that an origin commits at once; halt/commit_queue.py has the pace after.
COMMITTED_AT_ONCE_MAX = UNRECORDED_PER_KEY_MAX

# All orders of a fleet between two compactions. 4,096 ids are 128 KiB, below FRAME_BYTES_MAX.
ORDERS_MAX = 4096

# Of these, by one key: a thief of one halt key must leave the others their room.
ORDERS_PER_KEY_MAX = ORDERS_MAX // 4

# Orders of one conversation that were refused before it is ended: each may cost 8 verifications.
REFUSALS_MAX = 64

# Releases that one peer may ask to hear of, in one message and in all.
INTEREST_MAX = 256
INTERESTS_MAX = 1024

# A receipt is 300 bytes; so many of them fit one frame twice over.
RECEIPT_BYTES_MAX = 512
RECEIPTS_MAX = 512

# A certificate of ENDPOINTS_MAX endpoints, 400 bytes each with its receipt, and the metadata that
# proves its keys.
CERTIFICATE_BYTES_MAX = 96 * MIB

# One WebSocket frame. A roster of 1,024 peers and an id list of 4,096 orders fit.
FRAME_BYTES_MAX = 512 * KIB

# Steps from a nonce to the origin's signature: ten a mirror of 1,024 children, six mirrors deep.
PATH_STEPS_MAX = 64

# Beacons whose lists of ids a node keeps beside the latest: one may be overtaken on its way.
LISTS_MAX = 4

# Turns at reading that one peer has in a second, and at once (runtime/network/pacing.py): a swarm
# that fills a gigabit line tells of 500 pieces. More wait in the sender's own line. A mirror has so
# many times as many.
FRAMES_PER_S = 1000
FRAMES_AT_ONCE = 1000
FRAMES_OF_MIRROR = 8

# Items in one list of one message, whatever it lists.
LIST_ITEMS_MAX = 8192

# A manifest: about 120 bytes a file and 45 a piece; 64 MiB is a million pieces.
MANIFEST_BYTES_MAX = 64 * MIB

# What programs take whose settings do not say `large_manifests`: read, it costs some 100 MB.
MANIFEST_NORMAL_BYTES_MAX = 8 * MIB
FILES_NORMAL_MAX = 100_000

# What a release leaves free on the disk that it is staged on, which may be a small one.
STAGED_LEFT_FREE_BYTES = 32 * MIB
STAGED_LEFT_FREE_PART = 1 / 16

# Files in one release. A Linux distribution's root holds some 300,000.
FILES_MAX = 500_000

# A path inside a release, in UTF-8. Windows allows 260 characters without opting in to more, Linux
# 4,096 bytes; a deep node_modules reaches 300.
PATH_BYTES_MAX = 1024

# The size of a file's pieces grows with the file so that a bitfield stays small (pieces/README.md).
PIECE_BYTES_MIN = 256 * KIB
PIECE_BYTES_MAX = 4 * MIB

# Pieces of one release; its bitfield is then 128 KiB.
PIECES_MAX = 1_000_000

# Metadata files of TUF. The largest, a publisher's list of releases, is about 400 bytes a release.
METADATA_BYTES_MAX = 16 * MIB

# A publisher's list as the origin takes it in: what signs it anew has room for longer names.
RELEASE_LIST_BYTES_MAX = 12 * MIB

# A list that runs out sooner could be signed anew by nobody in time.
RELEASE_LIST_SPAN_MIN_S = 7 * 24 * 3600

# How far above the highest counter of its product a release may be: room for a billion such steps.
COUNTER_STEP_MAX = 1 << 20

# All metadata of a fleet together: a publisher's list of 10,000 releases is 4 MB.
ALL_METADATA_BYTES_MAX = 64 * MIB

# Of these, on one stick: a list of releases for each of some hundred publishers, and every root.
METADATA_FILES_MAX = 1024

# Peers named in one roster: more neighbours than a site has endpoints help nobody.
ROSTER_MAX = 1024

# Endpoints whose reports one mirror keeps: a fleet of this version; 64 MB of reports of 1 kB.
ENDPOINTS_MAX = 65_536

# Certificate requests are 300 bytes.
ENROLMENT_BYTES_MAX = 8 * KIB

# A gate is asked again before each so many bytes: what leaves after a halt (halt/README.md, Gates).
GATE_BYTES = 64 * KIB

# A range request asks for at least this much where it can: below 256 KiB Python's fixed cost of a
# request (69 microseconds and a TLS record) dominates (FACTS.md).
BATCH_BYTES = 1 * MIB

# Bytes that a receiver has and takes once more, where leaving them out would cost a request: what a
# line of 10 Mbit/s carries in a round trip of 13 ms.
GAP_BYTES = 16 * KIB

# Pieces in one range request, so that a release of tiny files does not make one endless request.
BATCH_PIECES_MAX = 256

# Requests in flight to one peer: one being answered, one on its way.
REQUESTS_PER_PEER_MAX = 2

# Requests in flight in all: 16 MiB of buffers at most, half the memory an agent may use.
REQUESTS_MAX = 16

# Addresses that mDNS may make a node remember, and rosters as many: anybody on a LAN can send one.
HINTS_MAX = 2 * ROSTER_MAX

# Of these, that name one host: its programs are a mirror and an endpoint, or a few of a laboratory.
HINTS_OF_HOST_MAX = 16

# Addresses where peers have proved themselves that a node keeps for its next start; and of one
# peer, which may have moved.
PROVED_MAX = 64
PROVED_OF_PEER_MAX = 2

# Dials at once of addresses for which nothing but a datagram speaks.
STRANGERS_DIALLED_MAX = 16

# Mirrors found by mDNS that a node dials at once; a site has a few.
MIRRORS_DIALLED_MAX = 8

# Connections that an agent dials to neighbours beside its mirrors (the contract of agent.toml).
NEIGHBOURS_DIALLED_MAX = 4

# What waits for a slow peer before it is dropped; a dropped peer comes back and syncs anew.
OUTBOX_FRAMES_MAX = 1024
OUTBOX_BYTES_MAX = 8 * MIB

# Transfers that a program serves at once: two for each of 128 sites behind thin lines. With fewer
# the slowest hold all places, and half of 64 such sites got nothing (measured).
TRANSFERS_MAX = 256

# Of these, to one peer: its two requests, and two that it has given up and we have not noticed.
TRANSFERS_PER_PEER_MAX = 4

# Manifests and metadata files that one peer takes at once; it asks for one after the other.
FILES_PER_PEER_MAX = 4

# What waits of reports and receipts for one peer: the newest is said again, so little need wait.
BULK_BYTES_MAX = 512 * KIB

# Reports and receipts go to the kernel while no more than this waits there: half a second of
# 256 kbit/s, which is what they may delay an order by.
BULK_AHEAD_BYTES = 16 * KIB

# One frame of reports or receipts: the next order leaves after at most one of them.
BULK_FRAME_BYTES = 16 * KIB

# The report of one endpoint, all fields in; an honest one of a few products is 1 kB.
REPORT_BYTES_MAX = 12 * KIB

# The certificate of an endpoint in DER: an Ed25519 key and the longest names make 900.
CERTIFICATE_DER_BYTES_MAX = 1024

# Reports and receipts that a node reads of one peer below it in a second, in bytes; of a mirror
# they are those of a site of a thousand.
INTAKE_BYTES_PER_S = 32 * KIB
INTAKE_BYTES_PER_S_OF_MIRROR = 1 * MIB

# Endpoints of one sending mirror whose reports nothing proves: a site of version 0.1, or a few.
UNPROVED_PER_SENDER_MAX = 4 * ROSTER_MAX

# How long an agent that has no mirror configured or found waits before a mere peer may bring it up
# to date; and how long one that mDNS has shown may stay silent, for a hint is no mirror.
MIRROR_PATIENCE = Span(5.0)
HINT_PATIENCE = Span(30.0)

# A request that has not ended after this long is asked elsewhere, however slow the peer was before.
REQUEST_SPAN_MIN = Span(4.0)
REQUEST_SPAN_MAX = Span(120.0)

# How long an endpoint waits for a neighbour to bring a piece before it takes it from the mirror
# itself: two round trips of a flapping radio link, and short beside a piece's own time there.
OWNER_PATIENCE = Span(1.0)

# A peer that was asked too early (its side of the sync is still on its way) is asked again then.
RETRY_SPAN = Span(0.1)

# What a status may weigh: a few hundred bytes for each release and endpoint.
STATUS_BYTES_MAX = 64 * MIB
