# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian report`: one HTML page that needs neither network nor server, and its figures as SVG."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

from verl_durian import __version__
from verl_durian.files import whole_file
from verl_durian.report import figures
from verl_durian.report.prompts import KINDS, shown_prompts
from verl_durian.report.runs import AXES, SETTINGS, Run, as_text, read_runs

MAX_BYTES = 10_000_000
"""Of a page that opens fast; about 30 runs fit."""


def write_report(arguments: Sequence[str], output: Path) -> list[str]:
    """Writes the report of runs.

    Args:
        arguments: Each the path of a run, or LABEL=path; runs with the same label are seeds of the same settings.
        output: The HTML file. The figures are written to a folder beside it, as SVG.

    Returns:
        What was left out or is missing, in sentences.

    Raises:
        ValueError: a run does not exist, or contains nothing that can be read.
        OSError: the page cannot be written.
    """
    runs = read_runs(arguments)
    folder = figures_folder(output)
    content = page_content(runs)
    panels = [panel for group in content["drawn"].values() for panel in group]
    panels += [panel for run in content["runs"] for part in ("groups", "difficulty") for panel in run[part]]
    files = {folder / f"{number:03}-{panel.name}.svg": panel.svg for number, panel in enumerate(panels, start=1)}
    for name, svg in files.items():
        with whole_file(name) as file:
            file.write(svg.encode())
    for old in set(folder.glob("[0-9][0-9][0-9]-*.svg")) - files.keys():  # of an earlier report
        old.unlink()
    content["folder"] = folder.name
    page = render(content).encode()
    if len(page) > MAX_BYTES and content["data"]["images"]:
        content["data"]["images"] = {}
        content["notes"].append(f"No images: with them, the page would be above {MAX_BYTES / 1e6:.0f} MB.")
        page = render(content).encode()
    with whole_file(output) as file:
        file.write(page)
    too_large = [f"{output} has {len(page) / 1e6:.0f} MB: name fewer runs."] if len(page) > MAX_BYTES else []
    return content["notes"] + too_large


def figures_folder(output: Path) -> Path:
    """The folder of the figures of a page."""
    return output.with_name(f"{output.stem}_figures")


def page_content(runs: Sequence[Run]) -> dict[str, Any]:
    """Everything that the template shows."""
    prompts, images = shown_prompts(runs)
    drawn = {
        "learning": figures.learning_panels(runs),
        "weights": figures.weight_panels(runs),
        "shares": figures.share_panels(runs),
    }
    about: dict[str, list[str]] = {}
    for run in runs:
        for note in run.notes:
            about.setdefault(note, []).append(run.name)
    notes = [f"{', '.join(names)}: {note}" if len(runs) > 1 else note for note, names in about.items()]
    data_sets = {as_text(run.settings["train_files"]) for run in runs if run.settings.get("train_files")}
    if len(data_sets) > 1:
        notes.insert(0, f"The runs trained on different data ({'; '.join(sorted(data_sets))}): compare with care.")
    return {
        "title": ", ".join(dict.fromkeys(run.label for run in runs)),
        "version": __version__,
        "notes": notes,
        "summary": [_summary(run) for run in runs],
        "drawn": drawn,
        "runs": [
            {
                "name": run.name,
                "groups": [panel for axis in AXES for panel in figures.group_panels(run, axis)],
                "difficulty": [panel for axis in AXES for panel in figures.difficulty_panels(run, axis)],
                "verdicts": [figures.verdict(run, axis) for axis in AXES],
            }
            for run in runs
        ],
        "kinds": KINDS,
        "data": {"prompts": prompts, "images": images},
    }


def _summary(run: Run) -> dict[str, str]:
    """A row of the table of runs."""
    return {
        "run": run.name,
        "shown as": run.label,
        "steps": f"{run.steps.index.min()} to {run.steps.index.max()}",
        "records": f"{len(run.records):,}",
        **{name: as_text(run.settings.get(name)) for name in ("seed", *SETTINGS)},
    }


def render(content: dict[str, Any]) -> str:
    """Fills the template; texts of runs are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "separators": (",", ":"), "allow_nan": False}
    return environment.get_template("page.html").render(content)
