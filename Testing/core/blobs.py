"""Small made-up cases, quick to train on."""

import numpy as np


def blob(seed, shape=(32, 28, 16), pni=0):
    """(image, label map): an ellipsoid liver with a tumour, darker where `pni`, in noise."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    size = np.array(shape)
    liver = (((grid - size / 2) / (0.4 * size)) ** 2).sum(axis=-1) < 1
    tumour = (((grid - size / 2 - rng.uniform(-2, 2, 3)) / (0.14 * size)) ** 2).sum(axis=-1) < 1
    label_map = liver.astype(np.uint8) + (liver & tumour)
    image = np.array([20, 150, 90 - 40 * pni])[label_map] + rng.normal(0, 8, shape)
    return image.astype(np.float32), label_map
