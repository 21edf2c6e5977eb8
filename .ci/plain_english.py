"""The plain-English check of `make lint`: words that nobody would say aloud to a colleague.

Reads the docstrings, comments and strings of Python files and all of Markdown files, and prints
each place as `file:line: what was found -> what to write`. Exit code 1 if there is any.

    python .ci/plain_english.py [PATH ...]        files or directories; all that is checked if none

To accept one place for good, add its words to `ALLOWED`. The list of phrases is meant to grow.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATHS = ("digitsum", "tests", "jobs", "benchmarks", "docs", "README.md", "CHANGELOG.md")
# They quote what they forbid.
EXCLUDED = (".ci/plain_english.py", "tests/unit/test_plain_english.py")
MAX_TEST_NAME = 50

# Regular expression -> what to write. A space also stands for a line break.
PHRASES = {
    # The project's words (DESIGN.md).
    r"bundles?": "model",
    r"quarantined?": "rejected, rejects",
    r"ledgers?": "footer cache",
    r"(second|third) looks?": "cascade, second pass",
    r"look(s|ed)? (at )?(once|twice|a second time)": "cascade, one pass, two passes",
    r"look(s|ed|ing)? through": "check, search",
    r"told": "with a known count, given, printed",
    # Archaisms and riddles.
    r"(say|says|said|saying) of": "say about",
    r"(is|are|was|were) said": "name who says it",
    r"(tell|tells|telling) of": "describe",
    r"ends? well": "succeed",
    r"of before": "earlier",
    r"(lie|lies|lay|lying) (apart|in|below|under|beside|there|on|within|where|as|at)": "be in",
    r"(?<!there\s)(is|are|was|were) no (?!longer|more|less|better|worse|other|such|one|way)[a-z-]+":
        "is not a ...",
    r"(what|where|that|which) (it )?(is|are) (none|not there)": "if there is none",
    r"mend(s|ed|ing)?": "fix",
    r"great": "large",
    r"anew": "again",
    r"but for": "except",
    r"by way of": "through",
    r"of such": "of these",
    r"surely": "leave it out",
    r"may well": "may",
    r"bears? on": "affect",
    r"(comes?|came) to": "be, reach, happen to",
    r"so that it is": "so that it ...",
    r"passed over": "skip",
    r"in hand": "in progress",
    r"in all(?=[.,;:)])": "in total",
    r"some \d[\d,]*": "about",
    r"so (many|long|few)(?![\s\S]{0,80}\b(that|as)\b)": "that many, n",
    r"cannot be(?=[.,;:)])": "is invalid",
    r"of no (?!more|use)[a-z]+": "without",
    r", for (it|they|there|he|she|what|nothing|that|this|one)": "because",
    r"(held|hold|holds) to": "checked against",
    r"reckon(s|ed)?( with)?": "count, expect",
    r"(nought|whence|hence|thereby|therein|wherein|whereby|whilst|amongst|unto|lest|thereof)":
        "plain words",
    r"on and on": "without end",
    r"is no news": "is not new",
    r"at work": "running",
}  # fmt: skip

# "where" is for places: after these words it is one. After any other, write "if" or "when".
BEFORE_A_PLACE = re.compile(
    "column|directory|exactly|find|from|is|know|knows|of|place|places|point|position|prints?|"
    "return|say|says|see|shows?"
)
# Words of a name that is defined, and names that say nothing.
NAME_WORDS = frozenset({"bundle", "ledger", "mended", "quarantine", "said", "told"})
NAMES = frozenset({"held", "moved"})
# A docstring begins with a noun (module, class, field) or with a verb (function).
FIRST_WORDS = r"(What|Where|How|Whether|Which|When|Who|Why|That)\b"
# Right as they are: a phrase that has one of these close by.
ALLOWED = ("--bundle",)


@dataclass(frozen=True)
class Text:
    """A piece of prose in a file."""

    line: int
    """Where it begins, from 1."""
    words: str


@dataclass(frozen=True, order=True)
class Complaint:
    """One thing to reword."""

    line: int
    found: str
    advice: str


def check(source: str, *, is_python: bool) -> list[Complaint]:
    """Return what is to be reworded in a file's text, by line."""
    if not is_python:
        return sorted(_prose(Text(1, source)))
    tree = ast.parse(source)
    found = {c for text in (*_comments(source), *_strings(tree)) for c in _prose(text)}
    return sorted(found | {*_names(tree)} | {*_docstrings(tree)})


def _prose(text: Text) -> Iterator[Complaint]:
    words = re.sub(r"`[^`]*`", lambda code: re.sub(r"[^\n]", "_", code[0]), text.words)
    for phrase, advice in PHRASES.items():
        pattern = rf"\b{phrase}\b" if phrase[-1].isalpha() else rf"\b{phrase}"
        for match in re.finditer(pattern.replace(" ", r"\s+"), words, re.IGNORECASE):
            yield from _complaint(text, match, advice)
    for match in re.finditer(r"(\S*)\s+where\b(?!\()", words):
        if not BEFORE_A_PLACE.fullmatch(match[1].lower()):
            yield from _complaint(text, match, "if, when; or name the place")


def _complaint(text: Text, match: re.Match[str], advice: str) -> Iterator[Complaint]:
    around = " ".join(text.words[max(0, match.start() - 80) : match.end() + 80].split())
    if not any(allowed in around for allowed in ALLOWED):
        line = text.line + text.words.count("\n", 0, match.start())
        yield Complaint(line, " ".join(match[0].split()), advice)


def _comments(source: str) -> Iterator[Text]:
    """Yield each run of comments on lines that follow each other."""
    lines: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0]] = token.string.lstrip("#: ")
    first = None
    for number in sorted(lines):
        first = number if number - 1 not in lines or first is None else first
        if number + 1 not in lines:
            yield Text(first, "\n".join(lines[i] for i in range(first, number + 1)))


def _strings(tree: ast.Module) -> Iterator[Text]:
    """Yield each string; of an f-string, {} for each value in it."""
    in_f_strings: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            in_f_strings.update(node.values)
            parts = (part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield Text(node.lineno, "".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and node not in in_f_strings:
            yield Text(node.lineno, node.value if isinstance(node.value, str) else "")


def _names(tree: ast.Module) -> Iterator[Complaint]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        else:
            continue
        if name.strip("_") in NAMES or NAME_WORDS & set(name.split("_")):
            yield Complaint(node.lineno, name, "a name that says what it is")
        if name.startswith("test_") and len(name) > MAX_TEST_NAME:
            yield Complaint(node.lineno, name, f"test_<unit>_<condition>, {MAX_TEST_NAME} at most")


def _docstrings(tree: ast.Module) -> Iterator[Complaint]:
    """Yield docstrings, those of fields too, that begin with neither a noun nor a verb."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            continue
        for statement in node.body:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                match = re.match(FIRST_WORDS, str(statement.value.value).lstrip())
                if match:
                    advice = "begin with a noun, a verb or `True if`"
                    yield Complaint(statement.lineno, f'"""{match[0]} ...', advice)


def files(paths: list[str]) -> Iterator[Path]:
    """Yield the Python and Markdown files at and below paths."""
    for path in map(Path, paths):
        below = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (
            file
            for file in below
            if file.suffix in {".py", ".md"} and not str(file).endswith(EXCLUDED)
        )


def main(paths: list[str]) -> int:
    """Print what is to be reworded; return 1 if there is anything."""
    num_found = 0
    for file in files(paths or [str(ROOT / path) for path in PATHS]):
        for complaint in check(file.read_text(), is_python=file.suffix == ".py"):
            num_found += 1
            print(f"{file}:{complaint.line}: {complaint.found} -> {complaint.advice}")
    if num_found:
        print(f"plain English: {num_found} places to reword (.ci/plain_english.py)")
    return bool(num_found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
