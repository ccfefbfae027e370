"""``docs/cli.md``, from the commands themselves.

python -m cli.reference docs/cli.md
"""

from __future__ import annotations

import enum
import inspect
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from typer.models import ArgumentInfo, CommandInfo, OptionInfo, ParameterInfo

from cli.app import app
from cli.output import MEANINGS

_INTRODUCTION: Final = """\
# The command line

`tidegate COMMAND --help` (or `-h`) tells the same as this page. `tidegate --install-completion` makes the shell
complete commands and options. In a checkout, `make install` puts the program at `.venv/bin/tidegate`: that, or `tidegate`
once `.venv/bin` is on the `PATH`, is what every page here calls `tidegate`.

Commands that ask or order a running broker find it by `--broker`, else by the site file: `--site`, or `site.yaml` in
the present folder. The token is `--token`, else `TIDEGATE_TOKEN`, else the site file's own (`TIDEGATE_READ_TOKEN` and
`TIDEGATE_OPERATE_TOKEN` win over its files). A broker named by `--broker` without `--site` gets no token from a site
file that happens to lie in the present folder.

Results go to standard output, everything else to standard error. `--json` prints one JSON document. Logs of `run` and
`gateway` are lines for people on a terminal, JSON otherwise. A duration is `30s`, `5m`, `1h30m` or `7d`;
on the command line it needs its unit, in files a plain number is of seconds.

## Exit statuses

| status | meaning |
|---|---|
"""


_VALUES: Final[dict[Any, str]] = {str: "TEXT", int: "NUMBER", float: "NUMBER", Path: "PATH"}


def reference() -> str:
    """The whole page."""
    statuses = "".join(f"| {int(status)} | {meaning} |\n" for status, meaning in MEANINGS.items())
    return _INTRODUCTION + statuses + "\nThis page is generated from the code: `make docs`.\n" + "".join(_chapters())


def _chapters() -> Iterator[str]:
    """One chapter for each command, read from the functions' own signatures."""
    for command in app.registered_commands:
        yield _chapter(_name_of(command), command.callback)
    for group in app.registered_groups:
        inner = group.typer_instance
        assert inner is not None
        if inner.info.invoke_without_command is True and inner.registered_callback is not None:
            yield _chapter(str(group.name), inner.registered_callback.callback)
        for command in inner.registered_commands:
            yield _chapter(f"{group.name} {_name_of(command)}", command.callback)


def _name_of(command: CommandInfo) -> str:
    return str(command.name or getattr(command.callback, "__name__", ""))


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    kind: Any
    info: ParameterInfo
    default: Any

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    @property
    def meaning(self) -> str:
        words = self.info.help or ""
        default = getattr(self.default, "value", self.default)
        if self.required:
            words += " Required." if isinstance(self.info, OptionInfo) else ""
        elif isinstance(self.info.show_default, str):
            words += f" Default: {self.info.show_default}."
        elif self.info.show_default and default not in (None, "", False):
            words += f" Default: `{default}`."
        return words + (f" Environment: `{self.info.envvar}`." if self.info.envvar else "")

    @property
    def spelled(self) -> str:
        """``--for TEXT`` of an option, ``MODEL`` or ``[MODEL]`` of an argument."""
        if isinstance(self.info, OptionInfo):
            declared = (self.info.default, *(self.info.param_decls or ()))  # Typer keeps the first one as the default
            spellings = [word for word in declared if isinstance(word, str)] or ["--" + self.name.replace("_", "-")]
            value = "" if self.kind is bool else f" {_value(self.kind)}"
            return ", ".join(f"`{spelling}{value}`" for spelling in spellings)
        word = (self.info.metavar or self.name).strip("[]").upper() + ("..." if _is_list(self.kind) else "")
        return f"`{word}`" if self.required else f"`[{word}]`"


def _chapter(name: str, function: Any) -> str:
    parameters = list(_parameters(function))
    arguments = [parameter for parameter in parameters if isinstance(parameter.info, ArgumentInfo)]
    options = [parameter for parameter in parameters if isinstance(parameter.info, OptionInfo)]
    usage = " ".join(["tidegate", name, "[OPTIONS]", *(argument.spelled.strip("`") for argument in arguments)])
    text = f"\n## `tidegate {name}`\n\n{inspect.cleandoc(function.__doc__ or '')}\n\n    {usage}\n"
    for title, told in (("argument", arguments), ("option", options)):
        if told:
            rows = "".join(f"| {parameter.spelled} | {parameter.meaning} |\n" for parameter in told)
            text += f"\n| {title} | meaning |\n|---|---|\n{rows}"
    return text


def _parameters(function: Any) -> Iterator[_Parameter]:
    hints = typing.get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if typing.get_origin(hints[name]) is Annotated:
            kind, info = typing.get_args(hints[name])[:2]
            yield _Parameter(name, kind, info, parameter.default)


def _value(kind: Any) -> str:
    members = [member for member in typing.get_args(kind) if member is not type(None)]
    if members:
        return _value(members[0])
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return "\\|".join(str(member.value) for member in kind)
    return _VALUES[kind]


def _is_list(kind: Any) -> bool:
    return typing.get_origin(kind) is list


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m cli.reference FILE", file=sys.stderr)
        return 2
    Path(arguments[0]).write_text(reference(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
