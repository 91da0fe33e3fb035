"""Settings: the origin of each, the values that it takes, and the secrets that are never shown."""

import json
import sys
from pathlib import Path

import pytest
from server_process import ROOT, run, started

from models.setting_values import Rate, parse_networks, parse_rate_exceptions
from models.settings import SettingError, load, masked, setting_metadata, setting_names

SMTP = "smtp://mailer@maple.test:pa:s@s@mail.test:587?starttls=always"
PROGRAM = (sys.executable, str(ROOT / "server.py"))
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_every_setting_has_a_help_and_takes_text() -> None:
    for name in setting_names():
        assert setting_metadata(name)["help"] and setting_metadata(name)["takes"], name


def test_config_shows_and_serve_takes_every_setting() -> None:
    shown = [json.loads(line) for line in run("config", "show", "--json").stdout.splitlines()]
    assert [list(row) for row in shown] == [["name", "value", "origin"]] * len(setting_names())
    assert [row["name"] for row in shown] == setting_names()
    assert {row["origin"] for row in shown} == {"default"}
    for command in (("serve",), ("config", "show")):
        assert flags_of(*command) == setting_names()


@pytest.mark.parametrize("command", ["sandbox", "demo"])
def test_a_throwaway_server_takes_no_setting_of_its_environment(command: str) -> None:
    its_own = (
        *("data_dir", "database_url", "backup_dir", "backup_keep", "smtp_url"),
        *("june_homes_url", "june_homes_secret", "secret"),
    )
    assert flags_of(command) == [name for name in setting_names() if name not in its_own]


def flags_of(*command: str) -> list[str]:
    """Return the settings that this command takes as flags, by its help."""
    text = run(*command, "--help").stdout
    return [name for name in setting_names() if f"--{name.replace('_', '-')} " in text]


def test_precedence_is_flag_variable_file_default(tmp_path: Path) -> None:
    file = tmp_path / "leads.toml"
    file.write_text('port = 1003\nhost = "127.0.0.3"\nrate_limit = "3/3"\n')
    shown = run(
        "config",
        "show",
        "--json",
        "--port",
        "1001",
        "--config",
        str(file),
        port="1002",
        host="127.0.0.2",
    )
    rows = {row["name"]: row for row in map(json.loads, shown.stdout.splitlines())}
    assert (rows["port"]["value"], rows["port"]["origin"]) == ("1001", "--port")
    assert (rows["host"]["value"], rows["host"]["origin"]) == ("127.0.0.2", "LEADS_HOST")
    assert (rows["rate_limit"]["value"], rows["rate_limit"]["origin"]) == ("3/3", f"the file {file}")
    assert (rows["log_format"]["value"], rows["log_format"]["origin"]) == ("text", "default")
    by_variable = load({}, {"LEADS_CONFIG": str(file)})
    assert by_variable.port == 1003 and by_variable.rate_limit == Rate(3, 3)


def test_config_show_prints_each_value_and_its_origin() -> None:
    lines = run("config", "show", port="9").stdout.splitlines()
    assert lines[0].split() == ["setting", "value", "from"]
    assert [line.split()[1:] for line in lines if line.startswith("port ")] == [["9", "LEADS_PORT"]]


def test_secrets_are_masked_wherever_they_are_shown() -> None:
    secrets = {"smtp_url": SMTP, "june_homes_secret": SECRET}
    secrets["june_homes_url"] = "https://house:pa:s@s@june.test/leads"
    for shown in (run("config", "show", **secrets), run("config", "show", "--json", **secrets)):
        assert shown.returncode == 0
        assert "pa:s@s" not in shown.stdout and SECRET not in shown.stdout
        assert "mail.test:587?starttls=always" in shown.stdout and "***" in shown.stdout
        assert "https://house:***@june.test/leads" in shown.stdout
    for name, value in (
        ("smtp_url", "smtp://u:hunter2@mail.test:x"),
        ("june_homes_url", "ftp://u:hunter2@june.test"),
    ):
        refused = run("config", "show", **{name: value})
        assert refused.returncode == 1 and f"LEADS_{name.upper()}: " in refused.stderr
        assert "hunter2" not in refused.stderr


@pytest.mark.parametrize(
    "name, text, shown",
    [
        ("smtp_url", "", ""),
        ("smtp_url", "smtp://mail.test", "smtp://mail.test"),
        ("smtp_url", "smtp://user@mail.test", "smtp://user@mail.test"),
        ("smtp_url", "smtp://user:secret@mail.test:25", "smtp://user:***@mail.test:25"),
        ("june_homes_secret", "whsec_x://y", "***"),
        ("june_homes_secret", "", ""),
        ("public_url", "https://leads.test:8443", "https://leads.test:8443"),
        ("public_url", "https://leads.test/a?key=abc", "https://leads.test/a?key=***"),
        ("public_url", "ann:secret@leads.test", "ann:***@leads.test"),
        ("june_homes_url", "", ""),
        ("june_homes_url", "https://june.test/leads", "https://june.test/leads"),
        ("june_homes_url", "https://june.test:8443/a?key=abc", "https://june.test:8443/a?key=***"),
        ("june_homes_url", "https://june.test?key=a=b&b;c=%26&d=", "https://june.test?key=***&***;c=***&***"),
        ("june_homes_url", "https://june.test/?abc", "https://june.test/?***"),
        ("june_homes_url", "https://june.test/?key=a@b", "https://june.test/?key=***"),
        ("june_homes_url", "https://june.test/?#", "https://june.test/?#"),
        ("june_homes_url", "https://june.test/@us?key=1#abc?d=e", "https://june.test/@us?key=***#***"),
        ("june_homes_url", "https://june.test/#abc", "https://june.test/#***"),
        ("june_homes_url", "https://key@june.test/", "https://***@june.test/"),
        ("june_homes_url", "https://key:@june.test/", "https://***@june.test/"),
        ("june_homes_url", "https://u:a@b:c@june.test/?k=v", "https://u:***@june.test/?k=***"),
        ("june_homes_url", "HTTPS://u:abc@june.test?k=v", "HTTPS://u:***@june.test?k=***"),
        ("mail_from", "leads@maple.test", "leads@maple.test"),
    ],
)
def test_masking_hides_only_the_secret(name: str, text: str, shown: str) -> None:
    assert masked(name, text) == shown


PARTNER_SECRETS = ("hunter2", "k3y", "fr4gment")
PARTNER_URL = "https://june:hunter2@june.test/leads?key=k3y&k3y#fr4gment"


@pytest.mark.database
def test_secrets_of_the_partner_url_are_shown_nowhere(tmp_path: Path) -> None:
    given = {"june_homes_url": PARTNER_URL, "june_homes_secret": SECRET, "data_dir": str(tmp_path)}
    file = tmp_path / "leads.toml"
    file.write_text(f'june_homes_url = "{PARTNER_URL}"\njune_homes_secret = "{SECRET}"\n')
    for shown in (
        run("config", "show", **given),
        run("config", "show", "--json", **given),
        run("config", "show", "--june-homes-url", PARTNER_URL, june_homes_secret=SECRET),
        run("config", "show", "--config", str(file)),
    ):
        assert shown.returncode == 0
        assert "https://june:***@june.test/leads?key=***&***#***" in shown.stdout
        assert not any(secret in shown.stdout + shown.stderr for secret in PARTNER_SECRETS)
    assert not any(secret in repr(load(given, {})) for secret in PARTNER_SECRETS)


@pytest.mark.parametrize(
    "url",
    [
        PARTNER_URL.replace("https", "ftp"),
        PARTNER_URL.replace("https", "http"),
        PARTNER_URL.replace("https://", ""),
        PARTNER_URL.replace("june.test", "june.test:port"),
        PARTNER_URL.replace("@june.test", "/@june.test"),
        PARTNER_URL.replace("k3y", "k3y k3y"),
        PARTNER_URL.replace("k3y", "k3y\nk3y"),
        PARTNER_URL.replace("https://", "https://["),
        "hunter2",
    ],
)
@pytest.mark.parametrize("source", ["flag", "variable", "file"])
def test_an_error_of_the_partner_url_shows_no_secret(url: str, source: str, tmp_path: Path) -> None:
    file = tmp_path / "leads.toml"
    file.write_text(f"june_homes_url = {json.dumps(url)}")
    sources = {"flag": ({"june_homes_url": url}, {}), "variable": ({}, {"LEADS_JUNE_HOMES_URL": url})}
    flags, variables = sources.get(source, ({}, {"LEADS_CONFIG": str(file)}))
    with pytest.raises(SettingError) as refused:
        load(flags, variables)
    message = str(refused.value)
    assert "its value can't be used" in message and "; it takes an https:// URL" in message
    assert not any(secret in message for secret in PARTNER_SECRETS)


@pytest.mark.parametrize("url", ["smtp://u:1#hunter2@mail.test", "smtp://u:1?hunter2@mail.test"])
def test_a_password_that_ends_the_host_of_a_mail_server_is_refused(url: str) -> None:
    with pytest.raises(SettingError, match="LEADS_SMTP_URL: its value can't be used"):
        load({}, {"LEADS_SMTP_URL": url})


def test_the_default_mail_sender_is_the_smtp_user() -> None:
    settings = load({}, {"LEADS_SMTP_URL": "smtp://ann%40maple.test:x@mail.test"})
    assert settings.mail_from == "ann@maple.test" and settings.origin("mail_from") == "LEADS_SMTP_URL"
    assert load({"mail_from": "b@maple.test"}, {}).origin("mail_from") == "--mail-from"


@pytest.mark.parametrize(
    "url",
    [
        "smtp://127.0.0.1",
        "smtp://apikey:x@mail.test",
        "smtp://root%40localhost:x@mail.test",
        "smtp://a%40b%40c.test:x@mail.test",
        "smtp://ann%40:x@mail.test",
    ],
)
def test_user_that_is_no_public_address_is_no_sender(url: str) -> None:
    settings = load({"smtp_url": url}, {})
    assert (settings.mail_from, settings.origin("mail_from")) == ("", "default")
    assert settings.sender_fault == "LEADS_MAIL_FROM is not set"
    assert load({"smtp_url": url, "mail_from": "b@maple.test"}, {}).sender_fault is None


@pytest.mark.parametrize(
    "domain",
    [
        *(
            "localhost",
            "LOCALHOST",
            "localhost.",
            "localhost.localdomain",
            "box.localdomain",
            "box.localhost",
        ),
        *("box", "3f2a9c1b2d4e", "ip6-localhost", "127.0.0.1"),
    ],
)
def test_sender_of_a_local_domain_is_a_fault(domain: str) -> None:
    settings = load({"smtp_url": "smtp://127.0.0.1", "mail_from": f"leads@{domain}"}, {})
    assert settings.sender_fault and f"LEADS_MAIL_FROM is leads@{domain}" in settings.sender_fault


@pytest.mark.parametrize(
    "domain", ["maple.test", "localhost.example.com", "b\u00fccher.example", "mail.co.uk"]
)
def test_sender_of_a_public_domain_is_taken(domain: str) -> None:
    assert load({"mail_from": f"leads@{domain}"}, {}).sender_fault is None


def test_config_show_warns_of_a_missing_sender() -> None:
    shown = run("config", "show", "--smtp-url", "smtp://127.0.0.1")
    assert "LEADS_MAIL_FROM is not set: mail waits in the outbox" in shown.stderr
    assert not run("config", "show").stderr


@pytest.mark.parametrize(
    "name, text",
    [
        ("port", "65536"),
        ("port", "http"),
        ("public_url", "leads.test"),
        ("smtp_url", "mail.test:25"),
        ("smtp_url", "smtp://mail.test?starttls=maybe"),
        ("mail_from", "Leads <leads@maple.test>"),
        ("june_homes_url", "http://june.test/leads"),
        ("rate_limit", "300"),
        ("rate_limit", "0/60"),
        ("rate_limit_exceptions", "10.0.0.0/8"),
        ("trusted_proxies", "proxy.test"),
        ("log_format", "xml"),
    ],
)
def test_an_invalid_value_is_refused_with_what_the_setting_takes(name: str, text: str) -> None:
    with pytest.raises(SettingError) as refused:
        load({}, {f"LEADS_{name.upper()}": text})
    assert f"LEADS_{name.upper()}: " in str(refused.value) and setting_metadata(name)["takes"] in str(
        refused.value
    )


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1/32"),
        ("::FFFF:7f00:1", "127.0.0.1/32"),
        ("0:0:0:0:0:ffff:10.0.0.0/104", "10.0.0.0/8"),
        (" ::ffff:10.0.0.0/104 ,", "10.0.0.0/8"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::ffff:128.0.0.0/97", "128.0.0.0/1"),
        ("10.0.0.0/255.0.0.0", "10.0.0.0/8"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::1", "::1/128"),
        ("::/0", "::/0"),
    ],
)
def test_C28_an_ipv4_mapped_network_is_its_ipv4_network(text: str, network: str) -> None:
    assert [str(each) for each in parse_networks(text)] == [network]
    limit = text.replace(" ,", "=20/60 ,") if "," in text else f"{text}=20/60"
    assert [(str(each), rate) for each, rate in parse_rate_exceptions(limit)] == [(network, Rate(20, 60))]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("::fffe:0:0/95", "has all IPv4 addresses inside; write 0.0.0.0/0 for these"),
        ("::/80", "has all IPv4 addresses inside"),
        ("::ffff:0:0/95", "is an address inside of ::fffe:0:0/95; write one of the two"),
        ("10.0.0.1/8", "is an address inside of 10.0.0.0/8; write one of the two"),
        ("::ffff:10.0.0.1/104", "is an address inside of ::ffff:a00:0/104"),
        ("fe80::1%eth0", "has a zone; write the address without it"),
        ("fe80::/10%1", "has a zone"),
        ("127.0.0.1:80", "has a port; write 127.0.0.1"),
        ("[::1]:8080", "has a port; write ::1"),
        ("0.0.0.0", "is no client's address; all addresses are 0.0.0.0/0 and ::/0"),
        ("::", "is no client's address"),
        ("::ffff:0.0.0.0", "is no client's address"),
        ("proxy.test", "is neither an address nor a network; names of hosts are not looked up"),
        ("localhost", "is neither an address nor a network; names of hosts are not looked up"),
        ("10.0.0.0/33", "is neither an address nor a network"),
        ("10.0.0.0/", "is neither an address nor a network"),
        ("127.0.0.1 10.0.0.1", "is neither an address nor a network"),
        ("127.0.0.1\n10.0.0.1", "is neither an address nor a network"),
        ("\u0661.0.0.1", "is neither an address nor a network"),
        ("*", "is neither an address nor a network"),
    ],
)
def test_a_network_that_no_peer_is_in_is_refused(text: str, why: str) -> None:
    for name, value in (("trusted_proxies", text), ("rate_limit_exceptions", f"{text}=20/60")):
        with pytest.raises(SettingError) as refused:
            load({}, {f"LEADS_{name.upper()}": f"192.0.2.1{value.replace(text, '')}, {value}"})
        message = str(refused.value)
        assert f"can't be used: {text!r} {why}" in message and "\n" not in message
        assert message.endswith(f"; it takes {setting_metadata(name)['takes']}")


@pytest.mark.parametrize("again", ["10.0.0.0/8=2/2", "::ffff:10.0.0.0/104=2/2"])
def test_two_limits_of_one_network_are_refused(again: str) -> None:
    with pytest.raises(SettingError, match="'10.0.0.0/8' has two limits"):
        load({"rate_limit_exceptions": f"10.0.0.0/8=1/1,{again}"}, {})


def test_a_misspelt_setting_is_refused_in_every_source(tmp_path: Path) -> None:
    assert run("config", "show", "--prot", "1").returncode == 2
    refused = run("config", "show", prot="1")
    assert (refused.returncode, refused.stderr) == (
        1,
        "leads: LEADS_PROT is not a setting; did you mean LEADS_PORT?\n",
    )
    file = tmp_path / "leads.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(SettingError, match=r"'prot' is not a setting; did you mean port\?"):
        load({}, {}, file)
    file.write_text("token = 1\n")
    with pytest.raises(SettingError, match="'token' is not a setting; see 'config show'"):
        load({}, {}, file)
    file.write_text("port = \n")
    with pytest.raises(SettingError, match="is not TOML"):
        load({}, {}, file)
    with pytest.raises(SettingError, match="can't be read: No such file"):
        load({}, {}, tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("LEADS_SMPT_URL", "LEADS_SMTP_URL"),
        ("LEADS_SMTPURL", "LEADS_SMTP_URL"),
        ("LEADS_SMTP_URI", "LEADS_SMTP_URL"),
        ("LEADS_SMTP_URL_FILE", "LEADS_SMTP_URL"),
        ("LEADS_smtp_url", "LEADS_SMTP_URL"),
        ("LEADS_DATADIR", "LEADS_DATA_DIR"),
        ("LEADS_DATA_DIRECTORY", "LEADS_DATA_DIR"),
        ("LEADS_BACKUP_DIRECTORY", "LEADS_BACKUP_DIR"),
        ("LEADS_BACKUPS_KEEP", "LEADS_BACKUP_KEEP"),
        ("LEADS_HOTS", "LEADS_HOST"),
        ("LEADS_PORTS", "LEADS_PORT"),
        ("LEADS_RATE_LIMITS", "LEADS_RATE_LIMIT"),
        ("LEADS_RATE_LIMIT_EXCEPTION", "LEADS_RATE_LIMIT_EXCEPTIONS"),
        ("LEADS_MAILFROM", "LEADS_MAIL_FROM"),
        ("LEADS_MAIL_FORM", "LEADS_MAIL_FROM"),
        ("LEADS_PUBLIC_ULR", "LEADS_PUBLIC_URL"),
        ("LEADS_TRUSTED_PROXY", "LEADS_TRUSTED_PROXIES"),
        ("LEADS_JUNE_HOME_URL", "LEADS_JUNE_HOMES_URL"),
        ("LEADS_LOGFORMAT", "LEADS_LOG_FORMAT"),
        ("LEADS_CONFIGS", "LEADS_CONFIG"),
    ],
)
def test_a_misspelt_variable_is_refused_with_the_one_meant(variable: str, meant: str) -> None:
    with pytest.raises(SettingError) as refused:
        load({}, {variable: "1"})
    assert str(refused.value) == f"{variable} is not a setting; did you mean {meant}?"


@pytest.mark.parametrize(
    "name",
    "TOKEN DEBUG ENV VERSION IMAGE HOME USER URL DB_URL HTTP_URL FTP_URL BACKUP_URL API_KEY TZ "
    "LOG_LEVEL POD_NAME NODE_NAME HOSTNAME DATA ROOT PATH PASSWORD EXPORT IMPORT REPORT SUPPORT SMTP_HOST "
    "SMTP_PORT SMTP_USER SMTP_PASSWORD MAIL NAME REPLICAS".split(),
)
def test_a_foreign_variable_is_ignored_with_a_reason(name: str) -> None:
    settings = load({}, {f"LEADS_{name}": "1", "LEADSMAN": "1", "leads_port": "9"})
    assert [str(variable) for variable in settings.foreign] == [
        f"LEADS_{name} of the environment is ignored: it is not a setting; see 'config show'"
    ]


@pytest.mark.parametrize(
    ("variable", "value", "service"),
    [
        ("LEADS_SERVICE_HOST", "10.0.0.1", "leads"),
        ("LEADS_SERVICE_PORT", "8080", "leads"),
        ("LEADS_SERVICE_PORT_HTTP", "8080", "leads"),
        ("LEADS_PORT", "tcp://10.0.0.1:8080", "leads"),
        ("LEADS_PORT", "udp://[fd00::1]:8080", "leads"),
        ("LEADS_PORT_8080_TCP", "tcp://10.0.0.1:8080", "leads"),
        ("LEADS_PORT_8080_TCP_PROTO", "tcp", "leads"),
        ("LEADS_PORT_8080_TCP_PORT", "8080", "leads"),
        ("LEADS_PORT_8080_TCP_ADDR", "10.0.0.1", "leads"),
        ("LEADS_SMTP_SERVICE_HOST", "10.0.0.2", "leads-smtp"),
        ("LEADS_SMTP_SERVICE_PORT_SMTP", "25", "leads-smtp"),
        ("LEADS_SMTP_PORT", "tcp://10.0.0.2:25", "leads-smtp"),
        ("LEADS_SMTP_PORT_25_TCP", "tcp://10.0.0.2:25", "leads-smtp"),
        ("LEADS_SMTP_URL_SERVICE_HOST", "10.0.0.2", "leads-smtp-url"),
        ("LEADS_DNS_1_PORT_53_UDP_ADDR", "10.0.0.3", "leads-dns-1"),
    ],
)
def test_a_service_link_is_ignored_and_names_its_service(variable: str, value: str, service: str) -> None:
    settings = load({}, {variable: value})
    [foreign] = settings.foreign
    assert foreign.name == variable and f" sets it for the service {service}; " in foreign.reason
    assert "'enableServiceLinks: false'" in foreign.reason
    assert (settings.port, settings.origin("port")) == (8080, "default")


def test_a_service_link_in_place_of_the_port_leaves_the_file(tmp_path: Path) -> None:
    file = tmp_path / "leads.toml"
    file.write_text("port = 1003\n")
    assert load({}, {"LEADS_PORT": "tcp://10.0.0.1:8080"}, file).port == 1003
    assert load({"port": "1"}, {"LEADS_PORT": "tcp://10.0.0.1:8080"}).port == 1
    with pytest.raises(SettingError, match="LEADS_PORT: 'http' can't be used"):
        load({}, {"LEADS_PORT": "http"})


@pytest.mark.database
def test_a_command_warns_of_foreign_variables_on_stderr_alone(tmp_path: Path) -> None:
    foreign = {"token": "hunter2", "smtp_service_host": "10.0.0.2", "port": "tcp://10.0.0.1:8080"}
    for command in (("config", "show"), ("config", "show", "--json"), ("building", "add", "--name", "Oak")):
        plain = run(*command, data_dir=str(tmp_path / "plain"))
        shown = run(*command, data_dir=str(tmp_path / "foreign"), **foreign)
        assert shown.returncode == 0
        assert len(shown.stdout.splitlines()) == len(plain.stdout.splitlines())
        warnings = [line for line in shown.stderr.splitlines() if line.startswith("warning: ")]
        assert [line.split()[1] for line in warnings] == [
            "LEADS_TOKEN",
            "LEADS_SMTP_SERVICE_HOST",
            "LEADS_PORT",
        ]
        assert "hunter2" not in shown.stdout + shown.stderr


@pytest.mark.parametrize("command", ["serve", "sandbox"])
def test_a_server_warns_of_foreign_variables_in_its_log(command: str, tmp_path: Path) -> None:
    with started(command, cwd=tmp_path, program=PROGRAM, log_format="json", debug="1") as server:
        events = [json.loads(line) for line in server.output.splitlines() if line.startswith("{")]
    [event] = [event for event in events if event.get("variable")]
    assert (event["level"], event["variable"]) == ("WARNING", "LEADS_DEBUG")
    assert event["reason"] == "it is not a setting; see 'config show'"


@pytest.mark.parametrize(
    "place", ["user:12/34secret@api.test", "us/er:pw@api.test/x", "user:1#2secret@api.test"]
)
def test_password_that_ends_the_partners_url_is_refused_and_not_shown(place: str) -> None:
    given = {"LEADS_JUNE_HOMES_URL": f"https://{place}/hook", "LEADS_JUNE_HOMES_SECRET": "whsec_MfKQ9r8G"}
    with pytest.raises(SettingError, match="%23") as refused:
        load({}, given)
    assert "secret" not in str(refused.value) and "pw" not in str(refused.value)


def test_partners_url_may_have_an_at_sign_in_its_path() -> None:
    given = {
        "LEADS_JUNE_HOMES_URL": "https://api.test/@team?x=@y",
        "LEADS_JUNE_HOMES_SECRET": "whsec_MfKQ9r8G",
    }
    assert load({}, given).june_homes_url == "https://api.test/@team?x=@y"
