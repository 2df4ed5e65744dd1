"""Loggers, environment variables, and the context of a forward pass."""

import logging
import threading

import pytest

from drivedit.utils import ForwardContext, get_env_var, get_forward_context, init_logger, set_forward_context


def test_a_logger_writes_once_from_its_level_on(capsys, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    root = logging.getLogger().level
    logger = init_logger("drivedit.test.logger", logging.WARNING)
    assert init_logger("drivedit.test.logger", logging.WARNING) is logger and len(logger.handlers) == 1
    logger.info("hidden")
    logger.warning("shown")
    assert logging.getLogger().level == root
    told = capsys.readouterr().err
    assert told.count("shown") == 1 and "drivedit.test.logger" in told and "hidden" not in told
    child = init_logger("drivedit.test.logger.child")
    assert not child.handlers and child.level == logging.INFO


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("0", bool, False), ("false", bool, False), ("", bool, False), ("No", bool, False), ("1", bool, True),
        ("TRUE", bool, True), ("17", int, 17), ("2.5", float, 2.5), ("a", str, "a"),
        ("1,2", lambda text: text.split(","), ["1", "2"]),
    ],
)  # fmt: skip
def test_a_variable_has_the_type_that_is_wanted(monkeypatch, text, kind, value):
    monkeypatch.setenv("DRIVEDIT_TEST", text)
    assert get_env_var("DRIVEDIT_TEST", "default", kind) == value


def test_a_variable_that_is_not_set_is_its_default(monkeypatch):
    monkeypatch.delenv("DRIVEDIT_TEST", raising=False)
    default = object()
    assert get_env_var("DRIVEDIT_TEST") is None and get_env_var("DRIVEDIT_TEST", default, int) is default


@pytest.mark.parametrize(("text", "kind"), [("maybe", bool), ("many", int), ("1e", float)])
def test_a_variable_of_another_type_is_named(monkeypatch, text, kind):
    monkeypatch.setenv("DRIVEDIT_TEST", text)
    with pytest.raises(ValueError, match=f"DRIVEDIT_TEST must be of type {kind.__name__}, got '{text}'"):
        get_env_var("DRIVEDIT_TEST", None, kind)


def test_contexts_nest_and_come_back_after_errors():
    with pytest.raises(RuntimeError, match="no forward context here"):
        get_forward_context()
    with set_forward_context(3, "outer") as outer:
        with pytest.raises(KeyError), ForwardContext(4, "inner") as inner:
            assert get_forward_context() is inner and inner.current_timestep == 4
            with inner:  # the same one again
                assert get_forward_context() is inner
            raise KeyError
        assert get_forward_context() is outer and outer.attn_metadata == "outer"
    with pytest.raises(RuntimeError):
        get_forward_context()


def test_threads_do_not_share_contexts():
    seen = []

    def look() -> None:
        try:
            get_forward_context()
        except RuntimeError as error:
            seen.append(error)

    with ForwardContext():
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    assert len(seen) == 1
