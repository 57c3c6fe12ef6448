"""The command line: one group, one file per command. Errors become one message and an exit code here, in one place.

Exit codes: 0 done, 1 checked and differs, 2 refused or failed, 130 stopped.
"""

from __future__ import annotations

import io
import os
import pkgutil
import sys
import traceback
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click

from mfconv_nb import __version__
from mfconv_nb.cli import commands
from mfconv_nb.cli.sections import SECTIONS, read_listing
from mfconv_nb.core.errors import MfconvError, escape_controls, nearest, to_one_line, to_short_line
from mfconv_nb.core.report import plain_marks

EPILOG = """\b
Examples:
  mfconv toy llama toy/                    a small Llama checkpoint, to try things out
  mfconv inspect toy/                      what is in it
  mfconv convert toy/ toy.ckpt             to MindFormers; the family is told from config.json
  mfconv verify toy/ toy.ckpt              prove it, byte by byte
  mfconv convert --model llama --reversed --input_path toy.ckpt --output_path back/
  mfconv doctor output/checkpoint/         what a training run left behind, and what to run next

Exit codes: 0 done, 1 checked and differs, 2 refused or failed, 130 stopped."""


class _Commands(click.Group):
    """Finds the commands by listing ``commands/``, and imports a module only when it is called for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(m.name.rstrip("_") for m in pkgutil.iter_modules(commands.__path__))

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        return next(c for c in vars(import_module(_module_name(name))).values() if isinstance(c, click.Command) and c.name == name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """An unknown word gets the nearest command; MindFormers' flags without a command mean `convert`."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            best = nearest(args[0], self.list_commands(ctx))
            hint = f" Did you mean '{best}'?" if best else " See mfconv --help."
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = {name: read_listing(_module_name(name)) for name in self.list_commands(ctx)}
        for section in SECTIONS:
            with formatter.section(section):
                formatter.write_dl([(name, summary) for name, (of, summary) in listed.items() if section == of])


def _module_name(command: str) -> str:
    """The module of a command; one whose name Python keeps for itself has an underscore behind it."""
    return f"{commands.__name__}.{command}{'_' if iskeyword(command) else ''}"


@click.group(cls=_Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mfconv")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def mfconv(debug: bool) -> None:
    """Carry model weights between Hugging Face and MindFormers, in both directions, and prove that no bit changed."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal cannot show never stops a command
    code = run(sys.argv[1:] if arguments is None else arguments)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code = _cannot_print(error)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run the command line and return its exit code; every refusal is one message on stderr.

    1 is the code of a check that found a difference, and of nothing else: whatever goes wrong is 2.
    """
    if arguments and arguments[0].partition("=")[0] in ("--model", "--family", "--input_path", "--output_path", "--reversed"):
        arguments = ["convert", *arguments]  # MindFormers' script has no commands
    try:
        code = mfconv.main(args=arguments, prog_name="mfconv", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        _say(_usage_text(error))
        return 2
    except (KeyboardInterrupt, click.Abort):
        writes = bool({"convert", "merge", "save"} & {*arguments})
        _say("Stopped. Nothing was published. Run the same command to resume." if writes else "Stopped.")
        return 130
    except MfconvError as error:
        _say(f"✗ Refused.  {error}")
        _trace(arguments)
        return 2
    except SystemExit:  # click's answer to a pipe that is closed, which is the code of a difference
        return _cannot_print(BrokenPipeError())
    except Exception as error:
        _say(_failure_text(error))
        _trace(arguments)
        return 2
    return code if isinstance(code, int) else 0


def _usage_text(error: click.ClickException) -> str:
    """What click says of a wrong call, in which a word of the call, such as the name of a file, is one line."""
    out = io.StringIO()
    error.show(out)
    usage, mark, said = out.getvalue().rstrip("\n").partition("Error: ")
    return usage + mark + (said if isinstance(error, click.MissingParameter) else to_one_line(said))


def _failure_text(error: Exception) -> str:
    """What nothing in the package refuses: the system did, or there is a fault to be reported."""
    if isinstance(error, MemoryError):
        return "✗ Failed.  There is not enough memory."
    if isinstance(error, OSError) and error.strerror:
        return f"✗ Failed.  {error.strerror}" + (f": {to_short_line(str(error.filename))}" if error.filename is not None else "")
    said = to_short_line(f"{type(error).__name__}: {error}")
    return f"✗ Failed.  A fault of mfconv: {said}\n  hint      Please report it, with what it prints as: mfconv --debug ..."


def _trace(arguments: list[str]) -> None:
    if "--debug" in arguments:
        _say(escape_controls(traceback.format_exc()))


def _cannot_print(error: OSError) -> int:
    """Where nobody reads on, as before `head`, or the disk behind a redirection is full. What is still to be printed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if not isinstance(error, BrokenPipeError):
        _say(_failure_text(error))
    return 2


def _say(text: str) -> None:
    click.echo(plain_marks(text), err=True)
