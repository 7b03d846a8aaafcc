"""Every question type's answers, found again from the room's ground truth by other means."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from geovr_hf.data.rooms import (
    CAMERA_TYPES,
    NUMERIC_TYPES,
    QUESTION_TYPES,
    RoomsDataset,
    RoomsSpec,
    ask_questions,
    build_room,
)
from geovr_hf.data.rooms.asking import ASKERS
from geovr_hf.data.rooms.questions import LETTERS, Observed
from geovr_hf.data.rooms.scene import SURVEY_HEIGHT, VISIBLE_SHARE
from geovr_hf.modeling.geometry_geovr import pose_encoding_to_cameras


CHOICE_TYPES = tuple(name for name in QUESTION_TYPES if name not in NUMERIC_TYPES)


@pytest.fixture(scope="module")
def asked():
    """Type -> list of (room, question): four draws of each type in each of 40 rooms."""
    found = defaultdict(list)
    for number in range(40):
        room = next(filter(None, (build_room(RoomsSpec(), 5, number, attempt) for attempt in range(50))))
        observed, rng = Observed(room), np.random.default_rng([5, number])
        for name, ask in ASKERS.items():
            found[name] += [(room, question) for _ in range(4) if (question := ask(observed, rng)) is not None]
    return found


def only(room, category):
    (item,) = [item for item in room.furniture if item.category == category]
    return item


def chosen(question):
    """Text of the right option."""
    return question.options[LETTERS.index(question.answer)].partition(". ")[2]


def texts(question):
    return [option.partition(". ")[2] for option in question.options]


def outline(item):
    """Points all around an object's footprint, rebuilt from its size, position and yaw alone."""
    w, d, _ = item.size
    t = np.linspace(-0.5, 0.5, 150)
    x = np.concatenate([t, t, np.full(150, -0.5), np.full(150, 0.5)]) * w
    y = np.concatenate([np.full(150, -0.5), np.full(150, 0.5), t, t]) * d
    return (x + 1j * y) * np.exp(1j * item.yaw) + complex(*item.position)


def gap(a, b):
    return np.abs(outline(a)[:, None] - outline(b)[None]).min()


def turn(room, at, ahead, target):
    """Signed degrees to turn left at `at`, facing `ahead`, to face `target`."""
    a, b, c = (complex(*only(room, name).position) for name in (at, ahead, target))
    return np.degrees(np.angle((c - a) / (b - a)))


def test_every_type_is_asked_often_and_about_what_the_clip_shows(asked):
    for name in QUESTION_TYPES:
        assert len(asked[name]) > 40, name
        for room, question in asked[name]:
            assert question.question_type == name
            for category in question.subjects:
                labels = [item.label for item in room.furniture if item.category == category]
                assert (room.views[:, labels].max(axis=0) >= VISIBLE_SHARE).any()
                assert category in question.text or category == "bookshelf"


def test_views_are_what_a_rendered_instance_map_shows(asked):
    for room, _ in asked["room_size_estimation"][::16]:
        face = room.caster.cast(room.walk.rays((SURVEY_HEIGHT, round(SURVEY_HEIGHT * 4 / 3)))).face
        labels = room.mesh.label[face]
        shares = [(labels == label).mean(axis=(1, 2)) for label in range(len(room.furniture) + 1)]
        np.testing.assert_allclose(room.views, np.stack(shares, axis=1))


def test_counts_are_of_objects_that_all_were_seen(asked):
    for room, question in asked["object_counting"]:
        items = [item for item in room.furniture if item.category == question.subjects[0]]
        assert int(question.answer) == len(items) >= 2
        assert (room.views[:, [item.label for item in items]].max(axis=0) >= VISIBLE_SHARE).all()


def test_absolute_distance_is_between_closest_points(asked):
    for room, question in asked["object_abs_distance"]:
        a, b = (only(room, name) for name in question.subjects)
        assert float(question.answer) == pytest.approx(gap(a, b), abs=0.07)
        assert question.answer == f"{float(question.answer):.1f}"


def test_size_is_the_longest_side_of_the_mesh(asked):
    for room, question in asked["object_size_estimation"]:
        item = only(room, question.subjects[0])
        corners = np.asarray(room.mesh.to_trimesh(item.label).vertices)
        local = (corners[:, 0] + 1j * corners[:, 1]) * np.exp(-1j * item.yaw)
        longest = max(np.ptp(local.real), np.ptp(local.imag), np.ptp(corners[:, 2]))
        assert int(question.answer) == round(100 * longest)


def test_room_size_is_the_area_of_floor_that_lies_within_the_walls(asked):
    rng = np.random.default_rng(0)
    for room, question in asked["room_size_estimation"][::4]:
        plan = room.plan
        points = rng.uniform(0, 1, (40000, 2)) * (plan.width, plan.depth)
        inside = (plan.clearance(points) > 0).mean() * plan.width * plan.depth
        assert float(question.answer) == pytest.approx(inside, rel=0.03)


def test_relative_distance_names_the_closest_by_a_margin(asked):
    for room, question in asked["object_rel_distance"]:
        anchor = only(room, question.subjects[0])
        gaps = {name: gap(anchor, only(room, name)) for name in texts(question)}
        closest, second = sorted(gaps, key=gaps.get)[:2]
        assert chosen(question) == closest
        assert gaps[second] - gaps[closest] > 0.15 - 0.03
        assert len(gaps) == 4


def test_easy_direction_is_the_side_of_the_line_of_sight(asked):
    for room, question in asked["object_rel_direction_easy"]:
        angle = turn(room, *question.subjects)
        assert chosen(question) == ("left" if angle > 0 else "right")
        assert 10 <= abs(angle) <= 170


def test_medium_direction_leaves_out_the_front(asked):
    for room, question in asked["object_rel_direction_medium"]:
        angle = turn(room, *question.subjects)
        expected = "back" if abs(angle) > 135 else "left" if angle > 0 else "right"
        assert chosen(question) == expected
        assert abs(angle) >= 55
        assert abs(abs(angle) - 135) >= 10


def test_hard_direction_is_the_quadrant(asked):
    for room, question in asked["object_rel_direction_hard"]:
        angle = np.radians(turn(room, *question.subjects))
        expected = ("front" if np.cos(angle) > 0 else "back") + ("-left" if np.sin(angle) > 0 else "-right")
        assert chosen(question) == expected
        assert min(abs(np.cos(angle)), abs(np.sin(angle))) >= np.sin(np.radians(10)) - 1e-9


def test_a_robot_that_takes_the_turns_arrives(asked):
    for room, question in asked["route_planning"]:
        stops = [complex(*only(room, name).position) for name in question.subjects]
        heading, needed = stops[1] - stops[0], []
        for here, there in zip(stops[1:], stops[2:], strict=False):
            quarter = {"turn left": 1j, "turn right": -1j, "turn back": -1}
            # The closest of the three turns brings the robot within 35 degrees of its next stop.
            off = {name: abs(np.angle((there - here) / (heading * unit))) for name, unit in quarter.items()}
            needed.append(min(off, key=off.get))
            assert np.degrees(min(off.values())) <= 35
            heading = there - here
        assert chosen(question) == ", ".join(needed)
        assert question.text.count("[fill in]") == len(needed) + 1  # one is in the instruction
        assert len(set(texts(question))) == (3 if len(needed) == 1 else 4)


def test_straight_legs_of_a_route_are_clear_of_other_furniture(asked):
    for room, question in asked["route_planning"]:
        stops = [complex(*only(room, name).position) for name in question.subjects]
        for index in range(len(stops) - 1):
            leg = stops[index] + np.linspace(0, 1, 80) * (stops[index + 1] - stops[index])
            for item in room.furniture:
                if item.category not in question.subjects[index : index + 2]:
                    assert np.abs(leg[:, None] - outline(item)[None]).min() > 0.2 - 0.06


def test_appearance_order_is_that_of_first_clear_views(asked):
    for room, question in asked["obj_appearance_order"]:
        first = {}
        for name in question.subjects:
            labels = [item.label for item in room.furniture if item.category == name]
            first[name] = min(t for t in range(8) for label in labels if room.views[t, label] >= VISIBLE_SHARE)
        assert len(set(first.values())) == 4
        assert chosen(question) == ", ".join(sorted(first, key=first.get))
        assert all(sorted(text.split(", ")) == sorted(first) for text in texts(question))
        assert len(set(texts(question))) == 4


def test_letters_are_balanced(asked):
    for count in (2, 3, 4):
        letters = Counter(
            question.answer for name in CHOICE_TYPES for _, question in asked[name] if len(question.options) == count
        )
        total = sum(letters.values())
        for letter in LETTERS[:count]:
            # Four standard deviations.
            assert abs(letters[letter] / total - 1 / count) < 4 * np.sqrt((count - 1) / count**2 / total)


def test_prompt_lists_the_options_and_says_how_to_answer(asked):
    _, choice = asked["object_rel_distance"][0]
    assert choice.prompt.endswith("Options:\n" + "\n".join(choice.options) + "\nAnswer with the option's letter.")
    assert [option[:3] for option in choice.options] == ["A. ", "B. ", "C. ", "D. "]
    _, number = asked["object_counting"][0]
    assert number.prompt.endswith("\nAnswer with a number.")
    assert number.options is None


def test_types_take_turns_and_no_question_comes_twice(asked):
    for room, _ in asked["room_size_estimation"][::4]:
        questions = ask_questions(room, np.random.default_rng(0), 8, start=3)
        assert len({question.text for question in questions}) == 8
        types = ("object_abs_distance", "object_size_estimation")
        kinds = [q.question_type for q in ask_questions(room, np.random.default_rng(0), 4, types)]
        assert kinds == list(types) * 2


def test_a_room_with_too_few_questions_says_so(asked):
    room, _ = asked["room_size_estimation"][0]
    assert ask_questions(room, np.random.default_rng(0), 2, ("room_size_estimation",)) is None


def test_camera_questions_are_answered_by_the_targets():
    dataset = RoomsDataset(8, seed=5, questions_per_room=3, question_types=CAMERA_TYPES, sweep=(20, 150))
    seen = set()
    for row in (dataset[i] for i in range(len(dataset))):
        targets, text = row["geometry_targets"], row["messages"][0]["content"][1]["text"]
        scale = targets.metric_scale
        cam_from_world, _ = pose_encoding_to_cameras(targets.pose_enc, targets.depth.shape[1:])
        seen.add(row["question_type"])
        if row["question_type"] == "camera_displacement":
            place = -cam_from_world[-1, :, :3].T @ cam_from_world[-1, :, 3] * scale
            assert abs(place.norm() - float(row["answer"])) < 0.06
        elif row["question_type"] == "camera_turn":
            assert row["answer"] == ("B" if cam_from_world[-1, 2, 0] > 0 else "A")
        else:
            frame = 0 if "first frame" in text else -1
            middle = targets.depth[frame, 41:43, 55:57] * scale
            assert middle.min() - 0.1 < float(row["answer"]) < middle.max() + 0.1
    assert seen == set(CAMERA_TYPES)
