"""Pictures, depth maps, camera files and point clouds of what a GeoVR model saw and predicted.

Nothing here knows a model: every function takes arrays in the units and axes of the contracts (metres, OpenCV axes,
camera-from-world) and either returns a matplotlib figure or writes one file atomically.
"""

from .camera_files import cameras_to_dict, write_cameras
from .charts import accuracy_bars_figure, loss_curves_figure
from .depth_files import colourise_depth, read_depth_png, write_colour_png, write_depth_png
from .figures import camera_paths_figure, depth_figure, frames_figure, overview_figure
from .plotting import save_figure
from .point_clouds import coloured_points, write_glb, write_ply


__all__ = [
    "accuracy_bars_figure",
    "camera_paths_figure",
    "cameras_to_dict",
    "coloured_points",
    "colourise_depth",
    "depth_figure",
    "frames_figure",
    "loss_curves_figure",
    "overview_figure",
    "read_depth_png",
    "save_figure",
    "write_cameras",
    "write_colour_png",
    "write_depth_png",
    "write_glb",
    "write_ply",
]
