"""Files anywhere: locations, listings, atomic writes, retries and reading ahead."""
