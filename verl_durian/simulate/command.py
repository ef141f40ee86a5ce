# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The command `verl-durian simulate`."""

import math
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

app = typer.Typer(no_args_is_help=True, help="Compare Durian with other normalizers, without a GPU.")

Normalizers = Annotated[str, Option(help="Separated by commas. The first is the reference of differences.")]
Rollouts = Annotated[int, Option(min=2, help="Rollouts of a prompt.")]
Beta = Annotated[tuple[float, float], Option(help="Beta distribution of pass rates. Small numbers: many near 0 and 1.")]
EntropyCorrelation = Annotated[float, Option(min=-1, max=1, help="Correlation of visual entropy with the pass rate.")]
ConfidenceCorrelation = Annotated[float, Option(min=-1, max=1, help="Correlation of confidence with the pass rate.")]
Weights = Annotated[
    tuple[float, float, float] | None,
    Option(metavar="ORIGINAL PERCEPTUAL REASONING", help="algorithm.durian.weights. Default: 0.1 0.2 0.7."),
]
NumGroups = Annotated[int | None, Option(min=1, help="algorithm.durian.reasoning.num_groups. Default: 12.")]
FilterGroups = Annotated[bool, Option("--filter-groups", help="Exclude prompts with equal rewards (DAPO).")]
Seed = Annotated[int, Option(min=0, help="Seed of the random numbers.")]
Output = Annotated[Path | None, Option(help="Folder for the figure (SVG, PNG) and its numbers (CSV).")]

_ALL = "grpo,dr_grpo,batch_std,mad,durian"
_DRAWN = ("batches", "prompts", "rollouts", "beta", "entropy_correlation", "confidence_correlation", "seed")
"""Options of `weights` that only apply to drawn prompts."""


@app.command()
def weights(
    context: typer.Context,
    records: Annotated[
        Path | None, Option(metavar="RUN", help="The prompts of a run with algorithm.durian.record, as for report.")
    ] = None,
    normalizers: Normalizers = _ALL,
    batches: Annotated[int, Option(min=1, help="Batches to average over.")] = 50,
    prompts: Annotated[int, Option(min=1, help="Prompts in a batch.")] = 512,
    rollouts: Rollouts = 8,
    beta: Beta = (0.5, 0.4),
    entropy_correlation: EntropyCorrelation = -0.2,
    confidence_correlation: ConfidenceCorrelation = 0.5,
    weights: Weights = None,
    num_groups: NumGroups = None,
    filter_groups: FilterGroups = False,
    seed: Seed = 0,
    output: Output = None,
) -> None:
    """Show the weight of a prompt by its pass rate.

    With --records, the prompts and the defaults of Durian's options are those of the run; nothing is drawn.
    """
    from verl_durian.algo.config import DurianConfig
    from verl_durian.files import output_folder
    from verl_durian.simulate import weights as simulation
    from verl_durian.simulate.output import save

    _check_numbers(context)
    options, notes = _durian_options(weights, num_groups), list[str]()
    if records is None:
        correlations, config = (entropy_correlation, confidence_correlation), DurianConfig.from_algorithm(options)
        drawn = simulation.simulated_batches(batches, prompts, rollouts, beta, *correlations, config, seed)
    else:
        for name in _DRAWN:
            if context.get_parameter_source(name).name != "DEFAULT":  # type: ignore[union-attr]
                raise ValueError(f"{_option(name)} only applies to drawn prompts: leave it out with --records")
        drawn = simulation.recorded_batches(records, options["durian"], notes)
    with output_folder(output) if output else nullcontext():
        table = simulation.weights_by_pass_rate(drawn, _names(normalizers), filter_groups)
        simulation.print_weights(table)
        for note in notes:
            print(note)
        if output is not None:
            save(output, "weights", simulation.plot_weights(table), table)


@app.command()
def train(
    context: typer.Context,
    normalizers: Normalizers = _ALL,
    seeds: Annotated[int, Option(min=2, help="Trainings to average over.")] = 200,
    prompts: Annotated[int, Option(min=3, help="Prompts in the training set.")] = 64,
    batch: Annotated[int, Option(min=1, help="Prompts in a step.")] = 32,
    rollouts: Rollouts = 8,
    answers: Annotated[int, Option(min=2, help="Possible answers to a prompt.")] = 4,
    features: Annotated[int, Option(min=1, help="Features of a prompt. Fewer: prompts share more.")] = 32,
    steps: Annotated[int, Option(min=1, help="Gradient steps.")] = 100,
    learning_rate: Annotated[float, Option(min=0, help="Of plain gradient ascent.")] = 20.0,
    beta: Beta = (0.5, 0.4),
    entropy_correlation: EntropyCorrelation = -0.2,
    confidence_correlation: ConfidenceCorrelation = 0.5,
    noise: Annotated[float, Option(min=0, help="Std of the noise in confidence that each step draws anew.")] = 0.0,
    filter_groups: FilterGroups = False,
    match_rms: Annotated[
        bool, Option(help="Scale the advantages of a batch to the root mean square of GRPO's.")
    ] = True,
    weights: Weights = None,
    num_groups: Annotated[int, Option(min=1, help="algorithm.durian.reasoning.num_groups.")] = 4,
    seed: Seed = 0,
    output: Output = None,
) -> None:
    """Train a softmax policy with each normalizer and show the learning curves by difficulty."""
    import torch
    from tqdm import tqdm

    from verl_durian.algo.config import DurianConfig
    from verl_durian.files import output_folder
    from verl_durian.simulate import training
    from verl_durian.simulate.output import save

    _check_numbers(context)
    torch.set_num_threads(1)  # operations on small tensors, which wait for other threads longer than they compute
    durian = DurianConfig.from_algorithm(_durian_options(weights, num_groups))
    names = {field.name for field in fields(training.Settings)} & context.params.keys()
    settings = training.Settings(durian=durian, **{name: context.params[name] for name in names})
    with output_folder(output) if output else nullcontext():
        progress = tqdm(_names(normalizers), desc="training", unit=" normalizers")
        curves = {name: training.learning_curves(name, settings) for name in progress}
        training.print_summary(curves)
        if output is not None:
            table = training.curve_table(curves)
            save(output, "curves", training.plot_curves(table), table)


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_numbers(context: typer.Context) -> None:
    """Rejects NaN and infinity, which the ranges of the options let through."""
    for name, value in context.params.items():
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"{_option(name)} {number}: must be a finite number")


def _names(normalizers: str) -> list[str]:
    names = list(dict.fromkeys(normalizers.split(",")))
    if unknown := set(names) - set(_ALL.split(",")):
        raise ValueError(f"--normalizers {unknown.pop()}: must be one or several of {_ALL}")
    return names


def _durian_options(weights: tuple[float, float, float] | None, num_groups: int | None) -> dict[str, Any]:
    """The node `algorithm` with the given options of Durian."""
    options: dict[str, Any] = {}
    if weights is not None:
        options["weights"] = dict(zip(("original", "perceptual", "reasoning"), weights, strict=True))
    if num_groups is not None:
        options["reasoning"] = {"num_groups": num_groups}
    return {"durian": options}
