"""The server side of a round: select, check proofs, add ciphertexts, ask for the opening, close.

Belongs here: the round engine (a persisted state machine), the gate that every contribution
passes, aggregation, the in-process grid and the thin Flower ServerApp. Does not belong here:
money (a closed round is announced as ``protocol.messages.RoundClosed`` and settled by whoever
assembled server and market), patient data, or any secret key of the encryption.
"""
