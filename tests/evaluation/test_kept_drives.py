"""The true drives that an evaluation keeps: built once for the same sources, sizes and code, and anew for others."""

from dataclasses import replace

import numpy as np

from drivedit.config import DEFAULT_WORLD
from drivedit.evaluation import sources
from drivedit.evaluation.sources import Sources


def test_true_drives_are_kept(tmp_path, monkeypatch):
    here, calls = Sources(DEFAULT_WORLD, driver="drivedit.data:make_driver", workers=1), []

    def build():
        calls.append(1)
        return {"x": np.arange(3)}

    for _ in range(2):
        assert sources.cached(tmp_path, "x", here, {"n": 1}, build)["x"].tolist() == [0, 1, 2]
    sources.cached(tmp_path, "x", here, {"n": 2}, build)
    sources.cached(tmp_path, "x", replace(here, seed=3), {"n": 1}, build)
    assert len(calls) == 3 and len(list(tmp_path.iterdir())) == 3
    monkeypatch.setattr(sources, "code_fingerprint", lambda *names: "other code")
    for _ in range(2):
        assert list(sources.cached(tmp_path, "x", here, {"n": 1}, build)) == ["x"]
    assert len(calls) == 4 and len(list(tmp_path.iterdir())) == 3, "built anew in its place"
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    assert sources.cached(tmp_path, "x", here, {"n": 1}, build)["x"].tolist() == [0, 1, 2] and len(calls) == 5
