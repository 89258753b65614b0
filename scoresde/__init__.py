"""Score-based generative modelling through stochastic differential equations, on PyTorch.

The packages lie at the top of the source tree (sde/, samplers/, models/, …) and are imported under
this one name, so that no folder of a user's own project is taken for one of them:

    from scoresde.sde import VP
    from scoresde.samplers import PredictorCorrector
"""

from pathlib import Path

__version__ = "0.1.0"

# In a source tree they are beside this folder, not within it as where a wheel is installed; with
# this a tree runs its own files, from any folder and whichever tree an environment has installed.
_tree = Path(__file__).resolve().parents[1]
if (_tree / "pyproject.toml").is_file() and (_tree / "sde").is_dir():
    __path__.append(str(_tree))
