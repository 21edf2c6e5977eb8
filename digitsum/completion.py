"""Completion of commands, options and files in a shell: `digitsum completion bash`.

tyro prints the script. Mended in it: descriptions of several lines, which it offers as words, and
files, which it offers only where an option's type says so; here nearly every text is a place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional

Shell = Literal["bash", "zsh"]
_FILES = "__TYRO_COMPLETE_FILES__"
_NO_FILES = 'if opt["type"] == "path":'
_FILES_FOR_TEXT = 'if opt["type"] == "path" or "STR" in opt["description"]:'
_OPTIONS_OR_SUBCOMMANDS = "    return completions\n\n\ndef main("
_FILES_TOO = f"""\
    is_option = current_word.startswith("-")
    fitting = [c for c in completions if c.startswith("-") == is_option]
    return fitting or (completions if is_option else ["{_FILES}"])


def main("""
_BASH_FILES = 'COMPREPLY=($(compgen -f -- "$cur"))'
_BASH_FILES_WITH_SLASHES = (
    'compopt -o filenames\n    mapfile -t COMPREPLY < <(compgen -f -- "${COMP_WORDS[COMP_CWORD]}")'
)


@dataclass(frozen=True, kw_only=True)
class CompletionConfig:
    """Print what completes this command's words in a shell.

    For bash, write it to ~/.local/share/bash-completion/completions/digitsum; for zsh, to a file
    _digitsum in a directory of $fpath.
    """

    shell: Annotated[Shell, Positional]
    """bash or zsh."""


def mended(script: str) -> str:
    """Return a completion script of tyro that completes files, and offers no words of help."""
    lines = [
        # Descriptions are literals of Python, of one line each.
        line.replace("\\n", " ").replace("%%", "%")
        if line.startswith("COMPLETION_SPEC = ")
        else line
        for line in script.split("\n")
    ]
    return (
        "\n".join(lines)
        .replace(_NO_FILES, _FILES_FOR_TEXT)
        .replace(_OPTIONS_OR_SUBCOMMANDS, _FILES_TOO)
        .replace(_BASH_FILES, _BASH_FILES_WITH_SLASHES)
    )
