"""The options of the command line: one for each setting, from a flag or a variable, and errors that name them."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from skilder_keys.cli.main import app
from skilder_keys.cli.options import takes_settings
from skilder_keys.cli.variables import variable
from skilder_keys.config import Settings
from skilder_keys.envoy_settings import EnvoySettings

PLAIN = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "TERMINAL_WIDTH": "200"}
URL = "postgresql://keys:hunter2@db.internal/keys"
# A value for each setting, different from its default.
VALUES: dict[str, Any] = {
    "listen": "0.0.0.0:7000",
    "transport": "envoy",
    "workers": 5,
    "gateway_listen": "127.0.0.1:9001",
    "metrics_listen": "127.0.0.1:9100",
    "health_listen": "127.0.0.1:8080",
    "data_dir": Path("elsewhere"),
    "database_url": URL,
    "database_schema": "keys",
    "callers": Path("callers.yaml"),
    "local_operator": False,
    "tls_cert": Path("cert.pem"),
    "tls_key": Path("key.pem"),
    "tls_client_ca": Path("ca.pem"),
    "allow_plaintext": True,
    "reflection": False,
    "http_json": True,
    "pool_size": 7,
    "statement_timeout": 1.5,
    "lock_timeout": 2.5,
    "call_timeout": 3.5,
    "max_calls": 8,
    "max_streams": 9,
    "max_message_bytes": 2**20,
    "max_connections": 100,
    "max_connection_age": 5.5,
    "drain_delay": 2.5,
    "drain_timeout": 0.0,
    "worker_timeout": 60.5,
    "usage_interval": 4.5,
    "activity_interval": 1.5,
    "activity_fold_interval": 20.5,
    "activity_budget": 500,
    "activity_waiting": 5000,
    "activity_minute_days": 3,
    "activity_hour_days": 40,
    "activity_day_days": 500,
    "policy_interval": 60.5,
    "purge_keys_after_days": 400,
    "lease": 0.5,
    "cache_keys": 6,
    "cache_workspaces_mib": 9,
    "argon2_memory_kib": 2048,
    "argon2_passes": 2,
    "argon2_lanes": 3,
    "argon2_threads": 4,
    "decision_log": "all",
    "decision_log_file": Path("decisions.jsonl"),
    "decision_log_endpoint": "http://127.0.0.1:4318/v1/logs",
    "trace_endpoint": "http://127.0.0.1:4318/v1/traces",
    "trace_ratio": 0.25,
    "log_format": "json",
}
FLAGS = {name: f"--{name.replace('_', '-')}" for name in Settings.model_fields}


def settings_from(*arguments: str, **variables: str) -> Settings:
    """Return the settings that a command receives."""
    seen: list[Settings] = []
    probe = typer.Typer()
    probe.command()(takes_settings()(seen.append))
    result = CliRunner().invoke(probe, arguments, env=PLAIN | variables, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (settings,) = seen
    return settings


def refusal(*arguments: str, **variables: str) -> str:
    """Return the error of `skilder-keys` about arguments that it refuses: a sentence, not a traceback."""
    result = CliRunner().invoke(app, arguments, env=PLAIN | variables)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result.output


def test_this_test_has_a_value_for_every_setting() -> None:
    """A new setting must be added above, and no value may be the default."""
    assert set(VALUES) == set(Settings.model_fields)
    defaults = Settings()
    assert [name for name, value in VALUES.items() if getattr(defaults, name) == value] == []


def test_every_setting_is_an_option_with_a_variable() -> None:
    """The help shows both."""
    result = CliRunner().invoke(app, ["serve", "--help"], env=PLAIN)
    assert result.exit_code == 0
    words = set(re.findall(r"--[a-z0-9-]+", result.output))
    assert words >= set(FLAGS.values())
    for name in FLAGS:
        assert variable(name) in result.output


def test_a_variable_is_the_settings_name_in_capitals() -> None:
    """With the prefix SKILDER_KEYS_."""
    assert variable("pool_size") == "SKILDER_KEYS_POOL_SIZE"
    assert variable("database_url") == "SKILDER_KEYS_DATABASE_URL"


def test_without_options_the_settings_are_the_defaults() -> None:
    """The command line has no defaults of its own."""
    assert settings_from() == Settings()


def test_every_variable_arrives() -> None:
    """With the type of the setting."""
    variables = {variable(name): str(value) for name, value in VALUES.items()}
    assert settings_from(**variables) == Settings.model_validate(VALUES)


@pytest.mark.parametrize("values", [{}, VALUES], ids=["defaults", "others"])
def test_envoys_configuration_gets_the_same_values(values: dict[str, Any]) -> None:
    """A process that becomes Envoy reads them from what its parent has sent, which has no defaults."""
    settings = Settings.model_validate(values)
    sent = settings.model_dump(mode="json", exclude_defaults=True) | {"listen": settings.listen}
    read = asdict(EnvoySettings.of(sent))
    assert read == settings.model_dump(mode="json", include=set(read))


def test_every_flag_arrives() -> None:
    """And wins over its variable."""
    arguments: list[str] = []
    for name, flag in FLAGS.items():
        value = VALUES[name]
        if isinstance(value, bool):
            arguments.append(flag if value else flag.replace("--", "--no-"))
        else:
            arguments += [flag, str(value)]
    settings = settings_from(*arguments, SKILDER_KEYS_POOL_SIZE="9", SKILDER_KEYS_REFLECTION="1")
    assert settings == Settings.model_validate(VALUES)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--pool-size", "0"),
        ("--pool-size", "many"),
        ("--listen", "nowhere"),
        ("--listen", "0.0.0.0:50051"),
        ("--drain-timeout", "-1"),
        ("--call-timeout", "inf"),
        ("--log-format", "xml"),
        ("--tls-cert", "cert.pem"),
    ],
)
def test_a_bad_value_is_refused_by_its_flag(flag: str, value: str) -> None:
    """Whether it came from the flag or the variable, in one line."""
    name = next(name for name, each in FLAGS.items() if each == flag)
    for output in (refusal("serve", flag, value), refusal("serve", **{variable(name): value})):
        (reported,) = [line for line in output.splitlines() if line.startswith("Error")]
        assert flag.removeprefix("--") in reported.replace("_", "-")


def test_errors_name_flags_instead_of_settings() -> None:
    """In the code the settings have other names."""
    assert "--tls-cert and --tls-key go together" in refusal("serve", "--tls-cert", "cert.pem")
    assert "--listen: 0.0.0.0:1 is not loopback" in refusal("serve", "--listen", "0.0.0.0:1")
    assert "--lease: must be less than --call-timeout" in refusal("serve", "--lease", "20")


def test_a_refusal_does_not_show_the_databases_password() -> None:
    """Whatever else is wrong."""
    for fault in (["--pool-size", "0"], ["--listen", "0.0.0.0:1"], ["--tls-key", "key.pem"]):
        assert "hunter2" not in refusal("serve", *fault, SKILDER_KEYS_DATABASE_URL=URL)


def test_an_unknown_option_is_refused() -> None:
    """A typo is not silently ignored."""
    assert "--pool-sise" in refusal("serve", "--pool-sise", "7")
