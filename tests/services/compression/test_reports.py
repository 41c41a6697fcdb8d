"""Reports: what they say first, that nothing of them runs or loads, and that names are only names."""

from base64 import b64decode
from typing import Any

import pytest
from lxml import html

from services.compression import report_words as words
from services.compression.about import Origin
from services.compression.reports import LAYERS, calibration_report, evaluation_report, evaluation_table
from shared.contracts.compression import CalibrationSpec, Scheme
from shared.contracts.evaluation import EvaluationFigures, Gate, TaskResult, Verdict, judge
from tests.services.compression import found

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>&\"'"
SPEC = CalibrationSpec(model="tiny")


def page(data: bytes) -> html.HtmlElement:
    return html.document_fromstring(data.decode())


def told(element: html.HtmlElement) -> str:
    return " ".join(element.text_content().split())


def table(document: html.HtmlElement) -> list[list[str]]:
    (only,) = document.xpath("//table")
    return [[told(cell) for cell in row.xpath("./th|./td")] for row in only.xpath(".//tr")]


def evaluated(figures: EvaluationFigures, **fields: Any) -> html.HtmlElement:
    values: dict[str, Any] = {"gate": None, "verdict": None, "charts": {}}
    return page(evaluation_report(figures, **(values | fields)))


class TestCalibration:
    def test_the_recommendation_comes_first_with_its_reasons(self) -> None:
        result = found.calibration(
            found.layer("model.layers.0.mlp.up_proj", int8=40.0, w4a16=20.0),
            smoothing_strength=0.5,
            ignore=["lm_head", "model.layers.3.mlp.down_proj"],
        )
        document = page(calibration_report(result, model="tiny@1", spec=SPEC, charts={}, calibration_id=found.JOB))
        (verdict,) = document.xpath("//*[contains(@class, 'verdict')]")
        assert told(verdict).startswith("Recommended: w4a16")
        for said in (
            "small enough",
            "SmoothQuant strength, where int8 is taken: 0.5",
            "lm_head, model.layers.3.mlp.down_proj",
        ):
            assert said in told(verdict)
        assert found.JOB in told(document)

    def test_layers_are_listed_worst_first_by_what_is_recommended(self) -> None:
        result = found.calibration(
            found.layer("good", int8=10.0, w4a16=30.0),
            found.layer("model.lm_head", int8=50.0, w4a16=12.0),
            found.layer("bad", int8=40.0, w4a16=15.04),
            found.layer("unknown", int8=9.0),
        )
        rows = table(page(calibration_report(result, model="tiny@1", spec=SPEC, charts={})))
        assert rows == [
            ["Layer", "int8", "w4a16 ✓", "Shape"],
            ["model.lm_head · left alone", "50.0", "12.0", "64 × 128"],
            ["bad", "40.0", "15.0", "64 × 128"],
            ["good", "10.0", "30.0", "64 × 128"],
            ["unknown", "9.0", "—", "64 × 128"],
        ]

    def test_of_very_many_layers_the_worst_are_shown(self) -> None:
        layers = [found.layer(f"layer{number}", w4a16=float(number)) for number in range(LAYERS + 7)]
        document = page(calibration_report(found.calibration(*layers), model="tiny@1", spec=SPEC, charts={}))
        rows = table(document)
        assert (len(rows) - 1, rows[1][0], rows[-1][0]) == (LAYERS, "layer0", f"layer{LAYERS - 1}")
        assert "7 layers that lose less are not shown" in told(document)

    def test_samples_and_their_sources_are_named(self) -> None:
        document = page(calibration_report(found.calibration(), model="t", spec=SPEC, charts={}, data=found.TEXTS))
        text = told(document)
        for said in (
            "128 of 256 tokens",
            "random of 1,804 texts, seed 0",
            "3 too short",
            "100 chats.jsonl, 28 library",
        ):
            assert said in text
        assert "0 duplicate" not in text
        for said in ("chats.jsonl (file-1) · 2.00 KiB · weight 3, 75%", found.SHA, "Python 3.11.9", found.OTHER_SHA):
            assert said in text


class TestEvaluation:
    def test_the_verdict_comes_first(self) -> None:
        gate = Gate(max_ppl_increase=0.01, min_agreement=0.9)
        figures = found.figures()
        failed = evaluated(figures, gate=gate, verdict=judge(gate, figures), job_id=found.JOB)
        (verdict,) = failed.xpath("//*[contains(@class, 'verdict')]")
        assert told(verdict).startswith("Not passed")
        assert "ppl_increase is 0.02, more than 0.01" in told(verdict)
        assert "perplexity rises by at most 1%; at least 90% of next tokens agree" in told(verdict)
        assert "error" in verdict.get("class")
        passed = evaluated(figures, gate=gate, verdict=Verdict(passed=True))
        assert told(passed.xpath("//*[contains(@class, 'verdict')]")[0]).startswith("Passed")
        assert "No gate was set" in told(evaluated(figures))

    def test_original_result_and_change(self) -> None:
        rows = {row[0]: row[1:] for row in table(evaluated(found.figures()))}
        assert rows["Figure"] == ["Original", "Result", "Change"]
        assert rows["Perplexity"] == ["50.00", "51.00", "+2.00%"]
        assert rows["KL divergence, nats a token"] == ["—", "0.01000", ""]
        assert rows["Equal next tokens"] == ["—", "0.9600", ""]
        assert rows["Size of all files"] == ["3.81 MiB", "1.91 MiB", "−50.0%"]
        assert rows["Parameters"] == ["1,902,080", "1,902,080", "±0"]
        assert rows["On an engine"] == ["not measured", "not measured", ""]

    def test_better_and_worse_are_marked(self) -> None:
        document = evaluated(found.figures())
        assert [told(cell) for cell in document.xpath("//td[contains(@class, 'flagged')]")] == ["+2.00%"]
        assert "−50.0%" in [told(cell) for cell in document.xpath("//td[contains(@class, 'ok')]")]

    def test_what_an_engine_said_or_why_none_did(self) -> None:
        original = found.model("tiny@1", 4, not_served="no device was free")
        result = found.model("tiny-int8", 2, served=found.SERVED)
        document = evaluated(found.figures(candidate=result, baseline=original))
        rows = {row[0]: row[1:] for row in table(document)}
        assert rows["Tokens a second, served"] == ["not measured", "120", ""]
        assert rows["Memory, served"] == ["not measured", "120 GiB", ""]
        assert "tiny@1 was not measured on an engine: no device was free." in told(document)
        assert "tiny-int8 was served by vllm on h200 × 1, 128 tokens in, 64 out; medians." in told(document)
        both = evaluated(found.figures(candidate=result, baseline=found.model("tiny@1", 4, served=found.SERVED)))
        assert {row[0]: row[3] for row in table(both)}["Time to first token, served"] == "±0"

    def test_a_model_alone_has_no_original(self) -> None:
        document = evaluated(found.figures(found.text(None, 51.0), baseline=None))
        rows = table(document)
        assert rows[:2] == [["Figure", "Result"], ["Perplexity", "51.00"]]
        assert not any("not measured on an engine: " in told(each) for each in document.xpath("//p"))

    def test_tasks_name_their_data_and_what_was_left_out(self) -> None:
        choice = TaskResult(
            name="quiz",
            type="choice",
            samples=9,
            tokens=90,
            sha256=found.OTHER_SHA,
            candidate={"accuracy": 0.5, "speciality": 3.0},
            baseline={"accuracy": 0.75, "speciality": 4.0},
            skipped={"too_long": 2},
        )
        answers = TaskResult(
            name="answers",
            type="generation",
            samples=3,
            tokens=30,
            sha256=found.SHA,
            candidate={"bleu": 30.0},
            signature="nrefs:1",
        )
        document = evaluated(found.figures(found.text(50.0, 50.0), choice, answers), data={"quiz": found.TEXTS})
        rows = {row[0]: row[1:] for row in table(document)}
        assert rows["Perplexity (text)"] == ["50.00", "50.00", "±0"]
        assert rows["Accuracy (quiz)"] == ["0.7500", "0.5000", "−0.250"]
        assert rows["speciality (quiz)"] == ["4.000", "3.000", "−1.00"]
        assert rows["BLEU (answers)"] == ["—", "30.00", ""]
        sections = {told(each.xpath("./h3")[0]): told(each) for each in document.xpath("//section")}
        assert "2 too long" in sections["quiz: multiple choice"]
        assert "chats.jsonl" in sections["quiz: multiple choice"]
        assert found.OTHER_SHA in sections["quiz: multiple choice"]
        assert "nrefs:1" in sections["answers: greedy answers"]


class TestPage:
    @staticmethod
    def pages(name: str) -> list[bytes]:
        figures = found.figures(
            found.text(1.0, 2.0, name="text", skipped={name: 1}),
            candidate=found.model(name, 2, not_served=name),
            device=name,
        )
        data, charts = [Origin(name, name)], {f"{name}.png": found.png()}
        return [
            calibration_report(
                found.calibration(found.layer(name, w4a16=1.0), reasons=[name], ignore=[name]),
                model=name,
                spec=SPEC,
                charts=charts,
                data=data,
                calibration_id=name,
            ),
            evaluation_report(
                figures,
                gate=Gate(max_ppl_increase=0.0),
                verdict=Verdict(passed=False, failures=[name]),
                charts=charts,
                data={"text": data},
                job_id=name,
            ),
        ]

    def test_names_stay_names(self) -> None:
        for data, plain in zip(self.pages(HOSTILE), self.pages("plain"), strict=True):
            hostile, usual = page(data), page(plain)
            assert [each.tag for each in hostile.iter("*")] == [each.tag for each in usual.iter("*")]
            assert HOSTILE in " ".join(hostile.itertext())

    def test_a_page_is_one_file_that_runs_nothing(self) -> None:
        for data in self.pages("plain"):
            document = page(data)
            assert not document.xpath("//script | //link | //iframe | //*[@*[starts-with(name(), 'on')]]")
            assert all(each.startswith("data:image/png;base64,") for each in document.xpath("//@src"))
            assert not document.xpath("//@href")
            (policy,) = document.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
            assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
            assert b"prefers-color-scheme: dark" in data

    def test_charts_are_inside(self) -> None:
        document = evaluated(found.figures(), charts={"evaluation/kl_by-position.png": found.png()})
        (image,) = document.xpath("//img")
        assert b64decode(image.get("src").partition(",")[2]) == found.png()
        assert image.get("alt") == "Kl by position"

    def test_what_is_no_png_is_named_alone(self) -> None:
        document = evaluated(found.figures(), charts={"odd.png": b"<svg onload=alert(1)>"})
        assert not document.xpath("//img")
        assert "The chart odd.png is not shown here." in told(document)


class TestTable:
    def test_markdown_has_the_same_figures(self) -> None:
        lines = evaluation_table(found.figures()).splitlines()
        assert lines[:3] == [
            "| Figure | Original | Result | Change |",
            "|---|---:|---:|---:|",
            "| Perplexity | 50.00 | 51.00 | +2.00% |",
        ]
        alone = evaluation_table(found.figures(found.text(None, 51.0), baseline=None)).splitlines()
        assert alone[:3] == ["| Figure | Result |", "|---|---:|", "| Perplexity | 51.00 |"]

    def test_a_name_is_no_column(self) -> None:
        named = [found.text(1.0, 2.0, name=name) for name in ("a|b", "x")]
        rows = evaluation_table(found.figures(*named)).splitlines()
        assert "a\\|b" in rows[2]
        assert {row.replace("\\|", "").count("|") for row in rows} == {5}


class TestWords:
    @pytest.mark.parametrize(
        ("said", "written"),
        [
            (words.figure(67.5471), "67.55"),
            (words.figure(0.0123456), "0.01235"),
            (words.figure(0.0), "0.000"),
            (words.figure(1234567.0), "1.235e+06"),
            (words.figure(float("nan")), "not finite"),
            (words.count(1_902_080), "1,902,080"),
            (words.count(8_030_261_248), "8.03 B"),
            (words.size(512), "512 B"),
            (words.size(3_804_160), "3.63 MiB"),
            (words.size(2**50), "1,024 TiB"),
            (words.seconds(0.42), "0.42 s"),
            (words.seconds(61.2), "61.2 s"),
            (words.seconds(745), "12.4 min"),
            (words.percent(0.0137), "+1.37%"),
            (words.percent(-0.721), "−72.1%"),
            (words.percent(11.0), "× 12.0"),
            (words.percent(0.00001), "±0.00%"),
            (words.percent(float("inf")), "not finite"),
            (words.change(0.0, 1.0), "—"),
            (words.difference(0.5, 0.4), "−0.100"),
            (words.difference(0.2, 0.21), "+0.0100"),
        ],
    )
    def test_figures_are_written_to_be_read(self, said: str, written: str) -> None:
        assert said == written

    def test_every_scheme_can_be_recommended(self) -> None:
        for scheme in Scheme:
            document = page(calibration_report(found.calibration(scheme=scheme), model="t", spec=SPEC, charts={}))
            assert f"Recommended: {scheme}" in told(document)
