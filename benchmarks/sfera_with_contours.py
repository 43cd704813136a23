"""Does SFERA gain from contours? The same training three times: as it is, with the LV areas that contours find in each
slice beside the BiLSTM's input, and with a decoder on its encoder that has to find the masks.

    python benchmarks/sfera_with_contours.py --data-dir data --json benchmarks/results/sfera_with_contours.json

Needs `cardiojax build kaggle_dsb`. The contours are `contours-small`, which have learned from no study of that dataset,
so that they are as wrong about its training studies as about its others. The table is printed; arms that are in --json
already are not trained again.
"""

import argparse
import dataclasses
import functools
import json
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.progress import track

import cardiojax
from cardiojax.config import SFERA_PRESETS, SferaNetConfig, jax_dtype
from cardiojax.data import Split, max_slices, open_split
from cardiojax.evaluate.metrics import with_ef
from cardiojax.models.sfera import Scaling
from cardiojax.nets.layers import MOMENTUM
from cardiojax.nets.lstm import BidirectionalLSTM
from cardiojax.nets.sfera import TYPICAL_SLICES, ResidualBlock, Sfera
from cardiojax.ops.packing import encoded_slices
from cardiojax.preparation.augment import augment, study_keys, view
from cardiojax.preparation.batch import batch_of, halve, slice_budget, study_arrays
from cardiojax.provenance import commit
from cardiojax.train import losses
from cardiojax.train.ridge import fit as fit_ridge
from cardiojax.train.state import first_state, updated
from cardiojax.units import LV

ARMS = ("as it is", "areas as input", "decoder")
DECODED_PX = 37                  # 75 pixels after the first block's pooling


class Studies(NamedTuple):
    """Of a split. frames, lv (N, S, 75, 75, 2) uint8, lv: the LV's share of a pixel × 255; areas_mm2 (N, S, 4): of the
    masks, then as contours read them, each at ED and ES; NaN, and 0, on padding."""

    frames: np.ndarray
    lv: np.ndarray
    n_slices: np.ndarray
    spacing_mm: np.ndarray
    volumes_ml: np.ndarray
    areas_mm2: np.ndarray

    def at(self, indices) -> "Studies":
        return Studies(*(field[indices] for field in self))


def read(split: Split, slices: int, reader) -> Studies:
    rows = []
    for study in track([split[i] for i in range(len(split))], f"contours of {split.name}"):
        arrays = study_arrays(study, 75, slices)
        seen = np.asarray(reader.apply(batch_of([study], 150, slices=slices)).seen.areas_mm2)[0, :, :, LV]
        lv = np.zeros((slices, 75, 75, 2), np.uint8)
        if study.masks is not None:
            lv[:len(study)] = halve((255 * (study.masks == LV)).astype(np.uint8))
        rows.append((arrays["frames"], lv, arrays["n_slices"], arrays["slice_spacing_mm"], arrays["volumes_ml"],
                     np.concatenate([arrays["area_mm2"], seen], axis=-1)))
    return Studies(*(np.stack(column) for column in zip(*rows, strict=True)))


class SferaWithContours(Sfera):
    """A Sfera whose BiLSTM may see two areas a slice, or whose blocks may be decoded: their outputs, each made logits
    of the LV at ED and ES by a 1 × 1 product, are brought to one size and added up (hypercolumns)."""

    def __init__(self, net: SferaNetConfig, arm: str, rngs: nnx.Rngs):
        super().__init__(**{**dataclasses.asdict(net), "dtype": jax_dtype(net.dtype)}, rngs=rngs)
        self.arm = arm
        if arm == "areas as input":
            self.lstm = BidirectionalLSTM(net.spatial_features + 2, net.lstm_features, rngs)
        if arm == "decoder":
            self.decoders = nnx.List([nnx.Linear(net.width * 2**i, 2, rngs=rngs) for i in range(net.blocks)])

    def encode(self, images, weight, train, axis_name=None):
        """Spatial features; with a decoder the logits of its 37 × 37 pixels after them."""
        x, logits = (images - 0.5).astype(self.dtype), 0.0
        for i, block in enumerate(self.blocks):
            x = ResidualBlock.__call__(block, x, weight, train, axis_name)
            if self.arm == "decoder" and train:
                logits += jax.image.resize(self.decoders[i](x), (len(x), DECODED_PX, DECODED_PX, 2), "linear")
        spatial = nnx.relu(self.spatial(x.reshape(len(x), -1))).astype(jnp.float32)
        if self.arm == "decoder" and train:
            return jnp.concatenate([spatial, logits.reshape(len(x), -1)], axis=-1)
        return spatial

    def __call__(self, frames, n_slices, share, *, train=False, budget=None, dropout_keys=None):
        """Volumes, features, areas (`nets.sfera.SferaOutput`) and the decoder's logits; share (B, S, 2): what contours
        read, scaled as `areas`."""
        real = jnp.arange(frames.shape[1]) < n_slices[:, None]
        encoded = encoded_slices(lambda images, weight: self.encode(images, weight, train), frames, real, budget)
        count = self.spatial.out_features
        spatial, logits = encoded[..., :count], encoded[..., count:]
        if dropout_keys is not None:
            keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - self.dropout, (count,)))(dropout_keys)
            spatial = spatial * keep[:, None] / (1 - self.dropout)
        if self.arm == "areas as input":
            spatial = jnp.concatenate([spatial, share], axis=-1)
        outputs, _ = self.lstm(spatial, n_slices)
        outputs = outputs * real[..., None]
        features = outputs.sum(axis=1) / TYPICAL_SLICES
        return self.head(features) + self.offset[...], features, self.head(outputs), logits


def trained(arm: str, training: Studies, scaling: Scaling, config, seed: int, budget_of):
    """The graph, averaged parameters and batch statistics after `config.steps` steps, as `train.sfera` makes them."""
    init_key, step_key = jax.random.split(jax.random.key(seed))
    graph, params, stats = nnx.split(SferaWithContours(config.net, arm, nnx.Rngs(init_key)), nnx.Param, nnx.BatchStat)
    params["offset"][...] = -jnp.asarray(scaling.low / (scaling.high - scaling.low))
    optimiser = optax.flatten(optax.chain(
        optax.clip_by_global_norm(config.clip_norm), optax.scale_by_radam(),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(optax.cosine_decay_schedule(config.learning_rate, config.steps))))

    @functools.partial(jax.jit, static_argnums=2, donate_argnums=0)
    def step(state, batch, budget):
        keys, dropout_keys = (study_keys(k, len(batch.frames))
                              for k in jax.random.split(jax.random.fold_in(step_key, state.step)))
        frames, volumes, areas = augment(keys, batch.frames, batch.n_slices, batch.volumes_ml, batch.areas_mm2,
                                         config.augment)
        target = scaling.scale(volumes, batch.spacing_mm)
        share, seen = jnp.split(areas / 1000.0 / jnp.tile(scaling.high - scaling.low, 2) * TYPICAL_SLICES, 2, axis=-1)

        def loss(params):
            model = nnx.merge(graph, params, state.stats, copy=True)
            volume, _, area, logits = model(frames, batch.n_slices, seen, train=True, budget=budget,
                                            dropout_keys=dropout_keys)
            total = (losses.masked_rmse(volume, target, jnp.ones_like(target))
                     + losses.masked_rmse(area, share, ~jnp.isnan(share) * 1.0))
            if arm == "decoder":                          # the same keys: the masks move as the frames do
                lv, *_ = augment(keys, batch.lv, batch.n_slices, batch.volumes_ml, batch.areas_mm2,
                                 dataclasses.replace(config.augment, intensity=0.0))
                total += decoding_loss(logits, lv, ~jnp.isnan(share))
            return total, nnx.state(model, nnx.BatchStat)

        (value, stats), gradients = jax.value_and_grad(loss, has_aux=True)(state.params)
        return updated(state, gradients, stats, optimiser, None, config.ema, None)[0], value

    @functools.partial(jax.jit, static_argnums=2)
    def moments(params, batch, budget):
        model = nnx.merge(graph, params, jax.tree.map(jnp.zeros_like, stats), copy=True)
        model(batch.frames / 255.0, batch.n_slices, jnp.zeros((*batch.frames.shape[:2], 2)), train=True, budget=budget)
        return jax.tree.map(lambda kept: kept / (1 - MOMENTUM), nnx.state(model, nnx.BatchStat))

    state, rng, order = first_state(params, stats, optimiser), np.random.default_rng(seed), []
    for _ in track(range(config.steps), f"{arm}, seed {seed}"):
        if len(order) < config.batch:
            order = list(rng.permutation(len(training.frames)))
        batch = training.at(order[:config.batch])
        order = order[config.batch:]
        state, value = step(state, batch, budget_of(batch))
    assert np.isfinite(value)
    parts = [training.at(slice(i, i + config.batch)) for i in range(0, len(training.frames), config.batch)]
    share = [part.n_slices.sum() / training.n_slices.sum() for part in parts]
    found = [moments(state.ema, part, budget_of(part)) for part in parts]
    return graph, state.ema, jax.tree.map(lambda *ms: sum(s * m for s, m in zip(share, ms, strict=True)), *found)


def decoding_loss(logits, lv, known):
    """Cross-entropy and 1 − Dice of the LV, over the slices with masks. logits: (B, S, 37 · 37 · 2)."""
    b, s = lv.shape[:2]
    logits, side = logits.reshape(b, s, DECODED_PX, DECODED_PX, 2), 2 * DECODED_PX
    truth = lv[:, :, :side, :side].reshape(b, s, DECODED_PX, 2, DECODED_PX, 2, 2).mean((3, 5))
    weight = jnp.broadcast_to(known[:, :, None, None] * 1.0, truth.shape)
    p = jax.nn.sigmoid(logits)
    entropy = (optax.sigmoid_binary_cross_entropy(logits, truth) * weight).sum() / jnp.maximum(weight.sum(), 1.0)
    dice = 2 * (p * truth * weight).sum() / jnp.maximum(((p + truth) * weight).sum(), 1.0)
    return entropy + 1 - dice


def figures(network, training: Studies, test: Studies, scaling: Scaling, config) -> dict[str, float]:
    """Errors on the test studies after the ridge; EDV and ESV in ml, EF in points."""
    graph, params, stats = network

    @jax.jit
    def features(part):
        model = nnx.merge(graph, params, stats, copy=True)
        share = part.areas_mm2[..., 2:] / 1000.0 / (scaling.high - scaling.low) * TYPICAL_SLICES
        found = []
        for v in range(config.views):
            turned = view(share[:, :, None, None], part.n_slices, v)[:, :, 0, 0]
            found.append(model(view(part.frames, part.n_slices, v) / 255.0, part.n_slices, turned)[1])
        return sum(found) / config.views

    def of(studies):
        return np.concatenate([np.asarray(features(studies.at(slice(i, i + 8))))
                               for i in range(0, len(studies.frames), 8)])

    fitted = fit_ridge(of(training), scaling.scale(training.volumes_ml, training.spacing_mm))
    return errors(np.asarray(scaling.to_ml(fitted.predict(of(test))[0], test.spacing_mm)), test)


def contours_alone(training: Studies, test: Studies) -> dict[str, float]:
    """Errors of what contours read, fitted to the training studies' volumes by least squares, linear in both."""
    def volumes_ml(studies):
        read_ml = studies.areas_mm2[..., 2:].sum(1) * studies.spacing_mm[:, None] / 1000
        return np.column_stack([read_ml, np.ones(len(read_ml))])

    fit, *_ = np.linalg.lstsq(volumes_ml(training), training.volumes_ml)
    return errors(volumes_ml(test) @ fit, test)


def errors(found_ml: np.ndarray, test: Studies) -> dict[str, float]:
    error = with_ef(found_ml) - with_ef(test.volumes_ml)
    return {f"{name}_{kind}": float(value) for i, name in enumerate(("edv", "esv", "ef"))
            for kind, value in (("rmse", np.sqrt(np.square(error[:, i]).mean())), ("mae", np.abs(error[:, i]).mean()),
                                ("bias", error[:, i].mean()))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--data", default="kaggle_dsb")
    parser.add_argument("--contours", default="contours-small", help="a model that has not learned from --data")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--json", type=Path, required=True)
    args = parser.parse_args()
    config = dataclasses.replace(SFERA_PRESETS["small"], steps=args.steps)
    splits = [open_split(f"{args.data}:{name}", args.data_dir) for name in ("train", "test")]
    slices = max_slices(*splits)
    reader = cardiojax.load(args.contours)
    training, test = (read(split, slices, reader) for split in splits)
    scaling = Scaling.of(training.volumes_ml, training.spacing_mm)
    rows = (json.loads(args.json.read_text())["rows"] if args.json.exists() else
            [{"arm": "contours, fitted", "seed": None, **contours_alone(training, test)}])
    for seed in args.seeds:
        for arm in ARMS:
            if not any((row["arm"], row["seed"]) == (arm, seed) for row in rows):
                began = time.monotonic()
                network = trained(arm, training, scaling, config, seed,
                                  lambda batch: slice_budget(batch.n_slices, 1, slices))
                rows.append({"arm": arm, "seed": seed, **figures(network, training, test, scaling, config),
                             "minutes": (time.monotonic() - began) / 60})
                args.json.write_text(json.dumps({
                    "device": jax.devices()[0].device_kind, "data": args.data, "contours": args.contours,
                    "training": len(training.frames), "n": len(test.frames), "steps": args.steps, "commit": commit(),
                    "rows": rows}, indent=2))
    for row in rows:
        print(f"{row['arm']:16} seed {row['seed']}  " + "  ".join(
            f"{k} {row[f'{k}_rmse']:5.1f} ({row[f'{k}_bias']:+.1f})" for k in ("edv", "esv", "ef")))


if __name__ == "__main__":
    main()
