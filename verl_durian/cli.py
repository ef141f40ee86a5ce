# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

try:
    import rich  # noqa: F401
    import typer
    from typer.core import TyperGroup
except ModuleNotFoundError as error:
    from verl_durian.hooks.doctor import install_command, unmet

    sys.exit(f"verl-durian: {error.name} is not installed. In bash:\n  {install_command(unmet())}")

from verl_durian.simulate.command import app as simulate


class _Commands(TyperGroup):
    """Prints the error of a command, which names the fix, without a traceback, and exits with status 2."""

    def invoke(self, context: typer.Context) -> object:  # type: ignore[override]
        try:
            return super().invoke(context)
        except (typer.Exit, typer.Abort):  # RuntimeErrors themselves
            raise
        except (ValueError, OSError, ImportError, RuntimeError) as error:
            print(f"verl-durian {context.invoked_subcommand}: {error}", file=sys.stderr)
            raise typer.Exit(code=2) from error


description = "Durian: difficulty-aware group normalization for verl."
app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, help=description)
app.add_typer(simulate, name="simulate")


@app.command()
def doctor(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also list passed checks.")] = False,
) -> None:
    """Check packages, plugin, estimator and hooks, and suggest fixes."""
    from verl_durian.hooks.doctor import examine

    raise typer.Exit(code=0 if examine(verbose) else 1)


@app.command()
def score(
    model: Annotated[str, typer.Option(help="Checkpoint with the vision tower: a folder, or an id on the Hub.")],
    data: Annotated[list[str], typer.Option(metavar="FILES...", help="verl's data files: .parquet, .json, .jsonl.")],
    output: Annotated[Path, typer.Option(help="Output folder for copies of the files with added columns.")],
    more_data: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    feature_layer: Annotated[
        Literal["merger", "blocks"],
        typer.Option(help="Feature matrix F: output of the patch merger or of the last block."),
    ] = "merger",
    precision: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Data type of the vision tower.")
    ] = "float32",
    on_error: Annotated[
        Literal["fail", "null"],
        typer.Option(help="Rows that cannot be scored get null; with fail, the exit status is then 1."),
    ] = "fail",
    max_patches: Annotated[int | None, typer.Option(min=1, help="Maximum number of patches per forward pass.")] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Number of workers. Default: one per GPU, or one per core.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="Default: cuda if available, else cpu.")] = None,
    address: Annotated[str | None, typer.Option(help="Address of a running Ray cluster, such as auto.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Cache folder. Default: ~/.cache/verl_durian.")] = None,
    image_key: Annotated[str, typer.Option(help="Column of images (verl's data.image_key).")] = "images",
    video_key: Annotated[str, typer.Option(help="Column of videos (verl's data.video_key).")] = "videos",
) -> None:
    """Write copies of verl's data files with the visual entropy of each row."""
    from verl_durian.entropy.cache import default_cache_dir
    from verl_durian.entropy.data_files import Columns
    from verl_durian.entropy.score import score_files

    problems = score_files(
        model=model,
        data=[*data, *(more_data or [])],
        output=output,
        cache_dir=cache or default_cache_dir(),
        columns=Columns(image_key, video_key),
        feature_layer=feature_layer,
        precision=precision,
        address=address,
        device=device,
        workers=workers,
        max_patches=max_patches,
    )
    raise typer.Exit(code=1 if problems and on_error == "fail" else 0)


@app.command()
def prepare(
    name: Annotated[
        Literal["geometry3k", "virl39k", "mathverse", "mathvision", "mathvista", "wemath", "hallusionbench"],
        typer.Argument(help="Name of the dataset.", show_default=False),
    ],
    output: Annotated[Path, typer.Option(help="Output folder: a parquet file per split, and a data card.")],
    source: Annotated[
        str | None,
        typer.Option(
            help="Id on the Hub, folder with a copy of the repository, or output of Dataset.save_to_disk. Default: the "
            "dataset's own id."
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Number of processes. Default: one per core.")] = None,
) -> None:
    """Convert a training set or benchmark to verl's data files."""
    from verl_durian.prepare.prepare import prepare_dataset

    prepare_dataset(name, source, output, workers)


@app.command()
def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Folder with metrics.jsonl or with the records of algorithm.durian.record. LABEL=RUN sets a label; "
            "runs with the same label are shown as seeds of the same settings.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option(help="HTML file; the figures go to a folder next to it.")] = Path(
        "report.html"
    ),
) -> None:
    """Write a page that shows what the normalization does to the prompts of one or more runs."""
    from verl_durian.report.page import figures_folder, write_report

    notes = write_report(runs, output)
    print("\n".join([*notes, f"report:  {output}", f"figures: {figures_folder(output)}"]))


if __name__ == "__main__":
    app()
