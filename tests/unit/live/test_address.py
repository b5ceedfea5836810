"""The socket of a run's folder: only its user can connect to it, however long its path is."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gpuexec.live import address


@pytest.mark.parametrize("depth", [0, 1, 12])
def test_a_path_of_any_length(tmp_path: Path, depth: int):
    folder = tmp_path.joinpath(*["a_folder_with_quite_a_long_name"] * depth)
    folder.mkdir(parents=True, exist_ok=True)
    with address.listen(folder) as server:
        mode = (folder / address.SOCKET).stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        with address.connect(folder, 5.0) as client:
            client.sendall(b"hello")
            connection, _ = server.accept()
            with connection:
                assert connection.recv(10) == b"hello"
    with pytest.raises(ConnectionRefusedError):
        address.connect(folder, 5.0)
    address.remove(folder)
    address.remove(folder)
    with pytest.raises(FileNotFoundError):
        address.connect(folder, 5.0)


def test_a_socket_that_is_there_already(tmp_path: Path):
    with address.listen(tmp_path), pytest.raises(OSError, match="in use"):
        address.listen(tmp_path)
