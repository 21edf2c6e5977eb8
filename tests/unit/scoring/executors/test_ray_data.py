import pickle

import pytest
from factories import make_chunk

from digitsum.errors import InputError
from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.executors.ray_data import _Actor


def call_actor(chunk, error: Exception | None = None):
    def worker(chunk):
        if error:
            raise error
        return chunk.num_rows

    actor = _Actor(lambda compute: worker, ComputeOptions())
    return pickle.loads(actor({"chunk": pickle.dumps(chunk)})["result"])


def test_actor_result():
    chunk = make_chunk(5)
    assert call_actor(chunk) == (chunk.id, 5)


def test_actor_input_error_is_a_result():
    # Raised, Ray Data would drop it with its block, and the run would go on.
    chunk = make_chunk(5)
    chunk_id, error = call_actor(chunk, InputError("cannot be written; make room."))
    assert chunk_id == chunk.id
    assert isinstance(error, InputError)
    assert str(error) == "cannot be written; make room."


def test_actor_other_error_is_raised():
    with pytest.raises(ZeroDivisionError):
        call_actor(make_chunk(), ZeroDivisionError())
