"""HDF5 files of Keras weights made up for the tests, and a forward pass of them in NumPy alone.

It shares nothing with the torch network. Array axes are (x, y, z, channels), as in Keras.
"""

import io

import numpy as np

PLANE, CUBE = (3, 3, 1), (3, 3, 3)


def layer_shapes(first, residual, deepest):
    """Kernel shapes (x, y, z, in, out) of all convolutions, in the order of their numbers."""
    a = first
    down = [(1, a, 2 * a), (2 * a, 2 * a, 4 * a), (4 * a, 4 * a, 8 * a), (8 * a, 8 * a, 8 * a)]
    up = [(16 * a, 8 * a, 4 * a), (8 * a, 4 * a, 2 * a), (4 * a, 2 * a, a)]
    kernels = [(PLANE, CUBE)] * 3 + [deepest] + [(CUBE, PLANE)] * 3
    shapes = []
    for (before, between, after), (one, two) in zip(down + up, kernels, strict=True):
        shapes += [(*one, before, between), (*two, between, after)]
        if residual and before != after:
            shapes.append((1, 1, 1, before, after))
    return [*shapes, (1, 1, 1, a, 1)]


def keras_file(shapes, voxel_size, seed=0):
    """An HDF5 file of the published form with random weights, as bytes."""
    import h5py

    rng, stream = np.random.default_rng(seed), io.BytesIO()
    with h5py.File(stream, "w") as file:
        names = []
        for number, shape in enumerate(shapes, start=1):
            name = f"conv3d_{number}"
            group = file.create_group(name)
            fan_in = np.prod(shape[:4])
            group[f"{name}/kernel:0"] = rng.normal(0, np.sqrt(2 / fan_in), shape).astype(np.float32)
            group[f"{name}/bias:0"] = rng.normal(0, 0.1, shape[4:]).astype(np.float32)
            group.attrs["weight_names"] = [f"{name}/kernel:0".encode(), f"{name}/bias:0".encode()]
            file.create_group(f"lambda_{number}").attrs["weight_names"] = np.array([], dtype="S1")
            names += [name, f"lambda_{number}"]
        file.attrs["layer_names"] = names
        file["header/voxel_size"] = np.array(voxel_size, dtype=float)
    return stream.getvalue()


def numpy_forward(content, image, *, factor, padded, residual):
    """Logits (x, y, z) of an image (X, Y, Z) by the weights of a file, in double precision."""
    import h5py

    with h5py.File(io.BytesIO(content)) as file:
        weights = iter([(file[f"conv3d_{n}/conv3d_{n}/kernel:0"][()].astype(float),
                         file[f"conv3d_{n}/conv3d_{n}/bias:0"][()].astype(float))
                        for n in range(1, 1 + sum(name.startswith("conv3d") for name in file))])

    def convolve(array):
        kernel, bias = next(weights)
        if padded:
            array = np.pad(array, [(n // 2, n // 2) for n in kernel.shape[:3]] + [(0, 0)])
        size = [n - k + 1 for n, k in zip(array.shape[:3], kernel.shape[:3], strict=True)]
        total = np.zeros((*size, len(bias))) + bias
        for x, y, z in np.ndindex(kernel.shape[:3]):  # each tap looks at a shifted copy of the volume
            total += array[x : x + size[0], y : y + size[1], z : z + size[2]] @ kernel[x, y, z]
        return total

    def activate(array):
        centred = array - array.mean(axis=(0, 1, 2))
        centred = centred / (centred.std(axis=(0, 1, 2)) + 1e-7)
        return np.where(centred > 0, centred, 0.01 * centred)

    def middle(array, like):
        cut = [(a - b) // 2 for a, b in zip(array.shape[:3], like.shape[:3], strict=True)]
        return array[tuple(slice(c, n - c) for c, n in zip(cut, array.shape[:3], strict=True))]

    def pair(array, activated):
        changed = convolve(activate(array) if activated else array)
        changed = convolve(activate(changed))
        if not residual:
            return changed
        short = middle(array, changed)
        return changed + (short if short.shape == changed.shape else convolve(short))

    def pool(array):
        x, y, z, c = array.shape
        x, y, z = (n // factor * factor for n in (x, y, z))
        blocks = array[:x, :y, :z].reshape(x // factor, factor, y // factor, factor, z // factor, factor, c)
        return blocks.max(axis=(1, 3, 5))

    def enlarge(array):
        for axis in range(3):
            array = np.repeat(array, factor, axis=axis)
            if padded:  # the mean of `factor` neighbours: linear interpolation of what was repeated
                length = array.shape[axis] - factor + 1
                array = sum(np.take(array, range(k, k + length), axis=axis) for k in range(factor)) / factor
        return array

    kept, path = [], image[..., None].astype(float)
    for level in range(4):
        path = pair(pool(path) if level else path, activated=level > 0)
        kept.append(path)
    for level in (2, 1, 0):
        path = enlarge(path)
        path = pair(np.concatenate([middle(kept[level], path), path], axis=-1), activated=True)
    return convolve(activate(path))[..., 0]
