"""Files anywhere: places, listings, atomic writes, retries, and reading ahead."""
