"""Options: any value is understood, or refused in a sentence with exit code 2."""

import contextlib
import io
from dataclasses import dataclass, fields, is_dataclass
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
from digitsum.options import InspectConfig, ReadOptions, ReportConfig, check_at_least, flag
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
ODD = ["", "-", "--", "nan", "inf", "-inf", "1e999", "1_0", "None", "True", "0x10", "50%"]
ODD += ["٣", "a\nb"]
CHOICES = ["fp32", "bf16", "auto", "ray", "threads", "quick", "paper", "full", "baseline"]
VALUES = st.one_of(
    NUMBERS,
    st.sampled_from(ODD + CHOICES),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8),
)


def test_read_options_checked():
    with pytest.raises(InputError, match="--max-read-mb 0"):
        ReadOptions(max_read_mb=0)
    with pytest.raises(InputError, match="both or neither"):
        ReadOptions(height=40)


@dataclass(frozen=True)
class Config:
    num_epochs: int | None = 1
    rate: float = 0.5


def test_check_at_least():
    check_at_least(Config(), 1, "num_epochs")
    check_at_least(Config(num_epochs=None), 1, "num_epochs")
    check_at_least(Config(rate=0.0), 0, "num_epochs", "rate")
    with pytest.raises(InputError, match=r"^--num-epochs 0: give at least 1\.$"):
        check_at_least(Config(num_epochs=0), 1, "num_epochs")


def flags(config: type) -> list[str]:
    """Return the options of a command, those of the groups within it too."""
    types = get_type_hints(config)
    found = []
    for one in fields(config):
        kind = types[one.name]
        found += flags(kind) if is_dataclass(kind) else [flag(one.name)]
    return found


def outcome(arguments: list[str]) -> Any:
    """Return the configuration, or the message if there is none."""
    err, out = io.StringIO(), io.StringIO()
    code: Any
    try:
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            return parse(arguments)
    except InputError as error:
        return str(error)
    except SystemExit as ended:
        code = ended.code
    assert code == (0 if {"-h", "--help"} & set(arguments) else 2)
    return err.getvalue() or out.getvalue()


def test_all_commands_are_here():
    assert set(REQUIRED) == set(_COMMANDS)
    for config, line in REQUIRED.items():
        assert isinstance(outcome(line.split()), config)


@pytest.mark.parametrize("config", REQUIRED, ids=lambda config: config.__name__)
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_option_value(config, data):
    # Mostly one: an error in another option would hide what this one leads to.
    option = st.tuples(st.sampled_from(flags(config)), VALUES)
    arguments = REQUIRED[config].split()
    for name, value in data.draw(st.lists(option, min_size=1, max_size=2)):
        arguments += [f"{name}={value}"]
    found = outcome(arguments)
    if isinstance(found, str):
        assert found.strip()
        assert "Traceback" not in found
    else:
        assert isinstance(found, config)


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(st.lists(st.one_of(VALUES, st.sampled_from(("score", "import", "train", "--archive")))))
def test_any_command_line(arguments):
    found = outcome(arguments)
    assert not isinstance(found, str) or found.strip()
