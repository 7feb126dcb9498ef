"""PostgreSQL for guests, with a bank in it: Debian's packages, fetched by this host's apt and
unpacked for a push.

The base's own apt would take a guest under TCG minutes: it installs what a server needs beside the
programs (perl, locales, a compiler for queries). Here are the programs and the libraries that the
base lacks.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from machinen_runtime.assets import DEFAULT_RELEASE, resolve_base_rootfs
from machinen_runtime.channel_files import VsockFiles
from machinen_runtime.handle import VmHandle
from machinen_runtime.install_apt import PrivateApt, find_mirror
from tests.vm.bank import ACCOUNTS, EACH, WRONG_ACCOUNTS
from vmm.arch import host_arch

WANTED = "postgresql"
LEFT_OUT = re.compile(r"perl|llvm|libz3|locales|l10n|gdbm|-common|ssl-cert|ucf|utils|adduser")
"""What only Debian's wrappers and just-in-time compilation want."""
NOT_COPIED = ("usr/share/doc", "usr/share/locale", "usr/share/man", "usr/share/postgresql/*/man")


class _Apt(PrivateApt):
    """The host's apt, told what the base has."""

    def fetch(self, wanted: str, installed: bytes, directory: Path) -> None:
        """Download `wanted` and what it needs beyond `installed`, but what is LEFT_OUT."""
        (self._work_dir / "status").write_bytes(installed)
        plan = ["install", "--no-install-recommends", "--print-uris", "-y", wanted]
        shown = _output(self._argv("apt-get", *plan))
        names = re.findall(r"^'[^']*/([^_/']+)_", shown, re.MULTILINE)
        kept = [name for name in names if not LEFT_OUT.search(name) and name != wanted]
        _output(self._argv("apt-get", "download", *kept), directory)


def put_postgres(directory: Path, scratch: Path) -> None:
    """Fill `directory` with what PostgreSQL adds to the base's root; `scratch` is for packages."""
    apt = _Apt(scratch / "apt", DEFAULT_RELEASE, host_arch().name)
    apt.update(find_mirror())
    status = ["tar", "-xOf", resolve_base_rootfs(), "./var/lib/dpkg/status"]
    packages = scratch / "packages"
    packages.mkdir()
    installed = subprocess.run(status, check=True, capture_output=True).stdout
    apt.fetch(WANTED, installed, packages)
    for package in packages.iterdir():
        _output(["dpkg-deb", "--extract", str(package), str(directory)])
    for pattern in (*NOT_COPIED, "usr/lib/postgresql/*/lib/bitcode"):
        for path in directory.glob(pattern):
            shutil.rmtree(path)


def _output(argv: list[str], cwd: Path | None = None) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, cwd=cwd).stdout


HOME = "/srv/pg"
TREE = "/opt/pg"
ENVIRONMENT = (
    f"cd {HOME}; export HOME={HOME} PGHOST={HOME} PGDATA={HOME}/data "
    "PGUSER=bank PGDATABASE=postgres "
    f"LD_LIBRARY_PATH=$(echo {TREE}/usr/lib/*-linux-gnu) "
    f"PATH=$(echo {TREE}/usr/lib/postgresql/*/bin):$PATH; "
)
SETTINGS = f"""
unix_socket_directories = '{HOME}'
listen_addresses = '127.0.0.1'
shared_buffers = 16MB
checkpoint_timeout = 30s
autovacuum_naptime = 5s
max_wal_size = 48MB
min_wal_size = 32MB
"""
TABLES = f"""
create extension amcheck;
create function own_host() returns text language sql as
    $$ select trim(e'\\n' from pg_read_file('/proc/sys/kernel/hostname')) $$;
create table accounts (id int primary key, balance bigint not null);
create table transfers (
    id bigserial primary key, host text not null, payer int, payee int, amount int
);
create index by_payer on transfers (payer);
insert into accounts select i, {EACH} from generate_series(1, {ACCOUNTS}) i;
"""
TRANSFER = f"""
\\set payer random(1, {ACCOUNTS})
\\set payee 1 + (:payer + random(0, {ACCOUNTS - 2})) % {ACCOUNTS}
\\set amount random(1, 50)
begin;
update accounts set balance = balance - :amount where id = :payer;
insert into transfers (host, payer, payee, amount) values (own_host(), :payer, :payee, :amount);
update accounts set balance = balance + :amount where id = :payee;
commit;
"""
CHECK = f"""
begin isolation level repeatable read;
select json_build_object(
    'indexes', (select count(bt_index_parent_check(c.oid, true)) from pg_class c join pg_am a
        on a.oid = c.relam where a.amname = 'btree' and c.relnamespace = 'public'::regnamespace),
    'catalogue', (select count(bt_index_check(c.oid, true)) > 100 from pg_class c join pg_am a
        on a.oid = c.relam where a.amname = 'btree'),
    'torn', (select count(*) from verify_heapam('accounts'))
        + (select count(*) from verify_heapam('transfers')),
    'sum', (select sum(balance) from accounts),
    'wrong_accounts', ({WRONG_ACCOUNTS}),
    'hosts', (select json_object_agg(host, n)
        from (select host, count(*) n from transfers group by host) each)
);
commit;
"""


WAIT = """
set statement_timeout = '300s';
do $$ begin
    while (select count(*) from transfers where host = (select own_host())) <= 5 loop
        perform pg_sleep(0.1);
    end loop;
end $$;
"""
"""Ends when this host has moved money: one client that looks again and again."""


def as_owner(command: str) -> str:
    """A shell command that runs `command` as who owns the server: it refuses to be root's."""
    owner = "setpriv --reuid=nobody --regid=nogroup --clear-groups"
    return f"{owner} sh -c {shlex.quote(ENVIRONMENT + command)}"


async def start_postgres(vm: VmHandle, tree: Path) -> None:
    """A server with a bank in `vm`, from the tree that put_postgres made."""
    await VsockFiles.push(vm.vsock_path, tree, TREE)
    for name, text in (
        ("tables", TABLES),
        ("transfer", TRANSFER),
        ("wait", WAIT),
        ("check", CHECK),
    ):
        await vm.write_file(f"{HOME}/{name}.sql", text)
    await vm.write_file(f"{HOME}/settings", SETTINGS)
    await vm.exec(f"chown -R nobody:nogroup {HOME}")
    make = "initdb -U bank -k -N -A trust --locale=C -E UTF8 >initdb.log"
    await vm.exec(as_owner(f"{make} && cat settings >>data/postgresql.conf"))
    await vm.exec(as_owner("pg_ctl -w -l log start >/dev/null && psql -q -f tables.sql"))
    load = "pgbench -n -c 3 --rate=8 -T 100000 -f transfer.sql >pgbench.log 2>&1"
    await vm.exec(as_owner(f"setsid {load} </dev/null &"))
