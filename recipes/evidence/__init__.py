# SPDX-FileCopyrightText: 2026 The verl-durian authors
# SPDX-License-Identifier: Apache-2.0
"""A controlled comparison of advantage normalizers on a task of known difficulty."""
