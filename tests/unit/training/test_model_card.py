import pytest

from digitsum.model.registry import build_network
from digitsum.training.calibration import Calibration
from digitsum.training.config import AdvancedOptions, TrainConfig
from digitsum.training.metrics import Epoch
from digitsum.training.model_card import model_card

BEST = Epoch(2, 3.5, 0.1, 0.4567, 0.9123, 4800, 1200, 12.5, 640.0)
CALIBRATION = Calibration(temperature=1.25, images=1000)
ARCHIVE = {"archive": "s3://images/train", "network": "baseline", "seed": 7, "digits": 3}
GLYPHS = {"glyphs": "glyphs.npz", "min_digits": 2, "learning_rate": 0.25, "distortion": 0.5}
LAST = AdvancedOptions(teachers=("one", "two"), train_on_validation=True)
AVERAGED = AdvancedOptions(average_with=("one", "two"))


@pytest.mark.parametrize(
    ("options", "phrases", "absent"),
    [
        (
            ARCHIVE,
            [
                "sum of 3 handwritten digits",
                "Network `baseline`, 3,543,077 parameters, trained from sums alone",
                "s3://images/train; 4,800 images",
                "20% of the same archive, held out (seed 7); 1,200 images",
                "91.23%, loss 0.4567",
                "of epoch 2 of 3, the one of highest validation accuracy",
                "temperature 1.250, fitted on 1,000 of the validation images",
                "step size 0.001, constant, batch 32, weight decay 0, distortion 0, pixels times 1",
                "one pass over each image",
                "runs/one",
            ],
            "second pass",
        ),
        (
            {"archive": "train", "validation": "s3://images/val"},
            [
                "s3://images/val; 1,200 images",
                "a second pass over images whose confidence is below 0.58",
            ],
            "held out",
        ),
        (
            GLYPHS,
            [
                "counter: the sum of 2 to 4 handwritten digits",
                "images of 40x168 pixels, newly composed for each epoch of glyphs.npz glyphs; 4,80",
                "images composed of glyphs that are not trained on; 1,200 images",
                "0.25, rising and falling once, batch 32, weight decay 0.02, distortion 0.5, ",
                "fitted on 1,000 images of the validation glyphs, distorted by 0.5",
            ],
            "held out",
        ),
        (
            {"start_from": "models/first", "advanced": LAST},
            [
                "sums and, for 80% of the loss, from other networks' predictions",
                "starting with the weights of models/first, taught by one, two;",
                "glyphs that it was trained on too",
                "of epoch 2 of 3, the last",
                "temperature 1.250, that of models/first",
                "too high for any other",
            ],
            "not trained on",
        ),
        (
            {"start_from": "models/first", "advanced": AVERAGED},
            ["averaged with one and two |"],
            "taught",
        ),
    ],
    ids=["archive", "validation", "glyphs", "last", "averaged"],
)
def test_model_card(options, phrases, absent):
    config = TrainConfig(out="model", batch_size=32, **options)
    network = build_network(config.network, {})
    card = model_card(config, [BEST] * 3, BEST, CALIBRATION, network, "runs/one")
    assert [phrase for phrase in phrases if phrase not in card] == []
    assert absent not in card
