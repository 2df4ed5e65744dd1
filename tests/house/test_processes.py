"""Processes that are killed: their folders are removed by the next, and their workers end."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from drivedit.utils import begin_worker, one_thread, work_folder


def test_a_work_folder_goes_and_so_do_those_of_the_dead(tmp_path):
    place = tmp_path / "place"
    held = textwrap.dedent(f"""
        import time
        from drivedit.utils import work_folder
        with work_folder({str(place)!r}) as work:
            (work / "much").write_text("much")
            print(work, flush=True)
            time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        theirs = Path(other.stdout.readline().strip())
        with pytest.raises(OSError, match="full"), work_folder(place) as mine:
            assert theirs.is_dir() and mine != theirs, "what a living process makes stays"
            raise OSError("the disk is full")
        assert not mine.exists() and theirs.is_dir()
        other.kill()
        other.wait()
    with work_folder(place) as mine:
        assert not theirs.exists()
        (mine / "file").touch()
        mine.replace(place)
    assert [path.name for path in tmp_path.iterdir()] == ["place"] and (place / "file").exists()


def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""
            import multiprocessing, os, time
            from concurrent.futures import ProcessPoolExecutor
            from drivedit.utils import begin_worker
            if __name__ == "__main__":
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), begin_worker) as pool:
                    print(pool.submit(os.getpid).result(), flush=True)
                    pool.submit(time.sleep, 60).result()
        """)
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert _runs(worker)
        parent.kill()
        parent.wait()
    until = time.monotonic() + 30
    while _runs(worker) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(worker)
    with pytest.raises(RuntimeError, match="has a parent"):
        begin_worker()


def _runs(process: int) -> bool:
    """Whether a process is there, and not only waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_program_of_one_world_takes_one_thread_and_gives_the_others_back(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_thread():
            assert torch.get_num_threads() == 3, "OMP_NUM_THREADS decides: the tests set it"
        monkeypatch.delenv("OMP_NUM_THREADS")
        with pytest.raises(KeyError), one_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
