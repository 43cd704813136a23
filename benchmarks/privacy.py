"""Does a cohort show the patients that it was made from? The distance of each synthetic image to its nearest among the
training images, beside that of real images of patients who were not trained on.

    python benchmarks/privacy.py --cohorts synthetic/gaugan synthetic/warp --real acdc --data-dir data --json FILE

Warped images, which are their patients' own but for the heart, are what a copy looks like. Distance: root mean square
of the differences at 2 mm, within 64 mm of the heart's centre, in shares of the intensity range.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cardiojax.data import Split, builders, open_split
from cardiojax.preparation.batch import halve
from cardiojax.provenance import commit

STUDIES = 150                  # of a cohort, at random
HALF_PX = 32                   # of 75; records are cropped round the heart
FARTHEST = 1e9


def images_of(split: Split, indices=None) -> tuple[Float[np.ndarray, "n p"], np.ndarray]:
    """Frames with any label in their masks as rows of pixels in [0, 1]; the patient of each."""
    rows, patients = [], []
    for i in range(len(split)) if indices is None else indices:
        study = split[int(i)]
        if study.masks is None:
            continue
        small = halve(study.frames)[:, 37 - HALF_PX:37 + HALF_PX, 37 - HALF_PX:37 + HALF_PX]
        for s, t in np.argwhere(study.masks.any((1, 2))):
            rows.append(small[s, :, :, t].reshape(-1) / np.float32(255))
            patients.append((study.source, study.ancestor or study.study_id))
    patient_of = builders.patients(patients)
    return np.stack(rows), np.array([patient_of[key] for key in patients])


def nearest(images: Float[np.ndarray, "n p"], among: Float[np.ndarray, "m p"], apart=None
            ) -> tuple[Float[np.ndarray, " n"], np.ndarray]:
    """Distance and index of the nearest; `apart` (n, m): pairs that do not count."""
    squares = (images**2).sum(1)[:, None] + (among**2).sum(1) - 2 * images @ among.T
    if apart is not None:
        squares = np.where(apart, FARTHEST, squares)
    index = squares.argmin(1)
    return np.sqrt(np.maximum(squares[np.arange(len(images)), index], 0) / images.shape[1]), index


def percentiles(distances: Float[np.ndarray, " n"]) -> dict[str, float]:
    return {f"percentile_{q}": round(float(np.percentile(distances, q)), 4) for q in (5, 50, 95)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cohorts", nargs="+", required=True)
    parser.add_argument("--real", required=True, help="the dataset whose train the cohorts' train was made from")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    training, of_training = images_of(open_split(f"{args.real}:train", args.data_dir))
    held_out, _ = images_of(open_split(f"{args.real}:validation,{args.real}:test", args.data_dir))
    usual, _ = nearest(held_out, training)
    near = np.percentile(usual, 5)
    result = {"commit": commit(), "real": args.real, "training_images": len(training), "held_out": {
        "images": len(held_out), **percentiles(usual)}, "cohorts": {}}
    for name in args.cohorts:
        split = open_split(f"{name}:train", args.data_dir)
        chosen = np.random.default_rng(0).permutation(len(split))[:STUDIES]
        images, patients = images_of(split, chosen)
        distances, index = nearest(images, training)
        others, _ = nearest(images, training, patients[:, None] == of_training)
        result["cohorts"][name] = {
            "images": len(images), **percentiles(distances), "own_patient_is_nearest": float(
                (of_training[index] == patients).mean()),
            "nearer_than_5_percent_of_held_out": float((distances < near).mean()),
            "to_other_patients": percentiles(others)}
    args.json.write_text(json.dumps(result, indent=1))
    print(f"{'':28} nearest training image: median, 5 %   own patient's   nearer than 5 % of the held-out")
    print(f"{'held-out real':28} {result['held_out']['percentile_50']:.3f}, {result['held_out']['percentile_5']:.3f}")
    for name, m in result["cohorts"].items():
        print(f"{name:28} {m['percentile_50']:.3f}, {m['percentile_5']:.3f}   {m['own_patient_is_nearest']:.0%}   "
              f"{m['nearer_than_5_percent_of_held_out']:.0%}")


if __name__ == "__main__":
    main()
