# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""The five benchmarks of the paper: verl answers and grades the questions, this package reports the scores."""
