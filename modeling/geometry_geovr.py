"""Cameras and points: rotations, the nine-number pose encoding, unprojection.

Conventions, here and in the whole package:

- Camera axes are OpenCV's: x right, y down, z forward.
- A pose `a_from_b` is `[R | t]` of shape `(..., 3, 4)` and maps points: `x_a = R @ x_b + t`.
- Quaternions are ordered x, y, z, w and need not have unit length.
- Pixel coordinates start at the top-left corner of the image, so the centre of the top-left pixel is (0.5, 0.5) and
  the centre of the image, where the pose encoding puts the principal point, is (W / 2, H / 2).
- A pose encoding holds translation (3), quaternion (4), vertical and horizontal field of view (2, radians).

Every function works in the dtype and on the device of its input, takes any leading dimensions and is differentiable.
"""

import torch


def quaternion_to_matrix(quaternion: torch.Tensor) -> torch.Tensor:
    r"""Rotation matrices of quaternions. The length of a quaternion does not matter, only zero has no rotation.

    Args:
        quaternion (`torch.FloatTensor` of shape `(..., 4)`): Quaternions x, y, z, w.

    Returns:
        `torch.FloatTensor` of shape `(..., 3, 3)`: Rotation matrices.

    Raises:
        ValueError: The last dimension is not 4.
    """
    _check_shape("quaternion", quaternion, 4)
    x, y, z, w = quaternion.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    scale = 2 / quaternion.square().sum(-1)
    identity = torch.eye(3, dtype=quaternion.dtype, device=quaternion.device)
    return identity + scale[..., None, None] * (w[..., None, None] * cross + _product(cross, cross))


def matrix_to_quaternion(matrix: torch.Tensor) -> torch.Tensor:
    r"""Unit quaternions of rotation matrices. Of the two that describe a rotation, the one with scalar part >= 0.

    Args:
        matrix (`torch.FloatTensor` of shape `(..., 3, 3)`): Rotation matrices.

    Returns:
        `torch.FloatTensor` of shape `(..., 4)`: Quaternions x, y, z, w.

    Raises:
        ValueError: The last dimensions are not (3, 3).
    """
    _check_shape("matrix", matrix, 3, 3)
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (row.unbind(-1) for row in matrix.unbind(-2))
    # The matrix 4 q qᵀ, linear in the rotation's entries. Each of its rows is a multiple of the quaternion.
    outer = torch.stack(
        [
            *(1 + xx - yy - zz, xy + yx, xz + zx, zy - yz),
            *(xy + yx, 1 - xx + yy - zz, yz + zy, xz - zx),
            *(xz + zx, yz + zy, 1 - xx - yy + zz, yx - xy),
            *(zy - yz, xz - zx, yx - xy, 1 + xx + yy + zz),
        ],
        dim=-1,
    ).unflatten(-1, (4, 4))
    # The row of the largest component is the best conditioned: its square is at least a quarter.
    largest = outer.diagonal(dim1=-2, dim2=-1).argmax(-1, keepdim=True)
    row = outer.gather(-2, largest[..., None].expand(*largest.shape, 4)).squeeze(-2)
    quaternion = row / (2 * row.gather(-1, largest).sqrt())
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def invert_pose(pose: torch.Tensor) -> torch.Tensor:
    r"""Turn `a_from_b` into `b_from_a`.

    Args:
        pose (`torch.FloatTensor` of shape `(..., 3, 4)`): `[R | t]` with a rotation `R`.

    Returns:
        `torch.FloatTensor` of shape `(..., 3, 4)`: `[Rᵀ | -Rᵀ t]`.

    Raises:
        ValueError: The last dimensions are not (3, 4).
    """
    _check_shape("pose", pose, 3, 4)
    rotation = pose[..., :3].transpose(-1, -2)
    return torch.cat([rotation, -_product(rotation, pose[..., 3:])], dim=-1)


def compose_poses(a_from_b: torch.Tensor, b_from_c: torch.Tensor) -> torch.Tensor:
    r"""Chain two poses.

    Args:
        a_from_b (`torch.FloatTensor` of shape `(..., 3, 4)`): The pose applied last.
        b_from_c (`torch.FloatTensor` of shape `(..., 3, 4)`): The pose applied first.

    Returns:
        `torch.FloatTensor` of shape `(..., 3, 4)`: `a_from_c`.

    Raises:
        ValueError: The last dimensions are not (3, 4).
    """
    _check_shape("a_from_b", a_from_b, 3, 4)
    _check_shape("b_from_c", b_from_c, 3, 4)
    chained = _product(a_from_b[..., :3], b_from_c)
    return torch.cat([chained[..., :3], chained[..., 3:] + a_from_b[..., 3:]], dim=-1)


def relative_to_first(cam_from_world: torch.Tensor) -> torch.Tensor:
    r"""Express the cameras of a clip in the frame of its first camera, which becomes the world.

    Args:
        cam_from_world (`torch.FloatTensor` of shape `(..., T, 3, 4)`): Camera-from-world poses.

    Returns:
        `torch.FloatTensor` of shape `(..., T, 3, 4)`: Camera-from-first-camera poses; the first is the identity.

    Raises:
        ValueError: The last dimensions are not (3, 4), or there is no frame dimension.
    """
    _check_shape("cam_from_world", cam_from_world, None, 3, 4)
    return compose_poses(cam_from_world, invert_pose(cam_from_world[..., :1, :, :]))


def pose_encoding_to_cameras(
    pose_enc: torch.Tensor,
    image_size: tuple[int, int],
    *,
    world_from_cam: bool = False,
    min_tangent: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Decode pose encodings into extrinsics and intrinsics.

    Args:
        pose_enc (`torch.FloatTensor` of shape `(..., 9)`):
            Pose encodings (see the module's conventions).
        image_size (`tuple[int, int]`):
            Height and width, in pixels, of the image that the intrinsics are for.
        world_from_cam (`bool`, *optional*, defaults to `False`):
            Whether the encodings hold camera-to-world poses. Depth-Anything-3's do, all others are camera-from-world.
        min_tangent (`float`, *optional*, defaults to 0.0):
            Lower bound of the tangent of half a field of view. The default is VGGT's: a field of view of 0 gives an
            infinite focal length. Depth-Anything-3 uses 1e-6.

    Returns:
        `tuple[torch.FloatTensor, torch.FloatTensor]`: `cam_from_world` of shape `(..., 3, 4)`, and intrinsics of shape
        `(..., 3, 3)` in pixels with the principal point in the centre of the image.

    Raises:
        ValueError: The last dimension is not 9.
    """
    _check_shape("pose_enc", pose_enc, 9)
    pose = torch.cat([quaternion_to_matrix(pose_enc[..., 3:7]), pose_enc[..., :3, None]], dim=-1)
    # (height, width) halves beside the (vertical, horizontal) fields of view, then flipped to the order (x, y).
    half_size = pose_enc.new_tensor(image_size) / 2
    focal = (half_size / torch.tan(pose_enc[..., 7:] / 2).clamp(min=min_tangent)).flip(-1)
    intrinsics = torch.zeros(*pose_enc.shape[:-1], 3, 3, dtype=pose_enc.dtype, device=pose_enc.device)
    intrinsics[..., :2, :2] = torch.diag_embed(focal)
    intrinsics[..., :2, 2] = half_size.flip(-1)
    intrinsics[..., 2, 2] = 1
    return invert_pose(pose) if world_from_cam else pose, intrinsics


def cameras_to_pose_encoding(
    cam_from_world: torch.Tensor,
    intrinsics: torch.Tensor,
    image_size: tuple[int, int],
    *,
    world_from_cam: bool = False,
) -> torch.Tensor:
    r"""Encode extrinsics and intrinsics as nine numbers. The principal point is not kept: it is taken as the centre.

    Args:
        cam_from_world (`torch.FloatTensor` of shape `(..., 3, 4)`):
            Camera-from-world poses.
        intrinsics (`torch.FloatTensor` of shape `(..., 3, 3)`):
            Pinhole matrices in pixels.
        image_size (`tuple[int, int]`):
            Height and width, in pixels, of the image that the intrinsics are for.
        world_from_cam (`bool`, *optional*, defaults to `False`):
            Whether to write camera-to-world poses, as Depth-Anything-3 does.

    Returns:
        `torch.FloatTensor` of shape `(..., 9)`: Pose encodings with unit quaternions of scalar part >= 0.

    Raises:
        ValueError: The last dimensions are not (3, 4) and (3, 3).
    """
    _check_shape("cam_from_world", cam_from_world, 3, 4)
    _check_shape("intrinsics", intrinsics, 3, 3)
    pose = invert_pose(cam_from_world) if world_from_cam else cam_from_world
    focal = intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2].flip(-1)
    field_of_view = 2 * torch.atan(intrinsics.new_tensor(image_size) / 2 / focal)
    return torch.cat([pose[..., 3], matrix_to_quaternion(pose[..., :3]), field_of_view], dim=-1)


def unproject_depth(depth: torch.Tensor, intrinsics: torch.Tensor, *, pixel_offset: float = 0.5) -> torch.Tensor:
    r"""Lift depth maps to points in the axes of their own cameras.

    Args:
        depth (`torch.FloatTensor` of shape `(..., H, W)`):
            Depth along the camera's z axis.
        intrinsics (`torch.FloatTensor` of shape `(..., 3, 3)`):
            Pinhole matrices in pixels of the depth map, without skew.
        pixel_offset (`float`, *optional*, defaults to 0.5):
            Where in a pixel its depth was measured. The default, its centre, agrees with a principal point at
            (W / 2, H / 2). VGGT's own tool uses 0.0, which shifts the points by half a pixel.

    Returns:
        `torch.FloatTensor` of shape `(..., H, W, 3)`: Points in the unit of the depth.

    Raises:
        ValueError: `depth` has fewer than two dimensions, or those of `intrinsics` do not end with (3, 3).
    """
    _check_shape("depth", depth, None, None)
    _check_shape("intrinsics", intrinsics, 3, 3)
    height, width = depth.shape[-2:]
    column = torch.arange(width, dtype=depth.dtype, device=depth.device) + pixel_offset
    row = torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None] + pixel_offset
    fx, fy, cx, cy = (intrinsics[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return torch.stack([(column - cx) / fx * depth, (row - cy) / fy * depth, depth], dim=-1)


def world_points(
    depth: torch.Tensor, intrinsics: torch.Tensor, cam_from_world: torch.Tensor, *, pixel_offset: float = 0.5
) -> torch.Tensor:
    r"""Lift depth maps to points in the world.

    Args:
        depth (`torch.FloatTensor` of shape `(..., H, W)`):
            Depth along the camera's z axis.
        intrinsics (`torch.FloatTensor` of shape `(..., 3, 3)`):
            Pinhole matrices in pixels of the depth map, without skew.
        cam_from_world (`torch.FloatTensor` of shape `(..., 3, 4)`):
            Camera-from-world poses, with translations in the unit of the depth.
        pixel_offset (`float`, *optional*, defaults to 0.5):
            See [`unproject_depth`].

    Returns:
        `torch.FloatTensor` of shape `(..., H, W, 3)`: Points in the world, in the unit of the depth.

    Raises:
        ValueError: A shape does not end as above.
    """
    _check_shape("cam_from_world", cam_from_world, 3, 4)
    points = unproject_depth(depth, intrinsics, pixel_offset=pixel_offset)
    rotation, translation = cam_from_world[..., :3], cam_from_world[..., 3]
    # Row vectors: (x - t) R is Rᵀ (x - t), the inverse of R x + t.
    return _product(points - translation[..., None, None, :], rotation[..., None, :, :])


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Matrix product in full precision: `@` rounds to TensorFloat-32 or bfloat16 where a trainer allows it."""
    return sum(a[..., :, k, None] * b[..., k, None, :] for k in range(a.shape[-1]))


def _check_shape(name: str, tensor: torch.Tensor, *trailing: int | None):
    """Raise unless the shape ends with `trailing`, in which `None` stands for any size."""
    shape = tuple(tensor.shape[-len(trailing) :])
    if len(shape) != len(trailing) or any(b is not None and a != b for a, b in zip(shape, trailing, strict=True)):
        wanted = ", ".join("*" if size is None else str(size) for size in trailing)
        raise ValueError(f"`{name}` must have shape (..., {wanted}), got {tuple(tensor.shape)}.")
