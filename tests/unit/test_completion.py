import io
import shutil
import subprocess
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from digitsum.cli import main


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    """Write the script for bash."""
    found = tmp_path_factory.mktemp("completion") / "digitsum"
    said = io.StringIO()
    with redirect_stdout(said):
        assert main(["completion", "bash"]) == 0
    found.write_text(said.getvalue())
    return found


@pytest.fixture
def offered(script, tmp_path):
    """Return what bash offers for the last of some words, where `scans/` and a file are."""
    (tmp_path / "scans").mkdir()
    (tmp_path / "a.npy").touch()

    def offered(*words: str) -> set[str]:
        program = (
            f". {script}; COMP_WORDS=({' '.join(map(repr, words))}); "
            f"COMP_CWORD={len(words) - 1}; compopt() {{ :; }}; _tyro_digitsum; "
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        ran = subprocess.run(
            [shutil.which("bash") or "bash", "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert not ran.stderr
        return set(ran.stdout.split("\n")) - {""}

    return offered


def test_commands_are_offered(offered):
    assert {"score", "import", "inspect", "completion"} <= offered("digitsum", "")
    assert offered("digitsum", "import", "") == {"npy", "images", "model"}


def test_options_are_offered_and_no_words_of_their_help(offered):
    found = offered("digitsum", "score", "--")
    assert {"--archive", "--max-rejected", "--fail-on-drift"} <= found
    assert all(word.startswith("-") and " " not in word for word in found)


def test_choices_are_offered(offered):
    assert offered("digitsum", "score", "--engine", "") == {"auto", "ray", "threads"}


@pytest.mark.parametrize(
    "words",
    [
        ("inspect",),
        ("import", "images"),
        ("import", "npy", "--labels"),
        ("score", "--archive"),
        ("score", "--archive", "x", "--scores"),
    ],
    ids=" ".join,
)
def test_files_are_offered_for_places(offered, words):
    assert offered("digitsum", *words, "") == {"scans", "a.npy"}
    assert offered("digitsum", *words, "sc") == {"scans"}


def test_zsh_has_a_script_too(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef digitsum")


def test_the_version_is_said(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("digitsum 0.")
