"""Target folders pushed and pulled by processes of their own, over a Hub on this machine that breaks on demand."""

import hashlib
import json
import re
import shutil
from dataclasses import replace

import pytest
from clip_files import write_video
from hub_server import HubServer
from targets_support import PixelTeacher, clip

from geovr_hf.cli import main
from geovr_hf.data import FrameSampling, read_clip
from geovr_hf.targets import Manifest, TargetFolder, TargetFormat, TargetWriter, hub_push, push_target_folder
from geovr_hf.targets.index import write_index, write_unreadable


NUM_CLIPS = 5
# Two files in a commit: what takes a hundred otherwise happens here with a handful.
PUSH = """
import json, sys
from geovr_hf.targets import hub_push
hub_push.FILES_PER_COMMIT = 2
print(hub_push.push_target_folder(*sys.argv[1:3], **json.loads(sys.argv[3])))
"""
PULL = """
import json, sys
from geovr_hf.targets import pull_target_folder
print(pull_target_folder(*sys.argv[1:3], **json.loads(sys.argv[3])))
"""
# For what is refused: each line of the input is a call, each line of the output what it said.
CALLS = """
import json, sys
from geovr_hf.targets import pull_target_folder, push_target_folder
for function, arguments, options in json.loads(sys.argv[1]):
    try:
        {"push": push_target_folder, "pull": pull_target_folder}[function](*arguments, **options)
        print("done")
    except (ValueError, OSError) as error:
        print(f"{type(error).__name__}: {error}".replace("\\n", " "))
"""


def fill(path, seeds, teacher=None, unreadable=None):
    """A finished target folder with the clips of some seeds, made by the writer that `geovr precompute` uses."""
    teacher = teacher or PixelTeacher()
    writer = TargetWriter(path, Manifest.of(teacher, FrameSampling(num_frames=3), TargetFormat()))
    for seed in seeds:
        shown = clip(seed=seed)
        writer.write(shown, teacher.targets(shown), source=f"scenes/{seed}.mp4")
    write_unreadable(path, unreadable or {})
    write_index(TargetFolder(path))
    return path


def contents(path):
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def clips(files):
    return {path: content for path, content in files.items() if path.startswith("clips/")}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def uploads(hub):
    """Checksums of the large files that arrived, for each time they did."""
    return [path.split("/")[-1] for path in hub.finished("PUT", "/upload/")]


def push(hub, folder, tmp_path, repo_id="me/targets", **options):
    return hub.run(PUSH, folder, repo_id, json.dumps(options), home=tmp_path / "home of the pusher").strip()


def pull(hub, folder, tmp_path, repo_id="me/targets", **options):
    return hub.run(PULL, repo_id, folder, json.dumps(options), home=tmp_path / "home of the puller").strip()


def calls(hub, tmp_path, *wanted):
    """Call functions one after the other in one process; wanted are `(function, arguments, options)`."""
    plain = [(name, [str(argument) for argument in arguments], options) for name, arguments, options in wanted]
    return hub.run(CALLS, json.dumps(plain), home=tmp_path / "home").splitlines()


def start_and_kill(hub, program, *arguments, tmp_path, method, path, after):
    """Run a client that is killed when the body of a request has come so far."""
    started = []
    hub.break_once(method, path, after, then=lambda: started[0].kill())
    started.append(hub.start(program, *arguments, "{}", home=tmp_path / "home of the killed"))
    started[0].communicate()
    assert started[0].returncode < 0 and not hub.faults


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    reasons = {"scenes/broken.mp4": "no video stream"}
    return fill(tmp_path_factory.mktemp("made") / "targets", range(NUM_CLIPS), unreadable=reasons)


@pytest.fixture
def hub(tmp_path):
    with HubServer(tmp_path / "hub") as hub:
        yield hub


@pytest.fixture(scope="module")
def pushed(folder, tmp_path_factory):
    """A Hub that has the folder as `me/targets`."""
    tmp_path = tmp_path_factory.mktemp("pushed")
    with HubServer(tmp_path / "hub") as hub:
        assert push(hub, folder, tmp_path, private=True) == f"{hub.endpoint}/datasets/me/targets"
        yield hub


@pytest.mark.slow
class TestRoundTrip:
    def test_what_one_process_pushes_another_pulls_to_the_byte(self, folder, pushed, tmp_path):
        assert pull(pushed, tmp_path / "pulled", tmp_path) == str(tmp_path / "pulled")
        pulled, made = contents(tmp_path / "pulled"), contents(folder)
        assert pulled == pushed.files("me/targets")
        assert pulled.pop("README.md") != made.pop("README.md")  # the card takes the place of the writer's stub
        assert pulled == made
        assert TargetFolder(tmp_path / "pulled").verify() == []

    def test_index_manifest_and_card_come_last_and_together(self, pushed):
        commits = [commit.changed for commit in pushed.repository("me/targets").commits.values()]
        assert [len(changed) for changed in commits] == [1, 2, 2, 1, 4]
        assert {*commits[-1]} == {"README.md", "index.parquet", "manifest.json", "unreadable.json"}
        assert pushed.repository("me/targets").private

    def test_the_card_tells_what_the_folder_holds(self, folder, pushed):
        card = pushed.files("me/targets")["README.md"].decode()
        for fact in ("5 clips", "stand-in", "num_frames=3", "1 more could not be read", "float16, 56 × 28", "| 3 |"):
            assert fact in card

    def test_pushing_and_pulling_again_transfers_nothing(self, folder, pushed, tmp_path):
        pull(pushed, tmp_path / "pulled", tmp_path)
        commits, sent = len(pushed.repository("me/targets").commits), len(uploads(pushed))
        received = len(pushed.finished("GET", "/resolve/"))
        assert calls(
            pushed,
            tmp_path,
            ("push", [folder, "me/targets"], {}),
            ("pull", ["me/targets", tmp_path / "pulled"], {}),
        ) == ["done", "done"]
        assert (len(pushed.repository("me/targets").commits), len(uploads(pushed))) == (commits, sent)
        assert not any(".safetensors" in path for path in pushed.finished("GET", "/resolve/")[received:])
        assert contents(tmp_path / "pulled") == pushed.files("me/targets")

    def test_a_folder_that_grew_adds_its_new_clips(self, hub, tmp_path):
        grown = fill(tmp_path / "targets", [0, 1])
        push(hub, grown, tmp_path)
        before = uploads(hub)
        fill(grown, [2])
        push(hub, grown, tmp_path, revision="more")
        pull(hub, tmp_path / "pulled", tmp_path, revision="more")
        assert len(TargetFolder(tmp_path / "pulled")) == 3
        assert clips(contents(tmp_path / "pulled")) == clips(contents(grown))
        assert len(clips(hub.files("me/targets"))) == 2
        assert len(uploads(hub)) == len(before) + 2  # the clip and the index

    def test_the_index_or_single_clips_can_be_had_alone(self, folder, pushed, tmp_path):
        first, second, *_ = [record.key for record in TargetFolder(folder).records()]
        said = calls(
            pushed,
            tmp_path,
            ("pull", ["me/targets", tmp_path / "index"], {"only_index": True}),
            ("pull", ["me/targets", tmp_path / "some"], {"keys": [second, first]}),
            ("pull", ["me/targets", tmp_path / "none"], {"keys": ["0" * 64]}),
            ("pull", ["me/targets", tmp_path / "some"], {"only_index": True}),
        )
        assert said[:2] == ["done", "done"]
        assert "has no clip '0000" in said[2] and "the column `key`" in said[2]
        assert "has clips, which an index pulled alone would not list" in said[3]
        assert {*contents(tmp_path / "index")} == {"README.md", "index.parquet", "manifest.json", "unreadable.json"}
        some = TargetFolder(tmp_path / "some")
        assert [record.key for record in some.records()] == sorted([first, second])
        assert some.manifest.contents["clips"] == 2

    def test_several_data_sets_are_joined_in_one_folder(self, hub, tmp_path):
        first, second = tmp_path / "first", tmp_path / "second"
        fill(first, [0, 1], unreadable={"a.mp4": "truncated"})
        fill(second, [1, 2], unreadable={"b.mp4": "empty"})
        alien = fill(tmp_path / "alien", [3], PixelTeacher("pixels-2"))
        said = calls(
            hub,
            tmp_path,
            ("push", [first, "me/first"], {}),
            ("push", [second, "me/second"], {}),
            ("push", [alien, "me/alien"], {}),
            ("pull", ["me/first", tmp_path / "joined"], {}),
            ("pull", ["me/second", tmp_path / "joined"], {}),
            ("pull", ["me/alien", tmp_path / "joined"], {}),
            ("push", [second, "me/first"], {}),
            ("push", [tmp_path / "joined", "me/first"], {}),
        )
        assert said[:5] == ["done"] * 5
        assert "holds other targets: its teacher is pixels-1, not pixels-2" in said[5]
        assert "me/first has 1 clips that" in said[6] and "Pull it into the folder first" in said[6]
        assert said[7] == "done"
        joined = contents(tmp_path / "joined")
        assert clips(joined) == clips(contents(first)) | clips(contents(second))
        assert {row["source"] for row in json.loads(joined["unreadable.json"])} == {"a.mp4", "b.mp4"}
        assert len(clips(hub.files("me/first"))) == 3


@pytest.mark.slow
class TestBrokenConnections:
    def test_a_push_that_is_killed_is_continued(self, folder, hub, tmp_path):
        files = clips(contents(folder))
        last = sha256(files[max(files)])
        start_and_kill(hub, PUSH, folder, "me/targets", tmp_path=tmp_path, method="PUT", path=last, after=1000)
        assert sorted(clips(hub.files("me/targets"))) == sorted(files)[:4]
        push(hub, folder, tmp_path)
        assert clips(hub.files("me/targets")) == files
        assert sorted(uploads(hub)) == sorted(
            sha256(content)
            for path, content in contents(folder).items()
            if path.endswith((".safetensors", ".parquet"))
        )

    def test_what_the_first_push_left_unfinished_cannot_be_pulled(self, folder, hub, tmp_path):
        start_and_kill(hub, PUSH, folder, "me/targets", tmp_path=tmp_path, method="POST", path="/commit/", after=10)
        (said,) = calls(hub, tmp_path, ("pull", ["me/targets", tmp_path / "pulled"], {}))
        assert said.startswith("ValueError: me/targets holds no finished target folder") and "push again" in said
        assert not (tmp_path / "pulled").exists()

    def test_a_commit_whose_answer_is_lost_is_not_made_twice(self, folder, hub, tmp_path):
        hub.break_once("POST", "/commit/")
        said = calls(hub, tmp_path, ("push", [folder, "me/targets"], {}), ("push", [folder, "me/targets"], {}))
        assert said[0].startswith(f"OSError: The push of {folder} to me/targets broke off")
        assert "Run it again" in said[0] and said[1] == "done"
        assert len(uploads(hub)) == len({*uploads(hub)}) == NUM_CLIPS + 1
        changed = [path for commit in hub.repository("me/targets").commits.values() for path in commit.changed]
        assert len(changed) == len({*changed})

    def test_connections_that_break_are_taken_up_again_within_a_call(self, folder, hub, tmp_path):
        hub.break_once("PUT", "/upload/", after=1000)
        hub.break_once("GET", ".safetensors", after=1000)
        push(hub, folder, tmp_path)
        pull(hub, tmp_path / "pulled", tmp_path)
        assert not hub.faults
        assert contents(tmp_path / "pulled") == hub.files("me/targets")

    def test_a_pull_that_is_killed_leaves_whole_files_and_is_continued(self, folder, pushed, tmp_path):
        pulled, made = tmp_path / "pulled", contents(folder)
        start_and_kill(
            pushed, PULL, "me/targets", pulled, tmp_path=tmp_path, method="GET", path=max(clips(made)), after=1000
        )
        left = contents(pulled)
        there = {path: content for path, content in left.items() if not path.startswith(".pull/")}
        assert there.items() <= made.items() and max(clips(made)) not in there
        # What had arrived whole and was killed before it was verified is not fetched again either.
        arrived = [path for path in clips(made) if left.get(f".pull/{path}") == made[path]]
        with pytest.raises(ValueError, match=r"is no folder of targets: it has no manifest\.json"):
            TargetFolder(pulled)
        before = len(pushed.finished("GET", ".safetensors"))
        pull(pushed, pulled, tmp_path)
        assert len(pushed.finished("GET", ".safetensors")) == before + NUM_CLIPS - len(there) - len(arrived)
        assert contents(pulled) == pushed.files("me/targets")


@pytest.mark.slow
class TestDamage:
    def test_a_file_that_is_damaged_on_the_way_or_on_the_hub_does_not_get_its_name(self, folder, hub, tmp_path):
        push(hub, folder, tmp_path)
        path = max(clips(contents(folder)))
        stored = hub.repository("me/targets").folder
        stored = stored / sha256((folder / path).read_bytes())
        altered = bytearray(stored.read_bytes())
        altered[-1] ^= 1
        stored.write_bytes(altered)
        (said,) = calls(hub, tmp_path, ("pull", ["me/targets", tmp_path / "pulled"], {}))
        assert said.startswith("OSError: The pull of me/targets") and f"{path} is not what the Hub announced" in said
        assert not (tmp_path / "pulled" / path).exists()

    def test_a_file_that_was_pushed_by_other_means_and_is_damaged_is_named(self, folder, hub, tmp_path):
        copy = shutil.copytree(folder, tmp_path / "copy")
        path = max(clips(contents(copy)))
        altered = bytearray((copy / path).read_bytes())
        altered[-1] ^= 1
        (copy / path).write_bytes(altered)
        upload = """
import sys
from huggingface_hub import HfApi
HfApi().create_repo("me/targets", repo_type="dataset")
HfApi().upload_folder(repo_id="me/targets", repo_type="dataset", folder_path=sys.argv[1])
"""
        hub.run(upload, copy, home=tmp_path / "home")
        (said,) = calls(hub, tmp_path, ("pull", ["me/targets", tmp_path / "pulled"], {}))
        assert said.startswith(f"ValueError: {path} is damaged in me/targets itself")
        assert not (tmp_path / "pulled" / path).exists()


class TestRefusals:
    """What a folder must not be, told before anything is sent: no Hub answers here."""

    @pytest.fixture
    def copy(self, folder, tmp_path):
        return shutil.copytree(folder, tmp_path / "copy")

    def refused(self, copy, message, **options):
        with pytest.raises(ValueError, match=message):
            push_target_folder(copy, "me/targets", **options)

    def test_no_manifest(self, copy):
        (copy / "manifest.json").unlink()
        self.refused(copy, r"is no folder of targets: it has no manifest\.json")

    def test_no_clips(self, copy):
        shutil.rmtree(copy / "clips")
        self.refused(copy, "has no clips")

    @pytest.mark.parametrize(
        "leftover", [".index.parquet.host.1.tmp", "clips/ab/.key.safetensors.host.1.tmp", ".pull"]
    )
    def test_what_is_left_of_something_unfinished(self, copy, leftover):
        (copy / leftover).parent.mkdir(exist_ok=True)
        (copy / leftover).touch()
        self.refused(
            copy, f"is not finished: .*{re.escape(leftover)} belongs to something that still runs or broke off"
        )

    @pytest.mark.parametrize("change", ["no index", "one clip more", "one clip less"])
    def test_an_index_that_is_not_of_these_clips(self, copy, change):
        if change == "no index":
            (copy / "index.parquet").unlink()
        elif change == "one clip more":
            shown, teacher = clip(seed=99), PixelTeacher()
            TargetWriter(copy, TargetFolder(copy).manifest).write(shown, teacher.targets(shown))
        else:
            TargetFolder(copy).files()[0].unlink()
        self.refused(copy, r"index\.parquet (does not list just the \d clips|lists it).*`geovr precompute` again")

    def test_a_damaged_file(self, copy):
        path = TargetFolder(copy).files()[2]
        path.write_bytes(path.read_bytes()[:-1])
        self.refused(copy, f"has 1 damaged files, the first: {path}")

    def test_more_files_than_a_repository_may_have(self, copy, monkeypatch):
        monkeypatch.setattr(hub_push, "MAX_FILES", 14)
        self.refused(copy, r"has 5 clips, but a repository of the Hub should have at most 14 files\. Move some")

    def test_a_licence_that_the_teacher_does_not_allow(self, copy):
        manifest = TargetFolder(copy).manifest
        replace(manifest, spec=replace(manifest.spec, licence="cc-by-nc-4.0", non_commercial=True)).write(copy)
        self.refused(copy, "claims more than the teacher 'stand-in' allows", license="mit")


@pytest.mark.slow
class TestRefusedPlaces:
    def test_data_sets_and_folders_that_hold_something_else_are_left_alone(self, folder, pushed, tmp_path):
        other = fill(tmp_path / "other", [0], PixelTeacher("pixels-2"))
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").touch()
        (tmp_path / "file").touch()
        create = """
from huggingface_hub import HfApi
api = HfApi()
api.create_repo("me/table", repo_type="dataset")
api.upload_file(repo_id="me/table", repo_type="dataset", path_or_fileobj=b"a,b", path_in_repo="table.csv")
"""
        pushed.run(create, home=tmp_path / "home")
        before = pushed.files("me/targets")
        said = calls(
            pushed,
            tmp_path,
            ("push", [other, "me/targets"], {}),
            ("push", [folder, "me/targets"], {"private": False}),
            ("push", [folder, "me/table"], {}),
            ("pull", ["me/table", tmp_path / "pulled"], {}),
            ("pull", ["me/nothing", tmp_path / "pulled"], {}),
            ("pull", ["me/targets", tmp_path / "full"], {}),
            ("pull", ["me/targets", tmp_path / "file"], {}),
            ("pull", ["me/targets", other], {}),
        )
        for line, message in zip(
            said,
            (
                "ValueError: The data set me/targets holds other targets: its teacher is pixels-1, not pixels-2",
                "ValueError: me/targets exists already, and is private",
                "ValueError: me/table holds no targets, but other files, such as table.csv",
                "ValueError: me/table holds no finished target folder",
                "RepositoryNotFoundError: 404",
                f"ValueError: {tmp_path / 'full'} is not empty, and no folder of targets",
                f"ValueError: {tmp_path / 'file'} is a file",
                f"ValueError: {other} holds other targets: its teacher is pixels-2, not pixels-1",
            ),
            strict=True,
        ):
            assert line.startswith(message)
        assert pushed.files("me/targets") == before
        assert not (tmp_path / "pulled").exists()


@pytest.mark.slow
class TestCommand:
    def test_a_folder_is_pushed_and_pulled_from_the_command_line(self, folder, hub, tmp_path):
        command = "import sys; from geovr_hf.cli import main; sys.exit(main(['precompute', *sys.argv[1:]]))"
        pushed = hub.run(command, "--out", folder, "--push", "me/targets", "--private", home=tmp_path / "home")
        assert pushed.strip() == f"{hub.endpoint}/datasets/me/targets"
        assert hub.repository("me/targets").private
        pulled = hub.run(command, "--out", tmp_path / "pulled", "--pull", "me/targets", home=tmp_path / "home")
        assert pulled.startswith("5 files of stand-in in")
        assert contents(tmp_path / "pulled") == hub.files("me/targets")

    def test_options_that_do_not_go_together_are_refused(self, folder, tmp_path, capsys):
        assert main(["precompute", "--out", str(folder), "--pull", "me/targets", "--private"]) == 2
        assert "--private belongs to --push" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["precompute", "--out", str(folder), "--pull", "me/targets", "--push", "me/targets"])
        assert main(["precompute", "--out", str(tmp_path / "nothing"), "--push", "me/targets"]) == 2
        assert "is no folder of targets" in capsys.readouterr().err


@pytest.mark.slow
class TestSnippet:
    def test_the_code_on_the_card_runs_as_printed(self, hub, tmp_path):
        """In an empty folder but for the video that the card speaks of."""
        pytest.importorskip("av")
        (tmp_path / "user" / "videos").mkdir(parents=True)
        write_video(tmp_path / "user" / "videos" / "kitchen.mp4")
        teacher = PixelTeacher()
        writer = TargetWriter(tmp_path / "made", Manifest.of(teacher, FrameSampling(num_frames=3), TargetFormat()))
        shown = read_clip(tmp_path / "user" / "videos" / "kitchen.mp4", num_frames=3)
        writer.write(shown, teacher.targets(shown), source="kitchen.mp4")
        write_index(TargetFolder(tmp_path / "made"))
        push(hub, tmp_path / "made", tmp_path)
        card = hub.files("me/targets")["README.md"].decode()
        blocks = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
        assert len(blocks) == 2
        program = f"import os; os.chdir({str(tmp_path / 'user')!r})\n" + "\n".join(blocks) + "\nprint(index[0])"
        printed = hub.run(program, home=tmp_path / "home")
        assert printed.startswith("torch.Size([3, 56, 28])")
        assert "'source': 'kitchen.mp4'" in printed
