"""`make licences`: the licences of the installed packages; fails if one is not allowed.

Of the licences that a package offers (`OR`), one must be allowed; of those that apply together
(`AND`), all must be.
"""

import json
import sys

from license_expression import ExpressionError, LicenseExpression, get_spdx_licensing

# Permissive, or copyleft for the file alone: nothing that binds the importing program.
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
# As packages wrote them before SPDX; if a package has several of these, all apply.
_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "DFSG approved": "",  # names no licence
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def main(listed: str) -> int:
    """Print a line for each package in pip-licenses' JSON; return 1 if one is not allowed."""
    refused = []
    for package in json.loads(listed):
        expression = to_spdx(package["License"])
        line = f"{package['Name']} {package['Version']}: {expression}"
        print(line)
        if not is_allowed(expression) and not is_nvidias(package["Name"]):
            refused.append(line)
    for line in refused:
        sys.stderr.write(f"not allowed: {line}\n")
    return bool(refused)


def to_spdx(licence: str) -> str:
    """Return a package's licence field as an SPDX expression, or unchanged if it is unknown."""
    words = [_SPDX.get(word, word) for word in licence.split("; ")]
    return " AND ".join(word for word in words if word)


def is_allowed(text: str) -> bool:
    """Return whether a text is an SPDX expression that the allowed licences fulfil."""
    try:
        expression = get_spdx_licensing().parse(text, validate=True)
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
    """Return whether a package is part of CUDA, which torch needs on GPUs (NVIDIA's own terms)."""
    return name.startswith(("nvidia-", "cuda-"))


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))
