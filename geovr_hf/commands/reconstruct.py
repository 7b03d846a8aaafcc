"""Predict a video's depth, camera path and metric scale, and write them as files.

The folder gets:
  cameras.json          intrinsics and camera-from-world extrinsics per frame, metric scale, conventions
  depth/NNNNNN.png      depth, 16-bit, millimetres (0 = none)
  preview/NNNNNN.png    the same in colour, all frames on one scale
  points.ply, .glb      coloured point cloud in metres (PLY: OpenCV axes, GLB: y up)
  overview.png          frames, depth and the cloud from above

  geovr reconstruct runs/my-model kitchen.mp4 --out kitchen-3d
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from geovr_hf.commands.checkpoints import (
    Checkpoint,
    add_checkpoint_arguments,
    clip_inputs,
    load_checkpoint,
    read_video_argument,
)
from geovr_hf.commands.output_folder import check_output_folder, staged_folder
from geovr_hf.data.clip import Clip
from geovr_hf.modeling import GeoVRGeometry


TAKES_OVERRIDES = False


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the arguments of `geovr reconstruct`."""
    add_checkpoint_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results; made if missing")
    parser.add_argument("--overwrite", action="store_true", help="replace results that are already in DIR")
    cloud = parser.add_argument_group("point cloud")
    cloud.add_argument("--max-points", type=int, default=1_000_000, help="most points to keep (default: 1000000)")
    cloud.add_argument("--max-depth", type=float, metavar="METRES", help="leave farther points out")


def run(arguments: Namespace) -> None:
    """Predict and write."""
    from geovr_hf.visualization.plotting import import_matplotlib
    from geovr_hf.visualization.point_clouds import import_trimesh

    check_output_folder(arguments.out, arguments.overwrite)
    if arguments.max_points < 1:
        raise ValueError(f"--max-points must be at least 1, got {arguments.max_points}.")
    if arguments.max_depth is not None and not arguments.max_depth > 0:
        raise ValueError(f"--max-depth must be positive, got {arguments.max_depth}.")
    # What writes the files is looked for before minutes of loading and predicting.
    import_matplotlib()
    import_trimesh()
    clip = read_video_argument(arguments)
    checkpoint = load_checkpoint(arguments.model, arguments.device, arguments.dtype, arguments.int8)
    geometry = predict(checkpoint, clip)
    with staged_folder(arguments.out, arguments.overwrite) as folder:
        write_reconstruction(folder, clip, geometry, arguments.max_points, arguments.max_depth)
    height, width = geometry.depth.shape[1:]
    print(
        f"{len(clip)} frames, depth maps of {height} x {width} pixels, median depth {geometry.depth.median():.2f} m, "
        f"metric scale {geometry.metric_scale:.3f}: {arguments.out}"
    )


@torch.inference_mode()
def predict(checkpoint: Checkpoint, clip: Clip) -> GeoVRGeometry:
    """The model's geometry of a clip, on the CPU."""
    (geometry,) = checkpoint.model.predict_geometry(**clip_inputs(checkpoint, clip, geometry_tokens=True))
    return GeoVRGeometry(**{name: value.cpu() for name, value in vars(geometry).items()})


def write_reconstruction(
    folder: Path, clip: Clip, geometry: GeoVRGeometry, max_points: int, max_depth: float | None = None
) -> None:
    """Write all files of a reconstruction into `folder`.

    Args:
        folder (`Path`): where to write; made if missing.
        clip (`Clip`): the frames, which colour the cloud.
        geometry ([`GeoVRGeometry`]): what the model predicted for them.
        max_points (`int`): most points of the cloud.
        max_depth (`float`, *optional*): metres beyond which pixels give no point.

    Raises:
        ValueError: if no point is left.
    """
    from geovr_hf import visualization as viz
    from geovr_hf.visualization.depth_files import depth_range

    depth = geometry.depth.numpy()
    times = clip.timestamps.tolist()
    near, far = depth_range(depth)
    for index, depth_map in enumerate(tqdm(depth, desc="Writing depth maps", unit="frame")):
        viz.write_depth_png(folder / f"depth/{index:06d}.png", depth_map)
        viz.write_colour_png(folder / f"preview/{index:06d}.png", viz.colourise_depth(depth_map, near, far))
    cameras = viz.cameras_to_dict(
        geometry.intrinsics, geometry.cam_from_world, float(geometry.metric_scale), depth.shape[1:], times
    )
    viz.write_cameras(folder / "cameras.json", cameras)
    valid = None if max_depth is None else depth <= max_depth
    points, colours = viz.coloured_points(geometry.points, clip.frames, valid, max_points)
    if len(points) == 0:
        limit = "" if max_depth is None else f" up to --max-depth {max_depth}, the nearest is {depth.min():.3g} m"
        raise ValueError(f"There is no point to write: none is finite{limit}.")
    viz.write_ply(folder / "points.ply", points, colours)
    viz.write_glb(folder / "points.glb", points, colours)
    overview = viz.overview_figure(
        clip.frames, depth, geometry.cam_from_world, points, colours, times, float(geometry.metric_scale)
    )
    viz.save_figure(overview, folder / "overview.png")
