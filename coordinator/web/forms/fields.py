"""What a form is made of: fields, what is wrong with them, and what will happen. Pure.

One template draws all of it: every field has a label, what is wrong stands beside it and in a
summary at the top that leads to it, and what was typed is kept through every answer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from google.protobuf.timestamp_pb2 import Timestamp

Kind = Literal["text", "number", "long", "choice", "pick", "tick"]

REASON: Final = "reason"
LOOSE_MAX: Final = 8  # problems that lead nowhere; of thousands, the first say what it is about
REASON_MAX: Final = 4096  # bytes, as the contract has it


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One of the values that may be chosen."""

    value: str
    label: str
    hint: str = ""
    # What is to be filled in where this is chosen.
    fields: Sequence[Field] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One thing that is asked for."""

    name: str
    label: str
    kind: Kind = "text"
    value: str = ""
    hint: str = ""
    is_required: bool = False
    options: Sequence[Option] = ()
    # What this field and those after it are about, where an option has several kinds of them.
    heading: str = ""
    error: str = ""

    @property
    def id(self) -> str:
        """Returns what links and labels point at."""
        plain = (
            c if c.isascii() and (c.isalnum() or c in ".:_-") else f"~{ord(c):x}" for c in self.name
        )
        return "field-" + "".join(plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong: with a field, or with all of it."""

    said: str
    field: str = ""  # its name; empty: it is about none


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One value that becomes another."""

    about: str
    key: str
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """What somebody decided about the same before."""

    said: str
    time: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A page that asks before it acts."""

    title: str
    about: str  # whom it is about, as an id
    back: str  # the page that it was asked for from
    within: Sequence[tuple[str, str]] = ()  # the pages above that one, and what they are called
    button: str
    # What will happen, in sentences, and the things that it will happen to.
    heading: str = "What will happen"
    happens: Sequence[str] = ()
    items: Sequence[str] = ()
    # What a person should know before: such as what cannot be made up for.
    warnings: Sequence[str] = ()
    # Other forms that may fit better: where they are, and what they are for.
    elsewhere: Sequence[tuple[str, str]] = ()
    # Why it cannot be done now; then there is nothing to send.
    forbidden: str = ""
    fields: Sequence[Field] = ()
    # Of what was checked: every value that changes.
    changes: Sequence[Change] = ()
    # What the decision stands on: when this has become another, it is asked for anew.
    basis: str = ""
    etag: str = ""
    is_grave: bool = False
    # Whether it is checked and shown what it comes to before it is sent; then what was found.
    checks_first: bool = False
    is_checked: bool = False
    problems: Sequence[Problem] = ()
    # Of what is to be sent only as it was checked: what stands for it.
    checked: str = ""
    # Who decided last, where that is why nothing was sent; and when, and what had been typed.
    latest: Latest | None = None
    typed: Sequence[tuple[str, str]] = ()
    # Fields that are sent along and not shown.
    hidden: Mapping[str, str] | None = None

    @property
    def inputs(self) -> Sequence[Field]:
        """Returns the fields of the workflow's input, which are folded away."""
        return [field for field in self.fields if field.name.startswith("input:")]


def reason(hint: str = "") -> Field:
    """Returns the field that every form has."""
    return Field(
        name=REASON,
        label="Reason",
        kind="long",
        hint=hint or "Why you do this, for the audit: who looks at it later reads this.",
        is_required=True,
    )


def of_typed(
    typed: Mapping[str, str], own: Collection[str], *, path: str, hidden: Mapping[str, str]
) -> Form:
    """Returns a form of nothing but what was typed, where nobody says what it is about."""
    back = path.rpartition("/")[0] or "/workflows"
    return Form(
        title="Send it again",
        about=back.rpartition("/")[2],
        back=back,
        button="Send it again",
        fields=[_of_typed(name, text) for name, text in typed.items() if name not in own],
        hidden=hidden,
    )


def _of_typed(name: str, text: str) -> Field:
    if name == REASON:
        return replace(reason(), value=text)
    kind: Kind = "long" if "\n" in text else "text"
    return Field(name=name, label=_words(name), kind=kind, value=text)


def _words(name: str) -> str:
    """Returns the name of a field as a label: "rerun: copy-3: target.pool_id"."""
    return ": ".join(name.split(":"))


def typed_into(form: Form, typed: Mapping[str, str], own: Collection[str]) -> list[tuple[str, str]]:
    """Returns what was typed, with what it was typed into, for a form that is not shown again."""
    labels = {field.name: field.label for field in _all(form.fields)}
    return [
        (labels.get(name, _words(name)), text)
        for name, text in typed.items()
        if name not in own and text.strip()
    ]


def filled(form: Form, typed: Mapping[str, str]) -> Form:
    """Returns a form with what was typed; what was not sent stays as it was drawn."""
    return replace(form, fields=[_filled(field, typed) for field in form.fields])


def _filled(field: Field, typed: Mapping[str, str]) -> Field:
    options = [
        replace(option, fields=[_filled(inner, typed) for inner in option.fields])
        for option in field.options
    ]
    if field.kind == "tick":
        # A box that is not ticked is not sent at all.
        value = typed.get(field.name, "")
    else:
        value = typed.get(field.name, field.value)
    return replace(field, value=value, options=options)


def marked(form: Form, problems: Sequence[Problem]) -> tuple[Form, list[Problem]]:
    """Returns a form with what is wrong beside its fields, and the summary in their order."""
    said: dict[str, list[str]] = {}
    for each in problems:
        if each.field:
            said.setdefault(each.field, []).append(each.said)
    known = {field.name for field in _all(form.fields)}
    fields = [_marked(field, said) for field in form.fields]
    # What is about no field stands first; what is about one that is not shown would lead nowhere.
    loose = [Problem(said=each.said) for each in problems if each.field not in known]
    told = [
        Problem(said=f"{field.label}: {text}", field=field.id)
        for field in _all(form.fields)
        for text in said.get(field.name, ())
    ]
    if (more := len(loose) - LOOSE_MAX) > 1:
        loose[LOOSE_MAX:] = [Problem(said=f"and {more} more like these")]
    return replace(form, fields=fields), [*loose, *told]


def _marked(field: Field, said: Mapping[str, Sequence[str]]) -> Field:
    options = [
        replace(option, fields=[_marked(inner, said) for inner in option.fields])
        for option in field.options
    ]
    return replace(field, error=" ".join(said.get(field.name, ())), options=options)


def missing(form: Form, typed: Mapping[str, str]) -> list[Problem]:
    """Returns what was not filled in and must be, and what is too long."""
    found = []
    for field in _chosen(form.fields, typed):
        text = typed.get(field.name, "")
        if field.is_required and not text.strip():
            said = "choose one" if field.kind in {"choice", "pick"} else "is required"
            found.append(Problem(said=said, field=field.name))
        elif field.name == REASON and len(text.encode()) > REASON_MAX:
            found.append(Problem(said=f"is longer than {REASON_MAX} bytes", field=field.name))
    return found


def _all(fields: Sequence[Field]) -> list[Field]:
    found = []
    for field in fields:
        found.append(field)
        for option in field.options:
            found += _all(option.fields)
    return found


def _chosen(fields: Sequence[Field], typed: Mapping[str, str]) -> list[Field]:
    """Returns the fields that count: those of an option only where it is chosen."""
    found = []
    for field in fields:
        found.append(field)
        for option in field.options:
            if typed.get(field.name, "") == option.value:
                found += _chosen(option.fields, typed)
    return found
