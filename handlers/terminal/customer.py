"""The commands about customers."""

import sys
from collections.abc import Iterator, Sequence

from handlers.terminal.arguments import DatabaseContext, Noun, Nouns, add_limit, at_least_one
from handlers.terminal.output import Columns, list_rows, moment, note, print_result, show_record
from models.customer import Customer, customer_as_dict, find_customer, flag_spam, list_customers
from models.customer_split import MovedLeads, split_customer
from models.erasure import erase_customer
from models.errors import ActionError, Conflict, Invalid
from models.lead_record import list_leads
from models.shown_text import printable
from models.storage import StorageError

MOST_NAMED = 20  # customers, or leads of one, that are named; of more only their number is
REMAINS = "Backups made before now, exports, and what a restore has put by ('replaced-…') still hold them."
REMAINS_IN_POSTGRESQL = (
    "PostgreSQL's files may hold them until it overwrites the free space. Its archived WAL, backups made "
    "before now, and exports still hold them."
)

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
    noun = Noun(nouns, "customer", "manage the renters who sent leads")
    listing = noun.command("list", _list, "list customers, the newest first")
    listing.add_argument("--email", help="only those with this e-mail address")
    listing.add_argument(
        "--merged", action="store_true", help="only those that hold leads of several renters"
    )
    add_limit(listing)
    for name, run, help in (
        ("show", _show, "show a customer"),
        ("flag-spam", _flag_spam, "flag a customer as spam: later leads are stored, and nobody is mailed"),
        ("unflag-spam", _unflag_spam, "remove the spam flag of a customer"),
        ("split", _split, "move the leads of other renters that a customer holds to customers of their own"),
        ("erase", _erase, "erase a customer's data for good; asks first"),
    ):
        command = noun.command(name, run, help, writes_to_moved=run is _erase)  # a copy is data, too
        command.add_argument("id", type=at_least_one, metavar="ID")
        if run is _erase:
            command.add_argument("--yes", action="store_true", help="erase without asking")


def _list(context: DatabaseContext) -> None:
    args = context.args
    rows = context.storage.read(list_customers, args.email, args.limit, args.merged)
    list_rows(rows, COLUMNS, args.json, "There are no such customers.", args.limit)


def _show(context: DatabaseContext) -> None:
    customer = context.storage.read(find_customer, context.args.id)
    leads = context.storage.read_each(list_leads, customer_id=customer.id, newest_first=False)
    record = {**customer_as_dict(customer), "leads": [lead["id"] for lead in leads]}
    show_record(record, context.args.json)


def _flag_spam(context: DatabaseContext) -> None:
    _set_spam(context, True, "is flagged as spam: nobody is mailed about later leads of theirs.")


def _unflag_spam(context: DatabaseContext) -> None:
    _set_spam(context, False, "is not flagged as spam: agents are mailed about later leads of theirs.")


def _set_spam(context: DatabaseContext, spam: bool, words: str) -> None:
    customer = context.storage.write(flag_spam, context.actor, context.args.id, spam, context.clock.now())
    print_result(customer_as_dict(customer), context.args.json, f"Customer {customer.id} {words}")


def _split(context: DatabaseContext) -> None:
    customer_id, is_whole = context.args.id, False
    moved: dict[int, MovedLeads] = {}
    mails: list[int] = []
    while not is_whole:
        split = context.storage.write(split_customer, context.actor, customer_id, context.clock.now())
        for part in split.moved.values():
            known = moved.setdefault(part["customer_id"], {**part, "leads": []})
            known["leads"] += part["leads"]
        mails += split.skipped_mails
        is_whole = split.is_whole
    customer = context.storage.read(find_customer, customer_id)
    parts = [moved[number] for number in sorted(moved)]
    print_result(
        {**customer_as_dict(customer), "moved": parts, "skipped_mails": mails},
        context.args.json,
        *_in_lines(customer, parts, mails),
    )


def _in_lines(customer: Customer, moved: Sequence[MovedLeads], mails: Sequence[int]) -> Iterator[str]:
    if not moved:
        yield f"There is nothing to split: customer {customer.id} holds leads of one renter."
        return
    leads = sum(len(part["leads"]) for part in moved)
    yield f"Customer {customer.id} is split. Leads moved: {leads}, to customers: {len(moved)}."
    for part in moved[:MOST_NAMED]:
        yield f"Moved to customer {part['customer_id']} ({part['email']}): {_named_leads(part['leads'])}"
    if len(moved) > MOST_NAMED:
        yield f"Customers that are not named here: {len(moved) - MOST_NAMED}."
    if customer.spam:
        yield f"The spam flag stays with customer {customer.id}."
    if mails:
        yield f"Mails of moved leads that were skipped, as the customer was flagged as spam: {len(mails)}."
        yield f"To send them: outbox retry {' '.join(map(str, mails))}"


def _named_leads(ids: Sequence[int]) -> str:
    if len(ids) > MOST_NAMED:
        return f"{len(ids)} leads"
    return f"{'lead' if len(ids) == 1 else 'leads'} {', '.join(map(str, ids))}"


def _erase(context: DatabaseContext) -> None:
    args, storage = context.args, context.storage
    customer = storage.read(find_customer, args.id)
    leads = 0
    if customer.erased_at is None:
        if not args.yes:
            _ask(customer)
        leads = storage.write(erase_customer, context.actor, args.id, context.clock.now())
    # Also when the customer was erased before, so that a clean-up that failed can be repeated.
    try:
        storage.scrub()
    except StorageError as error:
        raise ActionError(
            f"customer {args.id} is erased, but traces may stay in the database ({error}); "
            "run this command again"
        ) from None
    print_result(
        {**customer_as_dict(storage.read(find_customer, args.id)), "erased_leads": leads},
        args.json,
        f"Customer {args.id} is erased, and what their leads held of them (leads: {leads}).",
        REMAINS_IN_POSTGRESQL if context.settings.database_url else REMAINS,
    )


def _ask(customer: Customer) -> None:
    if not sys.stdin.isatty():
        raise Invalid("erasing can't be undone; give --yes where nobody can be asked")
    if customer.merged:
        note(
            f"note: other renters' leads would be erased too; 'customer split {customer.id}' moves them first"
        )
    shown = printable(f"{customer.name or 'no name'}, {customer.email or 'no e-mail'}")
    question = f"This can't be undone. To erase customer {customer.id} ({shown}) type {customer.id}: "
    print(question, end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip() != str(customer.id):
        raise Conflict("nothing was erased")
