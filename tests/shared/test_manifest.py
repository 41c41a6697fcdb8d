import pytest

from shared.manifest import Entry, Manifest

SHA = "0" * 64


class TestEntry:
    @pytest.mark.parametrize(
        "path",
        [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "./a",
            "a\\b",
            "a\x00b",
            "a/",
            "n\nl",
            "x" * 300,
            "a/" * 300 + "b",
        ],
    )
    def test_a_path_stays_in_its_folder(self, path):
        with pytest.raises(ValueError, match="manifest"):
            Entry(path, SHA, 1)

    @pytest.mark.parametrize("path", ["config.json", "a/b/c.safetensors", "ünïcode.txt", "..x"])
    def test_ordinary_paths(self, path):
        assert Entry(path, SHA, 1).path == path


class TestManifest:
    def test_the_digest_does_not_depend_on_the_order(self):
        one, two = Entry("a", SHA, 1), Entry("b", SHA, 2)
        assert Manifest.of([one, two]).digest == Manifest.of([two, one]).digest
        assert Manifest.of([one]).digest != Manifest.of([two]).digest

    def test_json_there_and_back(self):
        manifest = Manifest.of([Entry("a/b", SHA, 1)])
        assert Manifest.of_json(manifest.as_json()) == manifest
        assert manifest.bytes == 1

    def test_a_path_occurs_once(self):
        with pytest.raises(ValueError, match="twice"):
            Manifest.of([Entry("a", SHA, 1), Entry("a", SHA, 1)])

    def test_differences(self, tmp_path):
        (tmp_path / "in").mkdir()
        for name in ("in/kept", "in/changed", "in/gone"):
            (tmp_path / name).write_text(name)
        manifest = Manifest.of_files(tmp_path, tmp_path.glob("in/*"))
        assert manifest.differences(tmp_path) == []

        (tmp_path / "in/changed").write_text("other")
        (tmp_path / "in/gone").unlink()
        (tmp_path / "new").write_text("x")
        assert manifest.differences(tmp_path) == ["in/changed", "in/gone", "new"]
