"""Inspect AI: its tasks on steered models, a monitor as its scorer, a bank's texts as its data.

`provider` is what Inspect finds by the entry point; it and nothing else imports `inspect_ai` when it
is imported.
"""
