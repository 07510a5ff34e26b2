"""A bundle has one reading, and it is the one that runs."""

import hashlib
import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_client import job_code
from fl_client.job_code import (
    BUNDLE_BYTES_MAX,
    CodeMissing,
    CodeUnreadable,
    JobCode,
    check_code,
    files_of,
    pack,
)
from fl_client.offers import JobFalse, read_offer
from protocol.frames import decode
from tests.fl_client.feature_world import SOURCES, feature_job
from tests.fl_client.job_world import World

names = st.from_regex(job_code.NAME, fullmatch=True)
texts = st.text(st.characters(codec="ascii", min_codepoint=32, max_codepoint=126), max_size=40)


def zipped(*files, method=zipfile.ZIP_STORED, before=b"", comment=b""):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, text in files:
            archive.writestr(name, text)
        archive.comment = comment
    return before + content.getvalue()


@given(st.dictionaries(names, texts.map(str.encode), min_size=1, max_size=5))
def test_files_come_back_and_their_order_does_not_matter(files):
    bundle = pack(files)
    assert files_of(bundle) == files
    assert pack(dict(reversed(files.items()))) == bundle


@pytest.mark.parametrize(
    "bundle",
    [
        b"",
        b"no zip",
        zipped(("a.py", "x = 1")),  # another date
        zipped(("a.py", "x = 1"), method=zipfile.ZIP_DEFLATED),
        pack({"a.py": b"x = 1"}) + b"more",
        b"before" + pack({"a.py": b"x = 1"}),
        pack({"a.py": b"x = 1"})[:-1],
        pack({"a.py": b"x = 1"}).replace(b"x = 1", b"x = 2"),
        bytes(BUNDLE_BYTES_MAX + 1),
    ],
)
def test_what_another_reader_could_read_otherwise_is_refused(bundle):
    with pytest.raises(CodeUnreadable):
        files_of(bundle)


def test_a_file_that_is_there_twice_is_refused():
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zipped(("a.py", "x = 1"), ("a.py", "x = 2"))
    with pytest.raises(CodeUnreadable):
        files_of(twice)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bundle_or_a_refusal(noise):
    with pytest.raises(CodeUnreadable):
        files_of(noise)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"../a.py": b""},
        {"/a.py": b""},
        {"a.so": b""},
        {"a.py": b"\xff"},
        {"a.py": "x = 1  # \u202e".encode()},
        {"a.py": b"x = 1\r"},
        {"a.py": b"\x1b[2K"},
        {"a.py": b"# coding: utf-7\n# +AAo-x = 1"},
        {"a.py": b'"""Text."""\n# -*- coding: rot13 -*-\n'},
        {"a.py": b" " * BUNDLE_BYTES_MAX},
        {f"m{number}.py": b"" for number in range(65)},
    ],
)
def test_sources_that_cannot_be_shown_as_they_are_make_no_bundle(files):
    with pytest.raises(CodeUnreadable):
        pack(files)


def test_an_offer_brings_the_code_that_its_manifest_names():
    world = World()
    terms, manifest, bundle = feature_job(world)
    found = read_offer(decode(world.offer(manifest, terms, bundle=bundle)))
    assert found.bundle == bundle
    assert files_of(found.bundle) == SOURCES


def test_code_that_is_missing_another_or_not_named_is_refused():
    world = World()
    terms, manifest, _ = feature_job(world)
    for wrong in (None, pack({"other.py": b""})):
        with pytest.raises(CodeUnreadable):
            read_offer(decode(world.offer(manifest, terms, bundle=wrong)))
    plain, declared = world.job()
    with pytest.raises(CodeUnreadable):
        read_offer(decode(world.offer(declared, plain, bundle=pack({"other.py": b""}))))


def test_a_hash_does_not_excuse_code_that_cannot_be_shown():
    world = World()
    bundle = zipped(("steps.py", "x = 1"))
    manifest = world.manifest(world.terms(), code=hashlib.sha256(bundle).hexdigest())
    with pytest.raises(CodeUnreadable, match="packed"):
        check_code(manifest, bundle)


def test_a_manifest_that_names_other_code_than_its_terms_is_refused():
    world = World()
    terms, manifest, bundle = feature_job(world)
    plain = world.terms()
    for false, of in (
        (world.manifest(terms), terms),
        (world.manifest(terms, code="1" * 64), terms),
        (world.manifest(plain, code=manifest.code), plain),
    ):
        with pytest.raises(JobFalse, match="code"):
            read_offer(decode(world.offer(false, of, bundle=bundle)))


def test_code_is_kept_as_long_as_a_job_names_it(tmp_path):
    code = JobCode(tmp_path / "site.db")
    first, second = pack({"a.py": b""}), pack({"b.py": b""})
    hashes = [hashlib.sha256(one).hexdigest() for one in (first, second)]
    code.keep(first, named=[])
    code.keep(second, named=hashes)
    assert [code.read(one) for one in hashes] == [first, second]
    code.keep(second, named=hashes[1:])
    with pytest.raises(CodeMissing):
        code.read(hashes[0])
