"""Owns the commands about customers."""

import argparse
import sys

from handlers.terminal.arguments import Noun, Nouns, add_limit, at_least_one
from handlers.terminal.listing import Columns, answer, list_rows, moment, printable, show_record
from models.clock import Clock
from models.customer import Customer, customer_as_dict, find_customer, flag_spam, list_customers
from models.erasure import erase_customer
from models.errors import ActionError
from models.lead_record import list_leads
from models.settings import Settings
from models.storage import StorageError
from models.storage.sqlite.connection import transaction
from models.storage.sqlite.scrub import scrub

COLUMNS: Columns = {
    "id": "id",
    "since": moment("created_at"),
    "name": "name",
    "e-mail": "email",
    "phone": "phone",
    "spam": "spam",
    "erased": moment("erased_at"),
}


def add_commands(nouns: Nouns) -> None:
    """Add `customer` and its commands to the parser."""
    noun = Noun(nouns, "customer", "the renters whom leads came from")
    listing = noun.command("list", _list, "list customers, the newest first")
    listing.add_argument("--email", help="with this e-mail address")
    add_limit(listing)
    for name, run, help in (
        ("show", _show, "show a customer"),
        ("flag-spam", _flag_spam, "have nobody mailed about a customer's later leads"),
        ("unflag-spam", _unflag_spam, "have agents mailed again about a customer's later leads"),
        ("erase", _erase, "take a customer's data out of everything for good; asks first"),
    ):
        command = noun.command(name, run, help)
        command.add_argument("id", type=at_least_one, metavar="ID")
        if run is _erase:
            command.add_argument("--yes", action="store_true", help="don't ask")


def _list(args: argparse.Namespace, settings: Settings) -> None:
    rows = list_customers(args.email, args.limit)
    list_rows(rows, COLUMNS, args.json, "There are no such customers.", args.limit)


def _show(args: argparse.Namespace, settings: Settings) -> None:
    customer = find_customer(args.id)
    leads = [lead["id"] for lead in list_leads(customer_id=customer.id, newest_first=False)]
    show_record({**customer_as_dict(customer), "leads": leads}, args.json)


def _flag_spam(args: argparse.Namespace, settings: Settings) -> None:
    _set_spam(args, True, "is flagged as spam: nobody is mailed about later leads of theirs.")


def _unflag_spam(args: argparse.Namespace, settings: Settings) -> None:
    _set_spam(args, False, "is not flagged as spam: agents are mailed about later leads of theirs.")


def _set_spam(args: argparse.Namespace, spam: bool, words: str) -> None:
    with transaction():
        customer = find_customer(args.id)
        flag_spam(customer, spam)
    answer(customer_as_dict(customer), args.json, f"Customer {customer.id} {words}")


def _erase(args: argparse.Namespace, settings: Settings) -> None:
    customer = find_customer(args.id)
    leads = 0
    if customer.erased_at is None:
        if not args.yes:
            _ask(customer)
        with transaction():
            customer = find_customer(args.id)  # as it is now: the question may have stood for hours
            leads = erase_customer(customer, Clock().now())
    # Also when it was erased before, so that a clean-up that failed can be run again.
    try:
        scrub()
    except StorageError as error:
        raise ActionError(
            f"customer {customer.id} is erased, but traces may stay in the data folder ({error}); "
            "run this command again"
        ) from None
    answer(
        {**customer_as_dict(customer), "erased_leads": leads},
        args.json,
        f"Customer {customer.id} is erased, and what their leads held of them (leads: {leads}).",
        "Backups made before now, exports, and what a restore has put by ('replaced-…') still hold them.",
    )


def _ask(customer: Customer) -> None:
    if not sys.stdin.isatty():
        raise ActionError("erasing can't be undone; give --yes where nobody can be asked")
    who = printable(f"{customer.name or 'no name'}, {customer.email or 'no e-mail'}")
    question = f"This can't be undone. To erase customer {customer.id} ({who}) type {customer.id}: "
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != str(customer.id):
        raise ActionError("nothing was erased")
