"""Forms: fields, and the record they become. Logic without a screen; `form_dialog.py` draws them.

A form is checked while somebody types, field by field and then as a whole, by the records and
options of the runtime: what a dialog accepts, the runtime accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from machinen_runtime.errors import MachinenError

Answer = TypeVar("Answer")
Values = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One line of a dialog."""

    name: str
    label: str
    placeholder: str = ""
    """What an empty field means."""
    hint: str = ""
    """Shown below while the field has the cursor and nothing is wrong."""
    value: str = ""
    choices: tuple[str, ...] = ()
    """If given, one of these is chosen instead of typed."""
    check: Callable[[str], object] = str
    """Takes the text; raises ValueError or MachinenError if it will not do."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a form cannot be accepted yet; `field` is empty if it concerns several."""

    field: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Form(Generic[Answer]):
    """A question with its fields."""

    title: str
    accept: str
    """The verb of the button."""
    fields: tuple[Field, ...]
    build: Callable[[Values], Answer] = field(repr=False)
    """The record of checked values; raises as `Field.check` for what concerns several fields."""

    def defaults(self) -> dict[str, str]:
        """The values of an untouched form."""
        return {each.name: each.value for each in self.fields}

    def answer(self, values: Values) -> Answer | Problem:
        """The record, or the first problem from top to bottom."""
        for each in self.fields:
            try:
                each.check(values[each.name])
            except (ValueError, MachinenError) as error:
                return Problem(each.name, str(error))
        try:
            return self.build(values)
        except (ValueError, MachinenError) as error:
            return Problem("", str(error))


def with_values(form: Form[Answer], values: Values) -> Form[Answer]:
    """`form` with other values to start from; names it does not have are passed over."""
    from dataclasses import replace

    fields = tuple(
        replace(each, value=values[each.name])
        if each.name in values and (not each.choices or values[each.name] in each.choices)
        else each
        for each in form.fields
    )
    return replace(form, fields=fields)
