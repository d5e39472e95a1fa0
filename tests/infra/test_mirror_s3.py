"""A mirror on a real S3 server on loopback: killed pushes, outages, credentials, missing buckets."""

from __future__ import annotations

import os
import signal
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from infra import mirror as module
from infra.artifact import Artifact, Counts
from infra.compute import Compute, LocalCompute
from infra.errors import ConfigError, PipelineError
from infra.log import attach
from infra.mirror import Mirror
from infra.mirror_url import redacted, without_password
from infra.stage import Stage, run
from infra.store import Store

NAMES = ("a.txt", "model/b.txt")
CONFIG = {"text": "seven"}


def work(config: Mapping[str, str], inputs: Mapping[str, Artifact], out: Path, compute: Compute) -> Counts:
    for name in NAMES:
        (out / name).parent.mkdir(exist_ok=True)
        (out / name).write_text(f"{name} {config['text']}")
    return {"read": 1}


def refuse(config: Mapping[str, str], inputs: Mapping[str, Artifact], out: Path, compute: Compute) -> Counts:
    raise AssertionError("built although the mirror has it")


BUILD, FETCH = Stage("toy", 1, work), Stage("toy", 1, refuse)


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    """The endpoint of a moto server, with an empty bucket `mill`."""
    from moto.server import ThreadedMotoServer

    before = dict(os.environ)
    os.environ.update({"AWS_ACCESS_KEY_ID": "mill", "AWS_SECRET_ACCESS_KEY": "seven", "AWS_DEFAULT_REGION": "us-east-1"})
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    os.environ["AWS_ENDPOINT_URL"] = endpoint
    yield endpoint
    server.stop()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def bucket(s3: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty bucket; the environment names its server."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3)
    name = f"mill-{abs(hash(request.node.name)) % 10**9}"
    client().create_bucket(Bucket=name)
    forget()
    return f"s3://{name}/prefix"


def forget() -> None:
    """s3fs keeps a filesystem for its arguments, whatever the environment has become."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


def client() -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])


def objects(url: str) -> list[str]:
    return [one["Key"] for one in client().list_objects_v2(Bucket=url.split("/")[2]).get("Contents", [])]


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    told: list[str] = []
    detach = attach(lambda e: told.append(e["message"]) if e["kind"] == "warning" else None)
    yield told
    detach()


def killed_before(n: int, store: Path, url: str) -> bool:
    """Build and push in a child that SIGKILLs itself before its n-th remote operation; whether it got so far."""
    child = os.fork()
    if child == 0:
        left, real = [n], Mirror._operation

        def operation(self: Mirror, name: str, *arguments: Any, **more: Any) -> Any:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, name, *arguments, **more)

        Mirror._operation = operation  # type: ignore[method-assign]
        try:
            run(BUILD, CONFIG, {}, Store(store, Mirror(url)), LocalCompute())
            os._exit(0)
        except BaseException:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("kind", ["s3", "file"])
def test_a_push_killed_at_any_step_is_repaired_by_the_next_run(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    for n in range(1, 20):
        url = f"{request.getfixturevalue('bucket')}-{n}" if kind == "s3" else f"file://{tmp_path}/bucket-{n}"
        here, there = tmp_path / f"here-{n}", tmp_path / f"there-{n}"
        was_killed = killed_before(n, here, url)
        if was_killed:
            assert Mirror(url).pull("toy", BUILD.key(CONFIG, {}), tmp_path / f"never-{n}") is False
        mirror = Mirror(url)
        again = run(FETCH if (here / "toy" / BUILD.key(CONFIG, {})).exists() else BUILD, CONFIG, {}, Store(here, mirror), LocalCompute())
        fetched = run(FETCH, CONFIG, {}, Store(there, Mirror(url)), LocalCompute())
        for name in (*NAMES, "manifest.json"):
            assert (fetched.path / name).read_bytes() == (again.path / name).read_bytes()
        if not was_killed:
            break
    # s3: two questions (pull), one more (push), two files, the manifest; a directory needs mkdir, copy and rename for each of the three
    assert n - 1 == {"s3": 6, "file": 12}[kind]


def test_an_outage_costs_one_warning_and_the_artifacts_follow_later(
    bucket: str, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive = os.environ["AWS_ENDPOINT_URL"]
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s.getsockname()[1]}")  # bound, not listening
        forget()
        mirror = Mirror(bucket)
        mirror.open()
        for text in ("one", "two", "three"):
            run(BUILD, {"text": text}, {}, Store(tmp_path / "here", mirror), LocalCompute())
        mirror.finish()
    assert len(warnings) == 2 and "cannot be used" in warnings[0] and "3 artifacts are not on the mirror" in warnings[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", alive)
    forget()
    later = Mirror(bucket)
    later.open()
    for text in ("one", "two", "three"):
        run(FETCH, {"text": text}, {}, Store(tmp_path / "here", later), LocalCompute())
    later.finish()
    assert len([key for key in objects(bucket) if key.endswith("manifest.json")]) == 3 and len(warnings) == 2


def test_an_outage_in_the_middle_is_made_up_for_at_the_end_of_the_run(
    bucket: str, tmp_path: Path, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror, store = Mirror(bucket), tmp_path / "here"
    run(BUILD, {"text": "one"}, {}, Store(store, mirror), LocalCompute())
    with monkeypatch.context() as broken:
        broken.setattr(Mirror, "_operation", lambda *_, **__: (_ for _ in ()).throw(ConnectionResetError("reset by peer")))
        run(BUILD, {"text": "two"}, {}, Store(store, mirror), LocalCompute())
    run(BUILD, {"text": "three"}, {}, Store(store, mirror), LocalCompute())  # within the pause: not tried
    assert len([key for key in objects(bucket) if key.endswith("manifest.json")]) == 1
    mirror.finish()
    assert len([key for key in objects(bucket) if key.endswith("manifest.json")]) == 3 and len(warnings) == 1


def test_a_required_mirror_that_does_not_answer_ends_the_run_at_once(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PROBE_S", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connects and never answers
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        forget()
        started = time.monotonic()
        with pytest.raises(PipelineError, match=r"no answer within 1 s.*mirror_required"):
            Mirror(bucket, required=True).open()
        Mirror(bucket).open()
        assert time.monotonic() - started < 20


def test_a_missing_bucket_is_an_error_and_is_not_created(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bucket 'elsewhere' does not exist; create it"):
        Mirror("s3://elsewhere/prefix").open()
    mirror = Mirror("s3://elsewhere/prefix")
    run(BUILD, CONFIG, {}, Store(tmp_path / "here", mirror), LocalCompute())  # removed during a run
    assert "elsewhere" not in [one["Name"] for one in client().list_buckets()["Buckets"]]


def test_wrong_and_missing_credentials_are_errors_before_any_work(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def auth(calls: bytes) -> None:
        where = f"{os.environ['AWS_ENDPOINT_URL']}/moto-api/reset-auth"
        urllib.request.urlopen(urllib.request.Request(where, calls, {"Content-Type": "text/plain"})).close()

    auth(b"0")  # from now on moto checks the keys
    try:
        forget()
        with pytest.raises(ConfigError, match="access is refused.*AWS_ACCESS_KEY_ID"):
            Mirror(bucket).open()
    finally:
        auth(b"inf")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    forget()
    with pytest.raises(ConfigError, match="access is refused"):
        Mirror(bucket).open()


def test_a_file_that_is_damaged_here_is_not_pushed(bucket: str, tmp_path: Path, warnings: list[str]) -> None:
    made = run(BUILD, CONFIG, {}, Store(tmp_path / "here"), LocalCompute())
    (made.path / "a.txt").write_text("a.txt eight")
    run(FETCH, CONFIG, {}, Store(tmp_path / "here", Mirror(bucket)), LocalCompute())
    assert not objects(bucket) or not [key for key in objects(bucket) if key.endswith("manifest.json")]
    assert "a.txt does not hash" in warnings[0] and "not pushed" in warnings[0]


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:sec/ret@bucket/p", "s3://token@bucket", "sftp://me:secret@host/p", "az://box?sig=secret", "simplecache::s3://k:secret@b",
        "https://:secret@host/p",
    ],
)  # fmt: skip
def test_a_url_with_a_password_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigError) as told:
        Mirror(url)
    assert "environment" in str(told.value)
    for secret in ("secret", "sec/ret", "token@"):
        assert secret not in str(told.value) and secret not in redacted(f"--set resources.mirror={url}")


@pytest.mark.parametrize("url", ["s3://bucket/p", "gs://b", "file:///tmp/a b", "/tmp/x", "sftp://me@host/p", "memory://x"])
def test_a_url_without_a_password_is_taken(url: str) -> None:
    assert without_password(url) == redacted(url).replace("***@", "me@") == url
