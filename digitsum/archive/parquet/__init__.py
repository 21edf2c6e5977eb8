"""Untrusted Parquet, read safely: everything that trusts no byte of a shard, and nothing else.

A shard comes from strangers. pyarrow decodes it, but is not safe to ask about it:

- accessors of pyarrow's footer end the whole process if the footer contradicts itself;
- sizes in a footer are claims, and a page may expand ten thousandfold: a shard of some KB may
  decode to more than all memory, by one huge value, by a dictionary, or by a list of a billion
  elements.

So this package parses the footer and the pages' headers itself, decides from them how many rows to
decode at a time, and only then lets pyarrow decode. Every failure is an InputError that names the
file, a ValueError, or one of `files.DAMAGED`. It imports nothing of `digitsum.archive` above it.

- `files`        opens a file, and yields its rows in batches that fit in memory; start here
- `footer`       row groups and columns as the footer describes them
- `read_budget`  how many rows fit, from the pages of the columns that are read
- `pages`        headers of a column chunk's pages; rows that begin in a page of lists
- `thrift`       structs of Thrift's compact protocol, in which footers and headers are written

A read: `open_parquet` -> `read_batches` -> `footer.row_groups` -> `read_budget.plan_read`, which
walks `pages` -> batches of Arrow columns, which `archive.images` decodes to pixels.
"""
