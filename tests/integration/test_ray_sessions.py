"""What a Ray that digitsum started on this machine leaves on its disk."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from digitsum.ray_runtime import LOCK_FILE, SESSIONS_KEPT

CONNECT = "from digitsum.ray_runtime import connect_ray\nwith connect_ray(): pass"


def test_of_the_rays_that_digitsum_started_only_the_last_leave_their_logs():
    with tempfile.TemporaryDirectory() as short:  # Ray puts sockets below it
        directory = Path(short) / "ray"
        sessions = [directory / f"session_2000-01-01_00-00-{n:02}_0_1" for n in range(12)]
        for session in sessions:
            session.mkdir(parents=True)
            (session / LOCK_FILE).touch()
        others = directory / "session_1999-01-01_00-00-00_0_1"
        others.mkdir()
        for _ in range(2):
            environment = os.environ | {"RAY_TMPDIR": short}
            subprocess.run([sys.executable, "-c", CONNECT], env=environment, check=True)
        found = sorted(path for path in directory.glob("session_[12]*"))
        assert found[0] == others
        assert found[1:-2] == sessions[-(SESSIONS_KEPT - 2) :]
        assert len(found) == SESSIONS_KEPT + 1
        own = found[-1]
        assert (own / "logs").is_dir()
        assert (own / LOCK_FILE).exists()
        shutil.rmtree(directory)
