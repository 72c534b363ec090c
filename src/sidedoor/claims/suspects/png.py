"""PNG files whose bytes depend on nothing but the pixels, so that an image is found again by the hash of what was sent.

Pixels are stored, not compressed: compressors give other bytes from version to version.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
from jaxtyping import UInt8

_COLOURS = {1: 0, 3: 2}
"""PNG's number for grey and for RGB."""
_BLOCK = 65535
"""The most bytes of a stored block (RFC 1951)."""


def encoded(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """An image as a PNG file; c is 1 or 3."""
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    unfiltered = np.zeros((height, 1), dtype=np.uint8)  # each row begins with the number of its filter
    rows = np.concatenate([unfiltered, image.reshape(height, width * channels)], axis=1).tobytes()
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", _stored(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _stored(content: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored blocks."""
    parts = [b"\x78\x01"]
    for start in range(0, len(content), _BLOCK):
        block = content[start : start + _BLOCK]
        last = start + _BLOCK >= len(content)
        parts += [struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, struct.pack(">I", zlib.adler32(content))])
