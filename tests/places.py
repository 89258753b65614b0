"""Paths of the tree, and of golden files and data that may lie next to it."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"  # not part of the project: tests that need it skip without it
