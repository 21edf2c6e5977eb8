"""Reading untrusted Parquet."""
