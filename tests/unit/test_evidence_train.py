# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The trainer of the comparison: responses and log-probabilities against transformers, and whole short runs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recipes.evidence.model import START_WEIGHTS, processor_of_task
from recipes.evidence.task import FAMILIES, make_rows
from recipes.quickstart.model import write_model

ROOT = Path(__file__).parents[2]

# The trainer registers estimators, which other tests must not see, so it runs in a process of its own.
CHECK = """
import sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from recipes.evidence import train
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

folder = Path(sys.argv[1])
torch.manual_seed(0)
model = Qwen2_5_VLForConditionalGeneration.from_pretrained(folder / "model", dtype=torch.float32).eval()
processor = Qwen2_5_VLProcessor.from_pretrained(folder / "model")
rows = pd.read_parquet(folder / "data/anti/train.parquet").iloc[:12]
prompts = train.process(processor, rows)

greedy, mask = train.respond(model, prompts)
theirs = model.generate(**prompts, do_sample=False, max_new_tokens=train.MAX_RESPONSE_LENGTH)
theirs = theirs[:, prompts["input_ids"].shape[1] :]
assert torch.equal(greedy, theirs) and greedy.shape[1] > 6
assert torch.equal(mask.sum(dim=-1) - 1, (greedy == model.generation_config.eos_token_id).int().argmax(dim=-1))

uniform = torch.from_numpy(np.random.default_rng(0).random((48, train.MAX_RESPONSE_LENGTH)))
tokens, mask = train.respond(model, prompts, uniform)
assert len({tuple(row) for row in tokens.tolist()}) > 12
found = train.log_probabilities(model, prompts, tokens)
names = "input_ids", "attention_mask", "mm_token_type_ids"
repeated = {name: prompts[name].repeat_interleave(4, dim=0) for name in names}
image = {"pixel_values": prompts["pixel_values"].view(12, 64, -1).repeat_interleave(4, dim=0).flatten(0, 1),
         "image_grid_thw": prompts["image_grid_thw"].repeat_interleave(4, dim=0)}
whole = {"input_ids": torch.cat([repeated["input_ids"], tokens], dim=1),
         "attention_mask": torch.cat([repeated["attention_mask"], torch.ones_like(tokens)], dim=1),
         "mm_token_type_ids": torch.cat([repeated["mm_token_type_ids"], torch.zeros_like(tokens)], dim=1)}
logits = model(**whole, **image).logits[:, -1 - tokens.shape[1] : -1]
expected = logits.log_softmax(dim=-1).gather(-1, tokens[..., None]).squeeze(-1)
torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], rtol=1e-4, atol=1e-4)
gradients = []
for log_probs in (found, expected):
    model.zero_grad()
    (log_probs * mask).sum().backward()
    gradients.append(torch.cat([each.grad.flatten() for each in model.parameters() if each.grad is not None]))
torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-3 * gradients[1].abs().max().item())

# The first tokens of 2000 rollouts of one prompt, against their probabilities.
few = {name: value[: 64 if name == "pixel_values" else 1] for name, value in prompts.items()}
uniform = (torch.arange(2000).double()[:, None] / 2000).expand(-1, 2)
train.MAX_RESPONSE_LENGTH = 2
tokens, _ = train.respond(model, few, uniform.contiguous())
with torch.no_grad():
    share = train.read_prompts(model, few, 1).logits[0].softmax(dim=-1)
counted = tokens[:, 0].bincount(minlength=len(share)) / 2000
torch.testing.assert_close(counted, share, rtol=0, atol=1.5e-3)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("evidence")
    write_model(out / "model", START_WEIGHTS, processor_of_task())
    for family in FAMILIES:
        (out / "data" / family).mkdir(parents=True)
        for split in ("train", "test"):
            rows = pd.DataFrame(make_rows(family, split, 144))
            rows["visual_entropy"] = np.linspace(1, 2, len(rows))
            rows.to_parquet(out / f"data/{family}/{split}.parquet")
    return out


RUNS = """
import sys
from pathlib import Path
from recipes.evidence import train
from recipes.evidence.runs import ARMS, Run, robustness_runs

train.STEPS, train.TEST_EVERY = 2, 1
folder = Path(sys.argv[1])

def outcome(run):
    return train.train(run, folder / "data", folder / "model")

found = {arm: outcome(Run(arm, "anti", 1)) for arm in ("grpo", "durian", "durian_permuted", "durian_true", "maxrl")}
grpo = found["grpo"]
assert outcome(Run("grpo", "anti", 1)) == grpo
assert set(grpo["validation"]) == {0, 1, 2} and len(grpo["validation"][0]) == 12
assert sum(grpo["weight"]["prompts"]) == 2 * 32 and len(grpo["reward"]) == 2
assert abs(sum(grpo["reward"]) / 2 - sum(
    k * number for k, number in enumerate(grpo["weight"]["prompts"])) / (2 * 32 * 8)) < 1e-5
for arm, each in found.items():  # the first rollouts are the same in every arm
    assert each["reward"][0] == grpo["reward"][0] and each["validation"][0] == grpo["validation"][0], arm
assert len({str(each["weight"]["squares"]) for each in found.values()}) == len(found)
resampled = outcome(Run("grpo", "anti", 1, "resampled"))
assert resampled["validation"][0] == grpo["validation"][0] and resampled["reward"] != grpo["reward"]
other = outcome(Run("grpo", "anti", 2))
assert other["reward"] != grpo["reward"] and other["validation"][0] == grpo["validation"][0]
(wide,) = [run for run in robustness_runs(["anti"], 1) if run.variant == "batch64" and run.arm == "durian"]
assert sum(outcome(wide)["weight"]["prompts"]) == 2 * 64
"""

ADVANTAGES = """
import sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from omegaconf import OmegaConf
from recipes.evidence import arms, train
from recipes.evidence.runs import ARMS, MATCHED
from verl_durian.algo.config import DurianConfig
from verl_durian.algo.estimator import durian_advantages

rows = pd.read_parquet(Path(sys.argv[1]) / "data/anti/train.parquet").iloc[40:72].sample(frac=1, random_state=0)
random = np.random.default_rng(0)
rewards = torch.from_numpy(random.integers(2, size=256)).float()
lengths = torch.from_numpy(random.integers(3, 8, size=256))
mask = (torch.arange(7) < lengths[:, None]).long()
log_probs = -torch.from_numpy(random.random((256, 7))).float()
prompt = torch.arange(32).repeat_interleave(8)
entropy = torch.from_numpy(rows["visual_entropy"].to_numpy()).repeat_interleave(8)
confidence = (log_probs * mask).sum(dim=-1).double() / lengths
for arm in ("grpo", "durian"):
    settings = OmegaConf.from_dotlist([each.lstrip("+") for each in (*ARMS[arm], MATCHED)]).algorithm
    found = train.advantages(rows, rewards, log_probs, mask, settings)
    assert torch.equal(found, found[:, :1] * mask)
    if arm == "grpo":
        by_prompt = rewards.view(32, 8).double()
        std = by_prompt.std(dim=-1, keepdim=True) + 1e-6
        expected = ((by_prompt - by_prompt.mean(dim=-1, keepdim=True)) / std).flatten()
    else:
        options = DurianConfig.from_algorithm(settings)
        expected = durian_advantages(rewards.double(), prompt.numpy(), entropy, confidence, options).advantage
        expected = arms.match_rms(expected, rewards.double(), prompt, lengths.double())
    torch.testing.assert_close(found[:, 0].double(), expected, rtol=1e-4, atol=1e-5)
"""


def test_advantages_are_those_of_the_estimators_for_each_prompt(folder):
    subprocess.run([sys.executable, "-c", ADVANTAGES, folder], check=True, cwd=ROOT)


def test_runs_are_deterministic_paired_and_differ_between_arms(folder):
    subprocess.run([sys.executable, "-c", RUNS, folder], check=True, cwd=ROOT)


def test_responses_and_log_probabilities_equal_those_of_transformers(folder):
    subprocess.run([sys.executable, "-c", CHECK, folder], check=True, cwd=ROOT)
