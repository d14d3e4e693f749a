"""Sources of settings and their precedence; configs/server.toml lists the real defaults."""

import tomllib
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipelines.core.precision import Accuracy, PrecisionSetting
from server.core.catalogue import load_catalogue
from server.core.settings.config_file import ConfigFileError
from server.core.settings.settings import TABLES, Settings

FILE = Path(__file__).parents[3] / "configs" / "server.toml"


def test_the_precedence_is_option_environment_file_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "server.toml"
    config.write_text('[server]\nport = 1\nhost = "127.0.0.2"\n[advanced]\nlease = 90')
    monkeypatch.setenv("PADDOCK_PORT", "2")
    monkeypatch.setenv("PADDOCK_HOST", "127.0.0.3")

    settings = Settings.load(config, port=3, host=None)

    assert (settings.port, settings.host, settings.lease) == (3, "127.0.0.3", 90)
    assert settings.url_ttl == 86400


def test_the_environment_may_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "server.toml").write_text("[server]\nport = 7")
    monkeypatch.setenv("PADDOCK_CONFIG", str(tmp_path / "server.toml"))

    assert Settings.load().port == 7


def test_the_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigFileError, match=r"configuration file .*missing\.toml does not exist"):
        Settings.load(tmp_path / "missing.toml")


@pytest.mark.parametrize("content", [b"port = ", b"\xff\xfe"])
def test_the_error_names_a_file_that_is_not_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.toml").write_bytes(content)

    with pytest.raises(ConfigFileError, match=r"bad\.toml cannot be read"):
        Settings.load(tmp_path / "bad.toml")


@pytest.mark.parametrize("key", ["", "  "])
def test_an_empty_key_does_not_open_the_server(tmp_path: Path, key: str) -> None:
    (tmp_path / "server.toml").write_text(f'[security]\napi_keys = ["{key}"]')

    with pytest.raises(ValidationError, match="api_keys"):
        Settings.load(tmp_path / "server.toml")


@pytest.mark.parametrize("link", ["tcp://10.96.0.1:8000", " udp://[fd00::1]:8000 "])
def test_what_kubernetes_says_of_a_service_named_paddock_is_no_port(
    link: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server.toml").write_text("[server]\nport = 9001\n")
    for name, value in {
        "PORT": link,
        "SERVICE_HOST": "10.96.0.1",
        "SERVICE_PORT": "8000",
        "PORT_8000_TCP": link,
    }.items():
        monkeypatch.setenv(f"PADDOCK_{name}", value)

    assert Settings.load().port == 8000
    assert Settings.load(tmp_path / "server.toml").port == 9001
    assert Settings.load(port=9002).port == 9002
    monkeypatch.setenv("PADDOCK_PORT", "http://10.96.0.1")
    with pytest.raises(ValidationError):
        Settings.load()


@pytest.mark.parametrize("blank", ["", " ", "\t\n"])
def test_an_empty_variable_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    config = tmp_path / "server.toml"
    config.write_text("[server]\nport = 7")
    expected = Settings()
    for name in ("PORT", "HOST", "DEMO", "MODELS_DIR", "DATABASE_URL", "API_KEYS", "DATA_DIR", "CONFIG"):
        monkeypatch.setenv(f"PADDOCK_{name}", blank)

    assert Settings.load(config).model_dump() == expected.model_copy(update={"port": 7}).model_dump()
    assert Settings.load().model_dump() == expected.model_dump()


def test_white_space_around_the_value_of_a_variable_is_no_part_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "server.toml").write_text("[advanced]\nlease = 90")
    monkeypatch.setenv("PADDOCK_CONFIG", f" {tmp_path / 'server.toml'}\r\n")
    for name, value in {"HOST": "127.0.0.2\r", "PORT": " 7 ", "DEMO": "true\n", "DATA_DIR": "/data "}.items():
        monkeypatch.setenv(f"PADDOCK_{name}", value)

    settings = Settings.load()

    assert (settings.host, settings.port, settings.demo, settings.lease) == ("127.0.0.2", 7, True, 90)
    assert settings.data_dir == Path("/data")


def test_a_file_from_another_system_is_read(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 7\r\n\r\n[advanced]\r\nlease = 90\r\n")

    settings = Settings.load(tmp_path / "server.toml")

    assert (settings.port, settings.lease) == (7, 90)


@pytest.mark.parametrize(
    ("given", "device"),
    [
        ("gpu", "cuda:0"),
        ("cuda", "cuda:0"),
        ("gpu:1", "cuda:1"),
        ("cuda:2", "cuda:2"),
        ("auto", "auto"),
        ("cpu", "cpu"),
    ],
)
def test_usual_names_of_devices_are_understood(given: str, device: str) -> None:
    assert Settings(device=given).device == device


@pytest.mark.parametrize("given", ["int4", "q4", "4bit", "4-bit"])
def test_usual_names_of_precisions_are_understood(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("PADDOCK_PRECISION", given)

    assert Settings().precision is PrecisionSetting.Q4


def test_keys_in_the_environment_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDOCK_API_KEYS", "one, two,")

    assert Settings.load().api_keys == ("one", "two")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("prot = 8000", "has a setting prot, which does not exist"),
        ("[server]\nprot = 8000", r"has a setting prot in the table \[server\], which does not exist\.$"),
        ("[server]\nlease = 90", r"lease in the table \[server\], which does not exist\. .*belongs in .*\[advanced\]"),
        ("[sever]\nport = 8000", "has a table sever, which does not exist"),
        ("server = 8000", r"has a setting server, which must be a table \[server\]"),
        ("port = 1\n[server]\nport = 2", r"sets port twice: in the table \[server\] and outside it"),
    ],
)
def test_the_error_names_an_unknown_table_or_setting(tmp_path: Path, content: str, sentence: str) -> None:
    config = tmp_path / "server.toml"
    config.write_text(content)

    with pytest.raises(ConfigFileError, match=sentence):
        Settings.load(config)


def test_a_value_outside_its_limits_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("[server]\nport = 70_000")

    for load in (lambda: Settings.load(config), lambda: Settings.load(port=70_000)):
        with pytest.raises(ValidationError, match="port"):
            load()


def test_a_flat_key_of_v0_1_0_is_read_with_a_warning(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text("lease = 90\n[server]\nport = 7")

    settings = Settings.load(config)

    assert (settings.lease, settings.port) == (90, 7)
    (warning,) = settings.warnings
    assert f"{config}: move lease into the table [advanced]" in warning
    assert Settings.load(FILE).warnings == ()


def test_every_setting_is_in_exactly_one_table() -> None:
    names = [name for section in TABLES.values() for name in section.model_fields]

    assert sorted(names) == sorted(Settings.model_fields)
    assert not set(TABLES) & set(names)


def test_the_precision_setting_applies_to_every_model() -> None:
    assert {entry.model.precision for entry in load_catalogue(Settings()).values()} == {PrecisionSetting.AUTO}

    catalogue = load_catalogue(Settings.load(precision="int8"))

    assert {entry.model.precision for entry in catalogue.values()} == {PrecisionSetting.INT8}
    assert all(entry.model.variant(fast=True).precision is PrecisionSetting.INT8 for entry in catalogue.values())
    with pytest.raises(ValidationError, match=r"'auto', 'bf16', 'fp8', 'int8' or '4-bit'"):
        Settings.load(precision="fp16")


def test_the_accuracy_setting_applies_to_every_model() -> None:
    assert {entry.model.accuracy for entry in load_catalogue(Settings()).values()} == {Accuracy.HIGH}

    catalogue = load_catalogue(Settings.load(accuracy="standard"))

    assert {entry.model.accuracy for entry in catalogue.values()} == {Accuracy.STANDARD}
    with pytest.raises(ValidationError, match=r"'high' or 'standard'"):
        Settings.load(accuracy="low")


def test_the_file_lists_every_setting_with_its_default() -> None:
    lines = FILE.read_text().splitlines()
    # a setting without a default is shown as a comment
    text = "\n".join(line.removeprefix("# ") if line.startswith("# ") and " = " in line else line for line in lines)
    listed = tomllib.loads(text)

    assert {table: set(names) for table, names in listed.items()} == {
        table: set(section.model_fields) for table, section in TABLES.items()
    }
    loaded = Settings.load(FILE)
    for name, field in Settings.model_fields.items():
        if name != "data_dir":
            assert getattr(loaded, name) == field.default, name
    assert loaded.data_dir == Path.home() / ".paddock"


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - nothing is bound
        ("::", False),
        ("box.lan", False),
        ("LocalHost", True),
        ("[::1]", True),
        ("0:0:0:0:0:0:0:1", True),
        ("[0:0:0:0:0:0:0:1]", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:7f00:1", True),
        ("[::]", False),
        ("0:0:0:0:0:0:0:0", False),
        ("::ffff:0.0.0.0", False),
        ("::ffff:192.168.1.5", False),
        ("fe80::1%eth0", False),
        ("[box.lan]", False),
        ("127.1", False),
    ],
)
def test_which_hosts_count_as_loopback(host: str, is_loopback: bool) -> None:
    assert Settings(host=host).is_loopback is is_loopback


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:0", "::"),
        ("::FFFF:127.0.0.1", "127.0.0.1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("LOCALHOST", "localhost"),
        ("box.lan", "box.lan"),
        ("[box.lan]", "[box.lan]"),
    ],
)
def test_addresses_are_kept_in_their_usual_spelling(written: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load(host=written).host == kept
    monkeypatch.setenv("PADDOCK_HOST", written)
    assert Settings.load().host == kept


@pytest.mark.parametrize("url", ["s3://bucket", "s3://my.bucket-1/a/b_c=d/", "gs://bucket/paddock", "az://container/p"])
def test_files_may_be_in_an_object_store(url: str) -> None:
    assert Settings(files_url=url).files_url == url


@pytest.mark.parametrize(
    "url",
    ["bucket", "s3://", "s3://key:secret@bucket", "s3://bucket//a", "s3://bucket/../a b", "s3://b?x=y", "file:///tmp"],
)
def test_the_url_of_an_object_store_holds_no_credentials_and_nothing_odd(url: str) -> None:
    with pytest.raises(ValidationError, match="files_url"):
        Settings(files_url=url)
