"""The command line: arguments in, one call, exit code out. `digitsum --help` lists it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import tyro
from tyro.conf import FlagCreatePairsOff, OmitArgPrefixes, PositionalMetavarFromFieldName

from digitsum.archive.import_images import ImportImagesConfig, import_images
from digitsum.archive.import_npy import ImportNpyConfig, import_npy
from digitsum.archive.synth import SynthConfig, synth
from digitsum.archive.writing import WrittenArchive
from digitsum.errors import DigitsumError
from digitsum.model.import_model import ImportModelConfig, import_model
from digitsum.scoring.config import EvaluateConfig, ScoreConfig
from digitsum.scoring.plan import ScorePlan
from digitsum.training.config import TrainConfig

_DESCRIPTION = "Adds up the handwritten digits in images: trains networks, scores archives, on Ray."

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
    | Annotated[TrainConfig, _subcommand("train")]
    | Annotated[ScoreConfig, _subcommand("score")]
    | Annotated[EvaluateConfig, _subcommand("evaluate")]
)


def main(arguments: Sequence[str] | None = None, prog: str = "digitsum") -> int:
    """Run a command line, by default the process's own; return its exit code.

    0 done, 2 bad input; for the latter one sentence goes to stderr. What cannot be parsed ends the
    process with 2 itself.
    """
    try:
        config: Any = tyro.cli(
            Command,
            prog=prog,
            description=_DESCRIPTION,
            args=list(sys.argv[1:] if arguments is None else arguments),
            config=(OmitArgPrefixes, FlagCreatePairsOff, PositionalMetavarFromFieldName),
        )
        _COMMANDS[type(config)](config)
    except DigitsumError as error:
        sys.stderr.write(f"digitsum: {error}\n")
        return error.exit_code
    return 0


def _synth(config: SynthConfig) -> None:
    _say_written(synth(config))


def _import_npy(config: ImportNpyConfig) -> None:
    _say_written(import_npy(config))


def _import_images(config: ImportImagesConfig) -> None:
    _say_written(import_images(config))


def _import_model(config: ImportModelConfig) -> None:
    print(f"{config.bundle}: bundle written, model {import_model(config)}")


def _train(config: TrainConfig) -> None:
    from digitsum.report.curves import draw_curves
    from digitsum.report.figures import publish_figure
    from digitsum.training.train import train  # Ray takes a second to import: only where needed

    trained = train(config)
    curves = trained.run.join("curves.png")
    publish_figure(draw_curves(trained.history, f"{config.model}, run {trained.run.name}"), curves)
    best = trained.best
    print(f"{trained.run.uri}: run, with curves.png and curves.json")
    print(
        f"{trained.bundle_uri}: bundle of epoch {best.epoch} of {len(trained.history)}, validation "
        f"accuracy {best.validation_accuracy:.2%} on {best.validation_images:,} images"
    )


def _score(config: ScoreConfig) -> None:
    from digitsum.report.contact_sheet import NUM_IMAGES, draw_contact_sheet
    from digitsum.report.figures import publish_figure
    from digitsum.scoring.sample import first_scored
    from digitsum.scoring.score import plan, score

    if config.plan:
        summary = plan(config).summary()
        print(json.dumps(summary) if config.json else _plan_table(summary))
        return
    scored = score(config, announce=None if config.json else _say_plan)
    leaves = ["manifest.json"]
    if scored.plan.to_score:
        sample = first_scored(
            scored.archive,
            scored.scores,
            scored.plan.to_score[0],
            scored.plan.model_digest,
            config.read,
            NUM_IMAGES,
        )
        publish_figure(draw_contact_sheet(sample), scored.run.join("sample.png"))
        leaves.append("sample.png")
    if config.json:
        print(json.dumps(scored.to_json()))
        return
    print(
        f"{scored.scores.uri}: {scored.num_images:,} images scored in {scored.seconds:.1f} s, "
        f"{scored.images_per_s:,.0f} images/s; {scored.num_rejected:,} of them rejected"
    )
    print(f"{scored.run.uri}: run, with {' and '.join(leaves)}")


def _evaluate(config: EvaluateConfig) -> None:
    from digitsum.archive.location import locate
    from digitsum.archive.publish import publish_bytes
    from digitsum.model.explain import explain
    from digitsum.model.predictor import TorchPredictor
    from digitsum.report.certainty import draw_certainty
    from digitsum.report.confusion import draw_confusion
    from digitsum.report.figures import publish_figure
    from digitsum.report.gallery import draw_gallery
    from digitsum.scoring.evaluate import evaluate

    evaluated = evaluate(config)
    evaluation = evaluated.evaluation
    report = locate(config.report)
    predictor = TorchPredictor(evaluated.bundle, batch_size=1, num_digits=config.digits)
    gallery = draw_gallery(evaluated.hits, evaluated.worst_misses, partial(explain, predictor))
    publish_figure(draw_confusion(evaluation, config.archive), report.join("confusion.png"))
    publish_figure(draw_certainty(evaluation.certainty), report.join("certainty.png"))
    publish_figure(gallery, report.join("gallery.png"))
    figures = json.dumps(evaluated.to_json())
    publish_bytes(f"{figures}\n".encode(), report.join("evaluation.json"))
    print(
        f"{evaluation.num_images:,} images: {evaluation.accuracy:.2%} right, "
        f"{evaluation.accuracy_within_1:.2%} within 1, mean absolute error "
        f"{evaluation.mean_absolute_error:.3f}, {evaluation.num_rejected:,} rejected"
    )
    print(
        f"the most confident 80%: {evaluation.certainty.accuracy_at(0.8):.2%} right; calibration "
        f"error {evaluation.certainty.calibration_error:.2%}"
    )
    if evaluation.num_strings:
        print(f"all digits right, in order: {evaluation.digits_accuracy:.2%}")
    print(f"{report.uri}: confusion.png, certainty.png, gallery.png, evaluation.json")
    print(figures)


def _say_written(written: WrittenArchive) -> None:
    print(
        f"{written.uri}: {written.num_images:,} images of {written.shape} pixels in "
        f"{written.num_shards} shards"
    )


def _say_plan(plan: ScorePlan) -> None:
    print(_plan_table(plan.summary()), flush=True)


def _plan_table(summary: dict[str, dict[str, int]]) -> str:
    return "\n".join(
        f"{decision:8}" + "".join(f"{number:12,} {what}" for what, number in counts.items())
        for decision, counts in summary.items()
    )


_COMMANDS: dict[type, Callable[[Any], None]] = {
    SynthConfig: _synth,
    ImportNpyConfig: _import_npy,
    ImportImagesConfig: _import_images,
    ImportModelConfig: _import_model,
    TrainConfig: _train,
    ScoreConfig: _score,
    EvaluateConfig: _evaluate,
}
