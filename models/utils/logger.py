"""Loggers that show what they are told."""

from __future__ import annotations

import logging

FORMAT = "%(levelname)s %(asctime)s %(name)s: %(message)s"


def init_logger(name: str, level: int = logging.INFO) -> logging.Logger:
    """A logger that writes to the standard error, unless loggers above it have handlers: then these write.

    Args:
        name: Of the logger; no other one is changed.
        level: The least level that is written.
    """
    logger = logging.getLogger(name)
    logger.setLevel(level)
    if not logger.hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
    return logger
