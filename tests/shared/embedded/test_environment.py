"""What the yard's processes are told."""

import os
import stat
from pathlib import Path

import pytest

from shared.embedded import environment, ports
from shared.embedded.errors import NotASetting
from shared.embedded.layout import layout
from shared.embedded.listening import listen
from shared.settings import Settings


class TestOverrides:
    def test_settings_of_the_caller_are_handed_on(self) -> None:
        given = {"MODELYARD_LEASE_TTL_S": "5", "MODELYARD_API_KEY": "mine", "HOME": "/root"}
        assert environment.overrides(given) == {"lease_ttl_s": "5"}

    @pytest.mark.parametrize("name", ["MODELYARD_DATABASE_URL", "MODELYARD_SECRET_KEY_FILE"])
    def test_what_a_yard_makes_itself_is_refused(self, name: str) -> None:
        with pytest.raises(NotASetting, match="makes its own"):
            environment.overrides({name: "x"})

    def test_a_name_that_is_no_setting_is_refused(self) -> None:
        with pytest.raises(NotASetting, match="MODELYARD_LEASE_TLL_S is not a setting"):
            environment.overrides({"MODELYARD_LEASE_TLL_S": "5"})


class TestEnvFile:
    def test_settings_read_back_what_was_written(self, tmp_path: Path) -> None:
        place = layout(tmp_path)
        place.secrets.mkdir()
        odd = """it's "quoted" \\ and $HOME"""
        environment.write(place, {"public_url": odd, "worker_devices": "[0, 1]", "database_url": "postgresql://x"})
        read = Settings(_env_file=place.env_file)
        assert (read.public_url, read.worker_devices) == (odd, [0, 1])
        assert read.database_url.get_secret_value() == "postgresql://x"
        assert stat.S_IMODE(place.env_file.stat().st_mode) == 0o600

    def test_children_are_given_names_and_no_secrets(self, tmp_path: Path) -> None:
        given = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "s", "MODELYARD_API_KEY": "k"}
        place = layout(tmp_path)
        assert environment.python(place, given=given) == {
            "PATH": "/bin",
            "PYTHONUNBUFFERED": "1",
            "MODELYARD_YARD": str(tmp_path),
            "MODELYARD_ENV_FILE": str(place.env_file),
        }


class TestLayout:
    def test_sockets_are_short_wherever_the_data_lies(self, tmp_path: Path) -> None:
        place = layout(tmp_path / ("x" * 200))
        assert len(os.fsencode(place.run)) < 50

    def test_a_folder_has_one_place_for_sockets(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path)
        assert layout(tmp_path / "link").run == layout(tmp_path).run


class TestPorts:
    def test_a_free_port_is_kept(self) -> None:
        first = ports.pick(("a", "b"), keep={})
        assert ports.pick(("a", "b"), keep=first) == first

    def test_a_taken_port_is_replaced(self) -> None:
        taken = ports.pick(("a",), keep={})
        with listen("127.0.0.1", taken["a"]):
            assert ports.pick(("a",), keep=taken) != taken
