"""What all tests share: small archives of real digits, and the environment Ray runs in."""

import os

# Before anything imports Ray: never join a cluster that happens to run, never phone home.
os.environ.setdefault("RAY_ADDRESS", "local")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
