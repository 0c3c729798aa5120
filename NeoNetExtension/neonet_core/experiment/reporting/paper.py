"""The paper's own figures, by table: they stand beside those of a run for orientation."""

from __future__ import annotations

TABLE_1 = {"UNet": 0.9453, "SegResNet": 0.9416, "DynUNet": 0.9482, "SwinUNETR": 0.9516}
"""Mean Dice of each segmentation network."""

RATIOS = (0, 25, 50, 75, 100)
"""Shares of synthetic cases in percent: the columns of table 2."""

TABLE_2 = {
    "ResNet-50": (0.6938, 0.7388, 0.7599, 0.7551, 0.7618), "ResNet-101": (0.6284, 0.6989, 0.7024, 0.7117, 0.7203),
    "ResNet-152": (0.7078, 0.7233, 0.7421, 0.7382, 0.7526), "ResNet-200": (0.6687, 0.7250, 0.7307, 0.7397, 0.7412),
    "DenseNet-121": (0.6788, 0.7443, 0.7380, 0.7490, 0.7551), "DenseNet-169": (0.6725, 0.7021, 0.7387, 0.7434, 0.7584),
    "DenseNet-201": (0.6911, 0.7133, 0.7226, 0.7278, 0.7311), "DenseNet-264": (0.6712, 0.6899, 0.7012, 0.7037, 0.7155),
    "EfficientNet-B0": (0.6798, 0.6897, 0.6995, 0.6910, 0.6998),
    "EfficientNet-B1": (0.6725, 0.7127, 0.7098, 0.7101, 0.7186),
    "EfficientNet-B2": (0.6623, 0.6899, 0.7085, 0.7024, 0.7110),
    "EfficientNet-B3": (0.6533, 0.7215, 0.7462, 0.7671, 0.7755), "Swin": (0.6829, 0.7423, 0.7454, 0.7503, 0.7522),
    "PattenNet": (0.7001, 0.7577, 0.7670, 0.7812, 0.7903)}
"""Mean AUC over the folds, in the order of `RATIOS`; the rows of table 2."""

TABLE_2_MEAN = (0.6760, 0.7178, 0.7294, 0.7336, 0.7417)

TABLE_3 = {"vqvae": {"LPIPS": 0.3003, "SSIM": 0.4958, "PSNR": 15.22},
           "vae": {"LPIPS": 0.2010, "SSIM": 0.7408, "PSNR": 22.74}}

TABLE_4 = {"QNeoGen DM": (18.98, 22.19, 39.23, 26.80), "QNeoGen": (14.58, 18.41, 28.69, 20.56),
           "NeoGen DM": (7.63, 10.86, 17.82, 12.10), "NeoGen": (2.94, 4.83, 8.22, 5.33)}
"""FID: axial, sagittal, coronal, mean."""

TABLE_5 = {"PattenNet-channel": 0.7276, "PattenNet-spatial": 0.7410, "PattenNet-0": 0.7001, "PattenNet-1": 0.7589,
           "PattenNet-2": 0.7903, "PattenNet-3": 0.7713}
"""AUC with R+S 100 %."""


def auc_in_paper(model: str, ratio: int) -> float | None:
    """The paper's table 2; None where it has no such cell."""
    return TABLE_2[model][RATIOS.index(ratio)] if model in TABLE_2 and ratio in RATIOS else None
