"""The live view of a run: its events over server-sent events, for a terminal and for a browser.

Here belongs how a run is watched while it runs. What happens in a run is written by ``fl_server``,
and nothing here writes to a home, holds a lock that the engine waits for, or knows a patient.
"""
