"""What a node decides, mirror or endpoint: messages in, effects out.

`Node` (node.py) is the one object that a host holds. It touches no socket, file, clock or dice; a
host gives it what came and the time, and executes the effects that it returns. The same node runs
in the real host (runtime/host/host.py) and in the transcripts of the tests.

A host must do this, in this order:

1. Start: make `Node`, then load signed metadata and call `trust`, then `restore` with what the
   order log holds, then `learn` with every listed release. No conversation begins before
   `restore`: `connected` sends the digest of the order set.
2. For each connection: `connected` first, then `receive` with each message, then `disconnected`. A
   `Refused` from `receive` ends the connection.
3. After every call: execute the effects in the order of the list before the next call. Two
   exceptions: `DrawNonce` and `SignLease` make their call at once, and its effects come before the
   rest of the list.
   * `Cut` at once: transfers that the brake no longer permits end before anything is awaited.
   * `Send` queues a message and does not wait for it. A peer whose queue is full is dropped.
   * `Keep`, `KeepBeacon`, `KeepActed`, `KeepForgotten`, `KeepDecision`, `KeepKnown` and
     `KeepVouched` go to the order log: the records of one list in one write, and several lists may
     share a write. When `Keep` is on the disk, call `recorded`; operators are told only then.
     Answer `AddSignature` only when all that was given to the log up to then is on the disk.
   * `Fetch` starts a request and `Cancel` ends one. Store a piece before you report it
     by `fetched`. Report the end by `finished` or `failed`; if the disk has no room, call
     `forget_pieces` instead; after `Cancel` report nothing.
   * `DrawNonce`: draw 32 random bytes *after* reading the clock, and call `ask_lease`.
   * `SignLease`: sign, and call `answer`.
   * `Drop` closes the connection; `Complete` tells the program; `Tell` becomes a log line, last.
4. Time: call `wake` at the instant that `next_wakeup` names, which every call may change.
5. Before anything moves or is activated ask `may_start`, and before a later step of the same work
   `permits` or `require`: an order may have come in between.
6. When the machine was copied or set back call `was_copied`; when its clocks jumped, `void_lease`.
"""
