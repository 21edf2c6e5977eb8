"""Untrusted Parquet, read safely.

A shard comes from strangers. pyarrow decodes it, but is not safe to ask about it: accessors of its
footer end the whole process if the footer contradicts itself, and a shard of some KB may decode to
more than all memory. So this package parses the footer and the pages' headers itself, decides from
them how many rows to decode at a time, and only then lets pyarrow decode. Every failure is an
InputError that names the file, a ValueError, or one of `files.DAMAGED`.

A read: `open_parquet` -> `read_batches` -> `footer.row_groups` -> `read_budget.plan_read`, which
walks `pages` -> batches of Arrow columns, which `archive.images` decodes to pixels.
"""
