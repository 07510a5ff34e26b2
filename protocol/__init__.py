"""The words BitHive's parts share: identifiers, units, messages and the error tree.

Belongs here: types that cross a package boundary or the wire, and the constants
that give them meaning. Does not belong here: behaviour. Nothing in this package
opens a file, keeps state or decides anything; it imports only the standard
library and pydantic, so that every other package may import it.
"""
