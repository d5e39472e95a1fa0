"""The Arrow columns at each hand-over: the contract between stages, and with training/."""

from __future__ import annotations

import pyarrow as pa

LINKS = pa.schema([("url", pa.string()), ("host", pa.string()), ("karma", pa.int64()), ("source", pa.string())])

PAGES = pa.schema(
    [
        ("url", pa.string()),
        ("final_url", pa.string()),
        ("host", pa.string()),
        ("outcome", pa.string()),  # one of OUTCOMES
        ("status", pa.int32()),  # null when no answer came
        ("reason", pa.string()),
        ("fetched_at", pa.string()),  # ISO 8601, UTC
        ("content_type", pa.string()),
        ("charset", pa.string()),  # as the header says; "" when it does not
        ("bytes", pa.int64()),
        ("warc_file", pa.string()),  # relative to the artifact's folder; "" when nothing was stored
        ("warc_offset", pa.int64()),
        ("karma", pa.int64()),
        ("source", pa.string()),
        ("etag", pa.string()),  # as the answer gave them, to ask with when the page is crawled again; "" when it did not
        ("last_modified", pa.string()),
    ]
)
OUTCOMES = (
    "ok",
    "http_error",
    "robots",
    "dead_host",
    "timeout",
    "too_large",
    "bomb",
    "redirect_loop",
    "private_address",
    "bad_url",
    "not_text",
    "redirected",
    "meta_refresh",  # redirected by the page's own markup
    "not_modified",  # what an earlier crawl has is still what the server has
    "truncated",
    "opt_out",  # the page asks not to be used: noindex, noai or a TDM reservation
)

DOCUMENTS = pa.schema(
    [
        ("id", pa.string()),  # xxh3_64, hexadecimal, of the URL (of source and text for a document without one)
        ("url", pa.string()),
        ("host", pa.string()),
        ("title", pa.string()),
        ("text", pa.string()),  # NFC
        ("language", pa.string()),  # ISO 639-1; "" before it is known: files of documents do not say it, extract and filter do
        ("date", pa.string()),  # the day on which it says that it was published, ISO 8601; "" when it does not
        ("charset", pa.string()),  # the Python codec that read its bytes; "" where we did not
        ("karma", pa.int64()),
        ("source", pa.string()),
    ]
)
REJECTED = DOCUMENTS.append(pa.field("rule", pa.string())).append(pa.field("value", pa.float64()))
DUPLICATES = DOCUMENTS.append(pa.field("survivor_id", pa.string()))
CLUSTERS = pa.schema(
    [
        ("cluster", pa.string()),  # the survivor's id
        ("document", pa.string()),
        ("url", pa.string()),
        ("survivor", pa.bool_()),
        ("jaccard", pa.float64()),  # to the survivor
    ]
)

ENCODED = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("split", pa.string()),  # "train" or "valid"
        ("first", pa.uint32()),  # row of its first sentence in the shard
        ("sentences", pa.uint32()),
        ("tokens", pa.uint32()),
        ("bytes", pa.uint32()),  # UTF-8 bytes of the text
        ("source", pa.string()),  # the file that the document, or the link to it, came from
    ]
)
LANGUAGES = pa.schema(  # of a shard's documents, one row a language
    [
        ("language", pa.string()),
        ("documents", pa.int64()),
        ("sentences", pa.int64()),
        ("words", pa.int64()),  # between white space
        ("letters", pa.int64()),  # code points
        ("bytes", pa.int64()),
        ("tokens", pa.int64()),
        ("unknown", pa.int64()),  # tokens that stand for a letter or word outside the vocabulary
    ]
)
PAIRS = pa.schema([("start", pa.uint32()), ("split", pa.uint32()), ("end", pa.uint32())])  # sentence rows: A [start, split), B [split, end)
MOST_TOKENS = 2**31 - 1  # of a shard: Arrow's list offsets are 32 bits


def token_type(vocab: int) -> pa.DataType:
    """The smallest unsigned integer that holds every id of a vocabulary of this size."""
    return pa.uint16() if vocab <= 1 << 16 else pa.uint32()


def sentences(vocab: int) -> pa.Schema:
    """One row a sentence; document is a row of the same shard's encoded documents."""
    return pa.schema([("document", pa.uint32()), ("tokens", pa.list_(token_type(vocab)))])


def blocks(vocab: int, length: int) -> pa.Schema:
    """document: row, in the encoded shard's documents, of the block's first token. length -1: blocks of unequal length."""
    return pa.schema([("tokens", pa.list_(token_type(vocab), length)), ("document", pa.uint32())])
