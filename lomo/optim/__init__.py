"""The optimizers, usable on their own: imports torch and nothing else."""

from .adalomo import AdaLomo
from .fused_backward import FusedBackward
from .in_gemm import update_in_gemm
from .lomo import Lomo
from .master import MasterCopy

__all__ = ["AdaLomo", "FusedBackward", "Lomo", "MasterCopy", "update_in_gemm"]
