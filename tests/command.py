"""The command line inside this process: as its entry point does it, without the seconds that a start takes."""

from __future__ import annotations

import io
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from unittest import mock


@dataclass(frozen=True)
class Ending:
    """Holds how a command ended; `crash` is the traceback of what no user should see."""

    code: int
    output: str
    errors: str
    crash: str = ""


def command(*arguments: str) -> Ending:
    """`polychromic ARGUMENTS` in this process, as its entry point would do it."""
    from polychromic.cli import main

    output, errors, crash, code = io.StringIO(), io.StringIO(), "", 0
    with (
        mock.patch.object(sys, "argv", ["polychromic", *arguments]),
        redirect_stdout(output),
        redirect_stderr(errors),
    ):
        try:
            main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:  # noqa: BLE001 - this is what is looked for
            crash = traceback.format_exc()
    return Ending(code, output.getvalue(), errors.getvalue(), crash)
