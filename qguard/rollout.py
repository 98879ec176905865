"""Who is in: a stable, nested choice of torrents by their info-hash (I10)."""

from typing import Final

import numpy as np

from qguard.snapshot import Bool, InfoHashes, Int64

BUCKETS: Final = 100

_FNV_OFFSET: Final = np.uint64(0xCBF29CE484222325)
_FNV_PRIME: Final = np.uint64(0x100000001B3)


def buckets(infohash: InfoHashes) -> Int64:
    """(N,) each torrent's bucket, 0 to 99: FNV-1a (64 bit) of the hex digits, folded, modulo 100.

    The bucket depends on the info-hash alone, so raising the percentage only adds torrents, and the same torrents are
    in after a restart. The digits are hashed because bytes of an info-hash are uniform only where nobody chose them.
    """
    digits = infohash.view(np.uint8).reshape(len(infohash), infohash.dtype.itemsize)
    value = np.full(len(infohash), _FNV_OFFSET)
    for column in digits.T:
        value = (value ^ column) * _FNV_PRIME
    folded: Int64 = ((value ^ (value >> np.uint64(32))) % np.uint64(BUCKETS)).astype(np.int64)
    return folded


def inside(bucket: Int64, percentage: Int64) -> Bool:
    """Whether each torrent is managed at its tracker's percentage (0 to 100)."""
    return bucket < percentage
