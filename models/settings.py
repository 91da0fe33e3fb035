"""Settings: parsed and checked once, each with its origin. Flag > LEADS_* > file > default."""

import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from models.database_url import masked_database_url, parse_database_url
from models.environment import PREFIX, ForeignVariable, foreign_variable, linked_service, meant_name
from models.setting_values import (
    Network,
    Rate,
    SmtpServer,
    UnusableValue,
    is_local_address,
    is_loopback,
    masked_url,
    parse_count,
    parse_log_format,
    parse_mail_from,
    parse_networks,
    parse_partner_url,
    parse_port,
    parse_public_url,
    parse_rate,
    parse_rate_exceptions,
    parse_secret,
    parse_signing_secret,
    parse_smtp_url,
)

BACKUPS = "backups"  # the folder of backups inside the data folder, unless another is set

CONFIG_VARIABLE = "LEADS_CONFIG"  # the TOML file of settings


class SettingError(ValueError):
    """A setting has a value that can't be used. The message names it and says what it takes."""


def _setting(default: str, parse: Callable[[str], Any], takes: str, help: str, secret: bool = False) -> Any:
    return field(
        repr=not secret,
        metadata={"default": default, "parse": parse, "takes": takes, "help": help, "secret": secret},
    )


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a server or a command. `load` makes them."""

    host: str = _setting("127.0.0.1", str, "an address", "the address to listen on")
    port: int = _setting("8080", parse_port, "a port number, or 0 for any", "the port to listen on")
    data_dir: Path = _setting("./data", Path, "a folder", "where the leads are kept")
    database_url: str = _setting(
        "",
        parse_database_url,
        "a URL like postgresql://user:password@host/leads",
        "the PostgreSQL that several servers may share, in place of the data folder's database",
        secret=True,
    )
    backup_dir: Path = _setting(
        "",
        Path,
        "a folder, best on another disk; 'backups' in the data folder if not given",
        "where backups go",
    )
    backup_keep: int = _setting(
        "14", parse_count, "a number, 0 for no nightly backups", "how many nightly backups are kept"
    )
    public_url: str = _setting(
        "", parse_public_url, "a URL like https://leads.example.com", "where browsers reach this server"
    )
    smtp_url: SmtpServer | None = _setting(
        "",
        parse_smtp_url,
        "smtp[s]://user:pass@host:port, with ?starttls=always, auto or never, and &helo=this.host.example",
        "the mail server; without one mail waits in the outbox",
        secret=True,
    )
    mail_from: str = _setting(
        "",
        parse_mail_from,
        "an e-mail address whose mailbox somebody reads",
        "the sender of the agents' mail; the user of smtp_url if that is an address; else mail waits",
    )
    mails_per_source: int = _setting(
        "30",
        parse_count,
        "a number of mails an hour, 0 for no limit",
        "above it, mail about one source's leads to a building leaves in digests",
    )
    mails_per_address: int = _setting(
        "60",
        parse_count,
        "a number of mails an hour, 0 for no limit",
        "above it, mail to one address leaves in digests",
    )
    june_homes_url: str = _setting(
        "",
        parse_partner_url,
        "an https:// URL (http:// to this machine only)",
        "where June Homes takes leads",
        secret=True,
    )
    june_homes_secret: bytes = _setting(
        "",
        parse_signing_secret,
        "the secret agreed with June Homes: base64, as whsec_… or alone",
        "what their copies are signed with",
        secret=True,
    )
    rate_limit: Rate = _setting(
        "300/300", parse_rate, "requests/seconds, like 300/300", "what each source address may send"
    )
    rate_limit_exceptions: tuple[tuple[Network, Rate], ...] = _setting(
        "",
        parse_rate_exceptions,
        "network=requests/seconds, with commas between, like 10.0.0.0/8=3000/300",
        "addresses with limits of their own",
    )
    trusted_proxies: tuple[Network, ...] = _setting(
        "",
        parse_networks,
        "addresses or networks, with commas between",
        "proxies whose X-Forwarded-For is believed",
    )
    secret: tuple[bytes, ...] = _setting(
        "",
        parse_secret,
        "16 or more random characters, or base64:…; after a rotation 'new, old'",
        "the installation's secret, in place of the file leads.secret in the data folder",
        secret=True,
    )
    stop_delay: int = _setting(
        "0",
        parse_count,
        "a number of seconds, more than a balancer takes to notice",
        "how long a stop goes on taking leads, with /readyz at 503",
    )
    log_format: str = _setting("text", parse_log_format, "text or json", "how the log is written")

    # By name: the text of a setting, and its origin: the flag, the variable, the file.
    given: Mapping[str, tuple[str, str]] = field(default_factory=dict, repr=False)
    foreign: tuple[ForeignVariable, ...] = ()  # LEADS_* variables of the environment that are no settings

    @property
    def listens_on_loopback(self) -> bool:
        """True if only programs on this machine can connect."""
        return is_loopback(self.host)

    @property
    def sender_fault(self) -> str | None:
        """Return why no mail can be sent from `mail_from`; None if it can.

        Mail that can't be delivered comes back to it. So it must be an address that other servers know.
        """
        if not self.mail_from:
            return "LEADS_MAIL_FROM is not set"
        if is_local_address(self.mail_from):
            return f"LEADS_MAIL_FROM is {self.mail_from}, which other mail servers don't know"
        return None

    def origin(self, name: str) -> str:
        """Return the setting's origin: '--port', 'LEADS_PORT', 'the file x.toml' or 'default'."""
        return self.given[name][1]


def setting_names() -> list[str]:
    """Return the names of all settings, in the order of listings."""
    return [f.name for f in fields(Settings) if f.metadata]


def setting_metadata(name: str) -> Mapping[str, Any]:
    """Return the metadata of a setting: default, parse, takes, help, secret."""
    return next(f.metadata for f in fields(Settings) if f.name == name)


def variable_of(name: str) -> str:
    """Return the variable of the environment that sets this setting."""
    return PREFIX + name.upper()


def load(
    flags: Mapping[str, str | None],
    environment: Mapping[str, str] = os.environ,
    file: Path | None = None,
) -> Settings:
    """Return the settings from flags, LEADS_* variables, a TOML file and the defaults, in that order.

    Variables that are neither settings nor look like misspelt ones are in `foreign`.

    Raises SettingError for a value that can't be used, a misspelt variable, a name in the file that doesn't
    exist, a file that can't be read.
    """
    variables, foreign = _split(environment)
    if file is None and variables.get(CONFIG_VARIABLE):
        file = Path(variables[CONFIG_VARIABLE])
    in_file = _read(file) if file else {}
    given: dict[str, tuple[str, str]] = {}
    values: dict[str, Any] = {}
    for name in setting_names():
        variable = variable_of(name)
        if (flag := flags.get(name)) is not None:
            given[name] = (flag, "--" + name.replace("_", "-"))
        elif variable in variables:
            given[name] = (variables[variable], variable)
        elif name in in_file:
            given[name] = (in_file[name], f"the file {file}")
        else:
            given[name] = (setting_metadata(name)["default"], "default")
        text, origin = given[name]
        try:
            values[name] = setting_metadata(name)["parse"](text.strip())
        except ValueError as error:
            shown = "its value" if setting_metadata(name)["secret"] else repr(masked(name, text))
            where = f"{origin}: {name}" if origin.startswith("the file") else origin
            why = f": {error}" if isinstance(error, UnusableValue) else ""
            raise SettingError(
                f"{where}: {shown} can't be used{why}; it takes {setting_metadata(name)['takes']}"
            ) from None
    if values["june_homes_url"] and not values["june_homes_secret"]:
        raise SettingError(
            "LEADS_JUNE_HOMES_SECRET is not set; without it no one can trust what is sent there"
        )
    if not values["mail_from"] and (sender := _user_as_sender(values["smtp_url"])):
        values["mail_from"] = sender
        given["mail_from"] = (sender, given["smtp_url"][1])
    if values["smtp_url"] is not None:
        values["smtp_url"] = replace(values["smtp_url"], domain=values["mail_from"].rpartition("@")[2])
    if not given["backup_dir"][0].strip():
        values["backup_dir"] = values["data_dir"] / BACKUPS
        given["backup_dir"] = (str(values["backup_dir"]), given["data_dir"][1])
    return Settings(**values, given=given, foreign=foreign)


def _user_as_sender(server: SmtpServer | None) -> str | None:
    """Return the mail server's user if mail can be sent from it; some services have users like 'apikey'."""
    user = server.user if server else None
    if not user or is_local_address(user):
        return None
    try:
        return parse_mail_from(user)
    except ValueError:
        return None


def _split(environment: Mapping[str, str]) -> tuple[dict[str, str], tuple[ForeignVariable, ...]]:
    """Return the variables that are settings, and the foreign ones. Raises SettingError."""
    known = [CONFIG_VARIABLE, *map(variable_of, setting_names())]
    names = {variable.removeprefix(PREFIX): variable for variable in known}
    variables, foreign = {}, []
    for variable, value in environment.items():
        if not variable.startswith(PREFIX):
            continue
        if linked_service(variable, value) is not None:
            foreign.append(foreign_variable(variable, value))
        elif variable in known:
            variables[variable] = value
        elif meant := meant_name(variable.removeprefix(PREFIX), names):
            raise SettingError(f"{variable} is not a setting; did you mean {names[meant]}?")
        else:
            foreign.append(foreign_variable(variable, value))
    return variables, tuple(foreign)


def _read(file: Path) -> dict[str, str]:
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingError(f"the file {file} can't be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingError(f"the file {file} is not TOML: {error}") from None
    for name, value in content.items():
        if name not in setting_names():
            meant = meant_name(name, setting_names())
            hint = f"did you mean {meant}?" if meant else "see 'config show'"
            raise SettingError(f"the file {file}: {name!r} is not a setting; {hint}")
        if isinstance(value, dict | list | float):
            raise SettingError(f"the file {file}: {name} takes {setting_metadata(name)['takes']}, in quotes")
    return {name: str(value) for name, value in content.items()}


def masked(name: str, text: str) -> str:
    """Return a setting's text with *** for its secret parts: all of a secret, or those of a URL."""
    if name == "smtp_url":  # its user and its query, which says nothing but starttls, are no secrets
        return re.sub(r"(//[^/:]*):.*@", r"\1:***@", text)
    if name == "database_url":
        return masked_database_url(text)
    if name.endswith("_url"):
        return masked_url(text)
    return text and "***" if setting_metadata(name)["secret"] else text
