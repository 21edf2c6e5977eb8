import pytest

from digitsum.errors import InputError
from digitsum.scoring.config import ActorOptions, EvaluateConfig, ScoreConfig


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
        ScoreConfig(archive="a", scores="s", bundle="b", chunk_images=chunk_images)
    with pytest.raises(InputError, match=f"--chunk-images {chunk_images}"):
        EvaluateConfig(archive="a", bundle="b", chunk_images=chunk_images)


def test_bundle_and_number_of_digits_need_not_be_given():
    for config in (ScoreConfig(archive="a", scores="s"), EvaluateConfig(archive="a")):
        assert (config.bundle, config.digits) == (None, None)


def test_a_chunk_of_one_image_is_taken():
    assert ScoreConfig(archive="a", scores="s", bundle="b", chunk_images=1).chunk_images == 1
    assert EvaluateConfig(archive="a", bundle="b", chunk_images=1).chunk_images == 1
