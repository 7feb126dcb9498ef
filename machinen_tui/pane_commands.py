"""Commands about panes: where they are, what is seen of them."""

from __future__ import annotations

from collections.abc import Sequence

from machinen_tui.command_types import Command, CommandError, CommandTarget, Runner, named_view
from machinen_tui.config import POLICIES
from machinen_tui.workspace import ARRANGEMENTS


def _split(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/split [NAME] [below]`."""
    below = "below" in arguments[-1:]
    names = arguments[:-1] if below else arguments
    if len(names) > 1:
        raise CommandError("name one sandbox, and `below` if it goes below")
    if not names:
        target.split_right()
        return
    other = named_view(target, names[0])
    target.split(named_view(target, None), other.key, across=not below)


def _tab(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/tab [N | new | close | move N | name TEXT]`."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("new", ())
    if verb.isdecimal():
        target.go_to_tab(int(verb[:4]) - 1)
    elif verb == "new":
        target.new_tab(" ".join(rest))
    elif verb == "close":
        target.close_tab()
    elif verb == "move" and rest and rest[0].isdecimal():
        target.move_to_tab(int(rest[0][:4]) - 1)
    elif verb == "name":
        target.name_tab(" ".join(rest))
    else:
        raise CommandError("a number, new, close, move N or name TEXT")


def _arrange(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/arrange [grid | columns | rows | main | stacked | even]`."""
    if not arguments:
        target.arrange_next()
    elif arguments[0] == "even":
        target.even_out()
    elif arguments[0] in ARRANGEMENTS:
        target.arrange_as(arguments[0])
    else:
        raise CommandError(f"one of {', '.join(ARRANGEMENTS)}, even")


def _layout(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/layout [NAME | save NAME | delete NAME]`."""
    if not arguments:
        target.choose_layout()
    elif arguments[0] == "save":
        target.save_layout(" ".join(arguments[1:]))
    elif arguments[0] == "delete":
        target.delete_layout(" ".join(arguments[1:]))
    else:
        target.load_layout(" ".join(arguments))


def _silence(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/silence [NAME] [SECONDS]`; 0 turns it off."""
    rest = list(arguments)
    seconds = int(rest.pop()[:5]) if rest and rest[-1].isdecimal() else None
    target.watch_silence(named_view(target, rest[0] if rest else None), seconds)


def _title(target: CommandTarget, arguments: Sequence[str]) -> None:
    target.title(named_view(target, None), " ".join(arguments))


def _attention(target: CommandTarget, arguments: Sequence[str]) -> None:
    target.next_attention()


def _guard(verb: str) -> Runner:
    """A command that guards the sandbox its argument names."""

    def run(target: CommandTarget, arguments: Sequence[str]) -> None:
        if arguments:
            target.select(named_view(target, arguments[0]))
        getattr(target, verb)()

    return run


def _find(target: CommandTarget, arguments: Sequence[str]) -> None:
    target.search_all(" ".join(arguments))


def _select(target: CommandTarget, arguments: Sequence[str]) -> None:
    if arguments:
        target.select(named_view(target, arguments[0]))
    target.copy_mode()


def _search(target: CommandTarget, arguments: Sequence[str]) -> None:
    target.search_pane()


def _output(target: CommandTarget, arguments: Sequence[str]) -> None:
    target.copy_output(named_view(target, arguments[0] if arguments else None))


def _clipboard(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/clipboard [NAME] [ask | allow | deny]`: without a word decide on what is wanted."""
    if not arguments:
        target.clipboard()
        return
    *names, policy = arguments
    if policy not in POLICIES or len(names) > 1:
        raise CommandError(f"a name if you like, and one of {', '.join(POLICIES)}")
    target.clipboard_policy(named_view(target, names[0] if names else None), policy)


def _float(target: CommandTarget, arguments: Sequence[str]) -> None:
    target.float_selected()


TAB_WORDS, LAYOUT_WORDS = ("new", "close", "move", "name"), ("save", "delete")

PANE_COMMANDS = (
    Command("split", "/split [NAME] [below]", "another pane beside this one", _split, "sandbox"),
    Command("tab", "/tab [N|new|close|move N|name TEXT]", "tabs", _tab, words=TAB_WORDS),
    Command(
        "arrange",
        "/arrange [WORD]",
        "grid, columns, rows, main, stacked, even",
        _arrange,
        words=(*ARRANGEMENTS, "even"),
    ),
    Command("urgent", "/urgent", "go to the one that wants it most", _attention),
    Command("silence", "/silence [NAME] [SECONDS]", "a badge for silence", _silence, "sandbox"),
    Command("title", "/title [TEXT]", "a title of your own in the frame", _title),
    Command("readonly", "/readonly [NAME]", "no typing into it", _guard("read_only"), "sandbox"),
    Command("lock", "/lock [NAME]", "every key is the guest's", _guard("lock"), "sandbox"),
    Command("text", "/text [NAME]", "copy mode: select and copy by keys", _select, "sandbox"),
    Command("search", "/search", "search the pane", _search),
    Command("find", "/find [PATTERN]", "search all panes", _find),
    Command("output", "/output [NAME]", "copy what its last command wrote", _output, "sandbox"),
    Command(
        "clipboard",
        "/clipboard [NAME] [ask|allow|deny]",
        "decide on what a guest wants to copy, or on all of it",
        _clipboard,
        "sandbox",
        words=POLICIES,
    ),
    Command("float", "/float", "let the pane float above the others, and back", _float),
    Command(
        "layout",
        "/layout [NAME|save NAME|delete NAME]",
        "restore or keep tabs and splits",
        _layout,
        words=LAYOUT_WORDS,
    ),
)
