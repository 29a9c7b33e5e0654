"""The commands that look at one network, fastcnn features | speed, and the one that runs somebody else's: fastcnn accelerate."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import numpy as np

from fastcnn import backend
from fastcnn.compat import COURSES
from fastcnn.console import UsageError, backend_options, number, print_json, table, use_backend

logger = logging.getLogger("fastcnn")

# Layers that only hand on what they get are left out of the overview; these too where there would be more rows than this.
_HANDING_ON = ("Dropout", "Flatten", "Identity", "VanillaDropout")
_ROWS = 14


def add(commands: Any) -> None:
    """The parsers of these commands."""
    features = commands.add_parser(
        "features",
        help="picture what each layer makes of an image",
        description="Run an image through a trained network, print each layer's output in numbers and draw it: all layers in one picture, and each by itself.",
    )
    features.set_defaults(run=_features)
    features.add_argument("folder", metavar="RUN", help="run folder of `fastcnn train`")
    features.add_argument("image", metavar="IMAGE", help="image file")
    features.add_argument("--out", metavar="DIR", help="folder for the pictures (default: features-IMAGE in the run folder)")
    features.add_argument("--invert", action="store_true", help="for dark drawings on a bright ground")

    speed = commands.add_parser(
        "speed",
        help="measure images per second in inference",
        description="Time forward passes of a trained network, or of a recipe's with fresh weights, on random images.",
    )
    speed.set_defaults(run=_speed)
    speed.add_argument("network", metavar="RUN|NAME", help="run folder of `fastcnn train`, or a recipe")
    speed.add_argument("--batch", type=number(int, 1), nargs="+", metavar="N", help="batch sizes (default: 1 64; of wide-256: 1 4)")
    speed.add_argument("--seconds", type=number(float, 0), default=2.0, help="how long to measure each, at least 5 passes (default: 2)")
    accelerate = commands.add_parser(
        "accelerate",
        help="run a script of coursework with its layers computed by fastcnn",
        description="Run SCRIPT as `python SCRIPT ARGS` does, with the functions of the course whose modules it imports (or which it defines itself) "
        "computed by fastcnn. What is replaced is said on stderr.",
        epilog="courses: " + ", ".join(COURSES),
    )
    accelerate.set_defaults(run=_accelerate)
    accelerate.add_argument("--course", choices=COURSES, action="append", help="only this course (may be given more than once; default: all)")
    accelerate.add_argument("--quiet", action="store_true", help="say nothing")
    accelerate.add_argument("--threads", type=number(int, 1), help="threads (default: all CPUs this process may use)")
    accelerate.add_argument("script", metavar="SCRIPT", help="Python file")
    accelerate.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="its arguments")

    for command in (features, speed):
        backend_options(command)
        command.add_argument("--json", action="store_true", help="print the result as JSON")


def read_image(run: Any, path: str, invert: bool) -> np.ndarray:
    """The image of a file as a loaded run wants to see it, (C, H, W) uint8, with a warning if it seems to be inverted."""
    from fastcnn.recipes.pictures import looks_inverted, read_picture

    pixels = read_picture(path, run.recipe.input_shape[0])
    if invert:
        pixels = 255 - pixels
    elif run.recipe.dark_ground and looks_inverted(pixels):
        logger.warning("%s has a bright ground, this network was trained on dark ones: --invert turns it round", path)
    return run.recipe.picture(pixels, run.config["options"]["data"])


def _features(arguments: argparse.Namespace) -> None:
    from fastcnn import plots, recipes
    from fastcnn.watch import layer_outputs

    use_backend(arguments)
    run = recipes.load(arguments.folder)
    pixels = read_image(run, arguments.image, arguments.invert)
    layers = layer_outputs(run.model, run.transform(pixels[None]))
    stem = Path(arguments.image).stem
    out = Path(arguments.folder) / f"features-{stem}" if arguments.out is None else Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    answer = _answer(run, pixels)
    rows, shown, files = [], [], []
    for index, layer in enumerate(layers):
        values = layer.output[0]
        shape = "x".join(map(str, values.shape))
        rows.append(
            {
                "layer": layer.path,
                "kind": layer.kind,
                "shape": shape,
                "min": float(values.min()),
                "mean": float(values.mean()),
                "max": float(values.max()),
                "zeros": float(np.mean(values == 0)),
            }
        )
        if values.ndim in (1, 3) and layer.kind not in _HANDING_ON:
            shown.append((f"{layer.path} {layer.kind}\n{shape}", values))
        if values.ndim == 3 and values.shape[1:] != (1, 1) and layer.kind not in _HANDING_ON:
            figure = plots.feature_maps(values, title=f"{layer.path} {layer.kind}: {len(values)} maps {values.shape[1]}x{values.shape[2]}")
            files.append(plots.save(figure, out / f"{index:02d}-{layer.kind.lower()}.png"))
    shown = _fewer(shown)
    title = f"{Path(arguments.image).name} through {run.recipe.name}: {answer[0]} ({answer[1]:.1%})"
    files.insert(0, plots.save(plots.features(shown, image=pixels, title=title), out / "features.png"))
    if arguments.json:
        print_json({"image": arguments.image, "class": answer[0], "probability": answer[1], "layers": rows, "files": [str(path) for path in files]})
        return
    print(f"{arguments.image}: {answer[0]} {answer[1]:.1%}")
    numbers = ("min", "mean", "max")
    cells = [[row["layer"], row["kind"], row["shape"], *(f"{row[name]:.4g}" for name in numbers), f"{row['zeros']:.0%}"] for row in rows]
    print(table([["layer", "kind", "output", "min", "mean", "max", "zeros"], *cells]))
    print(f"pictures in {out}: " + ", ".join(path.name for path in files))


def _answer(run: Any, pixels: np.ndarray) -> tuple[str, float]:
    """The likeliest class of one image, and its probability."""
    probabilities = run.predict(pixels[None])[0]
    best = int(probabilities.argmax())
    return run.classes[best], float(probabilities[best])


def _fewer(layers: list[tuple[str, np.ndarray]]) -> list[tuple[str, np.ndarray]]:
    """Without normalisations, then without activations, if there are more layers than a picture has room for."""
    for kinds in (("Norm",), ("ReLU", "ELU", "Sigmoid", "Tanh", "GELU", "SiLU", "SELU", "Softplus")):
        if len(layers) > _ROWS:
            layers = [(label, output) for label, output in layers if not any(kind in label for kind in kinds)]
    return layers


def _speed(arguments: argparse.Namespace) -> None:
    from fastcnn import recipes
    from fastcnn.train.speed import inference_speed

    use_backend(arguments)
    if Path(arguments.network).is_dir():
        run = recipes.load(arguments.network)
        recipe, model = run.recipe, run.model
    else:
        recipe = recipes.get(arguments.network)
        model = recipe.model(rng=0)
    rng = np.random.default_rng(0)
    speeds = []
    for batch in arguments.batch or (1, min(64, recipe.inference_batch)):  # a batch of 64 large pictures would take gigabytes
        x = rng.standard_normal((batch, *recipe.input_shape), dtype=np.float32)
        speeds.append(inference_speed(model, x, seconds=arguments.seconds))
    if arguments.json:
        print_json({"network": arguments.network, "recipe": recipe.name, "speeds": [speed.to_dict() for speed in speeds]})
        return
    where = f"{speeds[0].backend} backend" + (f", {speeds[0].threads} threads" if speeds[0].backend == "cpu" else "")
    print(f"{recipe.name}, {'x'.join(map(str, recipe.input_shape))}, inference on the {where}; ms and images/s by the median pass, in brackets the fastest")
    rows = [["batch", "passes", "ms", "(min)", "ms/image", "(min)", "images/s", "(best)"]]
    for speed in speeds:
        per_image = [f"{speed.ms_per_image:.3f}", f"({speed.ms_min / speed.batch:.3f})"]
        rates = [f"{speed.images_per_second:,.0f}", f"({speed.images_per_second_best:,.0f})"]
        rows.append([str(speed.batch), str(speed.passes), f"{speed.ms_median:.3f}", f"({speed.ms_min:.3f})", *per_image, *rates])
    print(table(rows))


def _accelerate(arguments: argparse.Namespace) -> None:
    from fastcnn.compat import _script, course

    if Path(arguments.script).is_dir():
        raise UsageError(f"{arguments.script} is a folder: name the Python file in it that you would run")
    if arguments.threads is not None:
        backend.set_num_threads(arguments.threads)
    _script.run(arguments.script, arguments.arguments, [course(name) for name in arguments.course or COURSES], logger.info)
