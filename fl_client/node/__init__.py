"""The resident node: it fetches messages for this hospital's agent and brings the answers back.

What belongs here: everything between a SuperLink's fleet API and the agent's socket. What does not:
anything that reads a frame, decides, trains or holds a key other than the node's own.
"""
