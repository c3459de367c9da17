"""The Jinja in which chat templates run: the dialect of `transformers`, without a way out, and without a way to hang.

A template comes with a model, so it may be hostile. It reaches no Python attribute, changes nothing it is given, and
stops after so many steps, so many seconds, or so much text.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

# A conversation of a thousand turns takes some ten thousand steps (loop passes and calls) and milliseconds.
MAX_STEPS = 1_000_000
MAX_SECONDS = 10.0
MAX_CHARS = 50_000_000

# What a template may fail with. Hostile or careless, it is the template's fault, not a fault of this package.
FAILURES = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    ArithmeticError,
    AttributeError,
    RecursionError,
    MemoryError,
)


class _Meter:
    """What one rendering has used."""

    def __init__(self) -> None:
        self.steps = 0
        self.deadline = time.monotonic() + MAX_SECONDS

    def step(self) -> None:
        self.steps += 1
        if self.steps > MAX_STEPS or time.monotonic() > self.deadline:
            raise SecurityError(f"it does not come to an end (after {self.steps:,} steps)")


_meter: ContextVar[_Meter] = ContextVar("meter")


class Generation(Extension):
    """`{% generation %}` encloses what the assistant says; the marks of `Sandbox.marks` are put around it."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it as an instance variable)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        before, after = (nodes.Output([nodes.Name(name, "load")]) for name in MARKS)
        return [before, *body, after]


# Names in the template's context that hold the marks around a generation block; empty text without them.
MARKS = ("_generation_begins", "_generation_ends")


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that `transformers` gives chat templates, with every loop pass, call and text counted."""

    intercepted_binops = frozenset(["+", "*", "**"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
        self.filters["tojson"] = _to_json
        self.filters["_counted"] = _counted
        self.filters["_sized"] = _sized
        # Filler text of any length, in one uncounted step; no chat template wants it.
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.recursive:
                raise jinja2.TemplateSyntaxError("a chat template has no recursive loops", loop.lineno, name, filename)
            loop.iter = _filtered(loop.iter, "_counted")
        _wrap_joined(tree)
        return tree

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # Named as jinja2 names them, so that a template's own argument `self` does not collide.
        _meter.get().step()
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and not (abs(left) < 1e6 and abs(right) < 64):
            raise SecurityError("a power is too large")
        if operator == "*":
            for many, times in ((left, right), (right, left)):
                if isinstance(many, str | list | tuple) and isinstance(times, int) and len(many) * times > MAX_CHARS:
                    raise SecurityError("a repeated text is too long")
        result = super().call_binop(context, operator, left, right)
        return _sized(result) if isinstance(result, str) else result


def render(template: jinja2.Template, variables: Mapping[str, Any], *, marks: tuple[str, str] = ("", "")) -> str:
    """The text of a template of this environment.

    marks    put before and after what `{% generation %}` encloses
    Raises   one of FAILURES
    """
    token = _meter.set(_Meter())
    try:
        return _sized(template.render(**variables, **dict(zip(MARKS, marks, strict=True))))
    finally:
        _meter.reset(token)


def _filtered(node: Any, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _wrap_joined(node: nodes.Node) -> None:
    """Puts `_sized` around every `a ~ b`, which jinja2 offers no hook for."""
    for field, value in node.iter_fields():
        children = value if isinstance(value, list) else [value]
        for child in children:
            if isinstance(child, nodes.Node):
                _wrap_joined(child)
        wrapped = [_filtered(child, "_sized") if isinstance(child, nodes.Concat) else child for child in children]
        setattr(node, field, wrapped if isinstance(value, list) else wrapped[0])


def _counted(items: Iterable[Any]) -> Iterator[Any]:
    meter = _meter.get()
    for item in items:
        meter.step()
        yield item


def _sized(text: str) -> str:
    if len(text) > MAX_CHARS:
        raise SecurityError(f"its text grows beyond {MAX_CHARS:,} characters")
    return text


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
