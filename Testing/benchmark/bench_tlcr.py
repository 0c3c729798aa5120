"""Milliseconds that TLCR takes beside loading, on a 512 x 512 x 200 label map (the goal: under 50 ms).

    python Testing/benchmark/bench_tlcr.py
"""

import time

import numpy as np

from neonet_core.tlcr import tlcr

SHAPE = (512, 512, 200)
RUNS = 7


def memory_layouts(array: np.ndarray) -> dict[str, np.ndarray]:
    """The layouts that reading and canonical reorientation produce, all with the same voxels."""
    flipped = np.ascontiguousarray(array[::-1, ::-1])[::-1, ::-1]
    return {"C order": array, "Fortran order": np.asfortranarray(array), "flipped": flipped,
            "flipped Fortran": np.asfortranarray(array[::-1, ::-1])[::-1, ::-1],
            "sagittal": np.ascontiguousarray(array.transpose(1, 2, 0)).transpose(2, 0, 1)}


def main() -> None:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[100:350, 120:400, 40:150] = 1
    tumours = {"small": np.s_[180:240, 200:260, 80:110], "large": np.s_[110:340, 130:390, 45:145]}
    image = np.random.default_rng(0).random(SHAPE, dtype=np.float32)
    for size, tumour in tumours.items():
        labels[tumour] = 2
        for layout, array in memory_layouts(labels).items():
            for component in ("all", "largest"):
                times = []
                for _ in range(RUNS):
                    begun = time.perf_counter()
                    tlcr(image, array, component=component)
                    times.append(1000 * (time.perf_counter() - begun))
                print(f"{size} tumour, {layout:16} component {component:8} median {np.median(times):6.1f} ms, "
                      f"worst {max(times):6.1f} ms")


if __name__ == "__main__":
    main()
