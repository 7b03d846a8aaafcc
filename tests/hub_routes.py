"""What `hub_server` answers to each request."""

import base64
import hashlib
import json
import re
import threading
from urllib.parse import parse_qs, quote, urlsplit

from hub_connection import Connection, Refusal
from hub_repositories import LARGE_SUFFIXES, Commit, Repository, describe, metadata_errors, read_range


LARGE_SIZE = 10 * 2**20
_REPOSITORY = r"(models|datasets|spaces)/([^/]+/[^/]+)"
_PLAIN_REPOSITORY = r"(?:(datasets|spaces)/)?([^/]+/[^/]+?)"


class HubRoutes(Connection):
    """The routes, in the order of the file."""

    writing = {"create_repository", "create_branch", "upload_modes", "create_commit", "plan_upload"}
    routes = [
        ("POST", r"/api/repos/create", "create_repository"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("GET", r"/api/whoami-v2", "whoami"),
        ("GET", rf"/api/{_REPOSITORY}", "information"),
        ("GET", rf"/api/{_REPOSITORY}/refs", "references"),
        ("GET", rf"/api/{_REPOSITORY}/revision/([^/]+)", "information"),
        ("GET", rf"/api/{_REPOSITORY}/tree/([^/]+)(?:/(.*))?", "tree"),
        ("POST", rf"/api/{_REPOSITORY}/paths-info/([^/]+)", "paths"),
        ("POST", rf"/api/{_REPOSITORY}/branch/([^/]+)", "create_branch"),
        ("POST", rf"/api/{_REPOSITORY}/preupload/([^/]+)", "upload_modes"),
        ("POST", rf"/api/{_REPOSITORY}/commit/([^/]+)", "create_commit"),
        ("POST", rf"/{_PLAIN_REPOSITORY}\.git/info/lfs/objects/batch", "plan_upload"),
        ("PUT", rf"/upload/{_REPOSITORY}/([0-9a-f]+)(?:/(\d+))?", "upload"),
        ("POST", rf"/upload/{_REPOSITORY}/([0-9a-f]+)/complete", "complete_upload"),
        ("POST", rf"/upload/{_REPOSITORY}/([0-9a-f]+)/verify", "verify_upload"),
        ("GET", rf"/{_PLAIN_REPOSITORY}/resolve/([^/]+)/(.+)", "download"),
        ("HEAD", rf"/{_PLAIN_REPOSITORY}/resolve/([^/]+)/(.+)", "download"),
    ]

    def find(self, kind: str | None, repo_id: str) -> Repository:
        repository = self.hub.repositories.get((kind or "models", repo_id))
        if repository is None or (repository.private and "Authorization" not in self.headers):
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return repository

    def find_commit(self, kind: str | None, repo_id: str, revision: str) -> tuple[str, Commit]:
        repository = self.find(kind, repo_id)
        oid = repository.branches.get(revision, revision)
        if oid not in repository.commits:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid, repository.commits[oid]

    def create_repository(self) -> dict:
        wanted = self.json()
        kind = wanted.get("type", "model") + "s"
        repo_id = f"{wanted['organization'] or 'me'}/{wanted['name']}"
        url = f"{self.hub.endpoint}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        with self.hub.lock:
            if (kind, repo_id) in self.hub.repositories:
                raise Refusal(409, "You already created this repo", url=url)
            folder = self.hub.folder / kind / repo_id
            folder.mkdir(parents=True)
            repository = Repository(wanted.get("visibility") == "private" or wanted.get("private", False), folder)
            attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LARGE_SUFFIXES)
            files = {".gitattributes": repository.store(attributes.encode())}
            repository.commit("main", "initial commit", files, [".gitattributes"])
            self.hub.repositories[kind, repo_id] = repository
        return {"url": url, "name": repo_id, "id": repo_id}

    def validate_yaml(self) -> dict:
        content = self.json()["content"]
        front = re.match(r"---\r?\n(.*?)\r?\n---", content, re.DOTALL)
        if front is None:
            return {"errors": [], "warnings": [{"message": "empty or missing yaml metadata in repo card"}]}
        errors = metadata_errors(front[1])
        if errors:
            raise Refusal(400, "Invalid metadata", errors=[{"message": error} for error in errors], warnings=[])
        return {"errors": [], "warnings": []}

    def whoami(self) -> dict:
        return {"type": "user", "name": "me", "orgs": [], "auth": {"type": "access_token"}}

    def information(self, kind: str, repo_id: str, revision: str = "main") -> dict:
        oid, commit = self.find_commit(kind, repo_id, revision)
        siblings = [{"rfilename": path} for path in commit.files]
        private = self.find(kind, repo_id).private
        return {
            "id": repo_id,
            "sha": oid,
            "private": private,
            "siblings": siblings,
            "tags": [],
            "downloads": 0,
            "likes": 0,
        }

    def references(self, kind: str, repo_id: str) -> dict:
        branches = self.find(kind, repo_id).branches.items()
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in branches]
        return {"branches": listed, "tags": [], "converts": []}

    def tree(self, kind: str, repo_id: str, revision: str, folder: str | None) -> tuple:
        _, commit = self.find_commit(kind, repo_id, revision)
        prefix = f"{folder}/" if folder else ""
        below = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if folder and not below:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        entries = {}
        for path in below:
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts)):
                parent = prefix + "/".join(parts[:depth])
                entries[parent] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": parent}
            entries[path] = describe(path, commit.files[path])
        recursive = self.query.get("recursive", "false").lower()
        if recursive != "true":
            entries = {path: entry for path, entry in entries.items() if "/" not in path.removeprefix(prefix)}
        start = int(self.query.get("cursor", 0))
        end = start + self.hub.page_size
        url = f"{self.hub.endpoint}{urlsplit(self.path).path}?recursive={recursive}&cursor={end}"
        link = {"Link": f'<{url}>; rel="next"'} if end < len(entries) else {}
        return 200, list(entries.values())[start:end], link

    def paths(self, kind: str, repo_id: str, revision: str) -> list:
        wanted = b"".join(self.body()).decode()
        names = json.loads(wanted)["paths"] if wanted.startswith("{") else parse_qs(wanted).get("paths", [])
        _, commit = self.find_commit(kind, repo_id, revision)
        found = []
        for name in names:
            if name in commit.files:
                found.append(describe(name, commit.files[name]))
            elif any(path.startswith(f"{name}/") for path in commit.files):
                found.append({"type": "directory", "oid": "0" * 40, "size": 0, "path": name})
        return found

    def create_branch(self, kind: str, repo_id: str, branch: str) -> dict:
        start, _ = self.find_commit(kind, repo_id, self.json().get("startingPoint", "main"))
        branches = self.find(kind, repo_id).branches
        if branch in branches:
            raise Refusal(409, "Reference already exists")
        branches[branch] = start
        return {}

    def upload_modes(self, kind: str, repo_id: str, revision: str) -> dict:
        wanted = self.json()["files"]
        _, commit = self.find_commit(kind, repo_id, revision)
        files = []
        for file in wanted:
            large = file["path"].endswith(LARGE_SUFFIXES) or file["size"] > LARGE_SIZE
            there = commit.files.get(file["path"])
            mode = {"uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            files.append({"path": file["path"], **mode, "oid": there.etag if there else None})
        return {"files": files}

    def plan_upload(self, kind: str | None, repo_id: str) -> dict:
        repository, kind = self.find(kind, repo_id), kind or "models"
        objects = []
        for wanted in self.json()["objects"]:
            plan = {"oid": wanted["oid"], "size": wanted["size"]}
            url = f"{self.hub.endpoint}/upload/{kind}/{quote(repo_id)}/{wanted['oid']}"
            if repository.large_file(wanted["oid"]) is None:
                upload = {"href": url}
                if self.hub.part_size is not None and wanted["size"] > self.hub.part_size:
                    parts = -(-wanted["size"] // self.hub.part_size)
                    header = {"chunk_size": str(self.hub.part_size)} | {
                        str(n + 1): f"{url}/{n + 1}" for n in range(parts)
                    }
                    upload = {"href": f"{url}/complete", "header": header}
                plan["actions"] = {"upload": upload, "verify": {"href": f"{url}/verify"}}
            objects.append(plan)
        return {"transfer": "multipart" if self.hub.part_size else "basic", "objects": objects}

    def upload(self, kind: str, repo_id: str, sha256: str, part: str | None) -> tuple:
        # As on the Hub, whoever was given this address may use it, without a token.
        target = self.hub.repository(repo_id, kind).folder / (f"{sha256}.{part}" if part else sha256)
        arriving = target.with_name(f"{target.name}.{threading.get_ident()}.arriving")
        digest = hashlib.sha256()
        with arriving.open("wb") as file:
            for chunk in self.body():
                file.write(chunk)
                digest.update(chunk)
        if part is None and digest.hexdigest() != sha256:
            raise Refusal(400, "The content is not what was announced.")
        arriving.rename(target)
        return 200, b"", {"ETag": digest.hexdigest()}

    def complete_upload(self, kind: str, repo_id: str, sha256: str) -> dict:
        folder = self.hub.repository(repo_id, kind).folder
        parts = [folder / f"{sha256}.{part['partNumber']}" for part in self.json()["parts"]]
        content = b"".join(part.read_bytes() for part in parts)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Refusal(400, "The parts do not make up what was announced.")
        (folder / sha256).write_bytes(content)
        return {}

    def verify_upload(self, kind: str, repo_id: str, sha256: str) -> dict:
        file = self.hub.repository(repo_id, kind).large_file(sha256)
        if file is None or file.size != self.json()["size"]:
            raise Refusal(400, "The upload is not complete.")
        return {}

    def create_commit(self, kind: str, repo_id: str, branch: str) -> dict:
        lines = [json.loads(line) for line in b"".join(self.body()).splitlines()]
        repository = self.find(kind, repo_id)
        with self.hub.lock:
            head, commit = self.find_commit(kind, repo_id, branch)
            header, files, changed = lines[0]["value"], dict(commit.files), []
            if header.get("parentCommit") not in (None, head):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            for line in lines[1:]:
                value, path = line["value"], line["value"]["path"]
                changed.append(path)
                if line["key"] == "file":
                    files[path] = repository.store(base64.b64decode(value["content"]))
                elif line["key"] == "lfsFile":
                    files[path] = repository.large_file(value["oid"])
                    if files[path] is None:
                        raise Refusal(400, f"{path} was not uploaded before it was committed.")
                else:
                    files = {p: f for p, f in files.items() if p != path and not p.startswith(path.rstrip("/") + "/")}
            oid = repository.commit(branch, header["summary"], files, changed)
        prefix = "" if kind == "models" else f"{kind}/"
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{prefix}{repo_id}/commit/{oid}"}

    def download(self, kind: str | None, repo_id: str, revision: str, path: str) -> tuple:
        oid, commit = self.find_commit(kind, repo_id, revision)
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        file = commit.files[path]
        headers = {"X-Repo-Commit": oid, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        status, start, end = 200, 0, file.size
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(wanted[1]), min(int(wanted[2] or file.size - 1) + 1, file.size)
            status, headers["Content-Range"] = 206, f"bytes {start}-{end - 1}/{file.size}"
        return status, read_range(file.content, start, end), headers | {"Content-Length": str(end - start)}
