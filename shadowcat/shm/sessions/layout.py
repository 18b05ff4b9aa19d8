"""Where the bytes of the session table are, and who writes them.

    area        size                        one lock line each
    slots       1,216 bytes per slot        every slot (its first byte)
    holders     2 bytes per slot            all of it, to take free slots ("free line")
    journals    640 bytes per process       every journal: the idle batch of that process ("batch line")
    owners      128 bytes per bucket;       every bucket
                a bucket per 8 slots
    blocks      4,096 bytes per block;      all of it, to take and to give back ("block line")
                a block per 16 slots

A slot, in words of 8 bytes. "lock" = any worker, under the slot's lock; "plain" = any worker, one store:

    line 0, 1   0-15  outstanding    lock    digests of server requests that await the client's answer; 0 none
    line 2      16    tally          lock    the incarnation that 0-15 are of, << 1 | more than 16 outstanding
                17    subscriptions  lock    length << 32 | half << 31 | block + 1; 0: none (blocks.py)
                18    delivered      plain   the incarnation that last delivered an SSE event id
                19    stream         lock    generation << 16 | process with the GET stream; 0 nobody
                20    lease          lock    deadline in us << 16 | process that recovers the session; 0
                21    last seen      plain   CLOCK_MONOTONIC ns, at most once a second
                22    checksum       lock    crc32 of line 3 and the record, started with the version
                23    version        lock    odd while the words below or the record change; never reset
    line 3      24    hard end       lock    CLOCK_MONOTONIC ns; 0: no session here
                25    owner          lock    digest of whom caps count against
                26    born           lock    the version with which the session was created
                27    incarnation    lock    the version of its creation or last re-pin: never the same again
                28    lengths        lock    params << 16 | record
                29    params         lock    crc32 << 32 | block + 1; low half 0: inline; NOT_KEPT: nowhere
    byte 240          record         lock    msgpack, up to 512 bytes (record.py)
    byte 752          params         lock    inline up to 464 bytes, written by create and by nobody else

The last 512 + 464 bytes never move into each other: a record may grow to its limit at any time. Longer params
go into a block, those above 4,096 bytes are not kept.

A holder cell says whose slot it is: 0 free, USED, held by process p (idle in its batch, may be taken over by
a process that finds no other), reserved by process p (an `initialize` under way); see free.py.

A journal holds what its process is writing, so that a process killed in mid-write loses nothing:

    word 0      slot + 1 that its process has locked; 0 none
    word 1      odd version << 24 | slot for which the content below is meant
    word 2      its checksum
    word 3      its length
    byte 32     line 3 and the record as they are to be

An owner bucket: word 0 counts the changes, then 15 entries tag << 21 | sessions (owners.py).
The owners area starts with a line that holds the secret of the digests, written before the fork.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from shadowcat.shm.region import LINE, WORD, Area, Plan
from shadowcat.shm.sessions.record import RECORD_LIMIT

SLOT: Final = 1216
SLOT_WORDS: Final = SLOT // WORD

OUTSTANDING: Final = 0
OUTSTANDING_LIMIT: Final = 16
TALLY: Final = 16
SUBSCRIPTIONS: Final = 17
DELIVERED: Final = 18
STREAM: Final = 19
LEASE: Final = 20
LAST_SEEN: Final = 21
CHECKSUM: Final = 22
VERSION: Final = 23
HARD_END: Final = 24
OWNER: Final = 25
BORN: Final = 26
INCARNATION: Final = 27
LENGTHS: Final = 28
PARAMS: Final = 29

FIXED: Final = struct.Struct("6Q")
"""Hard end, owner, born, incarnation, lengths, params: the part of line 3 that the checksum covers."""
COVERED: Final = HARD_END * WORD
RECORD: Final = COVERED + FIXED.size
INLINE: Final = RECORD + RECORD_LIMIT
INLINE_LIMIT: Final = SLOT - INLINE
RECORD_LENGTH: Final = 0xFFFF
"""Mask of the record's length in `lengths`."""
LENGTH_SHIFT: Final = 16

JOURNAL: Final = 640
JOURNAL_WORDS: Final = JOURNAL // WORD
JOURNAL_CONTENT: Final = 4 * WORD

BUCKET_WORDS: Final = 16
SLOTS_PER_BUCKET: Final = 8

BLOCK: Final = 4096
SLOTS_PER_BLOCK: Final = 16
_LEAST_BLOCKS: Final = 8


class Areas(NamedTuple):
    """The areas of the session table."""

    capacity: int
    """Slots."""
    processes: int
    buckets: int
    """Of the owner counts."""
    block_count: int
    slots: Area
    holders: Area
    journals: Area
    owners: Area
    block_map: Area
    """A byte per block: taken or not; then 4 bytes per block: the slot it was taken for."""
    blocks: Area


def plan(whole: Plan, capacity: int, processes: int) -> Areas:
    """Set the memory aside for `capacity` sessions and `processes` processes, supervisor and control too."""
    buckets = -(-capacity // SLOTS_PER_BUCKET)
    block_count = max(_LEAST_BLOCKS, capacity // SLOTS_PER_BLOCK)
    return Areas(
        capacity,
        processes,
        buckets,
        block_count,
        slots=whole.add(capacity * SLOT),
        holders=whole.add(2 * capacity),
        journals=whole.add(processes * JOURNAL),
        owners=whole.add(LINE + buckets * BUCKET_WORDS * WORD),
        block_map=whole.add(-(-block_count // 4) * 4 + 4 * block_count),
        blocks=whole.add(block_count * BLOCK),
    )
