"""Inspect AI: its tasks on steered models, a monitor as its scorer, a bank's texts as its data.

`provider` is what Inspect finds by the entry point. It alone imports `inspect_ai` as soon as it is
imported itself.
"""
