"""Read a YAML file that decides over money: what is not known or not whole is refused.

YAML is read with PyYAML's safe loader, which makes plain values only; a key that stands twice is
refused, because YAML would silently keep the last. A ``Section`` is read key by key, and ``done``
refuses what nobody asked for: a misspelt setting must not become a default.

    >>> section = Section(Path("t.yaml"), "fees", {"rate": 300, "rat": 3})
    >>> section.whole("rate")
    300
    >>> section.done()
    Traceback (most recent call last):
        ...
    ledger.tables.SettingUnknown: t.yaml: fees has no setting 'rat'; correct its name
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped] # PyYAML carries no types

from protocol.errors import ConfigurationError
from protocol.units import BASE_UNITS_PER_BTT

KNOWN_VERSION: Final = 1
DEPTH_MAX: Final = 8
"""Of presets that are based on presets."""


class TokenomicsUnreadable(ConfigurationError):
    """The tokenomics file is missing, is not what it must be, or lacks what it must say."""

    code = "tokenomics-unreadable"

    def __init__(self, path: Path, reason: str) -> None:
        self.path = path
        super().__init__(f"{path} does not state the tokenomics: {reason}")


class SettingUnknown(ConfigurationError):
    """The file sets something that nothing reads."""

    code = "setting-unknown"

    def __init__(self, path: Path, where: str, key: str) -> None:
        self.path = path
        self.where = where
        self.key = key
        super().__init__(f"{path}: {where} has no setting {key!r}; correct its name")


class TableUnbalanced(ConfigurationError):
    """Parts of a table do not sum to their whole."""

    code = "table-unbalanced"

    def __init__(self, what: str, total: int, expected: int) -> None:
        self.what = what
        self.total = total
        self.expected = expected
        super().__init__(f"{what} sums to {total}, not {expected}; correct its parts")


class Section:
    """A mapping of the file, read key by key.

    Args:
        path: The file, for messages.
        where: The section, for messages.
        content: What stands there.

    Raises:
        TokenomicsUnreadable: It is no mapping; so may every reading method, for its own kind.
    """

    def __init__(self, path: Path, where: str, content: Any) -> None:
        if not isinstance(content, Mapping):
            raise TokenomicsUnreadable(path, f"{where} is not a table")
        self.path = path
        self.where = where
        self.content = content
        self._read: set[Any] = set()

    def keys(self) -> list[str]:
        """Return all keys, which must be text or whole numbers, as text."""
        for key in self.content:
            if type(key) not in {str, int}:
                raise TokenomicsUnreadable(self.path, f"{self.where} has a key {key!r}")
        return [str(key) for key in self.content]

    def value(self, key: str) -> Any:
        """Return what stands under ``key``."""
        found: Any = key if key in self.content else int(key) if key.isdigit() else key
        if found not in self.content:
            raise TokenomicsUnreadable(self.path, f"{self.where} lacks {key}")
        self._read.add(found)
        return self.content[found]

    def text(self, key: str, *among: str) -> str:
        """Return a text, which must be one of ``among`` where those are given."""
        value = self.value(key)
        if not isinstance(value, str) or not value or (among and value not in among):
            meant = f"one of {', '.join(among)}" if among else "text"
            raise TokenomicsUnreadable(self.path, f"{key} of {self.where} is not {meant}")
        return value

    def whole(self, key: str, least: int = 0, most: int = 10**12) -> int:
        """Return a whole number between ``least`` and ``most``."""
        value = self.value(key)
        # type() and not isinstance(): true is an int to Python.
        if type(value) is not int or not least <= value <= most:
            raise TokenomicsUnreadable(
                self.path, f"{key} of {self.where} is not a whole number from {least} to {most}"
            )
        return value

    def basis_points(self, key: str) -> int:
        """Return a share of at most one, in 1/10,000."""
        return self.whole(key, 0, 10_000)

    def btt(self, key: str) -> int:
        """Return an amount written in BTT as base units."""
        return self.whole(key) * BASE_UNITS_PER_BTT

    def section(self, key: str) -> Section:
        """Return the table under ``key``."""
        return Section(self.path, f"{key} of {self.where}", self.value(key))

    def sections(self, key: str) -> list[Section]:
        """Return the tables listed under ``key``."""
        value = self.value(key)
        if not isinstance(value, list) or not value:
            raise TokenomicsUnreadable(self.path, f"{key} of {self.where} is not a list of tables")
        return [Section(self.path, f"{key} of {self.where}", one) for one in value]

    def done(self) -> None:
        """Refuse what was not read.

        Raises:
            SettingUnknown: There is something.
        """
        for key in self.content:
            if key not in self._read:
                raise SettingUnknown(self.path, self.where, str(key))


def read_preset(path: Path, preset: str | None = None) -> Section:
    """Return one preset of the file, complete: what it leaves out is its base's.

    Raises:
        TokenomicsUnreadable: The file cannot be read, or has no such preset.
        SettingUnknown: The file sets something beside its presets.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe loader's child
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise TokenomicsUnreadable(path, str(error)) from error
    file = Section(path, "the file", content)
    version = file.value("version")
    if version != KNOWN_VERSION:
        raise TokenomicsUnreadable(path, f"version {version!r} is not {KNOWN_VERSION}")
    name = file.text("default") if preset is None else preset
    file.value("default")
    presets = file.section("presets")
    file.done()
    return Section(path, f"preset {name}", _complete(presets, name, DEPTH_MAX))


def _complete(presets: Section, name: str, depth: int) -> dict[Any, Any]:
    own = dict(presets.section(name).content)
    base = own.pop("based_on", None)
    if base is None:
        return own
    if depth == 0 or not isinstance(base, str):
        raise TokenomicsUnreadable(presets.path, f"preset {name} is based on itself or on nothing")
    # A table of the preset replaces entries of its base's table, each entry as a whole.
    whole = _complete(presets, base, depth - 1)
    for key, value in own.items():
        both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
        whole[key] = {**whole[key], **value} if both else value
    return whole


class _Loader(yaml.SafeLoader):  # type: ignore[misc] # PyYAML carries no types
    """Plain values only, and no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if key in keys[:number]:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice")
        made: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return made
