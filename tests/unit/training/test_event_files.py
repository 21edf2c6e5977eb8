import pytest
from tensorboardX.proto.event_pb2 import Event

from digitsum.storage.location import locate
from digitsum.training.metrics import Epoch, write_event_file


def events(data: bytes) -> list[Event]:
    """Read an event file: length, its checksum, the record, its checksum."""
    found, at = [], 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        found.append(Event.FromString(data[at + 12 : at + 12 + length]))
        at += 12 + length + 4
    return found


def test_each_epoch_leaves_a_file_with_its_figures(tmp_path):
    for number in (1, 2):
        epoch = Epoch(number, 3.5, 0.1, 3.25, 0.125, 4800, 1200, 12.5, 640.0, 0.25)
        write_event_file(locate(str(tmp_path)), epoch)
    files = sorted((tmp_path / "tensorboard").iterdir())
    assert [file.name[-5:] for file in files] == ["00001", "00002"]
    assert all(file.name.startswith("events.out.tfevents.") for file in files)
    scalars = {
        value.tag: (event.step, value.simple_value)
        for event in events(files[1].read_bytes())
        for value in event.summary.value
    }
    assert scalars == {
        "loss/train": (2, 3.5),
        "loss/validation": (2, 3.25),
        "accuracy/train": (2, pytest.approx(0.1)),
        "accuracy/validation": (2, 0.125),
        "speed/images_per_s": (2, 640.0),
        "speed/data_wait": (2, 0.25),
    }
