"""The command line: arguments in, one call, exit code out. `digitsum --help` lists it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, PositionalMetavarFromFieldName

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
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.location import locate
from digitsum.training.config import TrainConfig

_DESCRIPTION = """Adds up the handwritten digits in images: trains networks, scores archives.

First steps, with the model that comes with it:
  digitsum import images scans.tar --invert --out scans
  digitsum score --archive scans --scores scores
  digitsum inspect scores

Then open scores/_runs/*/report.html. Every place may be a URI such as s3://bucket/archive.
`digitsum --version` says which this is.

Exit codes: 0 done, 2 bad input, 3 too many rejected, 4 scores held by another run, 5 drift,
130 interrupted."""
# What a shell says of a command that SIGINT, 2, ended: 128 and the signal's number.
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

    0 done, 2 bad input, 3 too many rejected, 4 scores held by another run, 5 drift, 130 interrupted
    by Ctrl-C; for all but 0 one sentence goes to stderr. What cannot be parsed ends the process
    with 2 itself.
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

    Raises InputError where a value cannot be; ends the process with 2 where they are no command.
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
    """Say what an archive that was written holds, and warn where its ink seems to be dark."""
    say(
        f"{written.uri}: {written.num_images:,} images of {written.shape} pixels in "
        f"{written.num_shards} shards"
    )
    if written.is_inverted:
        warn(
            f"{written.uri}: most images are bright, as paper with dark ink is; models read bright "
            "ink on dark: look at them with `digitsum inspect`, and import again with --invert"
        )


def _synth(config: SynthConfig) -> None:
    _say_written(synth(config))


def _import_npy(config: ImportNpyConfig) -> None:
    _say_written(import_npy(config))


def _import_images(config: ImportImagesConfig) -> None:
    written = import_images(config)
    _say_written(written)
    written.check_rejected(parse_fraction("--max-rejected", config.max_rejected))
    if written.rejected:
        warn(written.said_of_rejected())


def _import_model(config: ImportModelConfig) -> None:
    say(f"{config.out}: model written, model {import_model(config)}")


def _train(config: TrainConfig) -> None:
    from digitsum.evaluation.evaluate import evaluate_validation
    from digitsum.report.build import report_of
    from digitsum.training.train import train  # Ray takes a second to import: only where needed

    trained = train(config)
    try:
        evaluate_validation(trained.run)
    except DigitsumError as error:  # the training is complete
        warn(f"the model was not evaluated on its validation images: {error}")
    best, averaged = trained.best, ", averaged with others" if config.average_with else ""
    say(f"{trained.run.uri}: run, with {' and '.join(['curves.json', *report_of(trained.run)])}")
    say(
        f"{trained.model_uri}: model of epoch {best.epoch} of {len(trained.history)}{averaged}, "
        f"validation accuracy {best.validation_accuracy:.2%} on {best.validation_images:,} images"
    )


def _score(config: ScoreConfig) -> None:
    from digitsum import api
    from digitsum.scoring.drift import drift_sentence

    def announce(plan: ScorePlan) -> None:
        if not config.json:
            say(*plan.summary().lines(), api.expected_time(config, plan))

    if config.plan:
        plan = api.plan(config)
        announce(plan)
        if config.json:
            print(json.dumps(to_python(plan.summary())))
        return
    result, files = api.score(config, announce)
    outcome = result.outcome
    if config.json:
        print(json.dumps(outcome.to_json()))
    else:
        say(
            f"{outcome.scores}: {outcome.images - outcome.rejected:,} images scored and "
            f"{outcome.rejected:,} rejected in {outcome.elapsed_s:.1f} s, "
            f"{outcome.images_per_s:,.0f} images/s with the start",
            f"{result.run.uri}: run, with {' and '.join(files)}",
            outcome.bottleneck,
            drift_sentence(outcome.shifts),
        )
    result.check_rejected()
    if config.fail_on_drift:
        result.check_drift()


def _status(config: StatusConfig) -> None:
    from digitsum.scoring.status import status

    found = status(config)
    if config.json:
        print(json.dumps(found.to_json()))
        return
    say(f"{found.scores_uri}: current scores in {found.current or 'no directory yet'}")
    for run in found.runs:
        say(f"  {run.name}: {run.sentence()}")


def _verify(config: VerifyConfig) -> None:
    from digitsum.scoring.verify import REMEDY, verify

    found = verify(config)
    if config.json:
        print(json.dumps(found.to_json()))
    else:
        say(*found.faults)
    if found.faults:
        raise InputError(
            f"{config.scores}: the scores are not those of {config.archive}; {REMEDY}."
        )
    if not config.json:
        say(
            f"{config.scores}: {found.num_images:,} images in {found.num_chunks:,} chunks are "
            f"scored once each, in order, {found.num_rejected:,} of them rejected; "
            f"{found.num_recomputed:,} were scored again, with the same sums"
        )


def _report(config: ReportConfig) -> None:
    from digitsum.report.build import make_report

    say(make_report(locate(config.run)).uri)


def _compare(config: CompareConfig) -> None:
    from digitsum.evaluation.compare import compare
    from digitsum.report.comparison import comparison_page
    from digitsum.report.page import REPORT_FILE, publish_page

    directory = locate(config.report)
    directory.check_directory()
    found = compare(config)
    publish_page(comparison_page(found, config.archive), directory.join(REPORT_FILE))
    if config.json:
        print(json.dumps(found.to_json()))
        return
    say(
        f"{found.num_images:,} images scored by {' and '.join(found.models)}: the same sum of "
        f"{found.agreement:.2%}, another of {found.num_images - found.num_same:,}"
    )
    if found.num_labelled:
        first, second = (right / found.num_labelled for right in found.num_right)
        say(f"{found.num_labelled:,} have a true sum: right of {first:.2%} and {second:.2%}")
    say(f"{config.report}: {REPORT_FILE}")


def _inspect(config: InspectConfig) -> None:
    from digitsum.report.figures import NUM_IMAGES, draw_contact_sheet, to_png
    from digitsum.report.inspect import inspect

    found = inspect(config.path, config.read)
    if config.json:
        print(json.dumps(found.to_json()))
    else:
        say(*found.lines())
    if not found.images:
        if config.sheet is not None:
            raise InputError(f"{config.path}: a {found.kind} has no images; leave --sheet out.")
        return
    if config.sheet is not None:
        png = to_png(draw_contact_sheet(found.images[:NUM_IMAGES]))
        publish_bytes(png, locate(config.sheet))


def _evaluate(config: EvaluateConfig) -> None:
    from digitsum.evaluation.evaluate import evaluate
    from digitsum.evaluation.metrics import EVALUATION_FILE, write_evaluation
    from digitsum.report.build import make_report

    evaluation = evaluate(config)
    directory, metrics = locate(config.report), evaluation.metrics
    write_evaluation(evaluation, directory)
    report = make_report(directory)
    say(
        f"{metrics.num_images:,} images: {metrics.accuracy:.2%} right, "
        f"{metrics.accuracy_within_1:.2%} within 1, mean absolute error "
        f"{metrics.mean_absolute_error:.3f}, {metrics.num_rejected:,} rejected"
    )
    confidences = metrics.confidences
    say(
        f"the most confident 80%: {confidences.accuracy_at(0.8):.2%} right; calibration error "
        f"{confidences.calibration_error:.2%}"
    )
    if metrics.num_with_digits:
        say(f"all digits right, in order: {metrics.digits_accuracy:.2%}")
    say(f"{config.report}: {report.name} and {EVALUATION_FILE}")
    print(json.dumps(evaluation.to_json()))
    evaluation.check_rejected(parse_fraction("--max-rejected", config.max_rejected))
    if evaluation.unread:
        warn(evaluation.unread_sentence())


_COMMANDS: dict[type, Callable[[Any], None]] = {
    SynthConfig: _synth,
    ImportNpyConfig: _import_npy,
    ImportImagesConfig: _import_images,
    ImportModelConfig: _import_model,
    TrainConfig: _train,
    ScoreConfig: _score,
    StatusConfig: _status,
    VerifyConfig: _verify,
    EvaluateConfig: _evaluate,
    CompareConfig: _compare,
    ReportConfig: _report,
    InspectConfig: _inspect,
}
