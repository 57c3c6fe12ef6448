"""Show a result in a notebook: as a view while a kernel runs, as text and HTML everywhere else."""

from __future__ import annotations

import sys
from typing import Any

from mfconv_nb.core.progress import in_notebook
from mfconv_nb.core.report import Result, table_html
from mfconv_nb.views.exploration import Exploration


class Explorable(Result):
    """A result that a notebook shows as a view. Without a kernel, its HTML and its text say the same."""

    def exploration(self) -> Exploration:
        raise NotImplementedError

    def _ipython_display_(self) -> None:
        show_view(self, self.exploration())


def show_view(result: Result, exploration: Exploration) -> None:
    """Show plain HTML, which stays in a saved notebook, and below it the view, which hides the HTML while the kernel runs.

    Raises:
        NotImplementedError: outside a kernel, or without ipywidgets. IPython then shows HTML or text.
    """
    if not in_notebook():
        raise NotImplementedError
    try:
        from mfconv_nb.views.explorer import Explorer  # here: loads ipywidgets
    except ImportError as error:
        raise NotImplementedError from error
    show_both(result, Explorer(exploration))


def show_both(result: Result, view: Any) -> None:
    """Show the plain HTML of a result, and below it a widget that hides the HTML while the kernel runs."""
    display = sys.modules["IPython"].display.display
    saved = f"<div class='mfconv-static'>{table_html(result.table())}</div>"
    display({"text/html": saved, "text/plain": repr(result)}, raw=True)
    reference = {"version_major": 2, "version_minor": 0, "model_id": view.model_id}
    display({"application/vnd.jupyter.widget-view+json": reference, "text/plain": ""}, raw=True)
