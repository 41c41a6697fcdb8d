"""The sample documents: always the same, and what is said to be true of them stands in their text."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from infra.documents.samples import FORMATS, generate
from tests.workers.documents.reading import pages


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("samples")
    generate(made, companies=8)
    return made


@pytest.fixture(scope="module")
def truth(folder):
    return json.loads(Path(folder, "truth.json").read_text())["documents"]


class TestSamples:
    def test_four_companies_have_every_format(self, tmp_path):
        paths = generate(tmp_path / "out")
        assert {path.suffix.removeprefix(".") for path in paths} == set(FORMATS)
        assert {path.name for path in Path(tmp_path, "out").iterdir()} == {"truth.json", *(path.name for path in paths)}

    def test_they_are_the_same_every_time(self, folder, tmp_path):
        generate(tmp_path, companies=8)
        for path in sorted(Path(tmp_path).iterdir()):
            assert path.read_bytes() == Path(folder, path.name).read_bytes(), path.name

    def test_every_quote_stands_on_its_page(self, folder, truth):
        for name, told in truth.items():
            found = ["".join(text.split()) for text in pages(Path(folder, name))]
            assert len(found) == told["pages"], name
            for value in told["values"].values():
                assert "".join(value["quote"].split()) in found[value["page"] - 1], (name, value)

    def test_they_are_two_to_twelve_pages_long(self, truth):
        assert {told["pages"] for told in truth.values() if told["format"] in {"pdf", "docx"}} <= set(range(2, 13))

    def test_violations_are_real_and_the_rest_adds_up(self, truth):
        seen = set()
        for told in truth.values():
            value = {name: each["value"] for name, each in told["values"].items()}
            broken = {
                "balance": value["assets"] != value["liabilities"] + value["equity"],
                "result": value["net_income"] != value["revenue"] - value["expenses"],
                "published": value["published"] < value["period_end"],
            }
            assert [name for name, is_broken in broken.items() if is_broken] == told["violations"]
            seen.update(told["violations"])
        assert seen == {"balance", "result", "published"}

    def test_years_of_a_company_follow_each_other(self, truth):
        years = [(told["company"], told["year"]) for told in truth.values()]
        for (company, year), (other, before) in list(pairwise(years))[::2]:
            assert (other, before) == (company, year - 1)
