"""What the commands share: the options of a run that they take, where they print, and how an error is worded."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sadtrt_core.config import Option, RunConfig, run_options
from sadtrt_core.errors import BuildError, UserError
from sadtrt_core.files import require_writable
from sadtrt_core.progress import ConsoleReporter, make_console

if TYPE_CHECKING:
    from sadtrt_core.session import Session

console, errors = make_console(), make_console(stderr=True)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn what a user can fix into one sentence and exit code 2; anything else keeps its traceback."""
    try:
        yield
    except (UserError, BuildError, OSError) as error:
        errors.print(f"[red]sadtrt:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


def takes(*fields: str, **defaults: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these fields of RunConfig; its first argument is then the RunConfig they make.

    `defaults` name further fields with a default of the command's own. A repeatable option whose default is no tuple
    is taken once.
    """
    known = {option.field: option for option in run_options()}
    chosen = [_parameter(known[name], defaults.get(name, known[name].default)) for name in (*defaults, *fields)]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            config = RunConfig.from_options({one.name: given.pop(one.name) for one in chosen})
            command(config, **given)

        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *chosen)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _parameter(option: Option, default: Any) -> inspect.Parameter:
    """The option as typer reads it from a function's signature."""
    # A command has a default where the suite takes all there are.
    text = option.text.removeprefix("only this ")
    text = f"{text[0].upper()}{text[1:]}"
    kind: Any = option.type
    if isinstance(default, tuple):
        kind, default, text = list[kind], list(default), f"Repeatable. {text}"
    elif default is None:
        kind = kind | None
    about = typer.Option(option.flag, help=f"{text}.", show_default=(default is None and option.unset) or True)
    return inspect.Parameter(
        option.dest, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, about]
    )


def make_session(config: RunConfig, *written: Path) -> Session:
    """A session that tells a person on standard error what goes on. Raises UserError where a folder is not writable."""
    from sadtrt_core.session import Session

    for folder in written:
        require_writable(folder)
    return Session(config, report=ConsoleReporter(errors))
