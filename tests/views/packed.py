"""What a report's blocks hold, read without any code of the package."""

import base64
import json
import zlib


def inflated(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def read(report, name):
    """A block's content, or None where there is none."""
    words = inflated(report.blocks["words"])

    def of(value):
        if isinstance(value, str):
            return words[int(value[1:], 36)] if value.startswith("~") else value
        if isinstance(value, list):
            return [of(item) for item in value]
        return {k: of(v) for k, v in value.items()} if isinstance(value, dict) else value

    return of(inflated(report.blocks[name])) if name in report.blocks else None
