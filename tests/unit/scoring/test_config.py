import pytest

from digitsum.errors import InputError
from digitsum.scoring.config import (
    CompareConfig,
    ComputeOptions,
    EvaluateConfig,
    ScoreConfig,
    VerifyConfig,
)

CONFIGS = [
    lambda **options: ScoreConfig(archive="a", scores="s", **options),
    lambda **options: EvaluateConfig(archive="a", **options),
    lambda **options: VerifyConfig(archive="a", scores="s", **options),
    lambda **options: CompareConfig(archive="a", scores="s", **options),
]


@pytest.mark.parametrize(
    "options",
    [
        {"cpus_per_actor": 0},
        {"min_actors": 0},
        {"batch_size": 0},
        {"batch_size": -64},
        {"max_actors": 0},
        {"max_actors": 2, "min_actors": 3},
        *[{"gpus_per_actor": number} for number in (-1.0, -0.5, 1.5, float("nan"), float("inf"))],
        {"executor": "threads", "gpus_per_actor": 1},
    ],
    ids=str,
)
def test_compute_options_impossible(options):
    (option, *_) = options
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')}"):
        ComputeOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"cpus_per_actor": 1, "min_actors": 1, "batch_size": 1},
        {"max_actors": None, "min_actors": 9},
        {"max_actors": 3, "min_actors": 3},
        *[{"gpus_per_actor": number} for number in (0.0, 0.25, 1.0, 2.0)],
    ],
    ids=str,
)
def test_compute_options_at_the_bounds(options):
    compute = ComputeOptions(**options)
    assert {option: getattr(compute, option) for option in options} == options


@pytest.mark.parametrize(
    ("compute", "num_images"),
    [
        (ComputeOptions(), 1024),
        (ComputeOptions(cpus_per_actor=32), 2048),
        (ComputeOptions(batch_size=1000), 2000),
        (ComputeOptions(batch_size=5000), 5000),
        (ComputeOptions(gpus_per_actor=1), 2048),
    ],
)
def test_images_per_read_are_whole_passes(compute, num_images):
    assert compute.images_per_read == num_images
    assert num_images >= compute.images_per_batch * compute.cpus_per_actor


@pytest.mark.parametrize("make", CONFIGS)
def test_config_chunk_images(make):
    assert make(chunk_images=1).chunk_images == 1
    for chunk_images in (0, -1):
        with pytest.raises(InputError, match=f"--chunk-images {chunk_images}: give at least 1"):
            make(chunk_images=chunk_images)


def test_verify_sample_below_0():
    assert CONFIGS[2](sample=0).sample == 0
    with pytest.raises(InputError, match="--sample -1: give at least 0"):
        CONFIGS[2](sample=-1)


@pytest.mark.parametrize(
    ("given", "fraction"),
    [
        *[("0.1%", 0.001), ("0.001", 0.001), ("0", 0), ("0%", 0), ("100%", 1), ("1", 1)],
        *[("1e-3", 0.001), (" 2.5 % ", 0.025)],
    ],
)
def test_max_rejected_fraction(given, fraction):
    assert CONFIGS[0]().max_rejected_fraction == 0.01
    config = CONFIGS[0](max_rejected=given)
    assert config.max_rejected_fraction == pytest.approx(fraction, rel=1e-12)


@pytest.mark.parametrize(
    "given",
    ["", "%", "few", "1%%", "%1", "1 percent", "1,5%", "-1%", "-0.1", "101%", "1.5", "nan", "inf%"],
)
def test_max_rejected_invalid(given):
    for make in CONFIGS[:2]:
        with pytest.raises(InputError, match=f"^--max-rejected {given}: give "):
            make(max_rejected=given)
