"""Properties of the camera geometry that hold for any camera."""

import math

import pytest
import torch

from geovr_hf.modeling.geometry_geovr import (
    cameras_to_pose_encoding,
    compose_poses,
    invert_pose,
    matrix_to_quaternion,
    pose_encoding_to_cameras,
    quaternion_to_matrix,
    relative_to_first,
    unproject_depth,
    world_points,
)


IMAGE_SIZE = (42, 56)
IDENTITY = torch.eye(3, 4, dtype=torch.float64)


def random_pose_encodings(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    translation = torch.randn(*shape, 3, generator=generator, dtype=torch.float64)
    quaternion = torch.nn.functional.normalize(
        torch.randn(*shape, 4, generator=generator, dtype=torch.float64), dim=-1
    )
    quaternion = torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)
    field_of_view = 0.3 + 1.5 * torch.rand(*shape, 2, generator=generator, dtype=torch.float64)
    return torch.cat([translation, quaternion, field_of_view], dim=-1)


def random_cameras(*shape, seed=0):
    return pose_encoding_to_cameras(random_pose_encodings(*shape, seed=seed), IMAGE_SIZE)


@pytest.mark.parametrize("world_from_cam", [False, True])
def test_encoding_is_the_inverse_of_decoding(world_from_cam):
    pose_enc = random_pose_encodings(3, 50)
    cameras = pose_encoding_to_cameras(pose_enc, IMAGE_SIZE, world_from_cam=world_from_cam)
    torch.testing.assert_close(cameras_to_pose_encoding(*cameras, IMAGE_SIZE, world_from_cam=world_from_cam), pose_enc)


def test_the_first_field_of_view_is_vertical():
    pose_enc = torch.tensor([0, 0, 0, 0, 0, 0, 1, math.pi / 2, 2 * math.atan(2)])
    _, intrinsics = pose_encoding_to_cameras(pose_enc, (40, 60))
    torch.testing.assert_close(intrinsics, torch.tensor([[15.0, 0, 30], [0, 20, 20], [0, 0, 1]]))


def test_quaternions_of_any_length_and_sign_give_proper_rotations():
    quaternion = random_pose_encodings(100)[:, 3:7]
    rotation = quaternion_to_matrix(quaternion)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(100, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(100, dtype=torch.float64))
    torch.testing.assert_close(quaternion_to_matrix(-7 * quaternion), rotation)


def test_quaternion_is_ordered_x_y_z_w():
    quarter_turn_about_z = torch.tensor([0, 0, math.sqrt(0.5), math.sqrt(0.5)])
    x_axis = torch.tensor([1.0, 0, 0])
    torch.testing.assert_close(quaternion_to_matrix(quarter_turn_about_z) @ x_axis, torch.tensor([0.0, 1, 0]))


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("angle", [0.0, 1e-4, 1.0, math.pi - 1e-4, math.pi])
def test_rotations_about_an_axis_survive_the_quaternion(axis, angle):
    quaternion = torch.zeros(4)
    quaternion[axis], quaternion[3] = math.sin(angle / 2), math.cos(angle / 2)
    rotation = quaternion_to_matrix(quaternion)
    again = quaternion_to_matrix(matrix_to_quaternion(rotation))
    torch.testing.assert_close(again, rotation, atol=1e-6, rtol=0)


def test_rotations_have_finite_gradients_even_at_the_identity():
    quaternion = torch.tensor([[0.0, 0, 0, 1], [0, 0, 0, -1], [1, 0, 0, 0]], requires_grad=True)
    matrix_to_quaternion(quaternion_to_matrix(quaternion)).sum().backward()
    assert quaternion.grad.isfinite().all()


def test_a_pose_after_its_inverse_is_the_identity():
    cam_from_world, _ = random_cameras(20)
    torch.testing.assert_close(compose_poses(cam_from_world, invert_pose(cam_from_world)), IDENTITY.expand(20, 3, 4))


def test_relative_poses_start_at_the_identity_and_do_not_depend_on_the_world():
    cam_from_world, _ = random_cameras(2, 5)
    relative = relative_to_first(cam_from_world)
    torch.testing.assert_close(relative[:, 0], IDENTITY.expand(2, 3, 4))
    world_from_elsewhere, _ = random_cameras(seed=1)
    torch.testing.assert_close(relative_to_first(compose_poses(cam_from_world, world_from_elsewhere)), relative)


def test_a_wall_seen_from_any_camera_unprojects_to_the_wall():
    cam_from_world, intrinsics = random_cameras(6)
    normal, offset = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64), dim=0), 4.0
    # A ray with unit z meets the plane normal . x = offset of the world at the depth that solves a linear equation.
    height, width = IMAGE_SIZE
    rays = unproject_depth(torch.ones(6, height, width, dtype=torch.float64), intrinsics)
    rotation, center = cam_from_world[..., :3], invert_pose(cam_from_world)[..., 3]
    slope = torch.einsum("tji,thwj,i->thw", rotation, rays, normal)
    depth = (offset - center @ normal)[:, None, None] / slope
    points = world_points(depth, intrinsics, cam_from_world)
    torch.testing.assert_close(points @ normal, torch.full_like(depth, offset))


def test_points_project_back_to_the_centres_of_their_pixels():
    cam_from_world, intrinsics = random_cameras(4)
    depth = 1 + torch.rand(4, *IMAGE_SIZE, dtype=torch.float64)
    points = world_points(depth, intrinsics, cam_from_world)
    rotation, translation = cam_from_world[..., :3], cam_from_world[..., 3]
    in_camera = torch.einsum("tij,thwj->thwi", rotation, points) + translation[:, None, None]
    pixels = torch.einsum("tij,thwj->thwi", intrinsics, in_camera / in_camera[..., 2:])
    torch.testing.assert_close(in_camera[..., 2], depth)
    torch.testing.assert_close(pixels[0, 0, 0, :2], torch.tensor([0.5, 0.5], dtype=torch.float64))
    torch.testing.assert_close(
        pixels[0, -1, -1, :2], torch.tensor([IMAGE_SIZE[1] - 0.5, IMAGE_SIZE[0] - 0.5], dtype=torch.float64)
    )


def test_geometry_keeps_its_precision_under_autocast():
    pose_enc = random_pose_encodings(3).float()
    depth = 1 + torch.rand(3, *IMAGE_SIZE)

    def points():
        cam_from_world, intrinsics = pose_encoding_to_cameras(pose_enc, IMAGE_SIZE)
        return world_points(depth, intrinsics, relative_to_first(cam_from_world))

    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = points()
    assert torch.equal(under_autocast, points())


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: quaternion_to_matrix(torch.zeros(2, 3)), "quaternion"),
        (lambda: matrix_to_quaternion(torch.zeros(3, 4)), "matrix"),
        (lambda: invert_pose(torch.zeros(4, 4)), "pose"),
        (lambda: relative_to_first(torch.zeros(3, 4)), "cam_from_world"),
        (lambda: pose_encoding_to_cameras(torch.zeros(2, 7), IMAGE_SIZE), "pose_enc"),
        (lambda: cameras_to_pose_encoding(torch.zeros(2, 4, 4), torch.zeros(2, 3, 3), IMAGE_SIZE), "cam_from_world"),
        (lambda: cameras_to_pose_encoding(torch.zeros(2, 3, 4), torch.zeros(2, 4), IMAGE_SIZE), "intrinsics"),
        (lambda: unproject_depth(torch.zeros(5), torch.zeros(3, 3)), "depth"),
        (lambda: world_points(torch.zeros(5, 5), torch.zeros(3, 3), torch.zeros(12)), "cam_from_world"),
    ],
)
def test_a_wrong_shape_is_refused_by_name(call, name):
    with pytest.raises(ValueError, match=f"`{name}` must have shape"):
        call()
