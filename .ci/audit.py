"""`make audit`: known vulnerabilities of what constraints.txt pins, by pip-audit.

Exit code 0 if every package was looked up and none is known to be vulnerable, 1 if one is, and 2 if
one could not be looked up, which pip-audit alone would not report.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINS = Path(__file__).parents[1] / "constraints.txt"
_OPTIONS = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--format", "json"]


def main() -> int:
    """Ask the service, print its answer, and return the exit code."""
    command = [sys.executable, "-m", "pip_audit", *_OPTIONS, "--requirement", str(PINS)]
    done = subprocess.run([*command, *sys.argv[1:]], capture_output=True, text=True)
    num_pinned = sum(bool(line.strip()) for line in PINS.read_text().splitlines())
    code, message = verdict(done.stdout, num_pinned)
    print(message)
    if not done.stdout:
        sys.stderr.write(done.stderr[-2000:])
    return code


def verdict(answer: str, num_pinned: int) -> tuple[int, str]:
    """Return the exit code and the message for the JSON that pip-audit printed."""
    try:
        packages: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, LookupError, TypeError):
        return 2, "not audited: the vulnerability service cannot be reached from here"
    vulnerable = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in "
        f"{', '.join(found['fix_versions']) or 'no version yet'}"
        for package in packages
        for found in package.get("vulns", [])
    ]
    audited = sum("skip_reason" not in package for package in packages)
    lines = [*vulnerable, f"{audited} of {num_pinned} pinned packages were looked up"]
    if audited < num_pinned:
        lines.append(
            "not audited in full: the service does not know the others, or is out of reach"
        )
    if vulnerable:
        return 1, "\n".join(lines)
    return (2 if audited < num_pinned else 0), "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
