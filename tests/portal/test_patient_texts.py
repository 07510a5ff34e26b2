"""Every text of the page is there in both languages, and nothing on it is from elsewhere."""

import json
import re

from portal.patient.page import OWN, SEMAPHORE, assets, document, texts


def test_both_languages_have_every_text():
    for key, words in texts().items():
        assert set(words) == {"en", "zh"}, key
        assert all(words.values()), key
        facts = [set(re.findall(r"\{(\w+)\}", words[language])) for language in ("en", "zh")]
        assert facts[0] == facts[1], key
        assert re.search(r"[\u4e00-\u9fff]", words["zh"]), key


def test_every_text_that_is_used_exists():
    source = "".join(asset.content.decode() for name, asset in assets().items() if name in OWN)
    known = texts()
    for key in re.findall(r'say\("([a-z.]+)"', source):
        assert key in known, key


def test_the_files_are_those_of_the_list_under_their_hash():
    files = assets()
    assert files.keys() == OWN.keys() | SEMAPHORE.keys()
    assert len({asset.address for asset in files.values()}) == len(files)


def test_the_document_refers_to_nothing_outside():
    study = {"title": {"en": "<b>", "zh": "乙"}, "study": "</script><b>"}
    page = document(study, assets(), "en")
    assert "</script><b>" not in page

    links = re.findall(r'(?:src|href)="([^"]*)"', page.partition("<body")[0] + page)
    assert links
    assert all(one.startswith(("/files/", "#")) for one in links)
    assert json.loads(re.search(r'id="setup">(.*?)</script>', page)[1])["study"] == study
