"""What the judge tells people: names that fit into tables, and why nothing can be compared."""

import numpy as np

from drivedit.agents.judging.judge import compare
from drivedit.agents.judging.report import as_text, short_names
from drivedit.agents.judging.starts import JudgeSetup
from drivedit.agents.judging.trials import Drives


def test_where_nothing_can_be_compared_a_line_says_why():
    contest = JudgeSetup("a", "b", starts=2, horizon=3)
    paid = [np.full((2, 3), pay) for pay in (1.0, 2.0, 3.0)]
    drives = {f"runs/{name * 40}/agent.zip": Drives(pay, np.full((2, 3), np.nan), np.full(2, 3), np.full(2, ""))
              for name, pay in zip("xyz", paid, strict=True)}  # fmt: skip
    same = {name: Drives.empty(2, 3) for name in drives}
    told = as_text(compare(contest, {"real": same, "dream": drives}))
    assert told.count("nothing can be compared: every policy has the same return in reality") == 1
    assert "in the dream" in as_text(compare(contest, {"real": drives, "dream": same}))
    assert "nothing can be compared" not in as_text(compare(contest, {"real": drives, "dream": drives}))
    lines = told.splitlines()[:4]
    assert len({len(line) for line in lines}) == 1, "long names do not move the columns"


def test_short_names_tell_policies_apart():
    names = ["racer", "runs/a/agent.zip", "runs/b/agent.zip", "runs/c/9.safetensors"]
    assert list(short_names(names).values()) == ["racer", "a/agent", "b/agent", "9"]
    assert short_names(names).keys() == set(names)
