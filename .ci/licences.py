"""`make licences`: the licences of what is installed, by pip-licenses; fails on one not allowed.

A package may be used under any one of the licences that it offers (`OR`), and must be allowed under
all of those that hold together (`AND`).
"""

import json
import sys

from license_expression import ExpressionError, LicenseExpression, get_spdx_licensing

# Permissive, or copyleft for the file alone; nothing that binds what imports it.
ALLOWED = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
        "HPND",
        "ISC",
        "MIT",
        "MIT-0",
        "MIT-CMU",
        "MPL-2.0",
        "PSF-2.0",
        "Python-2.0",
        "Unlicense",
        "Zlib",
    }
)
# As packages wrote them before there was SPDX; several of these hold together.
_MEANT = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "DFSG approved": "",  # says nothing of which
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def main(listed: str) -> int:
    """Print a line for each package of a pip-licenses' JSON; return 1 where one is not allowed."""
    refused = []
    for package in json.loads(listed):
        line = f"{package['Name']} {package['Version']}: {meant(package['License'])}"
        print(line)
        if not is_allowed(meant(package["License"])) and not is_nvidias(package["Name"]):
            refused.append(line)
    for line in refused:
        sys.stderr.write(f"not allowed: {line}\n")
    return bool(refused)


def meant(said: str) -> str:
    """Return what a package says of its licence as an SPDX expression, where it is understood."""
    words = [_MEANT.get(word, word) for word in said.split("; ")]
    return " AND ".join(word for word in words if word)


def is_allowed(said: str) -> bool:
    """Return whether what is said is an SPDX expression that the allowed licences fulfil."""
    try:
        expression = get_spdx_licensing().parse(said, validate=True)
    except ExpressionError:
        return False
    return expression is not None and _fulfilled(expression)


def _fulfilled(expression: LicenseExpression) -> bool:
    parts = getattr(expression, "args", ())
    operator = getattr(expression, "operator", "").strip()
    if operator == "AND":
        return all(map(_fulfilled, parts))
    if operator == "OR":
        return any(map(_fulfilled, parts))
    return str(expression) in ALLOWED


def is_nvidias(name: str) -> bool:
    """Return whether it is of CUDA, which torch brings for GPUs, under NVIDIA's own terms."""
    return name.startswith(("nvidia-", "cuda-"))


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
