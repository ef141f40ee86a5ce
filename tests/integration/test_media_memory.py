# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0

import subprocess
import sys

from PIL import Image

PEAK = """
import resource, sys
from verl_durian.entropy.media import MediaError, collect, decode

small, bomb = sys.argv[1:]
decode(collect([small], [[small, small]]), 14)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for row in (([bomb], None, False), ([bomb], None, True), (None, [[bomb, bomb]], False)):
    try:
        decode(collect(*row), 14)
    except MediaError as error:
        print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_decompression_bomb_does_not_take_the_memory(tmp_path):
    Image.new("RGB", (70, 120)).save(tmp_path / "coffee.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    # A process of its own has had no other peak. Decoded, the picture would take 1.6 GB.
    program = [sys.executable, "-c", PEAK, str(tmp_path / "coffee.png"), str(tmp_path / "bomb.png")]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(":")[0] for line in output[:3]] == ["image 0", "image 0", "video 0"]
    assert int(output[3]) < 50_000  # KiB
