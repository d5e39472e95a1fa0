"""The URL of a mirror: which kind of store, without a password, with short time limits. Light: every recipe is checked with it."""

from __future__ import annotations

import re
from typing import Any

from infra.errors import ConfigError

CONNECT_S, READ_S = 5, 30
USERS = ("sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs")  # kinds of store whose URL may name a user
SECRET = re.compile(r"(?<=://)[^\s'\"]*@")
QUERY = re.compile(r"(?<=[?&])([^=&\s'\"]+)=[^&\s'\"]*")


def protocol(url: str) -> str:
    """`s3` of s3://bucket/prefix; `file` of a path."""
    return url.partition("://")[0].rpartition("::")[2].lower() if "://" in url else "file"


def redacted(text: str) -> str:
    """The text with the user part and the query values of every URL in it replaced by `***`."""
    return QUERY.sub(r"\1=***", SECRET.sub("***@", text)) if "://" in text else text


def without_password(url: str) -> str:
    """The URL itself. Raises ConfigError, which does not repeat the secret, when the URL contains a user, a password or a query."""
    for part in url.split("::"):
        user = part.partition("://")[2].rpartition("@")[0]
        named = user and protocol(part) in USERS and ":" not in user
        if (user and not named) or "?" in part:
            raise ConfigError(
                f"resources.mirror {redacted(url)}: credentials must not be part of the URL, which is stored in run directories; "
                "set them in the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    return url


def options(url: str) -> dict[str, Any]:
    """Arguments for the filesystem of the URL: short time limits, no cached listings."""
    if protocol(url) not in ("s3", "s3a"):
        return {}
    from fsspec.config import conf

    configured: dict[str, Any] = conf.get("s3", {}).get("config_kwargs", {})
    limits = {"connect_timeout": CONNECT_S, "read_timeout": READ_S, "retries": {"max_attempts": 0}}
    return {"config_kwargs": {**limits, **configured}, "use_listings_cache": False}
