"""Command lines made of functions: the signature gives the options, and the docstring their help.

A parameter `first_seed: int = 0` is the option `--first-seed`, one without a default is needed, a bool is `--flag` and
`--no-flag`, a list or tuple takes several values, and the fields of a dataclass are options of their own. Where the
docstring ends a sentence with `None: a random one`, the help says `(default: a random one)`. Every option can stand in
a YAML file as well, by the parameter's name: `--config FILE`.
"""

from __future__ import annotations

import argparse
import inspect
import re
import shlex
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict, is_dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

typed: ContextVar[str] = ContextVar("typed", default="")  # the command line of the function that runs
CONFIG, PRINT = "YAML file of options", "print the options as such a file (default: no)"
NEEDED = inspect.Parameter.empty
FAULTS = (ValueError, OSError, ImportError, RuntimeError, FloatingPointError)  # are told in a line


class Option(NamedTuple):
    """A parameter of a function, or a field of a dataclass."""

    name: str
    kind: Any  # without its None
    optional: bool
    default: Any
    about: str


class _OneLine(argparse.ArgumentParser):
    """A parser that tells what is wrong in a line, without how Python calls types."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Ends the process."""
        message = re.sub(r"<class '([\w.]+)'>|typing\.", r"\1", " ".join(message.split()))
        message = re.sub(r'Parser key "([\w.]+)"', r"\1", message)
        print(f"error: {message}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)


def run(
    commands: Callable[..., Any] | Mapping[str, tuple[str, str]],
    words: Sequence[str] | None = None,
    *,
    program: str = "",
    about: str = "",
    known: Mapping[str, Callable[[], Iterable[str]]] | None = None,
    dotted: bool = False,
) -> int:
    """Runs a command; errors are told in a line, wrong options end the process with status 2.

    Args:
        commands: A function; or commands by name, each with the place `module:function` of its function, which is
            imported only when it is chosen, and a line of help. Parameters that the name is followed by in capitals
            are given without their names: `"sheet FOLDER"`.
        words: What was typed; None: the arguments of this process.
        program: How the command line begins; empty: with the file of the process.
        about: The head of the help of several commands.
        known: Functions that list names for the help of a parameter, by its name.
        dotted: Options are called as parameters are, and fields as `--parameter.field`.

    Returns:
        The exit status: what the function returns if that is a whole number, 1 after an error, 130 where it was
        interrupted, else 0. A text or path that it returns is printed.
    """
    words, program = list(sys.argv[1:] if words is None else words), program or f"python {sys.argv[0]}"
    token = typed.set(shlex.join([*program.split(), *words]))
    try:
        if callable(commands):
            function, positions = commands, []
        else:
            name = _choose(commands, words[:1], program, about)
            function, (_, *positions) = resolve_name(commands[name][0]), name.lower().split()
            program, words = f"{program} {words[0]}", words[1:]
        names = known if known and {"-h", "--help"} & {*words} else {}
        parser = _parser(function, positions, program, names, dotted)
        result = function(**_values(function, parser.instantiate(parser.parse_args(words)), dotted))
    except argparse.ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (*FAULTS, resolve_name("gymnasium.error:Error")) as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    finally:
        typed.reset(token)
    if isinstance(result, (str, Path)):
        print(result)
    return result if isinstance(result, int) else 0


def in_words(error: BaseException) -> str:
    """An error for people: without the number that the operating system gives it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _choose(commands: Mapping[str, Any], words: list[str], program: str, about: str) -> str:
    """The command of the table that the first word names."""
    parser = _OneLine(prog=program, description=about, epilog=f"{program} COMMAND --help shows the options of one.")
    choice = parser.add_subparsers(title="commands", dest="name", metavar="COMMAND", required=True)
    by_name = {key.split()[0]: key for key in commands}
    for name, key in by_name.items():
        choice.add_parser(name, help=commands[key][1], add_help=False)
    return by_name[parser.parse_args(words).name]


def _parser(
    function: Callable[..., Any], positions: Sequence[str], program: str, known: Mapping[str, Any], dotted: bool
) -> ArgumentParser:
    """The options of a function."""
    from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        def _get_help_string(self, action: argparse.Action) -> str:
            return PRINT if action.dest == "print_config" else _help(action)

    class Parser(_OneLine, ArgumentParser):
        pass

    def add(thing: Any) -> Iterator[str]:
        for name, kind, optional, default, text in _options(thing):
            if is_dataclass(kind):
                if dotted:
                    parser.add_class_arguments(kind, name)  # type: ignore[arg-type]
                    if is_dataclass(default) and not isinstance(default, type):
                        parser.set_defaults({f"{name}.{field}": value for field, value in asdict(default).items()})
                else:
                    yield from add(kind)
                continue
            option, several = f"--{name if dotted else name.replace('_', '-')}", {} if dotted else _several(kind)
            spec: dict[str, Any] = {"type": kind | None if optional else kind, "help": about(name, text), **several}
            if short := {int: "N", float: "X"}.get(several.get("type", kind)):
                spec["metavar"] = short
            if kind is bool:
                spec = {"action": ActionYesNo(yes_prefix="", no_prefix="no-"), "help": spec["help"]}
            if name in positions:
                option = spec["metavar"] = name.upper()
                parser.add_argument(name, **spec)
            elif default is NEEDED:
                parser.add_argument(option, required=True, **spec)
            else:
                parser.add_argument(option, default=list(default) if isinstance(default, tuple) else default, **spec)
                continue
            yield option if name in positions else f"{option} {name.upper()}"

    def about(name: str, text: str) -> str:
        names = ", ".join(known[name]()) if name in known else ""
        return re.sub(r"(?=[;.,] [Nn]one: |\.?$)", lambda _: names and f": {names}", text, count=1)

    description = re.split(r"\n(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0]
    flag = "--print_config" if dotted else "--print-config"
    parser = Parser(program, None, description, formatter_class=Formatter, allow_abbrev=False, print_config=flag)
    config = about("config", f"{CONFIG}, or a preset") if "config" in known else CONFIG
    parser.add_argument("--config", action="config", help=config)
    parser.usage = " ".join(["%(prog)s", *add(function), "[options]"])
    return parser


def _values(thing: Any, given: Any, dotted: bool) -> dict[str, Any]:
    """What a function or a dataclass is called with."""
    values = {}
    for (name, kind, optional, *_), key in zip(_options(thing), inspect.signature(thing).parameters, strict=True):
        if is_dataclass(kind) and not dotted:
            values[key] = kind(**_values(kind, given, dotted))  # type: ignore[operator]
            continue
        value = None if optional and given[name] == "none" else given[name]
        values[key] = tuple(value) if isinstance(value, list) and typing.get_origin(kind) is tuple else value
    return values


def _options(thing: Any) -> Iterator[Option]:
    """The parameters of a function or a dataclass; an underscore at the end of a name is none of the option's."""
    kinds, text = typing.get_type_hints(thing), inspect.getdoc(thing) or ""
    section = "".join(re.findall(r"^(?:Args|Attributes):\n(.*?)(?=^\S|\Z)", text, re.M | re.S))
    said = dict(re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section, re.M | re.S))
    for name, parameter in inspect.signature(thing).parameters.items():
        kind, union = kinds[name], typing.get_origin(kinds[name]) in (typing.Union, UnionType)
        parts = tuple(part for part in typing.get_args(kind) if part is not NoneType)
        optional = union and len(parts) < len(typing.get_args(kind))
        bare = typing.Union[parts] if optional else kind  # noqa: UP007
        yield Option(name.rstrip("_"), bare, optional, parameter.default, " ".join(said.get(name, "").split()))


def _several(kind: Any) -> dict[str, Any]:
    """The settings of an option that takes several values; empty for another one."""
    if typing.get_origin(kind) not in (list, tuple, Sequence):
        return {}
    first, *others = typing.get_args(kind)
    return {"type": first, "nargs": "+" if typing.get_origin(kind) is not tuple or others == [...] else 1 + len(others)}


def _help(action: argparse.Action) -> str:
    """The help of an option, with its default."""
    text, default = re.sub(r"(?<!\.)\.$", "", " ".join((action.help or "").split())), action.default
    if default == argparse.SUPPRESS:
        return text
    if action.required:
        return f"{text} (needed)"
    if default in (None, "", (), []):
        sentence, _, absent = re.sub("[;.,] [Nn]one: ", "\n", text, count=1).partition("\n")
        return f"{sentence} (default: {absent or 'none'})"
    if isinstance(default, bool):
        default = ("no", "yes")[default] if len(action.option_strings) > 1 else str(default).lower()
    elif action.nargs and isinstance(default, list):
        default = " ".join(map(str, default))
    return f"{text} (default: {default})"
