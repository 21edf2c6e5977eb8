"""Whatever options a command is given, it is understood or ends with 2 and a sentence."""

import contextlib
import io
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from digitsum.archive.import_images import ImportImagesConfig
from digitsum.archive.import_npy import ImportNpyConfig
from digitsum.archive.synth import SynthConfig
from digitsum.cli import _COMMANDS, parse
from digitsum.errors import InputError
from digitsum.model.import_model import ImportModelConfig
from digitsum.options import InspectConfig, ReportConfig
from digitsum.scoring.config import (
    CompareConfig,
    EvaluateConfig,
    ScoreConfig,
    StatusConfig,
    VerifyConfig,
)
from digitsum.training.config import TrainConfig

REQUIRED = {
    SynthConfig: "synth --out A --images 4",
    ImportNpyConfig: "import npy a.npy --out A",
    ImportImagesConfig: "import images scans --out A",
    ImportModelConfig: "import model a.pth --out B",
    InspectConfig: "inspect A",
    TrainConfig: "train --out B",
    EvaluateConfig: "evaluate --archive A",
    ScoreConfig: "score --archive A --scores S",
    StatusConfig: "status S",
    VerifyConfig: "verify --archive A --scores S",
    CompareConfig: "compare --archive A --scores S",
    ReportConfig: "report R",
}
NUMBERS = st.one_of(
    st.integers(-3, 5),
    st.integers(-(2**70), 2**70),
    st.sampled_from((0, 3640, 3641, 2**31, 2**63, 2**64)),
    st.floats(),
).map(str)
TELLING = st.sampled_from(
    (
        "",
        "-",
        "--",
        "nan",
        "inf",
        "-inf",
        "1e999",
        "1_0",
        "None",
        "True",
        "0x10",
        "٣",
        "50%",
        "a\nb",
    )
)
VALUES = st.one_of(
    NUMBERS,
    TELLING,
    st.sampled_from(
        ("fp32", "bf16", "auto", "ray", "threads", "quick", "paper", "full", "baseline")
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
)


def flags(config: type) -> list[str]:
    """Return the options of a command, those of the groups within it too."""
    types = get_type_hints(config)
    found = []
    for one in fields(config):
        kind = types[one.name]
        found += flags(kind) if is_dataclass(kind) else [f"--{one.name.replace('_', '-')}"]
    return found


def outcome(arguments: list[str]) -> Any:
    """Return the configuration, or what was said where there is none."""
    said, out = io.StringIO(), io.StringIO()
    code: Any
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
            return parse(arguments)
    except InputError as error:
        return str(error)
    except SystemExit as ended:
        code = ended.code
    assert code == (0 if {"-h", "--help"} & set(arguments) else 2)
    return said.getvalue() or out.getvalue()


def test_every_command_is_tried():
    assert set(REQUIRED) == set(_COMMANDS)
    for config, line in REQUIRED.items():
        assert isinstance(outcome(line.split()), config)


@pytest.mark.parametrize("config", REQUIRED, ids=lambda config: config.__name__)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_value_of_any_option_is_understood_or_refused_in_words(config, data):
    # Mostly one: what cannot be parsed of others would hide what this one leads to.
    option = st.tuples(st.sampled_from(flags(config)), VALUES)
    arguments = REQUIRED[config].split()
    for flag, value in data.draw(st.lists(option, min_size=1, max_size=2)):
        arguments += [f"{flag}={value}"]
    found = outcome(arguments)
    if isinstance(found, str):
        assert found.strip()
        assert "Traceback" not in found
    else:
        assert isinstance(found, config)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(VALUES, st.sampled_from(("score", "import", "train", "--archive")))))
def test_no_line_at_all_ends_in_a_traceback(arguments):
    found = outcome(arguments)
    assert not isinstance(found, str) or found.strip()
