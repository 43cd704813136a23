"""What a synthetic study costs: seconds for its masks and for its images, bytes on disk, seconds to read it back.

    python benchmarks/cohort.py --gaugan runs/gaugan --data-dir data --real acdc --split validation \\
        --judge runs/sfera_acdc --json FILE

Measures the cohort that `cardiojax build synthetic` has made (its cohort.json), on some of its studies: also how far ED
and ES differ outside of the heart, and the volumes that a SFERA trained on real images reads from them against those of
their masks, with and without `--consistency background`.
"""

import argparse
import json
import time
from pathlib import Path

import jax
import numpy as np

from cardiojax import load
from cardiojax.data import open_split
from cardiojax.evaluate.metrics import MEASURES, agreement, with_ef
from cardiojax.models.gaugan import to_uint8
from cardiojax.provenance import commit
from cardiojax.synthesis import build
from cardiojax.synthesis.consistency import background_difference, slice_difference, steady_background
from cardiojax.synthesis.masks import Recipe, Shapes, recipes

FULL_SIZE = 22_653         # studies of the paper's cohort


def seconds(function, *args) -> tuple[float, object]:
    began = time.perf_counter()
    result = function(*args)
    return time.perf_counter() - began, result


def shown(studies, judge) -> dict:
    """What the images of synthetic studies are like."""
    read = (judge.predict(s) for s in studies)
    volumes = with_ef(np.array([[p.edv_ml, p.esv_ml] for p in read]))
    truth = with_ef(np.array([s.volumes_ml for s in studies], np.float64))
    return {"background_change": background_difference(studies), "slice_change": slice_difference(studies),
            "volumes_read": {
        name: {k: v for k, v in agreement(volumes[:, i], truth[:, i]).items() if k in ("r", "rmse", "bias")}
        for i, name in enumerate(MEASURES)}}


def steadied(study):
    return study.replace(frames=to_uint8(steady_background(study.frames / np.float32(127.5) - 1, study.masks)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gaugan", type=Path, required=True)
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--real", required=True, help="NAME of the ancestors' dataset")
    parser.add_argument("--judge", type=Path, required=True, help="a SFERA run trained on real images")
    parser.add_argument("--config", default="uniform")
    parser.add_argument("--split", default="train")
    parser.add_argument("--studies", type=int, default=64)
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    folder = args.data_dir / build.NAME / args.config / build.VERSION
    cohort = json.loads((folder / build.SETTINGS).read_text())
    patients = build.studies_with_masks(open_split(f"{args.real}:{args.split}", args.data_dir, False))
    members = cohort["members"][args.split][:args.studies]
    shapes_s, shapes = seconds(lambda: [Shapes(p.masks) for p in patients[:8]])
    pool_s, _ = seconds(lambda: [s.volumes_ml(r) for s in shapes for r in recipes()])
    own = {m["patient"]: Shapes(patients[m["patient"]].masks) for m in members}
    pairs_s, pairs = seconds(lambda: [own[m["patient"]].pair(Recipe(*m["recipe"])) for m in members])
    generator = load(args.gaugan)
    generator.stacks(pairs)                             # compiles
    images_s, _ = seconds(generator.stacks, pairs)
    opened, split = seconds(open_split, f"synthetic/{args.config}:{args.split}", args.data_dir)
    which = np.random.default_rng(0).choice(len(split), args.studies, replace=False)
    read_s, made = seconds(lambda: [split[i] for i in which])
    shards = list(folder.glob(f"synthetic-{args.split}.*"))
    size = sum(s.stat().st_size for s in shards) / len(split)
    judge = load(args.judge)
    stored = {"frames": sum(s.frames.nbytes for s in made), "masks_unpacked": sum(s.masks.nbytes for s in made)}
    images = sum(2 * len(s) for s in made) / len(made)
    result = {
        "device": jax.devices()[0].device_kind, "cohort": f"synthetic/{args.config}:{args.split}", "commit": commit(),
        "splits": {k: {x: y for x, y in v.items() if x != "ef_bins"} for k, v in cohort["splits"].items()},
        "images_a_study": images,
        "seconds_a_patient": {"signed_distances": shapes_s / len(shapes), "volumes_of_35": pool_s / len(shapes)},
        "seconds_a_study": {"masks": pairs_s / len(pairs), "images": images_s / len(pairs), "read": read_s / len(made)},
        "images_a_second": sum(2 * len(p) for p in pairs) / images_s,
        "bytes_a_study": {"on_disk": size, **{k: v / len(made) for k, v in stored.items()}},
        "full_size": {"studies": FULL_SIZE, "images": FULL_SIZE * images, "gib": FULL_SIZE * size / 2**30,
                      "hours_of_images": FULL_SIZE * images_s / len(pairs) / 3600,
                      "minutes_to_open": FULL_SIZE * opened / len(split) / 60},
        "images": {"real": shown([p for p in patients if p.volumes_ml is not None], judge),
                   "none": shown(made, judge), "background": shown([steadied(s) for s in made], judge)},
    }
    args.json.write_text(json.dumps(result, indent=2))
    print(args.json.read_text())


if __name__ == "__main__":
    main()
