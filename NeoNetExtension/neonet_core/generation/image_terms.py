"""What a generator's loss may have beside the plain error: the tumour's weight, perceptual and adversarial terms. All
are off in `paper`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from monai.networks.nets import PatchDiscriminator

FeatureMaps = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""A frozen network: images (N, 1, X, Y, Z) -> feature maps (N, C, ...), one or several."""


def weighted_mean(errors: torch.Tensor, tumours: torch.Tensor, tumour_weight: float) -> torch.Tensor:
    """Mean of errors (N, C, X, Y, Z); those in the tumour (N, 1, X, Y, Z), 0 or 1, count `tumour_weight` times."""
    if tumour_weight == 1:
        return errors.mean()
    weights = 1 + (tumour_weight - 1) * tumours.to(errors.dtype)
    return (errors * weights).sum() / (weights.sum() * errors.shape[1])


def perceptual_distance(features: FeatureMaps, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared difference of unit-length features, averaged over the maps; (N, 1, X, Y, Z) twice -> scalar.

    Zhang et al. 2018, equation 1, with all channels weighted alike. Gradients reach `images` only; `features` should
    hold no parameter that takes one.
    """
    with torch.no_grad():
        wanted = [_unit_length(map_) for map_ in features(targets)]
    found = [_unit_length(map_) for map_ in features(images)]
    distances = [(a - b).square().sum(dim=1).mean() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(distances).mean()


def _unit_length(features: torch.Tensor) -> torch.Tensor:
    # the epsilon of `normalize` keeps the gradient finite where all channels are zero
    return torch.nn.functional.normalize(features.float(), dim=1, eps=1e-6)


class Adversary(torch.nn.Module):
    """A patch discriminator with both sides of the hinge loss (Isola et al. 2017; Lim & Ye 2017).

    Each side is computed so that its gradient stops at the other: one backward pass and one optimiser serve both.

    Parameters
    ----------
    channels : int
        Of the first level; doubled at each further one.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # layer normalisation (one group) has no running statistics, which the two sides would share, and works for
        # any batch; an odd kernel leaves something of the smallest patch. A position sees 47 voxels along each axis
        self.discriminator = PatchDiscriminator(spatial_dims=3, channels=channels, in_channels=1, num_layers_d=3,
                                                kernel_size=3, norm=("GROUP", {"num_groups": 1}))

    def generator_term(self, reconstructions: torch.Tensor) -> torch.Tensor:
        """What the autoencoder minimises; no gradient reaches the discriminator."""
        fixed = {name: parameter.detach() for name, parameter in self.discriminator.named_parameters()}
        return -torch.func.functional_call(self.discriminator, fixed, (reconstructions,))[-1].float().mean()

    def discriminator_term(self, images: torch.Tensor, reconstructions: torch.Tensor) -> torch.Tensor:
        """What the discriminator minimises; no gradient reaches the autoencoder."""
        real = self.discriminator(images)[-1].float()
        made = self.discriminator(reconstructions.detach())[-1].float()
        return 0.5 * (torch.relu(1 - real).mean() + torch.relu(1 + made).mean())
