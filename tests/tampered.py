"""Files that were changed behind our back."""

import json
import struct


def tamper(path, change):
    """Rewrite the JSON header of a safetensors file, checksum and all."""
    raw = path.read_bytes()
    (n,) = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8 : 8 + n])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + n :])


def meta_of(name):
    """A change of what stands in a header under a name: `meta(header, field=value)`."""

    def meta(header, **changes):
        inner = json.loads(header["__metadata__"][name]) | changes
        header["__metadata__"][name] = json.dumps(inner)

    return meta
