"""The command line, one function a command: options, one call, and what is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, PositionalMetavarFromFieldName

from digitsum import api
from digitsum.archive.import_images import ImportImagesConfig, import_images
from digitsum.archive.import_npy import ImportNpyConfig, import_npy
from digitsum.archive.synth import SynthConfig, synth
from digitsum.archive.writer import WrittenArchive
from digitsum.console import say, warn
from digitsum.errors import DigitsumError, InputError
from digitsum.manifest import to_python
from digitsum.model.import_model import ImportModelConfig, import_model
from digitsum.options import InspectConfig, ReportConfig, parse_fraction
from digitsum.scoring.config import (
    CompareConfig,
    EvaluateConfig,
    ScoreConfig,
    StatusConfig,
    VerifyConfig,
)
from digitsum.scoring.plan import ScorePlan
from digitsum.training.config import TrainConfig

_DESCRIPTION = """Adds up the handwritten digits in images: trains networks, scores archives.

First steps, with the model that comes with it:
  digitsum import images scans.tar --invert --out scans
  digitsum score --archive scans --scores scores
  digitsum inspect scores

Then open scores/_runs/*/report.html. Every place may be a URI such as s3://bucket/archive.
`digitsum --version` prints the version.

Exit codes: 0 done, 2 bad input, 3 too many rejected, 4 scores held by another run, 5 drift,
130 interrupted."""
# Exit code of a command that SIGINT, 2, ended, as shells have it: 128 and the signal's number.
INTERRUPTED = 130

_subcommand = tyro.conf.subcommand
ImportCommand = (
    Annotated[ImportNpyConfig, _subcommand("npy")]
    | Annotated[ImportImagesConfig, _subcommand("images")]
    | Annotated[ImportModelConfig, _subcommand("model")]
)
Command = (
    Annotated[SynthConfig, _subcommand("synth")]
    | Annotated[
        ImportCommand, _subcommand("import", description="Import images or a model from elsewhere.")
    ]
    | Annotated[InspectConfig, _subcommand("inspect")]
    | Annotated[TrainConfig, _subcommand("train")]
    | Annotated[EvaluateConfig, _subcommand("evaluate")]
    | Annotated[ScoreConfig, _subcommand("score")]
    | Annotated[StatusConfig, _subcommand("status")]
    | Annotated[VerifyConfig, _subcommand("verify")]
    | Annotated[CompareConfig, _subcommand("compare")]
    | Annotated[ReportConfig, _subcommand("report")]
)


def main(arguments: Sequence[str] | None = None, prog: str = "digitsum") -> int:
    """Run a command line, by default the process's own; return its exit code.

    For all codes but 0 one sentence goes to stderr. Arguments that cannot be parsed end the process
    with 2.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given == ["--version"]:
        print(f"{prog} {version('digitsum')}")
        return 0
    try:
        config = parse(given, prog)
        _COMMANDS[type(config)](config)
    except DigitsumError as error:
        warn(f"digitsum: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        warn("digitsum: interrupted; what was committed stays.")
        return INTERRUPTED
    return 0


def parse(arguments: Sequence[str], prog: str = "digitsum") -> Any:
    """Return the configuration of the command that arguments name; nothing is read or written.

    Raises InputError if a value is not possible; ends the process with 2 if they are not a command.
    """
    config: Any = tyro.cli(
        Command,
        prog=prog,
        description=_DESCRIPTION,
        args=list(arguments),
        config=(OmitArgPrefixes, FlagCreatePairsOff, PositionalMetavarFromFieldName),
    )
    return config


def _say_written(written: WrittenArchive) -> None:
    """Print what a new archive holds, and warn if its ink seems to be dark."""
    say(
        f"{written.uri}: {written.num_images:,} images of {written.shape} pixels in "
        f"{written.num_shards} shards"
    )
    if written.is_inverted:
        warn(
            f"{written.uri}: most images are bright, like paper with dark ink, but models read "
            "bright ink on dark: look with `digitsum inspect`, and import again with --invert"
        )


def _import_images(config: ImportImagesConfig) -> None:
    written = import_images(config)
    _say_written(written)
    written.check_rejected(parse_fraction("--max-rejected", config.max_rejected))
    if written.rejected:
        warn(written.rejected_message())


def _import_model(config: ImportModelConfig) -> None:
    say(f"{config.out}: model written, model {import_model(config)}")


def _train(config: TrainConfig) -> None:
    trained = api.train(config)
    outcome, best = trained.outcome, trained.outcome.best
    files = [name for name in trained.run.files() if name in ("curves.json", "report.html")]
    averaged = ", averaged with others" if config.advanced.average_with else ""
    say(
        f"{trained.run.uri}: run, with {' and '.join(files)}",
        f"{outcome.model}: model of epoch {best.epoch} of {outcome.epochs}{averaged}, validation "
        f"accuracy {best.validation_accuracy:.2%} on {best.validation_images:,} images",
    )


def _score(config: ScoreConfig) -> None:
    from digitsum.scoring.drift import drift_sentence
    from digitsum.scoring.score import expected_time

    def announce(plan: ScorePlan) -> None:
        if not config.json:
            say(*plan.summary().lines(), expected_time(config, plan))

    if config.plan:
        plan = api.plan(config)
        announce(plan)
        if config.json:
            print(json.dumps(to_python(plan.summary())))
        return
    result = api.score(config, announce)
    outcome = result.outcome
    if config.json:
        print(json.dumps(outcome.to_json()))
    else:
        say(
            f"{outcome.scores}: {outcome.images - outcome.rejected:,} images scored and "
            f"{outcome.rejected:,} rejected in {outcome.elapsed_s:.1f} s, "
            f"{outcome.images_per_s:,.0f} images/s with the start",
            f"{result.run.uri}: run, with {' and '.join(result.run.files())}",
            outcome.bottleneck,
            drift_sentence(outcome.shifts),
        )
    result.check_rejected()
    if config.fail_on_drift:
        result.check_drift()


def _status(config: StatusConfig) -> None:
    status = api.status(config)
    if config.json:
        print(json.dumps(status.to_json()))
        return
    say(f"{status.scores_uri}: current scores in {status.current or 'no directory yet'}")
    say(*(f"  {run.name}: {run.sentence()}" for run in status.runs))


def _verify(config: VerifyConfig) -> None:
    from digitsum.scoring.verify import REMEDY

    verification = api.verify(config)
    if config.json:
        print(json.dumps(verification.to_json()))
    else:
        say(*verification.faults)
    if verification.faults:
        raise InputError(
            f"{config.scores}: the scores are not those of {config.archive}; {REMEDY}."
        )
    if not config.json:
        say(
            f"{config.scores}: {verification.num_images:,} images in {verification.num_chunks:,} "
            f"chunks are scored once each, in order, {verification.num_rejected:,} of them "
            f"rejected; {verification.num_recomputed:,} were scored again, with the same sums"
        )


def _compare(config: CompareConfig) -> None:
    from digitsum.report.page import REPORT_FILE

    comparison = api.compare(config)
    if config.json:
        print(json.dumps(comparison.to_json()))
        return
    num_other = comparison.num_images - comparison.num_same
    say(
        f"{comparison.num_images:,} images scored by {' and '.join(comparison.models)}: the same "
        f"sum for {comparison.agreement:.2%}, another for {num_other:,}"
    )
    if comparison.num_labelled:
        first, second = (right / comparison.num_labelled for right in comparison.num_right)
        say(f"{comparison.num_labelled:,} have a true sum: {first:.2%} and {second:.2%} are right")
    say(f"{config.report}: {REPORT_FILE}")


def _inspect(config: InspectConfig) -> None:
    inspected = api.inspect(config)
    if config.json:
        print(json.dumps(inspected.to_json()))
    else:
        say(*inspected.lines())


def _evaluate(config: EvaluateConfig) -> None:
    from digitsum.evaluation.metrics import EVALUATION_FILE
    from digitsum.report.page import REPORT_FILE

    evaluation = api.evaluate(config)
    metrics, confidences = evaluation.metrics, evaluation.metrics.confidences
    say(
        f"{metrics.num_images:,} images: {metrics.accuracy:.2%} right, "
        f"{metrics.accuracy_within_1:.2%} within 1, mean absolute error "
        f"{metrics.mean_absolute_error:.3f}, {metrics.num_rejected:,} rejected",
        f"the most confident 80%: {confidences.accuracy_at(0.8):.2%} right; calibration error "
        f"{confidences.calibration_error:.2%}",
    )
    if metrics.num_with_digits:
        say(f"all digits right, in order: {metrics.digits_accuracy:.2%}")
    say(f"{config.report}: {REPORT_FILE} and {EVALUATION_FILE}")
    print(json.dumps(evaluation.to_json()))
    evaluation.check_rejected(config.max_rejected_fraction)
    if evaluation.unread:
        warn(evaluation.unread_sentence())


_COMMANDS: dict[type, Callable[[Any], None]] = {
    SynthConfig: lambda config: _say_written(synth(config)),
    ImportNpyConfig: lambda config: _say_written(import_npy(config)),
    ImportImagesConfig: _import_images,
    ImportModelConfig: _import_model,
    TrainConfig: _train,
    ScoreConfig: _score,
    StatusConfig: _status,
    VerifyConfig: _verify,
    EvaluateConfig: _evaluate,
    CompareConfig: _compare,
    ReportConfig: lambda config: say(api.report(config).uri),
    InspectConfig: _inspect,
}
