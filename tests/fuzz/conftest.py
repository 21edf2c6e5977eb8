"""The targets import each other by name, here as under the fuzzer."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
