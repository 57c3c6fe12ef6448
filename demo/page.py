"""A notebook, run from top to bottom and kept as one HTML page that needs no script, no kernel and no network."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert import HTMLExporter

VIEW = "application/vnd.jupyter.widget-view+json"
TEMPLATE = Path(__file__).with_name("page.html.j2")


def run_notebook(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run in ``folder``. Raises nbclient's CellExecutionError when a cell fails."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # no word about frozen modules from the kernel
    notebook = nbformat.read(path, as_version=4)
    quiet = ["--log-level=ERROR"]  # the kernel otherwise warns of plain TCP on this machine alone
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(
        notebook, timeout=300, startup_timeout=300, extra_arguments=quiet, resources=resources, store_widget_state=False
    )
    client.execute()
    return notebook


def page_html(notebook: nbformat.NotebookNode, title: str) -> str:
    """The page of an executed notebook."""
    exporter = HTMLExporter(template_name="basic", template_file=str(TEMPLATE), extra_template_basedirs=[str(TEMPLATE.parent)])
    still = copy.deepcopy(notebook)
    for cell in still.cells:  # a view lives only with a kernel; its script-free form stands before it
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if VIEW not in o.get("data", {})]
    html, _ = exporter.from_notebook_node(still, {"metadata": {"name": title}})
    return str(html)
