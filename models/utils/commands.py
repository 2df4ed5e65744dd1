"""Command lines made of functions: the signature gives the options, and the docstring their help.

A parameter `first_seed: int = 0` is the option `--first-seed`, one without a default is needed, a bool is `--flag` and
`--no-flag`, a list or tuple takes several values, and the fields of a dataclass are options of their own. Where the
docstring ends a sentence with `None: a random one`, the help says `(default: a random one)`. Every option can stand in
a YAML file as well, by the parameter's name: `--config FILE`.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shlex
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

typed: ContextVar[str] = ContextVar("typed", default="")  # the command line of the function that runs
CONFIG, PRINT = "YAML file of options", "print the options as such a file (default: no)"


class Option(NamedTuple):
    """What becomes an option: a parameter of a function, or a field of a dataclass."""

    name: str
    kind: Any
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
    line = shlex.join([*program.split(), *words])
    function, positions = commands, []
    try:
        if not callable(commands):
            name = _choose(commands, words[:1], program, about)
            function, (_, *positions) = resolve_name(commands[name][0]), name.lower().split()
            program, words = f"{program} {words[0]}", words[1:]
        assert callable(function)
        names = known if known and {"-h", "--help"} & {*words} else {}
        parser = _parser(function, positions, program, names, dotted)
        values = _values(function, parser, words, dotted)
        token = typed.set(line)
        try:
            result = function(**values)
        finally:
            typed.reset(token)
    except argparse.ArgumentError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except _told() as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return 1
    if isinstance(result, (str, Path)):
        print(result)
    return result if isinstance(result, int) else 0


def in_words(error: BaseException) -> str:
    """An error for people: without the number that the operating system gives it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def _told() -> tuple[type[Exception], ...]:
    """What is told in a line rather than with where it was raised."""
    import gymnasium

    return ValueError, OSError, ImportError, RuntimeError, FloatingPointError, gymnasium.error.Error


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

    def about(name: str, text: str) -> str:
        names = ", ".join(known[name]()) if name in known else ""
        return re.sub(r"(?=[;.,] [Nn]one: |\.?$)", lambda _: names and f": {names}", text, count=1)

    parser = Parser(
        prog=program, formatter_class=Formatter, allow_abbrev=False,
        description=re.split(r"\n(?:Args|Returns|Raises):", inspect.getdoc(function) or "")[0],
        print_config="--print_config" if dotted else "--print-config",
    )  # fmt: skip
    parser.add_argument(
        "--config", action="config", help=about("config", CONFIG + ", or a preset" * ("config" in known))
    )
    needed = []
    for option in _options(function, dotted):
        if dataclasses.is_dataclass(option.kind):
            parser.add_class_arguments(option.kind, option.name)  # type: ignore[arg-type]
            continue
        several, required = {} if dotted else _several(option.kind), option.default is inspect.Parameter.empty
        spec: dict[str, Any] = {"type": option.kind, "help": about(option.name, option.about), **several}
        if kind := {int: "N", float: "X"}.get(_bare(spec["type"])):
            spec["metavar"] = kind
        if option.name in positions:
            needed.append(option.name.upper())
            parser.add_argument(option.name, metavar=option.name.upper(), **spec)
            continue
        name = "--" + (option.name if dotted else option.name.replace("_", "-"))
        needed += [f"{name} {option.name.upper()}"] if required else []
        default = list(option.default) if isinstance(option.default, tuple) else option.default
        spec |= {"required": True} if required else {"default": default}
        if _bare(option.kind) is bool:
            spec |= {"action": ActionYesNo(yes_prefix="", no_prefix="no-")}
            del spec["type"]
        parser.add_argument(name, **spec)
    parser.usage = " ".join(["%(prog)s", *needed, "[options]"])
    return parser


def _values(function: Callable[..., Any], parser: ArgumentParser, words: Sequence[str], dotted: bool) -> dict[str, Any]:
    """What the function is called with."""
    given = parser.instantiate(parser.parse_args(words))

    def value(option: Option) -> Any:
        found, kind = given[option.name], _bare(option.kind)
        if found == "none" and kind is not option.kind:
            return None
        return tuple(found) if isinstance(found, list) and typing.get_origin(kind) is tuple else found

    values = {}
    for name, option in _parameters(function):
        if dataclasses.is_dataclass(option.kind) and not dotted:
            values[name] = option.kind(**{field.name: value(field) for field in _fields(option.kind)})  # type: ignore
        else:
            values[name] = value(option)
    return values


def _options(function: Callable[..., Any], dotted: bool) -> Iterator[Option]:
    """The options of a function; with `dotted` a dataclass is one of them."""
    for _, option in _parameters(function):
        yield from _fields(option.kind) if dataclasses.is_dataclass(option.kind) and not dotted else [option]


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, Option]]:
    """The parameters of a function by name; an option has no underscore at its end, and is no dataclass or None."""
    kinds, said = typing.get_type_hints(function), _sentences(function, "Args")
    for name, parameter in inspect.signature(function).parameters.items():
        bare, told = _bare(kinds[name]), said.get(name, "")
        kind = bare if dataclasses.is_dataclass(bare) else kinds[name]
        yield name, Option(name.rstrip("_"), kind, parameter.default, told)


def _fields(kind: Any) -> Iterable[Option]:
    """The fields of a dataclass."""
    kinds, said = typing.get_type_hints(kind), _sentences(kind, "Attributes")
    for field in dataclasses.fields(kind):
        made = inspect.Parameter.empty if field.default_factory is dataclasses.MISSING else field.default_factory()
        default = made if field.default is dataclasses.MISSING else field.default
        yield Option(field.name, kinds[field.name], default, said.get(field.name, ""))


def _sentences(thing: Any, section: str) -> dict[str, str]:
    """What a docstring says in a section, by name."""
    text = re.search(rf"^{section}:\n(.*?)(?=^\S|\Z)", inspect.getdoc(thing) or "", re.M | re.S)
    parts = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", text[1] if text else "", re.M | re.S)
    return {name: " ".join(said.split()) for name, said in parts}


def _bare(kind: Any) -> Any:
    """A type without its None."""
    parts = [part for part in typing.get_args(kind) if part is not NoneType]
    union = typing.get_origin(kind) in (typing.Union, UnionType)
    return typing.Union[tuple(parts)] if union and len(parts) < len(typing.get_args(kind)) else kind  # noqa: UP007


def _several(kind: Any) -> dict[str, Any]:
    """The settings of an option that takes several values; empty for another one."""
    kind = _bare(kind)
    if typing.get_origin(kind) not in (list, tuple, Sequence):
        return {}
    first, *others = typing.get_args(kind)
    fixed = typing.get_origin(kind) is tuple and others != [...]
    return {"type": first, "nargs": 1 + len(others) if fixed else "+"}


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
        flag = len(action.option_strings) > 1
        default = ("no", "yes")[default] if flag else str(default).lower()
    elif action.nargs and isinstance(default, (list, tuple)):
        default = " ".join(map(str, default))
    return f"{text} (default: {default})"
