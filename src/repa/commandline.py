"""Command lines and recipes: argparse reads them, pydantic validates, errors are one line."""

from __future__ import annotations

import argparse
import os
import sys
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from repa import lifeline
from repa.config import Options
from repa.errors import PREEMPTED, PreemptedError, RepaError
from repa.memory import keep_freed_memory
from repa.recipes import read_yaml

T = TypeVar("T", bound=Options)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def parse_options(
    options_class: type[T],
    arguments: list[str],
    prog: str,
    defaults: Mapping[str, Any] | None = None,
) -> T:
    """Options from the command line, on top of those of a recipe (`--config`), if one is given.

    Args:
        options_class: the command's options.
        arguments: the command line after the command's name.
        prog: what to call the program in messages.
        defaults: options by name that hold where neither of the two has them.

    Raises:
        RepaError: if a name is unknown, a value does not fit or a required option is missing.
    """
    given = vars(_parser(options_class, prog).parse_args(arguments))
    recipe = given.pop("config", None)
    values = {**(defaults or {}), **(_read_recipe(Path(recipe)) if recipe else {}), **given}
    try:
        return options_class.model_validate(values)
    except ValidationError as error:
        # What was given wrongly says more than what was not given.
        errors = sorted(error.errors(), key=lambda e: e["type"] == "missing")
        raise RepaError(_one_line(errors[0], options_class)) from None


def _parser(options_class: type[Options], prog: str) -> argparse.ArgumentParser:
    """Options in groups, one a class; values stay strings, for pydantic to convert."""
    arguments = "".join(
        f" {_argument(name)} [{_argument(name)} ...]"
        for name, field in options_class.model_fields.items()
        if _is_positional(field)
    )
    parser = _Parser(
        prog=prog,
        usage=f"{prog}{arguments} [--config YAML] [options]",
        description=options_class.__doc__,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=34, width=100),
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="YAML", help="recipe; the command line overrides it")
    shown: set[str] = set()  # a class may change the default of an option of its groups
    for group_class in reversed(options_class.__mro__):
        own = getattr(group_class, "__annotations__", {}).keys() - shown
        names = [name for name in options_class.model_fields if name in own]
        shown |= own
        if not names:
            continue
        title = "Options" if group_class is options_class else str(group_class.__doc__)
        group = parser.add_argument_group(title)
        for name in names:
            _add_option(group, name, options_class.model_fields[name])
    return parser


def _add_option(group: Any, name: str, field: FieldInfo) -> None:
    """One field as an option; as an argument without a flag if it is marked `positional`."""
    text = f"{field.description}{' (required)' if field.is_required() else _default(field)}"
    flag = "--" + name.replace("_", "-")
    if _is_positional(field):  # none at all is for pydantic to judge: a recipe may give them
        group.add_argument(name, nargs="*", metavar=_argument(name), help=text)
    elif field.annotation in (bool, bool | None):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
    elif _takes_several(field):
        group.add_argument(
            flag, nargs="+", action="extend", metavar=_metavar(field.annotation), help=text
        )
    else:
        group.add_argument(flag, metavar=_metavar(field.annotation), help=text)


def _is_positional(field: FieldInfo) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("positional"))


def _argument(name: str) -> str:
    """What one of several positional arguments is called."""
    return name.removesuffix("s").upper()


def _takes_several(field: FieldInfo) -> bool:
    """Whether an option takes one or more values after its flag."""
    kinds = (field.annotation, *typing.get_args(field.annotation))  # X, or of X | None
    return any(typing.get_origin(_bare(kind)) is tuple for kind in kinds)


def _bare(annotation: Any) -> Any:
    """X of Annotated[X, ...]."""
    return typing.get_args(annotation)[0] if hasattr(annotation, "__metadata__") else annotation


def _default(field: FieldInfo) -> str:
    if field.default is None:
        return ""
    value = field.default
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
    return f" (default: {shown})"


def _metavar(annotation: Any) -> str:
    parts = typing.get_args(annotation)
    if parts and all(isinstance(part, str) for part in parts):
        return "{" + ",".join(parts) + "}"
    if parts:  # X | None, Annotated[X, ...]
        return _metavar(parts[0])
    return {int: "N", float: "X", Path: "PATH"}.get(annotation, "NAME")


def _read_recipe(path: Path) -> dict[str, Any]:
    recipe = read_yaml(path, f"--config {path}")
    return {name.replace("-", "_"): value for name, value in recipe.items()}


def _one_line(error: Any, options_class: type[Options]) -> str:
    """`--option 'value': what it should be`."""
    if not error["loc"]:  # a check over several options, whose message names them
        return str(error["ctx"]["error"])
    name = str(error["loc"][0])
    field = options_class.model_fields.get(name)
    flag = "--" + name.replace("_", "-")
    if field is not None and _is_positional(field):
        flag = _argument(name)
    message = error["msg"][0].lower() + error["msg"][1:]
    if error["type"] in ("missing", "too_short"):
        return f"{flag} is required"
    if error["type"] == "extra_forbidden":
        return f"unknown option {flag}"
    return f"{flag} {error['input']!r}: {message}"


def run(prog: str, command: Any) -> int:
    """Calls `command()`; what the user can fix becomes one line on stderr and exit code 2.

    One of several processes ends here, with that code, and so do the others, with the same line
    once. A run that was asked to end, and saved where it is, has exit code 75.
    """
    keep_freed_memory()
    code = 0
    try:
        command()
    except RepaError as error:
        code = _fail(f"{prog}: error: {error}", 2)
    except PreemptedError as error:
        if os.environ.get("RANK", "0") == "0":  # all say the same
            print(f"{prog}: {error}", file=sys.stderr)
        code = PREEMPTED
    except KeyboardInterrupt:
        code = _fail(f"{prog}: interrupted", 130)
    except SystemExit as ending:  # such as `on_main` on other processes than the failed one
        if ending.code:
            lifeline.fail("", ending.code if isinstance(ending.code, int) else 1, cause=False)
        raise
    _leave_other_processes(code)
    return code


def _fail(text: str, code: int) -> int:
    """Says it, in one of several processes by way of them all, which then end."""
    lifeline.fail(text, code)
    print(text, file=sys.stderr)
    return code


def _leave_other_processes(code: int) -> None:
    """Ends a process that works with others.

    Threads that still talk to them would now and then abort it while Python takes itself down, and
    a launcher then ends all of them as failed.
    """
    distributed = sys.modules.get("torch.distributed")  # only who works with others has it
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        lifeline.say_goodbye()
        distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
