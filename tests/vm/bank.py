"""A bank on SQLite for guests that are copied: money moves between accounts and is never made.

`bank.py open FILE JOURNAL` makes it, `bank.py run FILE` moves money for ever, `bank.py wait FILE…`
ends when this host has moved money in each, `bank.py check FILE…` prints as JSON what is wrong with
each, and how many transfers each host has made.
"""

from __future__ import annotations

import json
import random
import socket
import sqlite3
import sys
import time
from typing import Any

ACCOUNTS = 200
EACH = 1000
PAUSE_S = 0.15
"""Between transactions: others in the guest want the processor, too."""
TABLES = f"""
create table accounts (id integer primary key, balance integer not null);
create table transfers (
    id integer primary key, host text not null, payer integer, payee integer, amount integer
);
create index by_payer on transfers (payer);
create table noise (id integer primary key, data blob);
with recursive n (i) as (select 1 union all select i + 1 from n where i < {ACCOUNTS})
insert into accounts select i, {EACH} from n;
"""
MOVED = """(
    select id, sum(amount) as amount from (
        select payee as id, amount from transfers union all
        select payer, -amount from transfers
    ) as moves group by id
)"""
WRONG_ACCOUNTS = f"""
select count(*) from accounts left join {MOVED} as moved on moved.id = accounts.id
where balance != {EACH} + coalesce(moved.amount, 0)
"""
"""Accounts whose balance is not what the transfers say, in any SQL."""


def connect(path: str) -> sqlite3.Connection:
    """A connection that writes through to the disk with every transaction."""
    bank = sqlite3.connect(path, timeout=60, isolation_level=None)
    bank.execute("pragma synchronous = full")
    return bank


def run(bank: sqlite3.Connection) -> None:
    """Move money for ever. Pages are freed and used again meanwhile."""
    dice = random.Random()
    while True:
        payer, payee = dice.sample(range(1, ACCOUNTS + 1), 2)
        amount = dice.randint(1, 50)
        bank.execute("begin immediate")
        bank.execute("update accounts set balance = balance - ? where id = ?", (amount, payer))
        row = (socket.gethostname(), payer, payee, amount)
        bank.execute("insert into transfers values (null, ?, ?, ?, ?)", row)
        noise = (dice.randrange(50), dice.randbytes(dice.randrange(20_000)))
        bank.execute("insert or replace into noise values (?, ?)", noise)
        bank.execute("update accounts set balance = balance + ? where id = ?", (amount, payee))
        bank.execute("commit")
        time.sleep(PAUSE_S)


def wait(bank: sqlite3.Connection) -> None:
    """Until this host, by the name it has now, has moved money. One process that looks again and
    again: a new interpreter for each look takes a guest more than the work that is waited for.
    """
    seen = "select exists (select 1 from transfers where host = ?)"
    while not bank.execute(seen, (socket.gethostname(),)).fetchone()[0]:
        time.sleep(PAUSE_S)


def check(bank: sqlite3.Connection) -> dict[str, Any]:
    """Everything that can be told of one moment."""
    bank.execute("begin")
    told = {
        "integrity": bank.execute("pragma integrity_check").fetchone()[0],
        "sum": bank.execute("select sum(balance) from accounts").fetchone()[0],
        "wrong_accounts": bank.execute(WRONG_ACCOUNTS).fetchone()[0],
        "hosts": dict(bank.execute("select host, count(*) from transfers group by host")),
    }
    bank.execute("commit")
    return told


def main(verb: str, path: str, *others: str) -> None:
    """What the command line says."""
    bank = connect(path)
    if verb == "open":
        bank.execute(f"pragma journal_mode = {others[0]}")
        bank.executescript(TABLES)
    elif verb == "run":
        run(bank)
    elif verb == "wait":
        for each in (path, *others):
            wait(connect(each))
    else:
        sys.stdout.write(json.dumps([check(connect(each)) for each in (path, *others)]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
