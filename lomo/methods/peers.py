"""The registry of peers: other ways to take the same step. Only `peers` and `ablation` name them.

A peer is a method in every other respect: its module defines `METHOD` and `prepare`. Nothing here
imports torch or the packages that are compared.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from lomo.errors import UserError

MODULES = {
    "floor": "lomo.peers.floor",
    "gradients_kept": "lomo.peers.gradients_kept",
    "torch_sgd": "lomo.peers.torch_sgd",
    "torch_adamw": "lomo.peers.torch_adamw",
    "optimizer_in_backward": "lomo.peers.optimizer_in_backward",
    "lomo_optim": "lomo.peers.lomo_optim",
}

# The package of a peer and its one version: another would be another peer.
PACKAGES = {"lomo_optim": ("lomo-optim", "0.1.1")}


def check_installed(peer: str, *, where: str) -> None:
    """Raises UserError unless the peer's package is there in the version that is compared."""
    if peer not in PACKAGES:
        return
    package, wanted = PACKAGES[peer]
    try:
        found = f"{package} {version(package)} is installed"
    except PackageNotFoundError:
        found = f"{package} is not installed"
    if found != f"{package} {wanted} is installed":
        raise UserError(
            f"{peer} is {package} {wanted}, and {found}",
            where=where,
            fix=f"pip install {package}=={wanted}, or remove the variant",
        )
