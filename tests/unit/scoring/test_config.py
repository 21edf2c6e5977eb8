import pytest

from digitsum.errors import InputError
from digitsum.scoring.config import ActorOptions, EvaluateConfig, ScoreConfig, VerifyConfig


@pytest.mark.parametrize(
    "options",
    [
        {"cpus_per_actor": 0},
        {"min_actors": 0},
        {"batch_size": 0},
        {"batch_size": -64},
        {"max_actors": 0},
        {"max_actors": 2, "min_actors": 3},
        {"gpus_per_actor": -1.0},
        {"gpus_per_actor": -0.5},
        {"gpus_per_actor": 1.5},
        {"gpus_per_actor": float("nan")},
        {"gpus_per_actor": float("inf")},
    ],
    ids=str,
)
def test_actors_that_cannot_be_are_refused_by_the_options_name(options):
    (option, *_) = options
    with pytest.raises(InputError, match=f"--{option.replace('_', '-')}"):
        ActorOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"cpus_per_actor": 1, "min_actors": 1, "batch_size": 1},
        {"max_actors": None, "min_actors": 9},
        {"max_actors": 3, "min_actors": 3},
        {"gpus_per_actor": 0.0},
        {"gpus_per_actor": 0.25},
        {"gpus_per_actor": 1.0},
        {"gpus_per_actor": 2.0},
    ],
    ids=str,
)
def test_actors_at_the_bounds_are_taken(options):
    actors = ActorOptions(**options)
    assert {option: getattr(actors, option) for option in options} == options


@pytest.mark.parametrize("chunk_images", [0, -1])
def test_chunks_without_images_are_refused(chunk_images):
    with pytest.raises(InputError, match=f"--chunk-images {chunk_images}"):
        ScoreConfig(archive="a", scores="s", model="b", chunk_images=chunk_images)
    with pytest.raises(InputError, match=f"--chunk-images {chunk_images}"):
        EvaluateConfig(archive="a", model="b", chunk_images=chunk_images)
    with pytest.raises(InputError, match=f"--chunk-images {chunk_images}"):
        VerifyConfig(archive="a", scores="s", chunk_images=chunk_images)


def test_bundle_and_number_of_digits_need_not_be_given():
    for config in (ScoreConfig(archive="a", scores="s"), EvaluateConfig(archive="a")):
        assert (config.model, config.known_count) == (None, None)


def test_a_chunk_of_one_image_is_taken():
    assert ScoreConfig(archive="a", scores="s", model="b", chunk_images=1).chunk_images == 1
    assert EvaluateConfig(archive="a", model="b", chunk_images=1).chunk_images == 1


@pytest.mark.parametrize(
    ("given", "fraction"),
    [
        ("1%", 0.01),
        ("0.1%", 0.001),
        ("0.001", 0.001),
        ("0", 0),
        ("0%", 0),
        ("100%", 1),
        ("1", 1),
        ("1e-3", 0.001),
        (" 2.5 % ", 0.025),
    ],
)
def test_what_may_be_rejected_is_a_percentage_or_a_fraction(given, fraction):
    config = ScoreConfig(archive="a", scores="s", max_rejected=given)
    assert config.max_rejected_fraction == pytest.approx(fraction, rel=1e-12)


@pytest.mark.parametrize(
    "given",
    ["", "%", "few", "1%%", "%1", "1 percent", "1,5%", "-1%", "-0.1", "101%", "1.5", "nan", "inf%"],
)
def test_what_may_be_rejected_is_refused_unless_it_is_0_to_100_percent(given):
    with pytest.raises(InputError, match=f"^--max-rejected {given}: give "):
        ScoreConfig(archive="a", scores="s", max_rejected=given)


def test_one_percent_may_be_rejected_where_nothing_is_said():
    assert ScoreConfig(archive="a", scores="s").max_rejected_fraction == 0.01


def test_a_sample_to_verify_is_of_at_least_no_images():
    assert VerifyConfig(archive="a", scores="s", sample=0).sample == 0
    with pytest.raises(InputError, match="--sample -1: give at least 0"):
        VerifyConfig(archive="a", scores="s", sample=-1)


@pytest.mark.parametrize(
    ("options", "images"),
    [
        (ActorOptions(), 1024),
        (ActorOptions(cpus_per_actor=32), 2048),
        (ActorOptions(batch_size=1000), 2000),
        (ActorOptions(batch_size=5000), 5000),
        (ActorOptions(gpus_per_actor=1), 2048),
    ],
)
def test_whole_passes_are_read_and_one_for_each_thread_at_least(options, images):
    assert options.images_per_read == images
    assert images >= options.images_per_batch * options.cpus_per_actor
