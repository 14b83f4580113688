"""Where the corpus, the golden masks and the experiments lie, if they do: beside the project."""

from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
