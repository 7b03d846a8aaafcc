"""Time, memory and rounding error of the teachers at full size.

    python tests/benchmarks/teachers.py                 # VGGT-1B with DA3METRIC-LARGE, 32 frames of 392 x 504 pixels
    python tests/benchmarks/teachers.py --teachers vggt-1b vggt-omega da3-giant-1.1 da3-base --frame-counts 8 32 128
    python tests/benchmarks/teachers.py --tiny          # a check of the script itself, on any machine

Weights are random: speed and memory do not depend on them. Prints tables and one line of JSON.
"""

import argparse
import json
import platform

import torch
import transformers
from torch import nn
from training_step import measure

from geovr_hf import GeometryTargets
from geovr_hf.teachers import NetworkTeacher
from geovr_hf.teachers.catalogue import PublishedNetwork, find_published
from geovr_hf.teachers.images import teacher_image_size
from geovr_hf.teachers.loading import teacher_spec
from geovr_hf.teachers.metric_network import DepthAnything3Metric
from geovr_hf.teachers.networks.acceleration import accelerate_network
from geovr_hf.teachers.networks.base import TeacherNetwork
from geovr_hf.teachers.networks.loading import cast_matrices


TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "dense_hidden_sizes": (16, 16, 16, 16),
    "dense_fusion_size": 32,
    "dense_layers": (0, 1, 2, 3),
    "alignment_layers": (0, 1, 2, 3),
}


def random_network(entry: PublishedNetwork, device: str, dtype: torch.dtype, tiny: bool) -> TeacherNetwork:
    """A network of published size with random weights, the same ones for every dtype."""
    config = entry.config()
    if tiny:
        sizes = {name: value for name, value in TINY.items() if hasattr(config, name)}
        if hasattr(config, "vision_config"):
            sizes["vision_config"] = {"num_hidden_layers": 2, "num_attention_heads": 4}
        config = entry.network_class.config_class(**{**(entry.sizes or {}), **sizes})
    torch.manual_seed(0)
    with torch.device(device):
        network = entry.network_class(config)
        for module in network.modules():
            if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                # Wide enough for depth to vary from pixel to pixel, or its rounding error would mean nothing; its own
                # layer less wide, or the exponential would make a few pixels outweigh all others.
                width = 0.3 if module.weight.shape[0] <= 4 else 1.0
                nn.init.normal_(module.weight, std=width * module.weight[0].numel() ** -0.5)
    return cast_matrices(network, dtype).eval().requires_grad_(False)


def random_teacher(names: list[str], device: str, dtype: torch.dtype, tiny: bool, **acceleration) -> NetworkTeacher:
    """The teacher and metric network that `load_teacher` would give, with random weights."""
    teacher, metric = (find_published(name) for name in names)
    networks = [random_network(entry, device, dtype, tiny) for entry in (teacher, metric)]
    if acceleration:
        for network in networks:
            accelerate_network(network, **acceleration)
    terms = (metric.hub_id, metric.licence, metric.non_commercial, "random")
    spec = teacher_spec(teacher, networks[0].config)
    return NetworkTeacher(networks[0], spec, "random", DepthAnything3Metric(networks[1], *terms))


def relative_errors(rough: GeometryTargets, exact: GeometryTargets) -> dict[str, float]:
    """Norm of the difference over the norm of the reference, of every target."""

    def relative(a: torch.Tensor, b: torch.Tensor) -> float:
        return ((a.double() - b.double()).norm() / b.double().norm()).item()

    errors = {
        name: relative(getattr(rough, name), getattr(exact, name))
        for name in ("pose_enc", "depth", "depth_confidence", "metric_scale")
    }
    layers = zip(rough.features, exact.features, strict=True)
    return errors | {f"features {index}": relative(*layer) for index, layer in enumerate(layers)}


def time_parts(teacher: NetworkTeacher, images: torch.Tensor, frames: torch.Tensor, device: str, repeats: int) -> dict:
    """The network, the metric network, all targets of images on the device, and of frames on the CPU."""
    field_of_view = torch.ones(len(images), 2, device=device)
    with torch.no_grad(), teacher.fast_attention():
        results = {
            "network": measure(lambda: teacher.network(images[None]), device, repeats),
            "metric network": measure(lambda: teacher.metric.metric_depth(images, field_of_view), device, repeats),
            "targets of images": measure(lambda: teacher.look(images), device, repeats),
        }
    results["targets of frames"] = measure(lambda: teacher.targets(frames), device, repeats)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes, to check the script")
    parser.add_argument("--teachers", nargs="+", default=["vggt-1b"], help="names of the catalogue")
    parser.add_argument("--metric", default="da3metric-large")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--height", type=int, default=480, help="of the frames; the image rule makes 392 x 504 of it")
    parser.add_argument("--width", type=int, default=617)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--frame-counts", type=int, nargs="*", default=[], help="measure memory at these, too")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.frames, arguments.repeats, arguments.height, arguments.width = 3, 1, 60, 84

    device = "cuda" if torch.cuda.is_available() else "cpu"
    machine = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    frames = torch.randint(0, 256, (arguments.frames, arguments.height, arguments.width, 3), dtype=torch.uint8)
    report = {"machine": machine, "torch": torch.__version__, "transformers": transformers.__version__}
    print(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, {vars(arguments)}")
    for name in arguments.teachers:
        report[name] = measure_teacher(name, arguments, frames, device)
    print(json.dumps({**report, **vars(arguments)}))


def measure_teacher(name: str, arguments: argparse.Namespace, frames: torch.Tensor, device: str) -> dict:
    """All measurements of one teacher."""
    names, tiny = [name, arguments.metric], arguments.tiny
    height, width = teacher_image_size(frames.shape[1:3], find_published(name).image_rule)
    images = torch.rand(arguments.frames, 3, height, width, device=device)
    rounded = torch.bfloat16
    variants = {"plain": {}, "fused": {"compile": False}}
    if not arguments.no_compile:
        variants["fused, compiled"] = {"compile": True}

    print(f"\n{name} with {arguments.metric}, {len(images)} frames of {height} x {width}, bfloat16")
    print(f"{'':44}{'seconds':>10}{'peak GiB':>10}")
    results = {}
    for variant, acceleration in variants.items():
        teacher = random_teacher(names, device, rounded, tiny, **acceleration)
        parts = time_parts(teacher, images, frames, device, arguments.repeats)
        for part, result in parts.items():
            print(f"{variant + ': ' + part:44}{result['seconds']:10.4f}{result['peak_gib']:10.2f}", flush=True)
        results[variant] = parts
    with torch.no_grad(), teacher.fast_attention():
        rough = teacher.look(images)
    del teacher
    memory = []
    if arguments.frame_counts:
        # Not compiled: each number of frames would be compiled again.
        teacher = random_teacher(names, device, rounded, tiny, compile=False)
        with torch.no_grad(), teacher.fast_attention():
            memory = frame_counts(teacher, arguments, images, device)
        del teacher
    with torch.no_grad():
        exact = random_teacher(names, device, torch.float32, tiny).look(images)
    errors = relative_errors(rough, exact)
    print(
        "bfloat16 against float32: " + ", ".join(f"{what} {error:.1e}" for what, error in errors.items()), flush=True
    )
    return {"speed": results, "memory": memory, "errors": errors}


def frame_counts(teacher: NetworkTeacher, arguments: argparse.Namespace, images: torch.Tensor, device: str) -> list:
    """Time and memory by number of frames, with and without chunks."""
    rows = []
    for count in arguments.frame_counts:
        longer = images[:1].expand(count, -1, -1, -1).contiguous()
        for chunk in (None, 8):
            teacher.network.frames_chunk_size = teacher.metric.network.frames_chunk_size = chunk
            result = {"frames": count, "chunk": chunk, **measure(lambda x=longer: teacher.look(x), device, 1, 1)}
            rows.append(result)
            print(f"{count:5} frames, chunks of {chunk}: {result['seconds']:.3f} s, {result['peak_gib']:.2f} GiB")
    return rows


if __name__ == "__main__":
    main()
