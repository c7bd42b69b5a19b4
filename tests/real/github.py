"""GitHub's API of releases, as much of it as `gh release` asks for: strict about who asks and what, as the real one is."""

import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

TOKEN = "ghs_releasetestreleasetestreleasetest000"
REPOSITORY = "acme/ghcr-to-ecr"
# The one name of a host to which gh speaks without TLS.
HOST = "github.localhost"
API = f"http://api.{HOST}"
PREFIX = f"/repos/{REPOSITORY}/releases"


@dataclass
class Release:
    """One release, with the bytes of its files."""

    tag: str
    body: str
    draft: bool
    prerelease: bool
    assets: dict[str, bytes] = field(default_factory=dict)


@dataclass
class GitHub:
    """A repository: its tags, its releases by their ids, and what happened to them."""

    tags: set[str]
    releases: dict[int, Release] = field(default_factory=dict)
    history: list[str] = field(default_factory=list)
    # What the storage does to a file that is uploaded.
    storage: dict[str, bytes] = field(default_factory=dict)

    def published(self) -> list[Release]:
        """What everybody sees."""
        return [release for release in self.releases.values() if not release.draft]

    def described(self, number: int) -> dict:
        release = self.releases[number]
        url = f"{API}{PREFIX}/{number}"
        return {
            "id": number, "url": url, "html_url": f"http://{HOST}/{REPOSITORY}/releases/tag/{release.tag}",
            "upload_url": f"http://uploads.{HOST}{PREFIX}/{number}/assets{{?name,label}}",
            "tag_name": release.tag, "name": release.tag, "body": release.body, "draft": release.draft,
            "prerelease": release.prerelease, "author": {"id": 1, "login": "acme-bot"},
            "assets": [{"id": index, "url": f"{url}/assets/{name}", "name": name, "size": len(content), "state": "uploaded"}
                       for index, (name, content) in enumerate(release.assets.items())],
        }

    def graphql(self, body: dict) -> dict:
        """The two questions of gh: is there such a tag, and which release has it."""
        tag = body["variables"]["tagName"].removeprefix("refs/tags/")
        if "RepositoryFindRef" in body["query"]:
            return {"repository": {"ref": {"id": tag} if tag in self.tags else {"id": ""}}}
        assert "RepositoryReleaseByTag" in body["query"], body
        found = [{"databaseId": number, "isDraft": release.draft} for number, release in self.releases.items()
                 if release.tag == tag]
        return {"repository": {"release": found[-1] if found else None}}

    def answer(self, method: str, path: str, query: dict, body: bytes) -> tuple[int, dict | list | bytes | None]:
        """The status, and what comes with it."""
        number = int(match[1]) if (match := re.match(rf"{PREFIX}/(\d+)", path)) else None
        if path == "/graphql":
            return 200, {"data": self.graphql(json.loads(body))}
        if path == PREFIX and method == "GET":
            return 200, [self.described(number) for number in self.releases]
        if path == PREFIX and method == "POST":
            wanted = json.loads(body)
            number = len(self.history) + 1
            self.releases[number] = Release(wanted["tag_name"], wanted.get("body", ""), wanted.get("draft", False),
                                            wanted.get("prerelease", False))
            self.history.append(f"{'draft' if wanted.get('draft') else 'published'} {wanted['tag_name']}")
            return 201, self.described(number)
        if number not in self.releases:
            tagged = [number for number, release in self.releases.items()
                      if path == f"{PREFIX}/tags/{release.tag}" and not release.draft]
            return (200, self.described(tagged[0])) if tagged else (404, {"message": "Not Found"})
        release = self.releases[number]
        name = path.rpartition("/assets/")[2]
        if path.endswith("/assets") and method == "POST":
            (name,) = query["name"]
            if name in release.assets:
                return 422, {"message": "already_exists"}
            release.assets[name] = self.storage.get(name, body)
            self.history.append(f"uploaded {name}")
            return 201, {"id": 1, "name": name, "state": "uploaded"}
        if method == "GET":
            return 200, release.assets[name] if name in release.assets else self.described(number)
        if method == "DELETE":
            del self.releases[number]
            self.history.append(f"deleted {release.tag}")
            return 204, None
        assert method == "PATCH", f"{method} {path}"
        changed = json.loads(body)
        if changed.get("draft") is False and release.draft:
            release.draft = False
            self.history.append(f"published {release.tag}")
        return 200, self.described(number)


@contextmanager
def github(*tags: str):
    """GitHub with a repository that has these tags, and the environment in which gh speaks to it, and to nobody else."""
    repository = GitHub(set(tags))

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            url = urlsplit(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            if self.headers["Authorization"] != f"token {TOKEN}":
                status, answer = 401, {"message": "Bad credentials"}
            else:
                method = "GET" if self.command == "HEAD" else self.command
                status, answer = repository.answer(method, url.path, parse_qs(url.query), body)
            content = answer if isinstance(answer, bytes) else b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PATCH = do_DELETE = answer

        def log_message(self, *_):
            """Nothing on the terminal of the tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield repository, {
            "GH_TOKEN": TOKEN, "GH_HOST": HOST, "GH_REPO": f"{HOST}/{REPOSITORY}",
            "GH_NO_UPDATE_NOTIFIER": "1", "GH_TELEMETRY": "0", "HTTP_PROXY": f"http://127.0.0.1:{server.server_port}",
        }
        server.shutdown()
